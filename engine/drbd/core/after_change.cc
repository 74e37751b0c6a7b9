// What a committed change of state entails (drbd-states.md 2.6, 2.7).
#include "engine/drbd/core/resource_impl.h"
#include "engine/drbd/state/uuid_events.h"
#include "engine/drbd/state/write_routing.h"

namespace umblock::drbd {
namespace {

bool IsSyncing(ReplicationState repl) {
  return repl == ReplicationState::kSyncSource || repl == ReplicationState::kSyncTarget ||
         repl == ReplicationState::kPausedSyncS || repl == ReplicationState::kPausedSyncT;
}
bool IsTarget(ReplicationState repl) {
  return repl == ReplicationState::kSyncTarget || repl == ReplicationState::kPausedSyncT;
}
bool IsEstablished(ReplicationState repl) { return repl >= ReplicationState::kEstablished; }

// Contact to a peer's data was lost (2.6.1 point 2).
bool LostData(DiskState before, DiskState now) {
  bool had = before == DiskState::kInconsistent || before >= DiskState::kConsistent;
  bool has_not =
      now < DiskState::kInconsistent || now == DiskState::kUnknown || now == DiskState::kOutdated;
  return had && has_not;
}

}  // namespace

bool ResourceImpl::RoutesDiffer(const ResourceState& before) const {
  for (const VolumeState& now : state_.volumes) {
    const VolumeState* old = before.Volume(now.number);
    if (old == nullptr) continue;
    for (const auto& [node, connection] : connections_) {
      const PeerDeviceState& a = old->peer(node);
      const PeerDeviceState& b = now.peer(node);
      if (RouteWrite(a.disk, a.repl, a.replication) != RouteWrite(b.disk, b.repl, b.replication)) {
        return true;
      }
    }
  }
  return false;
}

void ResourceImpl::AfterChange(const ResourceState& before, std::string_view reason) {
  // INV-16: an epoch is of one kind towards each peer.
  if (RoutesDiffer(before)) CloseEpoch();
  SettleHeldWrites(before);
  bool role_changed = before.role != state_.role;
  bool was_stable = before.role == Role::kPrimary || before.connected_primaries() == 0;
  bool became_primary = role_changed && state_.role == Role::kPrimary;
  bool demoted = role_changed && before.role == Role::kPrimary;

  for (VolumeState& now : state_.volumes) {
    const VolumeState* old = before.Volume(now.number);
    Volume* of = volume(now.number);
    if (of == nullptr || old == nullptr) continue;
    if (became_primary) now.owes_new_uuid = true;
    if (role_changed) of->owes_for_writes = false;
    if (demoted) {
      now.owes_new_uuid = false;
      if (of->disk() != nullptr) of->disk()->uuids().ClearPrimaryFlag();
    }
    for (auto& [node, device] : of->peers()) {
      const PeerDeviceState& was = old->peer(node);
      const PeerDeviceState& is = now.peer(node);
      bool primary = state_.role == Role::kPrimary && !became_primary;
      // A write failed there: what this node has from now on is another generation, at once, or the
      // disk would be taken for equal when it comes back (2.6.1).
      bool failed_there = was.disk == DiskState::kUpToDate &&
                          is.repl == ReplicationState::kEstablished &&
                          (is.disk == DiskState::kFailed || is.disk == DiskState::kInconsistent);
      if (primary && (failed_there || LostData(was.disk, is.disk)) && DataAccessible(state_, now)) {
        // A disk in the middle of becoming current has its bits, and its name is another one.
        if (was.disk == DiskState::kUpToDate) device->misses_writes = true;
        OweNewUuid(*of);
        if (failed_there && !state_.suspended()) StartOwedUuid(*of);
      }
      if (old->disk != DiskState::kUpToDate || old->peer(node).disk != DiskState::kUpToDate) {
        if (now.disk == DiskState::kUpToDate && now.peer(node).disk == DiskState::kUpToDate) {
          of->crashed_primary = false;
          of->lost_sight = false;
        }
      }
    }
    if (state_.role == Role::kPrimary && now.disk < DiskState::kInconsistent &&
        !DataAccessible(state_, now)) {
      of->lost_sight = true;
    }
    if (now.disk == DiskState::kUpToDate && old->disk < DiskState::kConsistent &&
        of->disk() != nullptr) {
      of->exposed_uuid = of->disk()->uuids().current();
      of->exposed_before = 0;
      // Peers may have been lost, and a new generation been out of reach, while it was away.
      if (state_.role == Role::kPrimary && old->disk < DiskState::kInconsistent) {
        OweNewUuid(*of);
        if (!state_.suspended()) StartOwedUuid(*of);
      }
    }
    of->StoreMetaFlags();
  }
  if (demoted) {
    peer_acks_.Flush();
    for (auto& [node, connection] : connections_) {
      if (connection->state().connected()) connection->SendRoleNotice();
    }
  }

  bool now_stable = stable();
  for (VolumeState& now : state_.volumes) {
    const VolumeState* old = before.Volume(now.number);
    Volume* of = volume(now.number);
    if (of == nullptr || old == nullptr) continue;
    for (auto& [node, device] : of->peers()) {
      if (!state_.peer(node).connected()) continue;
      AnnouncePosition(*old, now, *device);
      // Others judge by the STABLE flag whose data may be trusted (2.7); a Primary that has just
      // connected too: what the handshake said of this node held before it.
      if (was_stable != now_stable && now.disk >= DiskState::kInconsistent) {
        bool got_stable = now_stable && before.peer(node).connected() &&
                          now.disk >= DiskState::kOutdated &&
                          before.peer(node).role != Role::kPrimary;
        device->connection().SendUuids(*device, got_stable ? wire::kUuidFlagGotStable : 0);
      }
    }
  }
  for (VolumeState& now : state_.volumes) {
    if (before.Volume(now.number) == nullptr || volume(now.number) == nullptr) continue;
    for (auto& [node, connection] : connections_) {
      AfterPeerDeviceChange(before, now, node, reason);
    }
  }
  for (auto& [number, of] : volumes_) {
    const VolumeState* old = before.Volume(number);
    if (old == nullptr) continue;
    of->UpdateGeometry();
    if (role_changed || old->disk != of->state().disk || before.fail_io != state_.fail_io ||
        DataAccessible(before, *old) != DataAccessible(state_, of->state())) {
      of->NotifyChanged();
    }
  }
  CallHandlersFor(before);
  if (!before.susp_uuid && state_.susp_uuid) tasks_.Spawn(RunSuspendedUuids());
  if (before.suspended() && !state_.suspended()) ScheduleProgress();
  Readmit();
}

// Replication towards the peer begins: it must know where in our stream (drbd-wire.md 5.10.8).
void ResourceImpl::AnnouncePosition(const VolumeState& old, const VolumeState& now,
                                    PeerDevice& device) {
  const PeerDeviceState& was = old.peer(device.node());
  const PeerDeviceState& is = now.peer(device.node());
  if (RouteWrite(is.disk, is.repl, is.replication) == WriteRoute::kData &&
      RouteWrite(was.disk, was.repl, was.replication) != WriteRoute::kData) {
    device.connection().SendDagtag(log_.dagtag());
  }
}

void ResourceImpl::AfterPeerDeviceChange(const ResourceState& before, VolumeState& now, int node,
                                         std::string_view reason) {
  (void)reason;
  const VolumeState& old = *before.Volume(now.number);
  const PeerDeviceState& was = old.peer(node);
  PeerDeviceState& is = now.peer(node);
  Volume* of = volume(now.number);
  PeerDevice* device = of->peer(node);
  Connection& link = device->connection();
  bool established = IsEstablished(is.repl);
  bool connected_now = established && !IsEstablished(was.repl);

  // A connect that needs no resync: both have the same (5.8). An attach: where it is decided.
  if (connected_now || (IsSyncing(was.repl) && is.repl == ReplicationState::kEstablished)) {
    device->misses_writes = false;
  }
  if (is.repl == ReplicationState::kEstablished && connected_now) ForgetDifferences(*device);

  bool send_state = connected_now;
  if (established && IsEstablished(was.repl)) {
    send_state = send_state || (old.disk != now.disk &&
                                !(before.role != state_.role && state_.role == Role::kPrimary));
    send_state = send_state || (IsSyncing(is.repl) && !IsSyncing(was.repl));
    send_state = send_state || (is.repl == ReplicationState::kWFBitMapT && was.repl != is.repl);
    send_state = send_state || (is.repl == ReplicationState::kBehind && was.repl != is.repl);
    send_state = send_state || (IsTarget(was.repl) && is.repl == ReplicationState::kEstablished);
    send_state = send_state || was.resync_susp_user != is.resync_susp_user ||
                 was.resync_susp_other != is.resync_susp_other;
    // A forced promotion gives data out: the peer hears of it after the generation it gives out.
    send_state = send_state || (before.role != state_.role &&
                                !(old.disk != now.disk && state_.role == Role::kPrimary));
    send_state = send_state || before.suspended() != state_.suspended();
    // The end of a resync, and a new resync out of an established link: UUIDs first.
    if ((IsTarget(was.repl) && is.repl == ReplicationState::kEstablished) ||
        (is.repl == ReplicationState::kWFBitMapT && was.repl == ReplicationState::kEstablished)) {
      link.SendUuids(*device, 0);
    }
  }
  // Entering WFBitMapS is announced before the bitmap.
  if (is.repl == ReplicationState::kWFBitMapS && was.repl != is.repl) {
    if (IsEstablished(was.repl)) send_state = true;
  }
  // From here on the peer misses what is written, which is another generation; the last epoch of
  // data is closed before it hears of that.
  if (is.repl == ReplicationState::kAhead && was.repl != is.repl) {
    device->misses_writes = true;
    OweNewUuid(*of);
    if (!state_.suspended()) StartOwedUuid(*of);
    link.SendBarrierIfDue();
    send_state = true;
  }
  // What it missed and was not told yet comes before the state that lets it ask.
  if (was.repl == ReplicationState::kAhead && is.repl == ReplicationState::kSyncSource) {
    TellInFlightOutOfSync(*device);
  }
  // The own disk has been attached: the peer decides by the UUIDs, so they come first (2.7).
  if (established && IsEstablished(was.repl) && old.disk < DiskState::kNegotiating &&
      now.disk == DiskState::kNegotiating) {
    link.SendSizes(*device);
    link.SendUuids(*device, 0);
    send_state = true;
  }
  // Attached without asking the peer, which has no disk, or none yet.
  if (established && IsEstablished(was.repl) && old.disk < DiskState::kNegotiating &&
      now.disk >= DiskState::kInconsistent) {
    link.SendSizes(*device);
    link.SendUuids(*device, 0);
    send_state = true;
  }
  auto verifies = [](ReplicationState repl) {
    return repl == ReplicationState::kVerifyS || repl == ReplicationState::kVerifyT;
  };
  // Both say that a verify begins, who drives it that it is over (drbd-wire.md 5.13).
  send_state = send_state || (verifies(is.repl) && !verifies(was.repl)) ||
               (was.repl == ReplicationState::kVerifyS && established && !verifies(is.repl));
  if (send_state) link.SendState(*device);

  if (is.repl == ReplicationState::kEstablished) StartOwedSync(*device);
  if (was.repl == is.repl) return;
  device->bitmap_received = false;
  switch (is.repl) {
    case ReplicationState::kWFBitMapS:
      MarkInFlightOutOfSync(*device);
      link.SendBitmap(*device);
      link.ExpectBitmap(*device);
      break;
    case ReplicationState::kWFBitMapT:
      link.ExpectBitmap(*device);
      break;
    case ReplicationState::kStartingSyncT:
    case ReplicationState::kStartingSyncS:
      device->tasks.Spawn(RunFullSync(device, link.session(), is.repl));
      break;
    case ReplicationState::kSyncTarget:
      if (device->target.running() && !device->target.stopping()) {
        device->target.Pause(false);
      } else {
        device->target.Start();
      }
      break;
    case ReplicationState::kPausedSyncT:
      if (!device->target.running() || device->target.stopping()) device->target.Start();
      device->target.Pause(true);
      break;
    case ReplicationState::kSyncSource:
      device->source.Begin();
      break;
    case ReplicationState::kAhead:
      device->source.CancelAhead();
      return;
    default:
      break;
  }
  AfterVerifyChange(*device, was.repl, is.repl);
  auto source = [](ReplicationState repl) {
    return repl == ReplicationState::kSyncSource || repl == ReplicationState::kPausedSyncS;
  };
  if (source(was.repl) && !source(is.repl) && link.up()) device->source.Abandon();
  // The link or a disk ended it in the middle.
  if (IsTarget(was.repl) && !IsTarget(is.repl) && device->target.running() &&
      !device->target.finishing() && link.up()) {
    device->tasks.Spawn(StopTarget(device));
  }
}

void ResourceImpl::AfterVerifyChange(PeerDevice& device, ReplicationState was,
                                     ReplicationState is) {
  if (is == ReplicationState::kVerifyS) device.verify_source.Start();
  if (is == ReplicationState::kVerifyT) device.verify_target.Begin();
  // The link or a disk ended it in the middle.
  if (was == ReplicationState::kVerifyS && device.verify_source.running() &&
      !device.verify_source.finishing() && device.connection().up()) {
    device.tasks.Spawn(StopVerifySource(&device));
  }
  if (was == ReplicationState::kVerifyT) {
    device.verify_target.End();
    if (device.verify.status().different_bytes != 0 && device.volume().disk() != nullptr) {
      tasks_.Spawn(WriteBitmapSoon(&device.volume()));
    }
  }
}

Task<void> ResourceImpl::StopVerifySource(PeerDevice* device) {
  co_await device->verify_source.Stop();
}

// Both have the same and know it: bits that are left over, of extents in an activity log for
// instance, mean nothing.
void ResourceImpl::ForgetDifferences(PeerDevice& device) {
  Volume& of = device.volume();
  if (of.disk() == nullptr) return;
  DiskState own =
      of.state().disk == DiskState::kNegotiating ? of.state().disk_from_metadata : of.state().disk;
  DiskState theirs = device.state().disk;
  bool usable = own >= DiskState::kOutdated && theirs >= DiskState::kOutdated &&
                theirs != DiskState::kUnknown;
  if (!usable || !device.uuids_known ||
      !SameUuid(of.disk()->uuids().current(), device.uuids.current)) {
    return;
  }
  // A disk that came back equal has missed nothing.
  device.misses_writes = false;
  // These bits do mean something: what a verify has found differs under one and the same name.
  if (of.disk()->SyncIsOwed(device.node()) || device.verify.status().different_bytes != 0) return;
  bool changed = DropBitmapUuid(of.disk()->uuids(), device.node());
  if (std::optional<uint32_t> slot = device.slot()) {
    changed = of.disk()->bitmap().ClearAll(*slot) != 0 || changed;
  }
  if (changed) of.disk()->ScheduleSuperblock();
}

Task<void> ResourceImpl::StopTarget(PeerDevice* device) { co_await device->target.Stop(); }

// drbd-io-path.md O4: what is under way and not known to be at the peer is out of sync before the
// bitmap that says so is sent.
void ResourceImpl::MarkInFlightOutOfSync(PeerDevice& device) {
  std::optional<uint32_t> slot = device.slot();
  if (!slot) return;
  for (Request& request : log_.requests()) {
    if (request.volume != &device.volume()) continue;
    int leg = request.LegOf(device.node());
    if (leg >= 0 && request.leg_states[static_cast<size_t>(leg)].ok()) continue;
    if (leg >= 0) {
      request.legs[static_cast<size_t>(leg)].in_bitmap_of = device.volume().disk_generation();
    }
    device.volume().SetOutOfSync(request.first, request.end, meta::SlotMask{1} << *slot);
  }
}

// The same for a peer that knows its bits from notes: those of writes that were not sent to it and
// are not done yet.
void ResourceImpl::TellInFlightOutOfSync(PeerDevice& device) {
  std::optional<uint32_t> slot = device.slot();
  if (!slot) return;
  for (Request& request : log_.requests()) {
    if (request.volume != &device.volume()) continue;
    const int leg = request.LegOf(device.node());
    if (leg < 0 || !request.leg_states[static_cast<size_t>(leg)].Has(LegBit::kOutOfSync)) continue;
    request.legs[static_cast<size_t>(leg)].in_bitmap_of = device.volume().disk_generation();
    device.volume().SetOutOfSync(request.first, request.end, meta::SlotMask{1} << *slot);
    device.connection().SendOutOfSync(device, request.first, request.end);
  }
}

// The peer's bitmap is in ours now (drbd-metadata-resync.md 6.1): the target answers with the
// union, then both begin.
void ResourceImpl::OnBitmapReceived(PeerDevice& device) {
  if (device.state().repl == ReplicationState::kWFBitMapT) {
    device.connection().SendBitmap(device);
    device.tasks.Spawn(
        RunStartTarget(&device, device.connection().session(), ReplicationState::kWFBitMapT));
    return;
  }
  if (handlers_.has(Handler::kBeforeResyncSource)) {
    device.tasks.Spawn(RunStartSource(&device, device.connection().session()));
    return;
  }
  BeginAsSource(device);
}

void ResourceImpl::BeginAsSource(PeerDevice& device) {
  int number = device.volume_number();
  int node = device.node();
  logger().Info("{}: {} bits to sync", device.name(), device.out_of_sync_bits());
  (void)Change("the bitmaps are exchanged", {.hard = true}, [=](ResourceState& next) {
    next.Volume(number)->peer(node).repl = ReplicationState::kSyncSource;
  });
}

// The bits are durable before the UUIDs that would let an interrupted sync go on by bitmap, and
// those before the first request (drbd-metadata-resync.md 3.7, 4.7).
Task<void> ResourceImpl::RunStartTarget(PeerDevice* device, uint64_t session,
                                        ReplicationState from) {
  device->starting_target = true;
  co_await StartTarget(device, session, from);
  device->starting_target = false;
}

Task<void> ResourceImpl::StartTarget(PeerDevice* device, uint64_t session, ReplicationState from) {
  Volume& of = device->volume();
  int number = of.number();
  int node = device->node();
  auto valid = [&] {
    return of.disk() != nullptr && device->connection().up() &&
           device->connection().session() == session && device->state().repl == from;
  };
  if (!co_await MayBeginResync(device, session, from) || !valid()) co_return;
  of.CountLower(1);
  Status status = co_await of.disk()->WriteBitmap();
  if (status && valid()) {
    ResyncStart start = umblock::drbd::StartResyncAsTarget(of.disk()->uuids(), of.uuid_peers(),
                                                           device->uuids, log_.dagtag(), NewUuid());
    device->rs_start_uuid = start.rs_start;
    status = co_await of.disk()->WriteSuperblock();
  }
  of.CountLower(-1);
  if (!status || !valid()) co_return;
  // Congested again meanwhile: it will say when it is ready.
  if (device->reported == ReplicationState::kAhead) {
    (void)Change("the peer pulled ahead", {.hard = true}, [=](ResourceState& next) {
      next.Volume(number)->peer(node).repl = ReplicationState::kBehind;
    });
    co_return;
  }
  logger().Info("{}: {} bits to sync", device->name(), device->out_of_sync_bits());
  std::string_view why = from == ReplicationState::kBehind ? "the peer is no longer congested"
                         : from == ReplicationState::kEstablished ? "the volume has grown"
                                                                  : "the bitmaps are exchanged";
  (void)Change(why, {.hard = true}, [=](ResourceState& next) {
    PeerDeviceState& peer = next.Volume(number)->peer(node);
    peer.repl = ReplicationState::kSyncTarget;
    peer.resync_active = true;
  });
}

// StartingSyncT and StartingSyncS (invalidate): everything is out of sync, no bitmap is exchanged.
Task<void> ResourceImpl::RunFullSync(PeerDevice* device, uint64_t session, ReplicationState from) {
  Volume& of = device->volume();
  int number = of.number();
  int node = device->node();
  bool target = from == ReplicationState::kStartingSyncT;
  auto valid = [&] {
    return of.disk() != nullptr && device->connection().up() &&
           device->connection().session() == session && device->state().repl == from;
  };
  co_await reactor_.Yield();
  if (!co_await MayBeginResync(device, session, from) || !valid()) co_return;
  meta::Bitmap& bitmap = of.disk()->bitmap();
  if (target) {
    for (uint32_t slot = 0; slot < bitmap.max_peers(); ++slot) bitmap.SetAll(slot);
  } else if (std::optional<uint32_t> slot = device->slot()) {
    bitmap.SetAll(*slot);
  }
  of.CountLower(1);
  Status status = co_await of.disk()->WriteBitmap();
  if (status && valid() && target) {
    ResyncStart start = umblock::drbd::StartResyncAsTarget(of.disk()->uuids(), of.uuid_peers(),
                                                           device->uuids, log_.dagtag(), NewUuid());
    device->rs_start_uuid = start.rs_start;
    status = co_await of.disk()->WriteSuperblock();
  }
  of.CountLower(-1);
  if (!status || !valid()) co_return;
  (void)Change("full sync", {.hard = true}, [=](ResourceState& next) {
    PeerDeviceState& peer = next.Volume(number)->peer(node);
    peer.repl = target ? ReplicationState::kSyncTarget : ReplicationState::kSyncSource;
    peer.resync_active = target;
  });
}

Task<bool> ResourceImpl::FinishResyncAsTarget(PeerDevice& device) {
  Volume& of = device.volume();
  int number = of.number();
  int node = device.node();
  uint64_t session = device.connection().session();
  auto valid = [&] {
    return of.disk() != nullptr && device.connection().up() &&
           device.connection().session() == session && IsTarget(device.state().repl);
  };
  if (!valid()) co_return true;
  NodeMask connected = state_.connected();
  // The source's data may be taken for current if no Primary but this node, or one that this node
  // sees, may be changing it (drbd-metadata-resync.md 6.7.3).
  bool stable = device.uuids.Has(wire::kUuidFlagStable) || state_.role == Role::kPrimary ||
                (device.uuids.node_mask & (NodeBit(own_node()) | connected)) != 0;
  for (auto& [other, connection] : connections_) {
    if (connection->state().connected()) SendPeersInSync(*of.peer(other), NodeBit(node));
  }
  if (stable) {
    const UuidSet before = of.disk()->uuids();
    umblock::drbd::FinishResyncAsTarget(of.disk()->uuids(), of.uuid_peers(), device.uuids,
                                        device.rs_start_uuid, 0, state_.role == Role::kPrimary,
                                        log_.dagtag());
    const uint64_t current = of.disk()->uuids().current();
    of.CountLower(1);
    Status status = co_await of.disk()->WriteSuperblock();
    of.CountLower(-1);
    if (!status || !valid()) co_return true;
    // A write has failed here meanwhile: the data is not what its name says.
    if (device.out_of_sync_bits() != 0) {
      logger().Warn("{}: {} bits appeared at the end of the resync, which goes on", device.name(),
                    device.out_of_sync_bits());
      if (of.disk()->uuids().current() == current) {
        of.disk()->uuids() = before;
        of.disk()->ScheduleSuperblock();
      }
      co_return false;
    }
  }
  (void)Change("resync finished", {.hard = true}, [=](ResourceState& next) {
    VolumeState* volume = next.Volume(number);
    PeerDeviceState& peer = volume->peer(node);
    peer.repl = ReplicationState::kEstablished;
    peer.resync_active = false;
    if (stable) volume->disk = peer.disk;
  });
  handlers_.Notify(Handler::kAfterResyncTarget, {.node = node, .volume = number});
  co_return true;
}

void ResourceImpl::SendPeersInSync(PeerDevice& device, NodeMask mask) {
  constexpr uint64_t kMost = uint64_t{1} << 21;  // sectors: 1 GiB, a multiple of every block size
  uint64_t end = device.volume().size_sectors();
  for (uint64_t first = 0; first < end; first += kMost) {
    uint64_t step = std::min(kMost, end - first);
    device.connection().SendPacket(
        wire::SocketKind::kControl, wire::PacketType::kPeersInSync, device.volume_number(),
        wire::PeersInSync{first, mask, static_cast<uint32_t>(step * 512)});
  }
}

void ResourceImpl::OnResyncEndedAsSource(PeerDevice& device) {
  Volume& of = device.volume();
  if (of.disk() == nullptr || device.out_of_sync_bits() != 0) return;
  if (DropBitmapUuid(of.disk()->uuids(), device.node())) of.disk()->ScheduleSuperblock();
}

// --- a disk that fails
// -----------------------------------------------------------------------------

void ResourceImpl::FailDisk(Volume& of, std::string reason, bool io_error) {
  DiskState disk = of.state().disk;
  if (disk <= DiskState::kFailed) return;
  int number = of.number();
  // Without the disk this is how a Primary knows the data that its users have seen.
  if (state_.role == Role::kPrimary && disk == DiskState::kUpToDate) {
    of.exposed_uuid = of.disk()->uuids().current();
    of.exposed_before = 0;
  }
  StateCheck check = Change(reason, {.hard = true}, [number](ResourceState& next) {
    next.Volume(number)->disk = DiskState::kFailed;
  });
  if (!check) {
    logger().Error("{}: cannot fail the disk: {}", of.name(), check.error().text());
    return;
  }
  // From here on acknowledged writes may be at the peers only.
  if (DataAccessible(state_, of.state())) OweNewUuid(of);
  const bool call = io_error && of.config().disk.on_io_error == OnIoError::kCallLocalIoError;
  tasks_.Spawn(RunDiskFailure(&of, std::move(reason), call));
}

Task<void> ResourceImpl::RunDiskFailure(Volume* of, std::string reason, bool call_handler) {
  int number = of->number();
  co_await reactor_.Yield();
  if (call_handler) (void)co_await handlers_.Call(Handler::kLocalIoError, {.volume = number});
  // By node id, as a peer may be removed meanwhile.
  for (auto it = of->peers().begin(); it != of->peers().end();) {
    int node = it->first;
    co_await it->second->target.Stop();
    it = of->peers().upper_bound(node);
  }
  bool data_elsewhere = DataAccessible(state_, of->state());
  if (of->disk() != nullptr) {
    // So that it comes back as what it is: older than the data that goes on without it.
    bool written_elsewhere = state_.role == Role::kPrimary || state_.connected_primaries() != 0;
    if (written_elsewhere && data_elsewhere) {
      of->disk()->superblock().Set(meta::kMdWasUpToDate, false);
    }
    Status status = co_await of->disk()->WriteSuperblock();
    if (!status) {
      logger().Warn("{}: the failed disk could not be marked: {}", of->name(),
                    status.error().message());
    }
  }
  if (state_.role == Role::kPrimary && data_elsewhere) StartOwedUuid(*of);
  co_await of->CloseDisk(false);
  (void)Change(reason, {.hard = true},
               [number](ResourceState& next) { next.Volume(number)->disk = DiskState::kDiskless; });
  changed_.NotifyAll();
}

}  // namespace umblock::drbd
