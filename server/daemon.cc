#include "server/daemon.h"

#include <signal.h>

#include <chrono>
#include <cstdio>
#include <optional>

#include "engine/runtime/uring/reactor_thread.h"
#include "server/api_server.h"
#include "server/memory_lock.h"
#include "server/metrics_endpoint.h"
#include "server/node.h"
#include "server/real_engine.h"
#include "server/stop_signals.h"
#include "server/version.h"

namespace umblock::server {
namespace {

constexpr auto kApiPatience = std::chrono::seconds(2);

// Revisions of an earlier run are below those of this one.
uint64_t FirstRevision() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                   std::chrono::system_clock::now().time_since_epoch())
                                   .count());
}

class Daemon {
 public:
  explicit Daemon(const DaemonOptions& options)
      : options_(options),
        log_(options.log_level, options.log_format, options.node_name),
        store_(options.state_dir),
        hub_(FirstRevision(), options.event_log) {
    hub_.set_max_watchers(options.max_watchers);
  }

  int Run() {
    ::signal(SIGPIPE, SIG_IGN);
    if (Status prepared = signals_.During([this] { return Prepare(); }); !prepared) {
      return Fail(prepared.error());
    }
    Status started = signals_.During([this] { return StartNode(); });
    if (!started) {
      Stop();
      return Fail(started.error());
    }
    log_.Info("umblockd: ready version={} name=\"{}\" socket=\"{}\" listen=\"{}\" metrics=\"{}\"",
              kVersion, options_.node_name, options_.socket, options_.listen, options_.metrics);
    signals_.WaitUntilAsked();
    Stop();
    log_.Info("umblockd: stopped");
    return 0;
  }

 private:
  int Fail(const Error& error) {
    log_.Error("umblockd: cannot start reason=\"{}\"", error.message());
    log_.Flush();
    return 1;
  }

  Status LockOwnMemory(NodeOptions* node) {
    std::string reason;
    const Result<bool> locked = LockMemoryOfProcess(options_.lock_memory, &reason);
    if (!locked) return std::unexpected(locked.error());
    node->memory_locked = *locked;
    if (!*locked && options_.lock_memory != LockMemory::kOff) {
      log_.Warn(
          "umblockd: memory is not locked: if the machine swaps, requests wait for the disk that "
          "is "
          "swapped to reason=\"{}\"",
          reason);
    }
    return Ok();
  }

  // The reactor's thread starts those that block for it.
  void MakeIoFlusher(NodeOptions* node) {
    thread_->RunTask([node]() -> Task<void> {
      node->io_flusher = BecomeIoFlusher();
      co_return;
    });
    if (node->io_flusher) return;
    log_.Warn(
        "umblockd: its threads are not I/O flushers: a machine that is short of memory may hang if "
        "a file system on one of this node's volumes is mounted on it reason=\"no "
        "CAP_SYS_RESOURCE; grant it (docker run --cap-add SYS_RESOURCE) where that is so\"");
  }

  Status Prepare() {
    NodeOptions node;
    UMBLOCK_TRY(store_.Lock());
    UMBLOCK_TRY(LockOwnMemory(&node));
    auto state = store_.Load();
    if (!state) return std::unexpected(state.error());
    ReactorThreadOptions reactor;
    reactor.name = "umblock-io";
    reactor.cpu = options_.cpu;
    reactor.uring.buffer_limit_bytes = size_t{options_.buffer_mib} << 20;
    reactor.uring.logger = &log_;
    auto thread = ReactorThread::Start(reactor);
    if (!thread) return std::unexpected(thread.error());
    thread_ = std::move(*thread);
    MakeIoFlusher(&node);
    engine_ = MakeRealEngine(thread_->reactor(), {.fuse_allow_other = options_.fuse_allow_other,
                                                  .allow_handlers = options_.allow_handlers,
                                                  .node_name = options_.node_name});
    ApiServerOptions api;
    api.socket_path = options_.socket;
    api.tcp_address = options_.listen;
    api.tls_certificate_file = options_.tls_certificate;
    api.tls_key_file = options_.tls_key;
    api.tls_client_ca_file = options_.tls_client_ca;
    api.max_calls = options_.max_calls;
    api.max_waits = options_.max_waits;
    api.max_watchers = options_.max_watchers;
    node.name = options_.node_name;
    node.fuse_dir = options_.fuse_dir;
    node.max_calls = options_.max_calls;
    node.max_watchers = options_.max_watchers;
    node.max_message_bytes = api.max_message_bytes;
    node_.emplace(thread_->reactor(), log_, *engine_, &store_, std::move(*state), &hub_, node);
    // Both answer 'starting' until the node has started.
    auto server = ApiServer::Start(&*node_, api);
    if (!server) return std::unexpected(server.error());
    api_ = std::move(*server);
    if (options_.metrics.empty()) return Ok();
    auto metrics = MetricsEndpoint::Start(options_.metrics, &*node_);
    if (!metrics) return std::unexpected(metrics.error());
    metrics_ = std::move(*metrics);
    return Ok();
  }

  Status StartNode() {
    UMBLOCK_TRY(thread_->RunTask([this] { return node_->Start(); }));
    api_->SetServing(true);
    return Ok();
  }

  // Nobody calls the node any more when it goes; it goes on its reactor.
  void Stop() {
    (void)signals_.During([this]() -> Status {
      if (api_) api_->SetServing(false);
      thread_->RunTask([this] { return node_->Stop(); });
      if (api_) api_->Shutdown(kApiPatience);
      metrics_.reset();
      api_.reset();
      thread_->RunTask([this]() -> Task<void> {
        node_.reset();
        engine_.reset();
        co_return;
      });
      thread_.reset();
      return Ok();
    });
    log_.Flush();
  }

  const DaemonOptions& options_;
  StopSignals signals_{&log_};  // before the log's thread, which inherits
  DaemonLog log_;
  ConfigStore store_;
  EventHub hub_;
  std::unique_ptr<ReactorThread> thread_;
  std::unique_ptr<Engine> engine_;
  std::optional<Node> node_;
  std::unique_ptr<ApiServer> api_;
  std::unique_ptr<MetricsEndpoint> metrics_;
};

int CheckConfig(const DaemonOptions& options) {
  ConfigStore store(options.state_dir);
  auto state = store.Load();
  if (!state) {
    std::fprintf(stderr, "umblockd: %s\n", state.error().message().c_str());
    return 1;
  }
  const config::v1::Config& config = state->config;
  std::printf(
      "%s: valid, generation %llu: %d backends, %d resources, %d portals, %d targets, %d exports\n",
      options.state_dir.c_str(), static_cast<unsigned long long>(config.generation()),
      config.backends_size(), config.resources_size(), config.portals_size(), config.targets_size(),
      config.exports_size());
  return 0;
}

}  // namespace

int RunDaemon(const DaemonOptions& options) {
  if (options.check_config) return CheckConfig(options);
  Daemon daemon(options);
  return daemon.Run();
}

}  // namespace umblock::server
