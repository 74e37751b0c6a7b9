// Thin resync between two nodes (drbd-metadata-resync.md 6.9, drbd-io-path.md E.5): zeroes are not
// sent, and the target's backing device releases them.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/pair.h"

namespace umblock::drbd {
namespace {

using testing::ClusterOptions;
using testing::Options;
using testing::Pair;

ClusterOptions Thin(uint64_t seed, uint32_t unit = 65536) {
  ClusterOptions options = Options(seed);
  options.disk_bytes = uint64_t{16} << 20;
  options.disk.rs_discard_granularity = unit;
  return options;
}

void WriteBehind(Pair& pair, int i, uint64_t offset, size_t bytes, uint8_t fill) {
  std::vector<std::byte> data(bytes, static_cast<std::byte>(fill));
  pair.disk(i).WriteNow(offset, data);
}

TEST(Thin, ZeroesAreNotTransferredAndReleased) {
  Pair pair(Thin(1));  // 1 MiB of data
  WriteBehind(pair, 1, 4 << 20, 1 << 20, 0x77);
  uint64_t before = pair.peer_volume(1).received_bytes;
  ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
  ASSERT_TRUE(pair.BecomesUpToDate());
  uint64_t size = pair.volume_status(1).size_bytes;
  uint64_t received = pair.peer_volume(1).received_bytes - before;
  EXPECT_LT(received, (uint64_t{1} << 20) + 65536) << "the data, and less than a unit at the end";
  EXPECT_EQ(pair.peer_volume(1).deallocated_bytes + received, size);
  EXPECT_EQ(pair.peer_volume(0).deallocated_bytes, pair.peer_volume(1).deallocated_bytes);
  EXPECT_TRUE(pair.Equal(0, 1));
  // One more made the metadata.
  EXPECT_GE(pair.disk(1).count(SimDiskOp::kWriteZeroes),
            pair.peer_volume(1).deallocated_bytes / 65536);
  pair.ExpectIdleCounters();
}

TEST(Thin, DigestsComeFirst) {
  ClusterOptions options = Thin(2);
  options.net.csums_alg = "crc32c";
  Pair pair(options);
  ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_EQ(pair.peer_volume(1).deallocated_bytes, 0u);
  EXPECT_EQ(pair.peer_volume(1).equal_bytes, pair.volume_status(1).size_bytes);
}

TEST(Thin, IsSwitchedOnWhileTheDiskIsAttached) {
  Pair pair(Thin(3, 0));
  ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_EQ(pair.peer_volume(1).deallocated_bytes, 0u);
  DiskOptions disk;
  disk.rs_discard_granularity = 1 << 20;
  ASSERT_TRUE(pair.resource(1).UpdateDiskOptions(0, disk));
  disk.rs_discard_granularity = (1 << 20) + 4096;
  Status refused = pair.resource(1).UpdateDiskOptions(0, disk);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("rs-discard-granularity"), std::string::npos);
  ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_GE(pair.peer_volume(1).deallocated_bytes, uint64_t{12} << 20);
  EXPECT_TRUE(pair.Equal(0, 1));
}

// A unit is larger than what the rate allows in a tick; on average it holds all the same.
TEST(Thin, KeepsToItsRate) {
  for (uint32_t plan_ahead : {0U, 20U}) {
    SCOPED_TRACE(plan_ahead);
    ClusterOptions options = Thin(4, 1 << 20);
    options.resync.c_plan_ahead = plan_ahead;
    options.resync.resync_rate = 2048;
    options.resync.c_max_rate = 2048;
    Pair pair(options);
    ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
    SimTime start = pair.world().now();
    ASSERT_TRUE(pair.BecomesUpToDate());
    // 16 MiB at 2 MiB/s; one unit may be ahead.
    EXPECT_GE(pair.world().now() - start, 7s);
    EXPECT_LE(pair.world().now() - start, 20s);
  }
}

// Writes, discards and zeroings of the Primary into the blocks that are being synchronised.
TEST(Thin, NoWriteOfThePrimaryIsLostMeanwhile) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    ClusterOptions options = Thin(seed, seed % 3 == 0 ? 4096 : 65536);
    options.disk_bytes = uint64_t{8} << 20;
    options.resync.c_max_rate = 8192;
    if (seed % 4 == 3) options.net.protocol = Protocol::kA;
    Pair pair(options);
    for (uint64_t at = 0; at < 6; ++at) WriteBehind(pair, 1, at << 20, 65536, 0x78);
    ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
    int left = 1500;
    uint8_t fill = 0;
    std::function<void()> issue = [&] {
      if (left-- <= 0) return;
      uint64_t block = pair.world().random().Below(1800);
      pair.StartWrite(0, block * 4096, 4096, ++fill)->on_done = issue;
    };
    for (int i = 0; i < 4; ++i) issue();
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllUpToDate(); }, 120s));
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }));
    ASSERT_TRUE(pair.RunUntil([&] { return bool{pair.Equal(0, 1)}; }, 60s));
    EXPECT_GT(pair.peer_volume(1).deallocated_bytes, 0u);
    EXPECT_EQ(pair.out_of_sync(0, 1), 0u);
    EXPECT_EQ(pair.out_of_sync(1, 0), 0u);
    pair.ExpectIdleCounters();
  }
}

// The target is the Primary: its own writes meet the zeroes that it fetches.
TEST(Thin, NoWriteOfAPrimaryTargetIsLost) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    ClusterOptions options = Thin(seed);
    options.resync.c_max_rate = 8192;
    Pair pair(options);
    // Its disk goes and comes back: what was discarded meanwhile is fetched.
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, 2 << 20, 1 << 20, 0x31), 0);
    ASSERT_TRUE(pair.Detach(0));
    ASSERT_EQ(pair.Do(0, IoOp::kDiscard, 0, 8 << 20), 0);
    ASSERT_TRUE(pair.Attach(0));
    int left = 1500;
    uint8_t fill = 0;
    std::function<void()> issue = [&] {
      if (left-- <= 0) return;
      uint64_t block = pair.world().random().Below(2048);
      pair.StartWrite(0, block * 4096, 4096, ++fill)->on_done = issue;
    };
    for (int i = 0; i < 4; ++i) issue();
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllUpToDate(); }, 120s));
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }));
    ASSERT_TRUE(pair.RunUntil([&] { return bool{pair.Equal(0, 1)}; }, 60s));
    EXPECT_GT(pair.peer_volume(0).deallocated_bytes, 0u);
    EXPECT_TRUE(pair.Equal(0, 1));
    pair.ExpectIdleCounters();
  }
}

TEST(Thin, ATargetThatCrashesStartsAgain) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    ClusterOptions options = Thin(seed);
    options.resync.c_max_rate = 4096;
    Pair pair(options);
    WriteBehind(pair, 1, 4 << 20, 1 << 20, 0x77);
    ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
    pair.RunFor(std::chrono::milliseconds(300 * seed));
    pair.node(1).Crash(SimCrash::kPowerCut);
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, 4 << 20, 8192, 0x32), 0);
    pair.Boot(1);
    ASSERT_TRUE(pair.BecomesUpToDate(240s));
    EXPECT_TRUE(pair.Equal(0, 1));
    pair.ExpectIdleCounters();
  }
}

TEST(Thin, ADiskThatCannotWriteZeroesEndsTheResync) {
  ClusterOptions options = Thin(5);
  Pair pair(options);
  pair.disk(1).SetErrorPermille(SimDiskOp::kWriteZeroes, 1000, EIO);
  ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
  ASSERT_TRUE(pair.WaitDisk(1, DiskState::kDiskless));
  pair.disk(1).ClearFaults();
  ASSERT_TRUE(pair.Attach(1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
}

}  // namespace
}  // namespace umblock::drbd
