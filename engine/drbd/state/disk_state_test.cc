#include "engine/drbd/state/disk_state.h"

#include <gtest/gtest.h>

namespace umblock::drbd {
namespace {

using Disk = DiskState;

// --- Disk states from metadata (7.1) ---

TEST(DiskFromMetadata, Table) {
  EXPECT_EQ(DiskStateFromMetadata(false, true, true), Disk::kInconsistent);
  EXPECT_EQ(DiskStateFromMetadata(true, false, true), Disk::kOutdated);
  EXPECT_EQ(DiskStateFromMetadata(true, true, true), Disk::kUpToDate);
  EXPECT_EQ(DiskStateFromMetadata(true, true, false), Disk::kConsistent);
  for (const Disk disk : {Disk::kInconsistent, Disk::kOutdated, Disk::kUpToDate}) {
    const DiskFlags flags = FlagsForDisk(disk);
    EXPECT_EQ(DiskStateFromMetadata(flags.consistent, flags.was_up_to_date, true), disk);
  }
}

// Scenario 34: alone with fencing, the peer unknown.
TEST(DiskFromMetadata, FencingNeedsAnExcuse) {
  MayBeUpToDateInput in;
  FencingSlot& slot = in.slots[1];
  slot = {.known = true, .fencing = true, .device_seen = true};
  EXPECT_FALSE(MayBeUpToDate(in));
  for (const Disk disk :
       {Disk::kInconsistent, Disk::kOutdated, Disk::kConsistent, Disk::kUpToDate}) {
    slot.disk = disk;
    EXPECT_TRUE(MayBeUpToDate(in));
  }
  slot.disk = Disk::kUnknown;
  slot.outdated = true;
  EXPECT_TRUE(MayBeUpToDate(in));
  slot.outdated = false;
  slot.bitmap_no = true;
  EXPECT_TRUE(MayBeUpToDate(in));
  slot.bitmap_no = false;
  slot.disk = Disk::kDiskless;
  EXPECT_FALSE(MayBeUpToDate(in));
  slot.device_seen = false;
  EXPECT_TRUE(MayBeUpToDate(in));
  slot.disk = Disk::kUnknown;
  slot.fencing = false;  // without fencing a node may be UpToDate alone
  EXPECT_TRUE(MayBeUpToDate(in));
  in.reconcile_pending = true;
  EXPECT_FALSE(MayBeUpToDate(in));
  in.reconcile_pending = false;
  in.diskless_primary_on_other_uuid = true;
  EXPECT_FALSE(MayBeUpToDate(in));
}

}  // namespace
}  // namespace umblock::drbd
