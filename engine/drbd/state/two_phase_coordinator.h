// The initiator's side of one cluster-wide transaction (drbd-states.md 4.2).
//
// Local refusals (step 1) come before: the caller has evaluated the change with full soft checks.
// One object is one attempt with one tid; a retry is a new attempt after RetryBackoffMs. Refusals
// end in kUndo, then kFinished.
#pragma once

#include <cstdint>

#include "engine/drbd/state/two_phase_commit.h"

namespace umblock::drbd {

// What this node knows at the moment of an event. All masks hold node ids.
struct CoordinatorFacts {
  NodeMask direct = 0;      // cstate Connected, agreed version >= 110; without self
  NodeMask connecting = 0;  // cstate Connecting, past the features and P_PROTOCOL
  bool self_primary = false;
  bool data_accessible = false;  // some own volume's data is accessible
  bool self_has_disk = false;
  NodeMask connections = 0;          // configured connections
  NodeMask allow_two_primaries = 0;  // those with allow-two-primaries
  bool self_read_only_openers = false;
  HandshakeState handshake = HandshakeState::kNotNeeded;
  // Resize: how large the own volume could be, and the least result worth committing (below it the
  // peers lack room), sectors.
  uint64_t max_possible_size = ~uint64_t{0};
  uint64_t least_size = 0;
  bool size_error = false;  // the sizes exchanged in the handshake do not fit
};

class TwoPhaseCoordinator {
 public:
  TwoPhaseCoordinator(int self, TransactionTiming timing) : self_(self), timing_(timing) {}

  // Steps 4 to 8. `transaction.id.initiator` must be self. The result may already be final:
  // -15 if the target is not there, a local commit if nobody is connected.
  TransactionActions Start(Transaction transaction, const CoordinatorFacts& now);

  // A reply that does not match the running attempt, or a second one, is ignored.
  TransactionActions OnReply(int node, const TransactionReply& reply, const CoordinatorFacts& now);
  // `now` no longer contains the lost node.
  TransactionActions OnPeerLost(int node, const CoordinatorFacts& now);
  // The send of the PREPARE to `node` failed.
  TransactionActions OnSendFailed(int node, const CoordinatorFacts& now);
  // The handshake state in `now` changed.
  TransactionActions OnHandshake(const CoordinatorFacts& now);
  // A participant must serve a lower initiator first (4.3); ends with -19.
  TransactionActions OnAbortRequested(const CoordinatorFacts& now);
  TransactionActions OnTimeout(const CoordinatorFacts& now);
  TransactionActions OnInterrupted(const CoordinatorFacts& now);

  bool active() const { return active_; }
  StateResult result() const { return result_; }
  int refused_by() const { return refused_by_; }  // the peer that answered NO
  const Transaction& transaction() const { return transaction_; }
  NodeMask reachable() const { return reachable_; }
  NodeMask primary_nodes() const { return primary_; }
  NodeMask weak_nodes() const { return weak_; }
  // Resize: what all who voted could hold, sectors.
  uint64_t max_possible_size() const { return max_possible_size_; }
  // After a commit: what becomes the member mask of this node (6.5). The COMMIT itself carries the
  // target's side, which differs when a disconnect splits the cluster (14.1).
  NodeMask members() const { return reachable_; }

 private:
  NodeMask DirectNow(const CoordinatorFacts& now) const;
  StateResult Verdict(const CoordinatorFacts& now, StateResult if_undecided) const;
  TransactionActions DecideIfReady(const CoordinatorFacts& now);
  TransactionActions Finish(StateResult result, const CoordinatorFacts& now);
  TransactionActions FinishFailure(StateResult result, const CoordinatorFacts& now);
  void CollectOwn(const CoordinatorFacts& now);
  StateResult CheckBeforeCommit(const CoordinatorFacts& now) const;
  void CloseMembership();
  uint64_t ExposedSize() const;
  TransactionCommit MakeCommit(const CoordinatorFacts& now) const;

  int self_;
  TransactionTiming timing_;
  bool active_ = false;
  StateResult result_ = StateResult::kUnknownError;
  Transaction transaction_;
  bool is_connect_ = false;
  bool is_disconnect_ = false;
  NodeMask prepared_ = 0;  // got the PREPARE
  NodeMask answered_ = 0;  // of these, whoever voted
  NodeMask reachable_ = 0;
  NodeMask target_reachable_ = 0;
  NodeMask primary_ = 0;
  NodeMask weak_ = 0;
  bool primaries_incapable_ = false;
  uint64_t max_possible_size_ = ~uint64_t{0};
  bool any_no_ = false;
  bool any_retry_ = false;
  bool target_lost_ = false;
  bool waiting_for_states_ = false;  // RETRY of a connect: the target's states may still come
  int refused_by_ = kNoNode;
};

}  // namespace umblock::drbd
