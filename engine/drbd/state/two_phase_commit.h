// The two-phase commit of DRBD 9 (drbd-states.md part D, drbd-wire.md 5.8): values shared by the
// initiator's and the participant's side.
//
// Both sides are state machines without I/O or clock: an event and the present facts go in, a list
// of actions comes out, to be carried out in its order. Packets are dialect-free here; the layout
// (V1 or V2) is chosen per connection when an action is sent.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/drbd/state/node_mask.h"
#include "engine/drbd/state/proposal.h"
#include "engine/drbd/state/state_result.h"

namespace umblock::drbd {

struct TransactionId {
  int initiator = kNoNode;
  uint32_t tid = 0;  // random, not 0
  bool operator==(const TransactionId&) const = default;
};

enum class TransactionKind : uint8_t { kStateChange, kResize };

// What is proposed: the content of P_TWOPC_PREPARE or P_TWOPC_PREP_RSZ.
struct Transaction {
  TransactionId id;
  TransactionKind kind = TransactionKind::kStateChange;
  Proposal proposal;            // target and volume of either kind; mask and value of a change
  uint64_t user_size = 0;       // resize, sectors
  uint16_t dds_flags = 0;       // resize
  NodeMask nodes_to_reach = 0;  // as received, or as to be sent

  bool is_connect() const;
  bool is_disconnect() const;
  bool operator==(const Transaction&) const = default;
};

// The decision: the content of P_TWOPC_COMMIT. An abort carries only the transaction.
struct TransactionCommit {
  Transaction transaction;
  NodeMask primary_nodes = 0;  // resize: diskful primaries
  NodeMask reachable_nodes = 0;
  bool has_reachable = true;  // V1 layouts carry mask and value instead
  bool primaries_incapable = false;
  uint64_t exposed_size = 0;  // resize, sectors
  bool operator==(const TransactionCommit&) const = default;
};

enum class Vote : uint8_t { kYes, kNo, kRetry };

// P_TWOPC_YES, _NO, _RETRY.
struct TransactionReply {
  TransactionId id;
  Vote vote = Vote::kYes;
  NodeMask reachable_nodes = 0;
  NodeMask primary_nodes = 0;  // resize: diskful primaries
  NodeMask weak_nodes = 0;
  uint64_t max_possible_size = 0;  // resize, sectors
  bool operator==(const TransactionReply&) const = default;
};

struct TransactionTiming {
  uint32_t twopc_timeout_ms = 30'000;
  uint32_t twopc_retry_timeout_ms = 100;
  uint32_t ping_timeout_ms = 500;
};

// One thing to do. Which members are meant depends on `kind`.
struct TransactionAction {
  enum class Kind : uint8_t {
    kSendPrepare,        // to `node`: `transaction` (nodes_to_reach already set)
    kPing,               // to `node`, so that a dead one is noticed soon
    kSendCommit,         // to `node`: `commit`
    kSendAbort,          // to `node`: `transaction`
    kSendReply,          // to `node`: `reply`, to `transaction`
    kSendInitialStates,  // connect: the per-volume packets to `node` (4.8)
    kCheckLocally,       // check `transaction` in prepare mode, then OnLocalVote
    kApply,              // apply the change: `commit`
    kUndo,               // forget what was prepared
    kStartTimer,         // `milliseconds` from now: OnTimeout
    kStopTimer,
    kStartDeferTimer,  // `milliseconds` from now: OnDeferTimeout(node)
    kStopDeferTimer,   // of `node`
    kAbortOwn,         // ask the own transaction to end with -19
    kFinished,         // initiator: `result` is final for this attempt
  };
  Kind kind = Kind::kFinished;
  int node = kNoNode;
  Transaction transaction;
  TransactionCommit commit;
  TransactionReply reply;
  uint32_t milliseconds = 0;
  StateResult result = StateResult::kUnknownError;
};
using TransactionActions = std::vector<TransactionAction>;

// What the connect handshake says at this moment (4.8, connect_handshake.h).
enum class HandshakeState : uint8_t { kNotNeeded, kPending, kReady, kWantsRetry, kWantsDisconnect };

// 4.2 step 13: the upper bound T of the random pause before retry n (0-based).
uint32_t RetryBackoffBoundMs(const TransactionTiming& timing, int connections_at_least_connecting,
                             int retry);
// The pause itself: uniform in [0, T) from 32 random bits.
uint32_t RetryBackoffMs(uint32_t bound_ms, uint32_t random);

}  // namespace umblock::drbd
