// Node: everything that one umblockd manages, on one reactor, and the door to it for other threads.
//
// gRPC and metrics threads hand in calls (Call): a call is a task that runs on the reactor and then
// completes the RPC. Nothing else of a node is touched from outside.
// Life cycle: made on any thread; Start on the reactor; Stop on the reactor, awaited, before it is
// destroyed. After BeginStop calls are refused with kUnavailable and waits end.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "engine/base/log.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/sync.h"
#include "server/backend_manager.h"
#include "server/config_keeper.h"
#include "server/engine.h"
#include "server/event_hub.h"
#include "server/event_publisher.h"
#include "server/export_manager.h"
#include "server/resource_manager.h"
#include "server/target_manager.h"
#include "umblock/v1/node.pb.h"

namespace umblock::server {

struct NodeOptions {
  std::string name;              // for people
  std::string fuse_dir;          // empty: no FUSE front
  Duration look_interval = 1s;   // how often progress is looked at
  Duration retry_interval = 5s;  // how often what could not be restored is tried again
  Duration patience = 2s;        // NodeParts::patience
  // For GetNode.
  uint32_t max_calls = 0;
  uint32_t max_watchers = 0;
  uint32_t max_message_bytes = 0;
  bool memory_locked = false;
  bool io_flusher = false;
};

class Node {
 public:
  // Everything outlives the node. `state` is what `store` loaded.
  Node(Reactor& reactor, Logger& logger, Engine& engine, ConfigStore* store, StoredState state,
       EventHub* hub, NodeOptions options);
  ~Node();

  // Any thread, from the end of the constructor until the reactor stops: runs `act` on the reactor,
  // then calls `done` there. `act` gives a Task<Result<T>> and lives until `done` has returned.
  template <typename T>
  void Call(std::move_only_function<Task<Result<T>>()> act,
            std::move_only_function<void(Result<T>)> done) {
    Post([this, act = std::move(act), done = std::move(done)]() mutable {
      return RunCall<T>(this, std::move(act), std::move(done));
    });
  }
  // Any thread: calls `function` on the reactor.
  void Run(std::move_only_function<void()> function);

  // Brings back what is configured. What cannot be brought back stays, and is tried again; an error
  // means that the configuration makes no sense.
  Task<Status> Start();
  // On the reactor: refuse calls, end waits.
  void BeginStop();
  // Fronts, then resources, then backends; the roles on disk stay what they are.
  Task<void> Stop();

  BackendManager& backends() { return backends_; }
  ResourceManager& resources() { return resources_; }
  TargetManager& targets() { return targets_; }
  ExportManager& exports() { return exports_; }
  Node& self() { return *this; }

  Task<Result<v1::Node>> GetNode(v1::GetNodeRequest request);
  Task<Result<v1::NodeStatus>> GetStatus(v1::GetStatusRequest request);
  Task<Result<v1::WaitResponse>> Wait(v1::WaitRequest request, CancelToken cancel);

  EventHub& hub() { return *hub_; }
  Logger& logger() { return logger_; }

 private:
  struct PostedCall;
  struct WaitLink;

  void Post(std::move_only_function<Task<void>()> make);
  template <typename T>
  static Task<void> RunCall(Node* node, std::move_only_function<Task<Result<T>>()> act,
                            std::move_only_function<void(Result<T>)> done) {
    if (!node->accepting_) {
      done(MakeError(ErrorCode::kUnavailable, "umblockd is {}: try again in a moment",
                     node->stopping_ ? "stopping" : "starting"));
      co_return;
    }
    done(co_await act());
  }

  Task<void> LookLoop();
  Task<void> RetryLoop();
  void Look();
  v1::Node Describe();

  Reactor& reactor_;
  Logger& logger_;
  Engine& engine_;
  EventHub* hub_;
  const NodeOptions options_;
  const std::string state_dir_;
  const int64_t start_time_;  // seconds since 1970
  ConfigKeeper config_;
  EventPublisher events_;
  BackendManager backends_;
  ResourceManager resources_;
  TargetManager targets_;
  ExportManager exports_;
  TaskGroup calls_;
  TaskGroup loops_;
  bool accepting_ = false;
  bool stopping_ = false;
};

}  // namespace umblock::server
