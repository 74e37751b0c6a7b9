#include "engine/iscsi/login.h"

#include <utility>

#include "engine/base/assert.h"

namespace umblock::iscsi {

LoginExchange::LoginExchange(LoginAuthority& authority, const ParameterLimits& limits,
                             RandomFn random)
    : authority_(authority), limits_(limits), random_(std::move(random)) {}

LoginExchange::~LoginExchange() = default;

const SessionParameters& LoginExchange::params() const {
  UMBLOCK_ASSERT(keys_.has_value(), "parameters exist once the initiator is known");
  return keys_->params();
}

LoginExchange::Reply LoginExchange::Fail(LoginStatus status) { return {.status = status}; }

bool LoginExchange::IsIdentification(std::string_view key) {
  return key == "InitiatorName" || key == "TargetName" || key == "SessionType" ||
         key == "InitiatorAlias" || key == "AuthMethod" || key.starts_with("CHAP_");
}

// The first request of a login says who wants what (§6.3).
LoginStatus LoginExchange::Identify(const std::vector<TextPair>& pairs) {
  std::optional<std::string_view> name = FindKey(pairs, "InitiatorName");
  if (!name) return LoginStatus::kMissingParameter;
  if (!ValidName(*name)) return LoginStatus::kInitiatorError;
  initiator_ = NormalizeName(*name);
  std::optional<std::string_view> type = FindKey(pairs, "SessionType");
  if (type && *type != "Normal" && *type != "Discovery") {
    return LoginStatus::kSessionTypeNotSupported;
  }
  discovery_ = type && *type == "Discovery";
  std::optional<std::string_view> target = FindKey(pairs, "TargetName");
  if (!discovery_) {
    if (!target) return LoginStatus::kMissingParameter;
    if (!ValidName(*target)) return LoginStatus::kNotFound;
    target_ = NormalizeName(*target);
  }
  if (auto alias = FindKey(pairs, "InitiatorAlias")) alias_ = alias->substr(0, 255);
  LoginAuthority::Decision decision = authority_.MayLogIn(initiator_, target_);
  if (decision.status != LoginStatus::kSuccess) return decision.status;
  required_ = std::move(decision.chap);
  authenticated_ = !required_.has_value();
  keys_.emplace(limits_, discovery_);
  identified_ = true;
  return LoginStatus::kSuccess;
}

LoginStatus LoginExchange::Recheck() {
  const LoginAuthority::Decision now = authority_.MayLogIn(initiator_, target_);
  if (now.status != LoginStatus::kSuccess || !now.chap) return now.status;
  const bool proved =
      required_ && required_->user == now.chap->user && required_->secret == now.chap->secret;
  return proved ? LoginStatus::kSuccess : LoginStatus::kAuthenticationFailed;
}

LoginStatus LoginExchange::HandleSecurity(const std::vector<TextPair>& pairs, std::string* answer) {
  if (chap_) {
    switch (chap_->Handle(pairs, answer)) {
      case ChapExchange::Step::kDone:
        authenticated_ = true;
        chap_.reset();
        break;
      case ChapExchange::Step::kRefused:
        return LoginStatus::kAuthenticationFailed;
      default:
        break;
    }
  } else if (auto methods = FindKey(pairs, "AuthMethod"); methods && !method_answered_) {
    method_answered_ = true;
    bool chap = required_ && ListNames(*methods, "CHAP");
    if (!chap && (required_ || !ListNames(*methods, "None"))) {
      return LoginStatus::kAuthenticationFailed;
    }
    AppendText("AuthMethod", chap ? "CHAP" : "None", answer);
    if (chap) {
      std::byte random[1 + ChapExchange::kChallengeLength];
      random_(random);
      chap_.emplace(*required_,
                    std::string_view(reinterpret_cast<const char*>(random), sizeof random));
    }
  }
  // Keys of the other stage have no place here, unknown ones are answered as such.
  for (const TextPair& pair : pairs) {
    if (!IsIdentification(pair.key)) AppendText(pair.key, "NotUnderstood", answer);
  }
  return LoginStatus::kSuccess;
}

LoginStatus LoginExchange::HandleOperational(const std::vector<TextPair>& pairs,
                                             std::string* answer) {
  if (!authenticated_) return LoginStatus::kAuthenticationFailed;
  for (const TextPair& pair : pairs) {
    if (IsIdentification(pair.key)) continue;
    if (!keys_->Offer(pair.key, pair.value, answer)) return LoginStatus::kInitiatorError;
  }
  keys_->Declare(answer);
  return LoginStatus::kSuccess;
}

LoginExchange::Reply LoginExchange::Handle(const Bhs& request, std::string_view data) {
  bool transit = (request.flags() & kTransit) != 0;
  bool more = (request.flags() & kContinue) != 0;
  uint8_t current = (request.flags() >> 2) & 3;
  uint8_t next = request.flags() & 3;
  if (request.U8(3) != 0) return Fail(LoginStatus::kUnsupportedVersion);  // Version-min
  if (current > 1 || (transit && more)) return Fail(LoginStatus::kInvalidRequest);
  if (!stage_) stage_ = static_cast<Stage>(current);
  if (static_cast<Stage>(current) != *stage_) return Fail(LoginStatus::kInvalidRequest);
  if (transit && (next <= current || next == 2)) return Fail(LoginStatus::kInvalidRequest);
  if (chained_.size() + data.size() > kMaxChained) return Fail(LoginStatus::kInitiatorError);
  chained_.append(data);
  if (more) return {.flags = static_cast<uint8_t>(current << 2)};

  std::string text = std::exchange(chained_, {});
  std::optional<std::vector<TextPair>> pairs = ParseText(text);
  if (!pairs) return Fail(LoginStatus::kInitiatorError);
  if (!identified_) {
    LoginStatus status = Identify(*pairs);
    if (status != LoginStatus::kSuccess) return Fail(status);
  }
  Reply reply;
  reply.status = *stage_ == Stage::kSecurity ? HandleSecurity(*pairs, &reply.text)
                                             : HandleOperational(*pairs, &reply.text);
  if (reply.status != LoginStatus::kSuccess) return Fail(reply.status);
  if (!discovery_ && !tag_sent_) {
    tag_sent_ = true;
    AppendText("TargetPortalGroupTag", "1", &reply.text);
  }
  reply.flags = static_cast<uint8_t>(current << 2);
  if (transit && authenticated_) {
    reply.flags |= kTransit | next;
    stage_ = static_cast<Stage>(next);
    reply.finished = *stage_ == Stage::kFullFeature;
  } else if (transit && *stage_ == Stage::kSecurity && required_ && !chap_) {
    return Fail(LoginStatus::kAuthenticationFailed);  // it wants to go on without proving itself
  }
  return reply;
}

}  // namespace umblock::iscsi
