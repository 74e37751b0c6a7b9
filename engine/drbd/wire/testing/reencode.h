// Decode a packet by its type and encode what came out again: the property that capture tests and
// fuzzers check. Tests only.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/drbd/wire/header.h"
#include "engine/drbd/wire/twopc_packets.h"

namespace umblock::drbd::wire::testing {

// The payload as this code would send it. Bytes behind a fixed part (digest, data, bitmap) are
// carried over. kInvalidArgument if the payload does not decode; kUnimplemented for types without
// a codec of their own (P_SYNC_PARAM, P_DELAY_PROBE).
Result<std::vector<std::byte>> ReencodePayload(const Header& header, Bytes payload,
                                               TwoPcLayout layout);

// `payload` with the bytes that a receiver must ignore set to zero, as an own sender writes them:
//   pads of block requests and block descriptions (8.4 leaves garbage there, 5.2), of P_BARRIER,
//   P_CONFIRM_STABLE, P_PEERS_IN_SYNC, P_OV_RESULT_ID, P_ENABLE_REPLICATION*, of a V2 two-phase
//   commit request, the reserved part of the features
//   (and a protocol_max of 0 replaced by what it means), what follows the NUL of a name; and
//   history UUIDs beyond 32 are cut off.
std::vector<std::byte> MaskIgnored(const Header& header, Bytes payload, TwoPcLayout layout);

}  // namespace umblock::drbd::wire::testing
