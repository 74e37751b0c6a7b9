// Challenge-response authentication (drbd-wire.md 4).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/drbd/wire/constants.h"

namespace umblock::drbd::wire {

struct AuthResponse {
  std::array<std::byte, kMaxDigestBytes> bytes{};
  size_t size = 0;

  Bytes view() const { return Bytes(bytes).first(size); }
};

// HMAC(secret, challenge [, node id]).
//   own answer:       the peer's challenge and the own node id
//   what is expected: the own challenge and the peer's node id
// `node_id` goes in from protocol 110 on. `hmac_alg` is a name as in digest.h with a keyed form
// (sha1, sha256, md5 …): kUnimplemented otherwise. `challenge` may have any length (8.4: 64..128).
Result<AuthResponse> ComputeAuthResponse(std::string_view hmac_alg, std::string_view secret,
                                         Bytes challenge, int agreed_protocol, uint32_t node_id);

// Compares in constant time.
bool AuthResponseMatches(const AuthResponse& expected, Bytes received);

}  // namespace umblock::drbd::wire
