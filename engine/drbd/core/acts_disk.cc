// What an administrator may ask of volumes and their disks.
#include <algorithm>

#include "engine/drbd/core/quiesce.h"
#include "engine/drbd/core/resource_impl.h"
#include "engine/drbd/state/uuid_events.h"

namespace umblock::drbd {

Status ResourceImpl::AddVolume(const VolumeConfig& config) {
  UMBLOCK_TRY(Validate(config));
  if (volumes_.contains(config.number)) {
    return MakeError(ErrorCode::kAlreadyExists, "resource {} has a volume {} already", name(),
                     config.number);
  }
  for (auto& [node, link] : connections_) {
    if (!link->wanted()) continue;
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{} is {}; volumes are added while a resource is disconnected: disconnect it "
                     "first",
                     link->name(), ConnectionStateName(link->state().connection));
  }
  VolumeState fresh;
  fresh.number = config.number;
  auto at = std::find_if(state_.volumes.begin(), state_.volumes.end(),
                         [&](const VolumeState& v) { return v.number > config.number; });
  state_.volumes.insert(at, fresh);
  auto added = std::make_unique<Volume>(*this, config);
  for (auto& [node, link] : connections_) added->AddPeer(*link);
  volumes_.emplace(config.number, std::move(added));
  return Ok();
}

Task<Status> ResourceImpl::RemoveVolume(int number) {
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  Volume* of = volume(number);
  if (of == nullptr) co_return NotFoundVolume(number);
  if (of->disk() != nullptr) {
    co_return MakeError(ErrorCode::kFailedPrecondition, "{} is attached; detach it first",
                        of->name());
  }
  if (of->open()) {
    co_return MakeError(ErrorCode::kFailedPrecondition, "{} is open by {}; close it first",
                        of->name(), of->DescribeOpeners());
  }
  for (auto& [node, link] : connections_) {
    if (!link->wanted()) continue;
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "{} is {}; volumes are removed while a resource is disconnected: "
                        "disconnect it first",
                        link->name(), ConnectionStateName(link->state().connection));
  }
  // Those that are acknowledged are held, too, while no peer has said that it has them for good.
  if (HoldsWrites() && log_.Holds(of)) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "{} has writes that are held back until a peer is fenced or comes back; "
                        "connect the peer, or see to it that it is down and resume I/O of resource "
                        "{} first",
                        of->name(), name());
  }
  while (of->resizing != 0) co_await changed_.Wait();
  co_await of->WaitIdle();
  while (log_.Holds(of)) co_await changed_.WaitFor(100ms);
  for (auto& [node, device] : of->peers()) co_await device->tasks.Join();
  of->peers().clear();
  volumes_.erase(number);
  std::erase_if(state_.volumes, [number](const VolumeState& v) { return v.number == number; });
  co_return Ok();
}

// Both wait until nothing is under way, which what is held back would not let happen.
Status ResourceImpl::HeldBack(const Volume& of, std::string_view act) const {
  return MakeError(ErrorCode::kFailedPrecondition,
                   "{} cannot be {} while I/O of resource {} is suspended; resume it first",
                   of.name(), act, name());
}

// --- attach and detach
// -----------------------------------------------------------------------------

Task<Status> ResourceImpl::Attach(AttachRequest request) {
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  int number = request.volume;
  Volume* of = volume(number);
  if (of == nullptr) co_return NotFoundVolume(number);
  if (stopping_) co_return MakeError(ErrorCode::kUnavailable, "resource {} is stopping", name());
  if (suspended()) co_return HeldBack(*of, "attached");
  if (of->disk() != nullptr || of->state().disk != DiskState::kDiskless) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "{} has a disk already ({}); detach it first", of->name(),
                        DiskStateName(of->state().disk));
  }
  auto set_disk = [&](DiskState to, std::string_view reason) {
    return Change(reason, {.hard = true},
                  [number, to](ResourceState& next) { next.Volume(number)->disk = to; });
  };
  of->attach_unwanted = false;
  (void)set_disk(DiskState::kAttaching, "attach was asked for");
  Status opened = co_await of->OpenDisk(request);
  if (opened) opened = co_await FinishAttach(*of);
  if (!opened) {
    co_await of->CloseDisk(false);
    (void)set_disk(DiskState::kDiskless, opened.error().message());
  }
  co_return opened;
}

namespace {

// S23, for a disk that comes while the link stands: a connected Primary without a disk works on the
// generation of this one, so nothing is missing here, whatever fencing makes of a disk alone.
bool IsInUseByDisklessPrimary(ResourceImpl& resource, Volume& of) {
  return std::ranges::any_of(of.peers(), [&](const auto& entry) {
    const PeerDevice& device = *entry.second;
    return device.state().repl >= ReplicationState::kEstablished &&
           device.state().disk == DiskState::kDiskless &&
           resource.state().peer(entry.first).role == Role::kPrimary && device.uuids_known &&
           SameUuid(device.uuids.current, of.disk()->uuids().current());
  });
}

// Why a disk that was attached without asking a peer is not UpToDate.
std::string_view ReasonAfterAttach(DiskState disk, bool just_created) {
  if (just_created) return "the disk is new: nobody has said yet whose data counts";
  switch (disk) {
    case DiskState::kInconsistent:
      return "a resync of this disk was not finished";
    case DiskState::kOutdated:
      return "a peer has newer data";
    case DiskState::kConsistent:
      return "a peer may have newer data";
    default:
      return "attached";
  }
}

}  // namespace

// Nothing of the front is under way while the disk joins: a write that went to the peer only would
// be missing on it, and one admitted to it before its superblock says Primary would not be in the
// log that a crash leaves.
Task<Status> ResourceImpl::FinishAttach(Volume& of) {
  QuiesceGuard quiesced(of);
  co_await of.WaitIdle();
  co_await SettleGeneration(of);
  int number = of.number();
  Disk& disk = *of.disk();
  for (auto& [node, link] : connections_) {
    Result<uint32_t> slot = disk.AssignSlot(node);
    if (!slot) co_return std::unexpected(slot.error());
  }
  const meta::Superblock& sb = disk.superblock();
  if (of.unstored && SameUuid(of.unstored->current, disk.uuids().current())) {
    disk.uuids() = of.unstored->before;
    disk.ScheduleSuperblock();
  }
  of.unstored.reset();
  if (state_.role == Role::kPrimary && of.exposed_uuid != 0 &&
      !SameUuid(of.exposed_uuid, disk.uuids().current())) {
    bool peer_has_it = false;
    for (auto& [node, device] : of.peers()) {
      peer_has_it = peer_has_it || device->state().disk == DiskState::kUpToDate;
    }
    if (!peer_has_it) {
      co_return MakeError(
          ErrorCode::kFailedPrecondition,
          "{}: the disk has another data generation than the one in use, and no peer "
          "with current data is connected; connect the one that has it, or demote this node to go "
          "on with the data of this disk",
          of.name());
    }
    // Whatever it says of itself: what goes on is at the peer.
    disk.superblock().Set(meta::kMdWasUpToDate, false);
  }
  // A diskless Primary works on data that this disk does not have: its own disk, when it comes
  // back, has it. Until then this one is old.
  for (auto& [node, device] : of.peers()) {
    const PeerDeviceState& peer = device->state();
    if (peer.repl < ReplicationState::kEstablished || peer.disk >= DiskState::kNegotiating)
      continue;
    if (state_.peer(node).role != Role::kPrimary || !device->uuids_known) continue;
    if (IsZeroUuid(device->uuids.current)) continue;
    if (SameUuid(device->uuids.current, disk.uuids().current())) continue;
    disk.superblock().Set(meta::kMdWasUpToDate, false);
  }
  uint64_t effective = sb.effective_sectors;
  if (effective != 0) of.SetSize(effective);
  UMBLOCK_CO_TRY(co_await AgreeOnSize(of));
  of.UpdateGeometry();

  bool negotiate = false;
  for (auto& [node, device] : of.peers()) {
    negotiate = negotiate || (device->state().repl >= ReplicationState::kEstablished &&
                              device->state().disk >= DiskState::kInconsistent);
  }
  // A node that kept running as Primary without its disk has not crashed (7.2), unless nobody has
  // followed its writes since, or at any moment: then which of them are here and which at the peer
  // is as unknown as after a crash.
  const bool kept_running = state_.role == Role::kPrimary && of.exposed_uuid != 0;
  of.crashed_primary =
      sb.Has(meta::kMdCrashedPrimary) && (!kept_running || !negotiate || of.lost_sight);
  if (!negotiate) {
    RefreshFacts();
    const bool is_in_use = IsInUseByDisklessPrimary(*this, of);
    StateCheck check = Change("attached", {.hard = true}, [number, is_in_use](ResourceState& next) {
      VolumeState* volume = next.Volume(number);
      volume->disk = volume->disk_from_metadata;
      if (is_in_use && volume->disk == DiskState::kConsistent) volume->disk = DiskState::kUpToDate;
      for (int node = 0; node < kNodeIds; ++node) {
        PeerDeviceState& peer = volume->peer(node);
        if (volume->slots[static_cast<size_t>(node)].outdated &&
            peer.repl < ReplicationState::kEstablished) {
          peer.disk = DiskState::kOutdated;
        }
      }
    });
    if (!check) co_return Refused("attach a disk of", check.error());
    of.disk_reason = ReasonAfterAttach(of.state().disk, IsJustCreated(disk.uuids().current()));
    co_return co_await of.StoreMetaFlagsNow();
  }
  StateResult result = co_await transactions_.Run(
      {.proposal = ProposeAttach(number),
       .apply =
           [&](const TransactionCommit&) {
             (void)Change("attached", {.hard = true}, [number](ResourceState& next) {
               VolumeState* volume = next.Volume(number);
               volume->disk = DiskState::kNegotiating;
               volume->negotiation_pending = true;
               for (PeerDeviceState& peer : volume->peers) {
                 peer.negotiation_result = ReplicationState::kOff;
               }
             });
           },
       .check = nullptr,
       .retry = true});
  if (!Succeeded(result)) co_return Refused("attach a disk of", result);
  Time until = reactor_.Now() + 30s;
  while (of.state().disk == DiskState::kNegotiating && reactor_.Now() < until) {
    if (of.attach_unwanted) {
      co_return MakeError(ErrorCode::kAborted, "{}: the attach was ended by a forced detach",
                          of.name());
    }
    co_await changed_.WaitFor(until - reactor_.Now());
  }
  if (of.state().disk < DiskState::kInconsistent) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "{}: the data on this disk does not fit that of the connected peer: {}",
                        of.name(), of.disk_reason);
  }
  co_return co_await of.StoreMetaFlagsNow();
}

Task<Status> ResourceImpl::Detach(int number, bool force) {
  // Force does not stand in line behind an act that waits for this very disk.
  Volume* at_once = force ? volume(number) : nullptr;
  if (at_once != nullptr && at_once->state().disk > DiskState::kNegotiating) {
    FailDisk(*at_once, "detach was forced", false);
  } else if (at_once != nullptr) {
    at_once->attach_unwanted = true;
    changed_.NotifyAll();
  }
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  Volume* of = volume(number);
  if (of == nullptr) co_return NotFoundVolume(number);
  if (of->disk() == nullptr) co_return Ok();
  if (force || of->state().disk == DiskState::kFailed) {
    FailDisk(*of, "detach was forced", false);
    while (of->disk() != nullptr) co_await changed_.Wait();
    co_return Ok();
  }
  if (suspended()) co_return HeldBack(*of, "detached");
  if (of->open() && state_.role == Role::kPrimary) {
    bool elsewhere = false;
    for (auto& [node, device] : of->peers()) {
      elsewhere = elsewhere || (device->state().repl >= ReplicationState::kEstablished &&
                                device->state().disk == DiskState::kUpToDate);
    }
    if (!elsewhere) {
      co_return MakeError(ErrorCode::kFailedPrecondition,
                          "{} is open by {} and no peer has its data; close it first", of->name(),
                          of->DescribeOpeners());
    }
  }
  // A disk that fails meanwhile goes its own way.
  Edit edit = [number](ResourceState& next) {
    VolumeState* volume = next.Volume(number);
    if (volume->disk > DiskState::kFailed) volume->disk = DiskState::kDetaching;
  };
  QuiesceGuard quiesced(*of);
  co_await of->WaitIdle();
  StateResult result = co_await transactions_.Run(
      {.proposal = ProposeDetach(number),
       .apply = [&](const TransactionCommit&) { (void)Change("detach was asked for", {}, edit); },
       .check = [&] { return Check({}, edit); },
       .retry = true});
  if (Succeeded(result) && of->state().disk > DiskState::kFailed) {
    result = StateResult::kInterrupted;
  } else if (Succeeded(result) && of->state().disk != DiskState::kDetaching) {
    while (of->disk() != nullptr) co_await changed_.Wait();
  } else if (Succeeded(result)) {
    for (auto& [node, device] : of->peers()) {
      co_await device->target.Stop();
    }
    // What is left of this volume; others may go on writing.
    while (log_.Holds(of)) co_await changed_.WaitFor(100ms);
    bool primary = state_.role == Role::kPrimary;
    co_await of->disk()->WriteBitmap();
    meta::Superblock& sb = of->disk()->superblock();
    sb.Set(meta::kMdPrimaryInd, false);
    sb.Set(meta::kMdCrashedPrimary, of->crashed_primary);
    // Data that goes on elsewhere makes this copy old.
    if (primary || state_.connected_primaries() != 0) sb.Set(meta::kMdWasUpToDate, false);
    if (primary) {
      of->exposed_uuid = of->disk()->uuids().current();
      of->exposed_before = 0;
    }
    co_await of->disk()->WriteSuperblock();
    co_await of->CloseDisk(true);
    (void)Change("detach was asked for", {.hard = true}, [number](ResourceState& next) {
      next.Volume(number)->disk = DiskState::kDiskless;
    });
    if (primary) OweNewUuid(*of);
  }
  if (!Succeeded(result)) co_return Refused("detach a disk of", result);
  co_return Ok();
}

// --- data
// ------------------------------------------------------------------------------------------

namespace {

ReplicationState StateToInvalidate(bool remote, bool only_marked) {
  if (only_marked) return remote ? ReplicationState::kWFBitMapS : ReplicationState::kWFBitMapT;
  return remote ? ReplicationState::kStartingSyncS : ReplicationState::kStartingSyncT;
}

}  // namespace

Task<Status> ResourceImpl::Invalidate(int number, int node, bool remote, bool only_marked) {
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  Volume* of = volume(number);
  if (of == nullptr) co_return NotFoundVolume(number);
  Connection* link = connection(node);
  if (link == nullptr) co_return NotFoundPeer(node);
  if (only_marked && link->up() && link->agreed_protocol() < wire::kProtocolMarkedSync) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "{}: node {} speaks protocol {}, and a resync of marked blocks without a "
                        "handshake needs {}; disconnect and connect instead",
                        of->name(), node, link->agreed_protocol(), wire::kProtocolMarkedSync);
  }
  const ReplicationState repl = StateToInvalidate(remote, only_marked);
  const uint64_t session = link->session();
  Edit edit = [=](ResourceState& next) {
    VolumeState* volume = next.Volume(number);
    // The disk that will be overwritten is Outdated from here, Inconsistent when that begins.
    volume->peer(node).repl = repl;
  };
  StateRefusal refusal;
  StateResult result = co_await transactions_.Run(
      {.proposal = ProposeResync(node, number, repl),
       .apply =
           [&](const TransactionCommit&) { (void)Change("invalidate was asked for", {}, edit); },
       .check =
           [&] {
             StateCheck check = Check({}, edit);
             ReplicationState now = state_.Volume(number)->peer(node).repl;
             if (now > ReplicationState::kEstablished) {
               StateRefusal running;
               running.code = StateResult::kResyncRunning;
               check = std::unexpected(running);
             }
             if (!check) refusal = check.error();
             return check;
           },
       .retry = true});
  if (Succeeded(result) && only_marked) co_return co_await AwaitMarkedSync(*of, node, session);
  if (Succeeded(result)) co_return co_await AwaitFullSync(*of, node, remote);
  if (refusal.code == result) co_return Refused("invalidate data of", refusal);
  co_return Refused("invalidate data of", result);
}

// The resync has begun, or there was nothing to do. What is marked stays marked if the link breaks.
Task<Status> ResourceImpl::AwaitMarkedSync(Volume& of, int node, uint64_t session) {
  auto repl = [&] {
    PeerDevice* device = of.peer(node);
    return device == nullptr ? ReplicationState::kOff : device->state().repl;
  };
  auto waits = [&] {
    return repl() == ReplicationState::kWFBitMapS || repl() == ReplicationState::kWFBitMapT;
  };
  while (waits() && !stopping_) co_await changed_.WaitFor(100ms);
  Connection* link = connection(node);
  if (!waits() && repl() >= ReplicationState::kEstablished && link->session() == session) {
    co_return Ok();
  }
  co_return MakeError(
      ErrorCode::kUnavailable,
      "{}: the link to node {} was lost before the resync began; what is marked is "
      "resynced when it is connected and either node has written, or try again then",
      of.name(), node);
}

// An invalidation is accepted when a crash or a lost link cannot make it forgotten: the resync has
// begun, which both sides have written down, or this disk is Inconsistent without one.
Task<Status> ResourceImpl::AwaitFullSync(Volume& of, int node, bool remote) {
  const int number = of.number();
  const ReplicationState starting =
      remote ? ReplicationState::kStartingSyncS : ReplicationState::kStartingSyncT;
  auto repl = [&] {
    PeerDevice* device = of.peer(node);
    return device == nullptr ? ReplicationState::kOff : device->state().repl;
  };
  PeerDevice* peer = of.peer(node);
  const uint64_t session = peer == nullptr ? 0 : peer->connection().session();
  // The target says SyncTarget when it has written down that it is one.
  auto waits = [&] {
    if (!remote || repl() <= ReplicationState::kEstablished) return repl() == starting;
    const ReplicationState theirs = of.peer(node)->reported;
    return theirs != ReplicationState::kSyncTarget && theirs != ReplicationState::kPausedSyncT;
  };
  while (waits() && !stopping_) co_await changed_.WaitFor(100ms);
  if (waits()) {
    co_return MakeError(ErrorCode::kUnavailable, "resource {} is stopping", name());
  }
  if (repl() > ReplicationState::kEstablished) co_return Ok();
  if (remote) {
    // Over already, on the link that it began on.
    PeerDevice* device = of.peer(node);
    if (repl() == ReplicationState::kEstablished && device->connection().session() == session) {
      co_return Ok();
    }
    co_return MakeError(ErrorCode::kUnavailable,
                        "{}: the link to node {} was lost before its data was invalidated; try "
                        "again when it is connected",
                        of.name(), node);
  }
  if (of.disk() == nullptr) {
    co_return MakeError(ErrorCode::kUnavailable, "{} lost its disk before it was invalidated",
                        of.name());
  }
  // First of all: a link that is back meanwhile must not find a disk that looks current.
  StateCheck check = Change("invalidate was asked for", {.hard = true}, [=](ResourceState& next) {
    VolumeState* volume = next.Volume(number);
    if (volume->disk > DiskState::kInconsistent) volume->disk = DiskState::kInconsistent;
  });
  if (!check) co_return Refused("invalidate data of", check.error());
  meta::Bitmap& bitmap = of.disk()->bitmap();
  for (uint32_t slot = 0; slot < bitmap.max_peers(); ++slot) bitmap.SetAll(slot);
  of.CountLower(1);
  Status status = co_await of.StoreMetaFlagsNow();
  if (status && of.disk() != nullptr) status = co_await of.disk()->WriteBitmap();
  of.CountLower(-1);
  co_return status;
}

Task<Status> ResourceImpl::SetPause(int number, int node, bool paused) {
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  if (volume(number) == nullptr) co_return NotFoundVolume(number);
  if (connection(node) == nullptr) co_return NotFoundPeer(node);
  StateCheck check = Change(
      paused ? "pause-sync was asked for" : "resume-sync was asked for", {},
      [=](ResourceState& next) { next.Volume(number)->peer(node).resync_susp_user = paused; });
  if (!check) co_return Refused("pause the resync of", check.error());
  co_return Ok();
}

Task<Status> ResourceImpl::Outdate(int number) {
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  Volume* of = volume(number);
  if (of == nullptr) co_return NotFoundVolume(number);
  StateCheck check = Change("outdate was asked for", {}, [number](ResourceState& next) {
    next.Volume(number)->disk = DiskState::kOutdated;
  });
  if (!check) co_return Refused("outdate", check.error());
  co_return co_await of->StoreMetaFlagsNow();
}

Status ResourceImpl::MayBeginGeneration(const Volume& of, bool force) const {
  if (state_.role == Role::kPrimary) return Ok();
  if (state_.connected() != 0) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{}: this node is Secondary, and connected: generations are the Primary's to "
                     "begin; promote it, or disconnect it first",
                     of.name());
  }
  if (force) return Ok();
  return MakeError(ErrorCode::kFailedPrecondition,
                   "{}: this node is Secondary: it has changed nothing, and with a new generation "
                   "of its own it would be a split brain for a peer that has; promote it (a "
                   "generation begins with the first write), or use force",
                   of.name());
}

Task<Status> ResourceImpl::NewCurrentUuid(int number, bool clear_bitmap, bool force) {
  AsyncMutex::Lock lock = co_await acts_.Acquire();
  Volume* of = volume(number);
  if (of == nullptr) co_return NotFoundVolume(number);
  if (of->disk() == nullptr) {
    co_return MakeError(ErrorCode::kFailedPrecondition, "{} has no disk; attach one first",
                        of->name());
  }
  if (!clear_bitmap) {
    UMBLOCK_CO_TRY(MayBeginGeneration(*of, force));
    co_return co_await MakeNewUuid(*of, false);
  }
  for (auto& [node, device] : of->peers()) {
    ReplicationState repl = device->state().repl;
    if (device->connection().state().connected() && repl != ReplicationState::kEstablished) {
      co_return MakeError(ErrorCode::kFailedPrecondition,
                          "{}: the link to node {} is {}; wait until it is Established", of->name(),
                          node, ReplicationStateName(repl));
    }
  }
  if (!SkipInitialSync(of->disk()->uuids(), of->uuid_peers(), state_.role == Role::kPrimary,
                       log_.dagtag(), NewUuid(), NewUuid())) {
    co_return MakeError(
        ErrorCode::kFailedPrecondition,
        "{} has data already: only disks that never held any may be declared equal. "
        "To start over, create its metadata again",
        of->name());
  }
  co_await FinishSkip(of, true);
  co_return Ok();
}

}  // namespace umblock::drbd
