// Disk states from metadata (drbd-states.md 7.1).
#pragma once

#include <array>
#include <cstdint>

#include "engine/drbd/state/node_mask.h"
#include "engine/drbd/wire/state_word.h"

namespace umblock::drbd {

// One peer slot of the metadata, and what is known of that peer now.
struct FencingSlot {
  bool known = false;     // HAVE_BITMAP or NODE_EXISTS
  bool fencing = false;   // PEER_FENCING
  bool outdated = false;  // PEER_OUTDATED
  bool device_seen = false;
  bool bitmap_no = false;  // configured intentionally diskless
  DiskState disk = DiskState::kUnknown;
};

struct MayBeUpToDateInput {
  bool diskless_primary_on_other_uuid = false;  // a connected one
  bool reconcile_pending = false;
  std::array<FencingSlot, kNodeIds> slots{};
};
bool MayBeUpToDate(const MayBeUpToDateInput& in);

// consistent, was_up_to_date: flags of the superblock.
DiskState DiskStateFromMetadata(bool consistent, bool was_up_to_date, bool may_be_up_to_date);

// The flags to store for a disk state (1.7); not while Negotiating.
struct DiskFlags {
  bool consistent = false;
  bool was_up_to_date = false;
  bool operator==(const DiskFlags&) const = default;
};
DiskFlags FlagsForDisk(DiskState disk);

// A peer's Negotiating is translated by the INCONSISTENT flag of its UUIDs (7.2).
constexpr DiskState ResolvePeerDisk(DiskState disk, bool inconsistent_flag) {
  if (disk != DiskState::kNegotiating) return disk;
  return inconsistent_flag ? DiskState::kInconsistent : DiskState::kConsistent;
}

// 6.6: latch "restore quorum" at attach.
constexpr bool RestoresQuorum(bool had_quorum, bool was_up_to_date, NodeMask members, int self) {
  return had_quorum && was_up_to_date && members == NodeBit(self);
}

}  // namespace umblock::drbd
