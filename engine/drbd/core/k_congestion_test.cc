// A peer that does not keep up (drbd-io-path.md F.5, F.6, K 76, 77): its disk is slow, protocol A.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/pair.h"

namespace umblock::drbd {
namespace {

using testing::ClusterOptions;
using testing::Options;
using testing::Pair;

constexpr uint64_t kFill = 1280 << 10;  // more than Pair writes at once

ClusterOptions Congestible(uint64_t seed, OnCongestion policy) {
  ClusterOptions options = Options(seed, Protocol::kA);
  options.net.on_congestion = policy;
  options.net.congestion_fill = kFill;
  options.resync.c_plan_ahead = 0;
  options.resync.resync_rate = 100 << 10;
  return options;
}

struct Slow : Pair {
  Slow(uint64_t seed, OnCongestion policy) : Pair(Congestible(seed, policy)) {}
  void SlowDown(bool on) { disk(1).set_slowdown(on ? 2000 : 1); }
  // Writes that are answered; where they went is remembered by what was written.
  void WriteSome(int count) {
    for (int i = 0; i < count; ++i) {
      const uint64_t at = world().random().Below(512) * 65536;
      ASSERT_EQ(Do(0, IoOp::kWrite, at, 65536, ++fill), 0);
    }
  }
  bool WaitRepl(ReplicationState wanted, Duration bound = 60s) {
    return RunUntil([&] { return repl(0, 1) == wanted; }, bound);
  }
  void ExpectEqual() {
    ASSERT_TRUE(WaitRepl(ReplicationState::kEstablished, 300s)) << Describe(0) << Describe(1);
    ASSERT_TRUE(BecomesUpToDate(300s));
    EXPECT_EQ(out_of_sync(0, 1), 0U);
    EXPECT_EQ(out_of_sync(1, 0), 0U);
    ASSERT_EQ(Do(0, IoOp::kFlush, 0, 0), 0);
    RunFor(5s);
    EXPECT_TRUE(Equal(0, 1));
  }
  uint8_t fill = 0;
};

TEST(Congestion, PullsAheadAndCatchesUp) {
  Slow pair(1, OnCongestion::kPullAhead);
  const std::string before = pair.volume_status(0).current_uuid;
  pair.SlowDown(true);
  pair.WriteSome(40);
  ASSERT_TRUE(pair.WaitRepl(ReplicationState::kAhead, 5s)) << pair.Describe(0);
  ASSERT_TRUE(pair.RunUntil([&] { return pair.repl(1, 0) == ReplicationState::kBehind; }));
  EXPECT_EQ(pair.disk_state(1), DiskState::kOutdated);
  EXPECT_NE(pair.volume_status(0).current_uuid, before) << "a new generation";
  // From here on the front does not notice the peer, and nothing is sent.
  const uint64_t sent = pair.status(0).connections.at(0).volumes.at(0).sent_bytes;
  pair.WriteSome(40);
  EXPECT_EQ(pair.status(0).connections.at(0).volumes.at(0).sent_bytes, sent);
  EXPECT_EQ(pair.repl(0, 1), ReplicationState::kAhead);
  EXPECT_FALSE(pair.Promote(1)) << "its data is old";
  pair.SlowDown(false);
  ASSERT_TRUE(pair.WaitRepl(ReplicationState::kSyncSource));
  pair.ExpectEqual();
  EXPECT_EQ(pair.volume_status(1).current_uuid.substr(0, 15),
            pair.volume_status(0).current_uuid.substr(0, 15));
}

TEST(Congestion, LetsGoOfThePeer) {
  Slow pair(2, OnCongestion::kDisconnect);
  pair.SlowDown(true);
  pair.WriteSome(40);
  ASSERT_TRUE(pair.WaitConnection(0, ConnectionState::kStandAlone)) << pair.Describe(0);
  EXPECT_NE(pair.status(0).connections.at(0).last_error.find("congested"), std::string::npos);
  pair.WriteSome(20);
  pair.SlowDown(false);
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.Connect(1, 0));
  pair.ExpectEqual();
}

TEST(Congestion, HoldsTheFrontBackByDefault) {
  Slow pair(3, OnCongestion::kBlock);
  pair.SlowDown(true);
  pair.WriteSome(40);
  EXPECT_EQ(pair.repl(0, 1), ReplicationState::kEstablished);
  pair.SlowDown(false);
  pair.ExpectEqual();
}

TEST(Congestion, AFullActivityLogIsOne) {
  ClusterOptions options = Congestible(4, OnCongestion::kPullAhead);
  options.net.congestion_fill = 0;
  options.net.congestion_extents = 67;
  options.disk_bytes = uint64_t{512} << 20;
  Pair pair(options);
  pair.disk(1).set_slowdown(2000);
  for (uint64_t extent = 0; extent < 66; ++extent) {
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, extent << 22, 4096, 1), 0);
  }
  EXPECT_EQ(pair.repl(0, 1), ReplicationState::kEstablished);
  for (uint64_t extent = 66; extent < 80; ++extent) {
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, extent << 22, 4096, 1), 0);
  }
  EXPECT_TRUE(pair.RunUntil([&] { return pair.repl(0, 1) == ReplicationState::kAhead; }, 5s));
  pair.disk(1).set_slowdown(1);
  ASSERT_TRUE(pair.RunUntil([&] { return pair.repl(0, 1) == ReplicationState::kEstablished; }));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
}

// Ahead again before it has caught up, writes all the time, several times over.
TEST(Congestion, AgainAndAgainUnderLoad) {
  for (uint64_t seed = 10; seed < 16; ++seed) {
    SCOPED_TRACE(seed);
    Slow pair(seed, OnCongestion::kPullAhead);
    int times_ahead = 0;
    bool was_ahead = false;
    for (int round = 0; round < 200; ++round) {
      pair.SlowDown(round / 20 % 2 == 0);
      pair.WriteSome(1);
      if (round % 10 == 0) pair.RunFor(400ms);
      const bool ahead = pair.repl(0, 1) == ReplicationState::kAhead;
      times_ahead += ahead && !was_ahead ? 1 : 0;
      was_ahead = ahead;
    }
    EXPECT_GT(times_ahead, 1);
    pair.SlowDown(false);
    pair.ExpectEqual();
  }
}

// K 77, and the other losses in every state of it.
class LostWhileAhead : public ::testing::TestWithParam<int> {};

TEST_P(LostWhileAhead, IsSyncedLater) {
  for (uint64_t seed = 20; seed < 28; ++seed) {
    SCOPED_TRACE(seed);
    Slow pair(seed, OnCongestion::kPullAhead);
    pair.SlowDown(true);
    pair.WriteSome(40);
    ASSERT_TRUE(pair.WaitRepl(ReplicationState::kAhead, 5s));
    ASSERT_TRUE(pair.RunUntil([&] { return pair.repl(1, 0) == ReplicationState::kBehind; }));
    pair.WriteSome(10);
    if (seed % 2 == 1) {
      pair.SlowDown(false);
      ASSERT_TRUE(pair.WaitRepl(ReplicationState::kSyncSource));
    }
    switch (GetParam()) {
      case 0:
        pair.node(0).Crash(SimCrash::kPowerCut);
        pair.RunFor(2s);
        EXPECT_FALSE(pair.Promote(1)) << "a node that fell behind has old data";
        pair.SlowDown(false);
        pair.Boot(0);
        ASSERT_TRUE(
            pair.RunUntil([&] { return pair.connection(0, 1) == ConnectionState::kConnected; }));
        ASSERT_TRUE(pair.BecomesUpToDate(300s));
        ASSERT_TRUE(pair.Promote(0));
        break;
      case 1:
        pair.node(1).Crash(SimCrash::kPowerCut);
        pair.RunFor(2s);
        pair.SlowDown(false);
        pair.Boot(1);
        break;
      default:
        pair.Cut(true);
        pair.RunFor(30s);
        pair.SlowDown(false);
        pair.Cut(false);
    }
    pair.ExpectEqual();
  }
}

INSTANTIATE_TEST_SUITE_P(How, LostWhileAhead, ::testing::Values(0, 1, 2));

}  // namespace
}  // namespace umblock::drbd
