// Data generation UUIDs of one volume, and the primitive operations on them.
//
// A UUID names a data generation. Bit 0 is not part of the name: it says "was Primary when this was
// stored" and is masked in every comparison. 4 means "never had a generation"; 0 counts as 4 in a
// current UUID and as "not counting differences" in a bitmap UUID (drbd-metadata-resync.md 4.1).
//
// Everything here is a value or a pure function; random UUIDs come in as arguments. The caller
// makes changes durable (superblock written and synced) before it tells a peer or lets I/O go on.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "engine/drbd/state/node_mask.h"
#include "engine/drbd/wire/constants.h"
#include "engine/drbd/wire/state_word.h"

namespace umblock::drbd {

using wire::kHistoryUuids;
using wire::kUuidJustCreated;
using wire::kUuidPrimaryBit;
using wire::kUuidUnknown;  // in a bitmap slot that a peer sent, or did not send

constexpr uint64_t WithoutPrimaryFlag(uint64_t uuid) { return uuid & ~kUuidPrimaryBit; }
constexpr bool SameUuid(uint64_t a, uint64_t b) {
  return WithoutPrimaryFlag(a) == WithoutPrimaryFlag(b);
}
constexpr bool IsZeroUuid(uint64_t uuid) { return WithoutPrimaryFlag(uuid) == 0; }
// A current UUID that names no generation: 4, or 0 which is treated like it.
constexpr bool IsJustCreated(uint64_t uuid) {
  return WithoutPrimaryFlag(uuid) == kUuidJustCreated || IsZeroUuid(uuid);
}

// The generation this node shared with a peer when it began to count differences, and the position
// in the change stream at that moment. uuid 0 = not counting.
struct BitmapUuid {
  uint64_t uuid = 0;
  uint64_t dagtag = 0;
  bool operator==(const BitmapUuid&) const = default;
};

// What the rotation needs to know about one node id.
struct UuidPeer {
  bool configured = false;  // there is a connection object for this id
  bool connected = false;   // replication state above Off
  bool established = false;
  DiskState disk = DiskState::kUnknown;  // our view of its disk
  int slot = -1;                         // on-disk bitmap slot, -1 = none
  // It has refused or lost writes of the present generation, whatever its disk says of itself.
  bool misses_writes = false;

  bool operator==(const UuidPeer&) const = default;
};

// The environment of a UUID operation on one volume.
struct UuidPeers {
  int own_node = 0;
  int max_peers = 1;  // bitmap slots in the metadata
  std::array<UuidPeer, kNodeIds> peer{};

  NodeMask WithSlot() const;
};

struct NewCurrentResult {
  bool created = false;  // a new current UUID was stored
  NodeMask marked = 0;   // nodes that got a new bitmap UUID
};

class UuidSet {
 public:
  explicit UuidSet(int own_node = 0) : own_node_(own_node) {}

  int own_node() const { return own_node_; }
  uint64_t current() const { return current_; }
  const BitmapUuid& bitmap(int node) const { return bitmap_[static_cast<size_t>(node)]; }
  uint64_t history(int index) const { return history_[static_cast<size_t>(index)]; }
  const std::array<uint64_t, kHistoryUuids>& history() const { return history_; }

  // Loading from metadata, and tests: stores as given, no rule applied.
  void Load(uint64_t current) { current_ = current; }
  void LoadBitmap(int node, BitmapUuid value) { bitmap_[static_cast<size_t>(node)] = value; }
  void LoadHistory(int index, uint64_t uuid) { history_[static_cast<size_t>(index)] = uuid; }

  // Stores `uuid` as current with bit 0 = `primary`. No history push.
  void SetCurrent(uint64_t uuid, bool primary);
  // Demotion: bit 0 of current is cleared.
  void ClearPrimaryFlag() { current_ = WithoutPrimaryFlag(current_); }

  // drbd-metadata-resync.md 4.2.1. Returns whether the history changed.
  bool PushHistory(uint64_t uuid);
  // 4.2.2. The plain form; dagtag is 0 for uuid 0. Returns whether anything changed.
  bool SetBitmap(int node, uint64_t uuid, uint64_t dagtag);
  // 4.2.2, the public form: the previous value goes to the history.
  bool SetBitmapAndPush(int node, uint64_t uuid, uint64_t dagtag);

  // 4.2.3, and ids that were forgotten. Nodes that now have a new bitmap UUID = the generation that
  // ends. `predecessor_if_new` stands in for a current UUID of 4.
  NodeMask Rotate(const UuidPeers& peers, NodeMask weak, uint64_t dagtag,
                  uint64_t predecessor_if_new);
  // 4.2.4. `forced` = forced promotion: Inconsistent peers that are Established count as weak.
  NewCurrentResult NewCurrent(const UuidPeers& peers, bool forced, bool primary, uint64_t dagtag,
                              uint64_t random_current, uint64_t predecessor_if_new);

  // 4.6: every bitmap UUID goes to the history and becomes 0.
  void ClearAllBitmaps();

  bool AllBitmapAndHistoryZero() const;
  // The node whose bitmap UUID is `uuid` (bit 0 masked), among `among`; lowest id first.
  std::optional<int> FindBitmap(uint64_t uuid, NodeMask among = kAllNodes) const;
  bool InHistory(uint64_t uuid) const;
  // 8.6: where the write counter of a node starts.
  uint64_t StartupDagtag() const;

  bool operator==(const UuidSet&) const = default;

 private:
  int own_node_ = 0;
  uint64_t current_ = kUuidJustCreated;
  std::array<BitmapUuid, kNodeIds> bitmap_{};
  std::array<uint64_t, kHistoryUuids> history_{};
};

}  // namespace umblock::drbd
