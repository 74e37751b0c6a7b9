#include "engine/drbd/state/two_phase_commit.h"

#include <algorithm>

namespace umblock::drbd {

bool Transaction::is_connect() const {
  return kind == TransactionKind::kStateChange &&
         Interpret(proposal.mask, proposal.value, proposal.volume).kind == ProposalKind::kConnect;
}

bool Transaction::is_disconnect() const {
  return kind == TransactionKind::kStateChange &&
         Interpret(proposal.mask, proposal.value, proposal.volume).kind ==
             ProposalKind::kDisconnect;
}

uint32_t RetryBackoffBoundMs(const TransactionTiming& timing, int connections, int retry) {
  const uint32_t factor = 1u << std::clamp(retry, 0, 5);
  return timing.twopc_retry_timeout_ms * static_cast<uint32_t>(std::max(connections, 1)) * factor;
}

uint32_t RetryBackoffMs(uint32_t bound_ms, uint32_t random) {
  return static_cast<uint32_t>(uint64_t{bound_ms} * random >> 32);
}

}  // namespace umblock::drbd
