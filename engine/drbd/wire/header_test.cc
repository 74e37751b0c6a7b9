#include "engine/drbd/wire/header.h"

#include <gtest/gtest.h>

#include <array>

#include "engine/drbd/wire/testing/hex.h"

namespace umblock::drbd::wire {
namespace {

using testing::Hex;
using testing::ToHex;

std::string Encoded(const Header& header) {
  std::array<std::byte, kMaxHeaderSize> buffer;
  return ToHex(Bytes(buffer).first(EncodeHeader(header, buffer)));
}

TEST(Header, TheThreeForms) {
  struct Case {
    const char* bytes;
    Header header;
  };
  const Case kCases[] = {
      {"83740267fff20000", {PacketType::kInitialData, 0, 0, HeaderKind::kH80}},
      {"83740267fffe0048", {PacketType::kConnectionFeatures, 0, 72, HeaderKind::kH80}},
      {"835a000000010018", {PacketType::kData, 0, 0x10018, HeaderKind::kH95}},
      {"8620ec20ffff002e0000002400000000",
       {PacketType::kTwopcPrepare, kNoVolume, 36, HeaderKind::kH100}},
      {"8620ec20fffe00000010001800000000",
       {PacketType::kData, kMaxVolume, 0x100018, HeaderKind::kH100}},
      {"8620ec200000ffff0000000000000000",
       {static_cast<PacketType>(0xffff), 0, 0, HeaderKind::kH100}},
  };
  for (const Case& c : kCases) {
    const auto bytes = Hex(c.bytes);
    const auto header = DecodeHeader(bytes);
    ASSERT_TRUE(header.has_value()) << c.bytes;
    EXPECT_EQ(*header, c.header) << c.bytes;
    EXPECT_EQ(header->size(), bytes.size());
    EXPECT_EQ(IdentifyHeader(bytes), c.header.kind);
    EXPECT_EQ(Encoded(c.header), c.bytes);
  }
}

TEST(Header, IncompleteIsNotAnError) {
  const auto bytes = Hex("8620ec20 ffff 0013 00000000 00000000");
  for (size_t n = 0; n < bytes.size(); ++n) {
    const auto header = DecodeHeader(Bytes(bytes).first(n));
    ASSERT_FALSE(header.has_value());
    EXPECT_EQ(header.error(), HeaderError::kIncomplete) << n;
    EXPECT_EQ(IdentifyHeader(Bytes(bytes).first(n)).has_value(), n >= kMinHeaderSize);
  }
}

TEST(Header, BadMagicAndPadding) {
  EXPECT_EQ(DecodeHeader(Hex("8620ec21 ffff 0013 00000000 00000000")).error(),
            HeaderError::kBadMagic);
  EXPECT_EQ(DecodeHeader(Hex("83740268 fff2 0000")).error(), HeaderError::kBadMagic);
  EXPECT_EQ(DecodeHeader(Hex("(16 x 00)")).error(), HeaderError::kBadMagic);
  EXPECT_EQ(DecodeHeader(Hex("8620ec20 ffff 0013 00000000 00000001")).error(),
            HeaderError::kBadPadding);
  EXPECT_EQ(IdentifyHeader(Hex("474554202f204854")), std::nullopt);
  for (const auto error :
       {HeaderError::kIncomplete, HeaderError::kBadMagic, HeaderError::kBadPadding}) {
    EXPECT_GT(HeaderErrorText(error).size(), 10u);
  }
}

TEST(Header, WhichFormIsSent) {
  EXPECT_EQ(HeaderKindFor(124, PacketType::kConnectionFeatures, 72), HeaderKind::kH80);
  EXPECT_EQ(HeaderKindFor(124, PacketType::kInitialMeta, 0), HeaderKind::kH80);
  EXPECT_EQ(HeaderKindFor(124, PacketType::kPing, 0), HeaderKind::kH100);
  EXPECT_EQ(HeaderKindFor(101, PacketType::kData, 4120), HeaderKind::kH100);
  EXPECT_EQ(HeaderKindFor(0, PacketType::kPingAck, 0), HeaderKind::kH80);
  EXPECT_EQ(HeaderKindFor(96, PacketType::kData, 32760), HeaderKind::kH80);
  EXPECT_EQ(HeaderKindFor(96, PacketType::kData, 32761), HeaderKind::kH95);
  EXPECT_EQ(HeaderKindFor(94, PacketType::kData, 32792), HeaderKind::kH80);
}

}  // namespace
}  // namespace umblock::drbd::wire
