// drbd-io-path.md K.2: the activity log, and power cuts of the Primary.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/bench.h"

namespace umblock::drbd {
namespace {

using testing::Bench;
using testing::ClusterOptions;
using testing::FrontIo;
using testing::Options;
using testing::SeenPacket;
using testing::Text;
using wire::PacketType;

constexpr uint64_t kExtent = uint64_t{4} << 20;

// Sparse, with as many extents as an eviction needs, and the smallest activity log.
ClusterOptions SmallLog(uint64_t seed) {
  ClusterOptions options = Options(seed);
  options.disk_bytes = uint64_t{640} << 20;
  options.disk.al_extents = 67;
  return options;
}

// True for the area where data lies.
bool IsData(Bench& bench, const SimDiskEvent& event) {
  return event.offset + event.length <= bench.volume_status(0).size_bytes;
}

// Boots the crashed Primary, waits until all is in sync again, and compares.
void ExpectHeals(Bench& bench, int crashed) {
  bench.Boot(crashed);
  ASSERT_TRUE(bench.BecomesUpToDate(240s));
  EXPECT_TRUE(bench.Equal(0, 1));
  EXPECT_EQ(bench.out_of_sync(0, 1), 0u);
  EXPECT_EQ(bench.out_of_sync(1, 0), 0u);
}

TEST(K16, ACutInTheTransactionFindsTheWriteNowhere) {
  for (uint64_t seed = 1; seed <= 15; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(Options(seed));
    bench.BringUpPrimary();
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
    bench.RunFor(300ms);
    bench.log.Clear();
    bool data_touched = false;
    bool crashed = false;
    bench.disk(0).SetObserver([&](const SimDiskEvent& event) {
      if (event.op != SimDiskOp::kWrite || crashed) return;
      if (IsData(bench, event)) {
        data_touched = true;
        return;
      }
      if (event.what == SimDiskEvent::What::kStarted) {
        crashed = true;
        bench.node(0).CrashSoon(SimCrash::kPowerCut);
      }
    });
    bench.StartWrite(0, 5 * kExtent, 4096, 2);
    ASSERT_TRUE(bench.RunUntil([&] { return !bench.node(0).running(); }, 10s));
    bench.disk(0).SetObserver(nullptr);
    EXPECT_FALSE(data_touched);
    EXPECT_EQ(bench.log.Count(0, PacketType::kData), 0u) << "INV-2";
    EXPECT_FALSE(bench.NowIs(1, 5 * kExtent, 4096, 2));
    ExpectHeals(bench, 0);
  }
}

TEST(K17, ACutAfterTheTransactionIsResyncedAndEqual) {
  for (uint64_t seed = 1; seed <= 15; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(Options(seed));
    bench.BringUpPrimary();
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
    bench.RunFor(300ms);
    bench.disk(0).SetObserver([&](const SimDiskEvent& event) {
      if (event.op == SimDiskOp::kWrite && event.what == SimDiskEvent::What::kCompleted &&
          !IsData(bench, event)) {
        bench.node(0).CrashSoon(SimCrash::kPowerCut);
      }
    });
    bench.StartWrite(0, 5 * kExtent, 4096, 2);
    ASSERT_TRUE(bench.RunUntil([&] { return !bench.node(0).running(); }, 10s));
    bench.disk(0).SetObserver(nullptr);
    ExpectHeals(bench, 0);
    EXPECT_GT(bench.peer_volume(0).received_bytes, 0u) << "the hot extents came from the peer";
  }
}

TEST(K18, ACutAfterSendingLeavesBothEqual) {
  for (uint64_t seed = 1; seed <= 15; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(Options(seed));
    bench.BringUpPrimary();
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
    bench.RunFor(300ms);
    bench.log.on_packet = [&](const SeenPacket& packet) {
      if (packet.from == 0 && packet.type() == PacketType::kData) {
        bench.node(0).CrashAfterSteps(1 + seed % 7, SimCrash::kPowerCut);
      }
    };
    bench.StartWrite(0, 8192, 65536, 2);
    ASSERT_TRUE(bench.RunUntil([&] { return !bench.node(0).running(); }, 20s));
    bench.log.on_packet = nullptr;
    ExpectHeals(bench, 0);
  }
}

TEST(K19, ACutAfterTheLocalWriteLeavesBothEqual) {
  for (uint64_t seed = 1; seed <= 15; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(Options(seed));
    bench.BringUpPrimary();
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
    bench.RunFor(300ms);
    bench.world().network().SetBlocked(bench.node(0), bench.node(1), true);
    bench.disk(0).SetObserver([&](const SimDiskEvent& event) {
      if (event.op == SimDiskOp::kWrite && event.what == SimDiskEvent::What::kCompleted &&
          IsData(bench, event)) {
        bench.node(0).CrashSoon(SimCrash::kPowerCut);
      }
    });
    FrontIo* write = bench.StartWrite(0, 8192, 65536, 2);
    ASSERT_TRUE(bench.RunUntil([&] { return !bench.node(0).running(); }, 20s));
    bench.disk(0).SetObserver(nullptr);
    bench.world().network().SetBlocked(bench.node(0), bench.node(1), false);
    EXPECT_FALSE(write->answered());
    ExpectHeals(bench, 0);
  }
}

TEST(K20, AnAnsweredWriteSurvivesTheCutBeforeItsBarrierAck) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(Options(seed));
    bench.BringUpPrimary();
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
    bench.RunFor(300ms);
    bench.log.Clear();
    FrontIo* write = bench.StartWrite(0, 8192, 16384, 2);
    write->on_done = [&] { bench.node(0).CrashSoon(SimCrash::kPowerCut); };
    ASSERT_TRUE(bench.RunUntil([&] { return !bench.node(0).running(); }, 20s));
    EXPECT_EQ(bench.log.Count(1, PacketType::kBarrierAck), 0u);
    EXPECT_TRUE(bench.NowIs(1, 8192, 16384, 2)) << "INV-1";
    ASSERT_TRUE(bench.RunUntil(
        [&] {
          return bench.disk_state(1) == DiskState::kUpToDate &&
                 bench.connection(1, 0) == ConnectionState::kConnecting;
        },
        60s));
    ASSERT_TRUE(bench.Promote(1));
    EXPECT_EQ(bench.ReadFront(1, 8192, 16384), std::vector<std::byte>(16384, std::byte{2}));
    ExpectHeals(bench, 0);
    EXPECT_TRUE(bench.NowIs(0, 8192, 16384, 2));
  }
}

TEST(K21, ACutDuringEvictionsLosesNoMark) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(SmallLog(seed));
    bench.BringUpPrimary();
    for (uint64_t i = 0; i < 67; ++i) {
      bench.StartWrite(0, i * kExtent, 4096, static_cast<uint8_t>(i + 1));
    }
    ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
    bench.RunFor(300ms);
    // While the peer is away its bits are set, so that the pages of evicted extents are dirty.
    if (seed % 2 == 0) {
      ASSERT_TRUE(bench.Disconnect(0, 1));
      for (uint64_t i = 0; i < 20; ++i) {
        ASSERT_EQ(bench.Do(0, IoOp::kWrite, i * kExtent + 8192, 4096, 0x91), 0);
      }
    }
    for (uint64_t i = 67; i < 130; ++i) {
      bench.StartWrite(0, i * kExtent, 4096, static_cast<uint8_t>(i + 1));
    }
    bench.node(0).CrashAfterSteps(1 + bench.world().random().Below(400), SimCrash::kPowerCut);
    bench.RunUntil([&] { return !bench.node(0).running(); }, 10s);
    if (bench.node(0).running()) bench.node(0).Crash(SimCrash::kPowerCut);
    bench.RunFor(2s);
    ExpectHeals(bench, 0);
  }
}

TEST(K22, SixtyFiveColdExtentsTakeTwoTransactions) {
  Bench bench(SmallLog(22));
  bench.BringUpPrimary();
  bench.log.Clear();
  uint64_t before = bench.volume_status(0).counters.al_writes;
  bool transaction_under_way = false;
  int early = 0;
  uint64_t transactions = 0;
  bench.disk(0).SetObserver([&](const SimDiskEvent& event) {
    if (event.op != SimDiskOp::kWrite) return;
    bool started = event.what == SimDiskEvent::What::kStarted;
    if (!IsData(bench, event)) {
      transaction_under_way = started;
      if (!started) ++transactions;
    } else if (started && transactions == 0) {
      ++early;
    }
  });
  for (uint64_t i = 0; i < 65; ++i) bench.StartWrite(0, i * kExtent, 4096, 1);
  ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
  bench.disk(0).SetObserver(nullptr);
  EXPECT_EQ(early, 0) << "INV-2";
  uint64_t written = bench.volume_status(0).counters.al_writes - before;
  EXPECT_GE(written, 2u) << "64 changes fit into one";
  EXPECT_LE(written, 3u);
  EXPECT_TRUE(bench.Equal(0, 1));
}

// The 'Must hold' of the milestone: 64 that queue behind a running transaction cost one more.
TEST(ActivityLogTest, SixtyFourColdExtentsBehindARunningTransactionCostOneMore) {
  Bench bench(SmallLog(220));
  bench.BringUpPrimary();
  uint64_t before = bench.volume_status(0).counters.al_writes;
  bool queued = false;
  bench.disk(0).SetObserver([&](const SimDiskEvent& event) {
    if (queued || event.op != SimDiskOp::kWrite || IsData(bench, event) ||
        event.what != SimDiskEvent::What::kStarted) {
      return;
    }
    queued = true;
    bench.world().Soon([&] {
      for (uint64_t i = 1; i <= 64; ++i) bench.StartWrite(0, i * kExtent, 4096, 1);
    });
  });
  bench.disk(0).set_slowdown(20);
  bench.StartWrite(0, 0, 4096, 1);
  ASSERT_TRUE(bench.RunUntil([&] { return queued; }, 10s));
  ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
  bench.disk(0).SetObserver(nullptr);
  EXPECT_EQ(bench.volume_status(0).counters.al_writes - before, 2u);
}

TEST(ActivityLogTest, AThousandWritesToHotExtentsCauseNoMetadataWrite) {
  Bench bench(Options(221));
  bench.BringUpPrimary();
  for (uint64_t i = 0; i < 8; ++i) {
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, i * kExtent, 4096, 1), 0);
  }
  bench.RunFor(500ms);
  int metadata_writes[2] = {};
  for (int node : {0, 1}) {
    bench.disk(node).SetObserver([&, node](const SimDiskEvent& event) {
      if (event.op == SimDiskOp::kWrite && event.what == SimDiskEvent::What::kStarted &&
          !IsData(bench, event)) {
        ++metadata_writes[node];
      }
    });
  }
  for (uint64_t i = 0; i < 1000; ++i) {
    bench.StartWrite(0, i % 8 * kExtent + i / 8 * 8192, 4096, static_cast<uint8_t>(i));
    if (i % 16 == 15) {
      ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
    }
  }
  ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
  bench.RunFor(1s);
  EXPECT_EQ(metadata_writes[0], 0);
  EXPECT_EQ(metadata_writes[1], 0);
  for (int node : {0, 1}) bench.disk(node).SetObserver(nullptr);
  EXPECT_TRUE(bench.Equal(0, 1));
}

TEST(K23, AnErrorOfTheLogDetachesAndTheWriteGoesToThePeer) {
  Bench bench(Options(23));
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
  bench.RunFor(300ms);
  uint64_t size = bench.volume_status(0).size_bytes;
  bench.disk(0).AddBadRange(size, (uint64_t{64} << 20) - size, EIO);
  EXPECT_EQ(bench.Do(0, IoOp::kWrite, 5 * kExtent, 4096, 2), 0);
  ASSERT_TRUE(bench.RunUntil([&] { return bench.disk_state(0) == DiskState::kDiskless; }));
  EXPECT_FALSE(bench.NowIs(0, 5 * kExtent, 4096, 2)) << "INV-2: the extent is not in the log";
  EXPECT_TRUE(bench.NowIs(1, 5 * kExtent, 4096, 2));
  EXPECT_EQ(bench.status(0).role, Role::kPrimary);
  EXPECT_EQ(bench.Do(0, IoOp::kWrite, 6 * kExtent, 4096, 3), 0);
  EXPECT_EQ(bench.ReadFront(0, 6 * kExtent, 4096), std::vector<std::byte>(4096, std::byte{3}));
  bench.disk(0).ClearFaults();
  Status attached = bench.Attach(0);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(bench.BecomesUpToDate());
  EXPECT_TRUE(bench.Equal(0, 1));
}

TEST(K24, AnUnalignedDiscardTakesItsExtentsBeforeAnyEffect) {
  ClusterOptions options = SmallLog(24);
  Bench bench(options);
  bench.BringUpPrimary();
  for (uint64_t i = 0; i < 34; ++i) {
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, i * kExtent, 4096, 7), 0);
  }
  // Make them cold again.
  for (uint64_t i = 40; i < 40 + 67; ++i) {
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, i * kExtent, 4096, 7), 0);
  }
  bench.RunFor(300ms);
  bench.log.Clear();
  bool transaction_done = false;
  int early = 0;
  bench.disk(0).SetObserver([&](const SimDiskEvent& event) {
    if (event.op == SimDiskOp::kWrite && !IsData(bench, event)) {
      transaction_done = transaction_done || event.what == SimDiskEvent::What::kCompleted;
    } else if (event.what == SimDiskEvent::What::kStarted && event.op != SimDiskOp::kRead &&
               event.op != SimDiskOp::kSync && IsData(bench, event) && !transaction_done) {
      ++early;
    }
  });
  uint64_t before = bench.volume_status(0).counters.al_writes;
  ASSERT_EQ(bench.Do(0, IoOp::kDiscard, kExtent / 2, uint64_t{128} << 20), 0);
  bench.disk(0).SetObserver(nullptr);
  EXPECT_EQ(early, 0);
  EXPECT_GT(bench.volume_status(0).counters.al_writes, before);
  EXPECT_TRUE(bench.NowIs(0, kExtent, 4096, 0));
  EXPECT_TRUE(bench.Equal(0, 1));
  // A crash now resyncs at most the extents in the log.
  bench.node(0).Crash(SimCrash::kPowerCut);
  bench.RunFor(2s);
  ExpectHeals(bench, 0);
}

// Both roles run out of slots: the peer confirms what is stable, the Primary acks it (C.3, INV-31).
TEST(K60, ScatteredWritesWithTheSmallestLogGoOnInBothRoles) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(SmallLog(seed));
    bench.BringUpPrimary();
    SimTime longest{};
    for (uint64_t i = 0; i < 400; ++i) {
      uint64_t extent = bench.world().random().Below(150);
      FrontIo* write =
          bench.StartWrite(0, extent * kExtent + (i % 64) * 4096, 4096, static_cast<uint8_t>(i));
      if (i % 100 == 99) {
        ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); })) << bench.Describe(0);
      }
      (void)write;
    }
    ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
    (void)longest;
    EXPECT_TRUE(bench.Equal(0, 1));
    EXPECT_EQ(bench.connection(0, 1), ConnectionState::kConnected);
    EXPECT_GT(bench.volume_status(1).counters.al_writes, 1u);
    bench.ExpectIdleCounters();
  }
}

TEST(K60, ADisklessPrimaryWritesToMoreExtentsThanThePeersLogHas) {
  Bench bench(SmallLog(60));
  bench.BringUpPrimary();
  Status detached = bench.Detach(0);
  ASSERT_TRUE(detached) << Text(detached);
  SimTime slowest{};
  for (uint64_t round = 0; round < 2; ++round) {
    std::vector<FrontIo*> writes;
    for (uint64_t i = 0; i < 127; ++i) {
      writes.push_back(
          bench.StartWrite(0, i * kExtent + round * 8192, 4096, static_cast<uint8_t>(i + 1)));
    }
    ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }, 60s)) << bench.Describe(0);
    for (FrontIo* write : writes) {
      EXPECT_TRUE(write->ok());
      slowest = std::max(slowest, write->ended - write->issued);
    }
  }
  EXPECT_LT(slowest, 2s) << "no stall";
  EXPECT_GT(bench.log.Count(1, PacketType::kConfirmStable), 0u);
  EXPECT_GT(bench.log.Count(0, PacketType::kPeerAck), 0u);
  EXPECT_EQ(bench.connection(0, 1), ConnectionState::kConnected);
  for (uint64_t i = 0; i < 127; ++i) {
    EXPECT_TRUE(bench.NowIs(1, i * kExtent + 8192, 4096, static_cast<uint8_t>(i + 1)));
  }
  ASSERT_TRUE(bench.Attach(0));
  ASSERT_TRUE(bench.BecomesUpToDate());
  EXPECT_TRUE(bench.Equal(0, 1));
}

// After `kill -9` of the Primary: more than nothing, and no more than its hot extents.
TEST(ActivityLogTest, AfterAKillOnlyHotExtentsAreResynced) {
  for (SimCrash kind : {SimCrash::kProcessKill, SimCrash::kPowerCut}) {
    Bench bench(SmallLog(61));
    bench.BringUpPrimary();
    for (uint64_t i = 0; i < 140; ++i) {
      ASSERT_EQ(bench.Do(0, IoOp::kWrite, i * kExtent, 4096, static_cast<uint8_t>(i)), 0);
    }
    bench.node(0).Crash(kind);
    bench.RunFor(2s);
    ExpectHeals(bench, 0);
    uint64_t received = bench.peer_volume(0).received_bytes;
    EXPECT_GT(received, 0u);
    EXPECT_LE(received, 67 * kExtent);
  }
}

}  // namespace
}  // namespace umblock::drbd
