// Online verify between two nodes: what it finds, what it must not find, and what ends it
// (drbd-metadata-resync.md 6.10.3, drbd-io-path.md G.7, K 78, K 79).
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/pair.h"

namespace umblock::drbd {
namespace {

using testing::ClusterOptions;
using testing::FrontIo;
using testing::Options;
using testing::Pair;
using testing::Text;

ClusterOptions WithVerify(uint64_t seed, Protocol protocol = Protocol::kC) {
  ClusterOptions options = Options(seed, protocol);
  options.disk_bytes = uint64_t{16} << 20;
  options.net.verify_alg = "crc32c";
  return options;
}
ClusterOptions Slow(uint64_t seed) {
  ClusterOptions options = WithVerify(seed);
  options.resync.c_max_rate = 4096;
  return options;
}

void WriteBehind(Pair& pair, int i, uint64_t offset, size_t bytes, uint8_t fill) {
  std::vector<std::byte> data(bytes, static_cast<std::byte>(fill));
  pair.disk(i).WriteNow(offset, data);
}
Status Start(Pair& pair, int who, VerifyRequest request = {}) {
  return pair.Await(who, pair.resource(who).StartVerify(0, 1 - who, request));
}
Status Stop(Pair& pair, int who) {
  return pair.Await(who, pair.resource(who).StopVerify(0, 1 - who));
}
VerifyStatus Found(Pair& pair, int who) { return *pair.peer_volume(who).verify; }
bool Ends(Pair& pair, Duration bound = 120s) {
  return pair.RunUntil(
      [&] {
        return pair.repl(0, 1) == ReplicationState::kEstablished &&
               pair.repl(1, 0) == ReplicationState::kEstablished;
      },
      bound);
}

TEST(Verify, FindsWhatDiffersWhoeverStartsIt) {
  for (const char* algorithm : {"crc32c", "sha1"}) {
    for (int who : {0, 1}) {
      SCOPED_TRACE(who);
      ClusterOptions options = WithVerify(1);
      options.net.verify_alg = algorithm;
      Pair pair(options);
      WriteBehind(pair, 1, 8192, 512, 0x77);
      WriteBehind(pair, 1, 12288, 512, 0x77);
      WriteBehind(pair, 0, 5 << 20, 4096, 0x78);
      Status started = Start(pair, who);
      ASSERT_TRUE(started) << Text(started);
      ASSERT_TRUE(Ends(pair));
      uint64_t size = pair.volume_status(0).size_bytes;
      for (int node : {0, 1}) {
        SCOPED_TRACE(node);
        EXPECT_TRUE(pair.SawEvent(node, "replication", node == who ? "VerifyS" : "VerifyT"));
        EXPECT_EQ(pair.out_of_sync(node, 1 - node), 3 * 4096u);
        VerifyStatus found = Found(pair, node);
        EXPECT_FALSE(found.running);
        EXPECT_TRUE(found.complete);
        EXPECT_EQ(found.started_here, node == who);
        EXPECT_EQ(found.start, 0u);
        EXPECT_EQ(found.position, size);
        EXPECT_EQ(found.compared_bytes, size);
        EXPECT_EQ(found.skipped_bytes, 0u);
        EXPECT_EQ(found.different_bytes, 3 * 4096u);
        EXPECT_EQ(found.different_ranges, 2u);
        EXPECT_EQ(found.first_different, 8192u);
        EXPECT_EQ(found.last_different_end, (5u << 20) + 4096);
        EXPECT_EQ(pair.disk_state(node), DiskState::kUpToDate) << "it changes no disk state";
      }
      EXPECT_LT(pair.peer_volume(1).received_bytes, 2u << 20) << "no data goes over the link";
      pair.ExpectIdleCounters();
    }
  }
}

// As with a kernel: a Primary that is disconnected, writes, and connects again.
TEST(Verify, WhatItFoundIsRepairedByTheNextResync) {
  Pair pair(WithVerify(2));
  WriteBehind(pair, 1, 3 << 20, 4096, 0x77);
  ASSERT_TRUE(Start(pair, 0));
  ASSERT_TRUE(Ends(pair));
  ASSERT_EQ(pair.out_of_sync(0, 1), 4096u);
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x12), 0);
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_EQ(pair.out_of_sync(0, 1), 0u);
  EXPECT_TRUE(pair.NowIs(1, 3 << 20, 4096, 0));
  EXPECT_TRUE(pair.Equal(0, 1));
  ASSERT_TRUE(Start(pair, 1));
  ASSERT_TRUE(Ends(pair));
  EXPECT_EQ(Found(pair, 1).different_bytes, 0u);
}

// As with `invalidate --reset-bitmap=no`: only what is marked is copied, and the link stands.
TEST(Verify, WhatItFoundIsRepairedWithoutADisconnect) {
  for (const bool remote : {false, true}) {
    for (const int target : {0, 1}) {  // 0 is Primary: it reads from the peer meanwhile
      SCOPED_TRACE(fmt::format("remote {} target {}", remote, target));
      const int source = 1 - target;
      Pair pair(WithVerify(7));
      ASSERT_EQ(pair.Do(0, IoOp::kWrite, 3 << 20, 8192, 0x55), 0);
      WriteBehind(pair, target, 3 << 20, 4096, 0x77);
      ASSERT_TRUE(Start(pair, 0));
      ASSERT_TRUE(Ends(pair));
      ASSERT_EQ(pair.out_of_sync(0, 1), 4096u);
      const uint64_t before = pair.peer_volume(target).received_bytes;
      Status asked =
          remote ? pair.Await(source, pair.resource(source).InvalidateRemote(0, target, true))
                 : pair.Await(target, pair.resource(target).Invalidate(0, source, true));
      ASSERT_TRUE(asked) << Text(asked);
      ASSERT_EQ(pair.Do(0, IoOp::kWrite, 8 << 20, 4096, 0x12), 0);
      ASSERT_TRUE(pair.BecomesUpToDate());
      for (const int node : {0, 1}) {
        EXPECT_EQ(pair.out_of_sync(node, 1 - node), 0u);
        EXPECT_FALSE(pair.SawEvent(node, "connection", "Disconnecting"));
        EXPECT_FALSE(pair.SawEvent(node, "connection", "NetworkFailure"));
      }
      EXPECT_TRUE(pair.NowIs(target, 3 << 20, 4096, 0x55));
      EXPECT_TRUE(pair.Equal(0, 1));
      EXPECT_LE(pair.peer_volume(target).received_bytes - before, 8192u);
      pair.ExpectIdleCounters();
    }
  }
}

TEST(Verify, ARepairWithoutALinkIsRefused) {
  Pair pair(WithVerify(8));
  ASSERT_TRUE(pair.Disconnect(0, 1));
  Status asked = pair.Await(0, pair.resource(0).InvalidateRemote(0, 1, true));
  ASSERT_FALSE(asked);
  EXPECT_NE(asked.error().message().find("needs a connection"), std::string::npos) << Text(asked);
}

// Equal disks: it is over as soon as both have said so.
TEST(Verify, ARepairOfNothingEndsAtOnce) {
  Pair pair(WithVerify(9));
  Status asked = pair.Await(1, pair.resource(1).Invalidate(0, 0, true));
  ASSERT_TRUE(asked) << Text(asked);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
  pair.ExpectIdleCounters();
}

TEST(Verify, ComparesNoMoreThanWasAskedFor) {
  Pair pair(WithVerify(3));
  for (uint64_t mib : {1, 4, 9}) WriteBehind(pair, 1, mib << 20, 4096, 0x77);
  // Not on blocks: what it touches is compared.
  ASSERT_TRUE(Start(pair, 0, {.start = (4 << 20) + 512, .stop = (9 << 20) + 1}));
  ASSERT_TRUE(Ends(pair));
  VerifyStatus found = Found(pair, 0);
  EXPECT_EQ(found.start, 4u << 20);
  EXPECT_EQ(found.stop, (9u << 20) + 4096);
  EXPECT_EQ(found.compared_bytes, found.stop - found.start);
  EXPECT_EQ(found.different_bytes, 8192u);
  EXPECT_EQ(pair.out_of_sync(0, 1), 8192u);
  EXPECT_EQ(pair.out_of_sync(1, 0), 8192u);
  // On from there, to the end.
  ASSERT_TRUE(Start(pair, 0));
  ASSERT_TRUE(Ends(pair));
  EXPECT_EQ(Found(pair, 0).start, found.stop);
  EXPECT_EQ(Found(pair, 0).different_bytes, 0u);
  // And then from the beginning.
  ASSERT_TRUE(Start(pair, 0));
  ASSERT_TRUE(Ends(pair));
  EXPECT_EQ(Found(pair, 0).start, 0u);
  EXPECT_EQ(Found(pair, 0).different_bytes, 3 * 4096u);
}

// K 78: a block that is being written is skipped, not reported; what differs is found all the same.
TEST(K78, WritesMeanwhileAreNoDifferences) {
  for (Protocol protocol : {Protocol::kA, Protocol::kB, Protocol::kC}) {
    for (uint64_t seed = 1; seed <= 4; ++seed) {
      for (int who : {0, 1}) {
        SCOPED_TRACE(seed);
        SCOPED_TRACE(who);
        ClusterOptions options = WithVerify(seed, protocol);
        options.resync.c_max_rate = 8192;
        Pair pair(options);
        WriteBehind(pair, 1, 12 << 20, 4096, 0x77);
        bool load = true;
        uint8_t fill = 0;
        std::function<void()> issue = [&] {
          if (!load) return;
          uint64_t block = pair.world().random().Below(1024);
          pair.StartWrite(0, block * 8192, 8192, ++fill)->on_done = [&] {
            pair.world().After(5ms, SimEventKind::kHarness, issue);
          };
        };
        for (int i = 0; i < 8; ++i) issue();
        ASSERT_TRUE(Start(pair, who));
        ASSERT_TRUE(Ends(pair));
        load = false;
        pair.RunFor(300ms);
        ASSERT_TRUE(pair.AllDone());
        for (int node : {0, 1}) {
          VerifyStatus found = Found(pair, node);
          EXPECT_EQ(found.different_bytes, 4096u);
          EXPECT_EQ(found.first_different, 12u << 20);
          EXPECT_EQ(pair.out_of_sync(node, 1 - node), 4096u);
        }
        VerifyStatus found = Found(pair, who);
        EXPECT_EQ(found.compared_bytes + found.skipped_bytes, pair.volume_status(0).size_bytes);
        pair.ExpectIdleCounters();
      }
    }
  }
}

TEST(K78, ABlockUnderWriteIsSkippedAndCounted) {
  Pair pair(Slow(7));
  // It stays in work for as long as the disk hangs.
  pair.disk(1).SetHang(true);
  FrontIo* write = pair.StartWrite(0, 14 << 20, 65536, 0x51);
  pair.RunFor(50ms);
  pair.disk(1).SetHang(false);
  pair.disk(1).set_slowdown(1);
  ASSERT_TRUE(pair.RunUntil([&] { return write->answered(); }));
  ASSERT_TRUE(Start(pair, 0, {.start = 13 << 20, .stop = 15 << 20}));
  std::function<void()> again = [&] {
    if (pair.repl(0, 1) != ReplicationState::kVerifyS) return;
    pair.StartWrite(0, 14 << 20, 65536, 0x52)->on_done = [&] {
      pair.world().After(200us, SimEventKind::kHarness, again);
    };
  };
  again();
  ASSERT_TRUE(Ends(pair));
  EXPECT_GT(Found(pair, 0).skipped_bytes, 0u);
  EXPECT_EQ(Found(pair, 0).different_bytes, 0u);
  EXPECT_EQ(pair.out_of_sync(0, 1), 0u);
  pair.RunFor(100ms);
}

TEST(Verify, StopsAndGoesOnWhereItWas) {
  Pair pair(Slow(8));
  WriteBehind(pair, 1, 15 << 20, 4096, 0x77);
  ASSERT_TRUE(Start(pair, 0));
  pair.RunFor(1s);
  ASSERT_EQ(pair.repl(1, 0), ReplicationState::kVerifyT);
  for (int node : {0, 1}) {
    auto sync = pair.peer_volume(node).sync;
    ASSERT_TRUE(sync);
    EXPECT_EQ(sync->total_bytes, pair.volume_status(0).size_bytes);
    EXPECT_LT(sync->left_bytes, sync->total_bytes);
    EXPECT_GT(sync->left_bytes, 0u);
  }
  EXPECT_FALSE(Start(pair, 0)) << "while one runs";
  EXPECT_FALSE(Start(pair, 1));
  EXPECT_FALSE(Stop(pair, 1)) << "it is the other node's";
  Status stopped = Stop(pair, 0);
  ASSERT_TRUE(stopped) << Text(stopped);
  ASSERT_TRUE(Ends(pair));
  uint64_t reached = Found(pair, 0).position;
  EXPECT_GT(reached, 0u);
  EXPECT_LT(reached, 15u << 20);
  EXPECT_FALSE(Found(pair, 0).complete);
  EXPECT_EQ(Found(pair, 0).compared_bytes, reached);
  EXPECT_TRUE(Stop(pair, 0)) << "nothing to stop";
  ASSERT_TRUE(Start(pair, 0));
  ASSERT_TRUE(Ends(pair));
  EXPECT_EQ(Found(pair, 0).start, reached);
  EXPECT_EQ(Found(pair, 0).different_bytes, 4096u);
  pair.ExpectIdleCounters();
}

// INV-3: what is known to differ is not forgotten by a link that comes back with nothing written.
TEST(Verify, WhatItFoundOutlivesAReconnect) {
  Pair pair(WithVerify(11));
  WriteBehind(pair, 1, 8192, 512, 0x77);
  ASSERT_TRUE(Start(pair, 0));
  ASSERT_TRUE(Ends(pair));
  ASSERT_TRUE(pair.Demote(0));
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.AllUpToDate(); }, 60s));
  EXPECT_EQ(pair.out_of_sync(0, 1), 4096u);
  EXPECT_EQ(pair.out_of_sync(1, 0), 4096u);
  ASSERT_TRUE(pair.Promote(0));
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 1 << 20, 4096, 0x55), 0);
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.Equal(0, 1) && pair.out_of_sync(0, 1) == 0; }, 60s));
}

TEST(Verify, KeepsToItsRate) {
  Pair pair(Slow(9));
  auto before = pair.world().now();
  ASSERT_TRUE(Start(pair, 0));
  ASSERT_TRUE(Ends(pair));
  EXPECT_GT(pair.world().now() - before, 3s) << "16 MiB at 4 MiB/s";
}

TEST(Verify, ALinkThatDiesLeavesItsPlace) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    int who = static_cast<int>(seed % 2);
    Pair pair(Slow(seed));
    WriteBehind(pair, 1, 4096, 512, 0x77);
    ASSERT_TRUE(Start(pair, who));
    pair.RunFor(std::chrono::milliseconds(300 * seed));
    auto link = pair.DataLink();
    ASSERT_NE(link, nullptr);
    link->CutAfter(pair.EndOf(*link, static_cast<int>(seed / 2 % 2)), seed * 1000);
    ASSERT_TRUE(
        pair.RunUntil([&] { return pair.connection(0, 1) != ConnectionState::kConnected; }, 30s));
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_FALSE(Found(pair, who).running);
    EXPECT_FALSE(Found(pair, who).complete);
    uint64_t reached = Found(pair, who).position;
    // Reads of what comes after it may have ended before the link did.
    EXPECT_GE(Found(pair, who).compared_bytes, reached);
    EXPECT_LT(Found(pair, who).compared_bytes, reached + (2 << 20));
    ASSERT_TRUE(Start(pair, who));
    ASSERT_TRUE(Ends(pair));
    EXPECT_EQ(Found(pair, who).start, reached);
    EXPECT_EQ(Found(pair, who).position, pair.volume_status(0).size_bytes);
    pair.ExpectIdleCounters();
  }
}

TEST(Verify, ACrashOfEitherNodeEndsIt) {
  for (int node : {0, 1}) {
    SCOPED_TRACE(node);
    Pair pair(Slow(20));
    ASSERT_TRUE(Start(pair, 0));
    pair.RunFor(700ms);
    pair.node(node).Crash(SimCrash::kPowerCut);
    pair.RunFor(2s);
    pair.Boot(node);
    ASSERT_TRUE(pair.BecomesUpToDate(240s));
    EXPECT_TRUE(pair.Equal(0, 1));
    pair.ExpectIdleCounters();
  }
}

TEST(Verify, ADiskThatLeavesEndsIt) {
  for (int node : {0, 1}) {
    for (int who : {0, 1}) {
      SCOPED_TRACE(node);
      SCOPED_TRACE(who);
      Pair pair(Slow(21));
      ASSERT_TRUE(Start(pair, who));
      pair.RunFor(700ms);
      ASSERT_TRUE(pair.Await(node, pair.resource(node).Detach(0, true)));
      ASSERT_TRUE(Ends(pair, 10s));
      EXPECT_FALSE(Found(pair, who).complete);
      EXPECT_EQ(Found(pair, who).different_bytes, 0u);
      pair.RunFor(500ms);
      ASSERT_TRUE(pair.Attach(node));
      ASSERT_TRUE(pair.BecomesUpToDate());
      ASSERT_TRUE(Start(pair, who));
      ASSERT_TRUE(Ends(pair));
      EXPECT_TRUE(Found(pair, who).complete);
      pair.ExpectIdleCounters();
    }
  }
}

// K 79: what cannot be read is not equal.
TEST(K79, AReadErrorDuringAVerifyIsADifference) {
  for (int node : {0, 1}) {
    SCOPED_TRACE(node);
    ClusterOptions options = WithVerify(22);
    options.disk.on_io_error = OnIoError::kPassOn;
    Pair pair(options);
    pair.disk(node).AddBadRange(2 << 20, 4096, EIO);
    ASSERT_TRUE(Start(pair, 0));
    ASSERT_TRUE(Ends(pair));
    EXPECT_EQ(Found(pair, 0).different_bytes, 4096u);
    EXPECT_EQ(pair.out_of_sync(0, 1), 4096u);
    EXPECT_EQ(pair.out_of_sync(1, 0), 4096u);
  }
}

TEST(Verify, IsRefusedWithAReason) {
  auto expect = [](const Status& status, std::string_view part) {
    ASSERT_FALSE(status);
    EXPECT_NE(status.error().message().find(part), std::string::npos) << status.error().message();
  };
  {
    Pair pair(Options(30));
    expect(Start(pair, 0), "verify_alg");
  }
  Pair pair(Slow(31));
  expect(Start(pair, 0, {.start = uint64_t{1} << 30, .stop = {}}), "are no part");
  expect(Start(pair, 0, {.start = 8192, .stop = 4096}), "are no part");
  expect(Start(pair, 0, {.start = 0, .stop = uint64_t{1} << 30}), "are no part");
  expect(pair.Await(0, pair.resource(0).StartVerify(7, 1, {})), "no volume 7");
  expect(pair.Await(0, pair.resource(0).StartVerify(0, 5, {})), "no peer with node id 5");
  ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
  expect(Start(pair, 0), "SyncSource");
  ASSERT_TRUE(pair.BecomesUpToDate());
  ASSERT_TRUE(Start(pair, 0));
  expect(Start(pair, 0), "VerifyS");
  EXPECT_FALSE(pair.Await(1, pair.resource(1).Invalidate(0, 0))) << "no resync meanwhile";
  ASSERT_TRUE(Stop(pair, 0));
  ASSERT_TRUE(Ends(pair));
  ASSERT_TRUE(pair.Await(1, pair.resource(1).Detach(0, true)));
  pair.RunFor(300ms);
  expect(Start(pair, 0), "peer's disk is Diskless");
  expect(Start(pair, 1), "Diskless here");
  ASSERT_TRUE(pair.Disconnect(0, 1));
  expect(Start(pair, 0), "connect it first");
}

TEST(Verify, ADisconnectAndRolesDoNotWaitForIt) {
  Pair pair(Slow(32));
  ASSERT_TRUE(Start(pair, 0));
  pair.RunFor(500ms);
  ASSERT_TRUE(pair.Demote(0));
  ASSERT_TRUE(pair.Promote(1));
  ASSERT_EQ(pair.repl(0, 1), ReplicationState::kVerifyS);
  ASSERT_EQ(pair.Do(1, IoOp::kWrite, 1 << 20, 65536, 0x71), 0);
  ASSERT_TRUE(pair.Disconnect(1, 0));
  EXPECT_FALSE(Found(pair, 0).running);
  EXPECT_FALSE(Found(pair, 1).running);
  pair.ExpectIdleCounters();
}

}  // namespace
}  // namespace umblock::drbd
