// Fencing: a Primary that has lost a peer makes sure that the peer does not go on alone, and holds
// its writes until that is so (drbd-states.md 5.3, drbd-io-path.md A.12).
#include <algorithm>

#include "engine/drbd/core/resource_impl.h"
#include "engine/drbd/state/write_routing.h"

namespace umblock::drbd {

DiskState ResourceImpl::BestOwnDisk() const {
  DiskState best = DiskState::kDiskless;
  for (const VolumeState& volume : state_.volumes) best = std::max(best, volume.disk);
  return best;
}

DiskState ResourceImpl::BestPeerDisk(int node) const {
  DiskState best = DiskState::kDiskless;
  for (const VolumeState& volume : state_.volumes) best = std::max(best, volume.peer(node).disk);
  return best;
}

bool ResourceImpl::FencingWanted(int node) const {
  return state_.role == Role::kPrimary && state_.peer(node).fencing != FencingPolicy::kDontCare &&
         !state_.peer(node).connected() && BestPeerDisk(node) >= DiskState::kUnknown;
}

Task<void> ResourceImpl::RunFencing(int node) {
  co_await reactor_.Yield();
  if (FencingWanted(node)) (void)co_await FencePeer(node);
}

// True: the peer's disks are known to be no better than Outdated, so it cannot go on alone.
Task<bool> ResourceImpl::FencePeer(int node) {
  if (connection(node) == nullptr) co_return false;
  if (state_.peer(node).fencing == FencingPolicy::kDontCare) co_return true;
  if (Contains(fencing_, node)) {
    while (Contains(fencing_, node) && !stopping_) co_await changed_.WaitFor(1s);
    co_return BestPeerDisk(node) <= DiskState::kOutdated;
  }
  // There is nothing here to keep the peer from falling behind of.
  if (BestOwnDisk() < DiskState::kConsistent) {
    (void)Change("no data here to fence the peer for", {.hard = true},
                 [node](ResourceState& next) { next.peer(node).susp_fen = false; });
    co_return false;
  }
  fencing_ |= NodeBit(node);
  const uint64_t contact = contacts_[static_cast<size_t>(node)];
  const int code = co_await handlers_.Call(Handler::kFencePeer, {.node = node});
  fencing_ &= ~NodeBit(node);
  changed_.NotifyAll();
  if (stopping_ || connection(node) == nullptr) co_return false;
  // Whoever came back meanwhile decides by what it says itself.
  if (contact != contacts_[static_cast<size_t>(node)] || state_.peer(node).connected()) {
    logger().Info(
        "connection {}/{}: the peer came back while fence-peer ran: its exit code is "
        "not used",
        name(), node);
    co_return false;
  }
  ApplyFencing(node, code);
  co_return BestPeerDisk(node) <= DiskState::kOutdated;
}

namespace {

constexpr std::string_view kWayOut =
    "connect the peer, or see to it that it is down and resume I/O by hand";

}  // namespace

void ResourceImpl::ApplyFencing(int node, int code) {
  const std::string link = fmt::format("connection {}/{}", name(), node);
  auto peer_is = [&](DiskState most, std::string_view why) {
    (void)Change(fmt::format("fence-peer: {}", why), {.hard = true}, [=](ResourceState& next) {
      for (VolumeState& volume : next.volumes) {
        DiskState& disk = volume.peer(node).disk;
        if (disk > most) disk = most;
      }
    });
  };
  switch (code) {
    case 3:
      return peer_is(DiskState::kInconsistent, "the peer's data is Inconsistent");
    case 4:
      return peer_is(DiskState::kOutdated, "the peer has been outdated");
    case 5:
      if (BestOwnDisk() == DiskState::kUpToDate) {
        return peer_is(DiskState::kOutdated,
                       "the peer cannot be reached, and this data is current");
      }
      logger().Warn("{}: the peer cannot be reached, and this node's data may be old: not fenced",
                    link);
      return;
    case 6: {
      StateCheck check = Change("fence-peer: the peer is Primary", {}, [](ResourceState& next) {
        for (VolumeState& volume : next.volumes) {
          if (volume.disk > DiskState::kOutdated) volume.disk = DiskState::kOutdated;
        }
      });
      if (!check) {
        logger().Error("{}: the peer is Primary, and this node cannot outdate itself: {}", link,
                       check.error().text());
      }
      return;
    }
    case 7:
      if (state_.peer(node).fencing != FencingPolicy::kResourceAndStonith) {
        logger().Warn("{}: fence-peer has stonithed the peer, and fencing is only resource-only",
                      link);
      }
      return peer_is(DiskState::kOutdated, "the peer has been stonithed");
    default:
      break;
  }
  const bool held = state_.peer(node).susp_fen;
  logger().Error("{}: the peer is not fenced ({}): {}{}", link,
                 !handlers_.has(Handler::kFencePeer) ? "there is no fence-peer handler"
                 : code == HandlerCalls::kNoExit     ? "fence-peer gave no exit code"
                                                     : "fence-peer failed",
                 held ? "I/O stays suspended; " : "",
                 held ? kWayOut : "it could be promoted too, which would be a split brain");
}

// --- writes that are held back
// ---------------------------------------------------------------------

// What was sent and not acknowledged can be sent again: the peer is the same that it was, with the
// same data and all that it has acknowledged.
bool ResourceImpl::MayResend(PeerDevice& device, const wire::StateWord& theirs) const {
  const Volume& of = device.volume();
  return state_.peer(device.node()).susp_fen && of.state().disk == DiskState::kUpToDate &&
         of.disk() != nullptr && !of.crashed_primary && device.uuids_known &&
         theirs.disk == DiskState::kUpToDate && device.uuids.Has(wire::kUuidFlagReconnect) &&
         !device.uuids.Has(wire::kUuidFlagCrashedPrimary) && device.out_of_sync_bits() == 0 &&
         SameUuid(of.disk()->uuids().current(), device.uuids.current);
}

bool ResourceImpl::HoldsWrites() const {
  return std::ranges::any_of(connections_, [](const auto& link) { return link.second->holds(); });
}

// The peer is back, or I/O goes on without it.
void ResourceImpl::SettleHeldWrites(const ResourceState& before) {
  for (auto& [node, link] : connections_) {
    if (!link->holds()) continue;
    const bool back = !before.peer(node).connected() && state_.peer(node).connected();
    if (back || (before.suspended() && !state_.suspended())) link->SettleHeldWrites();
  }
}

void Connection::SettleHeldWrites() {
  std::vector<Request*> held = std::exchange(held_, {});
  size_t again = 0;
  for (Request* request : held) {
    auto index = static_cast<size_t>(request->LegOf(node()));
    PeerDevice* device = request->volume->peer(node());
    const PeerDeviceState& peer = device->state();
    const bool resend = up() && state().connected() &&
                        peer.repl == ReplicationState::kEstablished &&
                        RouteWrite(peer.disk, peer.repl, peer.replication) == WriteRoute::kData;
    LegStep step =
        Next(request->leg_states[index], resend ? LegEvent::kResend : LegEvent::kCancelSuspended);
    request->leg_states[index] = Next(step.state, LegEvent::kCompletionResumed).state;
    if (step.Has(LegEffect::kQueue)) {
      ++again;
      QueueWrite(request, static_cast<int>(index), *device);
    }
    request->volume->CheckCompletion(request);
  }
  resource_.logger().Info("{}: {} writes that were held back: {} sent again", name_, held.size(),
                          again);
  resource_.ScheduleProgress();
}

// Its writes are not acknowledged without it, so nothing of them may be lost sight of.
Task<Status> ResourceImpl::ReleaseHeldWrites(int node) {
  Connection* link = connection(node);
  if (!state_.peer(node).susp_fen && !link->holds()) co_return Ok();
  if (state_.susp_user) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "{}: writes are held back; resume I/O of resource {} first", link->name(),
                        name());
  }
  (void)Change("the peer is removed", {.hard = true},
               [node](ResourceState& next) { next.peer(node).susp_fen = false; });
  while (link->holds() && !stopping_) co_await changed_.WaitFor(100ms);
  co_return Ok();
}

// --- promotion
// -------------------------------------------------------------------------------------

// Runs fence-peer for each peer of which nothing is known. True: all are fenced.
Task<bool> ResourceImpl::FenceUnknownPeers() {
  bool all = true;
  std::vector<int> nodes;
  for (auto& [node, link] : connections_) nodes.push_back(node);
  for (int node : nodes) {
    if (state_.peer(node).connected() || BestPeerDisk(node) != DiskState::kUnknown) continue;
    if (!co_await FencePeer(node)) all = false;
  }
  co_return all;
}

// A disk that is Consistent has all that its generation has; whether a peer has gone on is what
// fencing finds out. Without fencing nobody asks.
bool ResourceImpl::ConsistentIsBest() const {
  return std::ranges::all_of(state_.volumes, [this](const VolumeState& volume) {
    return volume.disk == DiskState::kConsistent || DataAccessible(state_, volume);
  });
}

}  // namespace umblock::drbd
