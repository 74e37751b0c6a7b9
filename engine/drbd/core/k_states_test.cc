// Scenarios of drbd-states.md part 11 for two DRBD 9 nodes without quorum and fencing, named by
// their number: connections, roles, split brain.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/pair.h"

namespace umblock::drbd {
namespace {

using testing::Bench;
using testing::ClusterOptions;
using testing::Options;
using testing::Pair;
using testing::Text;

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

TEST(States, TheLastHandshakeIsInTheStatus) {
  Pair pair(Options());
  const auto handshake = [&pair](int node) {
    return pair.status(node).connections.at(0).volumes.at(0).handshake;
  };
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_TRUE(pair.WaitConnection(1, ConnectionState::kConnecting));
  ASSERT_EQ(pair.Write(0, 65536, 4096, 7), 0);
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  ASSERT_TRUE(handshake(0) && handshake(1));
  EXPECT_EQ(handshake(0)->verdict, "proceed");
  EXPECT_EQ(handshake(0)->rule, "bitmap-self gave source-use-bitmap");
  EXPECT_EQ(handshake(1)->rule, "bitmap-peer gave target-use-bitmap");
  // Each shows the other what it has itself.
  EXPECT_EQ(handshake(0)->own.substr(0, 16), handshake(1)->peer.substr(0, 16));
  EXPECT_EQ(handshake(0)->peer.substr(0, 16), handshake(1)->own.substr(0, 16));
  EXPECT_NE(handshake(0)->own.find(" Primary UpToDate, 1 blocks"), std::string::npos)
      << handshake(0)->own;
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
  EXPECT_NE(promoted.error().message().find("Another node is Primary"), std::string::npos)
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

}  // namespace
}  // namespace umblock::drbd
