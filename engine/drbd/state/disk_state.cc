#include "engine/drbd/state/disk_state.h"

#include <algorithm>

namespace umblock::drbd {
namespace {

// 7.1 (c): this peer might have gone on without us, or it cannot have.
bool Excused(const FencingSlot& slot) {
  switch (slot.disk) {
    case DiskState::kInconsistent:
    case DiskState::kOutdated:
    case DiskState::kConsistent:
    case DiskState::kUpToDate:
      return true;
    case DiskState::kDiskless:
      if (!slot.device_seen) return true;
      break;
    default:
      break;
  }
  return slot.bitmap_no || slot.outdated;
}

}  // namespace

bool MayBeUpToDate(const MayBeUpToDateInput& in) {
  if (in.diskless_primary_on_other_uuid || in.reconcile_pending) return false;
  return std::ranges::all_of(in.slots, [](const FencingSlot& slot) {
    return !slot.known || !slot.fencing || Excused(slot);
  });
}

DiskState DiskStateFromMetadata(bool consistent, bool was_up_to_date, bool may_be_up_to_date) {
  if (!consistent) return DiskState::kInconsistent;
  if (!was_up_to_date) return DiskState::kOutdated;
  return may_be_up_to_date ? DiskState::kUpToDate : DiskState::kConsistent;
}

DiskFlags FlagsForDisk(DiskState disk) {
  return {disk > DiskState::kInconsistent, disk > DiskState::kOutdated};
}

}  // namespace umblock::drbd
