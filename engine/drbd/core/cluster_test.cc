// The replication engine between two nodes, in the simulator.
#include "engine/drbd/core/testing/cluster.h"

#include <gtest/gtest.h>

namespace umblock::drbd {
namespace {

using testing::Cluster;
using testing::ClusterOptions;

bool Verbose() { return std::getenv("UMBLOCK_TEST_LOG") != nullptr; }

ClusterOptions Options(uint64_t seed = 1) {
  ClusterOptions options;
  options.seed = seed;
  options.verbose = Verbose();
  return options;
}

std::string Text(const Status& status) { return status ? "ok" : status.error().ToString(); }

TEST(ReplicationTest, FreshNodesConnectAndSkipTheInitialSync) {
  Cluster cluster(Options());
  cluster.BringUp();
  EXPECT_TRUE(cluster.AllUpToDate());
  EXPECT_EQ(cluster.out_of_sync(0, 1), 0u);
  EXPECT_EQ(cluster.out_of_sync(1, 0), 0u);
}

TEST(ReplicationTest, WritesOfThePrimaryReachBothDisks) {
  Cluster cluster(Options());
  cluster.BringUp();
  Status promoted = cluster.Await(0, cluster.resource(0).Promote(false));
  ASSERT_TRUE(promoted) << Text(promoted);
  EXPECT_EQ(cluster.Write(0, 0, 4096, 0x11), 0);
  EXPECT_EQ(cluster.Write(0, 1 << 20, 65536, 0x22), 0);
  EXPECT_EQ(cluster.Write(0, 512, 512, 0x33), 0);
  EXPECT_EQ(cluster.Flush(0), 0);
  EXPECT_EQ(cluster.ByteOnDisk(1, 0), 0x11);
  EXPECT_EQ(cluster.ByteOnDisk(1, 512), 0x33);
  EXPECT_TRUE(cluster.Equal(0, 1));
  Status demoted = cluster.Await(0, cluster.resource(0).Demote(false));
  EXPECT_TRUE(demoted) << Text(demoted);
}

TEST(ReplicationTest, ThePrimaryMoves) {
  Cluster cluster(Options());
  cluster.BringUp();
  for (int round = 0; round < 4; ++round) {
    int node = round % 2;
    Status promoted = cluster.Await(node, cluster.resource(node).Promote(false));
    ASSERT_TRUE(promoted) << Text(promoted);
    ASSERT_EQ(cluster.Write(node, static_cast<uint64_t>(round) * 8192, 8192,
                            static_cast<uint8_t>(round + 1)),
              0);
    Status demoted = cluster.Await(node, cluster.resource(node).Demote(false));
    ASSERT_TRUE(demoted) << Text(demoted);
  }
  EXPECT_TRUE(cluster.Equal(0, 1));
}

TEST(ReplicationTest, ASecondPrimaryIsRefusedWithTheReason) {
  Cluster cluster(Options());
  cluster.BringUp();
  ASSERT_TRUE(cluster.Await(0, cluster.resource(0).Promote(false)));
  Status refused = cluster.Await(1, cluster.resource(1).Promote(false));
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("Another node is Primary"), std::string::npos)
      << Text(refused);
  EXPECT_EQ(cluster.Write(1, 0, 4096, 1), EROFS);
}

TEST(ReplicationTest, AForcedPromotionStartsTheInitialFullSync) {
  ClusterOptions options = Options();
  options.disk_bytes = uint64_t{8} << 20;
  Cluster cluster(options);
  cluster.CreateAll();
  cluster.ConnectAll();
  ASSERT_TRUE(
      cluster.RunUntil([&] { return cluster.repl(0, 1) == ReplicationState::kEstablished; }));
  Status refused = cluster.Await(0, cluster.resource(0).Promote(false));
  ASSERT_FALSE(refused);
  Status promoted = cluster.Await(0, cluster.resource(0).Promote(true));
  ASSERT_TRUE(promoted) << Text(promoted);
  EXPECT_EQ(cluster.Write(0, 4096, 4096, 0x44), 0);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.AllUpToDate(); }, 120s));
  EXPECT_EQ(cluster.out_of_sync(0, 1), 0u);
  EXPECT_TRUE(cluster.Equal(0, 1));
}

TEST(ReplicationTest, AfterADisconnectOnlyWhatChangedIsResynced) {
  Cluster cluster(Options());
  cluster.BringUp();
  ASSERT_TRUE(cluster.Await(0, cluster.resource(0).Promote(false)));
  ASSERT_EQ(cluster.Write(0, 0, 1 << 20, 0x55), 0);
  Status disconnected = cluster.Await(0, cluster.resource(0).Disconnect(1, false));
  ASSERT_TRUE(disconnected) << Text(disconnected);
  EXPECT_EQ(cluster.connection(0, 1), ConnectionState::kStandAlone);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.disk_state(1) == DiskState::kOutdated; }));
  ASSERT_EQ(cluster.Write(0, 8 << 20, 65536, 0x66), 0);
  EXPECT_EQ(cluster.out_of_sync(0, 1), 65536u);
  ASSERT_TRUE(cluster.Await(0, cluster.resource(0).Connect(1, {})));
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.AllUpToDate(); }, 120s));
  uint64_t sent = cluster.status(0).connections[0].volumes[0].sent_bytes;
  EXPECT_EQ(sent, 65536u);
  EXPECT_TRUE(cluster.Equal(0, 1));
}

TEST(ReplicationTest, ALostLinkIsResyncedAfterItHeals) {
  Cluster cluster(Options());
  cluster.BringUp();
  ASSERT_TRUE(cluster.Await(0, cluster.resource(0).Promote(false)));
  cluster.world().network().Partition(cluster.node(0), cluster.node(1), true);
  ASSERT_EQ(cluster.Write(0, 4096, 4096, 0x77), 0);
  ASSERT_TRUE(cluster.RunUntil(
      [&] { return cluster.connection(1, 0) == ConnectionState::kConnecting; }, 60s));
  ASSERT_EQ(cluster.Write(0, 1 << 20, 4096, 0x78), 0);
  cluster.world().network().Partition(cluster.node(0), cluster.node(1), false);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.AllUpToDate(); }, 120s));
  EXPECT_TRUE(cluster.Equal(0, 1));
}

TEST(ReplicationTest, ACrashedPrimaryComesBackAsSyncTargetOfItsHotExtents) {
  Cluster cluster(Options());
  cluster.BringUp();
  ASSERT_TRUE(cluster.Await(0, cluster.resource(0).Promote(false)));
  ASSERT_EQ(cluster.Write(0, 0, 65536, 0x12), 0);
  cluster.node(0).Crash(SimCrash::kPowerCut);
  ASSERT_TRUE(cluster.RunUntil(
      [&] { return cluster.connection(1, 0) == ConnectionState::kConnecting; }, 60s));
  cluster.Boot(0);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.AllUpToDate(); }, 120s));
  uint64_t received = cluster.status(0).connections[0].volumes[0].received_bytes;
  EXPECT_GT(received, 0u);
  EXPECT_LE(received, uint64_t{4} << 20);
  EXPECT_TRUE(cluster.Equal(0, 1));
  EXPECT_EQ(cluster.ByteOnDisk(0, 0), 0x12);
}

TEST(ReplicationTest, ACrashedSecondaryIsResynced) {
  Cluster cluster(Options());
  cluster.BringUp();
  ASSERT_TRUE(cluster.Await(0, cluster.resource(0).Promote(false)));
  ASSERT_EQ(cluster.Write(0, 0, 65536, 0x21), 0);
  cluster.node(1).Crash(SimCrash::kPowerCut);
  ASSERT_EQ(cluster.Write(0, 65536, 65536, 0x22), 0);
  cluster.Boot(1);
  ASSERT_TRUE(cluster.RunUntil([&] { return cluster.AllUpToDate(); }, 120s));
  EXPECT_TRUE(cluster.Equal(0, 1));
}

}  // namespace
}  // namespace umblock::drbd
