#include "engine/drbd/state/two_phase_coordinator.h"

#include <algorithm>

#include "engine/base/assert.h"
#include "engine/drbd/state/membership.h"

namespace umblock::drbd {
namespace {

using Kind = TransactionAction::Kind;

void Add(TransactionActions& out, Kind kind, int node = kNoNode) {
  TransactionAction action;
  action.kind = kind;
  action.node = node;
  out.push_back(action);
}

// Both packets of the decision go to the same nodes.
void AddForEach(TransactionActions& out, Kind kind, NodeMask to, const TransactionCommit& commit) {
  for (int node : Nodes(to)) {
    Add(out, kind, node);
    out.back().transaction = commit.transaction;
    if (kind == Kind::kSendCommit) out.back().commit = commit;
  }
}

void AddTimer(TransactionActions& out, uint32_t milliseconds) {
  Add(out, Kind::kStartTimer);
  out.back().milliseconds = milliseconds;
}

bool HandshakeOpen(const CoordinatorFacts& now) {
  return now.handshake == HandshakeState::kPending || now.handshake == HandshakeState::kNotNeeded;
}

}  // namespace

NodeMask TwoPhaseCoordinator::DirectNow(const CoordinatorFacts& now) const {
  NodeMask direct = now.direct & ~NodeBit(self_);
  if (is_connect_) direct |= now.connecting & NodeBit(transaction_.proposal.target);
  return direct;
}

TransactionActions TwoPhaseCoordinator::Start(Transaction transaction,
                                              const CoordinatorFacts& now) {
  UMBLOCK_ASSERT(!active_, "one attempt at a time");
  UMBLOCK_ASSERT(transaction.id.initiator == self_ && transaction.id.tid != 0,
                 "a transaction of this node has a tid");
  *this = TwoPhaseCoordinator(self_, timing_);
  transaction_ = transaction;
  is_connect_ = transaction_.is_connect();
  is_disconnect_ = transaction_.is_disconnect();
  const int target = transaction_.proposal.target;
  const NodeMask direct = DirectNow(now);

  TransactionActions out;
  if (target != kNoNode && !Contains(direct, target)) {
    result_ = StateResult::kNeedConnection;
    Add(out, Kind::kFinished);
    out.back().result = result_;
    return out;
  }
  active_ = true;
  transaction_.nodes_to_reach = ~(direct | NodeBit(self_));
  reachable_ = direct | NodeBit(self_);
  target_reachable_ = reachable_;
  if (is_disconnect_) {
    target_reachable_ = NodeBit(target);
    reachable_ &= ~NodeBit(target);
  }
  if (direct == 0) return Finish(StateResult::kSuccess, now);

  prepared_ = direct;
  AddForEach(out, Kind::kSendPrepare, direct, TransactionCommit{.transaction = transaction_});
  for (int node : Nodes(direct)) Add(out, Kind::kPing, node);
  if (is_connect_) Add(out, Kind::kSendInitialStates, target);
  AddTimer(out, timing_.twopc_timeout_ms);
  return out;
}

TransactionActions TwoPhaseCoordinator::OnReply(int node, const TransactionReply& reply,
                                                const CoordinatorFacts& now) {
  if (!active_ || !IsNodeId(node) || reply.id != transaction_.id) return {};
  if (!Contains(prepared_ & ~answered_, node)) return {};
  answered_ |= NodeBit(node);
  switch (reply.vote) {
    case Vote::kNo:
      any_no_ = true;
      refused_by_ = node;
      break;
    case Vote::kRetry:
      any_retry_ = true;
      break;
    case Vote::kYes:
      (node == transaction_.proposal.target ? target_reachable_ : reachable_) |=
          reply.reachable_nodes;
      primary_ |= reply.primary_nodes;
      weak_ |= reply.weak_nodes;
      max_possible_size_ = std::min(max_possible_size_, reply.max_possible_size);
      break;
  }
  return DecideIfReady(now);
}

TransactionActions TwoPhaseCoordinator::OnPeerLost(int node, const CoordinatorFacts& now) {
  if (!active_ || !IsNodeId(node) || !Contains(prepared_, node)) return {};
  const bool target = is_connect_ && node == transaction_.proposal.target;
  target_lost_ = target_lost_ || target;
  if (target || !Contains(answered_, node)) any_retry_ = true;
  answered_ |= NodeBit(node);
  return DecideIfReady(now);
}

TransactionActions TwoPhaseCoordinator::OnSendFailed(int node, const CoordinatorFacts& now) {
  if (!active_ || !IsNodeId(node) || !Contains(prepared_ & ~answered_, node)) return {};
  prepared_ &= ~NodeBit(node);
  reachable_ &= ~NodeBit(node);
  if (node == transaction_.proposal.target) return Finish(StateResult::kNeedConnection, now);
  return DecideIfReady(now);
}

TransactionActions TwoPhaseCoordinator::OnHandshake(const CoordinatorFacts& now) {
  return active_ ? DecideIfReady(now) : TransactionActions{};
}

TransactionActions TwoPhaseCoordinator::OnAbortRequested(const CoordinatorFacts& now) {
  return active_ ? Finish(StateResult::kConcurrentStateChange, now) : TransactionActions{};
}

TransactionActions TwoPhaseCoordinator::OnTimeout(const CoordinatorFacts& now) {
  return active_ ? Finish(Verdict(now, StateResult::kTimeout), now) : TransactionActions{};
}

TransactionActions TwoPhaseCoordinator::OnInterrupted(const CoordinatorFacts& now) {
  return active_ ? Finish(StateResult::kInterrupted, now) : TransactionActions{};
}

// Step 10, first match.
StateResult TwoPhaseCoordinator::Verdict(const CoordinatorFacts& now,
                                         StateResult if_undecided) const {
  if (any_retry_) return StateResult::kConcurrentStateChange;
  if (is_connect_ && now.handshake == HandshakeState::kWantsRetry) {
    return StateResult::kHandshakeRetry;
  }
  if (is_connect_ && now.handshake == HandshakeState::kWantsDisconnect) {
    return StateResult::kHandshakeDisconnect;
  }
  if (any_no_) return StateResult::kCwFailedByPeer;
  if (now.size_error) return StateResult::kHandshakeDisconnect;
  return if_undecided;
}

// Step 9.
TransactionActions TwoPhaseCoordinator::DecideIfReady(const CoordinatorFacts& now) {
  if (any_retry_) {
    // The rest of the target's packets belongs to this attempt; do not leave it for the next one.
    if (is_connect_ && HandshakeOpen(now) && !target_lost_) {
      TransactionActions out;
      if (!waiting_for_states_) AddTimer(out, timing_.ping_timeout_ms);
      waiting_for_states_ = true;
      return out;
    }
    return Finish(StateResult::kConcurrentStateChange, now);
  }
  if (is_connect_ && HandshakeOpen(now)) return {};
  if (!any_no_ && (prepared_ & ~answered_) != 0) return {};
  return Finish(Verdict(now, StateResult::kSuccess), now);
}

// Step 11, first half.
void TwoPhaseCoordinator::CollectOwn(const CoordinatorFacts& now) {
  const bool change = transaction_.kind == TransactionKind::kStateChange;
  if (!change) max_possible_size_ = std::min(max_possible_size_, now.max_possible_size);
  const bool role_given = change && (transaction_.proposal.mask & wire::kRoleMask) != 0;
  const bool primary = role_given ? (transaction_.proposal.value & wire::kRoleMask) ==
                                        static_cast<uint32_t>(Role::kPrimary)
                                  : now.self_primary;
  if (!primary) return;
  if (!change && !now.self_has_disk) return;  // a resize counts diskful Primaries
  primary_ |= NodeBit(self_);
  if (!change || !now.data_accessible) return;
  NodeMask direct = DirectNow(now);
  if (is_disconnect_) direct &= ~NodeBit(transaction_.proposal.target);
  weak_ |= WeakNodesOfPrimary(self_, direct);
}

// Step 11, second half.
StateResult TwoPhaseCoordinator::CheckBeforeCommit(const CoordinatorFacts& now) const {
  if (transaction_.kind != TransactionKind::kStateChange) {
    return ExposedSize() < now.least_size ? StateResult::kHandshakeDisconnect
                                          : StateResult::kSuccess;
  }
  const ProposalKind kind =
      Interpret(transaction_.proposal.mask, transaction_.proposal.value, kNoVolume).kind;
  if (kind != ProposalKind::kPromote && kind != ProposalKind::kConnect) {
    return StateResult::kSuccess;
  }
  const StateResult distance = CheckPrimaryDistance(
      {self_, primary_, weak_, now.connections, now.allow_two_primaries, now.self_has_disk});
  if (!Succeeded(distance)) return distance;
  const int target = transaction_.proposal.target;
  if (is_connect_ && now.self_read_only_openers && Contains(primary_, target) &&
      !Contains(now.allow_two_primaries, target)) {
    return StateResult::kPrimaryReader;
  }
  return StateResult::kSuccess;
}

// Step 12.
void TwoPhaseCoordinator::CloseMembership() {
  if (is_disconnect_ && (reachable_ & target_reachable_) == 0) return;  // the cluster splits
  reachable_ |= target_reachable_;
  target_reachable_ = reachable_;
}

uint64_t TwoPhaseCoordinator::ExposedSize() const {
  const uint64_t user = transaction_.user_size;
  return user != 0 ? std::min(user, max_possible_size_) : max_possible_size_;
}

TransactionCommit TwoPhaseCoordinator::MakeCommit(const CoordinatorFacts& now) const {
  TransactionCommit commit;
  commit.transaction = transaction_;
  commit.transaction.nodes_to_reach = ~(DirectNow(now) | NodeBit(self_));
  commit.primary_nodes = primary_;
  commit.reachable_nodes = target_reachable_;
  commit.primaries_incapable = primary_ != 0 && weak_ == 0;
  if (transaction_.kind == TransactionKind::kResize) {
    commit.primaries_incapable = false;
    commit.exposed_size = ExposedSize();
  }
  return commit;
}

TransactionActions TwoPhaseCoordinator::Finish(StateResult result, const CoordinatorFacts& now) {
  if (!Succeeded(result)) return FinishFailure(result, now);
  CollectOwn(now);
  if (const StateResult check = CheckBeforeCommit(now); !Succeeded(check)) {
    return FinishFailure(check, now);
  }
  CloseMembership();
  const TransactionCommit commit = MakeCommit(now);
  primaries_incapable_ = commit.primaries_incapable;
  const NodeMask to = prepared_ == 0 ? 0 : DirectNow(now);
  const bool commit_first = transaction_.kind == TransactionKind::kStateChange &&
                            CommitBeforeLocal(transaction_.proposal);
  TransactionActions out;
  Add(out, Kind::kStopTimer);
  if (commit_first) AddForEach(out, Kind::kSendCommit, to, commit);
  Add(out, Kind::kApply);
  out.back().transaction = commit.transaction;
  out.back().commit = commit;
  if (!commit_first) AddForEach(out, Kind::kSendCommit, to, commit);
  active_ = false;
  result_ = StateResult::kSuccess;
  Add(out, Kind::kFinished);
  out.back().result = result_;
  return out;
}

// Step 13; ABORT also reaches whoever got a PREPARE while the target did not (step 15).
TransactionActions TwoPhaseCoordinator::FinishFailure(StateResult result,
                                                      const CoordinatorFacts& now) {
  TransactionActions out;
  Add(out, Kind::kStopTimer);
  TransactionCommit abort{.transaction = transaction_};
  const NodeMask direct = DirectNow(now);
  abort.transaction.nodes_to_reach = ~(direct | NodeBit(self_));
  AddForEach(out, Kind::kSendAbort, direct, abort);
  Add(out, Kind::kUndo);
  out.back().transaction = transaction_;
  active_ = false;
  result_ = result;
  Add(out, Kind::kFinished);
  out.back().result = result;
  return out;
}

}  // namespace umblock::drbd
