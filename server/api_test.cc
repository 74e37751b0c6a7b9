// The gRPC services, from a client's side: every service answers, bad input is a clean error, and
// limits hold. The node below has fake parts.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "server/api_server.h"
#include "server/grpc_status.h"
#include "server/testing/test_node.h"
#include "umblock/v1/backend.grpc.pb.h"
#include "umblock/v1/connection.grpc.pb.h"
#include "umblock/v1/event.grpc.pb.h"
#include "umblock/v1/export.grpc.pb.h"
#include "umblock/v1/node.grpc.pb.h"
#include "umblock/v1/resource.grpc.pb.h"
#include "umblock/v1/target.grpc.pb.h"
#include "umblock/v1/volume.grpc.pb.h"

namespace umblock::server {
namespace {

using ::testing::HasSubstr;

class ApiTest : public testing::Test {
 protected:
  void SetUp() override {
    node_.event_log = 64;
    ASSERT_TRUE(node_.Start());
    node_.hub().set_max_watchers(2);
    ApiServerOptions options;
    options.socket_path = node_.directory() + "/api.sock";
    options.max_calls = 4;
    options.max_waits = 2;
    options.max_watchers = 2;
    auto server = ApiServer::Start(&node_.node(), options);
    ASSERT_TRUE(server) << server.error().ToString();
    server_ = std::move(*server);
    channel_ =
        grpc::CreateChannel("unix:" + options.socket_path, grpc::InsecureChannelCredentials());
  }
  void TearDown() override {
    node_.OnReactor([&] { node_.node().BeginStop(); });
    if (server_) server_->Shutdown(std::chrono::seconds(1));
  }

  template <typename Service, typename Request, typename Response>
  grpc::Status Call(grpc::Status (Service::Stub::*rpc)(grpc::ClientContext*, const Request&,
                                                       Response*),
                    const Request& request, Response* response) {
    auto stub = Service::NewStub(channel_);
    grpc::ClientContext context;
    return (stub.get()->*rpc)(&context, request, response);
  }
  grpc::Status MakeResource(const std::string& name) {
    v1::CreateResourceRequest request;
    request.mutable_spec()->set_name(name);
    v1::Resource response;
    return Call<v1::ResourceService>(&v1::ResourceService::Stub::CreateResource, request,
                                     &response);
  }

  grpc::Status MakeBackend(const std::string& name) {
    v1::CreateBackendRequest request;
    request.mutable_spec()->set_name(name);
    request.mutable_spec()->set_path("/disks/" + name);
    request.mutable_spec()->set_size_bytes(uint64_t{64} << 20);
    request.mutable_spec()->set_create(true);
    v1::Backend response;
    return Call<v1::BackendService>(&v1::BackendService::Stub::CreateBackend, request, &response);
  }

  // The answer of server reflection to 'list services', whose protos are in no package either.
  std::string Services() {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    const auto done = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      return queue.Next(&tag, &ok) && ok;
    };
    auto call = stub.PrepareCall(
        &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
    call->StartCall(this);
    EXPECT_TRUE(done());
    grpc::Slice list("\x3a\x01*");  // list_services, field 7
    call->Write(grpc::ByteBuffer(&list, 1), this);
    EXPECT_TRUE(done());
    grpc::ByteBuffer answer;
    call->Read(&answer, this);
    EXPECT_TRUE(done());
    call->WritesDone(this);
    EXPECT_TRUE(done());
    grpc::Status status;
    call->Finish(&status, this);
    EXPECT_TRUE(done() && status.ok()) << status.error_message();
    grpc::Slice slice;
    EXPECT_TRUE(answer.DumpToSingleSlice(&slice).ok());
    return std::string(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }

  // The answer of grpc.health.v1.Health/Check, which has no protos in Debian's packages.
  std::string Health() {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    grpc::Slice nothing("");
    grpc::ByteBuffer request(&nothing, 1);
    auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
    grpc::ByteBuffer answer;
    grpc::Status status;
    call->StartCall();
    call->Finish(&answer, &status, this);
    void* tag = nullptr;
    bool ok = false;
    EXPECT_TRUE(queue.Next(&tag, &ok) && ok && status.ok()) << status.error_message();
    grpc::Slice slice;
    EXPECT_TRUE(answer.DumpToSingleSlice(&slice).ok());
    return std::string(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }

  TestNode node_;
  std::unique_ptr<ApiServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(ApiTest, EveryServiceAnswers) {
  v1::Node node;
  EXPECT_TRUE(Call<v1::NodeService>(&v1::NodeService::Stub::GetNode, {}, &node).ok());
  EXPECT_EQ(node.name(), "n1");
  EXPECT_EQ(node.version(), UMBLOCK_VERSION);
  EXPECT_TRUE(MakeResource("r0").ok());
  v1::CreateVolumeRequest volume;
  volume.mutable_spec()->set_resource("r0");
  v1::Volume made;
  EXPECT_TRUE(Call<v1::VolumeService>(&v1::VolumeService::Stub::CreateVolume, volume, &made).ok());
  v1::ListConnectionsResponse connections;
  EXPECT_TRUE(
      Call<v1::ConnectionService>(&v1::ConnectionService::Stub::ListConnections, {}, &connections)
          .ok());
  v1::ListBackendsResponse backends;
  EXPECT_TRUE(
      Call<v1::BackendService>(&v1::BackendService::Stub::ListBackends, {}, &backends).ok());
  v1::ListTargetsResponse targets;
  EXPECT_TRUE(Call<v1::TargetService>(&v1::TargetService::Stub::ListTargets, {}, &targets).ok());
  v1::ListExportsResponse exports;
  EXPECT_TRUE(Call<v1::ExportService>(&v1::ExportService::Stub::ListExports, {}, &exports).ok());
  v1::NodeStatus status;
  EXPECT_TRUE(Call<v1::NodeService>(&v1::NodeService::Stub::GetStatus, {}, &status).ok());
  EXPECT_EQ(status.resources(0).volumes_size(), 1);
}

TEST_F(ApiTest, ReflectionListsTheServices) {
  const std::string services = Services();
  for (const char* name :
       {"Node", "Backend", "Resource", "Volume", "Connection", "Target", "Export", "Event"}) {
    EXPECT_THAT(services, HasSubstr(fmt::format("umblock.v1.{}Service", name)));
  }
  EXPECT_THAT(services, HasSubstr("grpc.health.v1.Health"));
}

TEST_F(ApiTest, HealthSaysSoOnlyOnceTheNodeServes) {
  EXPECT_EQ(Health(), std::string({8, 2}));  // NOT_SERVING
  server_->SetServing(true);
  EXPECT_EQ(Health(), std::string({8, 1}));  // SERVING
}

TEST_F(ApiTest, EmptyRequestsAreCleanErrors) {
  v1::Resource resource;
  v1::Volume volume;
  v1::Connection connection;
  v1::Backend backend;
  v1::Target target;
  v1::Lun lun;
  v1::Portal portal;
  v1::Export item;
  v1::WaitResponse wait;
  using Code = grpc::StatusCode;
  EXPECT_EQ(Call<v1::ResourceService>(&v1::ResourceService::Stub::CreateResource, {}, &resource)
                .error_code(),
            Code::INVALID_ARGUMENT);
  EXPECT_EQ(
      Call<v1::ResourceService>(&v1::ResourceService::Stub::Promote, {}, &resource).error_code(),
      Code::NOT_FOUND);
  EXPECT_EQ(Call<v1::VolumeService>(&v1::VolumeService::Stub::Attach, {}, &volume).error_code(),
            Code::NOT_FOUND);
  EXPECT_EQ(Call<v1::ConnectionService>(&v1::ConnectionService::Stub::Connect, {}, &connection)
                .error_code(),
            Code::NOT_FOUND);
  EXPECT_EQ(
      Call<v1::BackendService>(&v1::BackendService::Stub::CreateBackend, {}, &backend).error_code(),
      Code::INVALID_ARGUMENT);
  EXPECT_EQ(
      Call<v1::TargetService>(&v1::TargetService::Stub::CreateTarget, {}, &target).error_code(),
      Code::INVALID_ARGUMENT);
  EXPECT_EQ(Call<v1::TargetService>(&v1::TargetService::Stub::CreateLun, {}, &lun).error_code(),
            Code::INVALID_ARGUMENT);
  EXPECT_EQ(
      Call<v1::TargetService>(&v1::TargetService::Stub::CreatePortal, {}, &portal).error_code(),
      Code::INVALID_ARGUMENT);
  EXPECT_EQ(Call<v1::ExportService>(&v1::ExportService::Stub::CreateExport, {}, &item).error_code(),
            Code::INVALID_ARGUMENT);
  EXPECT_EQ(Call<v1::EventService>(&v1::EventService::Stub::Wait, {}, &wait).error_code(),
            Code::NOT_FOUND);
}

TEST_F(ApiTest, HugeRequestsAreRefused) {
  const grpc::Status status = MakeResource(std::string(2u << 20, 'x'));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(MakeResource("r0").ok());
}

TEST_F(ApiTest, ErrorsKeepCodeAndMessage) {
  ASSERT_TRUE(MakeResource("r0").ok());
  const grpc::Status again = MakeResource("r0");
  EXPECT_EQ(again.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(again.error_message(), "there is a resource 'r0' already");
}

TEST_F(ApiTest, TheSocketIsForOwnerAndGroup) {
  struct stat info = {};
  ASSERT_EQ(::stat((node_.directory() + "/api.sock").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0660u);
}

TEST_F(ApiTest, WatchShowsSnapshotBookmarkAndChanges) {
  ASSERT_TRUE(MakeResource("r0").ok());
  auto stub = v1::EventService::NewStub(channel_);
  grpc::ClientContext context;
  auto reader = stub->Watch(&context, {});
  v1::Event event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.type(), v1::Event::EXISTS);
  EXPECT_EQ(event.object(), "resource r0");
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.type(), v1::Event::BOOKMARK);
  const uint64_t bookmark = event.revision();
  ASSERT_TRUE(MakeResource("r1").ok());
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.type(), v1::Event::CREATED);
  EXPECT_EQ(event.object(), "resource r1");
  EXPECT_EQ(event.revision(), bookmark + 1);
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);

  // Resumed: the same change, and no snapshot.
  v1::WatchRequest resume;
  resume.set_since_revision(bookmark);
  grpc::ClientContext again;
  auto resumed = stub->Watch(&again, resume);
  ASSERT_TRUE(resumed->Read(&event));
  EXPECT_EQ(event.object(), "resource r1");
  again.TryCancel();
  (void)resumed->Finish();
}

TEST_F(ApiTest, WatchRefusesForgottenRevisions) {
  auto stub = v1::EventService::NewStub(channel_);
  v1::WatchRequest request;
  request.set_since_revision(1);
  grpc::ClientContext context;
  auto reader = stub->Watch(&context, request);
  v1::Event event;
  EXPECT_FALSE(reader->Read(&event));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_THAT(status.error_message(), HasSubstr("watch again from the beginning"));
}

TEST_F(ApiTest, WatchersAreBounded) {
  auto stub = v1::EventService::NewStub(channel_);
  grpc::ClientContext contexts[3];
  std::unique_ptr<grpc::ClientReader<v1::Event>> readers[3];
  v1::Event event;
  for (int i = 0; i < 2; ++i) {
    readers[i] = stub->Watch(&contexts[i], {});
    ASSERT_TRUE(readers[i]->Read(&event));
  }
  readers[2] = stub->Watch(&contexts[2], {});
  EXPECT_FALSE(readers[2]->Read(&event));
  EXPECT_EQ(readers[2]->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  for (int i = 0; i < 2; ++i) {
    contexts[i].TryCancel();
    (void)readers[i]->Finish();
  }
}

// A watcher that does not read while more events pass than the log holds.
TEST_F(ApiTest, ASlowWatcherIsToldToStartOver) {
  auto stub = v1::EventService::NewStub(channel_);
  grpc::ClientContext context;
  auto reader = stub->Watch(&context, {});
  v1::Event event;
  ASSERT_TRUE(reader->Read(&event));
  ASSERT_EQ(event.type(), v1::Event::BOOKMARK);
  // Large events fill the stream's flow-control window, then the log runs away from the watcher.
  v1::Event large;
  large.set_type(v1::Event::CHANGED);
  large.set_object("backend b");
  large.mutable_backend()->mutable_spec()->set_path(std::string(256 << 10, 'x'));
  for (int i = 0; i < 256; ++i) node_.hub().Publish(large);
  // The watcher may have been sent back in the middle of that: it goes on from there to the end.
  const uint64_t last = node_.hub().last_revision();
  bool started_over = false;
  bool bookmarked = false;
  while (!(bookmarked && event.revision() == last) && reader->Read(&event)) {
    started_over = started_over || event.type() == v1::Event::START_OVER;
    bookmarked = started_over && (bookmarked || event.type() == v1::Event::BOOKMARK);
  }
  EXPECT_TRUE(started_over);
  EXPECT_TRUE(bookmarked);
  EXPECT_EQ(event.revision(), last);
  context.TryCancel();
  (void)reader->Finish();
}

// Waits and watches have bounds of their own: whoever waits for a day keeps nobody from promoting.
TEST_F(ApiTest, WaitsAreBoundedAndDoNotLockOutCalls) {
  ASSERT_TRUE(MakeResource("r0").ok());
  auto stub = v1::EventService::NewStub(channel_);
  v1::WaitRequest request;
  request.set_resource("r0");
  request.set_condition(v1::WaitRequest::CONNECTED);
  request.mutable_timeout()->set_seconds(1000);
  grpc::CompletionQueue queue;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientAsyncResponseReader<v1::WaitResponse>>> calls;
  std::vector<v1::WaitResponse> responses(3);
  std::vector<grpc::Status> statuses(3);
  for (size_t i = 0; i < 3; ++i) {  // one more than allowed
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    calls.push_back(stub->AsyncWait(contexts[i].get(), request, &queue));
    calls[i]->Finish(&responses[i], &statuses[i], &statuses[i]);
  }
  void* tag = nullptr;
  bool ok = false;
  ASSERT_TRUE(queue.Next(&tag, &ok));
  auto* refused = static_cast<grpc::Status*>(tag);
  EXPECT_EQ(refused->error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused->error_message(), HasSubstr("--max-waits"));
  // The other two wait, as many watchers as there may be watch, and calls of the same connection
  // are answered all the same.
  grpc::ClientContext watches[2];
  std::unique_ptr<grpc::ClientReader<v1::Event>> readers[2];
  v1::Event event;
  for (int i = 0; i < 2; ++i) {
    readers[i] = stub->Watch(&watches[i], {});
    ASSERT_TRUE(readers[i]->Read(&event));
  }
  v1::PromoteRequest promote;
  promote.set_name("r0");
  v1::Resource resource;
  EXPECT_TRUE(
      Call<v1::ResourceService>(&v1::ResourceService::Stub::Promote, promote, &resource).ok());
  // A client that goes away gives its slot back.
  for (auto& context : contexts) context->TryCancel();
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(queue.Next(&tag, &ok));
  request.mutable_timeout()->set_seconds(0);
  grpc::Status admitted(grpc::StatusCode::RESOURCE_EXHAUSTED, "");
  while (admitted.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
    v1::WaitResponse response;
    admitted = Call<v1::EventService>(&v1::EventService::Stub::Wait, request, &response);
  }
  EXPECT_EQ(admitted.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  for (int i = 0; i < 2; ++i) {
    watches[i].TryCancel();
    (void)readers[i]->Finish();
  }
}

TEST_F(ApiTest, CallsAtATimeAreBounded) {
  ASSERT_TRUE(MakeResource("r0").ok());
  ASSERT_TRUE(MakeBackend("disk0").ok());
  v1::CreateVolumeRequest volume;
  volume.mutable_spec()->set_resource("r0");
  v1::Volume made;
  ASSERT_TRUE(Call<v1::VolumeService>(&v1::VolumeService::Stub::CreateVolume, volume, &made).ok());
  // Attaches that hang take all four slots; a fifth call is refused.
  node_.OnReactor([&] { node_.engine().attach_hangs = true; });
  auto stub = v1::VolumeService::NewStub(channel_);
  v1::AttachRequest request;
  request.set_resource("r0");
  request.set_backend("disk0");
  grpc::CompletionQueue queue;
  grpc::ClientContext contexts[4];
  std::unique_ptr<grpc::ClientAsyncResponseReader<v1::Volume>> calls[4];
  v1::Volume responses[4];
  grpc::Status statuses[4];
  for (int i = 0; i < 4; ++i) {
    calls[i] = stub->AsyncAttach(&contexts[i], request, &queue);
    calls[i]->Finish(&responses[i], &statuses[i], &statuses[i]);
  }
  grpc::Status refused;
  while (refused.ok()) {
    v1::Node node;
    refused = Call<v1::NodeService>(&v1::NodeService::Stub::GetNode, {}, &node);
  }
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("--max-calls"));
  node_.OnReactor([&] { node_.engine().LetAttachGo(); });
  for (int i = 0; i < 4; ++i) {
    void* tag = nullptr;
    bool ok = false;
    ASSERT_TRUE(queue.Next(&tag, &ok));
  }
  grpc::Status admitted(grpc::StatusCode::UNKNOWN, "");
  while (!admitted.ok()) {
    v1::Node node;
    admitted = Call<v1::NodeService>(&v1::NodeService::Stub::GetNode, {}, &node);
  }
}

TEST_F(ApiTest, AWaitTellsWhatIsMissing) {
  ASSERT_TRUE(MakeResource("r0").ok());
  v1::WaitRequest request;
  request.set_resource("r0");
  request.set_condition(v1::WaitRequest::CONNECTED);
  request.mutable_timeout();
  v1::WaitResponse response;
  const grpc::Status status =
      Call<v1::EventService>(&v1::EventService::Stub::Wait, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_THAT(status.error_message(), HasSubstr("no connections"));
}

TEST_F(ApiTest, StoppingRefusesCalls) {
  node_.OnReactor([&] { node_.node().BeginStop(); });
  const grpc::Status status = MakeResource("r0");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST(ApiServer, RefusesToReplaceWhatIsNoSocket) {
  TestNode node;
  ASSERT_TRUE(node.Start());
  ApiServerOptions options;
  options.socket_path = node.directory() + "/config.json";
  ASSERT_TRUE(WriteFileAtomically(options.socket_path, "{}", {}));
  auto server = ApiServer::Start(&node.node(), options);
  ASSERT_FALSE(server);
  EXPECT_THAT(server.error().message(), HasSubstr("something else is there"));
  options.socket_path = "relative.sock";
  EXPECT_FALSE(ApiServer::Start(&node.node(), options));
  options.socket_path = "/" + std::string(200, 'x');
  EXPECT_FALSE(ApiServer::Start(&node.node(), options));
}

TEST(GrpcStatus, OneCodeForOneCode) {
  const std::pair<ErrorCode, grpc::StatusCode> pairs[] = {
      {ErrorCode::kInvalidArgument, grpc::StatusCode::INVALID_ARGUMENT},
      {ErrorCode::kNotFound, grpc::StatusCode::NOT_FOUND},
      {ErrorCode::kAlreadyExists, grpc::StatusCode::ALREADY_EXISTS},
      {ErrorCode::kFailedPrecondition, grpc::StatusCode::FAILED_PRECONDITION},
      {ErrorCode::kAborted, grpc::StatusCode::ABORTED},
      {ErrorCode::kUnavailable, grpc::StatusCode::UNAVAILABLE},
      {ErrorCode::kDeadlineExceeded, grpc::StatusCode::DEADLINE_EXCEEDED},
      {ErrorCode::kResourceExhausted, grpc::StatusCode::RESOURCE_EXHAUSTED},
      {ErrorCode::kDataLoss, grpc::StatusCode::DATA_LOSS},
      {ErrorCode::kPermissionDenied, grpc::StatusCode::PERMISSION_DENIED},
      {ErrorCode::kCancelled, grpc::StatusCode::CANCELLED},
      {ErrorCode::kUnimplemented, grpc::StatusCode::UNIMPLEMENTED},
      {ErrorCode::kInternal, grpc::StatusCode::INTERNAL}};
  std::set<grpc::StatusCode> seen;
  for (const auto& [code, grpc_code] : pairs) {
    const grpc::Status status = ToGrpcStatus(Error(code, "why"));
    EXPECT_EQ(status.error_code(), grpc_code);
    EXPECT_EQ(status.error_message(), "why");
    EXPECT_TRUE(seen.insert(grpc_code).second);
  }
}

}  // namespace
}  // namespace umblock::server
