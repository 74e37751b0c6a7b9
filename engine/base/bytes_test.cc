#include "engine/base/bytes.h"

#include <gtest/gtest.h>

#include <array>

namespace umblock {
namespace {

TEST(BytesTest, BigAndLittleEndianAtUnalignedAddresses) {
  std::array<std::byte, 9> raw{};
  StoreBe<uint64_t>(raw.data() + 1, 0x0102030405060708);
  EXPECT_EQ(raw[1], std::byte{1});
  EXPECT_EQ(LoadBe<uint64_t>(raw.data() + 1), 0x0102030405060708u);
  EXPECT_EQ(LoadLe<uint64_t>(raw.data() + 1), 0x0807060504030201u);
  StoreLe<uint16_t>(raw.data(), 0x0102);
  EXPECT_EQ(raw[0], std::byte{2});
}

TEST(BytesTest, ReaderFailsAtTheEndAndStaysFailed) {
  std::array<std::byte, 3> raw{std::byte{1}, std::byte{2}, std::byte{3}};
  ByteReader reader(raw);
  EXPECT_EQ(reader.Be<uint16_t>(), 0x0102);
  EXPECT_EQ(reader.Be<uint16_t>(), 0);
  EXPECT_FALSE(reader.ok());
  EXPECT_EQ(reader.Be<uint8_t>(), 0);
  EXPECT_TRUE(reader.rest().empty());
}

TEST(BytesTest, WriterWritesInOrder) {
  std::array<std::byte, 4> raw{};
  ByteWriter writer(raw);
  writer.Be<uint16_t>(0x0102);
  writer.Zero(1);
  EXPECT_EQ(writer.left(), 1u);
  EXPECT_EQ(raw[0], std::byte{1});
}

TEST(BytesDeathTest, WriterAssertsPastItsEnd) {
  std::array<std::byte, 1> raw{};
  ByteWriter writer(raw);
  EXPECT_DEATH(writer.Be<uint16_t>(1), "stays within its span");
}

}  // namespace
}  // namespace umblock
