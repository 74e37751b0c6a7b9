#include "engine/scsi/sense.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace umblock::scsi {
namespace {

TEST(Sense, FixedFormat) {
  std::byte out[kMaxSenseLength];
  size_t length = EncodeSense(kLbaOutOfRange.WithInformation(0x01020304), false, out);
  EXPECT_EQ(length, 18u);
  EXPECT_EQ(out[0], std::byte{0xf0});
  EXPECT_EQ(out[2], std::byte{0x05});
  EXPECT_EQ(LoadBe<uint32_t>(&out[3]), 0x01020304u);
  EXPECT_EQ(out[7], std::byte{10});
  EXPECT_EQ(out[12], std::byte{0x21});
  EXPECT_EQ(out[13], std::byte{0x00});
}

TEST(Sense, FixedFormatLeavesOutWhatDoesNotFit) {
  std::byte out[kMaxSenseLength];
  EncodeSense(kLbaOutOfRange.WithInformation(uint64_t{1} << 32), false, out);
  EXPECT_EQ(out[0], std::byte{0x70});
  EXPECT_EQ(LoadBe<uint32_t>(&out[3]), 0u);
}

TEST(Sense, DescriptorFormatWithInformationAndField) {
  std::byte out[kMaxSenseLength];
  Sense sense = kInvalidFieldInCdb.AtCdb(2, 3).WithInformation(uint64_t{7} << 40);
  size_t length = EncodeSense(sense, true, out);
  EXPECT_EQ(length, 8u + 12 + 8);
  EXPECT_EQ(out[0], std::byte{0x72});
  EXPECT_EQ(out[1], std::byte{0x05});
  EXPECT_EQ(out[2], std::byte{0x24});
  EXPECT_EQ(out[7], std::byte{20});
  EXPECT_EQ(LoadBe<uint64_t>(&out[12]), uint64_t{7} << 40);
  EXPECT_EQ(out[20], std::byte{0x02});
  EXPECT_EQ(out[24], std::byte{0x80 | 0x40 | 0x08 | 3});  // SKSV, in the CDB, bit 3
  EXPECT_EQ(LoadBe<uint16_t>(&out[25]), 2u);
}

TEST(Sense, ErrnosHaveTheirSense) {
  EXPECT_TRUE(SenseFromErrno(ENOSPC, true).Is(kSpaceAllocationFailed));
  EXPECT_TRUE(SenseFromErrno(EIO, true).Is(kWriteError));
  EXPECT_TRUE(SenseFromErrno(EIO, false).Is(kReadError));
  EXPECT_TRUE(SenseFromErrno(EROFS, true).Is(kNotReadyStandby));
  EXPECT_TRUE(SenseFromErrno(ENODEV, false).Is(kNotReadyUnavailable));
}

}  // namespace
}  // namespace umblock::scsi
