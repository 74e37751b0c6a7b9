// Scenarios of drbd-states.md part 11 about disks that fail, go and come back, named by their
// number, and what drbd-io-path.md K says of that.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/pair.h"

namespace umblock::drbd {
namespace {

using testing::ClusterOptions;
using testing::Options;
using testing::Pair;
using testing::Text;

TEST(States, S85AFailedDiskOfThePrimaryGoesOnOverThePeerUnderLoad) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(Options(seed));
    for (uint64_t i = 0; i < 30; ++i) pair.StartWrite(0, i * 65536, 8192, 0x31);
    pair.disk(0).AddBadRange(20 * 65536, 4096, EIO);
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }));
    ASSERT_TRUE(pair.WaitDisk(0, DiskState::kDiskless));
    for (uint64_t i = 0; i < 30; ++i) {
      ASSERT_EQ(pair.Do(0, IoOp::kWrite, i * 65536, 8192, 0x32), 0);
    }
    EXPECT_EQ(pair.status(0).role, Role::kPrimary);
    EXPECT_EQ(pair.disk_state(1), DiskState::kUpToDate);
    pair.disk(0).ClearFaults();
    Status attached = pair.Attach(0);
    ASSERT_TRUE(attached) << Text(attached);
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.SawEvent(0, "replication", "SyncTarget"));
    EXPECT_TRUE(pair.Equal(0, 1));
    EXPECT_TRUE(pair.NowIs(0, 20 * 65536, 8192, 0x32));
    pair.ExpectAnsweredOnce();
    pair.ExpectIdleCounters();
  }
}

TEST(States, S86AFailedDiskOfTheSecondaryBeginsANewGenerationAtOnce) {
  Pair pair(Options(86));
  std::string before = pair.volume_status(0).current_uuid;
  pair.disk(1).AddBadRange(0, 4096, EIO);
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x31), 0);
  ASSERT_TRUE(pair.WaitDisk(1, DiskState::kDiskless));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.volume_status(0).current_uuid != before; }, 5s))
      << "without further I/O";
  pair.disk(1).ClearFaults();
  ASSERT_TRUE(pair.Attach(1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.SawEvent(1, "replication", "SyncTarget"));
  EXPECT_TRUE(pair.Equal(0, 1));
}

TEST(States, S87WithPassOnTheSecondaryStaysInconsistent) {
  ClusterOptions options = Options(87);
  options.disk.on_io_error = OnIoError::kPassOn;
  Pair pair(options);
  std::string before = pair.volume_status(0).current_uuid;
  pair.disk(1).AddBadRange(0, 4096, EIO);
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x31), 0);
  ASSERT_TRUE(pair.WaitDisk(1, DiskState::kInconsistent));
  EXPECT_EQ(pair.connection(0, 1), ConnectionState::kConnected);
  ASSERT_TRUE(pair.RunUntil([&] { return pair.out_of_sync(0, 1) == 4096; }, 5s));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.volume_status(0).current_uuid != before; }, 5s));
  // Other blocks go on being replicated; after a reconnect the bad one is there too.
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 65536, 4096, 0x32), 0);
  EXPECT_TRUE(pair.NowIs(1, 65536, 4096, 0x32));
  pair.disk(1).ClearFaults();
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
}

TEST(States, S88DetachAndAttachWithoutWritesNeedNoResync) {
  Pair pair(Options(88));
  Status detached = pair.Detach(1);
  ASSERT_TRUE(detached) << Text(detached);
  EXPECT_EQ(pair.disk_state(1), DiskState::kDiskless);
  EXPECT_EQ(pair.connection(0, 1), ConnectionState::kConnected);
  Status attached = pair.Attach(1);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.SawEvent(1, "disk", "Negotiating"));
  EXPECT_FALSE(pair.SawEvent(1, "replication", "SyncTarget"));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x31), 0);
  EXPECT_TRUE(pair.NowIs(1, 0, 4096, 0x31));
}

TEST(States, S89DetachWriteAndAttachResyncs) {
  Pair pair(Options(89));
  ASSERT_TRUE(pair.Detach(1));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 4 << 20, 65536, 0x31), 0);
  EXPECT_EQ(pair.out_of_sync(0, 1), 65536u);
  ASSERT_TRUE(pair.Attach(1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.SawEvent(1, "replication", "SyncTarget"));
  EXPECT_EQ(pair.peer_volume(1).received_bytes - (1 << 20), 65536u);
  EXPECT_TRUE(pair.Equal(0, 1));
}

TEST(States, S90ADiskWithOtherDataIsNotAttached) {
  Pair pair(Options(90));
  ASSERT_TRUE(pair.Detach(1));
  // Made anew: it is nobody's replica, and a full sync is what it needs.
  ASSERT_TRUE(pair.Await(
      1, CreateMetadata(
             {.backing = pair.program(1).backends[0].get(), .max_peers = 1, .force = true})));
  Status attached = pair.Attach(1);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
  EXPECT_EQ(pair.disk_state(0), DiskState::kUpToDate);
}

TEST(K87, DetachAndAttachUnderLoadLeaveNoDifference) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(Options(seed));
    bool load = true;
    std::function<void()> issue = [&] {
      if (!load) return;
      uint64_t at = pair.world().random().Below(500) * 8192;
      pair.StartWrite(0, at, 4096, static_cast<uint8_t>(at / 8192))->on_done = issue;
    };
    for (int i = 0; i < 6; ++i) issue();
    for (int round = 0; round < 3; ++round) {
      int who = static_cast<int>((seed + static_cast<uint64_t>(round)) % 2);
      pair.RunFor(3ms);
      Status detached = pair.Detach(who);
      ASSERT_TRUE(detached) << Text(detached);
      pair.RunFor(3ms);
      Status attached = pair.Attach(who);
      ASSERT_TRUE(attached) << Text(attached);
      ASSERT_TRUE(pair.BecomesUpToDate());
    }
    load = false;
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }));
    pair.RunFor(500ms);
    EXPECT_TRUE(pair.Equal(0, 1));
    pair.ExpectAnsweredOnce();
    pair.ExpectIdleCounters();
  }
}

TEST(Disks, AForcedDetachOfASecondaryKeepsTheLink) {
  Pair pair(Options(870));
  Status detached = pair.Await(1, pair.resource(1).Detach(0, true));
  ASSERT_TRUE(detached) << Text(detached);
  EXPECT_EQ(pair.disk_state(1), DiskState::kDiskless);
  EXPECT_EQ(pair.connection(0, 1), ConnectionState::kConnected);
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x31), 0);
  ASSERT_TRUE(pair.Attach(1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
}

TEST(Disks, TheOnlyCopyIsNotDetachedWhileItIsInUse) {
  Pair pair(Options(871));
  auto opened = pair.volume(0).Open({.description = "somebody", .write = true});
  ASSERT_TRUE(opened);
  ASSERT_TRUE(pair.Disconnect(0, 1));
  Status detached = pair.Detach(0);
  ASSERT_FALSE(detached);
  EXPECT_NE(detached.error().message().find("somebody"), std::string::npos) << Text(detached);
  pair.volume(0).Close(*opened);
}

TEST(Disks, AMissingOrFullMetadataDeviceIsACleanError) {
  Pair pair(Options(872));
  ASSERT_TRUE(pair.Detach(1));
  EXPECT_FALSE(pair.Await(1, pair.resource(1).Attach({.volume = 0, .backing = nullptr})));
  EXPECT_FALSE(pair.Await(1, pair.resource(1).Attach({.volume = 9, .backing = nullptr})));
  pair.disk(1).SetErrorPermille(SimDiskOp::kRead, 1000, EIO);
  Status attached = pair.Attach(1);
  EXPECT_FALSE(attached);
  EXPECT_EQ(pair.disk_state(1), DiskState::kDiskless);
  pair.disk(1).ClearFaults();
  ASSERT_TRUE(pair.Attach(1));
  ASSERT_TRUE(pair.BecomesUpToDate());
}

}  // namespace
}  // namespace umblock::drbd
