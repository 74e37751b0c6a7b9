#include "engine/drbd/wire/bitmap_code.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "engine/drbd/wire/testing/hex.h"

namespace umblock::drbd::wire {
namespace {

using testing::Hex;
using testing::ToHex;

TEST(BitmapCode, LengthsOfCodes) {
  // drbd-metadata-resync.md 11.3, 3.
  const std::pair<uint64_t, int> kBits[] = {{1, 2}, {2, 2},   {3, 3},   {4, 3},   {5, 5},
                                            {9, 7}, {17, 10}, {49, 14}, {305, 21}};
  for (const auto& [run, bits] : kBits) EXPECT_EQ(CodeOfRun(run).count, bits) << run;
  // 11.3, 4: a run of 64.
  EXPECT_EQ(CodeOfRun(64).bits, 0x3dfu);
  EXPECT_EQ(CodeOfRun(64).count, 14);
}

TEST(BitmapCode, EndsOfEveryLevel) {
  // drbd-wire.md 5.9.5.
  struct Level {
    uint64_t min, max;
    int bits;
  };
  const Level kLevels[] = {{1, 2, 2},
                           {3, 4, 3},
                           {5, 8, 5},
                           {9, 16, 7},
                           {17, 48, 10},
                           {49, 304, 14},
                           {305, 8496, 21},
                           {8497, 2105648, 29},
                           {2105649, 17181974832, 42},
                           {17181974833, 72057611219902768, 64}};
  for (const Level& level : kLevels) {
    for (const uint64_t run : {level.min, level.min + 1, (level.min + level.max) / 2, level.max}) {
      if (run > level.max) continue;
      const RunCode code = CodeOfRun(run);
      EXPECT_EQ(code.count, level.bits) << run;
      std::array<std::byte, 9> buffer;
      RunWriter writer(buffer);
      ASSERT_TRUE(writer.Append(code));
      RunReader reader(Bytes(buffer).first(writer.bytes()), writer.pad_bits());
      EXPECT_EQ(reader.Next(), run);
      EXPECT_TRUE(reader.AtEnd());
    }
  }
}

TEST(BitmapCode, SequencesAtEveryBitPosition) {
  // Runs of 2 bits shift what follows through all bit positions.
  for (int shift = 0; shift < 9; ++shift) {
    std::array<std::byte, 64> buffer;
    RunWriter writer(buffer);
    std::vector<uint64_t> runs(static_cast<size_t>(shift), 1);
    for (const uint64_t run : {17181974833u + 12345, uint64_t{3}, kMaxCodedRun, uint64_t{300}}) {
      runs.push_back(run);
    }
    for (const uint64_t run : runs) ASSERT_TRUE(writer.Append(CodeOfRun(run)));
    RunReader reader(Bytes(buffer).first(writer.bytes()), writer.pad_bits());
    for (const uint64_t run : runs) EXPECT_EQ(reader.Next(), run) << shift;
    EXPECT_TRUE(reader.AtEnd());
  }
}

TEST(BitmapCode, FullBufferRefusesAndStaysAsItIs) {
  std::array<std::byte, 2> buffer;
  RunWriter writer(buffer);
  ASSERT_TRUE(writer.Append(CodeOfRun(64)));  // 14 bits
  EXPECT_FALSE(writer.Append(CodeOfRun(3)));  // 3 bits
  EXPECT_EQ(writer.bits(), 14u);
  EXPECT_EQ(writer.pad_bits(), 2);
  ASSERT_TRUE(writer.Append(CodeOfRun(2)));  // 2 bits
  EXPECT_EQ(writer.bytes(), 2u);
  EXPECT_EQ(writer.pad_bits(), 0);
  EXPECT_EQ(ToHex(buffer), "df83");
}

TEST(BitmapCode, CutOffCodes) {
  std::array<std::byte, 8> buffer;
  RunWriter writer(buffer);
  ASSERT_TRUE(writer.Append(CodeOfRun(kMaxCodedRun)));
  for (size_t bytes = 1; bytes < 8; ++bytes) {
    EXPECT_EQ(RunReader(Bytes(buffer).first(bytes), 0).Next(), std::nullopt) << bytes;
  }
  EXPECT_EQ(RunReader(buffer, 1).Next(), std::nullopt);
  EXPECT_EQ(RunReader(buffer, 0).Next(), kMaxCodedRun);
  EXPECT_EQ(RunReader(Hex("00"), 7).Next(), std::nullopt) << "one bit is no code";
}

}  // namespace
}  // namespace umblock::drbd::wire
