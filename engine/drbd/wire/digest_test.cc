#include "engine/drbd/wire/digest.h"

#include <gtest/gtest.h>

#include <array>
#include <numeric>
#include <string>
#include <vector>

#include "engine/drbd/wire/constants.h"
#include "engine/drbd/wire/testing/hex.h"

namespace umblock::drbd::wire {
namespace {

using testing::Hex;
using testing::ToHex;

Bytes AsBytes(std::string_view text) { return std::as_bytes(std::span(text)); }

std::string DigestOf(Digest& digest, Bytes data) {
  std::array<std::byte, kMaxDigestBytes> out;
  digest.Update(data);
  digest.Finish(out);
  return ToHex(Bytes(out).first(digest.size()));
}

TEST(Digest, KnownAnswers) {
  struct Case {
    const char* name;
    const char* of_123456789;
    const char* of_nothing;
  };
  // The check string of the CRC catalogue; crc32 without the final inversion, as the kernel has it.
  const Case kCases[] = {
      {"crc32c", "839206e3", "00000000"},
      {"crc32", "882dfd2d", "00000000"},
      {"md5", "25f9e794323b453885f5181f1b624d0b", "d41d8cd98f00b204e9800998ecf8427e"},
      {"sha1", "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
       "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
      {"sha256", "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
       "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"xxhash64", "83aee640db41b88c", "99e9d85137db46ef"},
  };
  for (const Case& c : kCases) {
    auto digest = Digest::Create(c.name);
    ASSERT_TRUE(digest.has_value()) << c.name;
    EXPECT_EQ(DigestOf(*digest, AsBytes("123456789")), c.of_123456789) << c.name;
    EXPECT_EQ(DigestOf(*digest, {}), c.of_nothing) << c.name << " starts over";
    EXPECT_EQ(DigestOf(*digest, AsBytes("123456789")), c.of_123456789) << c.name;
  }
}

TEST(Digest, SizesOfAllNames) {
  const std::pair<const char*, size_t> kSizes[] = {
      {"crc32c", 4},    {"crc32", 4},     {"md5", 16},     {"sha1", 20},       {"sha224", 28},
      {"sha256", 32},   {"sha384", 48},   {"sha512", 64},  {"sha3-224", 28},   {"sha3-256", 32},
      {"sha3-384", 48}, {"sha3-512", 64}, {"xxhash64", 8}, {"blake2b-512", 64}};
  for (const auto& [name, size] : kSizes) {
    auto digest = Digest::Create(name);
    ASSERT_TRUE(digest.has_value()) << name;
    EXPECT_EQ(digest->size(), size) << name;
  }
}

TEST(Digest, RefusesUnknownNames) {
  EXPECT_EQ(Digest::Create("").error().code(), ErrorCode::kInvalidArgument);
  for (const char* name : {"crc32c-generic", "SHA1", "sha-1", "md4", "crc32c "}) {
    const auto digest = Digest::Create(name);
    ASSERT_FALSE(digest.has_value()) << name;
    EXPECT_EQ(digest.error().code(), ErrorCode::kUnimplemented);
    EXPECT_NE(digest.error().message().find(name), std::string::npos);
  }
}

TEST(Digest, PiecesAreTheSameAsTheWhole) {
  std::vector<std::byte> data(10007);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 131 >> 3);
  for (const char* name : {"crc32c", "crc32", "sha1", "xxhash64"}) {
    auto digest = Digest::Create(name);
    ASSERT_TRUE(digest.has_value());
    const std::string whole = DigestOf(*digest, data);
    std::vector<iovec> pieces;
    for (size_t at = 0, size = 0; at < data.size(); at += size, size = size * 2 + 1) {
      size = std::min(size, data.size() - at);
      pieces.push_back({data.data() + at, size});
    }
    digest->Update(pieces);
    std::array<std::byte, kMaxDigestBytes> out;
    digest->Finish(out);
    EXPECT_EQ(ToHex(Bytes(out).first(digest->size())), whole) << name;

    EXPECT_TRUE(digest->Matches(pieces, Bytes(out).first(digest->size())));
    EXPECT_FALSE(digest->Matches(pieces, Bytes(out).first(digest->size() - 1)));
    out[0] ^= std::byte{1};
    EXPECT_FALSE(digest->Matches(pieces, Bytes(out).first(digest->size()))) << name;
  }
}

}  // namespace
}  // namespace umblock::drbd::wire
