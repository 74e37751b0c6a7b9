#include "engine/drbd/wire/testing/pcapng_reader.h"

#include <gtest/gtest.h>

#include <vector>

#include "engine/drbd/wire/testing/capture_reader.h"
#include "engine/drbd/wire/testing/hex.h"

namespace umblock::drbd::wire::testing {
namespace {

// Section header, an interface with nanosecond time stamps, one packet of 3 bytes.
constexpr const char* kSection = "0a0d0d0a 1c000000 4d3c2b1a 01000000 ffffffffffffffff 1c000000";
constexpr const char* kInterface =
    "01000000 20000000 0100 0000 00000400 0900 0100 09000000 00000000 20000000";
constexpr const char* kPacket =
    "06000000 24000000 00000000 01000000 02000000 03000000 03000000 aabbcc00 24000000";

std::vector<std::byte> File(std::initializer_list<const char*> blocks) {
  std::vector<std::byte> all;
  for (const char* block : blocks) {
    const auto bytes = Hex(block);
    all.insert(all.end(), bytes.begin(), bytes.end());
  }
  return all;
}

TEST(PcapngFile, ReadsPackets) {
  const auto file = PcapngFile::Parse(File({kSection, kInterface, kPacket, kPacket}));
  ASSERT_TRUE(file.has_value()) << file.error().message();
  ASSERT_EQ(file->frames().size(), 2u);
  EXPECT_EQ(file->frames()[0].time_ns, (int64_t{1} << 32) + 2);
  EXPECT_EQ(ToHex(file->frames()[0].data), "aabbcc");
}

TEST(PcapngFile, MicrosecondsAreTheDefault) {
  const auto file =
      PcapngFile::Parse(File({kSection, "01000000 14000000 0100 0000 00000400 14000000", kPacket}));
  ASSERT_TRUE(file.has_value());
  EXPECT_EQ(file->frames()[0].time_ns, ((int64_t{1} << 32) + 2) * 1000);
}

TEST(PcapngFile, BadFiles) {
  EXPECT_FALSE(PcapngFile::Parse(Hex("00000000")).has_value());
  EXPECT_FALSE(PcapngFile::Parse(Hex("0a0d0d0a 1c000000 1a2b3c4d (12 x 00) 1c000000")).has_value())
      << "big endian";
  EXPECT_FALSE(PcapngFile::Parse(File({kSection, kPacket})).has_value()) << "no interface";
  auto cut = File({kSection, kInterface, kPacket});
  cut.pop_back();
  EXPECT_FALSE(PcapngFile::Parse(cut).has_value());
  EXPECT_FALSE(PcapngFile::Read("/nonexistent").has_value());
  EXPECT_FALSE(Capture::Read("/nonexistent").has_value());
  EXPECT_FALSE(ReadCapturedCounts("/nonexistent").has_value());
}

}  // namespace
}  // namespace umblock::drbd::wire::testing
