// drbd-io-path.md K.3 and K.4: epochs, power cuts of the Secondary, faults of the network.
#include <gtest/gtest.h>

#include <map>

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

// INV-13, INV-14, INV-15 as they show on the wire: what lies between two barriers is of one epoch
// and is counted right; acks of an epoch come before its barrier ack, barrier acks in order.
void ExpectEpochsInOrder(const testing::PacketLog& log, uint32_t most_writes) {
  std::vector<uint32_t> sizes;
  std::vector<uint32_t> numbers;
  std::map<uint64_t, size_t> epoch_of;  // by block id: index into sizes
  size_t acked_epochs = 0;
  uint32_t writes = 0;
  for (const SeenPacket& packet : log.packets()) {
    switch (packet.type()) {
      case PacketType::kData:
      case PacketType::kTrim:
      case PacketType::kZeroes:
        if (packet.from != 0) break;
        ++writes;
        epoch_of[packet.data_head().block_id] = sizes.size();
        EXPECT_LE(writes, most_writes);
        break;
      case PacketType::kBarrier:
        EXPECT_GT(writes, 0u) << "an empty epoch is not closed";
        numbers.push_back(wire::Barrier::Decode(packet.front)->barrier);
        sizes.push_back(std::exchange(writes, 0));
        break;
      case PacketType::kWriteAck:
      case PacketType::kWriteAckInSync:
      case PacketType::kRecvAck: {
        auto ack = wire::BlockAck::Decode(packet.front);
        auto found = epoch_of.find(ack->block_id);
        ASSERT_NE(found, epoch_of.end());
        EXPECT_GE(found->second, acked_epochs) << "an ack after the barrier ack of its epoch";
        break;
      }
      case PacketType::kBarrierAck: {
        auto ack = wire::BarrierAck::Decode(packet.front);
        ASSERT_LT(acked_epochs, sizes.size());
        EXPECT_EQ(ack->barrier, numbers[acked_epochs]);
        EXPECT_EQ(ack->set_size, sizes[acked_epochs]);
        ++acked_epochs;
        break;
      }
      default:
        break;
    }
  }
  EXPECT_GT(acked_epochs, 0u);
}

TEST(K27, APowerCutBeforeTheBarrierAckIsRepaired) {
  for (uint64_t seed = 1; seed <= 15; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(Options(seed));
    bench.BringUpPrimary();
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 1 << 20, 1), 0);
    bench.RunFor(500ms);
    bench.log.Clear();
    std::vector<FrontIo*> writes;
    for (uint64_t i = 0; i < 8; ++i) writes.push_back(bench.StartWrite(0, i * 16384, 8192, 2));
    bench.log.on_packet = [&](const SeenPacket& packet) {
      if (packet.from == 1 && packet.type() == PacketType::kWriteAck) {
        bench.node(1).CrashSoon(SimCrash::kPowerCut);
      }
    };
    ASSERT_TRUE(bench.RunUntil([&] { return !bench.node(1).running(); }, 20s));
    bench.log.on_packet = nullptr;
    EXPECT_EQ(bench.log.Count(1, PacketType::kBarrierAck), 0u);
    ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }, 60s));
    ASSERT_TRUE(bench.RunUntil([&] { return bench.out_of_sync(0, 1) >= 8 * 8192; }, 60s))
        << "INV-6";
    bench.Boot(1);
    ASSERT_TRUE(bench.BecomesUpToDate());
    for (uint64_t i = 0; i < 8; ++i) EXPECT_TRUE(bench.NowIs(1, i * 16384, 8192, 2));
    EXPECT_TRUE(bench.Equal(0, 1));
    bench.ExpectIdleCounters();
  }
}

TEST(K28, WhatWasBarrierAckedIsStable) {
  for (Protocol protocol : {Protocol::kA, Protocol::kB, Protocol::kC}) {
    for (uint64_t seed = 1; seed <= 8; ++seed) {
      SCOPED_TRACE(seed);
      Bench bench(Options(seed, protocol));
      bench.BringUpPrimary();
      bench.log.Clear();
      std::map<uint64_t, uint8_t> open;  // of the epochs that are not acked yet, by offset
      std::vector<std::map<uint64_t, uint8_t>> closed;
      size_t acked = 0;
      bench.log.on_packet = [&](const SeenPacket& packet) {
        if (packet.from == 0 && packet.type() == PacketType::kData) {
          open[packet.data_head().sector * 512] = static_cast<uint8_t>(packet.front[24]);
        } else if (packet.from == 0 && packet.type() == PacketType::kBarrier) {
          closed.push_back(std::move(open));
          open.clear();
        } else if (packet.from == 1 && packet.type() == PacketType::kBarrierAck) {
          for (auto [offset, fill] : closed[acked]) {
            EXPECT_TRUE(bench.StableIs(1, offset, 4096, fill)) << "INV-7, offset " << offset;
          }
          ++acked;
        }
      };
      for (uint64_t i = 0; i < 60; ++i) {
        bench.StartWrite(0, i * 8192, 4096, static_cast<uint8_t>(i + 1));
        if (i % 4 == 3) bench.RunFor(500us);
      }
      ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
      bench.RunFor(300ms);
      bench.log.on_packet = nullptr;
      EXPECT_GE(acked, 3u);
      EXPECT_EQ(acked, closed.size());
    }
  }
}

// INV-8: an epoch is not begun before the one before it is complete and flushed.
TEST(K29, ALaterEpochIsNeverThereWithoutAnEarlierOne) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(Options(seed, seed % 2 == 0 ? Protocol::kA : Protocol::kC));
    bench.BringUpPrimary();
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 1 << 20, 0), 0);
    bench.RunFor(500ms);
    // Each is issued when the one before has been answered, so each is an epoch of its own.
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

// A backend without a flush: nothing is promised, and nothing stops.
TEST(K31, ABackendWithoutFlushDegradesToDrainAndTheBarrierIsAcked) {
  Bench bench(Options(31));
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
  bench.RunFor(500ms);
  EXPECT_EQ(bench.status(1).write_ordering, "flush");
  bench.disk(1).FailNext(SimDiskOp::kSync, EOPNOTSUPP, 1);
  size_t acked = bench.log.Count(1, PacketType::kBarrierAck);
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 2), 0);
  ASSERT_TRUE(
      bench.RunUntil([&] { return bench.log.Count(1, PacketType::kBarrierAck) > acked; }, 5s));
  EXPECT_EQ(bench.status(1).write_ordering, "drain");
  EXPECT_EQ(bench.connection(0, 1), ConnectionState::kConnected);
  for (uint8_t i = 0; i < 10; ++i)
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, uint64_t{i} * 4096, 4096, i), 0);
  bench.RunFor(300ms);
  EXPECT_TRUE(bench.Equal(0, 1));
  bench.ExpectIdleCounters();
}

// A flush that fails has lost writes: no barrier ack for them, and the disk goes.
TEST(K31, AFailedFlushOnThePeerIsAFailedDisk) {
  Bench bench(Options(312));
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
  bench.RunFor(500ms);
  bench.disk(1).FailNext(SimDiskOp::kSync, EIO, 1);
  size_t acked = bench.log.Count(1, PacketType::kBarrierAck);
  EXPECT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 2), 0);
  ASSERT_TRUE(bench.RunUntil([&] { return bench.disk_state(1) == DiskState::kDiskless; }, 10s));
  EXPECT_EQ(bench.log.Count(1, PacketType::kBarrierAck), acked) << "INV-7";
  ASSERT_TRUE(bench.RunUntil([&] { return bench.out_of_sync(0, 1) == 4096; }, 10s));
  ASSERT_TRUE(
      bench.RunUntil([&] { return bench.repl(0, 1) == ReplicationState::kEstablished; }, 30s));
  Status attached = bench.Attach(1);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(bench.BecomesUpToDate());
  EXPECT_TRUE(bench.Equal(0, 1));
  EXPECT_TRUE(bench.NowIs(1, 0, 4096, 2));
  bench.ExpectIdleCounters();
}

TEST(K31, WithALogThatStarvesAFailedFlushDoesNotStopTheConnection) {
  ClusterOptions options = Options(311);
  options.disk_bytes = uint64_t{640} << 20;
  options.disk.al_extents = 67;
  Bench bench(options);
  bench.BringUpPrimary();
  ASSERT_TRUE(bench.Detach(0));
  bench.disk(1).SetErrorPermille(SimDiskOp::kSync, 1000, EIO);
  for (uint64_t i = 0; i < 127; ++i) bench.StartWrite(0, i * (4 << 20), 4096, 1);
  // The log itself needs flushes before it evicts: with every flush failing the disk has to go.
  bench.RunUntil([&] { return bench.AllDone(); }, 60s);
  EXPECT_TRUE(bench.AllDone()) << bench.Describe(0);
}

TEST(K32, NoEpochIsLargerThanTheLimit) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(seed);
    ClusterOptions options = Options(seed);
    options.net.max_epoch_size = 3;
    Bench bench(options);
    bench.BringUpPrimary();
    for (uint64_t i = 0; i < 128; ++i) {
      bench.StartWrite(0, i * 8192, 4096, static_cast<uint8_t>(i));
      if (i % 32 == 31) bench.RunFor(1ms);
    }
    ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
    bench.RunFor(300ms);
    ExpectEpochsInOrder(bench.log, 3);
    EXPECT_TRUE(bench.Equal(0, 1));
  }
}

TEST(K33, TheLastEpochIsClosedWithoutFurtherWrites) {
  for (Protocol protocol : {Protocol::kA, Protocol::kB, Protocol::kC}) {
    Bench bench(Options(33, protocol));
    bench.BringUpPrimary();
    bench.log.Clear();
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
    ASSERT_TRUE(
        bench.RunUntil([&] { return bench.log.Count(1, PacketType::kBarrierAck) == 1; }, 1s));
    EXPECT_EQ(bench.log.Count(0, PacketType::kBarrier), 1u);
    // H.2: the peer ack follows within the delay.
    ASSERT_TRUE(bench.RunUntil([&] { return bench.log.Count(0, PacketType::kPeerAck) == 1; }, 1s));
    bench.ExpectIdleCounters();
  }
}

TEST(K34, NoWriteFollowsTheBarrierOfItsEpoch) {
  for (Protocol protocol : {Protocol::kA, Protocol::kB, Protocol::kC}) {
    for (uint64_t seed = 1; seed <= 10; ++seed) {
      SCOPED_TRACE(seed);
      Bench bench(Options(seed, protocol));
      bench.BringUpPrimary();
      bench.log.Clear();
      for (uint64_t i = 0; i < 200; ++i) {
        bench.StartWrite(0, bench.world().random().Below(1000) * 4096, 4096,
                         static_cast<uint8_t>(i));
        bench.RunFor(std::chrono::microseconds(bench.world().random().Below(300)));
      }
      ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
      bench.RunFor(300ms);
      ExpectEpochsInOrder(bench.log, 2048);
      EXPECT_EQ(bench.connection(0, 1), ConnectionState::kConnected);
      EXPECT_TRUE(bench.Equal(0, 1));
    }
  }
}

TEST(K35, AChangeOfWhatThePeerGetsSplitsTheEpoch) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(Options(seed));
    bench.BringUpPrimary();
    bool load = true;
    uint64_t at = 0;
    std::function<void()> issue = [&] {
      if (!load) return;
      FrontIo* write = bench.StartWrite(0, (++at % 500) * 8192, 4096, 0x5c);
      write->on_done = issue;
    };
    for (int i = 0; i < 8; ++i) issue();
    for (int round = 0; round < 3; ++round) {
      bench.RunFor(5ms);
      Status detached = bench.Detach(1);
      ASSERT_TRUE(detached) << Text(detached);
      bench.RunFor(5ms);
      Status attached = bench.Attach(1);
      ASSERT_TRUE(attached) << Text(attached);
      ASSERT_TRUE(bench.BecomesUpToDate());
    }
    load = false;
    ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
    bench.RunFor(300ms);
    EXPECT_FALSE(bench.SawEvent(0, "connection", "ProtocolError"));
    EXPECT_FALSE(bench.SawEvent(1, "connection", "ProtocolError"));
    EXPECT_FALSE(bench.SawEvent(0, "connection", "BrokenPipe"));
    EXPECT_TRUE(bench.Equal(0, 1));
    EXPECT_EQ(bench.out_of_sync(0, 1), 0u);
    bench.ExpectIdleCounters();
  }
}

TEST(K39, AVolumeThatIsNotReplicatedIsNotCounted) {
  ClusterOptions options = Options(39);
  options.volumes = 2;
  Bench bench(options);
  bench.BringUpPrimary();
  ASSERT_TRUE(bench.Detach(1, 1));
  bench.log.Clear();
  for (uint64_t i = 0; i < 100; ++i) {
    bench.StartWrite(0, i * 8192, 4096, static_cast<uint8_t>(i + 1), static_cast<int>(i % 2));
    if (i % 8 == 7) bench.RunFor(500us);
  }
  ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
  bench.RunFor(300ms);
  EXPECT_EQ(bench.connection(0, 1), ConnectionState::kConnected);
  ExpectEpochsInOrder(bench.log, 2048);
  EXPECT_EQ(bench.log.Count(0, PacketType::kData), 50u);
  EXPECT_EQ(bench.out_of_sync(0, 1, 1), 50 * 4096u);
  ASSERT_TRUE(bench.Attach(1, 1));
  ASSERT_TRUE(bench.BecomesUpToDate());
  for (int v : {0, 1}) EXPECT_TRUE(bench.Equal(0, 1, v));
}

TEST(VolumesTest, AVolumeIsDetachedWhileTheOtherOneIsWritten) {
  ClusterOptions options = Options(391);
  options.volumes = 2;
  Bench bench(options);
  bench.BringUpPrimary();
  bool load = true;
  uint64_t at = 0;
  std::function<void()> issue = [&] {
    if (!load) return;
    FrontIo* write = bench.StartWrite(0, (++at % 500) * 8192, 4096, 0x5c, 0);
    write->on_done = issue;
  };
  for (int i = 0; i < 16; ++i) issue();
  bench.RunFor(5ms);
  Status detached = bench.Await(0, bench.resource(0).Detach(1, false), 10s);
  EXPECT_TRUE(detached) << Text(detached);
  load = false;
  ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
}

// --- the network
// --------------------------------------------------------------------------------

// INV-23. The cut falls on each byte of the header and head, and on some of the payload.
TEST(K41, ACutInsideAPacketLeavesNothingOfIt) {
  for (uint64_t cut = 0; cut <= 40 + 4096; cut += cut < 60 ? 1 : 509) {
    SCOPED_TRACE(cut);
    Bench bench(Options(1000 + cut));
    bench.BringUpPrimary();
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 65536, 1), 0);
    bench.RunFor(300ms);
    auto link = bench.DataLink();
    ASSERT_NE(link, nullptr);
    link->CutAfter(bench.EndOf(*link, 0), cut);
    FrontIo* write = bench.StartWrite(0, 8192, 4096, 2);
    ASSERT_TRUE(bench.RunUntil([&] { return write->answered(); }, 60s));
    EXPECT_TRUE(write->ok());
    if (cut < 40 + 4096) {
      EXPECT_TRUE(bench.NowIs(1, 8192, 4096, 1) || bench.NowIs(1, 8192, 4096, 2));
    }
    ASSERT_TRUE(bench.BecomesUpToDate());
    EXPECT_TRUE(bench.NowIs(1, 8192, 4096, 2));
    EXPECT_TRUE(bench.Equal(0, 1));
    bench.ExpectIdleCounters();
  }
}

TEST(K42, ALostAckIsALostPeer) {
  for (uint64_t seed = 1; seed <= 15; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(Options(seed));
    bench.BringUpPrimary();
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 65536, 1), 0);
    bench.RunFor(300ms);
    auto link = bench.ControlLink();
    ASSERT_NE(link, nullptr);
    link->CutAfter(bench.EndOf(*link, 1), seed * 3 % 40);
    FrontIo* write = bench.StartWrite(0, 8192, 4096, 2);
    ASSERT_TRUE(bench.RunUntil([&] { return write->answered(); }, 60s));
    EXPECT_TRUE(write->ok()) << "by the own disk";
    ASSERT_TRUE(bench.BecomesUpToDate());
    EXPECT_TRUE(bench.NowIs(1, 8192, 4096, 2));
    EXPECT_TRUE(bench.Equal(0, 1));
    bench.ExpectIdleCounters();
  }
}

TEST(K45, ASilentPeerIsPingedAndGivenUp) {
  Bench bench(Options(45));
  bench.BringUpPrimary();
  bench.RunFor(1s);
  bench.log.Clear();
  SimTime since = bench.world().now();
  bench.world().network().Partition(bench.node(0), bench.node(1), true);
  ASSERT_TRUE(
      bench.RunUntil([&] { return bench.connection(0, 1) != ConnectionState::kConnected; }, 30s));
  EXPECT_GE(bench.log.Count(0, PacketType::kPing), 1u);
  EXPECT_LE(bench.world().now() - since, 10s + 500ms + 1500ms) << "ping-int and ping-timeout";
  EXPECT_TRUE(bench.SawEvent(0, "connection", "NetworkFailure"));
  bench.world().network().Partition(bench.node(0), bench.node(1), false);
  ASSERT_TRUE(bench.BecomesUpToDate());
}

TEST(K45, AnIdleLinkStaysUpByItsPings) {
  Bench bench(Options(451));
  bench.BringUpPrimary();
  bench.log.Clear();
  bench.RunFor(120s);
  EXPECT_EQ(bench.connection(0, 1), ConnectionState::kConnected);
  EXPECT_GE(bench.log.Count(0, PacketType::kPing), 10u);
  EXPECT_FALSE(bench.SawEvent(0, "connection", "NetworkFailure"));
}

TEST(K48, AStormOfReconnectsUnderLoad) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(seed);
    ClusterOptions options = Options(seed, seed % 2 == 0 ? Protocol::kB : Protocol::kC);
    options.net.ping_timeout = 100ms;
    Bench bench(options);
    bench.BringUpPrimary();
    bool load = true;
    uint64_t at = 0;
    std::function<void()> issue = [&] {
      if (!load) return;
      FrontIo* write = bench.StartWrite(0, bench.world().random().Below(1500) * 8192,
                                        bench.world().random().OneIn(8) ? 131072 : 4096,
                                        static_cast<uint8_t>(++at));
      write->on_done = issue;
    };
    for (int i = 0; i < 8; ++i) issue();
    for (int cut = 0; cut < 16; ++cut) {
      bench.RunFor(cut % 4 == 0 ? 700ms : 50ms);
      auto links = bench.world().network().Connections(bench.node(0), bench.node(1));
      for (auto& link : links) {
        if (bench.world().random().OneIn(2)) {
          link->CutAfter(static_cast<int>(bench.world().random().Below(2)),
                         bench.world().random().Below(20000));
        }
      }
    }
    load = false;
    ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }, 120s)) << bench.Describe(0);
    for (auto& link : bench.world().network().Connections(bench.node(0), bench.node(1))) {
      link->Cut(false, true);
    }
    bench.RunFor(1s);
    ASSERT_TRUE(bench.BecomesUpToDate(240s));
    bench.RunFor(1s);
    EXPECT_TRUE(bench.Equal(0, 1));
    EXPECT_EQ(bench.out_of_sync(0, 1), 0u);
    EXPECT_EQ(bench.out_of_sync(1, 0), 0u);
    bench.ExpectAnsweredOnce();
    bench.ExpectIdleCounters();
  }
}

TEST(K59, DemotionUnderLoadLeavesNothingUnacked) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(Options(seed, static_cast<Protocol>(1 + seed % 3)));
    bench.BringUpPrimary();
    for (uint64_t i = 0; i < 40; ++i) {
      bench.StartWrite(0, i * 16384, 8192, static_cast<uint8_t>(i + 1));
    }
    bench.RunFor(std::chrono::microseconds(seed * 200));
    Status demoted = bench.Demote(0);
    ASSERT_TRUE(demoted) << Text(demoted);
    for (uint64_t i = 0; i < 40; ++i) {
      if (bench.NowIs(0, i * 16384, 8192, static_cast<uint8_t>(i + 1))) {
        EXPECT_TRUE(bench.StableIs(1, i * 16384, 8192, static_cast<uint8_t>(i + 1)));
      }
    }
    // What came too late waits or is refused, and is nowhere.
    ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }, 5s));
    EXPECT_TRUE(bench.Equal(0, 1));
    EXPECT_EQ(bench.out_of_sync(0, 1), 0u);
    ASSERT_TRUE(bench.Promote(1));
    EXPECT_EQ(bench.Do(1, IoOp::kWrite, 0, 4096, 0x5a), 0);
    bench.ExpectIdleCounters();
  }
}

TEST(K62, NoPeerAckNamesAWriteOfAnEarlierConnection) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(Options(seed));
    bench.BringUpPrimary();
    uint64_t data_session = 0;
    uint64_t lowest = 0;
    bench.log.on_packet = [&](const SeenPacket& packet) {
      if (packet.from != 0) return;
      if (packet.type() == PacketType::kDagtag && packet.connection != data_session) {
        data_session = packet.connection;
        lowest = wire::Dagtag::Decode(packet.front)->dagtag;
      }
      if (packet.type() == PacketType::kPeerAck) {
        EXPECT_GT(wire::PeerAck::Decode(packet.front)->dagtag, lowest) << "INV-25";
      }
    };
    for (int round = 0; round < 4; ++round) {
      for (uint64_t i = 0; i < 10; ++i) bench.StartWrite(0, i * 8192, 4096, 1);
      bench.RunFor(std::chrono::milliseconds(20 + 10 * round));
      auto link = bench.DataLink();
      if (link != nullptr) link->Cut(false, true);
      ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }, 60s));
      ASSERT_TRUE(bench.BecomesUpToDate());
    }
    bench.log.on_packet = nullptr;
    EXPECT_FALSE(bench.SawEvent(1, "connection", "ProtocolError"));
  }
}

// H.2: merged while the answer is the same, sent after the delay, in the order of the stream.
TEST(PeerAcksTest, AreMergedAndInOrder) {
  Bench bench(Options(63));
  bench.BringUpPrimary();
  bench.log.Clear();
  for (uint64_t i = 0; i < 100; ++i) bench.StartWrite(0, i * 8192, 4096, 1);
  ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }));
  bench.RunFor(500ms);
  auto acks = bench.log.Of(0, {PacketType::kPeerAck});
  ASSERT_GE(acks.size(), 1u);
  EXPECT_LE(acks.size(), 5u) << "100 writes in a moment";
  uint64_t last = 0;
  for (const SeenPacket& packet : acks) {
    wire::PeerAck ack = *wire::PeerAck::Decode(packet.front);
    EXPECT_EQ(ack.mask, NodeBit(0) | NodeBit(1));
    EXPECT_GT(ack.dagtag, last);
    last = ack.dagtag;
  }
  // The newest one covers the whole stream.
  uint64_t position = 0;
  for (const SeenPacket& packet : bench.log.packets()) {
    if (packet.from == 0 && packet.type() == PacketType::kDagtag) {
      position = wire::Dagtag::Decode(packet.front)->dagtag;
    }
    if (packet.from == 0 && packet.type() == PacketType::kData) position += 8;
  }
  EXPECT_EQ(last, position) << "INV-17, INV-25";
}

TEST(PeerAcksTest, TheWindowBoundsWhatIsNotAcked) {
  ClusterOptions options = Options(64);
  options.resource.peer_ack_window = 1 << 20;
  options.resource.peer_ack_delay = 10s;
  Bench bench(options);
  bench.BringUpPrimary();
  bench.log.Clear();
  for (uint64_t i = 0; i < 32; ++i) {
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, i << 18, 256 << 10, 1), 0);
  }
  bench.RunFor(1s);
  EXPECT_GE(bench.log.Count(0, PacketType::kPeerAck), 32u / 4 - 1);
  // Demotion sends what is pending at once.
  size_t before = bench.log.Count(0, PacketType::kPeerAck);
  ASSERT_TRUE(bench.Demote(0));
  EXPECT_EQ(bench.log.Count(0, PacketType::kPeerAck), before + 1);
}

TEST(K89, SmallBuffersAndManyVolumesMakeProgress) {
  ClusterOptions options = Options(89);
  options.volumes = 4;
  options.net.max_buffers = 32;
  options.net.sndbuf_size = 16384;
  options.net.rcvbuf_size = 16384;
  Bench bench(options);
  bench.BringUpPrimary();
  for (uint64_t i = 0; i < 64; ++i) {
    bench.StartWrite(0, (i / 4) << 20, 1 << 20, static_cast<uint8_t>(i + 1),
                     static_cast<int>(i % 4));
  }
  ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }, 120s));
  bench.RunFor(1s);
  for (int v = 0; v < 4; ++v) EXPECT_TRUE(bench.Equal(0, 1, v));
  // And a resync of all of them with as few.
  ASSERT_TRUE(bench.Disconnect(0, 1));
  for (int v = 0; v < 4; ++v)
    ASSERT_EQ(bench.Do(0, IoOp::kWrite, 20 << 20, 1 << 20, 9, false, v), 0);
  ASSERT_TRUE(bench.Connect(0, 1));
  ASSERT_TRUE(bench.BecomesUpToDate());
  for (int v = 0; v < 4; ++v) EXPECT_TRUE(bench.Equal(0, 1, v));
  bench.ExpectIdleCounters();
}

// K 49 without verify: both directions, tiny socket buffers.
TEST(K49, WritesAndResyncWithTinySocketsMakeProgress) {
  ClusterOptions options = Options(49);
  options.net.sndbuf_size = 16384;
  options.net.rcvbuf_size = 16384;
  Bench bench(options);
  bench.BringUpPrimary();
  ASSERT_TRUE(bench.Disconnect(0, 1));
  for (uint64_t i = 0; i < 32; ++i) ASSERT_EQ(bench.Do(0, IoOp::kWrite, i << 20, 1 << 20, 3), 0);
  ASSERT_TRUE(bench.Connect(0, 1));
  ASSERT_TRUE(bench.RunUntil([&] { return bench.repl(0, 1) == ReplicationState::kSyncSource; }));
  for (uint64_t i = 0; i < 200; ++i) {
    bench.StartWrite(0, bench.world().random().Below(32) << 20, i % 3 == 0 ? 1 << 20 : 8192,
                     static_cast<uint8_t>(i));
    bench.RunFor(1ms);
  }
  ASSERT_TRUE(bench.RunUntil([&] { return bench.AllDone(); }, 120s));
  ASSERT_TRUE(bench.BecomesUpToDate());
  bench.RunFor(1s);
  EXPECT_TRUE(bench.Equal(0, 1));
  bench.ExpectIdleCounters();
}

}  // namespace
}  // namespace umblock::drbd
