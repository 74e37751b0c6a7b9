// Scenarios of drbd-states.md part 11 for two DRBD 9 nodes without quorum and fencing, named by
// their number, and what drbd-io-path.md K says of disks and resync.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/bench.h"

namespace umblock::drbd {
namespace {

using testing::Bench;
using testing::ClusterOptions;
using testing::FrontIo;
using testing::Text;
using wire::PacketType;

ClusterOptions Options(uint64_t seed = 1, Protocol protocol = Protocol::kC) {
  ClusterOptions options;
  options.seed = seed;
  options.net.protocol = protocol;
  return options;
}

// A(P) B(S), something written.
struct Pair : Bench {
  explicit Pair(const ClusterOptions& options) : Bench(options) {
    BringUpPrimary();
    EXPECT_EQ(Do(0, IoOp::kWrite, 0, 1 << 20, 0x11), 0);
    RunFor(300ms);
  }
  bool WaitConnection(int i, ConnectionState wanted, Duration bound = 60s) {
    return RunUntil([&] { return connection(i, 1 - i) == wanted; }, bound);
  }
  bool WaitDisk(int i, DiskState wanted, Duration bound = 60s) {
    return RunUntil([&] { return disk_state(i) == wanted; }, bound);
  }
  void Cut(bool apart) { world().network().Partition(node(0), node(1), apart); }
};

TEST(States, S01DisconnectOnThePrimaryOutdatesTheSecondary) {
  Pair pair(Options());
  ASSERT_TRUE(pair.Disconnect(0, 1));
  EXPECT_EQ(pair.connection(0, 1), ConnectionState::kStandAlone);
  EXPECT_EQ(pair.disk_state(0), DiskState::kUpToDate);
  EXPECT_EQ(pair.status(0).role, Role::kPrimary);
  ASSERT_TRUE(pair.WaitConnection(1, ConnectionState::kConnecting));
  EXPECT_EQ(pair.disk_state(1), DiskState::kOutdated);
  // 7: and it cannot be promoted.
  std::string uuid = pair.volume_status(1).current_uuid;
  Status promoted = pair.Promote(1);
  EXPECT_FALSE(promoted);
  EXPECT_EQ(pair.status(1).role, Role::kSecondary);
  EXPECT_EQ(pair.volume_status(1).current_uuid, uuid);
  EXPECT_TRUE(pair.Promote(1, true));
  EXPECT_EQ(pair.disk_state(1), DiskState::kUpToDate);
}

TEST(States, S03DisconnectOnTheSecondaryOutdatesIt) {
  Pair pair(Options());
  ASSERT_TRUE(pair.Disconnect(1, 0));
  EXPECT_EQ(pair.connection(1, 0), ConnectionState::kStandAlone);
  EXPECT_EQ(pair.disk_state(1), DiskState::kOutdated);
  ASSERT_TRUE(pair.WaitConnection(0, ConnectionState::kConnecting));
  EXPECT_EQ(pair.disk_state(0), DiskState::kUpToDate);
  EXPECT_EQ(pair.status(0).role, Role::kPrimary);
}

TEST(States, S04DisconnectOfTwoSecondariesLeavesBothUpToDate) {
  Pair pair(Options());
  ASSERT_TRUE(pair.Demote(0));
  ASSERT_TRUE(pair.Disconnect(0, 1));
  EXPECT_EQ(pair.disk_state(0), DiskState::kUpToDate);
  ASSERT_TRUE(pair.WaitConnection(1, ConnectionState::kConnecting));
  EXPECT_EQ(pair.disk_state(1), DiskState::kUpToDate);
  EXPECT_TRUE(pair.Promote(1));
}

TEST(States, S05ReconnectWithoutIoNeedsNoResync) {
  Pair pair(Options());
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_TRUE(pair.WaitConnection(1, ConnectionState::kConnecting));
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_FALSE(pair.SawEvent(1, "replication", "SyncTarget"));
  EXPECT_EQ(pair.peer_volume(0).sent_bytes, 0u);
}

TEST(States, S06ReconnectAfterIoResyncsWhatChanged) {
  Pair pair(Options());
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 4 << 20, 65536, 0x22), 0);
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.SawEvent(1, "replication", "SyncTarget"));
  EXPECT_EQ(pair.peer_volume(0).sent_bytes, 65536u);
  EXPECT_TRUE(pair.Equal(0, 1));
  pair.ExpectIdleCounters();
}

TEST(States, S08ALinkThatDiesLeavesTheSecondaryUpToDate) {
  Pair pair(Options());
  pair.Cut(true);
  ASSERT_TRUE(pair.WaitConnection(0, ConnectionState::kConnecting));
  ASSERT_TRUE(pair.WaitConnection(1, ConnectionState::kConnecting));
  EXPECT_TRUE(pair.SawEvent(0, "connection", "NetworkFailure"));
  EXPECT_EQ(pair.status(0).role, Role::kPrimary);
  EXPECT_TRUE(pair.SawEvent(1, "disk", "Consistent"));
  ASSERT_TRUE(pair.WaitDisk(1, DiskState::kUpToDate));
  pair.Cut(false);
  ASSERT_TRUE(pair.BecomesUpToDate());
}

TEST(States, S09BothWrittenIsASplitBrain) {
  Pair pair(Options());
  pair.Cut(true);
  ASSERT_TRUE(pair.WaitConnection(1, ConnectionState::kConnecting));
  ASSERT_TRUE(pair.WaitDisk(1, DiskState::kUpToDate));
  ASSERT_TRUE(pair.Promote(1));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0xa0), 0);
  ASSERT_EQ(pair.Do(1, IoOp::kWrite, 4096, 4096, 0xb0), 0);
  pair.Cut(false);
  ASSERT_TRUE(pair.RunUntil(
      [&] {
        return pair.connection(0, 1) == ConnectionState::kStandAlone ||
               pair.connection(1, 0) == ConnectionState::kStandAlone;
      },
      120s));
  pair.RunFor(5s);
  for (int i : {0, 1}) {
    EXPECT_EQ(pair.status(i).role, Role::kPrimary);
    EXPECT_EQ(pair.disk_state(i), DiskState::kUpToDate);
  }
  EXPECT_TRUE(pair.NowIs(0, 0, 4096, 0xa0));
  EXPECT_TRUE(pair.NowIs(1, 4096, 4096, 0xb0));
  // 12: one of them gives its data up.
  ASSERT_TRUE(pair.Demote(0));
  ASSERT_TRUE(pair.Disconnect(0, 1, true));
  ASSERT_TRUE(pair.Disconnect(1, 0, true));
  ASSERT_TRUE(pair.Connect(0, 1, {.discard_my_data = true}));
  ASSERT_TRUE(pair.Connect(1, 0));
  ASSERT_TRUE(pair.BecomesUpToDate()) << pair.last_error(0);
  EXPECT_TRUE(pair.SawEvent(0, "replication", "SyncTarget"));
  EXPECT_TRUE(pair.NowIs(0, 4096, 4096, 0xb0));
  EXPECT_TRUE(pair.NowIs(0, 0, 4096, 0x11));
  EXPECT_TRUE(pair.Equal(0, 1));
}

TEST(States, S10TwoPrimariesAreNotConnected) {
  Pair pair(Options());
  pair.Cut(true);
  ASSERT_TRUE(pair.WaitConnection(1, ConnectionState::kConnecting));
  ASSERT_TRUE(pair.WaitDisk(1, DiskState::kUpToDate));
  ASSERT_TRUE(pair.Promote(1));
  pair.Cut(false);
  pair.RunFor(60s);
  EXPECT_NE(pair.connection(0, 1), ConnectionState::kConnected);
  EXPECT_NE(pair.connection(1, 0), ConnectionState::kConnected);
  EXPECT_EQ(pair.status(0).role, Role::kPrimary);
  EXPECT_EQ(pair.status(1).role, Role::kPrimary);
}

TEST(States, S13ATakenOverPrimaryComesBackAsTarget) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(Options(seed));
    for (uint64_t i = 0; i < 20; ++i) pair.StartWrite(0, i * 65536, 8192, 0x77);
    pair.RunFor(std::chrono::microseconds(seed * 300));
    pair.node(0).Crash(SimCrash::kPowerCut);
    ASSERT_TRUE(pair.WaitConnection(1, ConnectionState::kConnecting));
    ASSERT_TRUE(pair.WaitDisk(1, DiskState::kUpToDate));
    ASSERT_TRUE(pair.Promote(1));
    ASSERT_EQ(pair.Do(1, IoOp::kWrite, 2 << 20, 65536, 0x44), 0);
    pair.Boot(0);
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.NowIs(0, 2 << 20, 65536, 0x44));
    EXPECT_TRUE(pair.Equal(0, 1));
    EXPECT_EQ(pair.out_of_sync(0, 1), 0u);
    EXPECT_EQ(pair.out_of_sync(1, 0), 0u);
  }
}

TEST(States, S14ACrashedPrimaryWithProtocolCIsTarget) {
  Pair pair(Options());
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 65536, 0x33), 0);
  pair.node(0).Crash(SimCrash::kPowerCut);
  ASSERT_TRUE(pair.WaitDisk(1, DiskState::kUpToDate));
  pair.RunFor(15s);
  pair.Boot(0);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.SawEvent(0, "replication", "SyncTarget"));
  EXPECT_TRUE(pair.Equal(0, 1));
}

TEST(States, S15ACrashedPrimaryWithProtocolAOrBIsSource) {
  for (Protocol protocol : {Protocol::kA, Protocol::kB}) {
    Pair pair(Options(15, protocol));
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 65536, 0x33), 0);
    ASSERT_EQ(pair.Do(0, IoOp::kFlush, 0, 0), 0);
    pair.node(0).Crash(SimCrash::kPowerCut);
    pair.RunFor(15s);
    pair.Boot(0);
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.SawEvent(1, "replication", "SyncTarget"));
    EXPECT_TRUE(pair.Equal(0, 1));
    EXPECT_TRUE(pair.NowIs(1, 0, 65536, 0x33));
  }
}

TEST(States, S17AfterAPowerCutOfBothTheFormerPrimaryIsSource) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(Options(seed));
    for (uint64_t i = 0; i < 20; ++i) pair.StartWrite(0, i * 65536, 8192, 0x77);
    pair.RunFor(std::chrono::microseconds(seed * 300));
    pair.node(0).Crash(SimCrash::kPowerCut);
    pair.node(1).Crash(SimCrash::kPowerCut);
    pair.Boot(static_cast<int>(seed % 2));
    pair.Boot(static_cast<int>(1 - seed % 2));
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.SawEvent(1, "replication", "SyncTarget"));
    EXPECT_TRUE(pair.Equal(0, 1));
  }
}

TEST(States, S18ASecondPrimaryIsRefused) {
  Pair pair(Options());
  Status promoted = pair.Promote(1);
  ASSERT_FALSE(promoted);
  EXPECT_NE(promoted.error().message().find("Multiple primaries"), std::string::npos)
      << Text(promoted);
  EXPECT_EQ(pair.status(1).role, Role::kSecondary);
  EXPECT_EQ(pair.status(0).role, Role::kPrimary);
  // Competing: exactly one of two succeeds.
  ASSERT_TRUE(pair.Demote(0));
  for (int round = 0; round < 5; ++round) {
    auto a = pair.Start(0, pair.resource(0).Promote(false));
    pair.RunFor(std::chrono::microseconds(round * 150));
    auto b = pair.Start(1, pair.resource(1).Promote(false));
    ASSERT_TRUE(pair.RunUntil([&] { return a->has_value() && b->has_value(); }, 300s));
    EXPECT_NE((**a).has_value(), (**b).has_value()) << Text(**a) << " / " << Text(**b);
    pair.RunFor(1s);
    for (int i : {0, 1}) ASSERT_TRUE(pair.Demote(i));
    ASSERT_TRUE(pair.BecomesUpToDate());
  }
}

TEST(States, S20AnOpenVolumeIsNotDemotedAndNamesItsUser) {
  Pair pair(Options());
  auto opened = pair.volume(0).Open({.description = "fuse r0-0 pid 4711", .write = true});
  ASSERT_TRUE(opened);
  Status demoted = pair.Demote(0);
  ASSERT_FALSE(demoted);
  EXPECT_NE(demoted.error().message().find("fuse r0-0 pid 4711"), std::string::npos)
      << Text(demoted);
  EXPECT_EQ(pair.status(0).role, Role::kPrimary);
  EXPECT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 1), 0) << "nothing has changed";
  // 21: by force: I/O fails until the last user has closed.
  ASSERT_TRUE(pair.Demote(0, true));
  EXPECT_EQ(pair.status(0).role, Role::kSecondary);
  EXPECT_NE(pair.Do(0, IoOp::kWrite, 0, 4096, 2), 0);
  EXPECT_FALSE(pair.Promote(0)) << "while it is still open";
  pair.volume(0).Close(*opened);
  ASSERT_TRUE(pair.Promote(0));
  EXPECT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 3), 0);
  EXPECT_TRUE(pair.BecomesUpToDate());
}

TEST(States, S22ANewPairNeedsForceAndThenSyncs) {
  ClusterOptions options = Options(22);
  options.disk_bytes = uint64_t{16} << 20;
  Bench bench(options);
  bench.CreateAll();
  bench.ConnectAll();
  ASSERT_TRUE(bench.RunUntil([&] { return bench.repl(0, 1) == ReplicationState::kEstablished; }));
  EXPECT_FALSE(bench.Promote(0));
  ASSERT_TRUE(bench.Promote(0, true));  // 23
  EXPECT_EQ(bench.disk_state(0), DiskState::kUpToDate);
  ASSERT_TRUE(bench.BecomesUpToDate());
  EXPECT_TRUE(bench.SawEvent(1, "replication", "SyncTarget"));
  EXPECT_TRUE(bench.Equal(0, 1));
}

TEST(States, S24OutdateIsRefusedWhileThePrimaryIsConnected) {
  Pair pair(Options());
  EXPECT_FALSE(pair.Await(1, pair.resource(1).Outdate(0)));
  EXPECT_EQ(pair.disk_state(1), DiskState::kUpToDate);
  ASSERT_TRUE(pair.Demote(0));
  // 25: outdated, but its peer has the data.
  Status outdated = pair.Await(1, pair.resource(1).Outdate(0));
  ASSERT_TRUE(outdated) << Text(outdated);
  Status promoted = pair.Promote(1);
  ASSERT_TRUE(promoted) << Text(promoted);
  EXPECT_EQ(pair.ReadFront(1, 0, 4096), std::vector<std::byte>(4096, std::byte{0x11}));
}

TEST(States, S27StoppedAfterDemotionThePeerStaysUpToDate) {
  Pair pair(Options());
  ASSERT_TRUE(pair.Demote(0));
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_TRUE(pair.WaitConnection(1, ConnectionState::kConnecting));
  EXPECT_EQ(pair.disk_state(1), DiskState::kUpToDate);
}

// --- disks
// -----------------------------------------------------------------------------------------

TEST(States, S85AFailedDiskOfThePrimaryGoesOnOverThePeerUnderLoad) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(Options(seed));
    for (uint64_t i = 0; i < 30; ++i) pair.StartWrite(0, i * 65536, 8192, 0x31);
    pair.disk(0).AddBadRange(20 * 65536, 4096, EIO);
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }));
    ASSERT_TRUE(pair.WaitDisk(0, DiskState::kDiskless));
    for (uint64_t i = 0; i < 30; ++i) {
      ASSERT_EQ(pair.Do(0, IoOp::kWrite, i * 65536, 8192, 0x32), 0);
    }
    EXPECT_EQ(pair.status(0).role, Role::kPrimary);
    EXPECT_EQ(pair.disk_state(1), DiskState::kUpToDate);
    pair.disk(0).ClearFaults();
    Status attached = pair.Attach(0);
    ASSERT_TRUE(attached) << Text(attached);
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.SawEvent(0, "replication", "SyncTarget"));
    EXPECT_TRUE(pair.Equal(0, 1));
    EXPECT_TRUE(pair.NowIs(0, 20 * 65536, 8192, 0x32));
    pair.ExpectAnsweredOnce();
    pair.ExpectIdleCounters();
  }
}

TEST(States, S86AFailedDiskOfTheSecondaryBeginsANewGenerationAtOnce) {
  Pair pair(Options(86));
  std::string before = pair.volume_status(0).current_uuid;
  pair.disk(1).AddBadRange(0, 4096, EIO);
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x31), 0);
  ASSERT_TRUE(pair.WaitDisk(1, DiskState::kDiskless));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.volume_status(0).current_uuid != before; }, 5s))
      << "without further I/O";
  pair.disk(1).ClearFaults();
  ASSERT_TRUE(pair.Attach(1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.SawEvent(1, "replication", "SyncTarget"));
  EXPECT_TRUE(pair.Equal(0, 1));
}

TEST(States, S87WithPassOnTheSecondaryStaysInconsistent) {
  ClusterOptions options = Options(87);
  options.disk.on_io_error = OnIoError::kPassOn;
  Pair pair(options);
  std::string before = pair.volume_status(0).current_uuid;
  pair.disk(1).AddBadRange(0, 4096, EIO);
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x31), 0);
  ASSERT_TRUE(pair.WaitDisk(1, DiskState::kInconsistent));
  EXPECT_EQ(pair.connection(0, 1), ConnectionState::kConnected);
  ASSERT_TRUE(pair.RunUntil([&] { return pair.out_of_sync(0, 1) == 4096; }, 5s));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.volume_status(0).current_uuid != before; }, 5s));
  // Other blocks go on being replicated; after a reconnect the bad one is there too.
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 65536, 4096, 0x32), 0);
  EXPECT_TRUE(pair.NowIs(1, 65536, 4096, 0x32));
  pair.disk(1).ClearFaults();
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
}

TEST(States, S88DetachAndAttachWithoutWritesNeedNoResync) {
  Pair pair(Options(88));
  Status detached = pair.Detach(1);
  ASSERT_TRUE(detached) << Text(detached);
  EXPECT_EQ(pair.disk_state(1), DiskState::kDiskless);
  EXPECT_EQ(pair.connection(0, 1), ConnectionState::kConnected);
  Status attached = pair.Attach(1);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.SawEvent(1, "disk", "Negotiating"));
  EXPECT_FALSE(pair.SawEvent(1, "replication", "SyncTarget"));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x31), 0);
  EXPECT_TRUE(pair.NowIs(1, 0, 4096, 0x31));
}

TEST(States, S89DetachWriteAndAttachResyncs) {
  Pair pair(Options(89));
  ASSERT_TRUE(pair.Detach(1));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 4 << 20, 65536, 0x31), 0);
  EXPECT_EQ(pair.out_of_sync(0, 1), 65536u);
  ASSERT_TRUE(pair.Attach(1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.SawEvent(1, "replication", "SyncTarget"));
  EXPECT_EQ(pair.peer_volume(1).received_bytes - (1 << 20), 65536u);
  EXPECT_TRUE(pair.Equal(0, 1));
}

TEST(States, S90ADiskWithOtherDataIsNotAttached) {
  Pair pair(Options(90));
  ASSERT_TRUE(pair.Detach(1));
  // Made anew: it is nobody's replica, and a full sync is what it needs.
  ASSERT_TRUE(pair.Await(
      1, CreateMetadata(
             {.backing = pair.program(1).backends[0].get(), .max_peers = 1, .force = true})));
  Status attached = pair.Attach(1);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
  EXPECT_EQ(pair.disk_state(0), DiskState::kUpToDate);
}

TEST(K87, DetachAndAttachUnderLoadLeaveNoDifference) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    Pair pair(Options(seed));
    bool load = true;
    std::function<void()> issue = [&] {
      if (!load) return;
      uint64_t at = pair.world().random().Below(500) * 8192;
      pair.StartWrite(0, at, 4096, static_cast<uint8_t>(at / 8192))->on_done = issue;
    };
    for (int i = 0; i < 6; ++i) issue();
    for (int round = 0; round < 3; ++round) {
      int who = static_cast<int>((seed + static_cast<uint64_t>(round)) % 2);
      pair.RunFor(3ms);
      Status detached = pair.Detach(who);
      ASSERT_TRUE(detached) << Text(detached);
      pair.RunFor(3ms);
      Status attached = pair.Attach(who);
      ASSERT_TRUE(attached) << Text(attached);
      ASSERT_TRUE(pair.BecomesUpToDate());
    }
    load = false;
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }));
    pair.RunFor(500ms);
    EXPECT_TRUE(pair.Equal(0, 1));
    pair.ExpectAnsweredOnce();
    pair.ExpectIdleCounters();
  }
}

TEST(Disks, AForcedDetachOfASecondaryKeepsTheLink) {
  Pair pair(Options(870));
  Status detached = pair.Await(1, pair.resource(1).Detach(0, true));
  ASSERT_TRUE(detached) << Text(detached);
  EXPECT_EQ(pair.disk_state(1), DiskState::kDiskless);
  EXPECT_EQ(pair.connection(0, 1), ConnectionState::kConnected);
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x31), 0);
  ASSERT_TRUE(pair.Attach(1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
}

TEST(Disks, TheOnlyCopyIsNotDetachedWhileItIsInUse) {
  Pair pair(Options(871));
  auto opened = pair.volume(0).Open({.description = "somebody", .write = true});
  ASSERT_TRUE(opened);
  ASSERT_TRUE(pair.Disconnect(0, 1));
  Status detached = pair.Detach(0);
  ASSERT_FALSE(detached);
  EXPECT_NE(detached.error().message().find("somebody"), std::string::npos) << Text(detached);
  pair.volume(0).Close(*opened);
}

TEST(Disks, AMissingOrFullMetadataDeviceIsACleanError) {
  Pair pair(Options(872));
  ASSERT_TRUE(pair.Detach(1));
  EXPECT_FALSE(pair.Await(1, pair.resource(1).Attach({.volume = 0, .backing = nullptr})));
  EXPECT_FALSE(pair.Await(1, pair.resource(1).Attach({.volume = 9, .backing = nullptr})));
  pair.disk(1).SetErrorPermille(SimDiskOp::kRead, 1000, EIO);
  Status attached = pair.Attach(1);
  EXPECT_FALSE(attached);
  EXPECT_EQ(pair.disk_state(1), DiskState::kDiskless);
  pair.disk(1).ClearFaults();
  ASSERT_TRUE(pair.Attach(1));
  ASSERT_TRUE(pair.BecomesUpToDate());
}

// --- resync
// ----------------------------------------------------------------------------------------

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

// --- suspended I/O, both directions, several volumes
// --------------------------------------------------

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
