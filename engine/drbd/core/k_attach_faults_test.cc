// Disks that leave and come while links and nodes fail: a name of a generation (current UUID) says
// that two disks are equal, and what makes it lie is looked for here (INV-1, INV-3, INV-9, INV-10;
// drbd-metadata-resync.md 4.3, 5.4, 5.5). Most were found by testing/random_acts.h.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/pair.h"

namespace umblock::drbd {
namespace {

using testing::ClusterOptions;
using testing::FrontIo;
using testing::Options;
using testing::Text;
using wire::PacketType;

constexpr uint64_t kBlock = 4096;

struct Pair : testing::Pair {
  using testing::Pair::Pair;
  int WriteBlock(uint64_t block, uint8_t fill) {
    return Do(0, IoOp::kWrite, block * kBlock, kBlock, fill);
  }
  // The value that the users of node i read there; -1: an error.
  int ReadBlock(int i, uint64_t block) {
    std::vector<std::byte> got = ReadFront(i, block * kBlock, kBlock);
    return got.empty() ? -1 : static_cast<int>(got[0]);
  }
  void LoseLink() {
    world().network().Partition(node(0), node(1), true);
    ASSERT_TRUE(RunUntil([&] {
      return connection(0, 1) != ConnectionState::kConnected &&
             connection(1, 0) != ConnectionState::kConnected;
    }));
  }
  void FindLink() {
    world().network().Partition(node(0), node(1), false);
    ASSERT_TRUE(RunUntil([&] { return connection(0, 1) == ConnectionState::kConnected; }));
  }
  // Both connections break at once; they are made again.
  void CutLink() {
    for (auto& link : world().network().Connections(node(0), node(1))) link->Cut();
  }
  // The Primary dies, its disk without the write that its peer has.
  void CrashWithAWriteThatOnlyThePeerHas() {
    disk(0).SetHang(true);
    StartWrite(0, kBlock, kBlock, 2);
    RunFor(20ms);
    node(0).Crash(SimCrash::kPowerCut);
    disk(0).SetHang(false);
    RunFor(15s);
    Boot(0);
  }
  auto StartAttach(int i) {
    return Start(i, resource(i).Attach({.volume = 0, .backing = program(i).backends[0].get()}));
  }
};

// A disk that is gone answers ENODEV: it has failed like one that answers EIO.
TEST(AttachFaults, ADiskThatIsGoneFailsThePeersDisk) {
  Pair pair(Options(8));
  pair.disk(1).FailNext(SimDiskOp::kWrite, ENODEV, 1);
  EXPECT_EQ(pair.WriteBlock(1, 2), 0);
  EXPECT_EQ(pair.Do(0, IoOp::kFlush, 0, 0), 0);
  ASSERT_TRUE(pair.RunUntil([&] { return pair.disk_state(1) == DiskState::kDiskless; }, 10s));
  EXPECT_TRUE(
      pair.RunUntil([&] { return pair.peer_volume(0).peer_disk == DiskState::kDiskless; }, 10s));
  EXPECT_GT(pair.out_of_sync(0, 1), 0u);
  Status attached = pair.Attach(1);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
  EXPECT_TRUE(pair.NowIs(1, kBlock, kBlock, 2));
}

// The refusal of a write overtakes the state that explains it.
TEST(AttachFaults, AWriteRefusedByADiskThatIsDetachedAndAttachedAgainIsNotMissedForEver) {
  int refused = 0;
  for (int delay = 0; delay < 2000; delay += 20) {
    SCOPED_TRACE(delay);
    Pair pair(Options(100 + static_cast<uint64_t>(delay)));
    pair.log.Clear();
    auto detached = pair.Start(1, pair.resource(1).Detach(0, false));
    pair.RunFor(std::chrono::microseconds(delay));
    FrontIo* write = pair.StartWrite(0, kBlock, kBlock, 2);
    ASSERT_TRUE(pair.RunUntil([&] { return write->answered() && detached->has_value(); }));
    EXPECT_TRUE(write->ok());
    pair.RunFor(1s);
    refused += pair.log.Count(1, PacketType::kNegAck) > 0 ? 1 : 0;
    Status attached = pair.Attach(1);
    ASSERT_TRUE(attached) << Text(attached);
    ASSERT_TRUE(pair.BecomesUpToDate());
    ASSERT_TRUE(pair.Equal(0, 1));
  }
  EXPECT_GT(refused, 0);
}

// A generation that is owed while no data is in reach is owed still when there is some.
TEST(AttachFaults, AnOwedGenerationIsKeptWhileNoDataIsInReach) {
  Pair pair(Options(47));
  pair.LoseLink();
  Status detached = pair.Await(0, pair.resource(0).Detach(0, true));
  ASSERT_TRUE(detached) << Text(detached);
  EXPECT_NE(pair.WriteBlock(2, 9), 0);
  pair.RunFor(500ms);
  pair.FindLink();
  ASSERT_EQ(pair.WriteBlock(1, 2), 0);
  ASSERT_EQ(pair.Do(0, IoOp::kFlush, 0, 0), 0);
  pair.RunFor(3s);
  Status attached = pair.Attach(0);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_EQ(pair.ReadBlock(0, 1), 2);
  EXPECT_TRUE(pair.Equal(0, 1));
}

// Neither knows yet that the other has a disk.
TEST(AttachFaults, TwoDisksAttachedAtTheSameMomentAreCompared) {
  for (int delay = 0; delay < 800; delay += 20) {
    SCOPED_TRACE(delay);
    Pair pair(Options(61 + static_cast<uint64_t>(delay)));
    pair.LoseLink();
    ASSERT_EQ(pair.WriteBlock(1, 2), 0);
    ASSERT_EQ(pair.Do(0, IoOp::kFlush, 0, 0), 0);
    ASSERT_TRUE(pair.Demote(0));
    ASSERT_TRUE(pair.Detach(0));
    ASSERT_TRUE(pair.Detach(1));
    pair.FindLink();
    pair.StartAttach(0);
    pair.RunFor(std::chrono::microseconds(delay));
    pair.StartAttach(1);
    ASSERT_TRUE(pair.BecomesUpToDate(60s));
    pair.RunFor(1s);
    ASSERT_TRUE(pair.AllUpToDate());
    ASSERT_TRUE(pair.Equal(0, 1));
    EXPECT_TRUE(pair.NowIs(1, kBlock, kBlock, 2));
  }
}

// What a diskless Primary has acknowledged is on its own disk only; the peer's is old.
TEST(AttachFaults, AnOldDiskAttachedUnderADisklessPrimaryIsNotTakenForItsData) {
  Pair pair(Options(71));
  pair.LoseLink();
  pair.RunFor(1s);
  ASSERT_TRUE(pair.Detach(1));
  ASSERT_EQ(pair.WriteBlock(1, 2), 0);
  pair.FindLink();
  ASSERT_EQ(pair.Do(0, IoOp::kFlush, 0, 0), 0);
  pair.RunFor(1s);
  pair.disk(0).FailNext(SimDiskOp::kRead, EIO, 1);
  EXPECT_EQ(pair.ReadBlock(0, 2), -1);
  pair.RunFor(1s);
  pair.disk(0).ClearFaults();
  (void)pair.Attach(1);
  pair.RunFor(2s);
  EXPECT_NE(pair.ReadBlock(0, 1), 1) << "what was acknowledged and flushed is gone";
  EXPECT_NE(pair.WriteBlock(3, 3), 0);
  Status attached = pair.Attach(0);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(pair.BecomesUpToDate()) << "its own disk has it all";
  EXPECT_EQ(pair.ReadBlock(0, 1), 2);
  EXPECT_TRUE(pair.Equal(0, 1));
}

// The names are equal and both say that they were connected; the log of the crashed one decides.
TEST(AttachFaults, AResyncAfterACrashIsNotForgottenWhenTheLinkFlaps) {
  for (int delay = 0; delay < 3000; delay += 50) {
    SCOPED_TRACE(delay);
    Pair pair(Options(3000 + static_cast<uint64_t>(delay)));
    pair.CrashWithAWriteThatOnlyThePeerHas();
    ASSERT_TRUE(pair.RunUntil([&] {
      return pair.connection(0, 1) == ConnectionState::kConnected ||
             pair.connection(1, 0) == ConnectionState::kConnected;
    }));
    pair.RunFor(std::chrono::microseconds(delay));
    pair.CutLink();
    ASSERT_TRUE(pair.BecomesUpToDate());
    pair.RunFor(3s);
    ASSERT_TRUE(pair.BecomesUpToDate());
    ASSERT_TRUE(pair.Equal(0, 1));
  }
}

// The same with a disk that comes after the link, which flaps in between.
TEST(AttachFaults, AResyncAfterACrashIsNotForgottenWhenTheDiskComesLate) {
  Pair pair(Options(81));
  pair.CrashWithAWriteThatOnlyThePeerHas();
  ASSERT_TRUE(pair.Await(0, pair.resource(0).Detach(0, true)));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.connection(0, 1) == ConnectionState::kConnected; }));
  pair.RunFor(1s);
  pair.CutLink();
  ASSERT_TRUE(pair.RunUntil([&] { return pair.connection(0, 1) != ConnectionState::kConnected; }));
  Status attached = pair.Attach(0);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(pair.BecomesUpToDate());
  pair.RunFor(2s);
  EXPECT_TRUE(pair.AllUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
}

// The peer's disk is the only one there is: what is flushed must be stable there.
TEST(AttachFaults, AFlushOfADisklessPrimaryIsStableAtThePeerUnderEveryProtocol) {
  for (Protocol protocol : {Protocol::kA, Protocol::kB, Protocol::kC}) {
    SCOPED_TRACE(static_cast<int>(protocol));
    Pair pair(Options(91, protocol));
    ASSERT_TRUE(pair.Detach(0));
    pair.RunFor(100ms);
    ASSERT_EQ(pair.WriteBlock(1, 2), 0);
    ASSERT_EQ(pair.Do(0, IoOp::kFlush, 0, 0), 0);
    EXPECT_TRUE(pair.StableIs(1, kBlock, kBlock, 2));
  }
}

// The operator knows that the copy on node 1 is bad.
TEST(AttachFaults, AnAcceptedInvalidateIsNotForgottenWhenTheLinkBreaks) {
  for (bool remote : {false, true}) {
    int accepted = 0;
    for (int delay = 0; delay < 300; delay += 10) {
      SCOPED_TRACE(fmt::format("remote {} delay {}", remote, delay));
      ClusterOptions options = Options(500 + static_cast<uint64_t>(delay));
      options.disk_bytes = 16 << 20;
      Pair pair(options);
      std::vector<std::byte> junk(kBlock, std::byte{77});
      pair.disk(1).WriteNow(0, junk);
      Status asked = remote ? pair.Await(0, pair.resource(0).InvalidateRemote(0, 1))
                            : pair.Await(1, pair.resource(1).Invalidate(0, 0));
      if (!asked) continue;
      ++accepted;
      pair.RunFor(std::chrono::microseconds(delay));
      pair.CutLink();
      pair.RunFor(1s);
      ASSERT_TRUE(pair.BecomesUpToDate());
      ASSERT_TRUE(pair.Equal(0, 1));
    }
    EXPECT_GT(accepted, 0) << remote;
  }
}

// There is no data to begin the generation of; the resume must not wait for it.
TEST(AttachFaults, AResumeWithoutDataInReachDoesNotWaitForAGeneration) {
  Pair pair(Options(95));
  ASSERT_TRUE(pair.Await(0, pair.resource(0).SuspendIo()));
  pair.LoseLink();
  Status detached = pair.Await(0, pair.resource(0).Detach(0, true));
  ASSERT_TRUE(detached) << Text(detached);
  FrontIo* write = pair.StartWrite(0, kBlock, kBlock, 2);
  pair.RunFor(1s);
  EXPECT_FALSE(write->answered());
  ASSERT_TRUE(pair.Await(0, pair.resource(0).ResumeIo()));
  ASSERT_TRUE(pair.RunUntil([&] { return write->answered(); }, 10s));
  EXPECT_EQ(write->error, EIO);
  Status attached = pair.Attach(0);
  ASSERT_TRUE(attached) << Text(attached);
  EXPECT_EQ(pair.WriteBlock(1, 3), 0);
  pair.FindLink();
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
  EXPECT_EQ(pair.ReadBlock(0, 1), 3);
}

// The Primary's disk and the peer's are lost in the same moment, in the middle of writes. Those are
// on one, the other or none, and both have the same name.
TEST(AttachFaults, WritesUnderWayWhenBothDisksAreLostAreCompared) {
  for (int delay = 0; delay < 300; delay += 20) {
    SCOPED_TRACE(delay);
    Pair pair(Options(600 + static_cast<uint64_t>(delay)));
    auto detached = pair.Start(1, pair.resource(1).Detach(0, false));
    pair.RunFor(std::chrono::microseconds(delay));
    pair.disk(0).FailNext(SimDiskOp::kWrite, EIO, 1);
    for (uint64_t i = 1; i < 7; ++i) {
      pair.StartWrite(0, i * kBlock, kBlock, static_cast<uint8_t>(i + 1));
    }
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone() && detached->has_value(); }));
    pair.RunFor(1s);
    pair.disk(0).ClearFaults();
    (void)pair.Attach(1);
    pair.RunFor(1s);
    (void)pair.Attach(0);
    if (!pair.RunUntil([&] { return pair.AllUpToDate(); }, 5s)) {
      Status promoted = pair.Promote(0, true);
      ASSERT_TRUE(promoted) << Text(promoted);
    }
    ASSERT_TRUE(pair.BecomesUpToDate());
    pair.RunFor(2s);
    ASSERT_TRUE(pair.AllUpToDate());
    ASSERT_TRUE(pair.Equal(0, 1));
  }
}

// The refusal says that a demotion helps; the connect, which is tried again and again, must not
// stand in its way.
TEST(AttachFaults, ADisklessPrimaryThatIsNotLetInCanBeDemoted) {
  for (int delay = 0; delay < 2000; delay += 250) {
    SCOPED_TRACE(delay);
    Pair pair(Options(94));
    pair.LoseLink();
    pair.RunFor(1s);
    ASSERT_EQ(pair.WriteBlock(1, 2), 0);
    pair.disk(0).FailNext(SimDiskOp::kRead, EIO, 1);
    EXPECT_EQ(pair.ReadBlock(0, 2), -1);
    ASSERT_TRUE(pair.RunUntil([&] { return pair.disk_state(0) == DiskState::kDiskless; }));
    pair.disk(0).ClearFaults();
    pair.world().network().Partition(pair.node(0), pair.node(1), false);
    pair.RunFor(5s + std::chrono::milliseconds(delay));
    EXPECT_NE(pair.connection(0, 1), ConnectionState::kConnected);
    EXPECT_EQ(pair.ReadBlock(0, 1), -1);
    Status demoted = pair.Demote(0);
    ASSERT_TRUE(demoted) << Text(demoted);
    Status attached = pair.Attach(0);
    ASSERT_TRUE(attached) << Text(attached);
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.NowIs(1, kBlock, kBlock, 2));
    EXPECT_TRUE(pair.Equal(0, 1));
  }
}

// Its disk was given back, and the peer that had the data is away: nobody knows what is current.
TEST(AttachFaults, APrimaryThatHasLostSightOfDataIsMadeUsableByForce) {
  Pair pair(Options(96));
  ASSERT_TRUE(pair.Detach(0));
  ASSERT_EQ(pair.WriteBlock(1, 2), 0);
  pair.LoseLink();
  ASSERT_TRUE(pair.Await(0, pair.resource(0).Disconnect(1, true)));
  EXPECT_FALSE(pair.Attach(0)) << "the peer has another generation";
  ASSERT_TRUE(pair.Await(0, pair.resource(0).Demote(true)));
  ASSERT_TRUE(pair.Attach(0));
  EXPECT_FALSE(pair.Promote(0));
  Status promoted = pair.Promote(0, true);
  ASSERT_TRUE(promoted) << Text(promoted);
  EXPECT_EQ(pair.WriteBlock(2, 3), 0);
}

TEST(AttachFaults, APrimaryWhoseDiskIsOutdatedIsMadeUsableByForce) {
  Pair pair(Options(97));
  ASSERT_TRUE(pair.Detach(0));
  pair.LoseLink();
  ASSERT_TRUE(pair.Detach(1));
  Status attached = pair.Attach(0);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_EQ(pair.disk_state(0), DiskState::kOutdated);
  ASSERT_NE(pair.WriteBlock(1, 2), 0);
  Status promoted = pair.Promote(0, true);
  ASSERT_TRUE(promoted) << Text(promoted);
  EXPECT_EQ(pair.disk_state(0), DiskState::kUpToDate);
  EXPECT_EQ(pair.WriteBlock(1, 3), 0);
  pair.world().network().Partition(pair.node(0), pair.node(1), false);
  ASSERT_TRUE(pair.Attach(1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
  EXPECT_EQ(pair.ReadBlock(0, 1), 3);
}

// The peer, which is there and as little sure of itself, is given what this node now has.
TEST(AttachFaults, APrimaryMadeUsableByForceBringsItsPeerAlong) {
  Pair pair(Options(98));
  ASSERT_TRUE(pair.Detach(0));
  pair.LoseLink();
  ASSERT_TRUE(pair.Await(1, pair.resource(1).Outdate(0)));
  ASSERT_TRUE(pair.Attach(0));
  pair.FindLink();
  ASSERT_EQ(pair.disk_state(0), DiskState::kOutdated);
  ASSERT_EQ(pair.disk_state(1), DiskState::kOutdated);
  ASSERT_NE(pair.WriteBlock(1, 2), 0);
  Status promoted = pair.Promote(0, true);
  ASSERT_TRUE(promoted) << Text(promoted);
  EXPECT_EQ(pair.WriteBlock(1, 3), 0);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
  EXPECT_TRUE(pair.NowIs(1, kBlock, kBlock, 3));
}

// A state of the peer that crosses the name of a new generation says nothing about that name.
TEST(AttachFaults, AStateThatCrossesADisklessPrimarysGenerationIsNoOtherData) {
  for (uint64_t delay = 0; delay < 400; delay += 10) {
    SCOPED_TRACE(delay);
    Pair pair(Options(200 + delay));
    ASSERT_TRUE(pair.Detach(0));
    FrontIo* write = pair.StartWrite(0, kBlock, kBlock, 2);
    pair.RunFor(std::chrono::microseconds(delay));
    auto paused = pair.Start(1, pair.resource(1).PauseSync(0, 0));
    pair.RunFor(2s);
    EXPECT_TRUE(write->ok());
    EXPECT_TRUE(paused->has_value());
    EXPECT_EQ(pair.connection(0, 1), ConnectionState::kConnected);
    pair.CutLink();
    pair.RunFor(10s);
    EXPECT_EQ(pair.connection(0, 1), ConnectionState::kConnected);
    EXPECT_EQ(pair.WriteBlock(1, 3), 0);
  }
}

// The disk says that it has not stored the name of a generation, and has. Nobody heard of that
// name.
TEST(AttachFaults, AGenerationWhoseStoringFailedIsNoChange) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(Options(seed));
    pair.LoseLink();
    pair.disk(0).FailNext(SimDiskOp::kWrite, EIO, 1);  // of the superblock
    EXPECT_NE(pair.WriteBlock(1, 2), 0);
    ASSERT_TRUE(pair.WaitDisk(0, DiskState::kDiskless));
    pair.disk(0).ClearFaults();
    Status attached = pair.Attach(0);
    ASSERT_TRUE(attached) << Text(attached);
    pair.FindLink();
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
    EXPECT_EQ(pair.WriteBlock(1, 3), 0);
  }
}

// The peer's disk, which comes back, has the same data: it is current, and so is the Primary's.
TEST(AttachFaults, APrimaryWhoseDiskIsOutdatedIsCurrentWithAPeerThatIs) {
  Pair pair(Options(99));
  ASSERT_TRUE(pair.Detach(0));
  pair.LoseLink();
  ASSERT_TRUE(pair.Detach(1));
  ASSERT_TRUE(pair.Attach(0));
  ASSERT_EQ(pair.disk_state(0), DiskState::kOutdated);
  pair.FindLink();
  Status attached = pair.Attach(1);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
  EXPECT_EQ(pair.WriteBlock(1, 2), 0);
}

// The one that attaches asks for the other's data by other disk states than that one sees.
TEST(AttachFaults, AnAttachBesideACrashedPrimaryThatIsUpIsDecidedAlikeOnBothSides) {
  Pair pair(Options(98));
  pair.node(0).Crash(SimCrash::kProcessKill);
  ASSERT_TRUE(pair.RunUntil([&] { return pair.connection(1, 0) != ConnectionState::kConnected; }));
  ASSERT_TRUE(pair.Detach(1));
  pair.Boot(0);
  ASSERT_TRUE(pair.RunUntil([&] { return pair.connection(1, 0) == ConnectionState::kConnected; }));
  Status attached = pair.Attach(1);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
}

// The Secondary's disk is detached and attached again, with no write in between; then the Primary's
// disk fails once and is attached again. Nobody was ever apart: it is a resync, no split brain.
TEST(AttachFaults, ADetachAndALaterDiskFailureAreNoSplitBrain) {
  Pair pair(Options(613));
  ASSERT_TRUE(pair.Detach(1));
  pair.RunFor(300ms);
  ASSERT_TRUE(pair.Attach(1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  pair.RunFor(300ms);
  ASSERT_EQ(pair.WriteBlock(1, 2), 0);  // begins the generation that is owed since the detach
  pair.RunFor(300ms);
  EXPECT_EQ(pair.volume_status(0).current_uuid, pair.volume_status(1).current_uuid)
      << "(bit 0 aside)";
  pair.disk(0).FailNext(SimDiskOp::kWrite, EIO);
  ASSERT_EQ(pair.WriteBlock(2, 3), 0);
  ASSERT_TRUE(pair.WaitDisk(0, DiskState::kDiskless));
  pair.disk(0).ClearFaults();
  pair.RunFor(300ms);
  Status attached = pair.Attach(0);
  EXPECT_TRUE(attached) << Text(attached);
  EXPECT_TRUE(pair.BecomesUpToDate());
}

// The same beginning, then an ordinary failover: the Primary dies, the other node takes over.
TEST(AttachFaults, ADetachAndALaterFailoverAreNoSplitBrain) {
  Pair pair(Options(614));
  ASSERT_TRUE(pair.Detach(1));
  pair.RunFor(300ms);
  ASSERT_TRUE(pair.Attach(1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  pair.RunFor(300ms);
  for (uint64_t i = 0; i < 20; ++i) ASSERT_EQ(pair.WriteBlock(i, 2), 0);
  pair.RunFor(3s);
  pair.node(0).Crash(SimCrash::kPowerCut);
  pair.RunFor(5s);
  Status promoted = pair.Promote(1);
  ASSERT_TRUE(promoted) << Text(promoted);
  ASSERT_EQ(pair.Do(1, IoOp::kWrite, 0, kBlock, 9), 0);
  pair.RunFor(1s);
  pair.Boot(0);
  EXPECT_TRUE(pair.BecomesUpToDate(60s));
  EXPECT_TRUE(pair.Equal(0, 1));
}

// As the flush above: FUA on a Primary without a disk has only the peer's disk to be stable on.
TEST(AttachFaults, AFuaWriteOfADisklessPrimaryIsStableAtThePeerUnderEveryProtocol) {
  for (Protocol protocol : {Protocol::kC, Protocol::kB, Protocol::kA}) {
    SCOPED_TRACE(static_cast<int>(protocol));
    Pair pair(Options(91, protocol));
    ASSERT_TRUE(pair.Detach(0));
    pair.RunFor(100ms);
    pair.disk(1).set_slowdown(50);
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, kBlock, kBlock, 2, true), 0);
    EXPECT_TRUE(pair.StableIs(1, kBlock, kBlock, 2)) << "answered";
    pair.node(1).Crash(SimCrash::kPowerCut);
    pair.RunFor(1s);
    pair.Boot(1);
    pair.RunFor(10s);
    EXPECT_TRUE(pair.NowIs(1, kBlock, kBlock, 2)) << "gone after a power cut of the peer";
  }
}

// fsync means it: a write that the only disk has lost with the power is not answered by a flush
// that succeeds afterwards (INV-10). Said once; what comes after it is a new beginning.
TEST(AttachFaults, AFlushDoesNotCoverWhatThePeerOfADisklessPrimaryLost) {
  int lost = 0;
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(Options(seed));
    ASSERT_TRUE(pair.Detach(0));
    pair.RunFor(100ms);
    ASSERT_EQ(pair.WriteBlock(1, 2), 0);  // acknowledged, in the peer's cache
    pair.node(1).Crash(SimCrash::kPowerCut);
    pair.RunFor(200ms);
    pair.Boot(1);
    pair.RunFor(20s);
    if (pair.NowIs(1, kBlock, kBlock, 2)) continue;
    ++lost;
    EXPECT_NE(pair.Do(0, IoOp::kFlush, 0, 0), 0);
    ASSERT_EQ(pair.WriteBlock(1, 3), 0);
    EXPECT_EQ(pair.Do(0, IoOp::kFlush, 0, 0), 0);
    EXPECT_TRUE(pair.StableIs(1, kBlock, kBlock, 3));
  }
  EXPECT_GT(lost, 0) << "no power cut lost the write";
}

}  // namespace
}  // namespace umblock::drbd
