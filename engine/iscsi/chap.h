// CHAP for iSCSI logins (RFC 7143 §12.1.3, RFC 1994): the target's side, one way or mutual.
//
// Hashes: MD5 (5), SHA-1 (6), SHA-256 (7), by OpenSSL; the strongest one that the initiator offers
// is taken. Pure but for the random challenge, which the caller draws.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/iscsi/text.h"

namespace umblock::iscsi {

// What an initiator must know to log in; with `mutual_user` set the target proves itself, too.
struct ChapCredentials {
  std::string user;
  std::string secret;
  std::string mutual_user;
  std::string mutual_secret;

  friend bool operator==(const ChapCredentials&, const ChapCredentials&) = default;
};

enum class ChapHash : uint8_t { kMd5 = 5, kSha1 = 6, kSha256 = 7 };

// H(identifier, secret, challenge).
std::string ChapResponse(ChapHash hash, uint8_t identifier, std::string_view secret,
                         std::string_view challenge);

class ChapExchange {
 public:
  static constexpr size_t kChallengeLength = 24;

  // `random`: 1 + kChallengeLength bytes, for the identifier and the challenge.
  ChapExchange(ChapCredentials credentials, std::string_view random);

  enum class Step {
    kContinue,  // answer what was appended and wait for more
    kDone,      // the initiator proved itself
    kRefused,   // it did not, or broke the protocol
  };
  // One login request of the security stage after AuthMethod=CHAP was chosen.
  Step Handle(const std::vector<TextPair>& pairs, std::string* answer);

 private:
  Step Choose(std::string_view algorithms, std::string* answer);
  Step Check(const std::vector<TextPair>& pairs, std::string* answer);

  ChapCredentials credentials_;
  uint8_t identifier_;
  std::string challenge_;
  std::optional<ChapHash> hash_;
};

}  // namespace umblock::iscsi
