// When which handler is called (drbd-states.md 5.5).
#include <algorithm>

#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {

void ResourceImpl::CallHandlersFor(const ResourceState& before) {
  for (const VolumeState& now : state_.volumes) {
    const VolumeState* old = before.Volume(now.number);
    if (old == nullptr || state_.role != Role::kPrimary || DataAccessible(state_, now)) continue;
    if (before.role == Role::kPrimary && !DataAccessible(before, *old)) continue;
    handlers_.Notify(Handler::kPriOnInconDegr, {.volume = now.number});
  }
  // Both sides call it, when the last of the volumes has become UpToDate on both.
  auto whole = [](const ResourceState& state, int node) {
    return std::ranges::all_of(state.volumes, [node](const VolumeState& volume) {
      return volume.disk == DiskState::kUpToDate && volume.peer(node).disk == DiskState::kUpToDate;
    });
  };
  for (const auto& [node, link] : connections_) {
    if (state_.peer(node).fencing == FencingPolicy::kDontCare || state_.volumes.empty()) continue;
    if (whole(state_, node) && !whole(before, node)) {
      handlers_.Notify(Handler::kUnfencePeer, {.node = node});
    }
  }
}

void ResourceImpl::CallHandlersFor(PeerDevice& device, const SyncDecision& decision) {
  const bool any = decision.call_initial_split_brain || decision.call_split_brain ||
                   decision.call_pri_lost || decision.call_pri_lost_after_sb;
  // A handshake that is begun again on the same link comes to the same.
  if (!any || device.handlers_called == device.connection().session()) return;
  device.handlers_called = device.connection().session();
  const HandlerScope scope{.node = device.node(), .volume = device.volume_number()};
  if (decision.call_initial_split_brain) handlers_.Notify(Handler::kInitialSplitBrain, scope);
  if (decision.call_pri_lost_after_sb) handlers_.Notify(Handler::kPriLostAfterSb, scope);
  if (decision.call_split_brain) handlers_.Notify(Handler::kSplitBrain, scope);
  if (decision.call_pri_lost) handlers_.Notify(Handler::kPriLost, scope);
}

// Whether a resync that is about to begin may. A handler that says no ends the connection, as
// kernels do: the resync would else be decided on again at once.
Task<bool> ResourceImpl::MayBeginResync(PeerDevice* device, uint64_t session,
                                        ReplicationState from) {
  const bool source =
      from == ReplicationState::kWFBitMapS || from == ReplicationState::kStartingSyncS;
  const Handler handler = source ? Handler::kBeforeResyncSource : Handler::kBeforeResyncTarget;
  if (!handlers_.has(handler)) co_return true;
  const int node = device->node();
  const int code =
      co_await handlers_.CallInTurn(handler, {.node = node, .volume = device->volume_number()});
  // 3 from the source's handler: the peer's data is known to be bad, which is what a resync is for.
  if (code == 0 || (source && code == 3) || stopping_) co_return !stopping_;
  Connection& link = device->connection();
  if (link.up() && link.session() == session) {
    link.Fail(ConnectionState::kDisconnecting,
              fmt::format("handler {} of {} {}: no resync; see its output in the log, then "
                          "connect again",
                          HandlerName(handler), device->name(),
                          code == HandlerCalls::kNoExit ? "had no exit code"
                                                        : fmt::format("ended with {}", code)));
  }
  co_return false;
}

Task<void> ResourceImpl::RunStartSource(PeerDevice* device, uint64_t session) {
  if (!co_await MayBeginResync(device, session, ReplicationState::kWFBitMapS)) co_return;
  Connection& link = device->connection();
  const bool valid = link.up() && link.session() == session &&
                     device->state().repl == ReplicationState::kWFBitMapS;
  if (valid) BeginAsSource(*device);
}

}  // namespace umblock::drbd
