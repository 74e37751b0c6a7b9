// Two-phase commits with a peer that votes wrongly, late or not at all.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/scripted_fixture.h"

namespace umblock::drbd {
namespace {

using testing::kControl;
using testing::kData;
using testing::PacketType;
using testing::ScriptedOptions;
using testing::ScriptedPeer;
using testing::Text;

class ScriptedTransactions : public ::testing::Test {
 protected:
  void Up() {
    peer.emplace(ScriptedOptions());
    peer->StartResource();
    ASSERT_TRUE(peer->Establish()) << peer->last_error();
  }
  PacketType NextVote() {
    PacketType result = PacketType::kPing;
    peer->world().RunUntil(
        [&] {
          for (PacketType type :
               {PacketType::kTwopcYes, PacketType::kTwopcNo, PacketType::kTwopcRetry}) {
            if (peer->CountReceived(kControl, type) == 0) continue;
            result = type;
            return true;
          }
          return peer->closed();
        },
        15s);
    if (result != PacketType::kPing) (void)peer->Wait(kControl, result, 1s);
    return result;
  }
  Role peer_role() { return peer->bench->status(0).connections.at(0).peer_role; }
  std::optional<ScriptedPeer> peer;
};

TEST_F(ScriptedTransactions, APromotionIsVotedAndCommitted) {
  Up();
  Proposal promote = ProposePromote(false);
  peer->SendTransaction(PacketType::kTwopcPrepare, promote, 100);
  EXPECT_EQ(NextVote(), PacketType::kTwopcYes);
  EXPECT_EQ(peer_role(), Role::kSecondary) << "not before the commit";
  peer->SendTransaction(PacketType::kTwopcCommit, promote, 100);
  ASSERT_TRUE(peer->world().RunUntil([&] { return peer_role() == Role::kPrimary; }, 5s));
}

TEST_F(ScriptedTransactions, ADuplicatePrepareIsAnsweredLikeTheFirst) {
  Up();
  Proposal promote = ProposePromote(false);
  peer->SendTransaction(PacketType::kTwopcPrepare, promote, 100);
  EXPECT_EQ(NextVote(), PacketType::kTwopcYes);
  peer->SendTransaction(PacketType::kTwopcPrepare, promote, 100);
  peer->bench->RunFor(2s);
  EXPECT_EQ(peer->CountReceived(kControl, PacketType::kTwopcNo), 0u);
  EXPECT_EQ(peer->state(), ConnectionState::kConnected) << peer->last_error();
  peer->SendTransaction(PacketType::kTwopcCommit, promote, 100);
  ASSERT_TRUE(peer->world().RunUntil([&] { return peer_role() == Role::kPrimary; }, 5s));
}

TEST_F(ScriptedTransactions, AnAbortUndoesAndALateCommitIsIgnored) {
  Up();
  Proposal promote = ProposePromote(false);
  peer->SendTransaction(PacketType::kTwopcPrepare, promote, 100);
  EXPECT_EQ(NextVote(), PacketType::kTwopcYes);
  peer->SendTransaction(PacketType::kTwopcAbort, promote, 100);
  peer->SendTransaction(PacketType::kTwopcCommit, promote, 100);
  peer->bench->RunFor(2s);
  EXPECT_EQ(peer_role(), Role::kSecondary);
  EXPECT_EQ(peer->state(), ConnectionState::kConnected) << peer->last_error();
  // Free for another one.
  peer->SendTransaction(PacketType::kTwopcPrepare, promote, 101);
  EXPECT_EQ(NextVote(), PacketType::kTwopcYes);
}

TEST_F(ScriptedTransactions, ACommitWithoutAPrepareIsIgnored) {
  Up();
  peer->SendTransaction(PacketType::kTwopcCommit, ProposePromote(false), 55);
  peer->SendTransaction(PacketType::kTwopcAbort, ProposePromote(false), 56);
  peer->bench->RunFor(2s);
  EXPECT_EQ(peer_role(), Role::kSecondary);
  EXPECT_EQ(peer->state(), ConnectionState::kConnected);
}

TEST_F(ScriptedTransactions, AnInitiatorThatGoesQuietIsTimedOut) {
  Up();
  peer->SendTransaction(PacketType::kTwopcPrepare, ProposePromote(false), 100);
  EXPECT_EQ(NextVote(), PacketType::kTwopcYes);
  peer->bench->RunFor(60s);  // twopc-timeout
  peer->SendTransaction(PacketType::kTwopcCommit, ProposePromote(false), 100);
  peer->bench->RunFor(1s);
  EXPECT_EQ(peer_role(), Role::kSecondary) << "a commit after the timeout";
  // And this node can act again.
  auto promoted = peer->bench->Start(0, peer->resource().Promote(false));
  auto prepare = peer->Wait(kData, PacketType::kTwopcPrepare, 40s);
  ASSERT_TRUE(prepare);
  peer->Vote(PacketType::kTwopcYes, ScriptedPeer::Request(*prepare));
  ASSERT_TRUE(peer->world().RunUntil([&] { return promoted->has_value(); }, 40s));
  EXPECT_TRUE(**promoted) << Text(**promoted);
}

TEST_F(ScriptedTransactions, LossBetweenYesAndCommitChangesNothing) {
  Up();
  peer->SendTransaction(PacketType::kTwopcPrepare, ProposePromote(false), 100);
  EXPECT_EQ(NextVote(), PacketType::kTwopcYes);
  peer->Hangup();
  peer->bench->RunFor(2s);
  EXPECT_NE(peer->state(), ConnectionState::kConnected);
  EXPECT_EQ(peer->bench->disk_state(0), DiskState::kUpToDate);
  peer->ExpectUsable();
  EXPECT_EQ(peer_role(), Role::kSecondary);
}

TEST_F(ScriptedTransactions, WhileOneIsUnderWayAnotherIsPutOffOrRefused) {
  Up();
  peer->SendTransaction(PacketType::kTwopcPrepare, ProposePromote(false), 100);
  EXPECT_EQ(NextVote(), PacketType::kTwopcYes);
  // The node's own act waits for the end of it.
  auto promoted = peer->bench->Start(0, peer->resource().Promote(false));
  peer->bench->RunFor(1s);
  EXPECT_FALSE(promoted->has_value());
  EXPECT_EQ(peer->bench->status(0).role, Role::kSecondary);
  peer->SendTransaction(PacketType::kTwopcCommit, ProposePromote(false), 100);
  ASSERT_TRUE(peer->world().RunUntil([&] { return promoted->has_value(); }, 90s));
  EXPECT_FALSE(**promoted) << "a second Primary";
}

// Between YES and the end nothing may make the YES untrue (4.10, 13.4). Here a Secondary cannot be
// opened at all, so an open has nothing to wait for.
TEST_F(ScriptedTransactions, AnOpenDuringAPrepareIsRefusedAndTheYesHolds) {
  Up();
  peer->SendTransaction(PacketType::kTwopcPrepare, ProposePromote(false), 100);
  EXPECT_EQ(NextVote(), PacketType::kTwopcYes);
  BlockDevice& volume = peer->bench->volume(0);
  for (bool write : {false, true}) {
    Result<OpenerId> opened = volume.Open({.description = "test", .write = write});
    ASSERT_FALSE(opened);
    EXPECT_NE(opened.error().message().find("promote it first"), std::string::npos)
        << opened.error().message();
  }
  peer->SendTransaction(PacketType::kTwopcCommit, ProposePromote(false), 100);
  ASSERT_TRUE(peer->world().RunUntil([&] { return peer_role() == Role::kPrimary; }, 10s));
  EXPECT_FALSE(volume.Open({.description = "test", .write = true}));
}

TEST_F(ScriptedTransactions, CompetingInitiatorsTheLowerNodeGoesFirst) {
  Up();
  auto promoted = peer->bench->Start(0, peer->resource().Promote(false));
  auto prepare = peer->Wait(kData, PacketType::kTwopcPrepare);
  ASSERT_TRUE(prepare);
  // Instead of a vote: the same from here.
  peer->SendTransaction(PacketType::kTwopcPrepare, ProposePromote(false), 100);
  EXPECT_EQ(NextVote(), PacketType::kTwopcRetry) << "node 0 goes first";
  peer->Vote(PacketType::kTwopcYes, ScriptedPeer::Request(*prepare));
  ASSERT_TRUE(peer->world().RunUntil([&] { return promoted->has_value(); }, 40s));
  EXPECT_TRUE(**promoted) << Text(**promoted);
  EXPECT_EQ(peer_role(), Role::kSecondary);
}

TEST_F(ScriptedTransactions, APeerThatDoesNotVoteMakesAPromotionFailAndNotHang) {
  Up();
  auto promoted = peer->bench->Start(0, peer->resource().Promote(false));
  ASSERT_TRUE(peer->Wait(kData, PacketType::kTwopcPrepare));
  ASSERT_TRUE(peer->world().RunUntil([&] { return promoted->has_value(); }, 1200s));
  EXPECT_FALSE(**promoted);
  EXPECT_EQ(peer->bench->status(0).role, Role::kSecondary);
}

TEST_F(ScriptedTransactions, AProposalInTheNameOfAnotherNodeIsNotFollowed) {
  for (int initiator : {0, 7, 31}) {
    SCOPED_TRACE(initiator);
    Up();
    for (const Proposal& proposal : {ProposeDisconnect(0, OutdateOnDisconnect::kPeer),
                                     ProposePromote(false), ProposeConnect(0, Role::kPrimary),
                                     ProposeResync(0, 0, ReplicationState::kStartingSyncS)}) {
      peer->SendTransaction(PacketType::kTwopcPrepare, proposal, 100, initiator);
      peer->bench->RunFor(500ms);
      peer->SendTransaction(PacketType::kTwopcCommit, proposal, 100, initiator);
      peer->bench->RunFor(500ms);
      peer->SendTransaction(PacketType::kTwopcAbort, proposal, 100, initiator);
      peer->bench->RunFor(100ms);
    }
    EXPECT_EQ(peer->bench->disk_state(0), DiskState::kUpToDate);
    EXPECT_EQ(peer->bench->status(0).role, Role::kSecondary);
    peer->ExpectUsable();
    peer.reset();
  }
}

}  // namespace
}  // namespace umblock::drbd
