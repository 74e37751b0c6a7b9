#include "engine/drbd/wire/auth.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/drbd/wire/testing/hex.h"

namespace umblock::drbd::wire {
namespace {

using testing::Hex;
using testing::ToHex;

// Recorded responses are checked in the capture tests; these are test vectors of RFC 2202 and 4231.
TEST(Auth, HmacTestVectors) {
  const auto message = std::as_bytes(std::span(std::string_view("what do ya want for nothing?")));
  const auto sha1 = ComputeAuthResponse("sha1", "Jefe", message, 101, 5);
  ASSERT_TRUE(sha1.has_value());
  EXPECT_EQ(ToHex(sha1->view()), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
  const auto md5 = ComputeAuthResponse("md5", "Jefe", message, 101, 5);
  EXPECT_EQ(ToHex(md5->view()), "750c783e6ab0b503eaa86e310a5db738");
  const auto sha256 = ComputeAuthResponse("sha256", "Jefe", message, 101, 5);
  EXPECT_EQ(ToHex(sha256->view()),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

TEST(Auth, NodeIdIsPartOfTheMessageFrom110On) {
  const std::vector<std::byte> challenge(64, std::byte{0x5a});
  std::vector<std::byte> with_id = challenge;
  for (const auto b : Hex("00000001")) with_id.push_back(b);
  const auto v124 = ComputeAuthResponse("sha256", "secret", challenge, 124, 1);
  const auto v110 = ComputeAuthResponse("sha256", "secret", challenge, 110, 1);
  const auto v101 = ComputeAuthResponse("sha256", "secret", challenge, 101, 1);
  ASSERT_TRUE(v124 && v110 && v101);
  EXPECT_EQ(ToHex(v124->view()),
            ToHex(ComputeAuthResponse("sha256", "secret", with_id, 101, 0)->view()));
  EXPECT_EQ(ToHex(v124->view()), ToHex(v110->view()));
  EXPECT_NE(ToHex(v124->view()), ToHex(v101->view()));
  EXPECT_NE(ToHex(v124->view()),
            ToHex(ComputeAuthResponse("sha256", "secret", challenge, 124, 0)->view()));
  EXPECT_NE(ToHex(v124->view()),
            ToHex(ComputeAuthResponse("sha256", "secret2", challenge, 124, 1)->view()));
}

TEST(Auth, Comparison) {
  const std::vector<std::byte> challenge(64, std::byte{1});
  const auto expected = ComputeAuthResponse("sha1", "s", challenge, 124, 0);
  ASSERT_TRUE(expected.has_value());
  std::vector<std::byte> received(expected->view().begin(), expected->view().end());
  EXPECT_TRUE(AuthResponseMatches(*expected, received));
  received[19] ^= std::byte{0x80};
  EXPECT_FALSE(AuthResponseMatches(*expected, received));
  EXPECT_FALSE(AuthResponseMatches(*expected, expected->view().first(19)));
  EXPECT_FALSE(AuthResponseMatches(*expected, {}));
}

TEST(Auth, BadInput) {
  const std::vector<std::byte> challenge(64);
  EXPECT_EQ(ComputeAuthResponse("crc32c", "s", challenge, 124, 0).error().code(),
            ErrorCode::kUnimplemented);
  EXPECT_EQ(ComputeAuthResponse("nonsense", "s", challenge, 124, 0).error().code(),
            ErrorCode::kUnimplemented);
  EXPECT_EQ(ComputeAuthResponse("sha1", "s", {}, 124, 0).error().code(),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(ComputeAuthResponse("sha1", "s", std::vector<std::byte>(129), 124, 0).error().code(),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(ComputeAuthResponse("sha1", std::string(64, 'x'), challenge, 124, 0).error().code(),
            ErrorCode::kInvalidArgument);
  EXPECT_TRUE(ComputeAuthResponse("sha1", std::string(63, 'x'), challenge, 124, 0).has_value());
}

}  // namespace
}  // namespace umblock::drbd::wire
