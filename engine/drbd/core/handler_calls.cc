#include "engine/drbd/core/handler_calls.h"

#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {
namespace {

constexpr int kMaxLines = 100;  // of a handler's output, in the log

std::string Address(const SocketAddress& address) {
  std::string text = address.ToString();
  const size_t port = text.rfind(':');
  text = text.substr(0, port);
  if (text.size() > 2 && text.front() == '[') text = text.substr(1, text.size() - 2);
  return text;
}

const char* Family(const SocketAddress& address) {
  return address.family() == SocketAddress::Family::kIpv6 ? "ipv6" : "ipv4";
}

// Nodes whose data is good to go on with, in all volumes that have any (drbd-states.md 5.5).
NodeMask UpToDateNodes(ResourceImpl& resource, bool fencing) {
  const ResourceState& state = resource.state();
  NodeMask all = 0;
  bool any = false;
  for (auto& [number, volume] : resource.volumes()) {
    const VolumeState& now = *state.Volume(number);
    const bool trusts_itself = fencing || state.role == Role::kPrimary;
    if (!trusts_itself && now.disk != DiskState::kUpToDate) continue;
    NodeMask good = NodeBit(resource.own_node());
    for (const auto& [node, link] : resource.connections()) {
      const bool misses_nothing = !trusts_itself && volume->disk() != nullptr &&
                                  volume->disk()->SlotOf(node) &&
                                  IsZeroUuid(volume->disk()->uuids().bitmap(node).uuid);
      if (now.peer(node).disk == DiskState::kUpToDate || misses_nothing) good |= NodeBit(node);
    }
    all = any ? all & good : good;
    any = true;
  }
  return all;
}

void LogOutput(Logger& logger, const std::string& object, std::string_view handler,
               std::string_view output) {
  for (int lines = 0; !output.empty() && lines < kMaxLines; ++lines) {
    const size_t end = output.find('\n');
    std::string line(output.substr(0, end));
    for (char& c : line) {
      if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = ' ';
    }
    logger.Info("{}: {}: {}", object, handler, line);
    output = end == std::string_view::npos ? std::string_view() : output.substr(end + 1);
  }
}

}  // namespace

HandlerCalls::HandlerCalls(ResourceImpl& resource, ProcessRunner* runner, HandlerConfig config)
    : resource_(resource), runner_(runner), config_(std::move(config)), turn_(resource.reactor()) {}

Task<int> HandlerCalls::Call(Handler handler, HandlerScope scope) {
  if (runner_ == nullptr || !has(handler) || source_.requested()) co_return kNoExit;
  ProcessRequest request;
  request.path = config_.path(handler);
  request.environment = Environment(handler, scope);
  request.timeout = config_.timeout;
  Report(handler, scope, "called");
  Result<ProcessResult> end = co_await runner_->Run(std::move(request), source_);
  if (end) {
    LogOutput(resource_.logger(), Object(scope), HandlerName(handler), end->output);
  }
  Report(handler, scope, Describe(handler, end));
  co_return end ? end->exit_code : kNoExit;
}

Task<int> HandlerCalls::CallInTurn(Handler handler, HandlerScope scope) {
  AsyncMutex::Lock lock = co_await turn_.Acquire();
  co_return co_await Call(handler, scope);
}

void HandlerCalls::Notify(Handler handler, HandlerScope scope) {
  if (runner_ == nullptr || !has(handler) || source_.requested()) return;
  if (notices_ >= kMaxNotices) {
    Report(handler, scope, fmt::format("not called: {} handlers run already", notices_));
    return;
  }
  ++notices_;
  resource_.tasks().Spawn(RunNotice(handler, scope));
}

Task<void> HandlerCalls::RunNotice(Handler handler, HandlerScope scope) {
  // What called for it is complete first.
  co_await resource_.reactor().Yield();
  (void)co_await Call(handler, scope);
  --notices_;
}

std::string HandlerCalls::Describe(Handler handler, const Result<ProcessResult>& end) const {
  if (!end) return fmt::format("not started: {}", end.error().message());
  if (end->timed_out) {
    return fmt::format("ended after {} s without an exit code",
                       std::chrono::duration_cast<std::chrono::seconds>(config_.timeout).count());
  }
  if (end->cancelled) return "ended: the resource stops";
  if (end->signal != 0) return fmt::format("ended by signal {}", end->signal);
  (void)handler;
  return fmt::format("exit code {}", end->exit_code);
}

std::string HandlerCalls::Object(HandlerScope scope) const {
  const std::string& name = resource_.name();
  if (scope.node >= 0 && scope.volume >= 0) {
    return fmt::format("peer-volume {}/{}/{}", name, scope.node, scope.volume);
  }
  if (scope.node >= 0) return fmt::format("connection {}/{}", name, scope.node);
  if (scope.volume >= 0) return fmt::format("volume {}/{}", name, scope.volume);
  return fmt::format("resource {}", name);
}

void HandlerCalls::Report(Handler handler, HandlerScope scope, std::string what) {
  StateEvent event;
  event.object = Object(scope);
  event.attribute = "handler";
  event.old_value = HandlerName(handler);
  event.new_value = std::move(what);
  event.reason = config_.path(handler);
  resource_.PublishEvent(std::move(event));
}

// --- what a handler is told
// ------------------------------------------------------------------------

void HandlerCalls::AddVolumes(std::vector<std::string>* to, HandlerScope scope) const {
  std::string numbers;
  std::string disks;
  for (auto& [number, volume] : resource_.volumes()) {
    if (scope.volume >= 0 && number != scope.volume) continue;
    std::string backend = volume->backend_name();
    // Devices are called "backend NAME".
    backend = backend.substr(backend.rfind(' ') + 1);
    numbers += fmt::format("{}{}", numbers.empty() ? "" : " ", number);
    disks += fmt::format("{}{}", disks.empty() ? "" : " ", backend.empty() ? "none" : backend);
    if (scope.volume < 0 && !backend.empty()) {
      to->push_back(fmt::format("DRBD_BACKING_DEV_{}={}", number, backend));
    }
    if (scope.volume >= 0 && !backend.empty()) {
      to->push_back(fmt::format("DRBD_BACKING_DEV={}", backend));
    }
  }
  to->push_back("DRBD_VOLUME=" + numbers);
  to->push_back("DRBD_LL_DISK=" + disks);
}

void HandlerCalls::AddConnection(std::vector<std::string>* to, int node) const {
  Connection* link = resource_.connection(node);
  if (link == nullptr) return;
  to->push_back(fmt::format("DRBD_PEER_NODE_ID={}", node));
  to->push_back(
      fmt::format("DRBD_CSTATE={}", ConnectionStateName(resource_.state().peer(node).connection)));
  if (link->config().paths.empty()) return;
  const PathConfig& path = link->config().paths[0];
  to->push_back(fmt::format("DRBD_MY_AF={}", Family(path.local)));
  to->push_back("DRBD_MY_ADDRESS=" + Address(path.local));
  to->push_back(fmt::format("DRBD_PEER_AF={}", Family(path.remote)));
  to->push_back("DRBD_PEER_ADDRESS=" + Address(path.remote));
}

std::vector<std::string> HandlerCalls::Environment(Handler handler, HandlerScope scope) const {
  std::vector<std::string> result = {"HOME=/", "TERM=linux", "PATH=/sbin:/usr/sbin:/bin:/usr/bin"};
  result.push_back(fmt::format("UMBLOCK_HANDLER={}", HandlerName(handler)));
  result.push_back("DRBD_RESOURCE=" + resource_.name());
  result.push_back(fmt::format("DRBD_MY_NODE_ID={}", resource_.own_node()));
  const std::string& own = resource_.config().node_name;
  if (!own.empty()) {
    result.push_back(fmt::format("DRBD_NODE_ID_{}={}", resource_.own_node(), own));
  }
  for (const auto& [node, link] : resource_.connections()) {
    result.push_back(fmt::format("DRBD_NODE_ID_{}={}", node, link->config().name));
  }
  AddVolumes(&result, scope);
  if (scope.node >= 0) AddConnection(&result, scope.node);
  if (HandlerName(handler).find("fence") != std::string_view::npos) {
    result.push_back(fmt::format("UP_TO_DATE_NODES=0x{:08X}",
                                 UpToDateNodes(resource_, handler == Handler::kFencePeer)));
  }
  return result;
}

}  // namespace umblock::drbd
