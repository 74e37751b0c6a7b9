#include "ctl/client.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <mutex>

#include "server/atomic_file.h"
#include "server/grpc_status.h"
#include "umblock/v1/event.grpc.pb.h"

namespace umblock::ctl {
namespace {

ErrorCode FromGrpcCode(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::INVALID_ARGUMENT:
      return ErrorCode::kInvalidArgument;
    case grpc::StatusCode::NOT_FOUND:
      return ErrorCode::kNotFound;
    case grpc::StatusCode::ALREADY_EXISTS:
      return ErrorCode::kAlreadyExists;
    case grpc::StatusCode::FAILED_PRECONDITION:
    case grpc::StatusCode::OUT_OF_RANGE:
      return ErrorCode::kFailedPrecondition;
    case grpc::StatusCode::ABORTED:
      return ErrorCode::kAborted;
    case grpc::StatusCode::UNAVAILABLE:
      return ErrorCode::kUnavailable;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return ErrorCode::kDeadlineExceeded;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return ErrorCode::kResourceExhausted;
    case grpc::StatusCode::DATA_LOSS:
      return ErrorCode::kDataLoss;
    case grpc::StatusCode::PERMISSION_DENIED:
    case grpc::StatusCode::UNAUTHENTICATED:
      return ErrorCode::kPermissionDenied;
    case grpc::StatusCode::CANCELLED:
      return ErrorCode::kCancelled;
    case grpc::StatusCode::UNIMPLEMENTED:
      return ErrorCode::kUnimplemented;
    default:
      return ErrorCode::kInternal;
  }
}

grpc::ByteBuffer ToBuffer(const std::string& bytes) {
  grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

std::string FromBuffer(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!buffer.Dump(&slices).ok()) return bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

Result<std::shared_ptr<grpc::ChannelCredentials>> Credentials(const Endpoint& endpoint) {
  if (endpoint.server.empty() || endpoint.insecure) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions tls;
  const auto read = [](const std::string& path, std::string* to) -> Status {
    if (path.empty()) return Ok();
    auto text = server::ReadSmallFile(path, 1u << 20);
    if (!text) return std::unexpected(text.error());
    *to = std::move(*text);
    return Ok();
  };
  UMBLOCK_TRY(read(endpoint.tls_ca_file, &tls.pem_root_certs));
  UMBLOCK_TRY(read(endpoint.tls_certificate_file, &tls.pem_cert_chain));
  UMBLOCK_TRY(read(endpoint.tls_key_file, &tls.pem_private_key));
  return grpc::SslCredentials(tls);
}

}  // namespace

struct Client::Impl {
  std::string where;
  std::shared_ptr<grpc::Channel> channel;
  std::mutex mutex;
  grpc::ClientContext* watching = nullptr;

  Status ToStatus(const grpc::Status& status) const {
    if (status.ok()) return Ok();
    const ErrorCode code = FromGrpcCode(status.error_code());
    if (code != ErrorCode::kUnavailable || status.error_details() == server::kSaidByDaemon) {
      return std::unexpected(Error(code, status.error_message()));
    }
    return MakeError(code, "umblockd at {} does not answer: {}", where, status.error_message());
  }

  Result<std::string> Raw(const std::string& path, const std::string& request,
                          std::chrono::milliseconds timeout) {
    grpc::GenericStub stub(channel);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + timeout);
    grpc::CompletionQueue queue;
    const grpc::ByteBuffer out = ToBuffer(request);
    auto call = stub.PrepareUnaryCall(&context, path, out, &queue);
    call->StartCall();
    grpc::ByteBuffer in;
    grpc::Status status;
    call->Finish(&in, &status, this);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    UMBLOCK_TRY(ToStatus(status));
    return FromBuffer(in);
  }
};

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

Result<std::unique_ptr<Client>> Client::Make(const Endpoint& endpoint) {
  auto credentials = Credentials(endpoint);
  if (!credentials) return std::unexpected(credentials.error().Within("TLS"));
  auto impl = std::make_unique<Impl>();
  impl->where = endpoint.server.empty() ? endpoint.socket : endpoint.server;
  const std::string target = endpoint.server.empty() ? "unix:" + endpoint.socket : endpoint.server;
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 << 20);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  impl->channel = grpc::CreateCustomChannel(target, *credentials, arguments);
  return std::unique_ptr<Client>(new Client(std::move(impl)));
}

Status Client::Call(const std::string& method, const google::protobuf::Message& request,
                    google::protobuf::Message* response, std::chrono::milliseconds timeout) {
  const auto* descriptor =
      google::protobuf::DescriptorPool::generated_pool()->FindMethodByName("umblock.v1." + method);
  if (descriptor == nullptr || descriptor->input_type() != request.GetDescriptor() ||
      descriptor->output_type() != response->GetDescriptor()) {
    return MakeError(ErrorCode::kInternal, "no method {} from {} to {}", method,
                     request.GetTypeName(), response->GetTypeName());
  }
  const std::string path =
      fmt::format("/{}/{}", descriptor->service()->full_name(), descriptor->name());
  auto answer = impl_->Raw(path, request.SerializeAsString(), timeout);
  if (!answer) return std::unexpected(answer.error());
  if (!response->ParseFromString(*answer)) {
    return MakeError(ErrorCode::kInternal, "the answer to {} cannot be read", method);
  }
  return Ok();
}

Status Client::Watch(const v1::WatchRequest& request,
                     const std::function<bool(const v1::Event&)>& on_event) {
  grpc::ClientContext context;
  {
    std::lock_guard lock(impl_->mutex);
    impl_->watching = &context;
  }
  auto stub = v1::EventService::NewStub(impl_->channel);
  auto reader = stub->Watch(&context, request);
  v1::Event event;
  bool enough = false;
  while (!enough && reader->Read(&event)) enough = !on_event(event);
  if (enough) context.TryCancel();
  const grpc::Status status = reader->Finish();
  {
    std::lock_guard lock(impl_->mutex);
    impl_->watching = nullptr;
  }
  return enough ? Ok() : impl_->ToStatus(status);
}

void Client::Stop() {
  std::lock_guard lock(impl_->mutex);
  if (impl_->watching != nullptr) impl_->watching->TryCancel();
}

Status Client::CheckHealth(std::chrono::milliseconds timeout) {
  // HealthCheckRequest without a service; HealthCheckResponse.status SERVING is 08 01.
  auto answer = impl_->Raw("/grpc.health.v1.Health/Check", "", timeout);
  if (!answer) return std::unexpected(answer.error());
  if (*answer == "\x08\x01") return Ok();
  return MakeError(ErrorCode::kUnavailable, "umblockd at {} is not serving", impl_->where);
}

}  // namespace umblock::ctl
