// The login phase (RFC 7143 §6.3, §11.12, §11.13) as a state machine: one login request in, one
// login response out. Pure: names and secrets come from a LoginAuthority, random bytes from the
// caller. What surrounds it (time limit, sockets, taking over an older session) is the server's.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/iscsi/chap.h"
#include "engine/iscsi/parameters.h"
#include "engine/iscsi/pdu.h"
#include "engine/iscsi/text.h"

namespace umblock::iscsi {

// Status-Class << 8 | Status-Detail (§11.13.5).
enum class LoginStatus : uint16_t {
  kSuccess = 0x0000,
  kInitiatorError = 0x0200,
  kAuthenticationFailed = 0x0201,
  kForbidden = 0x0202,
  kNotFound = 0x0203,
  kTargetRemoved = 0x0204,
  kUnsupportedVersion = 0x0205,
  kTooManyConnections = 0x0206,
  kMissingParameter = 0x0207,
  kCannotInclude = 0x0208,
  kSessionTypeNotSupported = 0x0209,
  kSessionDoesNotExist = 0x020a,
  kInvalidRequest = 0x020b,
  kTargetError = 0x0300,
  kServiceUnavailable = 0x0301,
  kOutOfResources = 0x0302,
};

class LoginAuthority {
 public:
  virtual ~LoginAuthority() = default;

  struct Decision {
    LoginStatus status = LoginStatus::kSuccess;
    std::optional<ChapCredentials> chap;  // what the initiator must prove; none: nothing
  };
  // May `initiator` log in to `target` (both normalized)? An empty target: a discovery session.
  virtual Decision MayLogIn(std::string_view initiator, std::string_view target) = 0;
};

class LoginExchange {
 public:
  // Longest data segment of a login request, and of all requests chained with the C bit, bytes.
  static constexpr uint32_t kMaxRequest = 8192;
  static constexpr size_t kMaxChained = 65536;

  using RandomFn = std::function<void(MutableBytes)>;

  LoginExchange(LoginAuthority& authority, const ParameterLimits& limits, RandomFn random);
  ~LoginExchange();

  struct Reply {
    LoginStatus status = LoginStatus::kSuccess;
    uint8_t flags = 0;  // byte 1 of the response: T, CSG, NSG
    std::string text;
    bool finished = false;  // after this response: full feature phase
  };
  Reply Handle(const Bhs& request, std::string_view data);

  // When finished: asks the authority again, as its rules may have changed since it was asked.
  // Whether what the initiator proved is enough for those of now.
  LoginStatus Recheck();

  // Valid when finished.
  const std::string& initiator_name() const { return initiator_; }
  const std::string& target_name() const { return target_; }  // empty: discovery
  bool discovery() const { return discovery_; }
  const SessionParameters& params() const;
  std::string initiator_alias() const { return alias_; }

 private:
  enum class Stage : uint8_t { kSecurity = 0, kOperational = 1, kFullFeature = 3 };

  Reply Fail(LoginStatus status);
  LoginStatus Identify(const std::vector<TextPair>& pairs);
  LoginStatus HandleSecurity(const std::vector<TextPair>& pairs, std::string* answer);
  LoginStatus HandleOperational(const std::vector<TextPair>& pairs, std::string* answer);
  static bool IsIdentification(std::string_view key);

  LoginAuthority& authority_;
  ParameterLimits limits_;
  RandomFn random_;
  bool identified_ = false;
  bool discovery_ = false;
  bool authenticated_ = false;
  bool tag_sent_ = false;
  bool method_answered_ = false;
  std::optional<Stage> stage_;
  std::string initiator_, target_, alias_;
  std::optional<ChapCredentials> required_;
  std::optional<ChapExchange> chap_;
  std::optional<OperationalKeys> keys_;
  std::string chained_;
};

}  // namespace umblock::iscsi
