#include "engine/drbd/state/peer_uuids.h"

#include <algorithm>
#include <bit>

namespace umblock::drbd {
namespace {

using namespace wire;  // NOLINT: the flag constants

uint64_t StateFlags(const UuidSendContext& c) {
  uint64_t flags = c.extra_flags;
  if (c.discard_my_data) flags |= kUuidFlagDiscardMyData;
  if (c.crashed_primary) flags |= kUuidFlagCrashedPrimary;
  if (c.inconsistent) flags |= kUuidFlagInconsistent;
  if (c.stable) flags |= kUuidFlagStable;
  if (c.reconnect) flags |= kUuidFlagReconnect;
  if (c.primary_lost_quorum) flags |= kUuidFlagPrimaryLostQuorum;
  return flags;
}

// An id that has no slot, is not configured and was never seen: it stands for every such id, all of
// which carry the day0 UUID (8.3).
int UnallocatedNode(const UuidSet& own, const UuidSendContext& c) {
  if (NodeCount(c.with_slot) >= c.max_peers) return kNoNode;
  const NodeMask taken =
      c.with_slot | c.node_exists | c.configured | NodeBit(own.own_node()) | NodeBit(c.peer_node);
  const int node = std::countr_one(static_cast<uint32_t>(taken));
  return node < kNodeIds ? node : kNoNode;
}

void AddBitmap(PeerUuids& out, int node, uint64_t uuid) {
  out.present |= NodeBit(node);
  out.bitmap[static_cast<size_t>(node)] = uuid;
}

}  // namespace

bool PeerUuids::InHistory(uint64_t uuid) const {
  if (IsZeroUuid(uuid)) return false;
  return std::ranges::any_of(history, [uuid](uint64_t entry) { return SameUuid(entry, uuid); });
}

PeerUuids FromWire(const wire::Uuids110& packet) {
  PeerUuids out;
  out.current = packet.current;
  out.dirty_bits = packet.dirty_bits;
  out.flags = packet.uuid_flags;
  out.node_mask = packet.node_mask;
  for (int node : Nodes(packet.bitmap_uuids_mask)) AddBitmap(out, node, packet.BitmapUuid(node));
  out.history = packet.history;
  return out;
}

PeerUuids FromWire(const wire::CurrentUuid& packet) {
  PeerUuids out;
  out.current = packet.uuid;
  out.node_mask = packet.weak_nodes;
  return out;
}

wire::Uuids110 ToWire(const PeerUuids& uuids) {
  wire::Uuids110 packet;
  packet.current = uuids.current;
  packet.dirty_bits = uuids.dirty_bits;
  packet.uuid_flags = uuids.flags;
  packet.node_mask = uuids.node_mask;
  for (int node : Nodes(uuids.present)) packet.SetBitmapUuid(node, uuids.BitmapFor(node));
  packet.history = uuids.history;
  return packet;
}

uint64_t ResolvedCurrent(const UuidSet& own, const UuidSendContext& c) {
  const bool target_of_other = c.sync_source != kNoNode && c.sync_source != c.peer_node;
  return target_of_other ? c.sync_source_current : own.current();
}

PeerUuids BuildUuidsFor(const UuidSet& own, const UuidSendContext& c) {
  PeerUuids out;
  out.current = ResolvedCurrent(own, c);
  out.dirty_bits = c.dirty_bits;
  out.flags = StateFlags(c);
  if (c.sync_source != kNoNode && c.sync_source != c.peer_node) out.flags |= kUuidFlagSyncTarget;
  // With STABLE the mask names the weak nodes; an unstable node names whom it depends on.
  out.node_mask = c.stable || (c.extra_flags & kUuidFlagNewDatagen) != 0 ? c.weak : c.authoritative;

  for (int node : Nodes(c.with_slot | c.node_exists)) {
    uint64_t uuid = own.bitmap(node).uuid;
    // A 0 would allow the source to drop its bitmap for us.
    if (IsZeroUuid(uuid) && Contains(c.target_of_newer, node)) uuid = kUuidUnknown;
    AddBitmap(out, node, uuid);
  }
  if (c.agreed_version >= 116) {
    if (const int node = UnallocatedNode(own, c); node != kNoNode) {
      AddBitmap(out, node, own.bitmap(node).uuid);
      out.flags |= kUuidFlagHasUnalloc | static_cast<uint64_t>(node) << kUuidUnallocShift;
    }
  }
  out.history = own.history();
  return out;
}

SentUuids SentUuids::Of(const PeerUuids& sent, int peer_node) {
  // The entry as sent; an entry that was not sent is the same as one without information.
  return {sent.current, sent.BitmapFor(peer_node), sent.flags & ~wire::kUuidFlagInconsistent};
}

bool SentUuids::SameAs(const SentUuids& now) const {
  return SameUuid(current, now.current) && SameUuid(bitmap, now.bitmap) && flags == now.flags;
}

}  // namespace umblock::drbd
