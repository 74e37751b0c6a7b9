#include "engine/scsi/cdb.h"

#include <gtest/gtest.h>

#include "engine/scsi/testing/command_runner.h"

namespace umblock::scsi {
namespace {

std::expected<Command, Sense> Parse(Cdb cdb) {
  cdb.resize(16);
  return ParseCdb(std::as_bytes(std::span(cdb)));
}

TEST(Cdb, FindsLbaAndLengthInEveryFormat) {
  auto six = Parse({0x08, 0x1f, 0xff, 0xfe, 0});
  ASSERT_TRUE(six);
  EXPECT_EQ(six->lba, 0x1ffffeu);
  EXPECT_EQ(six->blocks, 256u);  // 0 means 256
  auto ten = Parse(Cdb10(kRead10, 0xfedcba98, 0x1234));
  ASSERT_TRUE(ten);
  EXPECT_EQ(ten->lba, 0xfedcba98u);
  EXPECT_EQ(ten->blocks, 0x1234u);
  auto twelve = Parse({kWrite12, 0x08, 1, 2, 3, 4, 5, 6, 7, 8});
  ASSERT_TRUE(twelve);
  EXPECT_EQ(twelve->lba, 0x01020304u);
  EXPECT_EQ(twelve->blocks, 0x05060708u);
  EXPECT_TRUE(twelve->fua);
  auto sixteen = Parse(Cdb16(kWrite16, 0x1122334455667788, 0x99aabbcc));
  ASSERT_TRUE(sixteen);
  EXPECT_EQ(sixteen->lba, 0x1122334455667788u);
  EXPECT_EQ(sixteen->blocks, 0x99aabbccu);
  EXPECT_FALSE(sixteen->fua);
}

TEST(Cdb, RefusesWhatIsNotThere) {
  EXPECT_TRUE(Parse({0xff}).error().Is(kInvalidOpcode));
  EXPECT_TRUE(ParseCdb({}).error().Is(kInvalidOpcode));
  // A service action that does not exist points at its field.
  Sense sense = Parse({kServiceActionIn16, 0x1f}).error();
  EXPECT_TRUE(sense.Is(kInvalidFieldInCdb));
  EXPECT_EQ(sense.field_byte, 1);
}

TEST(Cdb, RefusesProtectionInformation) {
  for (uint8_t opcode : {kRead10, kWrite10, kVerify10, kWriteAndVerify10, kWriteSame10, kRead16,
                         kWrite16, kOrWrite16, kCompareAndWrite}) {
    EXPECT_TRUE(Parse(Cdb16(opcode, 0, 1, 0x20)).error().Is(kInvalidFieldInCdb)) << int{opcode};
  }
}

TEST(Cdb, RefusesNacaAndOddByteCheck) {
  Cdb naca = Cdb10(kRead10, 0, 1);
  naca[9] = 0x04;
  EXPECT_TRUE(Parse(naca).error().Is(kInvalidFieldInCdb));
  EXPECT_TRUE(Parse(Cdb10(kVerify10, 0, 1, 0x04)).error().Is(kInvalidFieldInCdb));
  EXPECT_EQ(Parse(Cdb10(kVerify10, 0, 1, 0x02))->bytchk, 1);
}

TEST(Cdb, ShortCdbIsNoRead) {
  std::byte cdb[6] = {std::byte{kRead10}};
  EXPECT_FALSE(ParseCdb(cdb));
}

TEST(Cdb, TableIsConsistent) {
  for (const CommandInfo& info : SupportedCommands()) {
    EXPECT_EQ(info.usage[0], info.opcode);
    const CommandInfo* found =
        info.service_action < 0
            ? FindCommand(info.opcode)
            : FindCommand(info.opcode, static_cast<uint8_t>(info.service_action));
    EXPECT_EQ(found, &info) << int{info.opcode};
    size_t length = info.opcode < 0x20 ? 6 : info.opcode < 0x60 ? 10 : info.opcode < 0xa0 ? 16 : 12;
    EXPECT_EQ(info.cdb_length, length);
    for (size_t i = info.cdb_length; i < kMaxCdbLength; ++i) EXPECT_EQ(info.usage[i], 0);
  }
}

}  // namespace
}  // namespace umblock::scsi
