// Suspended I/O (drbd-states.md part 11), roles that move under load, several volumes, and acts
// that are asked for at the same time.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/pair.h"

namespace umblock::drbd {
namespace {

using testing::Bench;
using testing::ClusterOptions;
using testing::FrontIo;
using testing::Options;
using testing::Pair;
using testing::Text;
using wire::PacketType;

TEST(States, S94SuspendedWritesWaitAndGoOn) {
  Pair pair(Options(94));
  for (uint64_t i = 0; i < 20; ++i) pair.StartWrite(0, i * 65536, 8192, 0x41);
  ASSERT_TRUE(pair.Await(0, pair.resource(0).SuspendIo()));
  EXPECT_EQ(pair.status(0).suspended, "user");
  // K 56: nothing is under way, and no byte leaves any more.
  size_t sent = pair.log.Count(0, PacketType::kData);
  std::vector<FrontIo*> waiting;
  for (uint64_t i = 0; i < 20; ++i) {
    waiting.push_back(pair.StartWrite(0, i * 65536, 8192, 0x42));
  }
  pair.RunFor(5s);
  EXPECT_EQ(pair.log.Count(0, PacketType::kData), sent);
  for (FrontIo* write : waiting) EXPECT_FALSE(write->answered());
  ASSERT_TRUE(pair.Await(0, pair.resource(0).ResumeIo()));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }, 10s));
  for (uint64_t i = 0; i < 20; ++i) EXPECT_TRUE(pair.NowIs(1, i * 65536, 8192, 0x42));
  EXPECT_EQ(pair.status(0).suspended, "no");
  EXPECT_TRUE(pair.Equal(0, 1));
  pair.ExpectIdleCounters();
}

TEST(States, TheEndOfASuspensionWaitsForAGenerationInTheMaking) {
  Pair pair(Options(942));
  pair.Cut(true);
  ASSERT_TRUE(pair.WaitConnection(0, ConnectionState::kConnecting));
  pair.disk(0).set_slowdown(20000);
  FrontIo* write = pair.StartWrite(0, 0, 4096, 0x21);
  pair.RunFor(10ms);
  auto suspended = pair.Start(0, pair.resource(0).SuspendIo());
  ASSERT_TRUE(pair.RunUntil([&] { return suspended->has_value(); }, 1s));
  auto resumed = pair.Start(0, pair.resource(0).ResumeIo());
  pair.RunFor(10ms);
  // It sleeps until then, and does not look each millisecond.
  const uint64_t before = pair.world().events();
  pair.RunFor(500ms);
  EXPECT_LT(pair.world().events() - before, 100u);
  EXPECT_FALSE(write->answered());
  EXPECT_TRUE(pair.SawEvent(0, "suspended-quorum", "yes"));
  EXPECT_FALSE(pair.SawEvent(0, "suspended-quorum", "no"));
  pair.disk(0).set_slowdown(1);
  ASSERT_TRUE(pair.RunUntil([&] { return write->answered() && resumed->has_value(); }, 120s));
  EXPECT_TRUE(write->ok());
  EXPECT_TRUE(pair.SawEvent(0, "suspended-quorum", "no"));
}

TEST(States, SuspendedFlushesAndReadsWaitToo) {
  Pair pair(Options(941));
  ASSERT_TRUE(pair.Await(0, pair.resource(0).SuspendIo()));
  FrontIo* flush = pair.Submit(0, IoOp::kFlush, 0, 0);
  FrontIo* read = pair.Submit(0, IoOp::kRead, 0, 4096);
  pair.RunFor(2s);
  EXPECT_FALSE(flush->answered());
  EXPECT_FALSE(read->answered());
  ASSERT_TRUE(pair.Await(0, pair.resource(0).ResumeIo()));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }, 10s));
  EXPECT_TRUE(flush->ok());
  EXPECT_TRUE(read->ok());
}

TEST(Directions, ThePrimaryMovesBackAndForthUnderLoad) {
  for (Protocol protocol : {Protocol::kA, Protocol::kB, Protocol::kC}) {
    SCOPED_TRACE(static_cast<int>(protocol));
    Pair pair(Options(100, protocol));
    ASSERT_TRUE(pair.Demote(0));
    for (int round = 0; round < 6; ++round) {
      int primary = round % 2;
      Status promoted = pair.Promote(primary);
      ASSERT_TRUE(promoted) << Text(promoted);
      for (uint64_t i = 0; i < 40; ++i) {
        pair.StartWrite(primary, pair.world().random().Below(256) * 8192, 8192,
                        static_cast<uint8_t>(round * 40 + static_cast<int>(i)));
      }
      ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }));
      Status demoted = pair.Demote(primary);
      ASSERT_TRUE(demoted) << Text(demoted);
      EXPECT_TRUE(pair.Equal(0, 1)) << "round " << round;
      EXPECT_EQ(pair.out_of_sync(0, 1), 0u);
      EXPECT_EQ(pair.out_of_sync(1, 0), 0u);
    }
    pair.ExpectIdleCounters();
  }
}

TEST(VolumesTest, VolumesShareOneOrderAndAreSyncedApart) {
  ClusterOptions options = Options(101);
  options.volumes = 3;
  Bench bench(options);
  bench.BringUpPrimary();
  for (uint64_t i = 0; i < 90; ++i) {
    bench.StartWrite(0, i * 16384, 8192, static_cast<uint8_t>(i + 1), static_cast<int>(i % 3));
  }
  ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
  bench.RunFor(300ms);
  for (int v = 0; v < 3; ++v) EXPECT_TRUE(bench.Equal(0, 1, v));
  ASSERT_TRUE(bench.Disconnect(0, 1));
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 65536, 0x99, false, 1), 0);
  ASSERT_TRUE(bench.Connect(0, 1));
  ASSERT_TRUE(bench.BecomesUpToDate());
  EXPECT_EQ(bench.peer_volume(0, 0).sent_bytes, 0u);
  EXPECT_EQ(bench.peer_volume(0, 1).sent_bytes, 65536u);
  EXPECT_EQ(bench.peer_volume(0, 2).sent_bytes, 0u);
  for (int v = 0; v < 3; ++v) EXPECT_TRUE(bench.Equal(0, 1, v));
  // A power cut of the Primary with all of them hot.
  for (int v = 0; v < 3; ++v) bench.StartWrite(0, 4 << 20, 8192, 0x77, v);
  bench.RunFor(2ms);
  bench.node(0).Crash(SimCrash::kPowerCut);
  bench.RunFor(1s);
  bench.Boot(0);
  ASSERT_TRUE(bench.BecomesUpToDate());
  for (int v = 0; v < 3; ++v) EXPECT_TRUE(bench.Equal(0, 1, v));
}

TEST(Acts, MayBeAskedForAtTheSameTime) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(Options(seed));
    std::vector<std::shared_ptr<std::optional<Status>>> acts;
    for (int i = 0; i < 12; ++i) {
      int who = static_cast<int>(pair.world().random().Below(2));
      Resource& resource = pair.resource(who);
      switch (pair.world().random().Below(8)) {
        case 0:
          acts.push_back(pair.Start(who, resource.Promote(false)));
          break;
        case 1:
          acts.push_back(pair.Start(who, resource.Demote(false)));
          break;
        case 2:
          acts.push_back(pair.Start(who, resource.Disconnect(1 - who, false)));
          break;
        case 3:
          acts.push_back(pair.Start(who, resource.Connect(1 - who, {})));
          break;
        case 4:
          acts.push_back(pair.Start(who, resource.Detach(0, false)));
          break;
        case 5:
          acts.push_back(pair.Start(
              who, resource.Attach({.volume = 0, .backing = pair.program(who).backends[0].get()})));
          break;
        case 6:
          acts.push_back(pair.Start(who, resource.Invalidate(0, 1 - who)));
          break;
        default:
          acts.push_back(pair.Start(who, resource.Outdate(0)));
          break;
      }
      if (pair.world().random().OneIn(2)) {
        pair.RunFor(std::chrono::microseconds(pair.world().random().Below(2000)));
      }
    }
    ASSERT_TRUE(pair.RunUntil(
        [&] {
          return std::all_of(acts.begin(), acts.end(), [](auto& act) { return act->has_value(); });
        },
        600s));
    // Whatever came of it: it can be brought back to good order.
    for (int i : {0, 1}) {
      if (pair.disk_state(i) == DiskState::kDiskless) (void)pair.Attach(i);
    }
    for (int i : {0, 1}) (void)pair.Connect(i, 1 - i);
    pair.RunFor(60s);
    EXPECT_TRUE(pair.RunUntil(
        [&] {
          return (pair.connection(0, 1) == ConnectionState::kConnected) ==
                 (pair.connection(1, 0) == ConnectionState::kConnected);
        },
        60s))
        << pair.Describe(0) << pair.Describe(1);
  }
}

TEST(Acts, APeerMayBeRemovedAtAnyTime) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(Options(seed));
    int who = static_cast<int>(seed % 2);
    switch (seed % 5) {
      case 0:
        ASSERT_TRUE(pair.Disconnect(0, 1));
        ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 1 << 20, 0x55), 0);
        ASSERT_TRUE(pair.Connect(0, 1));
        break;
      case 1:
        (void)pair.Start(0, pair.resource(0).InvalidateRemote(0, 1));
        break;
      case 2:
        (void)pair.Start(1, pair.resource(1).Detach(0, true));
        break;
      case 3:
        (void)pair.Start(0, pair.resource(0).Disconnect(1, false));
        break;
      default:
        for (uint64_t i = 0; i < 30; ++i) pair.StartWrite(0, i * 8192, 4096, 3);
        break;
    }
    pair.RunFor(std::chrono::microseconds(pair.world().random().Below(600000)));
    EXPECT_TRUE(pair.Await(who, pair.resource(who).RemovePeer(1 - who, true)));
    pair.RunFor(2s);
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }, 60s));
    ASSERT_TRUE(pair.resource(who).AddPeer(pair.PeerOf(who, 1 - who)));
    for (int i : {0, 1}) {
      if (pair.disk_state(i) == DiskState::kDiskless) (void)pair.Attach(i);
    }
    for (int i : {0, 1}) (void)pair.Connect(i, 1 - i);
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
    pair.ExpectIdleCounters();
  }
}

}  // namespace
}  // namespace umblock::drbd
