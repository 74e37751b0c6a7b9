// Test support: nodes that run both sides of the two-phase commit and exchange their packets
// through queues, delivered in a random order drawn from a seed.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "engine/drbd/state/two_phase_coordinator.h"
#include "engine/drbd/state/two_phase_participant.h"

namespace umblock::drbd::testing {

using Kind = TransactionAction::Kind;
inline constexpr TransactionTiming kTiming;

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

inline Cluster Mesh(int nodes, uint64_t seed = 1) {
  Cluster cluster(nodes, seed);
  cluster.Mesh();
  return cluster;
}

}  // namespace umblock::drbd::testing
