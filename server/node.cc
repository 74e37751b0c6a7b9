#include "server/node.h"

#include <ctime>

#include "engine/drbd/wire/constants.h"
#include "server/version.h"

namespace umblock::server {

// A call on its way to the reactor.
struct Node::PostedCall : Completion {
  PostedCall(Node* owner, std::move_only_function<Task<void>()> function)
      : Completion(&Arrived), node(owner), make(std::move(function)) {}

  static void Arrived(Completion* self, int32_t) noexcept {
    std::unique_ptr<PostedCall> call(static_cast<PostedCall*>(self));
    call->node->calls_.Spawn(call->make());
  }

  Node* node;
  std::move_only_function<Task<void>()> make;
};

// A wait ends when its client goes away, and when the daemon stops.
struct Node::WaitLink : CancelCallback {
  explicit WaitLink(CancelSource* to)
      : CancelCallback(
            [](CancelCallback* self) noexcept { static_cast<WaitLink*>(self)->target->Cancel(); }),
        target(to) {}
  CancelSource* target;
};

Node::Node(Reactor& reactor, Logger& logger, Engine& engine, ConfigStore* store, StoredState state,
           EventHub* hub, NodeOptions options)
    : reactor_(reactor),
      logger_(logger),
      engine_(engine),
      hub_(hub),
      options_(std::move(options)),
      state_dir_(store->directory()),
      start_time_(std::time(nullptr)),
      config_(reactor, store, std::move(state)),
      events_(hub, &logger),
      backends_(NodeParts{reactor, logger, engine, config_, events_, options_.patience}),
      resources_(NodeParts{reactor, logger, engine, config_, events_, options_.patience},
                 &backends_),
      targets_(NodeParts{reactor, logger, engine, config_, events_},
               Backings(&backends_, &resources_), options_.name),
      exports_(NodeParts{reactor, logger, engine, config_, events_},
               Backings(&backends_, &resources_), options_.fuse_dir),
      calls_(reactor),
      loops_(reactor) {
  backends_.make_path_check = [this] { return exports_.PathCheck(); };
  backends_.on_forget_stored = &ResourceManager::ForgetBackendStored;
  backends_.on_forgotten = [this](const std::string& name) { resources_.ForgetBackend(name); };
}

Node::~Node() = default;

void Node::Post(std::move_only_function<Task<void>()> make) {
  reactor_.PostFromAnyThread(new PostedCall(this, std::move(make)));
}

void Node::Run(std::move_only_function<void()> function) {
  Post([function = std::move(function)]() mutable {
    return [](std::move_only_function<void()> call) -> Task<void> {
      call();
      co_return;
    }(std::move(function));
  });
}

Task<Status> Node::Start() {
  backends_.Restore();
  UMBLOCK_CO_TRY(resources_.Restore());
  targets_.Restore();
  exports_.Restore();
  co_await backends_.Retry();
  co_await resources_.Retry();
  co_await targets_.Retry();
  co_await exports_.Retry();
  Look();
  std::vector<NodeProblem> problems;
  backends_.AddProblems(&problems);
  resources_.AddProblems(&problems);
  targets_.AddProblems(&problems);
  exports_.AddProblems(&problems);
  for (const NodeProblem& problem : problems) {
    logger_.Warn("{}: not restored, trying again reason=\"{}\"", problem.object, problem.reason);
  }
  accepting_ = true;
  loops_.Spawn(LookLoop());
  loops_.Spawn(RetryLoop());
  co_return Ok();
}

void Node::BeginStop() {
  stopping_ = true;
  accepting_ = false;
  loops_.Cancel();
}

Task<void> Node::Stop() {
  BeginStop();
  co_await loops_.Join();
  resources_.FailHeldIo();
  co_await targets_.Stop();
  co_await exports_.Stop();
  co_await resources_.StopAll();
  co_await calls_.Join();
  resources_.Clear();
  co_await backends_.Stop();
}

void Node::Look() {
  resources_.Look();
  targets_.Look();
  exports_.Look();
}

Task<void> Node::LookLoop() {
  while (co_await Sleep(reactor_, options_.look_interval, loops_.token()) !=
         WakeReason::kCancelled) {
    Look();
  }
}

Task<void> Node::RetryLoop() {
  while (co_await Sleep(reactor_, options_.retry_interval, loops_.token()) !=
         WakeReason::kCancelled) {
    co_await backends_.Retry();
    co_await resources_.Retry();
    co_await targets_.Retry();
    co_await exports_.Retry();
  }
}

v1::Node Node::Describe() {
  v1::Node node;
  node.set_name(options_.name);
  node.set_version(kVersion);
  node.mutable_start_time()->set_seconds(start_time_);
  node.set_protocol_min(drbd::wire::kProtocolMin9);
  node.set_protocol_max(drbd::wire::kProtocolMax9);
  node.set_state_dir(state_dir_);
  node.set_fuse_dir(options_.fuse_dir);
  node.set_iscsi(targets_.available());
  node.set_config_generation(config_.config().generation());
  node.set_max_calls(options_.max_calls);
  node.set_max_watchers(options_.max_watchers);
  node.set_max_message_bytes(options_.max_message_bytes);
  node.set_memory_locked(options_.memory_locked);
  node.set_io_flusher(options_.io_flusher);
  for (const auto& [name, value] : engine_.RuntimeCounters()) {
    (*node.mutable_runtime_counters())[name] = value;
  }
  std::vector<NodeProblem> problems;
  backends_.AddProblems(&problems);
  resources_.AddProblems(&problems);
  targets_.AddProblems(&problems);
  exports_.AddProblems(&problems);
  for (const NodeProblem& from : problems) {
    v1::Problem* problem = node.add_problems();
    problem->set_object(from.object);
    problem->set_reason(from.reason);
  }
  return node;
}

Task<Result<v1::Node>> Node::GetNode(v1::GetNodeRequest) { co_return Describe(); }

Task<Result<v1::NodeStatus>> Node::GetStatus(v1::GetStatusRequest request) {
  v1::NodeStatus status;
  if (!request.resource().empty()) {
    v1::GetResourceRequest get;
    get.set_name(request.resource());
    auto resource = co_await resources_.Get(get);
    if (!resource) co_return std::unexpected(resource.error());
    status.set_revision(hub_->last_revision());
    *status.add_resources() = std::move(*resource);
    co_return status;
  }
  std::vector<v1::Export> exports = co_await exports_.All();
  // No more awaits: the rest is one moment.
  for (v1::Export& item : exports) *status.add_exports() = std::move(item);
  for (v1::Resource& item : resources_.All()) *status.add_resources() = std::move(item);
  for (v1::Backend& item : backends_.All()) *status.add_backends() = std::move(item);
  for (v1::Portal& item : targets_.AllPortals()) *status.add_portals() = std::move(item);
  for (v1::Target& item : targets_.AllTargets()) *status.add_targets() = std::move(item);
  *status.mutable_node() = Describe();
  status.set_revision(hub_->last_revision());
  co_return status;
}

Task<Result<v1::WaitResponse>> Node::Wait(v1::WaitRequest request, CancelToken cancel) {
  CancelSource ended;
  WaitLink by_client(&ended);
  WaitLink by_stop(&ended);
  if (cancel.requested() || loops_.cancelled()) {
    co_return MakeError(ErrorCode::kCancelled, "the wait was cancelled");
  }
  by_client.Register(cancel);
  by_stop.Register(loops_.token());
  auto result = co_await resources_.Wait(std::move(request), ended);
  if (!result && stopping_ && result.error().code() == ErrorCode::kCancelled) {
    co_return MakeError(ErrorCode::kUnavailable, "umblockd is stopping");
  }
  co_return result;
}

}  // namespace umblock::server
