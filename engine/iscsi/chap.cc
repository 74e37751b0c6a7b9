#include "engine/iscsi/chap.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <string>

#include "engine/base/assert.h"

namespace umblock::iscsi {
namespace {

// Longest challenge that is taken from an initiator (RFC 7143 §12.1.3: 1024 bytes).
constexpr size_t kMaxChallenge = 1024;

const EVP_MD* HashFunction(ChapHash hash) {
  switch (hash) {
    case ChapHash::kMd5:
      return EVP_md5();
    case ChapHash::kSha1:
      return EVP_sha1();
    default:
      return EVP_sha256();
  }
}

bool SameBytes(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace

std::string ChapResponse(ChapHash hash, uint8_t identifier, std::string_view secret,
                         std::string_view challenge) {
  std::string input(1, static_cast<char>(identifier));
  input.append(secret).append(challenge);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  // MD5 may be switched off by a system-wide policy: then nothing matches.
  if (EVP_Digest(input.data(), input.size(), digest, &length, HashFunction(hash), nullptr) != 1) {
    return {};
  }
  return std::string(reinterpret_cast<char*>(digest), length);
}

ChapExchange::ChapExchange(ChapCredentials credentials, std::string_view random)
    : credentials_(std::move(credentials)) {
  UMBLOCK_ASSERT(random.size() == 1 + kChallengeLength, "an identifier and a challenge");
  identifier_ = static_cast<uint8_t>(random[0]);
  challenge_ = random.substr(1);
}

ChapExchange::Step ChapExchange::Handle(const std::vector<TextPair>& pairs, std::string* answer) {
  if (!hash_) {
    std::optional<std::string_view> algorithms = FindKey(pairs, "CHAP_A");
    return algorithms ? Choose(*algorithms, answer) : Step::kContinue;
  }
  return Check(pairs, answer);
}

ChapExchange::Step ChapExchange::Choose(std::string_view algorithms, std::string* answer) {
  for (ChapHash hash : {ChapHash::kSha256, ChapHash::kSha1, ChapHash::kMd5}) {
    std::string number = std::to_string(static_cast<int>(hash));
    if (!ListNames(algorithms, number)) continue;
    if (ChapResponse(hash, 0, "", "").empty()) continue;  // not available here
    hash_ = hash;
    AppendText("CHAP_A", number, answer);
    AppendText("CHAP_I", std::to_string(identifier_), answer);
    AppendText("CHAP_C", FormatHex(challenge_), answer);
    return Step::kContinue;
  }
  return Step::kRefused;
}

ChapExchange::Step ChapExchange::Check(const std::vector<TextPair>& pairs, std::string* answer) {
  std::optional<std::string_view> name = FindKey(pairs, "CHAP_N");
  std::optional<std::string_view> response = FindKey(pairs, "CHAP_R");
  if (!name || !response) return Step::kRefused;
  std::optional<std::string> proof = ParseBinary(*response, EVP_MAX_MD_SIZE);
  std::string expected = ChapResponse(*hash_, identifier_, credentials_.secret, challenge_);
  if (!proof || expected.empty() || !SameBytes(*name, credentials_.user) ||
      !SameBytes(*proof, expected)) {
    return Step::kRefused;
  }
  std::optional<std::string_view> identifier = FindKey(pairs, "CHAP_I");
  std::optional<std::string_view> challenge = FindKey(pairs, "CHAP_C");
  if (!identifier && !challenge) return Step::kDone;
  if (!identifier || !challenge || credentials_.mutual_user.empty()) return Step::kRefused;
  std::optional<uint32_t> id = ParseNumber(*identifier);
  std::optional<std::string> theirs = ParseBinary(*challenge, kMaxChallenge);
  // Our own challenge coming back would make us compute the initiator's answer (§12.1.3).
  if (!id || *id > 255 || !theirs || SameBytes(*theirs, challenge_)) return Step::kRefused;
  AppendText("CHAP_N", credentials_.mutual_user, answer);
  AppendText("CHAP_R",
             FormatHex(ChapResponse(*hash_, static_cast<uint8_t>(*id), credentials_.mutual_secret,
                                    *theirs)),
             answer);
  return Step::kDone;
}

}  // namespace umblock::iscsi
