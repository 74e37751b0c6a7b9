// Data generations: what peers are told of them, what is learnt from peers, new ones
// (drbd-metadata-resync.md 4).
#include "engine/drbd/core/resource_impl.h"
#include "engine/drbd/state/uuid_events.h"

namespace umblock::drbd {

uint64_t ResourceImpl::NewUuid() {
  uint64_t uuid;
  do {
    uuid = WithoutPrimaryFlag(reactor_.Random64());
  } while (IsJustCreated(uuid) || uuid == WithoutPrimaryFlag(kUuidUnknown));
  return uuid;
}

PeerUuids ResourceImpl::UuidsFor(PeerDevice& device, uint64_t extra_flags, NodeMask weak) {
  Volume& of = device.volume();
  const Disk& disk = *of.disk();
  const meta::Superblock& sb = disk.superblock();
  UuidSendContext context;
  context.peer_node = device.node();
  context.agreed_version = device.connection().agreed_protocol();
  context.max_peers = static_cast<int>(sb.max_peers);
  for (int node = 0; node < kNodeIds; ++node) {
    if (disk.SlotOf(node)) context.with_slot |= NodeBit(node);
    if ((sb.peers[static_cast<size_t>(node)].flags & meta::kPeerNodeExists) != 0) {
      context.node_exists |= NodeBit(node);
    }
  }
  context.configured = state_.configured();
  context.dirty_bits = device.out_of_sync_bits();
  for (auto& [other, peer] : of.peers()) {
    ReplicationState repl = of.state().peer(other).repl;
    bool target = repl == ReplicationState::kSyncTarget || repl == ReplicationState::kPausedSyncT;
    if (!target || !peer->uuids_known) continue;
    if (!SameUuid(peer->uuids.current, disk.uuids().current())) {
      context.target_of_newer |= NodeBit(other);
    }
    if (repl == ReplicationState::kSyncTarget && other != device.node()) {
      context.sync_source = other;
      context.sync_source_current = peer->uuids.current;
    }
  }
  context.discard_my_data = device.connection().discard_my_data();
  context.crashed_primary = of.crashed_primary;
  DiskState now = of.state().disk;
  context.inconsistent = now == DiskState::kInconsistent ||
                         (now == DiskState::kNegotiating && !sb.Has(meta::kMdConsistent));
  context.stable = stable();
  context.reconnect = device.connection().has_been_connected() && !of.crashed_primary;
  context.extra_flags = extra_flags;
  context.weak = weak;
  context.authoritative = state_.connected_primaries();
  return BuildUuidsFor(disk.uuids(), context);
}

// A disk that has failed or is being detached misses what is written from now on. It must not take
// the name of a generation that it does not have, or it would pass for up to date when it is back.
bool ResourceImpl::FollowsGenerations(const Volume& of) {
  return of.disk() != nullptr && of.state().disk != DiskState::kFailed &&
         of.state().disk != DiskState::kDetaching && of.state().disk != DiskState::kDiskless;
}

void ResourceImpl::OnUuids(PeerDevice& device) {
  Volume& of = device.volume();
  if (!FollowsGenerations(of)) {
    if (of.exposed_uuid == 0 || state_.role != Role::kPrimary) {
      of.exposed_uuid = device.uuids.current;
    }
    if (SameUuid(of.exposed_uuid, device.uuids.current)) of.exposed_before = 0;
    return;
  }
  UuidSet& own = of.disk()->uuids();
  bool established = device.state().repl >= ReplicationState::kEstablished;
  if (established && AdoptSkip(device)) return;
  // While it is being attached, the peers' generations decide how it gets up to date.
  bool negotiated = of.state().disk >= DiskState::kInconsistent;
  if (established && negotiated && device.uuids.Has(wire::kUuidFlagNewDatagen)) {
    ReceiveGeneration(device, device.uuids.current, device.uuids.node_mask);
    return;
  }
  DetectInput input;
  input.peer_node = device.node();
  input.agreed_version = device.connection().agreed_protocol();
  input.repl_off = !established;
  input.own_resolved = own.current();
  input.own_bits = device.out_of_sync_bits();
  for (int node = 0; node < kNodeIds; ++node) {
    if (of.disk()->SlotOf(node)) input.known |= NodeBit(node);
  }
  input.unconnected = ~state_.connected();
  DetectResult result = DetectFinishedResyncs(own, of.uuid_peers(), device.uuids, input);
  device.source_missed_end = result.source_missed_end;
  device.peer_missed_end = result.peer_missed_end;
  meta::Bitmap& bitmap = of.disk()->bitmap();
  for (int node : Nodes(result.clear_bits)) {
    if (std::optional<uint32_t> slot = of.disk()->SlotOf(node)) bitmap.ClearAll(*slot);
  }
  for (int i = 0; i < result.copies; ++i) {
    std::optional<uint32_t> from = of.disk()->SlotOf(result.copy[static_cast<size_t>(i)].from);
    std::optional<uint32_t> to = of.disk()->SlotOf(result.copy[static_cast<size_t>(i)].to);
    if (from && to) bitmap.CopySlot(*from, *to);
  }
  if (result.changed) of.disk()->ScheduleSuperblock();
  if (!established) return;
  state_.Volume(of.number())->peer(device.node()).peer_got_stable =
      device.uuids.Has(wire::kUuidFlagGotStable);
  (void)Change("the peer's UUIDs", {.hard = true}, [](ResourceState&) {});
  if (device.uuids.Has(wire::kUuidFlagResync)) {
    wire::StateWord word;
    word.role = state_.peer(device.node()).role;
    word.disk = device.state().disk;
    word.quorum = true;
    DecideConnected(device, word, false);
  }
}

void ResourceImpl::OnCurrentUuid(PeerDevice& device) {
  Volume& of = device.volume();
  bool established = device.state().repl >= ReplicationState::kEstablished;
  if (!FollowsGenerations(of)) {
    if (of.exposed_uuid == 0 || state_.role != Role::kPrimary) {
      of.exposed_uuid = device.uuids.current;
    }
    return;
  }
  if (!established || IsZeroUuid(device.uuids.current)) return;
  if (SameUuid(device.uuids.current, of.disk()->uuids().current())) return;
  if (of.state().disk == DiskState::kUpToDate &&
      state_.peer(device.node()).role == Role::kPrimary) {
    ReceiveGeneration(device, device.uuids.current,
                      device.uuids.node_mask | NodeBit(device.node()));
  }
}

// A Primary has begun a new data generation (4.4). The superblock is durable before anybody hears
// that this node follows.
void ResourceImpl::ReceiveGeneration(PeerDevice& device, uint64_t current, NodeMask weak) {
  Volume& of = device.volume();
  // A disk that is failing or going does not take part any more; one that is being attached has not
  // got what this generation begins with.
  if (of.state().disk < DiskState::kInconsistent) return;
  NewDatagenInput input;
  input.new_current = current;
  input.weak = weak;
  input.dagtag = device.connection().writes().last_dagtag();
  input.own_disk = of.state().disk;
  input.own_primary = state_.role == Role::kPrimary;
  input.predecessor_if_new = NewUuid();
  for (auto& [other, peer] : of.peers()) {
    ReplicationState repl = of.state().peer(other).repl;
    if (repl == ReplicationState::kSyncTarget || repl == ReplicationState::kPausedSyncT ||
        repl == ReplicationState::kBehind) {
      input.target_of |= NodeBit(other);
    }
  }
  NewDatagenResult result = ReceiveNewDatagen(of.disk()->uuids(), of.uuid_peers(), input);
  for (int node : Nodes(result.remember_for)) {
    if (PeerDevice* other = of.peer(node)) other->uuids.current = current;
  }
  if (result.adopted) tasks_.Spawn(StoreAndTell(&of));
}

Task<void> ResourceImpl::StoreAndTell(Volume* of) {
  if (of->disk() == nullptr) co_return;
  uint64_t generation = of->disk_generation();
  of->CountLower(1);
  Status status = co_await of->disk()->WriteSuperblock();
  of->CountLower(-1);
  if (!status || of->disk() == nullptr || of->disk_generation() != generation) co_return;
  for (auto& [node, device] : of->peers()) {
    if (device->state().repl >= ReplicationState::kEstablished) {
      device->connection().SendUuids(*device, 0);
    }
  }
}

// SKIP_INITIAL_SYNC: the administrator has declared all disks equal (4.6).
bool ResourceImpl::AdoptSkip(PeerDevice& device) {
  if (!device.uuids.Has(wire::kUuidFlagSkipInitialSync)) return false;
  Volume& of = device.volume();
  if (!AdoptSkippedInitialSync(of.disk()->uuids(), device.uuids, device.node(), true,
                               device.connection().agreed_protocol())) {
    return false;
  }
  tasks_.Spawn(FinishSkip(&of, false));
  return true;
}

Task<void> ResourceImpl::FinishSkip(Volume* of, bool initiator) {
  meta::Bitmap& bitmap = of->disk()->bitmap();
  for (uint32_t slot = 0; slot < bitmap.max_peers(); ++slot) bitmap.ClearAll(slot);
  of->CountLower(1);
  Status status = co_await of->disk()->WriteBitmap();
  if (status) status = co_await of->disk()->WriteSuperblock();
  of->CountLower(-1);
  if (!status || of->disk() == nullptr) co_return;
  int number = of->number();
  if (initiator) {
    for (auto& [node, device] : of->peers()) {
      if (device->state().repl >= ReplicationState::kEstablished) {
        device->connection().SendUuids(*device, wire::kUuidFlagSkipInitialSync);
      }
    }
  }
  (void)Change("the initial sync is skipped", {.hard = true}, [&](ResourceState& next) {
    VolumeState* volume = next.Volume(number);
    volume->disk = DiskState::kUpToDate;
    for (auto& [node, device] : of->peers()) {
      PeerDeviceState& peer = volume->peer(node);
      if (peer.repl >= ReplicationState::kEstablished && peer.disk >= DiskState::kInconsistent &&
          peer.disk != DiskState::kUnknown) {
        peer.disk = DiskState::kUpToDate;
      }
    }
  });
}

// --- new generations of this node
// ------------------------------------------------------------------

void ResourceImpl::OweNewUuid(Volume& of) {
  if (state_.role != Role::kPrimary) return;
  of.state().owes_new_uuid = true;
  of.owes_for_writes = true;
  ++of.reasons_for_uuid;
}

// Acknowledged writes are on one side only, under the name that both sides' data has: until it has
// another one, a comparison by name would take them for equal.
bool ResourceImpl::GenerationIsDue(Volume& of) {
  if (of.making_uuid) return true;
  const bool owed = of.state().owes_new_uuid && of.owes_for_writes;
  if (!owed || state_.role != Role::kPrimary || !HasGoodData(of)) return false;
  if (of.disk() == nullptr || of.state().disk < DiskState::kInconsistent) return true;
  // What is under way may have been refused by a peer, and gets its bit when it is done.
  if (log_.Holds(&of)) return true;
  return std::any_of(of.peers().begin(), of.peers().end(),
                     [](const auto& peer) { return peer.second->out_of_sync_bits() != 0; });
}

Task<void> ResourceImpl::SettleGeneration(Volume& of) {
  while (GenerationIsDue(of) && !stopping_) {
    StartOwedUuid(of);
    co_await changed_.WaitFor(100ms);
  }
}

void ResourceImpl::StartOwedUuid(Volume& of) {
  if (of.making_uuid) return;
  of.making_uuid = true;
  tasks_.Spawn(RunOwedUuid(&of));
}

bool ResourceImpl::HasGoodData(Volume& of) {
  if (of.state().disk == DiskState::kUpToDate) return true;
  for (const auto& [node, device] : of.peers()) {
    if (device->connection().up() && device->state().disk == DiskState::kUpToDate) return true;
  }
  return false;
}

// At the next I/O, which waits for it; the peers are pinged first, so that one that has just died
// is known to miss the new generation (4.3).
Task<void> ResourceImpl::RunOwedUuid(Volume* of) {
  // Who asked has yet to queue its request.
  co_await reactor_.Yield();
  co_await PingAll();
  Status status = Ok();
  // Without good data in reach nothing is acknowledged, and nothing new begins: a generation of
  // half-synced data would look like a split brain to the node that has all of it. It stays owed.
  if (of->state().owes_new_uuid && state_.role == Role::kPrimary && HasGoodData(*of)) {
    const uint64_t reasons = of->reasons_for_uuid;
    status = co_await MakeNewUuid(*of, false);
    // Another peer may have been lost meanwhile.
    if (status && of->reasons_for_uuid == reasons) {
      of->state().owes_new_uuid = of->owes_for_writes = false;
    }
  }
  of->making_uuid = false;
  changed_.NotifyAll();
  if (!status) {
    // The disk is failing; the next attempt is made without it.
    logger().Error("{}: no new data generation: {}", of->name(), status.error().message());
    co_await Sleep(reactor_, 10ms, tasks_.token());
  }
  Readmit();
}

// The end of a suspension: what is owed comes first, then I/O goes on (S32).
Task<void> ResourceImpl::RunSuspendedUuids() {
  for (;;) {
    Volume* of = nullptr;
    for (auto& [number, candidate] : volumes_) {
      bool due = candidate->state().owes_new_uuid && HasGoodData(*candidate);
      if (due || candidate->making_uuid) of = candidate.get();
    }
    if (of == nullptr || state_.role != Role::kPrimary) break;
    if (of->making_uuid) {
      WakeReason reason = co_await changed_.Wait(tasks_.token());
      if (reason == WakeReason::kCancelled) co_return;
      continue;
    }
    of->making_uuid = true;
    co_await RunOwedUuid(of);
    if (stopping_) co_return;
  }
  (void)Change("the new data generation is made", {.hard = true},
               [](ResourceState& next) { next.susp_uuid = false; });
}

Task<Status> ResourceImpl::MakeNewUuid(Volume& of, bool forced) {
  CloseEpoch();
  if (of.disk() == nullptr || of.state().disk < DiskState::kInconsistent) {
    // Without a disk the new generation exists on the peers only.
    if (of.exposed_before == 0) of.exposed_before = of.exposed_uuid;
    of.exposed_uuid = NewUuid() | kUuidPrimaryBit;
    logger().Info("{}: new data generation {:016X}, kept by the peers", of.name(), of.exposed_uuid);
    NodeMask weak = WeakNodesOfDevice(own_node(), of.state().disk, of.uuid_peers());
    for (auto& [node, device] : of.peers()) {
      if (device->state().repl < ReplicationState::kEstablished) continue;
      device->connection().SendPacket(wire::SocketKind::kData, wire::PacketType::kCurrentUuid,
                                      of.number(), wire::CurrentUuid{of.exposed_uuid, weak});
    }
    co_return Ok();
  }
  const uint64_t shown =
      of.state().disk == DiskState::kUpToDate ? of.disk()->uuids().current() : of.exposed_uuid;
  // A peer that refuses a write while this one is being stored misses the next one.
  NodeMask missed = 0;
  for (auto& [node, device] : of.peers()) {
    if (device->misses_writes) missed |= NodeBit(node);
  }
  const UuidSet before = of.disk()->uuids();
  NewCurrentResult result = of.disk()->uuids().NewCurrent(
      of.uuid_peers(), forced, state_.role == Role::kPrimary, log_.dagtag(), NewUuid(), NewUuid());
  // One that was made a moment ago may not be on disk yet: what depends on it waits with us.
  if (!result.created && of.generations_in_flight == 0) co_return Ok();
  if (result.created) {
    logger().Info("{}: new data generation {:016X}", of.name(), of.disk()->uuids().current());
    of.exposed_uuid = of.disk()->uuids().current();
    of.exposed_before = 0;
  }
  for (auto& [node, device] : of.peers()) device->misses_writes = false;
  uint64_t generation = of.disk_generation();
  const uint64_t current = of.disk()->uuids().current();
  of.CountLower(1);
  ++of.generations_in_flight;
  Status status = co_await of.disk()->WriteSuperblock();
  --of.generations_in_flight;
  of.CountLower(-1);
  if (!status) {
    of.exposed_uuid = shown;
    if (result.created) of.unstored.emplace(current, before);
    for (auto& [node, device] : of.peers()) {
      device->misses_writes = device->misses_writes || Contains(missed, node);
    }
    co_return status;
  }
  if (of.disk() == nullptr || of.disk_generation() != generation) co_return Ok();
  NodeMask weak = WeakNodesOfDevice(own_node(), of.state().disk, of.uuid_peers());
  for (auto& [node, device] : of.peers()) {
    if (device->state().repl < ReplicationState::kEstablished) continue;
    // A disk that is being attached there has not got what this generation begins with: it must not
    // take the name, and is looked at again when it is up.
    bool attaching = device->state().repl == ReplicationState::kEstablished &&
                     (Contains(missed, node) || device->state().disk == DiskState::kConsistent);
    if (attaching) device->consider_resync = true;
    uint64_t flags = forced || attaching ? 0 : wire::kUuidFlagNewDatagen;
    device->connection().SendUuids(*device, flags, weak);
  }
  co_return Ok();
}

}  // namespace umblock::drbd
