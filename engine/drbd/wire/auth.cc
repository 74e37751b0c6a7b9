#include "engine/drbd/wire/auth.h"

#include <openssl/crypto.h>
#include <openssl/hmac.h>

#include <algorithm>

#include "engine/drbd/wire/openssl_digest.h"

namespace umblock::drbd::wire {
namespace {

constexpr size_t kMaxChallengeBytes = 128;  // what 8.4 accepts; everybody sends 64

}  // namespace

Result<AuthResponse> ComputeAuthResponse(std::string_view hmac_alg, std::string_view secret,
                                         Bytes challenge, int agreed_protocol, uint32_t node_id) {
  if (challenge.empty() || challenge.size() > kMaxChallengeBytes) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "an authentication challenge has 1 to {} bytes, not {}", kMaxChallengeBytes,
                     challenge.size());
  }
  if (secret.size() > kMaxSharedSecretBytes) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "the shared secret has {} characters, at most {} are possible", secret.size(),
                     kMaxSharedSecretBytes);
  }
  const internal::EvpMd md = internal::FetchDigest(hmac_alg);
  if (md == nullptr) {
    return MakeError(ErrorCode::kUnimplemented,
                     "cram-hmac-alg '{}' is not known here; md5, sha1, sha256 and sha512 are",
                     hmac_alg);
  }
  std::array<std::byte, kMaxChallengeBytes + sizeof(uint32_t)> message;
  std::ranges::copy(challenge, message.begin());
  size_t message_size = challenge.size();
  if (agreed_protocol >= kProtocolFirst9) {
    StoreBe(message.data() + message_size, node_id);
    message_size += sizeof node_id;
  }
  AuthResponse response;
  unsigned size = 0;
  const auto* done = HMAC(md.get(), secret.data(), static_cast<int>(secret.size()),
                          reinterpret_cast<const unsigned char*>(message.data()), message_size,
                          reinterpret_cast<unsigned char*>(response.bytes.data()), &size);
  if (done == nullptr) {
    return MakeError(ErrorCode::kInternal, "OpenSSL cannot compute hmac({})", hmac_alg);
  }
  response.size = size;
  return response;
}

bool AuthResponseMatches(const AuthResponse& expected, Bytes received) {
  return received.size() == expected.size &&
         CRYPTO_memcmp(expected.bytes.data(), received.data(), expected.size) == 0;
}

}  // namespace umblock::drbd::wire
