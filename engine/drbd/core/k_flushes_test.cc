// disk-flushes and md-flushes (drbd-io-path.md B.6, K 25, K 30; drbd-metadata-resync.md 3.2.5): who
// switches them off promises a cache that survives a loss of power.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/pair.h"

namespace umblock::drbd {
namespace {

using testing::Bench;
using testing::ClusterOptions;
using testing::FrontIo;
using testing::Options;
using testing::Pair;
using wire::PacketType;

ClusterOptions Trusting(uint64_t seed, bool disk_flushes, bool md_flushes) {
  ClusterOptions options = Options(seed);
  options.disk_bytes = uint64_t{320} << 20;
  options.disk.al_extents = 67;
  options.disk.disk_flushes = disk_flushes;
  options.disk.md_flushes = md_flushes;
  options.external_metadata = true;
  return options;
}

bool Logged(Bench& bench, std::string_view text) {
  for (const std::string& line : bench.world().recent_log()) {
    if (line.find(text) != std::string::npos) return true;
  }
  return false;
}

// Writes in more extents than the log has: epochs, transactions, bitmap pages.
void WriteAllOver(Bench& bench) {
  for (uint64_t i = 0; i < 79; ++i) {
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, i * (4 << 20), 4096, static_cast<uint8_t>(i + 1)), 0);
  }
  bench.RunFor(500ms);
}

TEST(K30, WithoutACacheDrainKeepsEpochsInOrder) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    ClusterOptions options = Options(seed, seed % 2 == 0 ? Protocol::kA : Protocol::kC);
    options.volatile_cache = false;
    options.disk.disk_flushes = false;
    Bench bench(options);
    bench.BringUpPrimary();
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 1 << 20, 0), 0);
    bench.RunFor(500ms);
    EXPECT_EQ(bench.status(1).write_ordering, "drain");
    constexpr uint64_t kWrites = 40;
    uint64_t next = 0;
    std::function<void()> issue = [&] {
      if (next >= kWrites) return;
      uint64_t i = next++;
      FrontIo* write = bench.StartWrite(0, i * 8192, 4096, static_cast<uint8_t>(i + 1));
      write->on_done = issue;
    };
    issue();
    bench.RunFor(std::chrono::microseconds(bench.world().random().Below(40000)));
    bench.node(1).Crash(SimCrash::kPowerCut);
    bool missing = false;
    for (uint64_t i = 0; i < kWrites; ++i) {
      bool there = bench.NowIs(1, i * 8192, 4096, static_cast<uint8_t>(i + 1));
      bool part = !there && !bench.NowIs(1, i * 8192, 4096, 0);
      EXPECT_FALSE(missing && (there || part)) << "write " << i << " without the one before it";
      missing = missing || !there;
    }
    ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }, 60s));
  }
}

TEST(K30, WithoutDiskFlushesNoBarrierFlushesAndTheLogIsNoReasonEither) {
  Pair pair(Trusting(1, false, true));
  EXPECT_EQ(pair.status(1).write_ordering, "drain");
  EXPECT_TRUE(Logged(pair, "disk-flushes is off"));
  uint64_t before[] = {pair.disk(0).count(SimDiskOp::kSync), pair.disk(1).count(SimDiskOp::kSync)};
  size_t barriers = pair.log.Count(1, PacketType::kBarrierAck);
  WriteAllOver(pair);
  EXPECT_GT(pair.log.Count(1, PacketType::kBarrierAck), barriers + 20);
  EXPECT_GT(pair.volume_status(0).counters.al_writes, 67u) << "extents were evicted";
  for (int node : {0, 1}) EXPECT_EQ(pair.disk(node).count(SimDiskOp::kSync), before[node]);
  // What an initiator asks for is another matter.
  ASSERT_EQ(pair.Do(0, IoOp::kFlush, 0, 0), 0);
  EXPECT_EQ(pair.disk(0).count(SimDiskOp::kSync), before[0] + 1);
  EXPECT_TRUE(pair.Equal(0, 1));
  pair.ExpectIdleCounters();
}

TEST(K25, WithoutMdFlushesTheMetadataIsNotFlushedAndThatIsSaid) {
  Pair pair(Trusting(2, true, false));
  EXPECT_EQ(pair.status(1).write_ordering, "flush");
  EXPECT_TRUE(Logged(pair, "md-flushes is off"));
  EXPECT_FALSE(Logged(pair, "disk-flushes is off"));
  std::array<SimDisk*, 2> meta = {pair.node(0).files().Find("meta"),
                                  pair.node(1).files().Find("meta")};
  std::array<uint64_t, 2> syncs{};
  uint64_t durable = 0;
  for (int node : {0, 1}) {
    syncs[node] = meta[node]->count(SimDiskOp::kSync);
    meta[node]->SetObserver([&](const SimDiskEvent& event) { durable += event.durable ? 1 : 0; });
  }
  uint64_t data = pair.disk(1).count(SimDiskOp::kSync);
  WriteAllOver(pair);
  EXPECT_GT(pair.volume_status(0).counters.al_writes, 67u);
  for (int node : {0, 1}) {
    EXPECT_EQ(meta[node]->count(SimDiskOp::kSync), syncs[node]);
    meta[node]->SetObserver({});
  }
  EXPECT_EQ(durable, 0u);
  EXPECT_GT(pair.disk(1).count(SimDiskOp::kSync), data) << "the data is flushed all the same";
}

TEST(Flushes, AreOnUnlessSwitchedOff) {
  Pair pair(Trusting(3, true, true));
  EXPECT_FALSE(Logged(pair, "is off: if the cache"));
  SimDisk* meta = pair.node(0).files().Find("meta");
  uint64_t syncs = meta->count(SimDiskOp::kSync);
  WriteAllOver(pair);
  EXPECT_GE(meta->count(SimDiskOp::kSync), syncs + 67);
}

TEST(Flushes, AreSwitchedWhileTheDiskIsInUse) {
  Pair pair(Options(4));
  DiskOptions disk;
  disk.disk_flushes = false;
  disk.md_flushes = false;
  ASSERT_TRUE(pair.resource(1).UpdateDiskOptions(0, disk));
  EXPECT_EQ(pair.status(1).write_ordering, "drain");
  EXPECT_TRUE(Logged(pair, "disk-flushes is off"));
  EXPECT_TRUE(Logged(pair, "md-flushes is off"));
  uint64_t before = pair.disk(1).count(SimDiskOp::kSync);
  for (uint8_t i = 1; i < 20; ++i)
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, uint64_t{i} * 4096, 4096, i), 0);
  pair.RunFor(300ms);
  EXPECT_EQ(pair.disk(1).count(SimDiskOp::kSync), before);
  ASSERT_TRUE(pair.resource(1).UpdateDiskOptions(0, {}));
  EXPECT_EQ(pair.status(1).write_ordering, "flush");
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
  ASSERT_TRUE(pair.RunUntil([&] { return pair.disk(1).count(SimDiskOp::kSync) > before; }, 5s));
  // A disk that is not there has no say.
  ASSERT_TRUE(pair.resource(1).UpdateDiskOptions(0, disk));
  ASSERT_TRUE(pair.Detach(1));
  EXPECT_EQ(pair.status(1).write_ordering, "flush");
}

}  // namespace
}  // namespace umblock::drbd
