#include "engine/drbd/state/uuid_events.h"

namespace umblock::drbd {

NodeMask WeakNodesOfDevice(int own_node, DiskState own_disk, const UuidPeers& peers) {
  NodeMask strong = own_disk == DiskState::kUpToDate ? NodeBit(own_node) : 0;
  for (int node = 0; node < kNodeIds; ++node) {
    const UuidPeer& peer = peers.peer[static_cast<size_t>(node)];
    if (!peer.configured || node == own_node) continue;
    if (peer.misses_writes || peer.disk <= DiskState::kFailed || peer.disk == DiskState::kUnknown ||
        peer.disk == DiskState::kOutdated) {
      continue;
    }
    strong |= NodeBit(node);
  }
  return ~strong;
}

NewDatagenResult ReceiveNewDatagen(UuidSet& own, const UuidPeers& peers,
                                   const NewDatagenInput& in) {
  NewDatagenResult result;
  if (in.target_of != 0) {
    result.remember_for = in.target_of;
    return result;
  }
  if (in.own_disk == DiskState::kUpToDate) {
    result.marked = own.Rotate(peers, in.weak, in.dagtag, in.predecessor_if_new);
  }
  // The others are with the Primary: what we know to be missing there ends at the new generation.
  for (int node : Nodes(~in.weak & peers.WithSlot())) {
    if (node == own.own_node() || IsZeroUuid(own.bitmap(node).uuid)) continue;
    own.SetBitmapAndPush(node, in.new_current, in.dagtag);
  }
  const uint64_t old = own.current();
  own.SetCurrent(in.new_current, in.own_primary);
  own.PushHistory(old);
  result.adopted = true;
  return result;
}

ResyncStart StartResyncAsTarget(UuidSet& own, const UuidPeers& peers, const PeerUuids& source,
                                uint64_t dagtag, uint64_t predecessor_if_new) {
  if (IsJustCreated(own.current())) {
    // So an interrupted initial sync goes on by bitmap (4.6).
    const uint64_t base = source.BitmapFor(own.own_node());
    if (!IsJustCreated(base) && base != kUuidUnknown) own.SetCurrent(base, false);
  }
  ResyncStart result;
  result.rs_start = own.current();
  result.marked = own.Rotate(peers, 0, dagtag, predecessor_if_new);
  return result;
}

ResyncFinish FinishResyncAsTarget(UuidSet& own, const UuidPeers& peers, const PeerUuids& source,
                                  uint64_t rs_start, NodeMask on_source_current, bool primary,
                                  uint64_t dagtag) {
  // Oldest first, so that the newest ends up in front.
  for (auto it = source.history.rbegin(); it != source.history.rend(); ++it) own.PushHistory(*it);
  NodeMask missing_at_source = 0;
  for (int node : Nodes(source.present)) {
    const uint64_t uuid = source.BitmapFor(node);
    if (IsZeroUuid(uuid) || uuid == kUuidUnknown) continue;
    own.PushHistory(uuid);
    missing_at_source |= NodeBit(node);
  }
  ResyncFinish result;
  const NodeMask behind = missing_at_source & ~on_source_current;
  for (int node : Nodes(peers.WithSlot() & ~NodeBit(own.own_node()))) {
    if (!Contains(behind, node)) {
      own.SetBitmapAndPush(node, 0, 0);
    } else if (own.SetBitmapAndPush(node, rs_start, dagtag)) {
      result.behind |= NodeBit(node);
    }
  }
  own.PushHistory(own.current());
  own.SetCurrent(source.current, primary);
  return result;
}

bool DropBitmapUuid(UuidSet& own, int peer) { return own.SetBitmapAndPush(peer, 0, 0); }

void SetAllAsSource(UuidSet& own, int peer, uint64_t peer_current, uint64_t dagtag) {
  if (IsJustCreated(own.current()) || IsJustCreated(peer_current)) return;
  own.SetBitmapAndPush(peer, WithoutPrimaryFlag(peer_current), dagtag);
}

bool SkipInitialSync(UuidSet& own, const UuidPeers& peers, bool primary, uint64_t dagtag,
                     uint64_t random_current, uint64_t predecessor_if_new) {
  if (!IsJustCreated(own.current())) return false;
  own.ClearAllBitmaps();
  own.Rotate(peers, 0, dagtag, predecessor_if_new);
  own.SetCurrent(random_current, primary);
  // In sync with everybody configured: nothing is counted towards them.
  for (int node = 0; node < kNodeIds; ++node) {
    if (node != own.own_node() && peers.peer[static_cast<size_t>(node)].configured) {
      own.SetBitmap(node, 0, 0);
    }
  }
  return true;
}

bool AdoptSkippedInitialSync(UuidSet& own, const PeerUuids& from, int peer_node, bool established,
                             int agreed_version) {
  if (!established || agreed_version < 90 || !IsJustCreated(own.current()) ||
      !from.Has(wire::kUuidFlagSkipInitialSync)) {
    return false;
  }
  own.SetCurrent(from.current, false);
  own.SetBitmap(peer_node, 0, 0);
  return true;
}

// --- Detection of finished resyncs (4.8) ---------------------------------------------------------

namespace {

void CopySlot(UuidSet& own, int from, int to, DetectResult& result) {
  const BitmapUuid source = own.bitmap(from);
  own.SetBitmapAndPush(to, source.uuid, source.dagtag);
  result.copy[static_cast<size_t>(result.copies++)] = {from, to};
  result.changed = true;
}

// 4.8.1. Whether the situation was this one, whatever follows from it.
bool DetectMissedEnd(UuidSet& own, const PeerUuids& from, const DetectInput& in,
                     DetectResult& result) {
  if (!in.repl_off || !SameUuid(in.own_resolved, from.current)) return false;
  if (in.own_is_target || from.Has(wire::kUuidFlagSyncTarget)) return false;
  const uint64_t mine = own.bitmap(in.peer_node).uuid;
  const uint64_t theirs = from.BitmapFor(own.own_node());
  const auto counts = [&](uint64_t uuid) {
    return !IsZeroUuid(uuid) && uuid != kUuidUnknown && !SameUuid(uuid, from.current);
  };
  const bool no_bits = in.own_bits == 0 && from.dirty_bits == 0;
  if (counts(theirs) && IsZeroUuid(mine)) {
    result.peer_missed_end = !(no_bits && in.agreed_version >= 124);
    return true;
  }
  if (IsZeroUuid(theirs) && counts(mine)) {
    result.source_missed_end = !(no_bits && in.agreed_version >= 124);
    if (no_bits) result.changed = DropBitmapUuid(own, in.peer_node) || result.changed;
    return true;
  }
  return false;
}

// 4.8.2: the peer is in sync with node n, we count differences towards n.
void DetectSyncedNodes(UuidSet& own, const UuidPeers& peers, const PeerUuids& from,
                       const DetectInput& in, DetectResult& result) {
  for (int node : Nodes(in.known & ~NodeBit(own.own_node()))) {
    const BitmapUuid mine = own.bitmap(node);
    if (!IsZeroUuid(from.BitmapFor(node)) || IsZeroUuid(mine.uuid)) continue;
    const bool has_slot = peers.peer[static_cast<size_t>(node)].slot >= 0;
    if (SameUuid(in.own_resolved, from.current)) {
      result.changed = DropBitmapUuid(own, node) || result.changed;
      if (node != in.peer_node && has_slot) result.clear_bits |= NodeBit(node);
      continue;
    }
    const std::optional<int> like = own.FindBitmap(from.current, in.known);
    if (like && *like != node && own.bitmap(*like).dagtag > mine.dagtag) {
      CopySlot(own, *like, node, result);
    }
  }
}

// 4.8.3: the peer saw two absent nodes part at the same generation.
void DetectTwins(UuidSet& own, const PeerUuids& from, const DetectInput& in, DetectResult& result) {
  const NodeMask absent =
      in.known & in.unconnected & ~NodeBit(own.own_node()) & ~NodeBit(in.peer_node);
  for (int a : Nodes(absent)) {
    for (int b : Nodes(absent)) {
      if (b == a || result.copies >= kNodeIds) continue;
      const uint64_t uuid = from.BitmapFor(a);
      if (IsZeroUuid(uuid) || uuid == kUuidUnknown || !SameUuid(uuid, from.BitmapFor(b))) continue;
      const bool only_a = SameUuid(own.bitmap(a).uuid, uuid) && !SameUuid(own.bitmap(b).uuid, uuid);
      if (only_a && own.bitmap(a).dagtag > own.bitmap(b).dagtag) CopySlot(own, a, b, result);
    }
  }
}

}  // namespace

DetectResult DetectFinishedResyncs(UuidSet& own, const UuidPeers& peers, const PeerUuids& from,
                                   const DetectInput& in) {
  DetectResult result;
  if (DetectMissedEnd(own, from, in, result)) return result;
  DetectSyncedNodes(own, peers, from, in, result);
  DetectTwins(own, from, in, result);
  return result;
}

}  // namespace umblock::drbd
