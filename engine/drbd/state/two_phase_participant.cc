#include "engine/drbd/state/two_phase_participant.h"

#include <algorithm>

#include "engine/drbd/state/membership.h"

namespace umblock::drbd {
namespace {

using Kind = TransactionAction::Kind;

TransactionAction& Add(TransactionActions& out, Kind kind, int node = kNoNode) {
  TransactionAction action;
  action.kind = kind;
  action.node = node;
  out.push_back(action);
  return out.back();
}

// The layout of a reply depends on what it answers.
void AddReply(TransactionActions& out, int to, const Transaction& answers,
              const TransactionReply& reply) {
  TransactionAction& action = Add(out, Kind::kSendReply, to);
  action.transaction = answers;
  action.reply = reply;
}

// Which neighbours still have to hear of it, and what is left for them to reach.
struct Forwarding {
  NodeMask to = 0;
  NodeMask nodes_to_reach = 0;
};
Forwarding ForwardTo(int self, NodeMask direct, NodeMask nodes_to_reach) {
  const NodeMask to = direct & nodes_to_reach & ~NodeBit(self);
  return {to, nodes_to_reach & ~to & ~NodeBit(self)};
}

void SendAborts(int self, NodeMask direct, Transaction transaction, TransactionActions& out) {
  const Forwarding forward = ForwardTo(self, direct, transaction.nodes_to_reach);
  transaction.nodes_to_reach = forward.nodes_to_reach;
  for (int node : Nodes(forward.to)) Add(out, Kind::kSendAbort, node).transaction = transaction;
}

}  // namespace

ProposalScope ScopeOf(const Transaction& transaction, int self, bool connected_to_initiator) {
  const int target = transaction.proposal.target;
  if ((target != kNoNode && target != self) || !connected_to_initiator) {
    return ProposalScope::kFarAway;
  }
  return transaction.proposal.volume == kNoVolume ? ProposalScope::kConnection
                                                  : ProposalScope::kPeerDevice;
}

bool TwoPhaseParticipant::ConnectsMe() const {
  return transaction_.is_connect() && transaction_.proposal.target == self_;
}

bool TwoPhaseParticipant::deferring() const {
  return std::ranges::any_of(deferred_, [](const auto& entry) { return entry.has_value(); });
}

PrepareClass TwoPhaseParticipant::Classify(int from, const Transaction& incoming,
                                           const ParticipantFacts& now) const {
  const int initiator = incoming.id.initiator;
  if (initiator == self_) {
    return now.own_transaction && incoming.id.tid == now.own_tid ? PrepareClass::kOwnCameBack
                                                                 : PrepareClass::kRetry;
  }
  if (active_) {
    if (initiator != transaction_.id.initiator) return PrepareClass::kRetry;
    if (incoming.id.tid == transaction_.id.tid) return PrepareClass::kDuplicate;
    return Contains(parents_, from) ? PrepareClass::kRetry : PrepareClass::kWaitForOld;
  }
  if (now.own_transaction) {
    return initiator < self_ ? PrepareClass::kYieldOwn : PrepareClass::kRetry;
  }
  return PrepareClass::kAccept;
}

// 4.3 step 1.
TransactionReply TwoPhaseParticipant::OwnPart(const Transaction& incoming,
                                              const ParticipantFacts& now) const {
  TransactionReply reply;
  reply.id = incoming.id;
  reply.reachable_nodes = now.direct | NodeBit(self_);
  if (incoming.is_connect()) reply.reachable_nodes |= NodeBit(incoming.id.initiator);
  if (incoming.is_disconnect()) reply.reachable_nodes &= ~NodeBit(incoming.id.initiator);
  if (incoming.kind == TransactionKind::kResize) {
    if (now.diskful_primary) reply.primary_nodes = NodeBit(self_);
    reply.max_possible_size = now.max_possible_size;
  } else if (now.self_primary) {
    reply.primary_nodes = NodeBit(self_);
    if (now.data_accessible) reply.weak_nodes = ~reply.reachable_nodes;
  }
  return reply;
}

void TwoPhaseParticipant::Refuse(int from, const Transaction& incoming, const ParticipantFacts& now,
                                 TransactionActions& out) const {
  TransactionReply reply = OwnPart(incoming, now);
  reply.vote = Vote::kRetry;
  AddReply(out, from, incoming, reply);
}

TransactionActions TwoPhaseParticipant::OnPrepare(int from, const Transaction& incoming,
                                                  const ParticipantFacts& now) {
  TransactionActions out;
  if (!IsNodeId(from)) return out;
  const PrepareClass what = Classify(from, incoming, now);
  switch (what) {
    case PrepareClass::kAccept:
      Accept(from, incoming, now, out);
      break;
    case PrepareClass::kDuplicate:
      parents_ |= NodeBit(from);
      if (replied_) {
        AddReply(out, from, transaction_, reply_);
      } else {
        if (Contains(asked_, from)) answered_ |= NodeBit(from);  // it has prepared it too
        ReplyIfReady(now, out);
      }
      break;
    case PrepareClass::kWaitForOld:
    case PrepareClass::kYieldOwn: {
      deferred_[static_cast<size_t>(from)] = Deferred{incoming, what};
      const bool yield = what == PrepareClass::kYieldOwn;
      Add(out, Kind::kStartDeferTimer, from).milliseconds =
          yield ? timing_.ping_timeout_ms * 3 / 2 : timing_.twopc_timeout_ms / 20;
      if (yield) Add(out, Kind::kAbortOwn);
      break;
    }
    case PrepareClass::kRetry:
      Refuse(from, incoming, now, out);
      break;
    case PrepareClass::kOwnCameBack:
      AddReply(out, from, incoming, OwnPart(incoming, now));
      break;
  }
  return out;
}

void TwoPhaseParticipant::Accept(int from, const Transaction& incoming, const ParticipantFacts& now,
                                 TransactionActions& out) {
  active_ = true;
  transaction_ = incoming;
  parents_ = NodeBit(from);
  local_vote_known_ = false;
  local_vote_ = Vote::kYes;
  replied_ = false;
  reply_ = OwnPart(incoming, now);
  asked_ = answered_ = 0;
  sub_no_ = sub_retry_ = false;
  Add(out, Kind::kStartTimer).milliseconds = timing_.twopc_timeout_ms;
  // Both sides of a connect need each other's states before either can decide.
  if (ConnectsMe()) Add(out, Kind::kSendInitialStates, incoming.id.initiator);
  // Step 2: a dead connection to the initiator must not be taken for a live one.
  const bool affects_me = incoming.proposal.target == kNoNode || incoming.proposal.target == self_;
  if (affects_me && from != incoming.id.initiator && Contains(now.direct, incoming.id.initiator)) {
    Add(out, Kind::kPing, incoming.id.initiator);
  }
  Add(out, Kind::kCheckLocally).transaction = incoming;
}

TransactionActions TwoPhaseParticipant::OnLocalVote(StateResult verdict,
                                                    const ParticipantFacts& now) {
  TransactionActions out;
  if (!active_ || local_vote_known_) return out;
  local_vote_known_ = true;
  if (verdict == StateResult::kInTransientState) {
    local_vote_ = Vote::kRetry;  // at once, nobody else is asked
  } else {
    local_vote_ = Succeeded(verdict) ? Vote::kYes : Vote::kNo;
    Forward(now, out);
  }
  ReplyIfReady(now, out);
  return out;
}

// Step 6.
void TwoPhaseParticipant::Forward(const ParticipantFacts& now, TransactionActions& out) {
  const Forwarding forward = ForwardTo(self_, now.direct, transaction_.nodes_to_reach);
  asked_ = forward.to & ~parents_;
  Transaction onward = transaction_;
  onward.nodes_to_reach = forward.nodes_to_reach;
  for (int node : Nodes(asked_)) Add(out, Kind::kSendPrepare, node).transaction = onward;
  for (int node : Nodes(asked_)) Add(out, Kind::kPing, node);
}

bool TwoPhaseParticipant::HandshakeDecided(const ParticipantFacts& now) const {
  if (!ConnectsMe()) return true;
  return now.handshake == HandshakeState::kReady || now.handshake == HandshakeState::kWantsRetry ||
         now.handshake == HandshakeState::kWantsDisconnect;
}

Vote TwoPhaseParticipant::FinalVote(const ParticipantFacts& now) const {
  const bool connects = ConnectsMe();
  if (sub_retry_ || local_vote_ == Vote::kRetry ||
      (connects && now.handshake == HandshakeState::kWantsRetry)) {
    return Vote::kRetry;
  }
  if (sub_no_ || local_vote_ == Vote::kNo ||
      (connects && now.handshake == HandshakeState::kWantsDisconnect)) {
    return Vote::kNo;
  }
  return Vote::kYes;
}

// Step 7.
void TwoPhaseParticipant::ReplyIfReady(const ParticipantFacts& now, TransactionActions& out) {
  if (!active_ || replied_ || !local_vote_known_) return;
  const bool at_once = local_vote_ == Vote::kRetry;
  if (!at_once && ((asked_ & ~answered_) != 0 || !HandshakeDecided(now))) return;
  replied_ = true;
  reply_.vote = FinalVote(now);
  for (int node : Nodes(parents_)) AddReply(out, node, transaction_, reply_);
}

TransactionActions TwoPhaseParticipant::OnSubReply(int from, const TransactionReply& reply,
                                                   const ParticipantFacts& now) {
  TransactionActions out;
  if (!active_ || !IsNodeId(from) || reply.id != transaction_.id) return out;
  if (!Contains(asked_ & ~answered_, from)) return out;
  answered_ |= NodeBit(from);
  sub_no_ = sub_no_ || reply.vote == Vote::kNo;
  sub_retry_ = sub_retry_ || reply.vote == Vote::kRetry;
  if (reply.vote == Vote::kYes) {
    reply_.reachable_nodes |= reply.reachable_nodes;
    reply_.primary_nodes |= reply.primary_nodes;
    reply_.weak_nodes |= reply.weak_nodes;
    reply_.max_possible_size = std::min(reply_.max_possible_size, reply.max_possible_size);
  }
  ReplyIfReady(now, out);
  return out;
}

TransactionActions TwoPhaseParticipant::OnHandshake(const ParticipantFacts& now) {
  TransactionActions out;
  ReplyIfReady(now, out);
  return out;
}

TransactionActions TwoPhaseParticipant::OnCommit(int /*from*/, const TransactionCommit& commit,
                                                 const ParticipantFacts& now) {
  TransactionActions out;
  if (!active_ || commit.transaction.id != transaction_.id) return out;
  // V2 packets do not repeat what was prepared: it is taken from the record.
  TransactionCommit full = commit;
  full.transaction = transaction_;
  full.transaction.nodes_to_reach = commit.transaction.nodes_to_reach;
  const Forwarding forward = ForwardTo(self_, now.direct, commit.transaction.nodes_to_reach);
  TransactionAction& apply = Add(out, Kind::kApply);
  apply.transaction = full.transaction;
  apply.commit = full;
  full.transaction.nodes_to_reach = forward.nodes_to_reach;
  for (int node : Nodes(forward.to)) {
    TransactionAction& send = Add(out, Kind::kSendCommit, node);
    send.transaction = full.transaction;
    send.commit = full;
  }
  Clear(now, out);
  return out;
}

TransactionActions TwoPhaseParticipant::OnAbort(int from, const Transaction& aborted,
                                                const ParticipantFacts& now) {
  TransactionActions out;
  if (IsNodeId(from)) {
    auto& waiting = deferred_[static_cast<size_t>(from)];
    if (waiting && waiting->transaction.id == aborted.id) {
      waiting.reset();
      Add(out, Kind::kStopDeferTimer, from);
    }
  }
  if (!active_ || aborted.id != transaction_.id) {
    SendAborts(self_, now.direct, aborted, out);  // others may still wait for it
    return out;
  }
  AbortLocally(aborted.nodes_to_reach, now, out);
  return out;
}

void TwoPhaseParticipant::AbortLocally(NodeMask nodes_to_reach, const ParticipantFacts& now,
                                       TransactionActions& out) {
  Add(out, Kind::kUndo).transaction = transaction_;
  Transaction onward = transaction_;
  onward.nodes_to_reach = nodes_to_reach;
  SendAborts(self_, now.direct, onward, out);
  Clear(now, out);
}

void TwoPhaseParticipant::Clear(const ParticipantFacts& now, TransactionActions& out) {
  active_ = false;
  parents_ = 0;
  Add(out, Kind::kStopTimer);
  ResumeDeferred(now, out);
}

TransactionActions TwoPhaseParticipant::OnPeerLost(int node, const ParticipantFacts& now) {
  TransactionActions out;
  if (!IsNodeId(node)) return out;
  if (auto& waiting = deferred_[static_cast<size_t>(node)]; waiting) {
    waiting.reset();
    Add(out, Kind::kStopDeferTimer, node);
  }
  if (!active_) return out;
  if (Contains(asked_ & ~answered_, node)) {
    answered_ |= NodeBit(node);
    sub_retry_ = true;
  }
  parents_ &= ~NodeBit(node);
  if (parents_ == 0 && !Contains(now.direct, transaction_.id.initiator)) {
    AbortLocally(kAllNodes, now, out);  // nobody is left to bring the verdict
  } else {
    ReplyIfReady(now, out);
  }
  return out;
}

TransactionActions TwoPhaseParticipant::OnTimeout(const ParticipantFacts& now) {
  TransactionActions out;
  // Everybody gives up by itself (4.4): nothing is forwarded.
  if (active_) AbortLocally(0, now, out);
  return out;
}

TransactionActions TwoPhaseParticipant::OnDeferTimeout(int node, const ParticipantFacts& now) {
  TransactionActions out;
  if (!IsNodeId(node)) return out;
  auto& waiting = deferred_[static_cast<size_t>(node)];
  if (!waiting) return out;
  const Transaction incoming = waiting->transaction;
  waiting.reset();
  if (Classify(node, incoming, now) == PrepareClass::kAccept) {
    Accept(node, incoming, now, out);
  } else {
    Refuse(node, incoming, now, out);
  }
  return out;
}

TransactionActions TwoPhaseParticipant::OnOwnTransactionEnded(const ParticipantFacts& now) {
  TransactionActions out;
  ResumeDeferred(now, out);
  return out;
}

// The lowest initiator first; a PREPARE that cannot be taken now is answered RETRY.
void TwoPhaseParticipant::ResumeDeferred(const ParticipantFacts& now, TransactionActions& out) {
  while (!active_ && deferring()) {
    int best = kNoNode;
    for (int node = 0; node < kNodeIds; ++node) {
      const auto& entry = deferred_[static_cast<size_t>(node)];
      if (!entry) continue;
      if (best == kNoNode || entry->transaction.id.initiator <
                                 deferred_[static_cast<size_t>(best)]->transaction.id.initiator) {
        best = node;
      }
    }
    const Transaction incoming = deferred_[static_cast<size_t>(best)]->transaction;
    const PrepareClass what = Classify(best, incoming, now);
    if (what == PrepareClass::kYieldOwn) return;  // the own one has not ended yet
    deferred_[static_cast<size_t>(best)].reset();
    Add(out, Kind::kStopDeferTimer, best);
    if (what == PrepareClass::kAccept) {
      Accept(best, incoming, now, out);
    } else {
      Refuse(best, incoming, now, out);
    }
  }
  // The same transaction over other routes, deferred too: those are parents now.
  for (int node = 0; active_ && node < kNodeIds; ++node) {
    auto& entry = deferred_[static_cast<size_t>(node)];
    if (!entry || entry->transaction.id != transaction_.id) continue;
    parents_ |= NodeBit(node);
    entry.reset();
    Add(out, Kind::kStopDeferTimer, node);
  }
}

}  // namespace umblock::drbd
