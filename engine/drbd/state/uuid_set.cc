#include "engine/drbd/state/uuid_set.h"

#include <algorithm>

namespace umblock::drbd {
namespace {

// The slot numbers in use; those beyond max_peers do not exist on disk.
uint64_t UsedSlots(const UuidPeers& peers) {
  uint64_t used = 0;
  for (int node = 0; node < kNodeIds; ++node) {
    const int slot = peers.peer[static_cast<size_t>(node)].slot;
    if (slot >= 0 && slot < 64) used |= uint64_t{1} << slot;
  }
  return used;
}

// A configured peer misses what is written from now on, as far as its disk state tells.
bool Misses(const UuidPeer& peer) {
  if (peer.misses_writes) return true;
  return peer.disk <= DiskState::kUnknown && peer.disk != DiskState::kNegotiating;
}

}  // namespace

NodeMask UuidPeers::WithSlot() const {
  NodeMask mask = 0;
  for (int node = 0; node < kNodeIds; ++node) {
    if (peer[static_cast<size_t>(node)].slot >= 0) mask |= NodeBit(node);
  }
  return mask;
}

void UuidSet::SetCurrent(uint64_t uuid, bool primary) {
  current_ = WithoutPrimaryFlag(uuid) | (primary ? kUuidPrimaryBit : 0);
}

bool UuidSet::PushHistory(uint64_t uuid) {
  uuid = WithoutPrimaryFlag(uuid);
  if (uuid == 0 || uuid == kUuidJustCreated || SameUuid(uuid, current_)) return false;
  if (history_[0] == 0) {
    history_[0] = uuid;
    return true;
  }
  for (int node = 0; node < kNodeIds; ++node) {
    if (node != own_node_ && SameUuid(bitmap(node).uuid, uuid)) return false;
  }
  if (InHistory(uuid)) return false;
  std::shift_right(history_.begin(), history_.end(), 1);
  history_[0] = uuid;
  return true;
}

bool UuidSet::SetBitmap(int node, uint64_t uuid, uint64_t dagtag) {
  const BitmapUuid value{uuid, uuid == 0 ? 0 : dagtag};
  BitmapUuid& entry = bitmap_[static_cast<size_t>(node)];
  if (entry == value) return false;
  entry = value;
  return true;
}

bool UuidSet::SetBitmapAndPush(int node, uint64_t uuid, uint64_t dagtag) {
  const uint64_t previous = bitmap(node).uuid;
  const bool changed = SetBitmap(node, uuid, dagtag);
  return PushHistory(previous) || changed;
}

NodeMask UuidSet::Rotate(const UuidPeers& peers, NodeMask weak, uint64_t dagtag,
                         uint64_t predecessor_if_new) {
  const uint64_t previous =
      WithoutPrimaryFlag(current_) == kUuidJustCreated ? predecessor_if_new : current_;
  NodeMask marked = 0;
  uint64_t visited = 0;  // slots of peers that were looked at
  const auto counts_something_else = [&](int node) {
    return !IsZeroUuid(bitmap(node).uuid) && !SameUuid(bitmap(node).uuid, previous);
  };

  for (int node = 0; node < kNodeIds; ++node) {
    const UuidPeer& peer = peers.peer[static_cast<size_t>(node)];
    if (node == own_node_ || !peer.configured) continue;
    if (peer.slot >= 0) visited |= uint64_t{1} << peer.slot;
    if (counts_something_else(node)) continue;
    if (peer.connected && peer.disk == DiskState::kDiskless && peer.slot < 0) continue;
    if (!Misses(peer) && !Contains(weak, node)) continue;
    SetBitmap(node, previous, dagtag);
    marked |= NodeBit(node);
  }

  // Ids nobody uses yet remember the first generation ever left: day0. One that names none among
  // others that do was forgotten since; its disk may have the generation that ends here, which
  // therefore has to end.
  uint64_t used = UsedSlots(peers);
  bool others_know_day0 = false;
  for (int node = 0; node < kNodeIds; ++node) {
    const UuidPeer& peer = peers.peer[static_cast<size_t>(node)];
    if (node == own_node_ || peer.configured || peer.slot >= 0) continue;
    others_know_day0 = others_know_day0 || !IsZeroUuid(bitmap(node).uuid);
  }
  for (int node = 0; node < kNodeIds; ++node) {
    const UuidPeer& peer = peers.peer[static_cast<size_t>(node)];
    if (node == own_node_ || peer.configured) continue;
    if (peer.slot >= 0 && (visited >> peer.slot & 1) != 0) continue;
    if (counts_something_else(node)) continue;
    int slot = peer.slot;
    if (slot < 0) slot = std::countr_one(used);
    if (slot < 64) {
      visited |= uint64_t{1} << slot;
      used |= uint64_t{1} << slot;
    }
    const bool forgotten = peer.slot < 0 && others_know_day0 && IsZeroUuid(bitmap(node).uuid);
    SetBitmap(node, previous, dagtag);
    if (slot < peers.max_peers || forgotten) marked |= NodeBit(node);
  }
  return marked;
}

NewCurrentResult UuidSet::NewCurrent(const UuidPeers& peers, bool forced, bool primary,
                                     uint64_t dagtag, uint64_t random_current,
                                     uint64_t predecessor_if_new) {
  const bool day0 = !IsJustCreated(current_) && AllBitmapAndHistoryZero();
  NodeMask weak = 0;
  for (int node = 0; forced && node < kNodeIds; ++node) {
    const UuidPeer& peer = peers.peer[static_cast<size_t>(node)];
    if (peer.disk == DiskState::kInconsistent && peer.established) weak |= NodeBit(node);
  }
  NewCurrentResult result;
  result.marked = Rotate(peers, weak, dagtag, predecessor_if_new);
  if (result.marked == 0 && !day0) return result;
  const uint64_t old = current_;
  SetCurrent(random_current, primary);
  if (result.marked == 0) PushHistory(old);
  result.created = true;
  return result;
}

void UuidSet::ClearAllBitmaps() {
  for (int node = 0; node < kNodeIds; ++node) {
    if (node != own_node_) SetBitmapAndPush(node, 0, 0);
  }
}

bool UuidSet::AllBitmapAndHistoryZero() const {
  const auto zero_bitmap = [](const BitmapUuid& entry) { return IsZeroUuid(entry.uuid); };
  return std::ranges::all_of(bitmap_, zero_bitmap) && std::ranges::all_of(history_, IsZeroUuid);
}

std::optional<int> UuidSet::FindBitmap(uint64_t uuid, NodeMask among) const {
  if (IsZeroUuid(uuid)) return std::nullopt;
  for (int node : Nodes(among)) {
    if (node != own_node_ && SameUuid(bitmap(node).uuid, uuid)) return node;
  }
  return std::nullopt;
}

bool UuidSet::InHistory(uint64_t uuid) const {
  if (IsZeroUuid(uuid)) return false;
  return std::ranges::any_of(history_, [uuid](uint64_t entry) { return SameUuid(entry, uuid); });
}

uint64_t UuidSet::StartupDagtag() const {
  uint64_t dagtag = 0;
  for (const BitmapUuid& entry : bitmap_) {
    if (!IsZeroUuid(entry.uuid)) dagtag = std::max(dagtag, entry.dagtag);
  }
  return dagtag;
}

}  // namespace umblock::drbd
