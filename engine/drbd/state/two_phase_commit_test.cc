// Two-phase commits: masks as recorded between real kernels, and the situations of drbd-states.md
// part D, one by one.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "engine/drbd/state/two_phase_cluster.h"

namespace umblock::drbd {
namespace {

using testing::Cluster;
using testing::Kind;
using testing::kTiming;
using testing::Member;
using testing::Mesh;

// --- Masks, as recorded ---

// 93-93-writes-c, 8.4: a promotion among two.
TEST(TwoPhaseCommit, RecordedPromotion) {
  Cluster c = Mesh(2);
  c.Start(1, ProposePromote(false));
  c.Settle();
  EXPECT_EQ((c.prepares[{1, 0}].nodes_to_reach), 0xfffffffffffffffc);
  EXPECT_EQ((c.replies[{0, 1}].vote), Vote::kYes);
  EXPECT_EQ((c.replies[{0, 1}].reachable_nodes), 3u);
  EXPECT_EQ((c.replies[{0, 1}].primary_nodes), 0u);
  EXPECT_EQ((c.replies[{0, 1}].weak_nodes), 0u);
  EXPECT_EQ((c.commits[{1, 0}].primary_nodes), 2u);
  EXPECT_EQ((c.commits[{1, 0}].reachable_nodes), 3u);
  EXPECT_FALSE((c.commits[{1, 0}].primaries_incapable));
  EXPECT_EQ(c[1].finished, StateResult::kSuccess);
  EXPECT_EQ(c[0].applied.size(), 1u);
  // Promotion: the local commit comes first.
  EXPECT_EQ(c[1].trace, (std::vector<std::string>{"prepare", "ping", "apply", "commit"}));
}

// 93-93-93-three-sync: a forced promotion of Inconsistent data says PRIMARY_INCAPABLE.
TEST(TwoPhaseCommit, RecordedForcedPromotionIsIncapable) {
  Cluster c = Mesh(3);
  c[0].data = false;
  c.Start(0, ProposePromote(true));
  c.Settle();
  EXPECT_EQ((c.prepares[{0, 1}].nodes_to_reach), 0xfffffffffffffff8);
  EXPECT_TRUE((c.commits[{0, 1}].primaries_incapable));
  EXPECT_EQ((c.commits[{0, 2}].primary_nodes), 1u);
}

// 93-93-93-three-sync, 8.8: the third node joins.
TEST(TwoPhaseCommit, RecordedThirdNodeJoins) {
  Cluster c(3);
  c.Link(0, 1);
  c[0].connecting = NodeBit(2);
  c[2].connecting = NodeBit(0);
  c[0].handshake = HandshakeState::kPending;
  c[2].handshake = HandshakeState::kPending;
  c.Start(0, ProposeConnect(2, Role::kSecondary));
  c.Settle();
  EXPECT_EQ((c.prepares[{0, 1}].nodes_to_reach), 0xfffffffffffffff8);
  EXPECT_EQ((c.prepares[{0, 2}].nodes_to_reach), 0xfffffffffffffff8);
  EXPECT_EQ((c.replies[{1, 0}].reachable_nodes), 3u);
  EXPECT_EQ(c.UnderWay(2, 0), 0u);
  EXPECT_EQ(c.replies.count({2, 0}), 0u) << "the target votes only when its handshake is ready";
  c.Handshake(2, HandshakeState::kReady);
  c.Settle();
  EXPECT_EQ((c.replies[{2, 0}].reachable_nodes), 5u);
  EXPECT_FALSE(c[0].finished.has_value()) << "so does the initiator decide";
  c.Handshake(0, HandshakeState::kReady);
  c.Settle();
  EXPECT_EQ(c[0].finished, StateResult::kSuccess);
  EXPECT_EQ((c.commits[{0, 1}].reachable_nodes), 7u);
  EXPECT_EQ((c.commits[{0, 2}].reachable_nodes), 7u);
  EXPECT_EQ(c[0].trace.back(), "apply") << "COMMIT first";
}

// 93-93-93-three-sync: 1 leaves 2 while both see 0.
TEST(TwoPhaseCommit, RecordedDisconnectWithAnotherPath) {
  Cluster c = Mesh(3);
  c.Start(1, ProposeDisconnect(2, OutdateOnDisconnect::kNobody));
  c.Settle();
  EXPECT_EQ((c.replies[{0, 1}].reachable_nodes), 5u);
  EXPECT_EQ((c.replies[{2, 1}].reachable_nodes), 5u);
  EXPECT_EQ((c.commits[{1, 0}].reachable_nodes), 7u);
  EXPECT_EQ(c[1].coordinator.members(), 7u);
}

// 93-93-93-three-sync: 0 leaves 2 after it has left 1; 2 forwards to 1.
TEST(TwoPhaseCommit, RecordedDisconnectThatSplitsTheCluster) {
  Cluster c(3);
  c.Link(0, 2);
  c.Link(1, 2);
  c.Start(0, ProposeDisconnect(2, OutdateOnDisconnect::kNobody));
  c.Settle();
  EXPECT_EQ((c.prepares[{0, 2}].nodes_to_reach), 0xfffffffffffffffa);
  EXPECT_EQ((c.prepares[{2, 1}].nodes_to_reach), 0xfffffffffffffff8);
  EXPECT_EQ((c.replies[{1, 2}].reachable_nodes), 6u);
  EXPECT_EQ((c.replies[{2, 0}].reachable_nodes), 6u);
  EXPECT_EQ((c.commits[{0, 2}].reachable_nodes), 6u);
  EXPECT_EQ((c.commits[{2, 1}].transaction.nodes_to_reach), 0xfffffffffffffff8);
  EXPECT_EQ(c[0].coordinator.members(), 1u);
}

// 93-93-reconnect-bitmap: leaving a Primary.
TEST(TwoPhaseCommit, RecordedDisconnectFromAPrimary) {
  Cluster c = Mesh(2);
  c[0].primary = true;
  c.Start(1, ProposeDisconnect(0, OutdateOnDisconnect::kNobody));
  c.Settle();
  EXPECT_EQ((c.replies[{0, 1}].reachable_nodes), 1u);
  EXPECT_EQ((c.replies[{0, 1}].primary_nodes), 1u);
  EXPECT_EQ((c.replies[{0, 1}].weak_nodes), 0xfffffffffffffffe);
  EXPECT_EQ((c.commits[{1, 0}].primary_nodes), 1u);
  EXPECT_EQ((c.commits[{1, 0}].reachable_nodes), 1u);
}

// A Primary that leaves reports the node it leaves as weak.
TEST(TwoPhaseCommit, LeavingPrimaryCountsTheOtherAsWeak) {
  Cluster c = Mesh(3);
  c[0].primary = true;
  c.Start(0, ProposeDisconnect(1, OutdateOnDisconnect::kPeer));
  c.Settle();
  EXPECT_EQ((c.commits[{0, 1}].primary_nodes), NodeBit(0));
  EXPECT_EQ(c[0].coordinator.weak_nodes(), ~(NodeBit(0) | NodeBit(2)));
}

// 93-93-93-three-reconcile, 8.9: the lost-peer probe of 2 over 1 finds the Primary 0.
TEST(TwoPhaseCommit, RecordedLostPeerProbe) {
  Cluster c(3);
  c.Link(0, 1);
  c.Link(1, 2);
  c[0].primary = true;
  c.Start(2, ProposeEmpty());
  c.Settle();
  EXPECT_EQ((c.prepares[{2, 1}].nodes_to_reach), 0xfffffffffffffff9);
  EXPECT_EQ((c.replies[{1, 2}].reachable_nodes), 7u);
  EXPECT_EQ((c.replies[{1, 2}].primary_nodes), 1u);
  EXPECT_EQ((c.replies[{1, 2}].weak_nodes), 0xfffffffffffffffc);
  EXPECT_EQ((c.commits[{2, 1}].primary_nodes), 1u);
  EXPECT_EQ((c.commits[{2, 1}].reachable_nodes), 7u);
  EXPECT_EQ(c[2].coordinator.weak_nodes(), 0xfffffffffffffffc);
}

// --- Part D, situation by situation ---

TEST(TwoPhaseCommit, NobodyConnectedCommitsLocally) {
  Cluster c(1);
  c.Start(0, ProposePromote(false));
  EXPECT_EQ(c[0].finished, StateResult::kSuccess);
  EXPECT_EQ(c[0].trace, (std::vector<std::string>{"apply"}));
  EXPECT_EQ(c[0].coordinator.members(), 1u);
}

TEST(TwoPhaseCommit, TargetNotConnectedNeedsAConnection) {
  Cluster c = Mesh(2);
  c.Start(0, ProposeVerify(5, 0));
  EXPECT_EQ(c[0].finished, StateResult::kNeedConnection);
  EXPECT_TRUE(c[0].trace.empty());
}

TEST(TwoPhaseCommit, ForwardsAlongAChain) {
  Cluster c(4);
  c.Link(0, 1);
  c.Link(1, 2);
  c.Link(2, 3);
  c.Start(0, ProposePromote(false));
  c.Settle();
  EXPECT_EQ(c[0].finished, StateResult::kSuccess);
  EXPECT_EQ(c[0].coordinator.members(), 0xFu);
  for (int i = 1; i < 4; ++i) EXPECT_EQ(c[i].applied.size(), 1u) << i;
}

TEST(TwoPhaseCommit, NoDeclinesEverywhere) {
  Cluster c = Mesh(3);
  c[2].check = [](const Transaction&) { return StateResult::kTwoPrimaries; };
  c.Start(0, ProposePromote(false));
  c.Settle();
  EXPECT_EQ(c[0].finished, StateResult::kCwFailedByPeer);
  EXPECT_EQ(c[0].coordinator.refused_by(), 2);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(c[i].applied.empty());
    EXPECT_FALSE(c[i].participant.active());
    EXPECT_FALSE(c[i].timer);
  }
  EXPECT_EQ(c[0].undone, 1);
}

TEST(TwoPhaseCommit, NoFromDownstreamComesThrough) {
  Cluster c(3);
  c.Link(0, 1);
  c.Link(1, 2);
  c[2].check = [](const Transaction&) { return StateResult::kPrimaryReader; };
  c.Start(0, ProposePromote(false));
  c.Settle();
  EXPECT_EQ(c[0].finished, StateResult::kCwFailedByPeer);
  EXPECT_EQ(c[0].coordinator.refused_by(), 1);
}

TEST(TwoPhaseCommit, TransientStateVotesRetryAtOnce) {
  Cluster c(3);
  c.Link(0, 1);
  c.Link(1, 2);
  c[1].check = [](const Transaction&) { return StateResult::kInTransientState; };
  c.Start(0, ProposePromote(false));
  c.Settle();
  EXPECT_EQ((c.replies[{1, 0}].vote), Vote::kRetry);
  EXPECT_EQ(c.prepares.count({1, 2}), 0u) << "nobody else is asked";
  EXPECT_EQ(c[0].finished, StateResult::kConcurrentStateChange);
}

TEST(TwoPhaseCommit, DuplicatePrepareIsAnsweredWithTheSameVote) {
  Cluster c(4);  // a ring: 3 hears of it from 1 and from 2
  c.Link(0, 1);
  c.Link(0, 2);
  c.Link(1, 3);
  c.Link(2, 3);
  c.Start(0, ProposePromote(false));
  c.Settle();
  EXPECT_EQ((c.replies[{3, 1}]), (c.replies[{3, 2}]));
  EXPECT_EQ(c[0].finished, StateResult::kSuccess);
  EXPECT_EQ(c[3].applied.size(), 1u) << "executed once";
}

// 4.3: a PREPARE that meets its own copy counts as YES of that neighbour.
TEST(TwoPhaseCommit, PreparesThatCrossCountAsYes) {
  Cluster c(3);  // 1 and 2 both get it from 0, but 0 does not see... both forward to each other
  c.Link(0, 1);
  c.Link(0, 2);
  c.Link(1, 2);
  Transaction t;
  t.id = {0, 77};
  t.proposal = ProposePromote(false);
  t.nodes_to_reach = kAllNodes & ~NodeBit(0);  // an initiator that did not cross out its neighbours
  TwoPhaseParticipant one(1, kTiming);
  ParticipantFacts facts = c[1].Participating();
  one.OnPrepare(0, t, facts);
  const TransactionActions forwarded = one.OnLocalVote(StateResult::kSuccess, facts);
  ASSERT_EQ(forwarded[0].kind, Kind::kSendPrepare);
  EXPECT_EQ(forwarded[0].node, 2);
  EXPECT_FALSE(one.replied());
  const TransactionActions crossed = one.OnPrepare(2, t, facts);
  ASSERT_EQ(crossed.size(), 2u);  // to both parents
  EXPECT_EQ(crossed[0].reply.vote, Vote::kYes);
  EXPECT_TRUE(one.replied());
  EXPECT_EQ(one.parents(), NodeBit(0) | NodeBit(2));
}

TEST(TwoPhaseCommit, LostBeforeAnsweringCountsAsRetry) {
  Cluster c = Mesh(3);
  c.Start(0, ProposePromote(false));
  c.Deliver(0, 1);
  c.Cut(0, 2);
  c.Settle();
  EXPECT_EQ(c[0].finished, StateResult::kConcurrentStateChange);
  EXPECT_TRUE(c[1].applied.empty());
}

TEST(TwoPhaseCommit, LostAfterAnsweringDoesNotMatter) {
  Cluster c = Mesh(3);
  c.Start(0, ProposePromote(false));
  c.Deliver(0, 2);
  c.Deliver(2, 0);  // YES of 2
  c.Cut(0, 2);
  c.Settle();
  EXPECT_EQ(c[0].finished, StateResult::kSuccess);
  EXPECT_EQ(c[1].applied.size(), 1u);
  // nodes_to_reach was recomputed, so 1 brings it to 2.
  EXPECT_EQ((c.commits[{0, 1}].transaction.nodes_to_reach), ~(NodeBit(0) | NodeBit(1)));
}

TEST(TwoPhaseCommit, LossBetweenYesAndCommitAbortsWithoutAnotherWay) {
  Cluster c = Mesh(2);
  c.Start(0, ProposePromote(false));
  c.Deliver(0, 1);
  EXPECT_TRUE(c[1].participant.active());
  EXPECT_TRUE(c[1].participant.replied());
  c.NoticeLoss(1, 0);
  EXPECT_FALSE(c[1].participant.active());
  EXPECT_EQ(c[1].undone, 1);
}

TEST(TwoPhaseCommit, LossOfOneParentKeepsWaitingForTheOther) {
  Cluster c(4);
  c.Link(0, 1);
  c.Link(0, 2);
  c.Link(1, 3);
  c.Link(2, 3);
  c.Start(0, ProposePromote(false));
  c.Deliver(0, 1);
  c.Deliver(0, 2);
  c.Deliver(1, 3);
  c.Deliver(2, 3);
  EXPECT_EQ(c[3].participant.parents(), NodeBit(1) | NodeBit(2));
  c.NoticeLoss(3, 1);
  EXPECT_TRUE(c[3].participant.active());
  c.NoticeLoss(3, 2);
  EXPECT_FALSE(c[3].participant.active());
}

TEST(TwoPhaseCommit, OrphanTellsTheOthersToAbort) {
  Cluster c(3);
  c.Link(0, 1);
  c.Link(1, 2);
  c.Start(0, ProposePromote(false));
  c.Deliver(0, 1);
  c.Deliver(1, 2);
  c.NoticeLoss(1, 0);
  c.Settle();
  EXPECT_FALSE(c[2].participant.active());
  EXPECT_EQ(c[2].undone, 1);
}

TEST(TwoPhaseCommit, DownstreamNodeLostVotesRetry) {
  Cluster c(3);
  c.Link(0, 1);
  c.Link(1, 2);
  c.Start(0, ProposePromote(false));
  c.Deliver(0, 1);
  c.Cut(1, 2);
  c.Settle();
  EXPECT_EQ(c[0].finished, StateResult::kConcurrentStateChange);
}

TEST(TwoPhaseCommit, TimeoutAbortsAndCommitAfterItIsIgnored) {
  Cluster c = Mesh(2);
  c.Start(0, ProposePromote(false));
  c.Deliver(0, 1);
  c.FireTimer(1);  // the participant gave up
  EXPECT_EQ(c[1].undone, 1);
  c.Settle();
  EXPECT_EQ(c[0].finished, StateResult::kSuccess);
  EXPECT_TRUE(c[1].applied.empty());
  EXPECT_FALSE(c[1].participant.active());
}

// Scenario 47.
TEST(TwoPhaseCommit, HangingParticipantTimesOut) {
  Cluster c = Mesh(3);
  c.Start(0, ProposePromote(false));
  EXPECT_EQ(c[0].timer_ms, 30'000u);
  c.Deliver(0, 1);
  c.Deliver(1, 0);
  c.FireTimer(0);  // 2 never answered
  EXPECT_EQ(c[0].finished, StateResult::kTimeout);
  c.Settle();
  EXPECT_TRUE(c[1].applied.empty());
  EXPECT_FALSE(c[1].participant.active());
}

// Scenario 48: the target of a connect dies.
TEST(TwoPhaseCommit, ConnectTargetDies) {
  Cluster c(3);
  c.Link(0, 2);
  c[0].connecting = NodeBit(1);
  c[1].connecting = NodeBit(0);
  c[0].handshake = HandshakeState::kPending;
  c.Start(0, ProposeConnect(1, Role::kSecondary));
  c.Deliver(0, 2);
  c.Deliver(2, 0);
  c.NoticeLoss(0, 1);
  c.Settle();
  EXPECT_EQ(c[0].finished, StateResult::kConcurrentStateChange);
  EXPECT_EQ(c[2].undone, 1);
}

// Recorded: after a RETRY the initiator of a connect waits 0.5 s for the rest of the handshake.
TEST(TwoPhaseCommit, RetryOfAConnectWaitsForTheTargetsStates) {
  Cluster c(2);
  c[0].connecting = NodeBit(1);
  c[1].connecting = NodeBit(0);
  c[0].handshake = HandshakeState::kPending;
  c[1].check = [](const Transaction&) { return StateResult::kInTransientState; };
  c.Start(0, ProposeConnect(1, Role::kSecondary));
  c.Settle();
  EXPECT_FALSE(c[0].finished.has_value());
  EXPECT_EQ(c[0].timer_ms, 500u);
  c.FireTimer(0);
  EXPECT_EQ(c[0].finished, StateResult::kConcurrentStateChange);
}

TEST(TwoPhaseCommit, HandshakeResultsOfAConnect) {
  struct Case {
    HandshakeState initiator, target;
    StateResult want;
  };
  for (const Case& test : {
           Case{HandshakeState::kWantsRetry, HandshakeState::kReady, StateResult::kHandshakeRetry},
           Case{HandshakeState::kWantsDisconnect, HandshakeState::kReady,
                StateResult::kHandshakeDisconnect},
           Case{HandshakeState::kReady, HandshakeState::kWantsDisconnect,
                StateResult::kCwFailedByPeer},
           Case{HandshakeState::kReady, HandshakeState::kWantsRetry,
                StateResult::kConcurrentStateChange},
       }) {
    Cluster c(2);
    c[0].connecting = NodeBit(1);
    c[1].connecting = NodeBit(0);
    c[0].handshake = c[1].handshake = HandshakeState::kPending;
    c.Start(0, ProposeConnect(1, Role::kSecondary));
    c.Settle();
    c.Handshake(1, test.target);
    c.Settle();
    c.Handshake(0, test.initiator);
    c.Settle();
    EXPECT_EQ(c[0].finished, test.want);
    EXPECT_TRUE(c[0].applied.empty());
    EXPECT_TRUE(c[1].applied.empty());
  }
}

// The target sends its states once it has accepted the PREPARE, never before (13.8).
TEST(TwoPhaseCommit, StatesFollowThePrepareOnBothSides) {
  Cluster c(2);
  c[0].connecting = NodeBit(1);
  c[1].connecting = NodeBit(0);
  c[0].handshake = c[1].handshake = HandshakeState::kPending;
  c.Start(0, ProposeConnect(1, Role::kSecondary));
  EXPECT_EQ(c[0].trace, (std::vector<std::string>{"prepare", "ping", "states"}));
  EXPECT_TRUE(c[1].trace.empty());
  c.Settle();
  EXPECT_EQ(c[1].trace, (std::vector<std::string>{"states"}));
}

TEST(TwoPhaseCommit, ConnectOfTwoPrimariesIsRefusedByTheInitiator) {
  Cluster c(2);
  c[0].connecting = NodeBit(1);
  c[1].connecting = NodeBit(0);
  c[0].primary = c[1].primary = true;
  c[0].handshake = c[1].handshake = HandshakeState::kReady;
  c.Start(0, ProposeConnect(1, Role::kPrimary));
  c.Settle();
  EXPECT_EQ(c[0].finished, StateResult::kTwoPrimaries);
  EXPECT_TRUE(c[1].applied.empty());
}

// 4.3: the lower id wins; the node that initiates itself yields.
TEST(TwoPhaseCommit, LowerIdWinsOverAnOwnTransaction) {
  Cluster c = Mesh(2);
  c.Start(1, ProposePromote(false));
  c.Start(0, ProposePromote(false));
  c.Deliver(0, 1);  // 1 yields and serves 0
  EXPECT_EQ(c[1].finished, StateResult::kConcurrentStateChange);
  EXPECT_TRUE(c[1].participant.active());
  c.Settle();
  EXPECT_EQ(c[0].finished, StateResult::kSuccess);
  EXPECT_EQ(c[1].applied.size(), 1u);
}

TEST(TwoPhaseCommit, HigherIdIsToldToRetry) {
  Cluster c = Mesh(2);
  c.Start(0, ProposePromote(false));
  c.Start(1, ProposePromote(false));
  c.Deliver(1, 0);
  EXPECT_EQ((c.replies[{0, 1}].vote), Vote::kRetry);
}

TEST(TwoPhaseCommit, AnotherInitiatorWhileServingOneIsToldToRetry) {
  Cluster c = Mesh(3);
  c.Start(2, ProposePromote(false));
  c.Deliver(2, 1);
  c.Start(0, ProposePromote(false));
  c.Deliver(0, 1);  // lower id, but 1 already serves 2
  EXPECT_EQ((c.replies[{1, 0}].vote), Vote::kRetry);
}

// 4.3, third row: the initiator's next attempt overtakes the abort of its last one.
TEST(TwoPhaseCommit, SameInitiatorOtherTidWaitsForTheOldOne) {
  TwoPhaseParticipant two(2, kTiming);
  ParticipantFacts facts;
  facts.direct = NodeBit(0) | NodeBit(1);
  Transaction old_one;
  old_one.id = {0, 1};
  old_one.proposal = ProposePromote(false);
  two.OnPrepare(1, old_one, facts);
  two.OnLocalVote(StateResult::kSuccess, facts);
  Transaction next = old_one;
  next.id.tid = 2;
  TransactionActions actions = two.OnPrepare(0, next, facts);
  ASSERT_EQ(actions.size(), 1u);
  EXPECT_EQ(actions[0].kind, Kind::kStartDeferTimer);
  EXPECT_EQ(actions[0].milliseconds, 1500u);
  // From a parent it is answered at once.
  EXPECT_EQ(two.OnPrepare(1, next, facts)[0].reply.vote, Vote::kRetry);
  // The abort arrives: the deferred one is served.
  two.OnAbort(1, old_one, facts);
  EXPECT_TRUE(two.active());
  EXPECT_EQ(two.transaction().id.tid, 2u);
  EXPECT_EQ(two.parents(), NodeBit(0));
}

TEST(TwoPhaseCommit, DeferredPrepareThatWaitsTooLongIsToldToRetry) {
  TwoPhaseParticipant two(2, kTiming);
  ParticipantFacts facts;
  facts.direct = NodeBit(0) | NodeBit(1);
  Transaction old_one;
  old_one.id = {0, 1};
  two.OnPrepare(1, old_one, facts);
  Transaction next = old_one;
  next.id.tid = 2;
  two.OnPrepare(0, next, facts);
  const TransactionActions actions = two.OnDeferTimeout(0, facts);
  ASSERT_EQ(actions.size(), 1u);
  EXPECT_EQ(actions[0].reply.vote, Vote::kRetry);
  EXPECT_EQ(actions[0].reply.id.tid, 2u);
  EXPECT_TRUE(two.OnDeferTimeout(0, facts).empty());
}

TEST(TwoPhaseCommit, YieldTimesOutIfTheOwnOneDoesNotEnd) {
  TwoPhaseParticipant two(2, kTiming);
  ParticipantFacts facts;
  facts.direct = NodeBit(0);
  facts.own_transaction = true;
  Transaction incoming;
  incoming.id = {0, 9};
  TransactionActions actions = two.OnPrepare(0, incoming, facts);
  ASSERT_EQ(actions.size(), 2u);
  EXPECT_EQ(actions[0].milliseconds, 750u);
  EXPECT_EQ(actions[1].kind, Kind::kAbortOwn);
  EXPECT_TRUE(two.OnOwnTransactionEnded(facts).empty()) << "it has not ended";
  EXPECT_TRUE(two.deferring());
  actions = two.OnDeferTimeout(0, facts);
  ASSERT_EQ(actions.size(), 1u);
  EXPECT_EQ(actions[0].reply.vote, Vote::kRetry);
  EXPECT_FALSE(two.active());
}

TEST(TwoPhaseCommit, AbortOfADeferredPrepareForgetsIt) {
  TwoPhaseParticipant two(2, kTiming);
  ParticipantFacts facts;
  facts.direct = NodeBit(0);
  facts.own_transaction = true;
  Transaction incoming;
  incoming.id = {0, 9};
  two.OnPrepare(0, incoming, facts);
  two.OnAbort(0, incoming, facts);
  EXPECT_FALSE(two.deferring());
  facts.own_transaction = false;
  two.OnOwnTransactionEnded(facts);
  EXPECT_FALSE(two.active());
}

TEST(TwoPhaseCommit, UnknownAbortIsForwardedOnly) {
  TwoPhaseParticipant one(1, kTiming);
  ParticipantFacts facts;
  facts.direct = NodeBit(0) | NodeBit(2);
  Transaction unknown;
  unknown.id = {0, 5};
  unknown.nodes_to_reach = ~(NodeBit(0) | NodeBit(1));
  const TransactionActions actions = one.OnAbort(0, unknown, facts);
  ASSERT_EQ(actions.size(), 1u);
  EXPECT_EQ(actions[0].kind, Kind::kSendAbort);
  EXPECT_EQ(actions[0].node, 2);
  EXPECT_EQ(actions[0].transaction.nodes_to_reach, ~(NodeBit(0) | NodeBit(1) | NodeBit(2)));
}

TEST(TwoPhaseCommit, UnknownCommitAndRepliesAreIgnored) {
  Cluster c = Mesh(2);
  TransactionCommit commit;
  commit.transaction.id = {0, 5};
  commit.transaction.nodes_to_reach = kAllNodes;
  EXPECT_TRUE(c[1].participant.OnCommit(0, commit, c[1].Participating()).empty());
  c.Start(0, ProposePromote(false));
  TransactionReply reply;
  reply.id = {0, 12345};
  reply.vote = Vote::kNo;
  EXPECT_TRUE(c[0].coordinator.OnReply(1, reply, c[0].Coordinating()).empty());
  reply.id = c[0].coordinator.transaction().id;
  EXPECT_TRUE(c[0].coordinator.OnReply(7, reply, c[0].Coordinating()).empty());
  EXPECT_TRUE(c[0].coordinator.OnReply(-1, reply, c[0].Coordinating()).empty());
  EXPECT_TRUE(c[0].coordinator.OnReply(99, reply, c[0].Coordinating()).empty());
  c.Settle();
  EXPECT_EQ(c[0].finished, StateResult::kSuccess);
}

TEST(TwoPhaseCommit, SecondReplyOfANodeIsIgnored) {
  Cluster c = Mesh(3);
  c.Start(0, ProposePromote(false));
  TransactionReply yes;
  yes.id = c[0].coordinator.transaction().id;
  yes.reachable_nodes = 7;
  c[0].coordinator.OnReply(1, yes, c[0].Coordinating());
  yes.vote = Vote::kNo;
  c[0].coordinator.OnReply(1, yes, c[0].Coordinating());
  c.Settle();
  EXPECT_EQ(c[0].finished, StateResult::kSuccess);
}

TEST(TwoPhaseCommit, SendFailureOfOthersIsSkippedOfTheTargetIsFatal) {
  Cluster c = Mesh(3);
  TwoPhaseCoordinator coordinator(0, kTiming);
  Transaction t;
  t.id = {0, 3};
  t.proposal = ProposePromote(false);
  coordinator.Start(t, c[0].Coordinating());
  EXPECT_TRUE(coordinator.OnSendFailed(1, c[0].Coordinating()).empty());
  TransactionReply yes;
  yes.id = t.id;
  coordinator.OnReply(2, yes, c[0].Coordinating());
  EXPECT_EQ(coordinator.result(), StateResult::kSuccess);

  TwoPhaseCoordinator targeted(0, kTiming);
  t.proposal = ProposeVerify(1, 0);
  targeted.Start(t, c[0].Coordinating());
  const TransactionActions actions = targeted.OnSendFailed(1, c[0].Coordinating());
  EXPECT_EQ(targeted.result(), StateResult::kNeedConnection);
  // The others got a PREPARE and must not wait for their timeout.
  EXPECT_TRUE(std::ranges::any_of(actions, [](const TransactionAction& a) {
    return a.kind == Kind::kSendAbort && a.node == 2;
  }));
}

TEST(TwoPhaseCommit, ResizeTakesTheSmallestAndCountsDiskfulPrimaries) {
  Cluster c = Mesh(3);
  c[1].primary = true;
  Transaction t;
  t.id = {0, 3};
  t.kind = TransactionKind::kResize;
  t.proposal.volume = 0;
  c.StartTransaction(0, t);
  c.Settle();
  EXPECT_EQ(c[0].finished, StateResult::kSuccess);
  EXPECT_EQ((c.commits[{0, 2}].exposed_size), 1001u);  // min(1001, 1002)
  EXPECT_EQ((c.commits[{0, 2}].primary_nodes), NodeBit(1));
  t.user_size = 500;
  t.id.tid = 4;
  c.StartTransaction(0, t);
  c.Settle();
  EXPECT_EQ((c.commits[{0, 2}].exposed_size), 500u);
}

TEST(TwoPhaseCommit, ScopeOfAProposal) {
  Transaction t;
  t.proposal = ProposePromote(false);
  EXPECT_EQ(ScopeOf(t, 2, true), ProposalScope::kConnection);
  EXPECT_EQ(ScopeOf(t, 2, false), ProposalScope::kFarAway);
  t.proposal = ProposeDetach(0);
  EXPECT_EQ(ScopeOf(t, 2, true), ProposalScope::kPeerDevice);
  t.proposal = ProposeVerify(1, 0);
  EXPECT_EQ(ScopeOf(t, 2, true), ProposalScope::kFarAway);
  EXPECT_EQ(ScopeOf(t, 1, true), ProposalScope::kPeerDevice);
}

TEST(TwoPhaseCommit, BackOffGrowsAndIsBounded) {
  EXPECT_EQ(RetryBackoffBoundMs(kTiming, 2, 0), 200u);
  EXPECT_EQ(RetryBackoffBoundMs(kTiming, 2, 3), 1600u);
  EXPECT_EQ(RetryBackoffBoundMs(kTiming, 2, 5), 6400u);
  EXPECT_EQ(RetryBackoffBoundMs(kTiming, 2, 100), 6400u);
  EXPECT_EQ(RetryBackoffBoundMs(kTiming, 0, 0), 100u);
  EXPECT_EQ(RetryBackoffMs(200, 0), 0u);
  EXPECT_EQ(RetryBackoffMs(200, 0xffffffff), 199u);
}

}  // namespace
}  // namespace umblock::drbd
