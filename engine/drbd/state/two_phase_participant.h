// The participant's side of cluster-wide transactions of one resource (drbd-states.md 4.3): at most
// one remote transaction is ongoing at a time; others wait briefly or are answered RETRY.
//
// Bounded: one deferred PREPARE per connection, 32 connections.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "engine/drbd/state/two_phase_commit.h"

namespace umblock::drbd {

struct ParticipantFacts {
  NodeMask direct = 0;  // cstate Connected, agreed version >= 110; without self
  bool self_primary = false;
  bool data_accessible = false;  // as Primary, on some volume
  // The own transaction of this node, if one is under way.
  bool own_transaction = false;
  uint32_t own_tid = 0;
  uint64_t max_possible_size = 0;                         // resize: own maximum, sectors
  bool diskful_primary = false;                           // resize
  HandshakeState handshake = HandshakeState::kNotNeeded;  // of a connection to the initiator
};

// How an arriving PREPARE relates to what is going on (4.3, first table).
enum class PrepareClass : uint8_t {
  kAccept,
  kDuplicate,    // same initiator, same tid
  kWaitForOld,   // same initiator, other tid, from a new direction: wait, classify again once
  kYieldOwn,     // a lower initiator: the own transaction is asked to abort
  kRetry,        // answer RETRY
  kOwnCameBack,  // our own transaction over another route: YES
};

// Which rules check the proposal (4.3 step 3).
enum class ProposalScope : uint8_t { kPeerDevice, kConnection, kFarAway };
// `connected_to_initiator`: there is a connection object, Connected, or the change has a conn part.
ProposalScope ScopeOf(const Transaction& transaction, int self, bool connected_to_initiator);

class TwoPhaseParticipant {
 public:
  TwoPhaseParticipant(int self, TransactionTiming timing) : self_(self), timing_(timing) {}

  PrepareClass Classify(int from, const Transaction& incoming, const ParticipantFacts& now) const;

  TransactionActions OnPrepare(int from, const Transaction& incoming, const ParticipantFacts& now);
  // The verdict of the check asked for by kCheckLocally.
  TransactionActions OnLocalVote(StateResult verdict, const ParticipantFacts& now);
  TransactionActions OnSubReply(int from, const TransactionReply& reply,
                                const ParticipantFacts& now);
  TransactionActions OnHandshake(const ParticipantFacts& now);
  TransactionActions OnCommit(int from, const TransactionCommit& commit,
                              const ParticipantFacts& now);
  TransactionActions OnAbort(int from, const Transaction& aborted, const ParticipantFacts& now);
  // `now` no longer contains the lost node.
  TransactionActions OnPeerLost(int node, const ParticipantFacts& now);
  TransactionActions OnTimeout(const ParticipantFacts& now);
  // A deferred PREPARE of `node` waited long enough.
  TransactionActions OnDeferTimeout(int node, const ParticipantFacts& now);
  // The own transaction of this node ended: deferred PREPAREs are looked at again.
  TransactionActions OnOwnTransactionEnded(const ParticipantFacts& now);

  bool active() const { return active_; }  // blocks role changes, opens, own transactions
  bool deferring() const;
  const Transaction& transaction() const { return transaction_; }
  NodeMask parents() const { return parents_; }
  bool replied() const { return replied_; }

 private:
  struct Deferred {
    Transaction transaction;
    PrepareClass reason = PrepareClass::kRetry;
  };

  void Accept(int from, const Transaction& incoming, const ParticipantFacts& now,
              TransactionActions& out);
  void Forward(const ParticipantFacts& now, TransactionActions& out);
  void ReplyIfReady(const ParticipantFacts& now, TransactionActions& out);
  Vote FinalVote(const ParticipantFacts& now) const;
  TransactionReply OwnPart(const Transaction& incoming, const ParticipantFacts& now) const;
  void Refuse(int from, const Transaction& incoming, const ParticipantFacts& now,
              TransactionActions& out) const;
  void AbortLocally(NodeMask nodes_to_reach, const ParticipantFacts& now, TransactionActions& out);
  void Clear(const ParticipantFacts& now, TransactionActions& out);
  void ResumeDeferred(const ParticipantFacts& now, TransactionActions& out);
  bool HandshakeDecided(const ParticipantFacts& now) const;
  bool ConnectsMe() const;

  int self_;
  TransactionTiming timing_;
  bool active_ = false;
  Transaction transaction_;  // nodes_to_reach as received
  NodeMask parents_ = 0;
  bool local_vote_known_ = false;
  Vote local_vote_ = Vote::kYes;
  bool replied_ = false;
  TransactionReply reply_;  // what was or will be answered
  NodeMask asked_ = 0;      // forwarded to
  NodeMask answered_ = 0;
  bool sub_no_ = false;
  bool sub_retry_ = false;
  std::array<std::optional<Deferred>, kNodeIds> deferred_{};
};

}  // namespace umblock::drbd
