// drbd-io-path.md K.1: when a write is answered, and with what.
#include <gtest/gtest.h>

#include <set>

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

TEST(K01, ProtocolCWaitsForThePeersDisk) {
  Bench bench(Options());
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
  bench.disk(1).SetHang(true);
  FrontIo* write = bench.StartWrite(0, 0, 4096, 2);
  bench.RunFor(3s);
  EXPECT_FALSE(write->answered());
  EXPECT_TRUE(bench.NowIs(0, 0, 4096, 2)) << "the own disk has it long since";
  EXPECT_EQ(bench.peer_volume(0).pending, 1u);
  bench.disk(1).SetHang(false);
  ASSERT_TRUE(bench.RunUntil([&] { return write->answered(); }));
  EXPECT_TRUE(write->ok());
  EXPECT_TRUE(bench.NowIs(1, 0, 4096, 2));
  bench.ExpectIdleCounters();
}

TEST(K02, ProtocolBIsAnsweredOnReceiptAndAnErrorAfterwardsIsOutOfSync) {
  Bench bench(Options(2, Protocol::kB));
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 8192, 4096, 1), 0);  // the extent is hot
  bench.RunFor(500ms);
  bench.disk(1).SetHang(true);
  FrontIo* write = bench.StartWrite(0, 0, 4096, 2);
  ASSERT_TRUE(bench.RunUntil([&] { return write->answered(); }, 2s));
  EXPECT_TRUE(write->ok());
  EXPECT_FALSE(bench.NowIs(1, 0, 4096, 2));
  bench.disk(1).AddBadRange(0, 4096, EIO);
  bench.disk(1).SetHang(false);
  ASSERT_TRUE(bench.RunUntil([&] { return bench.out_of_sync(0, 1) > 0; }, 20s));
  ASSERT_TRUE(bench.RunUntil([&] { return bench.disk_state(1) == DiskState::kDiskless; }, 20s));
  EXPECT_EQ(bench.log.Count(1, PacketType::kNegAck), 1u);
  EXPECT_EQ(bench.connection(0, 1), ConnectionState::kConnected);
  bench.disk(1).ClearFaults();
  Status attached = bench.Attach(1);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(bench.BecomesUpToDate());
  EXPECT_TRUE(bench.Equal(0, 1));
  EXPECT_TRUE(bench.NowIs(1, 0, 4096, 2));
  bench.ExpectIdleCounters();
}

TEST(K03, ProtocolAIsAnsweredOnHandOverAndIsOutOfSyncAfterALoss) {
  Bench bench(Options(3, Protocol::kA));
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
  bench.RunFor(500ms);
  auto link = bench.DataLink();
  ASSERT_NE(link, nullptr);
  link->MuteAfter(bench.EndOf(*link, 0), 0);  // what is sent from now on never arrives
  std::vector<FrontIo*> writes;
  for (uint64_t i = 0; i < 4; ++i) writes.push_back(bench.StartWrite(0, i * 8192, 4096, 7));
  ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }, 3s));
  for (FrontIo* write : writes) EXPECT_TRUE(write->ok());
  EXPECT_EQ(bench.connection(0, 1), ConnectionState::kConnected);
  link->Cut();
  // INV-6: answered, and out of sync all the same.
  ASSERT_TRUE(
      bench.RunUntil([&] { return bench.connection(0, 1) != ConnectionState::kConnected; }, 10s));
  ASSERT_TRUE(bench.RunUntil([&] { return bench.out_of_sync(0, 1) == uint64_t{4} * 4096; }, 10s));
  ASSERT_TRUE(bench.BecomesUpToDate());
  EXPECT_TRUE(bench.Equal(0, 1));
  EXPECT_TRUE(bench.NowIs(1, 8192, 4096, 7));
  bench.ExpectIdleCounters();
}

TEST(K05, TheOwnDiskIsWaitedForToo) {
  Bench bench(Options(5));
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
  bench.RunFor(500ms);
  bench.disk(0).SetHang(true);
  FrontIo* write = bench.StartWrite(0, 0, 4096, 2);
  ASSERT_TRUE(bench.RunUntil([&] { return bench.log.Count(1, PacketType::kWriteAck) == 2; }, 5s));
  bench.RunFor(2s);
  EXPECT_FALSE(write->answered()) << "the disk may still read the buffer (INV-21)";
  bench.disk(0).SetHang(false);
  ASSERT_TRUE(bench.RunUntil([&] { return write->answered(); }));
  EXPECT_TRUE(write->ok());
}

// Whatever the order of disk, socket and acks: once.
TEST(K06, EveryWriteIsAnsweredOnceWhateverTheOrderOfItsLegs) {
  for (Protocol protocol : {Protocol::kA, Protocol::kB, Protocol::kC}) {
    for (uint64_t seed = 1; seed <= 12; ++seed) {
      SCOPED_TRACE(static_cast<int>(protocol) * 100 + static_cast<int>(seed));
      Bench bench(Options(seed, protocol));
      bench.BringUpPrimary();
      for (uint64_t i = 0; i < 64; ++i) {
        bench.StartWrite(0, (i * 7 % 32) * 65536, i % 5 == 0 ? 65536 : 4096,
                         static_cast<uint8_t>(i));
      }
      ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
      bench.RunFor(1s);
      bench.ExpectAnsweredOnce();
      EXPECT_TRUE(bench.Equal(0, 1));
      bench.ExpectIdleCounters();
    }
  }
}

TEST(K07, AFailingOwnDiskIsNoErrorWhileThePeerHasTheData) {
  Bench bench(Options(7));
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 65536, 1), 0);
  bench.RunFor(500ms);
  std::string before = bench.volume_status(0).current_uuid;
  bench.disk(0).AddBadRange(4096, 4096, EIO);
  EXPECT_EQ(bench.Do(0, IoOp::kWrite, 4096, 4096, 2), 0);
  ASSERT_TRUE(bench.RunUntil([&] { return bench.disk_state(0) == DiskState::kDiskless; }));
  EXPECT_EQ(bench.status(0).role, Role::kPrimary);
  EXPECT_EQ(bench.ReadFront(0, 4096, 4096), std::vector<std::byte>(4096, std::byte{2}));
  EXPECT_EQ(bench.Do(0, IoOp::kWrite, 1 << 20, 4096, 3), 0);
  EXPECT_NE(bench.volume_status(1).current_uuid, before) << "a new generation without that disk";
  bench.disk(0).ClearFaults();
  Status attached = bench.Attach(0);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(bench.BecomesUpToDate());
  EXPECT_TRUE(bench.SawEvent(0, "replication", "SyncTarget"));
  EXPECT_TRUE(bench.Equal(0, 1));
  EXPECT_TRUE(bench.NowIs(0, 4096, 4096, 2));
  EXPECT_TRUE(bench.NowIs(0, 1 << 20, 4096, 3));
  uint64_t received = bench.peer_volume(0).received_bytes;
  EXPECT_LE(received, uint64_t{8} << 20) << "the hot extent and what was written since";
  bench.ExpectIdleCounters();
}

TEST(K08, AFailingPeerDiskIsOutOfSyncAndComesBack) {
  Bench bench(Options(8));
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 65536, 1), 0);
  bench.RunFor(500ms);
  bench.disk(1).AddBadRange(4096, 4096, EIO);
  EXPECT_EQ(bench.Do(0, IoOp::kWrite, 4096, 4096, 2), 0);
  ASSERT_TRUE(bench.RunUntil([&] { return bench.disk_state(1) == DiskState::kDiskless; }));
  EXPECT_EQ(bench.log.Count(1, PacketType::kNegAck), 1u);
  EXPECT_EQ(bench.Do(0, IoOp::kWrite, 1 << 20, 4096, 3), 0);
  ASSERT_TRUE(bench.RunUntil([&] { return bench.out_of_sync(0, 1) >= 8192; }, 5s));
  bench.disk(1).ClearFaults();
  Status attached = bench.Attach(1);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(bench.BecomesUpToDate());
  EXPECT_TRUE(bench.Equal(0, 1));
  EXPECT_TRUE(bench.NowIs(1, 4096, 4096, 2));
  bench.ExpectIdleCounters();
}

TEST(K09, BothCopiesFailing) {
  Bench bench(Options(9));
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 65536, 1), 0);
  bench.RunFor(500ms);
  bench.disk(0).AddBadRange(4096, 4096, EIO);
  bench.disk(1).AddBadRange(4096, 4096, EIO);
  FrontIo* write = bench.StartWrite(0, 4096, 4096, 2);
  ASSERT_TRUE(bench.RunUntil([&] { return write->answered(); }));
  EXPECT_EQ(write->error, EIO);
  bench.RunFor(2s);
  EXPECT_EQ(write->completions, 1);
}

TEST(K11, OverlappingWritesAreAppliedInTheirOrderEverywhere) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(Options(seed));
    bench.BringUpPrimary();
    bench.log.Clear();
    for (uint8_t i = 1; i <= 12; ++i) bench.StartWrite(0, uint64_t{i % 3u} * 2048, 8192, i);
    ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
    bench.RunFor(200ms);
    // The last one covers 0 … 8191, the one before it ends at 12287.
    EXPECT_TRUE(bench.NowIs(0, 0, 8192, 12));
    EXPECT_TRUE(bench.NowIs(0, 8192, 4096, 11));
    EXPECT_TRUE(bench.Equal(0, 1));
    // INV-11: two that overlap are not in one epoch.
    std::vector<std::pair<uint64_t, uint64_t>> epoch;
    for (const SeenPacket& packet : bench.log.Of(0, {PacketType::kData, PacketType::kBarrier})) {
      if (packet.type() == PacketType::kBarrier) {
        epoch.clear();
        continue;
      }
      uint64_t first = packet.data_head().sector;
      for (auto [begin, end] : epoch) EXPECT_FALSE(first < end && begin < first + 16);
      epoch.push_back({first, first + 16});
    }
  }
}

TEST(K12, ABarrierStandsBetweenAWriteAndOneIssuedAfterItsAnswer) {
  Bench bench(Options(12));
  bench.BringUpPrimary();
  bench.log.Clear();
  constexpr int kWrites = 20;
  for (int i = 0; i < kWrites; ++i) {
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, static_cast<uint64_t>(i) * 65536, 4096, 1), 0);
  }
  bench.RunFor(100ms);
  bool between = true;
  int data = 0;
  for (const SeenPacket& packet : bench.log.Of(0, {PacketType::kData, PacketType::kBarrier})) {
    if (packet.type() == PacketType::kBarrier) {
      between = true;
      continue;
    }
    EXPECT_TRUE(between) << "write " << data;
    between = false;
    ++data;
  }
  EXPECT_EQ(data, kWrites);
}

// INV-22: the queue refers to the initiator's memory until it is handed over, so protocol A answers
// only then; what it answered cannot be changed any more.
TEST(K13, AWriteIsNotAnsweredWhileItsMemoryIsReferenced) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(Options(seed, Protocol::kA));
    bench.BringUpPrimary();
    std::vector<FrontIo*> writes;
    for (uint64_t i = 0; i < 16; ++i) {
      writes.push_back(bench.StartWrite(0, i << 20, 256 << 10, static_cast<uint8_t>(i + 1)));
      FrontIo* write = writes.back();
      write->on_done = [write] {
        std::fill(write->data.begin(), write->data.end(), std::byte{0xdd});
      };
    }
    ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
    bench.RunFor(2s);
    for (uint64_t i = 0; i < 16; ++i) {
      EXPECT_TRUE(bench.NowIs(0, i << 20, 256 << 10, static_cast<uint8_t>(i + 1)));
    }
    EXPECT_TRUE(bench.Equal(0, 1));
  }
}

TEST(K14, WritesDuringAResyncAreAckedAndMayClearTheirBits) {
  for (Protocol protocol : {Protocol::kA, Protocol::kB, Protocol::kC}) {
    SCOPED_TRACE(static_cast<int>(protocol));
    ClusterOptions options = Options(14, protocol);
    options.resync.c_max_rate = 1024;  // KiB/s: there is time to write
    Bench bench(options);
    bench.BringUpPrimary();
    ASSERT_TRUE(bench.Disconnect(0, 1));
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 1 << 20, 5), 0);
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, 4 << 20, 1 << 20, 6), 0);
    ASSERT_TRUE(bench.Connect(0, 1));
    ASSERT_TRUE(bench.RunUntil([&] { return bench.repl(0, 1) == ReplicationState::kSyncSource; }));
    bench.log.Clear();
    for (uint64_t i = 0; i < 8; ++i) {
      ASSERT_EQ(bench.Do(0, IoOp::kWrite, (4 << 20) + (7 - i) * 131072, 8192, 9), 0);
    }
    for (const SeenPacket& packet : bench.log.Of(0, {PacketType::kData})) {
      EXPECT_NE(packet.data_head().dp_flags & wire::kDpMaySetInSync, 0u);
      EXPECT_NE(packet.data_head().dp_flags & wire::kDpSendWriteAck, 0u);
    }
    ASSERT_TRUE(bench.BecomesUpToDate());
    EXPECT_GT(bench.log.Count(1, PacketType::kWriteAckInSync), 0u);
    EXPECT_EQ(bench.out_of_sync(0, 1), 0u);
    EXPECT_EQ(bench.out_of_sync(1, 0), 0u);
    EXPECT_TRUE(bench.Equal(0, 1));
    bench.ExpectIdleCounters();
  }
}

// --- F and D
// ------------------------------------------------------------------------------------

TEST(K84, ALocalReadErrorIsServedByThePeer) {
  Bench bench(Options(84));
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 65536, 0x33), 0);
  bench.RunFor(500ms);
  bench.disk(0).AddBadRange(8192, 4096, EIO);
  EXPECT_EQ(bench.ReadFront(0, 8192, 4096), std::vector<std::byte>(4096, std::byte{0x33}));
  ASSERT_TRUE(bench.RunUntil([&] { return bench.disk_state(0) == DiskState::kDiskless; }));
  bench.disk(0).ClearFaults();
  ASSERT_TRUE(bench.Attach(0));
  ASSERT_TRUE(bench.BecomesUpToDate());
  EXPECT_TRUE(bench.Equal(0, 1));
  bench.ExpectIdleCounters();
}

TEST(K84, WithPassOnTheDiskStaysAndTheBlockIsOutOfSync) {
  ClusterOptions options = Options(841);
  options.disk.on_io_error = OnIoError::kPassOn;
  Bench bench(options);
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 65536, 0x33), 0);
  bench.RunFor(500ms);
  bench.disk(0).AddBadRange(8192, 4096, EIO);
  EXPECT_EQ(bench.ReadFront(0, 8192, 4096), std::vector<std::byte>(4096, std::byte{0x33}));
  EXPECT_EQ(bench.disk_state(0), DiskState::kInconsistent);
  EXPECT_EQ(bench.out_of_sync(0, 1), 4096u);
  // Another block is in sync and read here, this one there again.
  EXPECT_EQ(bench.ReadFront(0, 0, 4096), std::vector<std::byte>(4096, std::byte{0x33}));
  EXPECT_EQ(bench.ReadFront(0, 8192, 4096), std::vector<std::byte>(4096, std::byte{0x33}));
}

TEST(K84, WithoutAnyPathTheReadFails) {
  Bench bench(Options(842));
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 65536, 0x33), 0);
  ASSERT_TRUE(bench.Disconnect(0, 1));
  bench.disk(0).AddBadRange(8192, 4096, EIO);
  FrontIo* read = bench.Submit(0, IoOp::kRead, 8192, 4096);
  ASSERT_TRUE(bench.RunUntil([&] { return read->answered(); }));
  EXPECT_EQ(read->error, EIO);
}

TEST(K85, AnInconsistentPrimaryReadsDirtyBlocksFromItsPeer) {
  ClusterOptions options = Options(85);
  options.resync.c_max_rate = 512;
  Bench bench(options);
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 1 << 20, 1), 0);
  ASSERT_TRUE(bench.Disconnect(0, 1));
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 4 << 20, 1 << 20, 2), 0);
  ASSERT_TRUE(bench.Demote(0));
  ASSERT_TRUE(bench.Connect(0, 1));
  ASSERT_TRUE(bench.RunUntil([&] { return bench.repl(1, 0) == ReplicationState::kSyncTarget; }));
  Status promoted = bench.Promote(1);
  ASSERT_TRUE(promoted) << Text(promoted);
  ASSERT_EQ(bench.disk_state(1), DiskState::kInconsistent);
  uint64_t read_before = bench.volume_status(1).counters.disk_read_bytes;
  EXPECT_EQ(bench.ReadFront(1, 0, 4096), std::vector<std::byte>(4096, std::byte{1}));
  EXPECT_EQ(bench.volume_status(1).counters.disk_read_bytes, read_before + 4096) << "clean: here";
  uint64_t last = (4 << 20) + (1 << 20) - 4096;
  EXPECT_EQ(bench.ReadFront(1, last, 4096), std::vector<std::byte>(4096, std::byte{2}));
  EXPECT_EQ(bench.volume_status(1).counters.disk_read_bytes, read_before + 4096) << "dirty: there";
  // INV-27: what is written on the target while it syncs stays.
  std::vector<FrontIo*> writes;
  for (uint64_t i = 0; i < 64; ++i) {
    writes.push_back(bench.StartWrite(1, (4 << 20) + i * 16384, 4096, 0x77));
  }
  ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
  ASSERT_TRUE(bench.BecomesUpToDate());
  for (uint64_t i = 0; i < 64; ++i) {
    EXPECT_TRUE(bench.NowIs(0, (4 << 20) + i * 16384, 4096, 0x77)) << i;
    EXPECT_TRUE(bench.NowIs(1, (4 << 20) + i * 16384, 4096, 0x77)) << i;
  }
  EXPECT_TRUE(bench.Equal(0, 1));
  bench.ExpectIdleCounters();
}

// --- discard, write zeroes, flush, FUA
// --------------------------------------------------------------

TEST(K80, DiscardAndWriteZeroesReadTheSameOnAllCopies) {
  struct {
    uint64_t offset, length;
  } ranges[] = {{0, 4096},          {512, 512},     {4096 - 512, 1024},
                {8192, 1 << 20},    {512, 1 << 20}, {4096 + 1024, 65536 - 512},
                {2 << 20, 8 << 20}, {33 << 20, 512}};
  for (IoOp op : {IoOp::kDiscard, IoOp::kWriteZeroes}) {
    Bench bench(Options(80));
    bench.BringUpPrimary();
    for (uint64_t at = 0; at < (40u << 20); at += 1 << 20) {
      ASSERT_EQ(bench.Do(0, IoOp::kWrite, at, 1 << 20, 0xaa), 0);
    }
    for (auto [offset, length] : ranges) {
      SCOPED_TRACE(offset);
      ASSERT_EQ(bench.Do(0, op, offset, length), 0);
      for (int node : {0, 1}) EXPECT_TRUE(bench.NowIs(node, offset, length, 0)) << node;
      EXPECT_EQ(bench.ReadFront(0, offset, std::min<uint64_t>(length, 1 << 20)),
                std::vector<std::byte>(std::min<uint64_t>(length, 1 << 20), std::byte{0}));
    }
    EXPECT_TRUE(bench.Equal(0, 1));
    EXPECT_TRUE(bench.NowIs(0, 12 << 20, 4096, 0xaa));
    EXPECT_GT(bench.log.Count(0, op == IoOp::kDiscard ? PacketType::kTrim : PacketType::kZeroes),
              0u);
    bench.ExpectIdleCounters();
  }
}

TEST(K80, AFailingDiscardOnThePeerIsAnErrorThere) {
  Bench bench(Options(801));
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 65536, 0xaa), 0);
  bench.RunFor(500ms);
  bench.disk(1).FailNext(SimDiskOp::kWriteZeroes, EIO, 1000);
  bench.disk(1).FailNext(SimDiskOp::kDiscard, EIO, 1000);
  EXPECT_EQ(bench.Do(0, IoOp::kDiscard, 0, 65536), 0);
  ASSERT_TRUE(bench.RunUntil([&] { return bench.disk_state(1) == DiskState::kDiskless; }, 10s));
  bench.disk(1).ClearFaults();
  ASSERT_TRUE(bench.Attach(1));
  ASSERT_TRUE(bench.BecomesUpToDate());
  EXPECT_TRUE(bench.Equal(0, 1));
}

// INV-10 in the strict form: the flush is answered when the peer's copy is stable too.
TEST(K82, AStrictFlushSurvivesPowerCutOfBothAndTheLossOfThePrimarysDisk) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(Options(seed));
    bench.BringUpPrimary();
    for (uint64_t i = 0; i < 16; ++i) {
      ASSERT_EQ(bench.Do(0, IoOp::kWrite, i * 12288, 4096, static_cast<uint8_t>(i + 1)), 0);
    }
    ASSERT_EQ(bench.Do(0, IoOp::kFlush, 0, 0), 0);
    for (int node : {0, 1}) {
      for (uint64_t i = 0; i < 16; ++i) {
        EXPECT_TRUE(bench.StableIs(node, i * 12288, 4096, static_cast<uint8_t>(i + 1))) << node;
      }
    }
    bench.node(0).Crash(SimCrash::kPowerCut);
    bench.node(1).Crash(SimCrash::kPowerCut);
    bench.Boot(1);
    Status promoted = bench.Promote(1, true);
    ASSERT_TRUE(promoted) << Text(promoted);
    for (uint64_t i = 0; i < 16; ++i) {
      EXPECT_EQ(bench.ReadFront(1, i * 12288, 4096),
                std::vector<std::byte>(4096, static_cast<std::byte>(i + 1)));
    }
  }
}

TEST(K82, AsTheKernelTheFlushDoesNotWaitForThePeer) {
  ClusterOptions options = Options(821);
  options.resource.strict_flush = false;
  Bench bench(options);
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
  bench.RunFor(500ms);
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 2), 0);
  bench.disk(1).SetHang(true);
  EXPECT_EQ(bench.Do(0, IoOp::kFlush, 0, 0), 0);
  bench.disk(1).SetHang(false);
}

TEST(K82, AStrictFlushWaitsForThePeersFlush) {
  Bench bench(Options(822));
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
  bench.RunFor(500ms);
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 2), 0);
  bench.disk(1).SetHang(true);
  FrontIo* flush = bench.Submit(0, IoOp::kFlush, 0, 0);
  bench.RunFor(3s);
  EXPECT_FALSE(flush->answered());
  bench.disk(1).SetHang(false);
  ASSERT_TRUE(bench.RunUntil([&] { return flush->answered(); }));
  EXPECT_TRUE(flush->ok());
  EXPECT_TRUE(bench.StableIs(1, 0, 4096, 2));
}

TEST(K82, AStrictFlushEndsWhenThePeerIsLost) {
  Bench bench(Options(823));
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
  bench.disk(1).SetHang(true);
  ASSERT_FALSE(bench.StartWrite(0, 4096, 4096, 2)->answered());
  FrontIo* flush = bench.Submit(0, IoOp::kFlush, 0, 0);
  bench.RunFor(1s);
  EXPECT_FALSE(flush->answered());
  bench.node(1).Crash(SimCrash::kPowerCut);
  ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }, 60s));
  EXPECT_TRUE(flush->ok());
}

TEST(K83, AFuaWriteIsStableOnBothWhenItIsAnswered) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(Options(seed));
    bench.BringUpPrimary();
    FrontIo* write = bench.Submit(0, IoOp::kWrite, 8192, 16384, 0x42, true);
    bool stable[2] = {};
    write->on_done = [&] {
      for (int node : {0, 1}) stable[node] = bench.StableIs(node, 8192, 16384, 0x42);
    };
    ASSERT_TRUE(bench.RunUntil([&] { return write->answered(); }));
    EXPECT_TRUE(write->ok());
    EXPECT_TRUE(stable[0]);
    EXPECT_TRUE(stable[1]);
    ASSERT_EQ(bench.log.Of(0, {PacketType::kData}).size(), 1u);
    EXPECT_NE(bench.log.Of(0, {PacketType::kData})[0].data_head().dp_flags & wire::kDpFua, 0u);
  }
}

TEST(K83, AFailedFlushOfTheOwnDiskIsNotAnsweredAsDone) {
  Bench bench(Options(831));
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
  ASSERT_TRUE(bench.Disconnect(0, 1));
  bench.disk(0).FailNext(SimDiskOp::kSync, EIO, 1000);
  EXPECT_NE(bench.Do(0, IoOp::kFlush, 0, 0), 0);
}

// --- requests that can never work
// -------------------------------------------------------------------

TEST(FrontTest, ImpossibleRequestsAreRefusedAtOnce) {
  Bench bench(Options(200));
  bench.BringUpPrimary();
  uint64_t size = bench.volume_status(0).size_bytes;
  struct {
    IoOp op;
    uint64_t offset, length;
  } bad[] = {{IoOp::kWrite, size, 4096},
             {IoOp::kWrite, size - 512, 1024},
             {IoOp::kWrite, 1, 512},
             {IoOp::kWrite, 0, 513},
             {IoOp::kWrite, 0, 2 << 20},
             {IoOp::kRead, ~uint64_t{0} - 511, 512},
             {IoOp::kRead, size, 512},
             {IoOp::kDiscard, 0, uint64_t{256} << 20},
             {IoOp::kDiscard, size - 4096, 8192},
             {IoOp::kWriteZeroes, 0, 0}};
  for (auto [op, offset, length] : bad) {
    EXPECT_NE(bench.Do(0, op, offset, length), 0) << offset << " " << length;
  }
  EXPECT_EQ(bench.Do(0, IoOp::kWrite, size - 4096, 4096, 1), 0);
  EXPECT_EQ(bench.connection(0, 1), ConnectionState::kConnected);
}

TEST(FrontTest, ASecondaryRefusesWritesAndReads) {
  Bench bench(Options(201));
  bench.BringUpPrimary();
  EXPECT_EQ(bench.Do(1, IoOp::kWrite, 0, 4096, 1), EROFS);
  EXPECT_EQ(bench.Do(1, IoOp::kRead, 0, 4096), EROFS);
}

TEST(FrontTest, WhatWaitsForAdmissionIsAnsweredWhenTheResourceStops) {
  Bench bench(Options(202));
  bench.BringUpPrimary();
  ASSERT_TRUE(bench.Await(0, bench.resource(0).SuspendIo()));
  bench.StartWrite(0, 0, 4096, 1);
  bench.Submit(0, IoOp::kRead, 0, 4096);
  bench.Submit(0, IoOp::kFlush, 0, 0);
  bench.RunFor(1s);
  EXPECT_FALSE(bench.AllDone());
  ASSERT_TRUE(bench.Await(0, [](Resource& resource) -> Task<Status> {
    co_await resource.Stop();
    co_return Ok();
  }(bench.resource(0))));
  bench.RunFor(1s);
  EXPECT_TRUE(bench.AllDone());
  bench.node(0).Crash(SimCrash::kProcessKill);
}

}  // namespace
}  // namespace umblock::drbd
