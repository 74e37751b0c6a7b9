// Checksum-based resync between two nodes (drbd-metadata-resync.md 6.9): what is equal is not sent.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/pair.h"

namespace umblock::drbd {
namespace {

using testing::ClusterOptions;
using testing::Options;
using testing::Pair;

ClusterOptions ByDigest(uint64_t seed, const char* algorithm = "crc32c") {
  ClusterOptions options = Options(seed);
  options.disk_bytes = uint64_t{16} << 20;
  options.net.csums_alg = algorithm;
  return options;
}

void WriteBehind(Pair& pair, int i, uint64_t offset, size_t bytes, uint8_t fill) {
  std::vector<std::byte> data(bytes, static_cast<std::byte>(fill));
  pair.disk(i).WriteNow(offset, data);
}

TEST(Csums, WhatIsEqualIsNotTransferred) {
  for (const char* algorithm : {"crc32c", "md5", "sha256"}) {
    SCOPED_TRACE(algorithm);
    Pair pair(ByDigest(1, algorithm));
    uint64_t before = pair.peer_volume(1).received_bytes;
    ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.SawEvent(1, "replication", "SyncTarget"));
    uint64_t size = pair.volume_status(1).size_bytes;
    EXPECT_EQ(pair.peer_volume(1).received_bytes, before);
    EXPECT_EQ(pair.peer_volume(1).equal_bytes, size);
    EXPECT_EQ(pair.peer_volume(0).equal_bytes, size) << "the source counts them too";
    EXPECT_EQ(pair.out_of_sync(0, 1), 0u);
    EXPECT_EQ(pair.out_of_sync(1, 0), 0u);
    pair.ExpectIdleCounters();
  }
}

TEST(Csums, WhatDiffersIs) {
  Pair pair(ByDigest(2));
  WriteBehind(pair, 1, 3 << 20, 512, 0x77);
  WriteBehind(pair, 1, 5 << 20, 512, 0x77);
  uint64_t before = pair.peer_volume(1).received_bytes;
  ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
  uint64_t received = pair.peer_volume(1).received_bytes - before;
  EXPECT_GE(received, 8192u);
  EXPECT_LE(received, 512u << 10);
  EXPECT_EQ(pair.peer_volume(1).equal_bytes + received, pair.volume_status(1).size_bytes);
}

TEST(Csums, ASlowSyncShowsWhatItSaved) {
  ClusterOptions options = ByDigest(3);
  options.resync.c_max_rate = 2048;
  Pair pair(options);
  ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
  ASSERT_TRUE(pair.RunUntil([&] {
    for (int node : {0, 1}) {
      auto sync = pair.peer_volume(node).sync;
      if (!sync || sync->equal_bytes == 0) return false;
    }
    return true;
  }));
  ASSERT_TRUE(pair.BecomesUpToDate());
}

TEST(Csums, WritesOfThePrimaryMeanwhile) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    ClusterOptions options = ByDigest(seed);
    options.resync.c_max_rate = 4096;
    Pair pair(options);
    for (uint64_t at = 0; at < 12; ++at) WriteBehind(pair, 1, at << 20, 65536, 0x78);
    ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
    bool load = true;
    uint8_t fill = 0;
    std::function<void()> issue = [&] {
      if (!load) return;
      uint64_t block = pair.world().random().Below(2000);
      pair.StartWrite(0, block * 4096, 4096, ++fill)->on_done = issue;
    };
    for (int i = 0; i < 4; ++i) issue();
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllUpToDate(); }, 120s));
    load = false;
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }));
    pair.RunFor(500ms);
    EXPECT_TRUE(pair.Equal(0, 1));
    EXPECT_EQ(pair.out_of_sync(0, 1), 0u);
    EXPECT_EQ(pair.out_of_sync(1, 0), 0u);
    pair.ExpectIdleCounters();
  }
}

TEST(Csums, ABlockThatTheTargetCannotReadIsFetched) {
  ClusterOptions options = ByDigest(4);
  options.disk.on_io_error = OnIoError::kPassOn;
  Pair pair(options);
  ASSERT_TRUE(pair.Await(0, pair.resource(0).Demote(false)));
  pair.disk(1).SetErrorPermille(SimDiskOp::kRead, 1000, EIO);
  ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
  ASSERT_TRUE(pair.BecomesUpToDate());
  pair.disk(1).ClearFaults();
  EXPECT_EQ(pair.peer_volume(1).equal_bytes, 0u);
  EXPECT_TRUE(pair.Equal(0, 1));
}

TEST(Csums, TheTargetsDiskFailsWhileItReads) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(seed);
    ClusterOptions options = ByDigest(seed);
    options.resync.c_max_rate = 4096;
    Pair pair(options);
    ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
    pair.RunFor(std::chrono::milliseconds(100 * seed));
    pair.disk(1).SetErrorPermille(SimDiskOp::kRead, 1000, EIO);
    ASSERT_TRUE(pair.WaitDisk(1, DiskState::kDiskless));
    pair.disk(1).ClearFaults();
    ASSERT_TRUE(pair.Attach(1));
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
    pair.ExpectIdleCounters();
  }
}

TEST(Csums, OnlyAfterACrashIfAskedFor) {
  ClusterOptions options = ByDigest(5);
  options.net.csums_after_crash_only = true;
  Pair pair(options);
  ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_EQ(pair.peer_volume(1).equal_bytes, 0u);
  // The Primary crashes; the other node goes on. What was under way is fetched by digest.
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 1 << 20, 0x21), 0);
  ASSERT_EQ(pair.Do(0, IoOp::kFlush, 0, 0), 0);
  pair.node(0).Crash(SimCrash::kPowerCut);
  ASSERT_TRUE(
      pair.RunUntil([&] { return pair.connection(1, 0) != ConnectionState::kConnected; }, 60s));
  ASSERT_TRUE(pair.Promote(1));
  ASSERT_EQ(pair.Do(1, IoOp::kWrite, 0, 4096, 0x22), 0);
  pair.Boot(0);
  ASSERT_TRUE(pair.BecomesUpToDate(240s));
  EXPECT_GT(pair.peer_volume(0).equal_bytes, 0u);
  EXPECT_LT(pair.peer_volume(0).received_bytes, 1u << 20);
  EXPECT_TRUE(pair.Equal(0, 1));
}

}  // namespace
}  // namespace umblock::drbd
