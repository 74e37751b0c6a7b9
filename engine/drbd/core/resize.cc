// The size of a volume: what nodes agree on when they meet, and resizes while they are connected
// (drbd-metadata-resync.md 9, drbd-wire.md 5.5, 5.8.6).
//
// A resize is one transaction: every node says how much room it has, the commit says the size, and
// each node makes it durable, with the bits of the new blocks, before it shows it and before it
// looks at what its peers send next. A crash in between leaves a node with the old size and room
// for the new one, which it takes over at the next handshake.
//
// New blocks are resynced at once, in a direction that both sides take from the transaction, and
// without an exchange of bitmaps. Until that resync has ended the slots of both say that it is
// owed: both disks may be of one generation, for which bits mean nothing otherwise.
#include <algorithm>

#include "engine/drbd/core/resource_impl.h"
#include "engine/drbd/state/disk_state.h"

namespace umblock::drbd {
namespace {

constexpr uint64_t kMostSectors = uint64_t{1} << 41;  // 1 PiB, as large as DRBD's volumes get

uint64_t Least(uint64_t a, uint64_t b) { return a == 0 ? b : b == 0 ? a : std::min(a, b); }

}  // namespace

// --- when nodes meet (9.1, 9.2)
// -----------------------------------------------------------------

uint64_t ResourceImpl::AgreedSectors(Volume& of) const {
  const Disk* disk = of.disk();
  uint64_t size = disk != nullptr ? disk->usable_sectors() : 0;
  uint64_t wanted = of.wanted_sectors();
  bool all_known = true;
  for (auto& [node, device] : of.peers()) {
    if (!device->sizes_known || !device->connection().up()) {
      all_known =
          all_known && !state_.Volume(of.number())->slots[static_cast<size_t>(node)].device_seen;
    }
    if (!device->sizes_known) continue;
    const wire::Sizes& theirs = device->sizes;
    const uint64_t can = disk != nullptr || theirs.c_size == 0 ? theirs.d_size : theirs.c_size;
    size = Least(size, can);
    wanted = Least(wanted, theirs.u_size);
  }
  // Who is away may have less room than it will be given.
  if (disk != nullptr && !all_known) size = Least(size, disk->superblock().effective_sectors);
  return wanted != 0 && wanted <= size ? wanted : size;
}

Task<Status> ResourceImpl::AgreeOnSize(Volume& of) {
  RefreshFacts();
  const uint64_t size = AgreedSectors(of);
  if (size == 0) co_return Ok();
  const uint64_t now = of.size_sectors();
  if (size < now && of.state().disk >= DiskState::kOutdated) {
    co_return MakeError(
        ErrorCode::kFailedPrecondition,
        "{} has {} bytes with data; the peer's is of {} only. Give it a backing device "
        "that is large enough, with new metadata",
        of.name(), now * 512, size * 512);
  }
  const Disk* disk = of.disk();
  const uint64_t had = disk != nullptr ? disk->superblock().effective_sectors : 0;
  if (had == 0 || size <= had) {
    of.SetSize(size);
    co_return Ok();
  }
  co_return co_await GrowWithPeers(of, size);
}

// All have more room than the volume takes: as a kernel, it grows. Or this node missed a resize.
Task<Status> ResourceImpl::GrowWithPeers(Volume& of, uint64_t sectors) {
  logger().Info("{}: all nodes have room for {} bytes", of.name(), sectors * 512);
  ++of.resizing;
  Status status = co_await of.AdoptSize(sectors, true);
  --of.resizing;
  changed_.NotifyAll();
  if (!status) co_return status;
  for (auto& [node, device] : of.peers()) {
    if (state_.peer(node).connected() && device->sizes.c_size != sectors) {
      device->connection().SendSizes(*device);
    }
  }
  co_return Ok();
}

// --- the act
// ---------------------------------------------------------------------------------------

bool ResourceImpl::resizing() const {
  return std::any_of(volumes_.begin(), volumes_.end(),
                     [](const auto& entry) { return entry.second->resizing != 0; });
}

uint64_t ResourceImpl::MaxPossibleSectors(int number) {
  Volume* of = volume(number);
  return of == nullptr || of->disk() == nullptr ? kMostSectors : of->disk()->usable_sectors();
}

Status ResourceImpl::MayHaveSize(Volume& of, const ResizeRequest& request) const {
  if (request.size % 4096 != 0 || request.size / 512 > kMostSectors) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "{}: the size {} is not a multiple of 4096, or beyond 1 PiB", of.name(),
                     request.size);
  }
  if (of.disk() == nullptr) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{} has no disk here; resize it on a node that has one", of.name());
  }
  const uint64_t now = of.size_sectors() * 512;
  const uint64_t room = of.disk()->usable_sectors() * 512;
  if (request.size > room) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{} cannot have {} bytes: {} has room for {}; make that larger first",
                     of.name(), request.size, of.disk()->backing().name(), room);
  }
  if (request.size == 0 || request.size >= now) return Ok();
  if (!request.shrink) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{} has {} bytes, and what is beyond {} would be lost; say so if it may be",
                     of.name(), now, request.size);
  }
  if (of.open()) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{} is open by {} and cannot become smaller; close it first", of.name(),
                     of.DescribeOpeners());
  }
  return Ok();
}

Status ResourceImpl::MayResize(Volume& of, const ResizeRequest& request) const {
  UMBLOCK_TRY(MayHaveSize(of, request));
  const VolumeState& volume = *state_.Volume(of.number());
  for (const auto& [node, link] : connections_) {
    const ReplicationState repl = volume.peer(node).repl;
    if (repl > ReplicationState::kEstablished) {
      return MakeError(ErrorCode::kFailedPrecondition,
                       "{} is {} with node {}; resize it when that is over", of.name(),
                       ReplicationStateName(repl), node);
    }
    const bool seen = volume.slots[static_cast<size_t>(node)].device_seen;
    if (!state_.peer(node).connected() && seen && !request.assume_peer_has_space) {
      return MakeError(ErrorCode::kFailedPrecondition,
                       "{} cannot be resized while node {} is away, which may have less room; "
                       "connect it, or say that it has the space",
                       of.name(), node);
    }
  }
  return Ok();
}

Status ResourceImpl::WhyNotResized(const Volume& of, const ResizeRequest& request,
                                   StateResult result) const {
  if (result != StateResult::kHandshakeDisconnect) return Refused("resize", result);
  return MakeError(ErrorCode::kFailedPrecondition,
                   "{} cannot have {} bytes: the least of all nodes has room for {}; make its "
                   "backing device larger first",
                   of.name(), request.size != 0 ? request.size : of.size_sectors() * 512,
                   transactions_.max_possible_size() * 512);
}

Task<Status> ResourceImpl::Resize(int number, ResizeRequest request) {
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  Volume* of = volume(number);
  if (of == nullptr) co_return NotFoundVolume(number);
  if (stopping_) co_return MakeError(ErrorCode::kUnavailable, "resource {} is stopping", name());
  if (suspended()) co_return HeldBack(*of, "resized");
  while (of->disk() != nullptr && of->disk()->following()) co_await changed_.Wait();
  RefreshFacts();
  UMBLOCK_CO_TRY(MayResize(*of, request));
  StateResult result = co_await transactions_.Run(
      {.proposal = {.target = kNoNode, .volume = number},
       .apply = [&](const TransactionCommit& commit) { BeginResize(*of, commit, true); },
       .check = [&]() -> StateCheck {
         StateRefusal refusal;
         refusal.code = StateResult::kResyncRunning;
         if (!MayResize(*of, request)) return std::unexpected(refusal);
         return {};
       },
       .retry = true,
       .resize = true,
       .user_size = request.size / 512,
       .dds_flags = static_cast<uint16_t>((request.assume_peer_has_space ? 1 : 0) |
                                          (request.assume_clean ? 2 : 0)),
       .least_size = request.size != 0 ? request.size / 512 : of->size_sectors()});
  if (!Succeeded(result)) co_return WhyNotResized(*of, request, result);
  while (of->resizing != 0) co_await changed_.Wait();
  if (of->disk() == nullptr || of->disk()->superblock().effective_sectors != of->size_sectors()) {
    co_return MakeError(ErrorCode::kUnavailable,
                        "{}: the new size was agreed on, but the disk failed before it was stored",
                        of->name());
  }
  co_return Ok();
}

// --- what a peer proposes
// --------------------------------------------------------------------------

StateResult ResourceImpl::CheckResize(const Transaction& transaction) {
  Volume* of = volume(transaction.proposal.volume);
  if (of == nullptr) return StateResult::kSuccess;  // of no concern here
  if (of->resizing != 0 || (of->disk() != nullptr && of->disk()->following())) {
    return StateResult::kInTransientState;
  }
  for (auto& [node, device] : of->peers()) {
    if (device->state().repl > ReplicationState::kEstablished) return StateResult::kResyncRunning;
  }
  const uint64_t size = transaction.user_size;
  if (size > kMostSectors) return StateResult::kNotSupported;
  if (size != 0 && size < of->size_sectors() && of->open()) return StateResult::kDeviceInUse;
  return StateResult::kSuccess;
}

void ResourceImpl::BeginResize(Volume& of, const TransactionCommit& commit, bool initiator) {
  const uint64_t user = commit.transaction.user_size;
  const bool explicit_size = user != 0 && commit.exposed_size == user;
  if (commit.exposed_size == 0 || commit.exposed_size > MaxPossibleSectors(of.number()) ||
      (commit.exposed_size < of.size_sectors() && !explicit_size)) {
    const std::string why = fmt::format(
        "{}: committed to {} sectors, which this node has not said "
        "it can be",
        of.name(), commit.exposed_size);
    logger().Error("{}", why);
    Connection* link = connection(commit.transaction.id.initiator);
    if (link != nullptr) link->Fail(ConnectionState::kProtocolError, why);
    return;
  }
  of.set_wanted_sectors(user);
  // They send no sizes of their own for this: what they said when they connected is over. A disk
  // that is attached later is measured by it.
  for (auto& [node, device] : of.peers()) {
    if (!device->sizes_known || !state_.peer(node).connected()) continue;
    wire::Sizes& theirs = device->sizes;
    if (theirs.d_size != 0) theirs.d_size = std::max(theirs.d_size, commit.exposed_size);
    theirs.c_size = commit.exposed_size;
    theirs.u_size = user;
  }
  ++of.resizing;
  tasks_.Spawn(RunResize(&of, commit, initiator));
}

Task<void> ResourceImpl::RunResize(Volume* of, TransactionCommit commit, bool initiator) {
  const bool clean = (commit.transaction.dds_flags & wire::kDdsNoResync) != 0;
  const bool grows = commit.exposed_size > of->size_sectors();
  Status status = co_await of->AdoptSize(commit.exposed_size, !clean);
  if (!status) logger().Error("{}: {}", of->name(), status.error().message());
  if (status && grows && !clean) {
    for (auto it = of->peers().begin(); it != of->peers().end();) {
      const int node = it->first;
      co_await SyncNewBlocks(*it->second, commit, initiator);
      it = of->peers().upper_bound(node);
    }
  }
  --of->resizing;
  changed_.NotifyAll();
}

// --- the resync of what is new (9.4)
// ---------------------------------------------------------------

Task<void> ResourceImpl::SyncNewBlocks(PeerDevice& device, const TransactionCommit& commit,
                                       bool initiator) {
  Volume& of = device.volume();
  const int number = of.number();
  const int node = device.node();
  const PeerDeviceState& peer = device.state();
  if (of.disk() == nullptr || of.state().disk < DiskState::kInconsistent ||
      peer.disk < DiskState::kInconsistent || peer.disk == DiskState::kUnknown ||
      peer.repl != ReplicationState::kEstablished) {
    co_return;
  }
  const bool primary = Contains(commit.primary_nodes, own_node());
  const bool peer_primary = Contains(commit.primary_nodes, node);
  if (commit.primary_nodes != 0 && !primary && !peer_primary) co_return;
  bool source = primary;
  if (primary == peer_primary) source = own_node() < node;
  if (commit.primary_nodes == 0) source = initiator;
  if (!source) {
    co_await StartTarget(&device, device.connection().session(), ReplicationState::kEstablished);
    co_return;
  }
  (void)Change("the volume has grown", {.hard = true}, [=](ResourceState& next) {
    next.Volume(number)->peer(node).repl = ReplicationState::kSyncSource;
  });
}

// A resync that a new size owes and that has not been, because a link or a node was lost, or
// because the size came with a handshake: it is proposed, with the bitmaps of both.
void ResourceImpl::StartOwedSync(PeerDevice& device) {
  Volume& of = device.volume();
  if (of.disk() == nullptr || !of.disk()->SyncIsOwed(device.node()) || of.resizing != 0) return;
  if (device.out_of_sync_bits() == 0) {
    of.disk()->SyncIsDone(device.node());
    return;
  }
  if (device.starting_owed || stopping_) return;
  device.starting_owed = true;
  device.tasks.Spawn(RunOwedSync(&device, device.connection().session()));
}

Task<void> ResourceImpl::RunOwedSync(PeerDevice* device, uint64_t session) {
  const int node = device->node();
  const int number = device->volume_number();
  Volume& of = device->volume();
  auto due = [&] {
    return !stopping_ && of.disk() != nullptr && device->connection().up() &&
           device->connection().session() == session && of.disk()->SyncIsOwed(node) &&
           device->state().repl == ReplicationState::kEstablished;
  };
  co_await reactor_.Yield();
  while (due()) {
    const bool primary = state_.role == Role::kPrimary;
    const bool peer_primary = state_.peer(node).role == Role::kPrimary;
    const bool source = primary == peer_primary ? own_node() < node : primary;
    const ReplicationState repl =
        source ? ReplicationState::kWFBitMapS : ReplicationState::kWFBitMapT;
    Edit edit = [=](ResourceState& next) { next.Volume(number)->peer(node).repl = repl; };
    const bool ready =
        of.state().disk >= DiskState::kOutdated && of.state().disk != DiskState::kUnknown &&
        device->state().disk >= DiskState::kOutdated && device->state().disk != DiskState::kUnknown;
    if (ready) {
      (void)co_await transactions_.Run({.proposal = ProposeResync(node, number, repl),
                                        .apply =
                                            [&](const TransactionCommit&) {
                                              if (due())
                                                (void)Change("the volume has grown", {.hard = true},
                                                             edit);
                                            },
                                        .check = [&] { return Check({}, edit); },
                                        .retry = true});
    }
    if (due()) co_await changed_.WaitFor(1s);
  }
  device->starting_owed = false;
}

}  // namespace umblock::drbd
