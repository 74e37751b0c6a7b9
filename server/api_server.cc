#include "server/api_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/service_type.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>

#include "server/api_context.h"
#include "server/atomic_file.h"
#include "server/grpc_services.h"

namespace umblock::server {

struct ApiServer::Impl {
  ApiContext api;
  std::vector<std::unique_ptr<grpc::Service>> services;
  std::unique_ptr<grpc::Server> server;
  int tcp_port = 0;
};

namespace {

Status PrepareSocketPath(const std::string& path) {
  if (path[0] != '/' || path.size() >= sizeof(sockaddr_un::sun_path)) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "socket '{}': an absolute path of less than {} bytes is needed", path,
                     sizeof(sockaddr_un::sun_path));
  }
  struct stat info = {};
  if (::lstat(path.c_str(), &info) == 0 && !S_ISSOCK(info.st_mode)) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "socket '{}': something else is there, and is not touched", path);
  }
  const std::string directory = path.substr(0, std::max<size_t>(path.rfind('/'), 1));
  if (::mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST) {
    return std::unexpected(
        Error::FromErrno(errno, fmt::format("make the directory of socket '{}'", path)));
  }
  return Ok();
}

Result<std::shared_ptr<grpc::ServerCredentials>> TcpCredentials(const ApiServerOptions& options) {
  if (options.tls_certificate_file.empty()) return grpc::InsecureServerCredentials();
  constexpr size_t kPemLimit = 1u << 20;
  auto certificate = ReadSmallFile(options.tls_certificate_file, kPemLimit);
  if (!certificate) return std::unexpected(certificate.error());
  auto key = ReadSmallFile(options.tls_key_file, kPemLimit);
  if (!key) return std::unexpected(key.error());
  auto ca = ReadSmallFile(options.tls_client_ca_file, kPemLimit);
  if (!ca) return std::unexpected(ca.error());
  grpc::SslServerCredentialsOptions tls(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  tls.pem_root_certs = *ca;
  tls.pem_key_cert_pairs.push_back({*key, *certificate});
  return grpc::SslServerCredentials(tls);
}

}  // namespace

ApiServer::ApiServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

ApiServer::~ApiServer() {
  if (impl_->server) Shutdown(std::chrono::milliseconds(0));
}

Result<std::unique_ptr<ApiServer>> ApiServer::Start(Node* node, ApiServerOptions options) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  auto impl = std::make_unique<Impl>();
  impl->api.node = node;
  impl->api.calls.limit = options.max_calls;
  impl->api.waits.limit = options.max_waits;
  impl->services = MakeUnaryServices(&impl->api);
  impl->services.push_back(MakeEventService(&impl->api));

  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  // Of one connection: as many as there may be in all, or a client's waits would hold up its calls.
  builder.AddChannelArgument(
      GRPC_ARG_MAX_CONCURRENT_STREAMS,
      static_cast<int>(options.max_calls + options.max_waits + options.max_watchers));
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  int socket_bound = 1;
  if (!options.socket_path.empty()) {
    UMBLOCK_TRY(PrepareSocketPath(options.socket_path));
    builder.AddListeningPort("unix:" + options.socket_path, grpc::InsecureServerCredentials(),
                             &socket_bound);
  }
  int tcp_port = 1;
  if (!options.tcp_address.empty()) {
    auto credentials = TcpCredentials(options);
    if (!credentials) return std::unexpected(credentials.error().Within("TLS"));
    builder.AddListeningPort(options.tcp_address, *credentials, &tcp_port);
  }
  for (const auto& service : impl->services) builder.RegisterService(service.get());

  // The socket is never open to others, not even for a moment.
  const mode_t old_mask = ::umask(0117);
  impl->server = builder.BuildAndStart();
  ::umask(old_mask);
  if (impl->server == nullptr || socket_bound == 0 || tcp_port == 0) {
    return MakeError(
        ErrorCode::kFailedPrecondition,
        "the API cannot be served on {}: the address is in use or not this host's, "
        "the directory is not writable, or the TLS files do not fit together",
        tcp_port == 0 || options.socket_path.empty() ? options.tcp_address : options.socket_path);
  }
  if (!options.tcp_address.empty()) impl->tcp_port = tcp_port;
  std::unique_ptr<ApiServer> server(new ApiServer(std::move(impl)));
  server->SetServing(false);
  return server;
}

void ApiServer::SetServing(bool serving) {
  impl_->server->GetHealthCheckService()->SetServingStatus(serving);
}

void ApiServer::Shutdown(std::chrono::milliseconds patience) {
  if (impl_->server == nullptr) return;
  impl_->server->Shutdown(std::chrono::system_clock::now() + patience);
  impl_->server->Wait();
  impl_->server.reset();
}

int ApiServer::tcp_port() const { return impl_->tcp_port; }

}  // namespace umblock::server
