// Two-phase commits among nodes that exchange their packets through queues in any order: the
// situations of drbd-states.md part D, and masks as recorded between real kernels.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>

#include "engine/drbd/state/connect_handshake.h"
#include "engine/drbd/state/two_phase_coordinator.h"
#include "engine/drbd/state/two_phase_participant.h"

namespace umblock::drbd {
namespace {

using Kind = TransactionAction::Kind;
constexpr TransactionTiming kTiming;

struct Member {
  explicit Member(int id) : self(id), coordinator(id, kTiming), participant(id, kTiming) {}
  int self;
  TwoPhaseCoordinator coordinator;
  TwoPhaseParticipant participant;
  NodeMask direct = 0;
  NodeMask connecting = 0;
  NodeMask allow_two_primaries = 0;
  bool primary = false;
  bool data = true;
  bool disk = true;
  HandshakeState handshake = HandshakeState::kNotNeeded;
  std::function<StateResult(const Transaction&)> check = [](const Transaction&) {
    return StateResult::kSuccess;
  };

  // What happened.
  std::vector<TransactionCommit> applied;
  int undone = 0;
  bool timer = false;
  uint32_t timer_ms = 0;
  std::set<int> deferring;
  std::optional<StateResult> finished;
  std::vector<std::string> trace;  // of own actions, in order

  CoordinatorFacts Coordinating() const {
    CoordinatorFacts facts;
    facts.direct = direct;
    facts.connecting = connecting;
    facts.self_primary = primary;
    facts.data_accessible = data;
    facts.self_has_disk = disk;
    facts.connections = direct | connecting;
    facts.allow_two_primaries = allow_two_primaries;
    facts.handshake = handshake;
    return facts;
  }
  ParticipantFacts Participating() const {
    ParticipantFacts facts;
    facts.direct = direct;
    facts.self_primary = primary;
    facts.data_accessible = primary && data;
    facts.own_transaction = coordinator.active();
    facts.own_tid = coordinator.transaction().id.tid;
    facts.max_possible_size = 1000 + static_cast<uint64_t>(self);
    facts.diskful_primary = primary && disk;
    facts.handshake = handshake;
    return facts;
  }
};

class Cluster {
 public:
  explicit Cluster(int nodes, uint64_t seed = 1) : random_(seed) {
    for (int i = 0; i < nodes; ++i) members_.push_back(std::make_unique<Member>(i));
  }
  Member& operator[](int node) { return *members_[static_cast<size_t>(node)]; }
  int size() const { return static_cast<int>(members_.size()); }

  void Link(int a, int b) {
    (*this)[a].direct |= NodeBit(b);
    (*this)[b].direct |= NodeBit(a);
  }
  void Mesh() {
    for (int a = 0; a < size(); ++a) {
      for (int b = a + 1; b < size(); ++b) Link(a, b);
    }
  }
  // Both sides notice; what is under way is lost.
  void Cut(int a, int b) {
    queues_.erase({a, b});
    queues_.erase({b, a});
    NoticeLoss(a, b);
    NoticeLoss(b, a);
  }
  void NoticeLoss(int node, int lost) {
    Member& m = (*this)[node];
    m.direct &= ~NodeBit(lost);
    m.connecting &= ~NodeBit(lost);
    Run(node, m.coordinator.OnPeerLost(lost, m.Coordinating()));
    Run(node, m.participant.OnPeerLost(lost, m.Participating()));
  }

  void Start(int node, const Proposal& proposal, uint32_t tid = 0x1000) {
    Transaction transaction;
    transaction.id = {node, tid + static_cast<uint32_t>(node)};
    transaction.proposal = proposal;
    StartTransaction(node, transaction);
  }
  void StartTransaction(int node, const Transaction& transaction) {
    Member& m = (*this)[node];
    m.finished.reset();
    Run(node, m.coordinator.Start(transaction, m.Coordinating()));
  }

  // Delivers one packet of a random link. False: nothing is under way.
  bool Step() {
    std::erase_if(queues_, [](const auto& entry) { return entry.second.empty(); });
    if (queues_.empty()) return false;
    auto it = queues_.begin();
    std::advance(it, static_cast<long>(random_() % queues_.size()));
    Deliver(it->first.first, it->first.second);
    return true;
  }
  void Settle() {
    int guard = 0;
    while (Step()) ASSERT_LT(++guard, 100000) << "packets without end";
  }
  void Deliver(int from, int to) {
    auto& queue = queues_[{from, to}];
    ASSERT_FALSE(queue.empty());
    const TransactionAction packet = queue.front();
    queue.pop_front();
    Receive(from, to, packet);
  }
  size_t UnderWay(int from, int to) { return queues_[{from, to}].size(); }

  void Handshake(int node, HandshakeState state) {
    Member& m = (*this)[node];
    m.handshake = state;
    Run(node, m.coordinator.OnHandshake(m.Coordinating()));
    Run(node, m.participant.OnHandshake(m.Participating()));
  }
  void FireTimer(int node) {
    Member& m = (*this)[node];
    ASSERT_TRUE(m.timer);
    m.timer = false;
    if (m.coordinator.active()) {
      Run(node, m.coordinator.OnTimeout(m.Coordinating()));
    } else {
      Run(node, m.participant.OnTimeout(m.Participating()));
    }
  }
  void FireAll() {
    for (int i = 0; i < size(); ++i) {
      Member& m = (*this)[i];
      for (int node : std::set<int>(m.deferring)) {
        m.deferring.erase(node);
        Run(i, m.participant.OnDeferTimeout(node, m.Participating()));
      }
      if (m.timer) FireTimer(i);
    }
    Settle();
  }

  TransactionReply last_reply_to(int node) { return last_reply_[node]; }
  std::map<std::pair<int, int>, TransactionReply> replies;   // (from, to)
  std::map<std::pair<int, int>, Transaction> prepares;       // (from, to)
  std::map<std::pair<int, int>, TransactionCommit> commits;  // (from, to)

 private:
  void Receive(int from, int to, const TransactionAction& packet) {
    Member& m = (*this)[to];
    switch (packet.kind) {
      case Kind::kSendPrepare:
        Run(to, m.participant.OnPrepare(from, packet.transaction, m.Participating()));
        break;
      case Kind::kSendCommit:
        Run(to, m.participant.OnCommit(from, packet.commit, m.Participating()));
        break;
      case Kind::kSendAbort:
        Run(to, m.participant.OnAbort(from, packet.transaction, m.Participating()));
        break;
      case Kind::kSendReply:
        last_reply_[to] = packet.reply;
        if (packet.reply.id.initiator == to) {
          Run(to, m.coordinator.OnReply(from, packet.reply, m.Coordinating()));
        } else {
          Run(to, m.participant.OnSubReply(from, packet.reply, m.Participating()));
        }
        break;
      default:
        FAIL();
    }
  }

  void Send(int from, const TransactionAction& action) {
    Member& m = (*this)[from];
    if (!Contains(m.direct | m.connecting, action.node)) return;
    queues_[{from, action.node}].push_back(action);
    const std::pair<int, int> way{from, action.node};
    if (action.kind == Kind::kSendReply) replies[way] = action.reply;
    if (action.kind == Kind::kSendPrepare) prepares[way] = action.transaction;
    if (action.kind == Kind::kSendCommit) commits[way] = action.commit;
  }

  void Run(int node, const TransactionActions& actions) {
    Member& m = (*this)[node];
    for (const TransactionAction& action : actions) {
      switch (action.kind) {
        case Kind::kSendPrepare:
        case Kind::kSendCommit:
        case Kind::kSendAbort:
        case Kind::kSendReply:
          m.trace.push_back(action.kind == Kind::kSendPrepare  ? "prepare"
                            : action.kind == Kind::kSendCommit ? "commit"
                            : action.kind == Kind::kSendAbort  ? "abort"
                                                               : "reply");
          Send(node, action);
          break;
        case Kind::kCheckLocally:
          Run(node, m.participant.OnLocalVote(m.check(action.transaction), m.Participating()));
          break;
        case Kind::kApply:
          m.trace.push_back("apply");
          m.applied.push_back(action.commit);
          break;
        case Kind::kUndo:
          m.trace.push_back("undo");
          ++m.undone;
          break;
        case Kind::kStartTimer:
          m.timer = true;
          m.timer_ms = action.milliseconds;
          break;
        case Kind::kStopTimer:
          m.timer = false;
          break;
        case Kind::kStartDeferTimer:
          m.deferring.insert(action.node);
          break;
        case Kind::kStopDeferTimer:
          m.deferring.erase(action.node);
          break;
        case Kind::kAbortOwn:
          Run(node, m.coordinator.OnAbortRequested(m.Coordinating()));
          break;
        case Kind::kSendInitialStates:
          m.trace.push_back("states");
          break;
        case Kind::kFinished:
          m.finished = action.result;
          Run(node, m.participant.OnOwnTransactionEnded(m.Participating()));
          break;
        case Kind::kPing:
          m.trace.push_back("ping");
          break;
      }
    }
  }

  std::vector<std::unique_ptr<Member>> members_;
  std::map<std::pair<int, int>, std::deque<TransactionAction>> queues_;
  std::map<int, TransactionReply> last_reply_;
  std::mt19937_64 random_;
};

Cluster Mesh(int nodes, uint64_t seed = 1) {
  Cluster cluster(nodes, seed);
  cluster.Mesh();
  return cluster;
}

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
  actions = two.OnDeferTimeout(0, facts);
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

// --- Everybody or nobody ---

// Scenario 46 and all its schedules: several nodes promote at once. Each refuses if it is Primary
// itself or serves another; whoever commits is the only Primary.
TEST(TwoPhaseCommit, CompetingPromotionsEndWithAtMostOnePrimary) {
  int committed = 0;
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    Cluster c = Mesh(3, seed);
    std::mt19937_64 random(seed);
    for (int i = 0; i < 3; ++i) {
      Member& m = c[i];
      m.check = [&m](const Transaction&) {
        return m.primary ? StateResult::kTwoPrimaries : StateResult::kSuccess;
      };
    }
    std::vector<int> starters{0, 1, 2};
    std::ranges::shuffle(starters, random);
    for (int node : starters) {
      if (!c[node].participant.active()) c.Start(node, ProposePromote(false));
      for (uint64_t steps = random() % 4; steps > 0; --steps) c.Step();
      for (int i = 0; i < 3; ++i) c[i].primary = c[i].finished == StateResult::kSuccess;
    }
    while (c.Step()) {
      for (int i = 0; i < 3; ++i) c[i].primary = c[i].finished == StateResult::kSuccess;
    }
    c.FireAll();
    int primaries = 0;
    for (int i = 0; i < 3; ++i) {
      primaries += c[i].finished == StateResult::kSuccess;
      ASSERT_FALSE(c[i].participant.active()) << seed;
      ASSERT_FALSE(c[i].coordinator.active()) << seed;
      ASSERT_FALSE(c[i].participant.deferring()) << seed;
    }
    ASSERT_LE(primaries, 1) << seed;
    committed += primaries;
  }
  EXPECT_GT(committed, 300);
}

// Random connected topologies, random order, no loss: all apply or all undo; the masks are right.
TEST(TwoPhaseCommit, EverybodyOrNobodyInAnyTopology) {
  for (uint64_t seed = 0; seed < 1500; ++seed) {
    std::mt19937_64 random(seed);
    const int nodes = 2 + static_cast<int>(random() % 6);
    Cluster c(nodes, seed);
    for (int i = 1; i < nodes; ++i)
      c.Link(i, static_cast<int>(random() % static_cast<uint64_t>(i)));
    for (int i = 0; i < nodes; ++i) {
      const int a = static_cast<int>(random() % static_cast<uint64_t>(nodes));
      const int b = static_cast<int>(random() % static_cast<uint64_t>(nodes));
      if (a != b) c.Link(a, b);
    }
    const int refuser =
        random() % 3 == 0 ? static_cast<int>(random() % static_cast<uint64_t>(nodes)) : -1;
    const int initiator = static_cast<int>(random() % static_cast<uint64_t>(nodes));
    if (refuser >= 0) {
      c[refuser].check = [](const Transaction&) { return StateResult::kDeviceInUse; };
    }
    c.Start(initiator, ProposePromote(false));
    c.Settle();
    const bool want = refuser < 0 || refuser == initiator;
    ASSERT_EQ(c[initiator].finished == StateResult::kSuccess, want) << seed;
    if (want) {
      ASSERT_EQ(c[initiator].coordinator.members(), (NodeMask{1} << nodes) - 1) << seed;
    }
    for (int i = 0; i < nodes; ++i) {
      ASSERT_EQ(c[i].applied.size(), want ? 1u : 0u) << seed << " node " << i;
      ASSERT_FALSE(c[i].participant.active()) << seed << " node " << i;
      ASSERT_FALSE(c[i].timer) << seed << " node " << i;
    }
  }
}

// With losses at any moment, everybody is free again once the timers have run, nobody applies what
// was never committed, and nobody applies twice.
TEST(TwoPhaseCommit, LossesLeaveNobodyStuck) {
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    std::mt19937_64 random(seed);
    Cluster c = Mesh(4, seed);
    c.Start(static_cast<int>(random() % 4), ProposePromote(false));
    for (int round = 0; round < 12; ++round) {
      for (uint64_t steps = random() % 3; steps > 0; --steps) c.Step();
      const int a = static_cast<int>(random() % 4);
      const int b = static_cast<int>(random() % 4);
      if (a != b && random() % 3 == 0 && Contains(c[a].direct, b)) c.Cut(a, b);
    }
    c.Settle();
    c.FireAll();
    bool success = false;
    for (int i = 0; i < 4; ++i) success = success || c[i].finished == StateResult::kSuccess;
    for (int i = 0; i < 4; ++i) {
      ASSERT_FALSE(c[i].participant.active()) << seed;
      ASSERT_FALSE(c[i].coordinator.active()) << seed;
      ASSERT_LE(c[i].applied.size(), success ? 1u : 0u) << seed;
    }
  }
}

// --- Connect handshake ---

SyncDecision Decision(SyncVerdict verdict, SyncDirection direction = SyncDirection::kNone) {
  SyncDecision d;
  d.verdict = verdict;
  d.direction = direction;
  return d;
}

TEST(ConnectHandshake, PacketsBeforeThePrepareDoNotCount) {
  ConnectHandshake h;
  EXPECT_EQ(h.state(), HandshakeState::kNotNeeded);
  EXPECT_FALSE(h.OnUuids(0));
  EXPECT_FALSE(h.OnState(0));
  h.Begin({0});
  EXPECT_EQ(h.state(), HandshakeState::kPending);
  EXPECT_FALSE(h.OnState(0)) << "UUIDs come first";
  EXPECT_TRUE(h.OnUuids(0));
  EXPECT_TRUE(h.OnState(0));
  h.OnDecision(0, Decision(SyncVerdict::kProceed));
  EXPECT_EQ(h.state(), HandshakeState::kReady);
}

TEST(ConnectHandshake, EveryVolumeIsWaitedFor) {
  ConnectHandshake h;
  h.Begin({0, 7});
  h.OnUuids(0);
  h.OnDecision(0, Decision(SyncVerdict::kProceed));
  EXPECT_EQ(h.state(), HandshakeState::kPending);
  EXPECT_FALSE(h.OnUuids(3)) << "a volume only the peer has";
  h.OnUuids(7);
  h.OnDecision(7, Decision(SyncVerdict::kDisconnect));
  EXPECT_EQ(h.state(), HandshakeState::kWantsDisconnect);
}

TEST(ConnectHandshake, RepeatedStatesDoNotOverwrite) {
  ConnectHandshake h;
  h.Begin({0});
  h.OnUuids(0);
  h.OnDecision(0, Decision(SyncVerdict::kRetry));
  EXPECT_FALSE(h.OnState(0));
  h.OnDecision(0, Decision(SyncVerdict::kProceed));
  EXPECT_EQ(h.state(), HandshakeState::kWantsRetry);
  h.Begin({0});  // a new attempt starts over
  EXPECT_EQ(h.state(), HandshakeState::kPending);
}

TEST(ConnectHandshake, NoVolumesIsReadyAtOnce) {
  ConnectHandshake h;
  h.Begin({});
  EXPECT_EQ(h.state(), HandshakeState::kReady);
  h.OnRefused();
  EXPECT_EQ(h.state(), HandshakeState::kWantsDisconnect);
}

TEST(ConnectHandshake, TargetsAreOutdatedAfterAFailedConnect) {
  ConnectHandshake h;
  h.Begin({0, 1, 2});
  for (int v : {0, 1, 2}) h.OnUuids(v);
  h.OnDecision(0, Decision(SyncVerdict::kProceed, SyncDirection::kTarget));
  SyncDecision refused = Decision(SyncVerdict::kDisconnect);
  refused.would_be_target = true;
  h.OnDecision(1, refused);
  h.OnDecision(2, Decision(SyncVerdict::kProceed, SyncDirection::kSource));
  EXPECT_EQ(h.WouldBeTargets(), (std::vector<int>{0, 1}));
}

// 4.8, last table.
TEST(ConnectHandshake, FollowUp) {
  const auto policy = AfterSplitBrain::kDisconnect;
  const auto retry = AfterSplitBrain::kRetryConnect;
  EXPECT_EQ(AfterConnect(StateResult::kSuccess, policy, false), ConnectFollowUp::kConnected);
  EXPECT_EQ(AfterConnect(StateResult::kConcurrentStateChange, policy, false),
            ConnectFollowUp::kRetryIn50Ms);
  EXPECT_EQ(AfterConnect(StateResult::kTimeout, policy, false), ConnectFollowUp::kRetryIn50Ms);
  EXPECT_EQ(AfterConnect(StateResult::kHandshakeRetry, policy, false),
            ConnectFollowUp::kOutdateAndRetryIn1s);
  EXPECT_EQ(AfterConnect(StateResult::kHandshakeDisconnect, retry, false),
            ConnectFollowUp::kDisconnect);
  for (const auto code : {StateResult::kCwFailedByPeer, StateResult::kTwoPrimaries}) {
    EXPECT_EQ(AfterConnect(code, policy, false), ConnectFollowUp::kDisconnect);
    EXPECT_EQ(AfterConnect(code, retry, false), ConnectFollowUp::kOutdateAndRetryIn1s);
    EXPECT_EQ(AfterConnect(code, policy, true), ConnectFollowUp::kOutdateAndRetryIn1s);
  }
  EXPECT_EQ(AfterConnect(StateResult::kPrimaryReader, policy, false),
            ConnectFollowUp::kWaitForReaders);
  EXPECT_EQ(AfterConnect(StateResult::kNeedConnection, policy, false),
            ConnectFollowUp::kNetworkFailure);
  EXPECT_TRUE(StartsConnect(0, 1));
  EXPECT_FALSE(StartsConnect(1, 0));
}

}  // namespace
}  // namespace umblock::drbd
