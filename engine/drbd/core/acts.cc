// What an administrator may ask of a resource: roles and connections. Disks: acts_disk.cc.
#include <algorithm>

#include "engine/drbd/core/quiesce.h"
#include "engine/drbd/core/resource_impl.h"
#include "engine/drbd/state/membership.h"
#include "engine/drbd/state/refusal.h"

namespace umblock::drbd {

Status ResourceImpl::Refused(std::string_view act, const StateRefusal& refusal) const {
  return std::unexpected(RefusalError(act, name(), refusal, state_));
}

Status ResourceImpl::Refused(std::string_view act, StateResult result) const {
  StateRefusal refusal;
  refusal.code = result;
  if (result == StateResult::kCwFailedByPeer && transactions_.refused_by() != kNoNode) {
    refusal.detail = fmt::format("node {} declined; its log says why", transactions_.refused_by());
  }
  return Refused(act, refusal);
}

Status ResourceImpl::NotFoundVolume(int number) const {
  return MakeError(ErrorCode::kNotFound, "resource {} has no volume {}", name(), number);
}

Status ResourceImpl::NotFoundPeer(int node) const {
  return MakeError(ErrorCode::kNotFound, "resource {} has no peer with node id {}", name(), node);
}

std::string ResourceImpl::DescribeAllOpeners() const {
  std::string text;
  for (const auto& [number, of] : volumes_) {
    if (!of->open()) continue;
    if (!text.empty()) text += "; ";
    text += fmt::format("{} is open by {}", of->name(), of->DescribeOpeners());
  }
  return text;
}

// --- peers
// -----------------------------------------------------------------------------------------

Status ResourceImpl::AddPeer(const PeerConfig& config) {
  UMBLOCK_TRY(Validate(config));
  if (config.node_id == own_node()) {
    return MakeError(ErrorCode::kInvalidArgument, "resource {}: node id {} is this node's own",
                     name(), config.node_id);
  }
  if (connections_.contains(config.node_id)) {
    return MakeError(ErrorCode::kAlreadyExists, "resource {} has a peer with node id {} already",
                     name(), config.node_id);
  }
  auto link = std::make_unique<Connection>(*this, config);
  for (auto& [number, of] : volumes_) {
    if (of->disk() == nullptr) continue;
    Result<uint32_t> slot = of->disk()->AssignSlot(config.node_id);
    if (!slot) return std::unexpected(slot.error());
    of->disk()->ScheduleSuperblock();
  }
  PeerState& peer = state_.peer(config.node_id);
  peer = {};
  peer.configured = true;
  for (auto& [number, of] : volumes_) {
    state_.Volume(number)->peer(config.node_id) = {};
    of->AddPeer(*link);
  }
  connections_.emplace(config.node_id, std::move(link));
  return Ok();
}

// Force does not stand in line behind an act that waits for this very peer.
void ResourceImpl::ForceDown(int node) {
  Connection* link = connection(node);
  if (link != nullptr) link->Fail(ConnectionState::kDisconnecting, "disconnect was forced");
}

Task<Status> ResourceImpl::RemovePeer(int node, bool force) {
  if (force) ForceDown(node);
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  Connection* link = connection(node);
  if (link == nullptr) co_return NotFoundPeer(node);
  if (link->wanted() && !force) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "{} is {}; disconnect it first, or use force", link->name(),
                        ConnectionStateName(link->state().connection));
  }
  co_await link->Stop();
  UMBLOCK_CO_TRY(co_await ReleaseHeldWrites(node));
  for (auto& [number, of] : volumes_) {
    co_await of->peer(node)->tasks.Join();
    of->RemovePeer(node);
    state_.Volume(number)->peer(node) = {};
  }
  connections_.erase(node);
  state_.peer(node) = {};
  NoteContact(node);
  co_return Ok();
}

Task<Status> ResourceImpl::Connect(int node, ConnectOptions options) {
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  Connection* link = connection(node);
  if (link == nullptr) co_return NotFoundPeer(node);
  if (stopping_) co_return MakeError(ErrorCode::kUnavailable, "resource {} is stopping", name());
  co_return co_await link->Start(options);
}

Task<Status> ResourceImpl::Disconnect(int node, bool force) {
  if (force) ForceDown(node);
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  Connection* link = connection(node);
  if (link == nullptr) co_return NotFoundPeer(node);
  if (!force && link->state().connected()) {
    // What is stable at the peer need not be sent again: a moment for the last barrier.
    CloseEpoch();
    ScheduleProgress();
    Time until = reactor_.Now() + 1s;
    while (!link->barriers_settled() && link->up() && reactor_.Now() < until) {
      co_await changed_.WaitFor(until - reactor_.Now());
    }
    DisconnectFacts facts;
    facts.fencing = link->state().fencing != FencingPolicy::kDontCare;
    facts.quorum = state_.quorum.enabled();
    facts.own_role = state_.role;
    facts.peer_role = link->state().role;
    OutdateOnDisconnect outdate = WhoIsOutdated(facts);
    Edit edit = [node, &outdate](ResourceState& next) {
      next.peer(node).connection = ConnectionState::kDisconnecting;
      for (VolumeState& volume : next.volumes) {
        if (outdate == OutdateOnDisconnect::kSelf) volume.disk = DiskState::kOutdated;
        if (outdate == OutdateOnDisconnect::kPeer) volume.peer(node).disk = DiskState::kOutdated;
      }
    };
    ChangeOptions options{.ignore_failed_outdate = true};
    NodeMask primaries = 0;
    auto propose = [&] {
      return transactions_.Run({.proposal = ProposeDisconnect(node, outdate),
                                .apply =
                                    [&](const TransactionCommit& commit) {
                                      primaries = commit.primary_nodes;
                                      (void)Change("disconnect was asked for", options, edit);
                                    },
                                .check = [&] { return Check(options, edit); },
                                .retry = true});
    };
    StateResult result = co_await propose();
    if (result == StateResult::kCwFailedByPeer && outdate == OutdateOnDisconnect::kNobody &&
        facts.own_role == Role::kSecondary && facts.peer_role == Role::kPrimary) {
      // The Primary probably wants to see this node outdated.
      outdate = OutdateOnDisconnect::kSelf;
      result = co_await propose();
    }
    if (!Succeeded(result) && link->state().connected()) {
      co_return Refused("disconnect", result);
    }
    // The commit must have left before the sockets are closed.
    co_await link->FlushSends();
    co_await link->AwaitPeerClose();
    co_await link->Stop();
    if (MustOutdateAtCommit(own_node(), primaries, state_.connected(), false)) {
      (void)Change("a Primary exists that is not connected to this node", {.hard = true},
                   [](ResourceState& next) {
                     for (VolumeState& volume : next.volumes) {
                       if (volume.disk > DiskState::kOutdated) volume.disk = DiskState::kOutdated;
                     }
                   });
    }
    co_return Ok();
  }
  co_await link->Stop();
  co_return Ok();
}

// --- roles
// -----------------------------------------------------------------------------------------

// Every connected peer has answered a ping: those that are dead are known to be.
Task<bool> ResourceImpl::PingAll() {
  bool all = true;
  std::vector<int> nodes;
  for (auto& [node, link] : connections_) {
    if (link->state().connected()) nodes.push_back(node);
  }
  for (int node : nodes) {
    Connection* link = connection(node);
    if (link != nullptr && !co_await link->PingRoundTrip()) all = false;
  }
  co_return all;
}

// No volume is in between: a disk that is only Consistent, a link that is being cleaned up.
Task<void> ResourceImpl::WaitSettled(Duration timeout) {
  Time until = reactor_.Now() + timeout;
  while (reactor_.Now() < until) {
    bool settled = !probing_;
    for (const VolumeState& volume : state_.volumes) {
      if (volume.disk == DiskState::kConsistent || volume.disk == DiskState::kNegotiating) {
        settled = false;
      }
    }
    for (auto& [node, link] : connections_) {
      ConnectionState now = link->state().connection;
      if (now >= ConnectionState::kTimeout && now <= ConnectionState::kTearDown) settled = false;
    }
    if (settled) co_return;
    co_await changed_.WaitFor(until - reactor_.Now());
  }
}

Task<Status> ResourceImpl::StoreAll() {
  for (auto& [number, of] : volumes_) {
    if (of->disk() == nullptr) continue;
    of->CountLower(1);
    Status status = co_await of->StoreMetaFlagsNow();
    of->CountLower(-1);
    if (!status) co_return status;
  }
  co_return Ok();
}

// What force means: where no good data is in reach the own disk counts as such. Gives the volumes
// for which it does now.
std::vector<int> ResourceImpl::TakeLocalData(ResourceState& next) const {
  std::vector<int> taken;
  for (VolumeState& volume : next.volumes) {
    if (DataAccessible(state_, *state_.Volume(volume.number))) continue;
    if (volume.disk < DiskState::kInconsistent || volume.disk >= DiskState::kUpToDate) continue;
    volume.disk = DiskState::kUpToDate;
    taken.push_back(volume.number);
  }
  return taken;
}

void ResourceImpl::TakePeersForOutdated(ResourceState& next) const {
  for (VolumeState& volume : next.volumes) {
    for (const auto& [node, link] : connections_) {
      DiskState& disk = volume.peer(node).disk;
      if (disk == DiskState::kUnknown) disk = DiskState::kOutdated;
    }
  }
}

// It is a generation of its own, of which connected peers are made copies.
Task<Status> ResourceImpl::BeginForcedGenerations(std::vector<int> taken) {
  for (int number : taken) {
    Volume* of = volume(number);
    if (of == nullptr || of->state().disk != DiskState::kUpToDate) continue;
    UMBLOCK_CO_TRY(co_await MakeNewUuid(*of, true));
    of->state().owes_new_uuid = of->owes_for_writes = false;
    for (auto& [node, device] : of->peers()) {
      if (device->state().repl < ReplicationState::kEstablished) continue;
      device->consider_resync = true;
      device->connection().SendState(*device);
    }
  }
  Readmit();
  co_return Ok();
}

// A Primary that has lost sight of good data.
Task<Status> ResourceImpl::ForceLocalData() {
  std::vector<int> taken;
  (void)Change("promote --force was asked for", {.hard = true},
               [&](ResourceState& next) { taken = TakeLocalData(next); });
  UMBLOCK_CO_TRY(co_await StoreAll());
  UMBLOCK_CO_TRY(co_await BeginForcedGenerations(std::move(taken)));
  for (const VolumeState& volume : state_.volumes) {
    if (DataAccessible(state_, volume)) continue;
    co_return MakeError(
        ErrorCode::kFailedPrecondition,
        "volume {}/{} has no disk that could be taken for current ({}); attach one, "
        "or connect a peer that has the data",
        name(), volume.number, DiskStateName(volume.disk));
  }
  co_return Ok();
}

Task<Status> ResourceImpl::Promote(bool force) {
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  if (stopping_) co_return MakeError(ErrorCode::kUnavailable, "resource {} is stopping", name());
  if (state_.role == Role::kPrimary) {
    if (force) co_return co_await ForceLocalData();
    co_return Ok();
  }
  bool treat_local = false;
  bool treat_peers = false;  // those of which nothing is known as Outdated
  bool fenced = false;
  bool waited_for_primary = false;
  Duration ping_timeout = 500ms;
  for (auto& [node, link] : connections_) {
    ping_timeout = std::max(ping_timeout, link->config().net.ping_timeout);
  }
  std::vector<int> taken;
  Edit edit = [&](ResourceState& next) {
    next.role = Role::kPrimary;
    if (treat_local) taken = TakeLocalData(next);
    if (treat_peers) TakePeersForOutdated(next);
  };
  StateResult result = StateResult::kUnknownError;
  StateRefusal refusal;
  for (int attempt = 0, collisions = 0; attempt < 4;) {
    co_await PingAll();
    co_await WaitSettled(2s + ping_timeout);
    // The superblock says Primary before the first write: a crash would else leave an activity log
    // that nobody applies.
    QuiesceGuard quiesced(volumes_);
    refusal = {};
    result = co_await transactions_.Run(
        {.proposal = ProposePromote(treat_local),
         .apply =
             [&](const TransactionCommit&) { (void)Change("promote was asked for", {}, edit); },
         .check =
             [&] {
               StateCheck check = Check({}, edit);
               if (!check) refusal = check.error();
               return check;
             },
         .retry = false});
    if (Succeeded(result) && state_.role != Role::kPrimary) result = StateResult::kInterrupted;
    Status stored = Ok();
    if (Succeeded(result)) stored = co_await StoreAll();
    quiesced.Release();
    if (!stored) {
      (void)Change("the superblock could not be written", {.hard = true, .ignore_openers = true},
                   [](ResourceState& next) { next.role = Role::kSecondary; });
      co_return stored;
    }
    if (Succeeded(result)) break;
    if ((result == StateResult::kConcurrentStateChange || result == StateResult::kTimeout ||
         result == StateResult::kInTransientState) &&
        ++collisions < 20) {
      co_await Sleep(reactor_, std::chrono::milliseconds(50 + reactor_.Random64() % 200));
      continue;
    }
    ++attempt;
    if (result == StateResult::kNoUpToDateDisk && force && !treat_local) {
      treat_local = true;
      continue;
    }
    if (result == StateResult::kNoUpToDateDisk && !treat_local && ConsistentIsBest()) {
      treat_local = co_await FenceUnknownPeers();
      if (treat_local) continue;
    }
    if (result == StateResult::kPrimaryNop && force && treat_local && !treat_peers) {
      treat_peers = true;
      continue;
    }
    if (result == StateResult::kPrimaryNop && !fenced) {
      fenced = true;
      const bool all = co_await FenceUnknownPeers();
      if (!all && force) {
        logger().Warn(
            "resource {}: promoted by force while a peer is not fenced: a split brain if "
            "it goes on too",
            name());
        treat_local = true;
      }
      if (all || force) continue;
    }
    if (result == StateResult::kTwoPrimaries && !waited_for_primary) {
      waited_for_primary = true;
      co_await Sleep(reactor_, ping_timeout);
      continue;
    }
    break;
  }
  if (!Succeeded(result)) {
    if (refusal.code == result) co_return Refused("promote", refusal);
    co_return Refused("promote", result);
  }
  co_return co_await BeginForcedGenerations(std::move(taken));
}

// Everything that was sent has been acknowledged as stable (drbd-io-path.md A.12, demotion).
Task<void> ResourceImpl::DrainWrites() {
  for (auto& [number, of] : volumes_) {
    if (!suspended()) co_await of->WaitIdle();
  }
  CloseEpoch();
  ScheduleProgress();
  while (!log_.empty() && !suspended()) co_await changed_.WaitFor(100ms);
  peer_acks_.Flush();
}

// One attempt. Nothing of the front is held back when it has ended.
Task<StateCheck> ResourceImpl::TryDemote(const ChangeOptions& options, const Edit& edit) {
  StateCheck check = Check(options, edit);
  if (!check) co_return check;
  QuiesceGuard quiesced(volumes_);
  co_await DrainWrites();
  for (auto& [number, of] : volumes_) co_await SettleGeneration(*of);
  StateResult result = co_await transactions_.Run(
      {.proposal = ProposeDemote(),
       .apply =
           [&](const TransactionCommit&) { (void)Change("demote was asked for", options, edit); },
       .check = [&] { return check = Check(options, edit); },
       .retry = true});
  // Opened, say, between the check and the commit.
  if (Succeeded(result) && state_.role == Role::kPrimary) result = StateResult::kInterrupted;
  if (!Succeeded(result)) {
    if (!check && check.error().code == result) co_return check;
    co_return std::unexpected(StateRefusal{.code = result, .detail = {}});
  }
  for (auto& [number, of] : volumes_) {
    if (of->disk() == nullptr) continue;
    of->CountLower(1);
    co_await of->disk()->WriteBitmap();
    co_await of->StoreMetaFlagsNow();
    of->CountLower(-1);
  }
  co_return StateCheck();
}

Task<Status> ResourceImpl::Demote(bool force) {
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  if (state_.role != Role::kPrimary) co_return Ok();
  if (HoldsWrites()) {
    co_return MakeError(
        ErrorCode::kFailedPrecondition,
        "resource {} holds writes back until its peer is fenced or comes back; "
        "connect the peer, or see to it that it is down and resume I/O, then demote",
        name());
  }
  ChangeOptions options{.ignore_openers = force};
  Edit edit = [](ResourceState& next) { next.role = Role::kSecondary; };
  const Time until = reactor_.Now() + config_.options.twopc_timeout;
  StateCheck check = co_await TryDemote(options, edit);
  // A link that is refused each second is in between most of the time, and to demote may be the way
  // out.
  while (!check && check.error().code == StateResult::kInTransientState && !stopping_ &&
         reactor_.Now() < until) {
    co_await changed_.WaitFor(20ms);
    check = co_await TryDemote(options, edit);
  }
  if (check) co_return Ok();
  StateRefusal refusal = check.error();
  if (refusal.code == StateResult::kDeviceInUse) refusal.detail = DescribeAllOpeners();
  co_return refusal.detail.empty() ? Refused("demote", refusal.code) : Refused("demote", refusal);
}

Task<Status> ResourceImpl::SetSuspended(bool suspend) {
  // Not behind an act that waits for I/O that is held: to resume is what ends that wait.
  AsyncMutex::Lock lock;
  if (suspend) lock = co_await acts_.Acquire();
  StateCheck check = Change(suspend ? "suspend-io was asked for" : "resume-io was asked for", {},
                            [suspend](ResourceState& next) {
                              next.susp_user = suspend;
                              if (suspend) return;
                              next.susp_nod = false;
                              for (PeerState& peer : next.peers) peer.susp_fen = false;
                            });
  if (!check) co_return Refused(suspend ? "suspend I/O of" : "resume I/O of", check.error());
  if (suspend) {
    // What is under way ends; nothing new begins.
    while (!log_.empty() && suspended() && !HoldsWrites()) co_await changed_.WaitFor(100ms);
  }
  co_return Ok();
}

void ResourceImpl::FailHeldIo() {
  if (!suspended()) return;
  for (auto& [number, of] : volumes_) of->FailHeldIo();
  for (auto& [node, link] : connections_) {
    if (link->holds()) link->SettleHeldWrites();
  }
}

}  // namespace umblock::drbd
