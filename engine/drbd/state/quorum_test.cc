// drbd-states.md section 6, with the scenarios of 11.4 that are decided by counting.
#include "engine/drbd/state/quorum.h"

#include <gtest/gtest.h>

namespace umblock::drbd {
namespace {

constexpr QuorumSlot kDiskful{true, true, true, false};
constexpr QuorumSlot kDisklessSlot{false, true, false, false};

// Node 0 with an UpToDate disk; peers 1.. connected and UpToDate.
QuorumInput Cluster(int nodes) {
  QuorumInput in;
  in.options.quorum = kQuorumMajority;
  in.own_disk = DiskState::kUpToDate;
  in.had_quorum = true;
  for (int node = 1; node < nodes; ++node) {
    in.slots[static_cast<size_t>(node)] = kDiskful;
    in.peers[static_cast<size_t>(node)] = {true, true, DiskState::kUpToDate};
  }
  return in;
}
QuorumPeer& Peer(QuorumInput& in, int node) { return in.peers[static_cast<size_t>(node)]; }
QuorumSlot& Slot(QuorumInput& in, int node) { return in.slots[static_cast<size_t>(node)]; }
void Lose(QuorumInput& in, int node, DiskState disk = DiskState::kUnknown) {
  Peer(in, node).replicating = false;
  Peer(in, node).disk = disk;
}
void MakeDiskless(QuorumInput& in, int node) {
  Slot(in, node) = kDisklessSlot;
  Peer(in, node).bitmap = false;
  Peer(in, node).disk = DiskState::kDiskless;
}

TEST(Quorum, MajorityOfThree) {
  QuorumInput in = Cluster(3);
  EXPECT_TRUE(ComputeQuorum(in).quorum);
  Lose(in, 1);
  EXPECT_TRUE(ComputeQuorum(in).quorum);
  Lose(in, 2);  // scenario 52, the isolated Primary
  const QuorumResult result = ComputeQuorum(in);
  EXPECT_FALSE(result.quorum);
  EXPECT_EQ(result.unknown, 2);
  EXPECT_EQ(result.voters, 3);
  EXPECT_EQ(result.threshold, 2);
}

TEST(Quorum, AllAndNumbers) {
  QuorumInput in = Cluster(3);
  in.options.quorum = kQuorumAll;
  EXPECT_TRUE(ComputeQuorum(in).quorum);
  Lose(in, 1);
  EXPECT_FALSE(ComputeQuorum(in).quorum);
  in.options.quorum = 2;
  EXPECT_TRUE(ComputeQuorum(in).quorum);
  in.options.quorum = 3;
  EXPECT_FALSE(ComputeQuorum(in).quorum);
}

TEST(Quorum, MinimumRedundancyCountsUpToDateOnly) {
  QuorumInput in = Cluster(3);
  in.options.minimum_redundancy = 2;
  Peer(in, 1).disk = DiskState::kInconsistent;
  EXPECT_TRUE(ComputeQuorum(in).quorum);
  Peer(in, 2).disk = DiskState::kInconsistent;
  const QuorumResult result = ComputeQuorum(in);
  EXPECT_FALSE(result.quorum);
  EXPECT_TRUE(result.redundancy_missing);
  EXPECT_EQ(NoQuorumText(in, result),
            "1 of 3 nodes up_to_date, need 2 for quorum-minimum-redundancy");
}

// Scenarios 57 and 74: whoever left gracefully is Outdated and no voter.
TEST(Quorum, LastManStanding) {
  QuorumInput in = Cluster(3);
  Lose(in, 1, DiskState::kOutdated);
  Lose(in, 2, DiskState::kOutdated);
  const QuorumResult result = ComputeQuorum(in);
  EXPECT_TRUE(result.quorum);
  EXPECT_EQ(result.voters, 1);
}

// Scenario 73.
TEST(Quorum, TwoNodesDisconnectedWithoutOutdating) {
  QuorumInput in = Cluster(2);
  Lose(in, 1);
  const QuorumResult result = ComputeQuorum(in);
  EXPECT_FALSE(result.quorum);
  EXPECT_EQ(NoQuorumText(in, result), "1 of 2 nodes visible, need 2 for quorum");
}

// Scenario 59: the lost node is known to be in a partition without quorum.
TEST(Quorum, KnownQuorumlessNodeIsNoVoter) {
  QuorumInput in = Cluster(3);
  MakeDiskless(in, 2);
  Lose(in, 1);
  Peer(in, 2).replicating = false;
  EXPECT_FALSE(ComputeQuorum(in).quorum);
  in.quorumless = ~(NodeBit(0) | NodeBit(2));
  const QuorumResult result = ComputeQuorum(in);
  EXPECT_TRUE(result.quorum);
  EXPECT_EQ(result.quorumless, 1);
  EXPECT_EQ(result.voters, 1);
}

TEST(Quorum, QuorumlessNodesThatTogetherMightHoldQuorumCount) {
  QuorumInput in = Cluster(3);
  Lose(in, 1);
  Lose(in, 2);
  in.quorumless = ~NodeBit(0);
  const QuorumResult result = ComputeQuorum(in);
  EXPECT_FALSE(result.quorum);
  EXPECT_EQ(result.unknown, 2);
  EXPECT_EQ(result.quorumless, 0);
}

// Scenario 44: a removed peer is remembered as Outdated in its slot.
TEST(Quorum, UnconfiguredNodesKeepTheirVoteUntilForgotten) {
  QuorumInput in = Cluster(2);
  Slot(in, 5) = kDiskful;
  Slot(in, 6) = kDiskful;
  Lose(in, 1);
  EXPECT_FALSE(ComputeQuorum(in).quorum);
  EXPECT_EQ(ComputeQuorum(in).unknown, 3);
  Slot(in, 5).outdated = Slot(in, 6).outdated = true;
  EXPECT_EQ(ComputeQuorum(in).outdated, 2);
  Peer(in, 1).replicating = true;
  Peer(in, 1).disk = DiskState::kUpToDate;
  EXPECT_TRUE(ComputeQuorum(in).quorum);
}

TEST(Quorum, NeverSeenUnconfiguredDiskIsNoVoter) {
  QuorumInput in = Cluster(2);
  Slot(in, 5) = kDisklessSlot;
  EXPECT_EQ(ComputeQuorum(in).missing_diskless, 1);
  EXPECT_EQ(ComputeQuorum(in).voters, 2);
}

// Scenario 62: two diskful nodes and a diskless tiebreaker.
TEST(Quorum, TiebreakerPreservesButNeverCreates) {
  QuorumInput in = Cluster(3);
  MakeDiskless(in, 2);
  Lose(in, 1);
  QuorumResult result = ComputeQuorum(in);
  EXPECT_TRUE(result.quorum);
  EXPECT_TRUE(result.by_tiebreaker);
  in.had_quorum = false;  // scenarios 63, 64
  EXPECT_FALSE(ComputeQuorum(in).quorum);
  in.had_quorum = true;
  Peer(in, 2).replicating = false;
  EXPECT_FALSE(ComputeQuorum(in).quorum);
}

// Scenario 66: of two diskless nodes one must be enough only if the other does not count.
TEST(Quorum, TiebreakerFlag) {
  QuorumInput in = Cluster(4);
  MakeDiskless(in, 2);
  MakeDiskless(in, 3);
  Lose(in, 1);
  Peer(in, 3).replicating = false;
  EXPECT_FALSE(ComputeQuorum(in).quorum);  // one of two
  Peer(in, 3).tiebreaker = false;
  EXPECT_TRUE(ComputeQuorum(in).quorum);
}

// Scenario 84.
TEST(Quorum, UnreadablePeersAreSkipped) {
  QuorumInput in = Cluster(3);
  Peer(in, 1).allow_remote_read = false;
  EXPECT_EQ(ComputeQuorum(in).voters, 2);
}

// Scenario 67: a new diskful peer joins the electorate before it is connected.
TEST(Quorum, AddedDiskfulPeerCountsAtOnce) {
  QuorumInput in = Cluster(3);
  MakeDiskless(in, 2);
  Lose(in, 1);
  EXPECT_TRUE(ComputeQuorum(in).quorum);
  Slot(in, 3).have_bitmap = true;
  Peer(in, 3) = {true, false, DiskState::kUnknown};
  EXPECT_FALSE(ComputeQuorum(in).quorum);
}

TEST(Quorum, DisklessSelfReliesOnItsPeers) {
  QuorumInput in;
  in.options.quorum = kQuorumMajority;
  in.intentional_diskless = true;
  Peer(in, 1) = {true, true, DiskState::kUpToDate};
  Peer(in, 2) = {true, false, DiskState::kUnknown};
  EXPECT_FALSE(ComputeQuorum(in).quorum);
  EXPECT_EQ(NoQuorumText(in, ComputeQuorum(in)), "no UpToDate peer with quorum");
  Peer(in, 1).reports_quorum = true;
  EXPECT_TRUE(ComputeQuorum(in).quorum);
  Peer(in, 1).disk = DiskState::kConsistent;  // its word counts only with UpToDate data
  EXPECT_FALSE(ComputeQuorum(in).quorum);
}

TEST(Quorum, UnintentionallyDisklessSelfIsUnknown) {
  QuorumInput in;
  in.options.quorum = kQuorumMajority;
  Peer(in, 1) = {true, true, DiskState::kUpToDate};
  EXPECT_EQ(ComputeQuorum(in).unknown, 1);
}

TEST(Quorum, TrackedWithTheOptionOff) {
  QuorumInput in = Cluster(3);
  in.options.quorum = kQuorumOff;
  EXPECT_TRUE(ComputeQuorum(in).quorum);
  Lose(in, 1);
  Lose(in, 2);
  EXPECT_FALSE(ComputeQuorum(in).quorum);
}

}  // namespace
}  // namespace umblock::drbd
