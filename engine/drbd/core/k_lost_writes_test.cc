// Two failures that meet: a disk or a link is lost while the other copy is half-synced. What was
// acknowledged must come back, and both must find together again (INV-1, INV-3, drbd-states.md 9).
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/pair.h"

namespace umblock::drbd {
namespace {

using testing::Bench;
using testing::ClusterOptions;
using testing::FrontIo;
using testing::Text;

// A resync takes long enough to do something meanwhile.
ClusterOptions Slow(uint64_t seed) {
  ClusterOptions options;
  options.seed = seed;
  options.resync.c_max_rate = 1024;
  return options;
}

struct Pair : testing::Pair {
  using testing::Pair::Pair;
  // Node 1 is the target of a resync from the Primary.
  void BeginResync() {
    ASSERT_TRUE(Disconnect(0, 1));
    for (uint64_t at = 0; at < (4 << 20); at += 1 << 20) {
      ASSERT_EQ(Do(0, IoOp::kWrite, at, 1 << 20, 0x55), 0);
    }
    ASSERT_TRUE(Connect(0, 1));
    ASSERT_TRUE(RunUntil([&] { return repl(1, 0) == ReplicationState::kSyncTarget; }));
  }
};

TEST(LostWrites, AWriteThatOnlyAHalfSyncedPeerHasIsNotAcknowledged) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(Slow(seed));
    pair.BeginResync();
    constexpr uint64_t kPlace = 8 << 20;
    pair.disk(0).AddBadRange(kPlace, 4096, EIO);
    // The peer takes it, and loses it when the disk here is the source again.
    EXPECT_EQ(pair.Do(0, IoOp::kWrite, kPlace, 4096, 0x77), EIO);
    ASSERT_TRUE(pair.RunUntil([&] { return pair.disk_state(0) == DiskState::kDiskless; }, 30s));
    pair.disk(0).ClearFaults();
    Status attached = pair.Attach(0);
    ASSERT_TRUE(attached) << Text(attached);
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
    EXPECT_EQ(pair.Do(0, IoOp::kWrite, kPlace, 4096, 0x78), 0);
    pair.ExpectIdleCounters();
  }
}

TEST(LostWrites, AHalfSyncedPrimaryThatLosesItsSourceBeginsNoGeneration) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(Slow(seed));
    pair.BeginResync();
    ASSERT_TRUE(pair.Demote(0));
    Status promoted = pair.Promote(1);
    ASSERT_TRUE(promoted) << Text(promoted);
    ASSERT_EQ(pair.Do(1, IoOp::kWrite, 9 << 20, 4096, 0x31), 0);
    ASSERT_EQ(pair.disk_state(1), DiskState::kInconsistent);
    const std::string generation = pair.volume_status(1).current_uuid;
    for (uint64_t i = 0; i < 8; ++i) pair.StartWrite(1, (10 + i) << 20, 65536, 0x32);
    pair.RunFor(std::chrono::microseconds(100 * seed));
    pair.DataLink()->Cut();
    ASSERT_TRUE(pair.WaitConnection(1, ConnectionState::kConnecting));
    EXPECT_EQ(pair.volume_status(1).current_uuid, generation);
    // It would be a split brain.
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }));
    pair.ExpectIdleCounters();
  }
}

TEST(LostWrites, ADisklessPrimaryThatLosesItsPeerKnowsItAgain) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(Slow(seed));
    pair.disk(0).AddBadRange(0, 4096, EIO);
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x41), 0);
    ASSERT_TRUE(pair.RunUntil([&] { return pair.disk_state(0) == DiskState::kDiskless; }, 30s));
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, 65536, 4096, 0x41), 0);
    for (uint64_t i = 0; i < 8; ++i) pair.StartWrite(0, (10 + i) << 20, 65536, 0x42);
    pair.RunFor(std::chrono::microseconds(100 * seed));
    pair.DataLink()->Cut();
    ASSERT_TRUE(pair.WaitConnection(0, ConnectionState::kConnecting));
    ASSERT_TRUE(pair.WaitConnection(0, ConnectionState::kConnected)) << pair.Describe(0);
    EXPECT_EQ(pair.Do(0, IoOp::kWrite, 65536, 4096, 0x43), 0);
    pair.disk(0).ClearFaults();
    Status attached = pair.Attach(0);
    ASSERT_TRUE(attached) << Text(attached);
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
  }
}

// A promotion owes a generation, which waits for the first I/O: who has changed nothing has no name
// of its own, and is simply behind.
TEST(LostWrites, APromotionWithoutIoIsNoChange) {
  for (bool demoted_first : {true, false}) {
    SCOPED_TRACE(demoted_first);
    Pair pair(Slow(3));
    pair.node(1).Crash(SimCrash::kPowerCut);
    ASSERT_TRUE(pair.WaitConnection(0, ConnectionState::kConnecting));
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, 1 << 20, 65536, 0x66), 0);
    pair.world().network().Partition(pair.node(0), pair.node(1), true);
    pair.Boot(1);
    ASSERT_TRUE(pair.RunUntil([&] { return pair.disk_state(1) == DiskState::kUpToDate; }, 30s));
    EXPECT_GT(pair.out_of_sync(1, 0), 0u) << "of the activity log";
    Status promoted = pair.Promote(1);
    ASSERT_TRUE(promoted) << Text(promoted);
    if (demoted_first) ASSERT_TRUE(pair.Demote(1));
    pair.world().network().Partition(pair.node(0), pair.node(1), false);
    pair.RunFor(15s);
    if (!demoted_first) ASSERT_TRUE(pair.Demote(1));
    for (int i = 0; i < 2; ++i) (void)pair.Connect(i, 1 - i);
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
    EXPECT_TRUE(pair.NowIs(1, 1 << 20, 65536, 0x66));
  }
}

// Disk and link go in the same moment, in the middle of writes, and the disk comes back first:
// which node has which of them nobody knows, though both have the same generation.
TEST(LostWrites, APrimaryThatLosesDiskAndPeerAtOnceIsComparedByItsBitmap) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(Slow(seed));
    for (uint64_t i = 0; i < 8; ++i) pair.StartWrite(0, (10 + i) << 20, 65536, 0x42);
    pair.RunFor(std::chrono::microseconds(100 * seed));
    pair.world().network().Partition(pair.node(0), pair.node(1), true);
    pair.disk(0).AddBadRange(0, 4096, EIO);
    pair.StartWrite(0, 0, 4096, 0x41);
    ASSERT_TRUE(pair.RunUntil([&] { return pair.disk_state(0) != DiskState::kUpToDate; }, 60s));
    ASSERT_TRUE(pair.Disconnect(0, 1, true));
    ASSERT_TRUE(pair.RunUntil([&] { return pair.disk_state(0) == DiskState::kDiskless; }, 60s));
    pair.disk(0).ClearFaults();
    Status attached = pair.Attach(0);
    ASSERT_TRUE(attached) << Text(attached);
    EXPECT_GT(pair.out_of_sync(0, 1), 0u);
    pair.world().network().Partition(pair.node(0), pair.node(1), false);
    ASSERT_TRUE(pair.Connect(0, 1));
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
    EXPECT_EQ(pair.out_of_sync(0, 1), 0u);
  }
}

TEST(LostWrites, AHalfSyncedDiskIsNotMadeUpToDateByADisklessPrimary) {
  Pair pair(Slow(4));
  // Node 1 follows into a generation that the disk of node 0 does not have.
  pair.disk(0).AddBadRange(0, 4096, EIO);
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x41), 0);
  ASSERT_TRUE(pair.RunUntil([&] { return pair.disk_state(0) == DiskState::kDiskless; }, 30s));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 1 << 20, 1 << 20, 0x42), 0);
  pair.disk(0).ClearFaults();
  ASSERT_TRUE(pair.Attach(0));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.repl(0, 1) == ReplicationState::kSyncTarget; }));
  pair.RunFor(100ms);
  ASSERT_EQ(pair.disk_state(0), DiskState::kInconsistent);
  pair.node(0).Crash(SimCrash::kPowerCut);
  ASSERT_TRUE(pair.WaitConnection(1, ConnectionState::kConnecting));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.disk_state(1) == DiskState::kUpToDate; }, 30s));
  ASSERT_TRUE(pair.Promote(1));
  ASSERT_EQ(pair.Do(1, IoOp::kWrite, 9 << 20, 4096, 0x43), 0);
  pair.disk(1).AddBadRange(0, 4096, EIO);
  EXPECT_NE(pair.Do(1, IoOp::kWrite, 0, 4096, 0x44), 0);
  ASSERT_TRUE(pair.RunUntil([&] { return pair.disk_state(1) == DiskState::kDiskless; }, 30s));
  pair.Boot(0);
  pair.RunFor(20s);
  EXPECT_EQ(pair.disk_state(0), DiskState::kInconsistent);
  EXPECT_NE(pair.Do(1, IoOp::kWrite, 9 << 20, 4096, 0x45), 0) << "there is no good copy";
  pair.disk(1).ClearFaults();
  Status attached = pair.Attach(1);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
  EXPECT_TRUE(pair.NowIs(0, 9 << 20, 4096, 0x43));
}

// The source lets go of a block whose write the target has not ended; what follows finds both with
// the same bits.
TEST(LostWrites, BlocksOfAResyncThatWasGivenUpLeaveNoBitBehind) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(Slow(seed));
    pair.BeginResync();
    pair.RunFor(std::chrono::milliseconds(50 * seed));
    pair.disk(1).SetHang(true);
    pair.RunFor(200ms);
    ASSERT_TRUE(pair.Await(0, pair.resource(0).Detach(0, true)));
    Status attached = pair.Attach(0);
    ASSERT_TRUE(attached) << Text(attached);
    pair.RunFor(100ms);
    pair.disk(1).SetHang(false);
    ASSERT_TRUE(pair.BecomesUpToDate());
    pair.RunFor(1s);
    EXPECT_EQ(pair.out_of_sync(0, 1), 0u);
    EXPECT_EQ(pair.out_of_sync(1, 0), 0u);
    EXPECT_TRUE(pair.Equal(0, 1));
    pair.ExpectIdleCounters();
  }
}

// A diskless Primary's writes are out of sync towards it; that must outlive a crash of the node
// that has them, also when it comes after the loss of the Primary.
TEST(LostWrites, WhatADisklessPrimaryLacksOutlivesACrash) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(Slow(seed));
    pair.disk(0).AddBadRange(0, 4096, EIO);
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x41), 0);
    ASSERT_TRUE(pair.RunUntil([&] { return pair.disk_state(0) == DiskState::kDiskless; }, 30s));
    // Here before, so that the log of node 0 says nothing of it.
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, 40 << 20, 65536, 0x42), 0);
    pair.node(0).Crash(SimCrash::kProcessKill);
    ASSERT_TRUE(pair.WaitConnection(1, ConnectionState::kConnecting));
    pair.RunFor(1s);
    pair.node(1).Crash(seed % 2 == 0 ? SimCrash::kProcessKill : SimCrash::kPowerCut);
    pair.disk(0).ClearFaults();
    pair.Boot(1);
    pair.Boot(0);
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
    EXPECT_TRUE(pair.NowIs(0, 40 << 20, 65536, 0x42));
  }
}

// With protocols A and B a write is answered before it is on the peer's disk.
TEST(LostWrites, ARemoteReadSeesWhatWasAcknowledgedBefore) {
  for (Protocol protocol : {Protocol::kA, Protocol::kB}) {
    for (uint64_t seed = 1; seed <= 4; ++seed) {
      SCOPED_TRACE(seed);
      ClusterOptions options = Slow(seed);
      options.net.protocol = protocol;
      Pair pair(options);
      ASSERT_TRUE(pair.Detach(0));
      pair.disk(1).set_slowdown(20);
      for (uint8_t i = 1; i <= 20; ++i) {
        ASSERT_EQ(pair.Do(0, IoOp::kWrite, 65536, 65536, i), 0);
        EXPECT_EQ(pair.ReadFront(0, 81920, 4096), std::vector<std::byte>(4096, std::byte{i}));
      }
      pair.ExpectIdleCounters();
    }
  }
}

TEST(LostWrites, ARemoteReadThatWaitsForAWriteEndsWithTheLink) {
  ClusterOptions options = Slow(5);
  options.net.protocol = Protocol::kA;
  Pair pair(options);
  ASSERT_TRUE(pair.Detach(0));
  pair.disk(1).SetHang(true);
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 65536, 65536, 1), 0);
  FrontIo* read = pair.Submit(0, IoOp::kRead, 65536, 4096);
  pair.RunFor(100ms);
  EXPECT_FALSE(read->answered());
  pair.DataLink()->Cut();
  ASSERT_TRUE(pair.RunUntil([&] { return read->answered(); }));
  EXPECT_EQ(read->error, EIO);
  pair.disk(1).SetHang(false);
  ASSERT_TRUE(pair.WaitConnection(1, ConnectionState::kConnected));
  pair.ExpectIdleCounters();
}

// A node that was demoted in order, and then loses power: what it wrote as Primary was flushed at
// the peer by its epochs; its own copy may still be in a volatile cache (INV-3).
TEST(LostWrites, ADemotedNodeThatLosesPowerIsEqualAgain) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    ClusterOptions options = testing::Options(seed);
    options.external_metadata = true;
    Bench bench(options);
    bench.BringUpPrimary();
    for (uint64_t i = 0; i < 16; ++i) {
      ASSERT_EQ(bench.Do(0, IoOp::kWrite, i * 8192, 8192, static_cast<uint8_t>(i + 1)), 0);
    }
    ASSERT_TRUE(bench.Demote(0));
    bench.node(0).Crash(SimCrash::kPowerCut);
    bench.RunFor(1s);
    bench.Boot(0);
    ASSERT_TRUE(bench.BecomesUpToDate());
    EXPECT_TRUE(bench.Equal(0, 1));
    EXPECT_EQ(bench.out_of_sync(0, 1), 0u);
  }
}

// on-io-error pass_on at the target of a resync: a write that fails there while the end of the
// resync is being written down must not leave a disk that calls itself UpToDate (INV-9).
TEST(LostWrites, AFailureAtTheEndOfAResyncIsNotForgotten) {
  int failed = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    ClusterOptions options = testing::Options(seed);
    options.disk.on_io_error = OnIoError::kPassOn;
    Bench bench(options);
    bench.BringUpPrimary();
    ASSERT_TRUE(bench.Disconnect(0, 1));
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 65536, 0x55), 0);
    ASSERT_TRUE(bench.Connect(0, 1));
    ASSERT_TRUE(bench.RunUntil(
        [&] {
          return bench.repl(1, 0) == ReplicationState::kSyncTarget && bench.out_of_sync(1, 0) == 0;
        },
        60s));
    bench.RunFor(std::chrono::microseconds(seed * 60));
    if (bench.repl(1, 0) != ReplicationState::kSyncTarget) continue;
    bench.disk(1).AddBadRange(1 << 20, 4096, EIO);
    FrontIo* write = bench.StartWrite(0, 1 << 20, 4096, 0x66);
    bench.RunFor(3s);
    EXPECT_TRUE(write->ok());
    if (bench.NowIs(1, 1 << 20, 4096, 0x66)) continue;
    ++failed;
    EXPECT_NE(bench.disk_state(1), DiskState::kUpToDate);
    EXPECT_NE(bench.out_of_sync(0, 1), 0u) << "as the source knows, too";
  }
  EXPECT_GT(failed, 0) << "no write failed in the window";
}

}  // namespace
}  // namespace umblock::drbd
