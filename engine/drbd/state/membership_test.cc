#include "engine/drbd/state/membership.h"

#include <gtest/gtest.h>

namespace umblock::drbd {
namespace {

TEST(Membership, WeakNodesOfAPrimary) {
  EXPECT_EQ(WeakNodesOfPrimary(0, 0), 0xfffffffffffffffe);
  EXPECT_EQ(WeakNodesOfPrimary(0, NodeBit(1)), 0xfffffffffffffffc);  // recorded
}

TEST(Membership, Stable) {
  EXPECT_TRUE(IsStable(false, 0));
  EXPECT_TRUE(IsStable(true, NodeBit(1)));
  EXPECT_FALSE(IsStable(false, NodeBit(1)));
}

PrimaryDistance TwoPrimaries() {
  PrimaryDistance in;
  in.self = 2;
  in.primary_nodes = NodeBit(0) | NodeBit(2);
  in.connections = NodeBit(0) | NodeBit(1);
  in.allow_two_primaries = in.connections;
  return in;
}

// 4.5.
TEST(PrimaryDistanceRules, OnePrimaryIsFine) {
  PrimaryDistance in = TwoPrimaries();
  in.primary_nodes = NodeBit(2);
  in.allow_two_primaries = 0;
  in.weak_nodes = kAllNodes;
  EXPECT_EQ(CheckPrimaryDistance(in), StateResult::kSuccess);
}

TEST(PrimaryDistanceRules, NeedsAllowTwoPrimaries) {
  PrimaryDistance in = TwoPrimaries();
  in.allow_two_primaries = 0;
  EXPECT_EQ(CheckPrimaryDistance(in), StateResult::kTwoPrimaries);
}

TEST(PrimaryDistanceRules, DirectlyConnectedPrimariesAreFine) {
  PrimaryDistance in = TwoPrimaries();
  in.self_has_disk = true;
  in.weak_nodes = ~(NodeBit(0) | NodeBit(1) | NodeBit(2));
  EXPECT_EQ(CheckPrimaryDistance(in), StateResult::kSuccess);
}

// Scenario 50: two diskless Primaries with one storage node (1) in between.
TEST(PrimaryDistanceRules, LiveMigrationOverACommonStorageNode) {
  PrimaryDistance in = TwoPrimaries();
  in.weak_nodes = ~NodeBit(1);
  EXPECT_EQ(CheckPrimaryDistance(in), StateResult::kSuccess);
  in.self_has_disk = true;
  EXPECT_EQ(CheckPrimaryDistance(in), StateResult::kWeaklyConnected);
  in.self_has_disk = false;
  in.allow_two_primaries = NodeBit(0);
  EXPECT_EQ(CheckPrimaryDistance(in), StateResult::kTwoPrimaries);
  in.allow_two_primaries = in.connections;
  in.weak_nodes = kAllNodes;  // nobody is seen by all
  EXPECT_EQ(CheckPrimaryDistance(in), StateResult::kWeaklyConnected);
}

// 6.5.
TEST(Membership, AfterCommit) {
  MemberCommit commit;
  commit.self = 1;
  commit.reachable = 0b0111;
  EXPECT_EQ(MembersAfterCommit(0b0011, commit), 0b0011u) << "nobody has quorum: kept";
  commit.own_volumes_have_quorum = true;
  EXPECT_EQ(MembersAfterCommit(0b0011, commit), 0b0111u);
  commit.own_volumes_have_quorum = false;
  commit.neighbour_has_quorum = true;
  EXPECT_EQ(MembersAfterCommit(0b1011, commit), 0b0111u);
  commit.has_reachable = false;
  EXPECT_EQ(MembersAfterCommit(0b0011, commit), 0b0011u);
  commit.connect = true;
  commit.initiator = 0;
  commit.target = 3;
  EXPECT_EQ(MembersAfterCommit(0b0010, commit), 0b1011u);
  commit.is_initiator = true;
  commit.reachable = 0b0001;
  EXPECT_EQ(MembersAfterCommit(0b1111, commit), 0b0001u);
  EXPECT_EQ(MembersAfterConnect(0b0001, 2), 0b0101u);
}

// 4.7.
TEST(Membership, OutdatesIfAPrimaryIsOutOfReach) {
  EXPECT_TRUE(MustOutdateAtCommit(2, NodeBit(0), NodeBit(1), false));
  EXPECT_FALSE(MustOutdateAtCommit(2, NodeBit(0), NodeBit(0) | NodeBit(1), false));
  EXPECT_FALSE(MustOutdateAtCommit(2, NodeBit(0), NodeBit(1), true));
  EXPECT_FALSE(MustOutdateAtCommit(2, NodeBit(2), 0, false)) << "that is me";
}

}  // namespace
}  // namespace umblock::drbd
