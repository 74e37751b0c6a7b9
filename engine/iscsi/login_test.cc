#include "engine/iscsi/login.h"

#include <gtest/gtest.h>

#include <map>

namespace umblock::iscsi {
namespace {

class Directory final : public LoginAuthority {
 public:
  Decision MayLogIn(std::string_view initiator, std::string_view target) override {
    if (target.empty()) return {.chap = discovery_chap};
    if (target != "iqn.t:disk") return {.status = LoginStatus::kNotFound};
    if (initiator == "iqn.i:locked-out") return {.status = LoginStatus::kForbidden};
    return {.chap = chap};
  }
  std::optional<ChapCredentials> chap, discovery_chap;
};

class LoginTest : public ::testing::Test {
 protected:
  using Keys = std::vector<std::pair<std::string, std::string>>;

  LoginExchange::Reply Step(uint8_t flags, const Keys& keys) {
    Bhs header(Op::kLogin, flags);
    std::string text;
    for (const auto& [key, value] : keys) AppendText(key, value, &text);
    LoginExchange::Reply reply = exchange_.Handle(header, text);
    answers_.clear();
    auto pairs = ParseText(reply.text);
    EXPECT_TRUE(pairs);
    for (const TextPair& pair : *pairs) answers_[std::string(pair.key)] = pair.value;
    return reply;
  }
  Keys Hello() const { return {{"InitiatorName", "iqn.i:host"}, {"TargetName", "iqn.t:disk"}}; }
  Keys HelloAnd(Keys more) const {
    Keys keys = Hello();
    keys.insert(keys.end(), more.begin(), more.end());
    return keys;
  }

  Directory directory_;
  LoginExchange exchange_{directory_, ParameterLimits{}, [](MutableBytes bytes) {
                            for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte(i + 1);
                          }};
  std::map<std::string, std::string> answers_;
};

constexpr uint8_t kSecurityToOperational = 0x81, kOperationalToFull = 0x87, kSecurityToFull = 0x83,
                  kSecurityStay = 0x00, kOperationalStay = 0x04;

TEST_F(LoginTest, StraightToFullFeature) {
  auto reply = Step(kOperationalToFull, Hello());
  EXPECT_EQ(reply.status, LoginStatus::kSuccess);
  EXPECT_TRUE(reply.finished);
  EXPECT_EQ(reply.flags, kOperationalToFull);
  EXPECT_EQ(answers_["TargetPortalGroupTag"], "1");
  EXPECT_EQ(answers_["MaxRecvDataSegmentLength"], "262144");
  EXPECT_EQ(exchange_.initiator_name(), "iqn.i:host");
  EXPECT_EQ(exchange_.target_name(), "iqn.t:disk");
}

TEST_F(LoginTest, BothStages) {
  auto reply = Step(kSecurityToOperational, HelloAnd({{"AuthMethod", "None"}}));
  EXPECT_EQ(reply.flags, kSecurityToOperational);
  EXPECT_EQ(answers_["AuthMethod"], "None");
  EXPECT_FALSE(answers_.contains("MaxRecvDataSegmentLength"));
  reply = Step(kOperationalStay, {{"HeaderDigest", "CRC32C,None"}});
  EXPECT_FALSE(reply.finished);
  EXPECT_EQ(reply.flags, kOperationalStay);
  EXPECT_EQ(answers_["HeaderDigest"], "CRC32C");
  reply = Step(kOperationalToFull, {});
  EXPECT_TRUE(reply.finished);
  EXPECT_TRUE(exchange_.params().header_digest);
}

TEST_F(LoginTest, SecurityStageMayGoStraightOn) {
  auto reply = Step(kSecurityToFull, Hello());
  EXPECT_TRUE(reply.finished);
  // No operational stage: our receive length was not declared, the default holds.
  EXPECT_EQ(exchange_.params().target_max_data, 8192u);
}

TEST_F(LoginTest, NegotiatesDown) {
  Step(kOperationalToFull, HelloAnd({{"MaxConnections", "8"},
                                     {"ErrorRecoveryLevel", "2"},
                                     {"InitialR2T", "No"},
                                     {"ImmediateData", "Yes"},
                                     {"MaxBurstLength", "16776192"},
                                     {"FirstBurstLength", "131072"},
                                     {"MaxOutstandingR2T", "16"},
                                     {"MaxRecvDataSegmentLength", "65536"},
                                     {"DataPDUInOrder", "No"},
                                     {"DataSequenceInOrder", "No"},
                                     {"DefaultTime2Wait", "2"},
                                     {"DefaultTime2Retain", "20"},
                                     {"IFMarker", "No"},
                                     {"DataDigest", "Unknown,None"},
                                     {"X-com.example", "1"},
                                     {"TaskReporting", "FastAbort,RFC3720"},
                                     {"iSCSIProtocolLevel", "2"}}));
  EXPECT_EQ(answers_["MaxConnections"], "1");
  EXPECT_EQ(answers_["ErrorRecoveryLevel"], "0");
  EXPECT_EQ(answers_["InitialR2T"], "No");
  EXPECT_EQ(answers_["ImmediateData"], "Yes");
  EXPECT_EQ(answers_["MaxBurstLength"], "1048576");
  EXPECT_EQ(answers_["FirstBurstLength"], "131072");
  EXPECT_EQ(answers_["MaxOutstandingR2T"], "1");
  EXPECT_EQ(answers_["DataPDUInOrder"], "Yes");
  EXPECT_EQ(answers_["DataSequenceInOrder"], "Yes");
  EXPECT_EQ(answers_["DefaultTime2Wait"], "2");
  EXPECT_EQ(answers_["DefaultTime2Retain"], "0");
  EXPECT_EQ(answers_["IFMarker"], "No");
  EXPECT_EQ(answers_["DataDigest"], "None");
  EXPECT_EQ(answers_["X-com.example"], "NotUnderstood");
  EXPECT_EQ(answers_["TaskReporting"], "RFC3720");
  EXPECT_EQ(answers_["iSCSIProtocolLevel"], "1");
  EXPECT_EQ(exchange_.params().initiator_max_data, 65536u);
  EXPECT_EQ(exchange_.params().target_max_data, 262144u);
  EXPECT_FALSE(exchange_.params().initial_r2t);
}

TEST_F(LoginTest, FirstBurstStaysWithinMaxBurst) {
  Step(kOperationalToFull, HelloAnd({{"FirstBurstLength", "65536"}, {"MaxBurstLength", "4096"}}));
  EXPECT_EQ(exchange_.params().first_burst, 4096u);
}

TEST_F(LoginTest, BadValuesAreRejected) {
  Step(kOperationalStay, HelloAnd({{"MaxBurstLength", "511"},
                                   {"FirstBurstLength", "nothing"},
                                   {"InitialR2T", "Maybe"},
                                   {"HeaderDigest", "SHA1"}}));
  EXPECT_EQ(answers_["MaxBurstLength"], "Reject");
  EXPECT_EQ(answers_["FirstBurstLength"], "Reject");
  EXPECT_EQ(answers_["InitialR2T"], "Reject");
  EXPECT_EQ(answers_["HeaderDigest"], "Reject");
  EXPECT_EQ(exchange_.params().max_burst, SessionParameters{}.max_burst);
  // A declared value cannot be rejected: the login ends.
  EXPECT_EQ(Step(kOperationalStay, {{"MaxRecvDataSegmentLength", "100"}}).status,
            LoginStatus::kInitiatorError);
}

TEST_F(LoginTest, KeysAreNotNegotiatedTwice) {
  Step(kOperationalStay, HelloAnd({{"MaxBurstLength", "65536"}}));
  EXPECT_EQ(Step(kOperationalStay, {{"MaxBurstLength", "65536"}}).status,
            LoginStatus::kInitiatorError);
}

TEST_F(LoginTest, RefusalsSayWhy) {
  EXPECT_EQ(Step(kOperationalToFull, {{"TargetName", "iqn.t:disk"}}).status,
            LoginStatus::kMissingParameter);
  EXPECT_EQ(Step(kOperationalToFull, {{"InitiatorName", "iqn.i:host"}}).status,
            LoginStatus::kMissingParameter);
  EXPECT_EQ(Step(kOperationalToFull, {{"InitiatorName", "no name"}}).status,
            LoginStatus::kInitiatorError);
  EXPECT_EQ(
      Step(kOperationalToFull, {{"InitiatorName", "iqn.i:a"}, {"TargetName", "iqn.other"}}).status,
      LoginStatus::kNotFound);
  EXPECT_EQ(Step(kOperationalToFull,
                 {{"InitiatorName", "iqn.i:locked-out"}, {"TargetName", "IQN.T:disk"}})
                .status,
            LoginStatus::kForbidden);
  EXPECT_EQ(Step(kOperationalToFull, HelloAnd({{"SessionType", "Strange"}})).status,
            LoginStatus::kSessionTypeNotSupported);
}

TEST_F(LoginTest, StagesDoNotGoBackwards) {
  EXPECT_EQ(Step(0x80 | 1 << 2 | 0, Hello()).status, LoginStatus::kInvalidRequest);
  Step(kSecurityToOperational, Hello());
  EXPECT_EQ(Step(kSecurityStay, {}).status, LoginStatus::kInvalidRequest);
  EXPECT_EQ(Step(0x86, {}).status, LoginStatus::kInvalidRequest);  // stage 2 does not exist
}

TEST_F(LoginTest, ChainedRequestsAreJoinedAndBounded) {
  std::string text;
  for (const auto& [key, value] : Hello()) AppendText(key, value, &text);
  auto reply = exchange_.Handle(Bhs(Op::kLogin, kOperationalStay | kContinue), text.substr(0, 9));
  EXPECT_EQ(reply.status, LoginStatus::kSuccess);
  EXPECT_TRUE(reply.text.empty());
  reply = exchange_.Handle(Bhs(Op::kLogin, kOperationalToFull), text.substr(9));
  EXPECT_TRUE(reply.finished);
  LoginStatus status = LoginStatus::kSuccess;
  LoginExchange endless(directory_, {}, [](MutableBytes) {});
  for (int i = 0; i < 10 && status == LoginStatus::kSuccess; ++i) {
    status = endless.Handle(Bhs(Op::kLogin, kContinue), std::string(8192, 'x')).status;
  }
  EXPECT_EQ(status, LoginStatus::kInitiatorError);
}

TEST_F(LoginTest, DiscoveryNeedsNoTarget) {
  auto reply = Step(
      kOperationalToFull,
      {{"InitiatorName", "iqn.i:host"}, {"SessionType", "Discovery"}, {"MaxBurstLength", "65536"}});
  EXPECT_TRUE(reply.finished);
  EXPECT_TRUE(exchange_.discovery());
  EXPECT_FALSE(answers_.contains("TargetPortalGroupTag"));
  EXPECT_EQ(answers_["MaxBurstLength"], "Irrelevant");
}

class ChapLoginTest : public LoginTest {
 protected:
  ChapLoginTest() {
    directory_.chap = ChapCredentials{.user = "alice",
                                      .secret = "secret-of-alice",
                                      .mutual_user = "target",
                                      .mutual_secret = "secret-of-target"};
  }
  // Up to the challenge.
  void Begin(const std::string& hashes) {
    Step(kSecurityStay, HelloAnd({{"AuthMethod", "CHAP,None"}}));
    ASSERT_EQ(answers_["AuthMethod"], "CHAP");
    Step(kSecurityStay, {{"CHAP_A", hashes}});
  }
  std::string Response(ChapHash hash, const std::string& secret) {
    auto identifier = static_cast<uint8_t>(std::stoi(answers_["CHAP_I"]));
    std::string challenge = *ParseBinary(answers_["CHAP_C"], 1024);
    return FormatHex(ChapResponse(hash, identifier, secret, challenge));
  }
};

TEST_F(ChapLoginTest, GoodSecretPasses) {
  Begin("5,7");
  EXPECT_EQ(answers_["CHAP_A"], "7");  // the strongest
  auto reply =
      Step(kSecurityToOperational,
           {{"CHAP_N", "alice"}, {"CHAP_R", Response(ChapHash::kSha256, "secret-of-alice")}});
  EXPECT_EQ(reply.status, LoginStatus::kSuccess);
  EXPECT_EQ(reply.flags, kSecurityToOperational);
  EXPECT_TRUE(Step(kOperationalToFull, {}).finished);
}

TEST_F(ChapLoginTest, WrongSecretOrNameDoesNot) {
  Begin("5");
  EXPECT_EQ(answers_["CHAP_A"], "5");
  EXPECT_EQ(Step(kSecurityToOperational,
                 {{"CHAP_N", "alice"}, {"CHAP_R", Response(ChapHash::kMd5, "wrong")}})
                .status,
            LoginStatus::kAuthenticationFailed);
}

TEST_F(ChapLoginTest, WrongNameDoesNot) {
  Begin("5");
  EXPECT_EQ(Step(kSecurityToOperational,
                 {{"CHAP_N", "bob"}, {"CHAP_R", Response(ChapHash::kMd5, "secret-of-alice")}})
                .status,
            LoginStatus::kAuthenticationFailed);
}

TEST_F(ChapLoginTest, NobodyGetsAroundIt) {
  EXPECT_EQ(Step(kOperationalToFull, Hello()).status, LoginStatus::kAuthenticationFailed);
}

TEST_F(ChapLoginTest, NoneIsNotEnough) {
  EXPECT_EQ(Step(kSecurityToOperational, HelloAnd({{"AuthMethod", "None"}})).status,
            LoginStatus::kAuthenticationFailed);
}

TEST_F(ChapLoginTest, SilenceIsNotEnough) {
  EXPECT_EQ(Step(kSecurityToFull, Hello()).status, LoginStatus::kAuthenticationFailed);
}

TEST_F(ChapLoginTest, TransitWithoutProofIsNotEnough) {
  Begin("7");
  EXPECT_EQ(Step(kSecurityToFull, {}).status, LoginStatus::kAuthenticationFailed);
}

TEST_F(ChapLoginTest, MutualProof) {
  Begin("7");
  std::string mine = "a challenge of the host's";
  Step(kSecurityToOperational, {{"CHAP_N", "alice"},
                                {"CHAP_R", Response(ChapHash::kSha256, "secret-of-alice")},
                                {"CHAP_I", "9"},
                                {"CHAP_C", FormatHex(mine)}});
  EXPECT_EQ(answers_["CHAP_N"], "target");
  EXPECT_EQ(answers_["CHAP_R"],
            FormatHex(ChapResponse(ChapHash::kSha256, 9, "secret-of-target", mine)));
}

TEST_F(ChapLoginTest, OurOwnChallengeIsNotAnswered) {
  Begin("7");
  EXPECT_EQ(
      Step(kSecurityToOperational, {{"CHAP_N", "alice"},
                                    {"CHAP_R", Response(ChapHash::kSha256, "secret-of-alice")},
                                    {"CHAP_I", "9"},
                                    {"CHAP_C", answers_["CHAP_C"]}})
          .status,
      LoginStatus::kAuthenticationFailed);
}

TEST_F(ChapLoginTest, UnknownHashes) {
  Step(kSecurityStay, HelloAnd({{"AuthMethod", "CHAP"}}));
  EXPECT_EQ(Step(kSecurityStay, {{"CHAP_A", "6000,8"}}).status, LoginStatus::kAuthenticationFailed);
}

// Computed with printf '\001secretchallenge' | md5sum.
TEST(Chap, ResponseIsTheHashOfIdentifierSecretChallenge) {
  EXPECT_EQ(FormatHex(ChapResponse(ChapHash::kMd5, 1, "secret", "challenge")),
            "0x46e47770030e2b4e26a0db72a7efec00");
}

}  // namespace
}  // namespace umblock::iscsi
