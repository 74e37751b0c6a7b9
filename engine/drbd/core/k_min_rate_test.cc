// c-min-rate (drbd-metadata-resync.md 6.5): a resync yields to the I/O of applications, down to
// that rate.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/pair.h"

namespace umblock::drbd {
namespace {

using testing::ClusterOptions;
using testing::Options;
using testing::Pair;

constexpr uint64_t kBytes = uint64_t{8} << 20;

ClusterOptions AtLeast(uint32_t kib_per_second) {
  ClusterOptions options = Options(1);
  options.disk_bytes = kBytes;
  options.resync.c_min_rate = kib_per_second;
  return options;
}

// How long a full sync takes, with or without writes beside it.
Duration FullSync(Pair& pair, bool busy, const std::function<void()>& after_a_second = {}) {
  EXPECT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
  SimTime start = pair.world().now();
  bool load = busy;
  uint8_t fill = 0;
  std::function<void()> issue = [&] {
    if (load) pair.StartWrite(0, uint64_t{fill} * 4096, 4096, fill)->on_done = issue;
    ++fill;
  };
  issue();
  if (after_a_second) {
    pair.RunFor(1s);
    after_a_second();
  }
  EXPECT_TRUE(pair.RunUntil([&] { return pair.AllUpToDate(); }, 120s));
  Duration taken = pair.world().now() - start;
  load = false;
  EXPECT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }));
  pair.RunFor(500ms);
  EXPECT_TRUE(pair.Equal(0, 1));
  return taken;
}

TEST(MinRate, AResyncYieldsToWritesDownToIt) {
  Pair pair(AtLeast(2048));
  Duration taken = FullSync(pair, true);
  // 8 MiB at 2 MiB/s.
  EXPECT_GE(taken, 3s);
  EXPECT_LE(taken, 8s) << "the rate is what it takes all the same";
  pair.ExpectIdleCounters();
}

TEST(MinRate, WithoutOtherIoItGoesAsFastAsItCan) {
  Pair pair(AtLeast(2048));
  EXPECT_LE(FullSync(pair, false), 2s);
}

TEST(MinRate, ZeroIsNoReasonToYield) {
  Pair pair(AtLeast(0));
  EXPECT_LE(FullSync(pair, true), 3s);
}

TEST(MinRate, IsChangedWhileAResyncRuns) {
  Pair pair(AtLeast(64));
  ResyncOptions faster;
  faster.c_min_rate = 0;
  EXPECT_LE(
      FullSync(pair, true, [&] { EXPECT_TRUE(pair.resource(1).UpdateResyncOptions(0, faster)); }),
      8s)
      << "128 s at the old rate";
}

}  // namespace
}  // namespace umblock::drbd
