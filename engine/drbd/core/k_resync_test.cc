// Resync between two nodes: failures and writes in the middle of it (drbd-states.md part 11,
// drbd-io-path.md K), and the acts that begin one.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/pair.h"

namespace umblock::drbd {
namespace {

using testing::ClusterOptions;
using testing::FrontIo;
using testing::Options;
using testing::Pair;
using testing::Text;

// Slow enough to do something meanwhile.
ClusterOptions SlowSync(uint64_t seed) {
  ClusterOptions options = Options(seed);
  options.resync.c_max_rate = 2048;
  return options;
}
void BeginResync(Pair& pair, uint64_t bytes = 4 << 20) {
  ASSERT_TRUE(pair.Disconnect(0, 1));
  for (uint64_t at = 0; at < bytes; at += 1 << 20) {
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, at, 1 << 20, 0x55), 0);
  }
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.repl(1, 0) == ReplicationState::kSyncTarget; }));
}

TEST(Resync, TheTargetsDiskFailsAndTheSourceGoesOn) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(SlowSync(seed));
    BeginResync(pair);
    pair.RunFor(std::chrono::milliseconds(50 * seed));
    pair.disk(1).SetErrorPermille(SimDiskOp::kWrite, 1000, EIO);
    ASSERT_TRUE(pair.WaitDisk(1, DiskState::kDiskless));
    // No block of the source stays locked for a target that will never answer.
    for (uint64_t at = 0; at < (4 << 20); at += 262144) pair.StartWrite(0, at, 262144, 0x56);
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }, 30s)) << pair.Describe(0);
    pair.disk(1).ClearFaults();
    ASSERT_TRUE(pair.Attach(1));
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
    pair.ExpectIdleCounters();
  }
}

TEST(Resync, TheSourcesDiskFailsAndTheTargetWaitsForIt) {
  Pair pair(SlowSync(31));
  BeginResync(pair);
  pair.RunFor(200ms);
  ASSERT_TRUE(pair.Await(0, pair.resource(0).Detach(0, true)));
  pair.RunFor(2s);
  EXPECT_EQ(pair.disk_state(1), DiskState::kInconsistent) << "a half-synced copy is no good copy";
  EXPECT_NE(pair.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
  ASSERT_TRUE(pair.Attach(0));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
}

// K 79: a block that the source cannot read stays out of sync.
TEST(K79, AReadErrorOfTheSourceEndsTheResyncAndKeepsTheBit) {
  ClusterOptions options = SlowSync(79);
  options.disk.on_io_error = OnIoError::kPassOn;
  Pair pair(options);
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 1 << 20, 0x55), 0);
  pair.disk(0).AddBadRange(65536, 4096, EIO);
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.SawEvent(1, "replication", "SyncTarget"); }, 30s));
  pair.RunFor(30s);
  EXPECT_GT(pair.out_of_sync(1, 0), 0u);
  EXPECT_NE(pair.disk_state(1), DiskState::kUpToDate) << "INV-9";
}

TEST(Resync, PausedOnEitherSideItWaitsAndGoesOn) {
  for (int who : {0, 1}) {
    SCOPED_TRACE(who);
    Pair pair(SlowSync(33));
    BeginResync(pair);
    ASSERT_TRUE(pair.Await(who, pair.resource(who).PauseSync(0, 1 - who)));
    ASSERT_TRUE(
        pair.RunUntil([&] { return pair.repl(1, 0) == ReplicationState::kPausedSyncT; }, 10s));
    pair.RunFor(500ms);
    uint64_t left = pair.out_of_sync(1, 0);
    EXPECT_GT(left, 0u);
    pair.RunFor(10s);
    EXPECT_EQ(pair.out_of_sync(1, 0), left);
    EXPECT_EQ(pair.Do(0, IoOp::kWrite, 8 << 20, 4096, 0x61), 0) << "writes go on";
    ASSERT_TRUE(pair.Await(who, pair.resource(who).ResumeSync(0, 1 - who)));
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
    pair.ExpectIdleCounters();
  }
}

TEST(Resync, ALinkThatDiesInTheMiddleGoesOnWhereItWas) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(SlowSync(seed));
    BeginResync(pair);
    pair.RunFor(500ms);
    auto link = pair.DataLink();
    ASSERT_NE(link, nullptr);
    link->CutAfter(pair.EndOf(*link, 0), seed * 5000);
    ASSERT_TRUE(
        pair.RunUntil([&] { return pair.connection(0, 1) != ConnectionState::kConnected; }, 30s));
    EXPECT_EQ(pair.disk_state(1), DiskState::kInconsistent);
    uint64_t left = pair.out_of_sync(1, 0);
    EXPECT_GT(left, 0u);
    EXPECT_LT(left, uint64_t{4} << 20);
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_LE(pair.peer_volume(1).received_bytes, left + (64 << 10)) << "not from the beginning";
    EXPECT_TRUE(pair.Equal(0, 1));
  }
}

TEST(Resync, ACrashOfTheTargetInTheMiddleGoesOnByBitmap) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(SlowSync(seed));
    BeginResync(pair);
    pair.RunFor(std::chrono::milliseconds(100 * seed));
    pair.node(1).Crash(SimCrash::kPowerCut);
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, 12 << 20, 65536, 0x66), 0);
    pair.Boot(1);
    ASSERT_TRUE(pair.BecomesUpToDate(240s));
    EXPECT_TRUE(pair.Equal(0, 1));
  }
}

TEST(Resync, ACrashOfTheSourceInTheMiddleIsSurvived) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(SlowSync(seed));
    BeginResync(pair);
    pair.RunFor(std::chrono::milliseconds(100 * seed));
    pair.node(0).Crash(SimCrash::kPowerCut);
    pair.RunFor(15s);
    EXPECT_EQ(pair.disk_state(1), DiskState::kInconsistent);
    EXPECT_FALSE(pair.Promote(1));
    pair.Boot(0);
    ASSERT_TRUE(pair.BecomesUpToDate(240s));
    EXPECT_TRUE(pair.Equal(0, 1));
  }
}

TEST(Resync, WritesOfThePrimaryMeanwhileAreNewerThanWhatIsResynced) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(SlowSync(seed));
    BeginResync(pair);
    bool load = true;
    std::vector<uint8_t> last(512, 0);
    std::vector<bool> busy(512, false);
    std::function<void()> issue = [&] {
      if (!load) return;
      uint64_t block = pair.world().random().Below(512);
      if (busy[block]) block = (block + 1) % 512;
      if (busy[block]) return;
      busy[block] = true;
      last[block] = static_cast<uint8_t>(last[block] + 1);
      FrontIo* write = pair.StartWrite(0, block * 8192, 8192, last[block]);
      write->on_done = [&, block] {
        busy[block] = false;
        issue();
      };
    };
    for (int i = 0; i < 4; ++i) issue();
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllUpToDate(); }, 120s));
    load = false;
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }));
    pair.RunFor(500ms);
    for (uint64_t block = 0; block < 512; ++block) {
      if (last[block] == 0) continue;
      for (int node : {0, 1}) {
        EXPECT_TRUE(pair.NowIs(node, block * 8192, 8192, last[block])) << "INV-27";
      }
    }
    EXPECT_TRUE(pair.Equal(0, 1));
    EXPECT_EQ(pair.out_of_sync(0, 1), 0u);
    pair.ExpectIdleCounters();
  }
}

// K 71: also between the exchange of bitmaps and the end of a resync that is over at once, on a
// source whose disk is slow.
TEST(Resync, WritesDuringTheExchangeOfBitmapsAreNotForgotten) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(seed);
    ClusterOptions options = Options(seed);
    options.volumes = 2;
    Pair pair(options);
    ASSERT_TRUE(pair.Disconnect(0, 1));
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x55), 0);
    bool load = true;
    std::function<void(int)> issue = [&](int number) {
      if (!load) return;
      uint64_t at = 4096 * (1 + pair.world().random().Below(2000));
      pair.StartWrite(0, at, 4096, static_cast<uint8_t>(at / 4096), number)->on_done = [&, number] {
        issue(number);
      };
    };
    for (int i = 0; i < 4; ++i) issue(i % 2);
    pair.disk(0, static_cast<int>(seed % 2)).set_slowdown(20);
    ASSERT_TRUE(pair.Connect(0, 1));
    ASSERT_TRUE(pair.BecomesUpToDate());
    pair.RunFor(std::chrono::milliseconds(50 * seed));
    load = false;
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }));
    pair.RunFor(1s);
    for (int number = 0; number < 2; ++number) {
      EXPECT_TRUE(pair.Equal(0, 1, number)) << number;
      EXPECT_EQ(pair.out_of_sync(0, 1, number), 0u) << number;
      EXPECT_EQ(pair.out_of_sync(1, 0, number), 0u) << number;
    }
    pair.ExpectAnsweredOnce();
    pair.ExpectIdleCounters();
  }
}

// A write that is asked for between the two bitmaps, and that the transfer log keeps until long
// after the resync, behind one of another volume whose disk hangs.
TEST(Resync, AWriteBetweenTheBitmapsIsNotLeftOut) {
  ClusterOptions options = Options(71);
  options.volumes = 2;
  Pair pair(options);
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 1, false, 1), 0);
  ASSERT_TRUE(pair.Disconnect(0, 1));
  for (int number : {0, 1}) ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 2, false, number), 0);
  pair.disk(0, 1).SetHang(true);
  FrontIo* first = pair.StartWrite(0, 4096, 4096, 3, 1);
  auto connected = pair.Start(0, pair.resource(0).Connect(1, {}));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.repl(0, 1) == ReplicationState::kWFBitMapS; }));
  FrontIo* between = pair.StartWrite(0, 8192, 4096, 4);
  ASSERT_TRUE(pair.RunUntil([&] {
    return between->answered() && pair.disk_state(1) == DiskState::kUpToDate &&
           pair.repl(0, 1) == ReplicationState::kEstablished;
  }));
  EXPECT_FALSE(first->answered());
  pair.disk(0, 1).SetHang(false);
  ASSERT_TRUE(pair.BecomesUpToDate());
  pair.RunFor(1s);
  EXPECT_TRUE(first->ok() && between->ok());
  for (int number : {0, 1}) {
    EXPECT_TRUE(pair.Equal(0, 1, number)) << number;
    EXPECT_EQ(pair.out_of_sync(0, 1, number), 0u) << number;
  }
}

TEST(States, S96InvalidateFetchesEverything) {
  ClusterOptions options = Options(96);
  options.disk_bytes = uint64_t{16} << 20;
  Pair pair(options);
  ASSERT_TRUE(pair.Demote(0));
  Status status = pair.Await(1, pair.resource(1).Invalidate(0, 0));
  ASSERT_TRUE(status) << Text(status);
  EXPECT_FALSE(pair.Await(1, pair.resource(1).Invalidate(0, 0))) << "while one runs";
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.SawEvent(1, "replication", "SyncTarget"));
  EXPECT_GE(pair.peer_volume(1).received_bytes, pair.volume_status(1).size_bytes);
  EXPECT_TRUE(pair.Equal(0, 1));
  pair.ExpectIdleCounters();
}

TEST(Resync, InvalidateRemoteSendsEverythingWhileThePrimaryWrites) {
  ClusterOptions options = Options(961);
  options.disk_bytes = uint64_t{16} << 20;
  Pair pair(options);
  Status status = pair.Await(0, pair.resource(0).InvalidateRemote(0, 1));
  ASSERT_TRUE(status) << Text(status);
  for (uint64_t i = 0; i < 50; ++i) {
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, i * 65536, 8192, 0x71), 0);
  }
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.SawEvent(1, "replication", "SyncTarget"));
  EXPECT_TRUE(pair.Equal(0, 1));
  pair.ExpectIdleCounters();
}

}  // namespace
}  // namespace umblock::drbd
