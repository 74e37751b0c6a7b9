#include "engine/scsi/logical_unit.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <optional>

#include "engine/scsi/testing/command_runner.h"
#include "engine/scsi/testing/memory_device.h"

namespace umblock::scsi {
namespace {

constexpr uint64_t kSize = uint64_t{4} << 20;

std::vector<uint8_t> Pattern(size_t length, uint8_t seed) {
  std::vector<uint8_t> data(length);
  for (size_t i = 0; i < length; ++i) data[i] = static_cast<uint8_t>(seed + i * 7 + i / 512);
  return data;
}

class LogicalUnitTest : public ::testing::Test {
 protected:
  explicit LogicalUnitTest(uint32_t block_size = 512) {
    unit_.emplace(device_, UnitOptions{.lun = 0,
                                       .block_size = block_size,
                                       .serial = "serial-0001",
                                       .target_name = "iqn.2026-01.test:disk"});
    target_.AddUnit(0, &*unit_);
    nexus_.emplace(target_, NexusIdentity{"iqn.a", "iqn.a,i,0x1", "iscsi test from iqn.a", 1});
    nexus2_.emplace(target_, NexusIdentity{"iqn.b", "iqn.b,i,0x1", "iscsi test from iqn.b", 2});
    one_.emplace(reactor_, *nexus_);
    two_.emplace(reactor_, *nexus2_);
    ClearAttentions();
  }
  ~LogicalUnitTest() override {
    nexus_.reset();
    nexus2_.reset();
    target_.RemoveUnit(0);
    TaskGroup group(reactor_);
    group.Spawn(unit_->Stop());
    reactor_.Run();
    unit_.reset();
  }
  void ClearAttentions() {
    while (one_->Run({kTestUnitReady}).sense.key == 6) continue;
    while (two_->Run({kTestUnitReady}).sense.key == 6) continue;
  }
  static void ExpectSense(const Answer& answer, const Sense& sense) {
    EXPECT_TRUE(answer.done);
    EXPECT_EQ(answer.status, ScsiStatus::kCheckCondition);
    EXPECT_TRUE(answer.sense.Is(sense)) << std::hex << int{answer.sense.key} << '/'
                                        << int{answer.sense.asc} << '/' << int{answer.sense.ascq};
  }
  static void ExpectGood(const Answer& answer) {
    EXPECT_TRUE(answer.done);
    EXPECT_FALSE(answer.aborted);
    EXPECT_EQ(answer.status, ScsiStatus::kGood)
        << std::hex << int{answer.sense.key} << '/' << int{answer.sense.asc} << '/'
        << int{answer.sense.ascq};
  }

  InlineReactor reactor_;
  MemoryDevice device_{reactor_, kSize};
  std::optional<LogicalUnit> unit_;
  TargetDevice target_{"iqn.2026-01.test:disk"};
  std::optional<Nexus> nexus_, nexus2_;
  std::optional<CommandRunner> one_, two_;
};

class LogicalUnit4kTest : public LogicalUnitTest {
 protected:
  LogicalUnit4kTest() : LogicalUnitTest(4096) {}
};

TEST_F(LogicalUnitTest, WritesAndReadsInEveryLength) {
  auto data = Pattern(1024, 3);
  ExpectGood(one_->Run({kWrite6, 0, 0, 8, 2}, data));
  EXPECT_EQ(one_->Run({kRead6, 0, 0, 8, 2}).data, data);
  data = Pattern(1024, 5);
  ExpectGood(one_->Run(Cdb10(kWrite10, 8, 2), data));
  EXPECT_EQ(one_->Run(Cdb10(kRead10, 8, 2)).data, data);
  data = Pattern(1024, 9);
  ExpectGood(one_->Run(Cdb16(kWrite16, 8, 2), data));
  EXPECT_EQ(one_->Run(Cdb16(kRead16, 8, 2)).data, data);
  data = Pattern(1024, 11);
  ExpectGood(one_->Run({kWrite12, 0, 0, 0, 0, 8, 0, 0, 0, 2}, data));
  EXPECT_EQ(one_->Run({kRead12, 0, 0, 0, 0, 8, 0, 0, 0, 2}).data, data);
}

TEST_F(LogicalUnit4kTest, CountsInItsOwnBlocks) {
  auto data = Pattern(4096, 3);
  ExpectGood(one_->Run(Cdb10(kWrite10, 1, 1), data));
  EXPECT_EQ(std::memcmp(&device_.bytes()[4096], data.data(), 4096), 0);
  Answer capacity = one_->Run(Cdb10(kReadCapacity10, 0, 0));
  EXPECT_EQ(LoadBe<uint32_t>(&capacity.data[0]), kSize / 4096 - 1);
  EXPECT_EQ(LoadBe<uint32_t>(&capacity.data[4]), 4096u);
}

TEST_F(LogicalUnitTest, RefusesWhatLiesBeyondTheEnd) {
  uint32_t blocks = kSize / 512;
  ExpectSense(one_->Run(Cdb10(kRead10, blocks, 1)), kLbaOutOfRange);
  ExpectSense(one_->Run(Cdb10(kRead10, blocks - 1, 2)), kLbaOutOfRange);
  ExpectSense(one_->Run(Cdb10(kWrite10, blocks - 1, 2), Pattern(1024, 1)), kLbaOutOfRange);
  ExpectSense(one_->Run(Cdb16(kRead16, UINT64_MAX, 2)), kLbaOutOfRange);
  ExpectSense(one_->Run(Cdb16(kRead16, uint64_t{1} << 55, 0xffffffff)), kLbaOutOfRange);
  ExpectGood(one_->Run(Cdb10(kRead10, blocks - 1, 1)));
  ExpectGood(one_->Run(Cdb10(kRead10, 0, 0)));
}

TEST_F(LogicalUnitTest, RefusesTransfersBeyondTheDeclaredLimit) {
  ExpectGood(one_->Run(Cdb16(kRead16, 0, kMaxTransferLength / 512)));
  ExpectSense(one_->Run(Cdb16(kRead16, 0, kMaxTransferLength / 512 + 1)), kInvalidFieldInCdb);
}

TEST_F(LogicalUnitTest, FuaAndWriteCacheDecideAboutStability) {
  ExpectGood(one_->Run(Cdb10(kWrite10, 0, 1), Pattern(512, 1)));
  EXPECT_FALSE(device_.last_fua());
  ExpectGood(one_->Run(Cdb10(kWrite10, 0, 1, 0x08), Pattern(512, 1)));
  EXPECT_TRUE(device_.last_fua());
  // WCE off by MODE SELECT: every write is stable when it is answered; the other session hears it.
  std::vector<uint8_t> list(4 + 20);
  list[4] = 0x08;
  list[5] = 18;
  ExpectGood(one_->Run({kModeSelect6, 0x10, 0, 0, 24}, list));
  ExpectGood(one_->Run(Cdb10(kWrite10, 0, 1), Pattern(512, 1)));
  EXPECT_TRUE(device_.last_fua());
  ExpectSense(two_->Run({kTestUnitReady}), Sense{0x06, 0x2a, 0x01});
  ExpectGood(one_->Run({kTestUnitReady}));
}

TEST_F(LogicalUnitTest, SynchronizeCacheFlushes) {
  uint64_t before = device_.submitted();
  ExpectGood(one_->Run(Cdb10(kSynchronizeCache10, 0, 0)));
  ExpectGood(one_->Run(Cdb16(kSynchronizeCache16, 0, 0)));
  EXPECT_EQ(device_.submitted(), before + 2);
}

TEST_F(LogicalUnitTest, DeviceErrorsBecomeSense) {
  device_.FailNext(EIO);
  ExpectSense(one_->Run(Cdb10(kRead10, 5, 1)), kReadError);
  device_.FailNext(ENOSPC);
  ExpectSense(one_->Run(Cdb10(kWrite10, 5, 1), Pattern(512, 1)), kSpaceAllocationFailed);
  device_.FailNext(EIO);
  ExpectSense(one_->Run(Cdb10(kWriteSame10, 5, 1), Pattern(512, 1)), kWriteError);
}

TEST_F(LogicalUnitTest, FollowsItsVolume) {
  EXPECT_EQ(device_.openers().size(), 2u);
  EXPECT_EQ(device_.openers()[0].description, "iscsi test from iqn.a");
  device_.SetAccess(Access::kStandby);
  EXPECT_TRUE(device_.openers().empty());
  ExpectSense(one_->Run({kTestUnitReady}), Sense{0x06, 0x2a, 0x06});
  ExpectSense(one_->Run({kTestUnitReady}), kNotReadyStandby);
  ExpectSense(one_->Run(Cdb10(kRead10, 0, 1)), kNotReadyStandby);
  ExpectSense(one_->Run(Cdb10(kWrite10, 0, 1), Pattern(512, 1)), kNotReadyStandby);
  ExpectGood(one_->Run({kInquiry, 0, 0, 0, 96}));
  device_.SetAccess(Access::kUnavailable);
  one_->Run({kTestUnitReady});
  ExpectSense(one_->Run(Cdb10(kRead10, 0, 1)), kNotReadyUnavailable);
  device_.SetAccess(Access::kReadWrite);
  EXPECT_EQ(device_.openers().size(), 2u);
  ExpectSense(one_->Run({kTestUnitReady}), Sense{0x06, 0x2a, 0x06});
  ExpectGood(one_->Run(Cdb10(kRead10, 0, 1)));
}

TEST_F(LogicalUnitTest, RequestSenseTellsAndClears) {
  device_.SetAccess(Access::kStandby);
  Answer answer = one_->Run({kRequestSense, 0, 0, 0, 252});
  EXPECT_EQ(answer.data[2], 0x06);
  answer = one_->Run({kRequestSense, 0, 0, 0, 252});
  EXPECT_EQ(answer.data[2], 0x02);
  EXPECT_EQ(answer.data[12], 0x04);
  EXPECT_EQ(answer.data[13], 0x0b);
  answer = one_->Run({kRequestSense, 1, 0, 0, 252});
  EXPECT_EQ(answer.data[0], 0x72);
}

TEST_F(LogicalUnitTest, GrowingIsAnnouncedAndUsable) {
  ExpectSense(one_->Run(Cdb10(kRead10, kSize / 512, 1)), kLbaOutOfRange);
  device_.Resize(2 * kSize);
  ExpectSense(one_->Run({kTestUnitReady}), Sense{0x06, 0x2a, 0x09});
  ExpectGood(one_->Run(Cdb10(kRead10, kSize / 512, 1)));
}

TEST_F(LogicalUnitTest, NewSessionHearsPowerOnOnce) {
  Nexus third(target_, NexusIdentity{"iqn.c", "iqn.c,i,0x1", "c", 3});
  CommandRunner three(reactor_, third);
  ExpectGood(three.Run({kInquiry, 0, 0, 0, 96}));  // INQUIRY neither reports nor clears
  ExpectSense(three.Run({kTestUnitReady}), Sense{0x06, 0x29, 0x00});
  ExpectGood(three.Run({kTestUnitReady}));
}

TEST_F(LogicalUnitTest, CompareAndWrite) {
  auto old_data = Pattern(1024, 1), new_data = Pattern(1024, 77);
  ExpectGood(one_->Run(Cdb10(kWrite10, 10, 2), old_data));
  auto both = old_data;
  both.insert(both.end(), new_data.begin(), new_data.end());
  Cdb cdb = Cdb16(kCompareAndWrite, 10, 0);
  cdb[13] = 2;
  ExpectGood(one_->Run(cdb, both));
  EXPECT_EQ(one_->Run(Cdb10(kRead10, 10, 2)).data, new_data);
  Answer answer = one_->Run(cdb, both);
  ExpectSense(answer, kMiscompare);
  EXPECT_EQ(answer.sense.information, 0u);
  both = new_data;
  both[700] ^= 1;
  both.resize(2048);
  answer = one_->Run(cdb, both);
  ExpectSense(answer, kMiscompare);
  EXPECT_EQ(answer.sense.information, 700u);
  EXPECT_EQ(one_->Run(Cdb10(kRead10, 10, 2)).data, new_data);
}

TEST_F(LogicalUnitTest, CompareAndWriteExcludesOverlappingWrites) {
  std::vector<uint8_t> zero(1024), both(1024);
  for (size_t i = 512; i < 1024; ++i) both[i] = 0xaa;
  Cdb cdb = Cdb16(kCompareAndWrite, 10, 0);
  cdb[13] = 1;
  device_.Hold();
  auto compare = one_->Start(cdb, both);
  reactor_.Run();
  ASSERT_EQ(device_.held(), 1u);  // its read
  auto overlapping = two_->Start(Cdb10(kWrite10, 10, 1), Pattern(512, 1));
  auto apart = two_->Start(Cdb10(kWrite10, 11, 1), Pattern(512, 1));
  auto second = two_->Start(cdb, both);
  reactor_.Run();
  EXPECT_EQ(device_.held(), 2u);  // the read, and the write beside it
  device_.ReleaseOne();           // the read: the write of the compare follows
  reactor_.Run();
  device_.ReleaseHeld();
  reactor_.Run();
  ExpectGood(compare->answer);
  ExpectGood(overlapping->answer);
  ExpectGood(apart->answer);
  // The plain write came in between, so the second one does not match.
  ExpectSense(second->answer, kMiscompare);
  EXPECT_EQ(one_->Run(Cdb10(kRead10, 10, 1)).data, Pattern(512, 1));
}

TEST_F(LogicalUnitTest, CompareAndWriteWaitsForWritesThatRun) {
  std::vector<uint8_t> both(1024);
  Cdb cdb = Cdb16(kCompareAndWrite, 10, 0);
  cdb[13] = 1;
  device_.Hold();
  auto write = two_->Start(Cdb10(kWrite10, 10, 1), Pattern(512, 1));
  auto compare = one_->Start(cdb, both);
  reactor_.Run();
  EXPECT_EQ(device_.held(), 1u);
  device_.ReleaseHeld();
  reactor_.Run();
  ExpectGood(write->answer);
  ExpectSense(compare->answer, kMiscompare);
}

TEST_F(LogicalUnitTest, OrderedTasksWaitAndHoldBack) {
  device_.Hold();
  auto first = one_->Start(Cdb10(kWrite10, 0, 1), Pattern(512, 1));
  auto ordered = one_->Start(Cdb10(kWrite10, 1, 1), Pattern(512, 2), TaskAttribute::kOrdered);
  auto last = two_->Start(Cdb10(kWrite10, 2, 1), Pattern(512, 3));
  auto urgent = two_->Start(Cdb10(kWrite10, 3, 1), Pattern(512, 3), TaskAttribute::kHeadOfQueue);
  reactor_.Run();
  EXPECT_EQ(device_.held(), 2u);  // the first, and the urgent one
  device_.ReleaseOne();
  reactor_.Run();
  EXPECT_TRUE(first->answer.done);
  EXPECT_EQ(device_.held(), 1u);
  device_.ReleaseOne();
  reactor_.Run();
  EXPECT_EQ(device_.held(), 1u);  // now the ordered one alone
  EXPECT_FALSE(last->answer.done);
  device_.ReleaseHeld();
  reactor_.Run();
  ExpectGood(ordered->answer);
  ExpectGood(last->answer);
  ExpectGood(urgent->answer);
}

TEST_F(LogicalUnitTest, VerifyComparesWhenAsked) {
  auto data = Pattern(1024, 4);
  ExpectGood(one_->Run(Cdb10(kWrite10, 0, 2), data));
  ExpectGood(one_->Run(Cdb10(kVerify10, 0, 2)));
  ExpectGood(one_->Run(Cdb10(kVerify10, 0, 2, 0x02), data));
  data[1000] ^= 4;
  Answer answer = one_->Run(Cdb10(kVerify10, 0, 2, 0x02), data);
  ExpectSense(answer, kMiscompare);
  EXPECT_EQ(answer.sense.information, 1000u);
}

TEST_F(LogicalUnitTest, WriteAndVerifyIsStable) {
  auto data = Pattern(512, 4);
  ExpectGood(one_->Run(Cdb10(kWriteAndVerify10, 7, 1, 0x02), data));
  EXPECT_EQ(one_->Run(Cdb10(kRead10, 7, 1)).data, data);
}

TEST_F(LogicalUnitTest, OrWrite) {
  ExpectGood(one_->Run(Cdb10(kWrite10, 7, 1), std::vector<uint8_t>(512, 0x0f)));
  ExpectGood(one_->Run(Cdb16(kOrWrite16, 7, 1), std::vector<uint8_t>(512, 0x81)));
  EXPECT_EQ(one_->Run(Cdb10(kRead10, 7, 1)).data, std::vector<uint8_t>(512, 0x8f));
}

TEST_F(LogicalUnitTest, WriteSame) {
  auto block = Pattern(512, 9);
  ExpectGood(one_->Run(Cdb10(kWriteSame10, 4, 600), block));
  EXPECT_EQ(one_->Run(Cdb10(kRead10, 4, 1)).data, block);
  EXPECT_EQ(one_->Run(Cdb10(kRead10, 603, 1)).data, block);
  EXPECT_EQ(one_->Run(Cdb10(kRead10, 604, 1)).data, std::vector<uint8_t>(512));
  EXPECT_EQ(one_->Run(Cdb10(kRead10, 3, 1)).data, std::vector<uint8_t>(512));
  ExpectGood(one_->Run(Cdb16(kWriteSame16, 4, 600, 0x01)));  // NDOB: zeroes
  EXPECT_EQ(one_->Run(Cdb10(kRead10, 603, 1)).data, std::vector<uint8_t>(512));
  ExpectSense(one_->Run(Cdb10(kWriteSame10, 0, 0), block), kInvalidFieldInCdb);
  ExpectSense(one_->Run(Cdb10(kWriteSame10, 0, 1), std::vector<uint8_t>(1024)),
              kInvalidFieldInInformationUnit);
}

TEST_F(LogicalUnitTest, WriteSameWithoutWriteZeroes) {
  device_.mutable_geometry().can_write_zeroes = false;
  ExpectGood(one_->Run(Cdb10(kWrite10, 4, 1), Pattern(512, 1)));
  ExpectGood(one_->Run(Cdb16(kWriteSame16, 0, 600, 0x01)));
  EXPECT_EQ(one_->Run(Cdb10(kRead10, 4, 1)).data, std::vector<uint8_t>(512));
}

std::vector<uint8_t> UnmapList(std::initializer_list<std::pair<uint64_t, uint32_t>> ranges) {
  std::vector<uint8_t> list(8 + 16 * ranges.size());
  StoreBe<uint16_t>(&list[0], static_cast<uint16_t>(list.size() - 2));
  StoreBe<uint16_t>(&list[2], static_cast<uint16_t>(list.size() - 8));
  size_t at = 8;
  for (auto [lba, blocks] : ranges) {
    StoreBe<uint64_t>(&list[at], lba);
    StoreBe<uint32_t>(&list[at + 8], blocks);
    at += 16;
  }
  return list;
}

Cdb UnmapCdb(const std::vector<uint8_t>& list) {
  return Cdb10(kUnmap, 0, static_cast<uint16_t>(list.size()));
}

TEST_F(LogicalUnitTest, UnmapChecksAllBeforeAny) {
  ExpectGood(one_->Run(Cdb10(kWrite10, 0, 2), Pattern(1024, 1)));
  auto list = UnmapList({{0, 1}, {kSize / 512, 1}});
  ExpectSense(one_->Run(UnmapCdb(list), list), kLbaOutOfRange);
  EXPECT_EQ(one_->Run(Cdb10(kRead10, 0, 2)).data, Pattern(1024, 1));
  list = UnmapList({{0, 1}, {1, 0}});
  ExpectGood(one_->Run(UnmapCdb(list), list));
  EXPECT_EQ(one_->Run(Cdb10(kRead10, 0, 1)).data, std::vector<uint8_t>(512));
  // Lengths that lie are bounded by what was sent.
  list = UnmapList({{0, 1}});
  StoreBe<uint16_t>(&list[2], 0xfff0);
  ExpectGood(one_->Run(UnmapCdb(list), list));
  ExpectSense(one_->Run(Cdb10(kUnmap, 0, 7), std::vector<uint8_t>(7)), kParameterListLengthError);
}

TEST_F(LogicalUnitTest, WithoutDiscardNothingIsUnmapped) {
  device_.mutable_geometry().can_discard = false;
  auto list = UnmapList({{0, 1}});
  ExpectSense(one_->Run(UnmapCdb(list), list), kInvalidOpcode);
  ExpectSense(one_->Run(Cdb10(kWriteSame10, 0, 1, 0x08), Pattern(512, 0)), kInvalidFieldInCdb);
  ExpectGood(one_->Run(Cdb10(kWriteSame10, 0, 1), Pattern(512, 0)));
  Answer all = one_->Run({kMaintenanceIn, kReportSupportedOpcodes, 0, 0, 0, 0, 0, 0, 0xff, 0xff});
  EXPECT_EQ(LoadBe<uint32_t>(&all.data[0]), (SupportedCommands().size() - 1) * 8);
  Answer capacity = one_->Run(Cdb16(kServiceActionIn16, 0, 32, kReadCapacity16));
  EXPECT_EQ(capacity.data[14], 0);
}

TEST_F(LogicalUnitTest, ShortDataWritesWholeBlocksOnly) {
  ExpectGood(one_->Run(Cdb10(kWrite10, 0, 2), Pattern(1024, 1)));
  ExpectGood(one_->Run(Cdb10(kWrite10, 0, 2), Pattern(512, 50)));
  auto data = one_->Run(Cdb10(kRead10, 0, 2)).data;
  EXPECT_TRUE(std::equal(data.begin(), data.begin() + 512, Pattern(512, 50).begin()));
  EXPECT_TRUE(std::equal(data.begin() + 512, data.end(), Pattern(1024, 1).begin() + 512));
  ExpectSense(one_->Run(Cdb10(kWrite10, 0, 2), Pattern(700, 9)), kInvalidFieldInInformationUnit);
  ExpectGood(one_->Run(Cdb10(kWrite10, 0, 2), {}));
}

TEST_F(LogicalUnitTest, SoftwareWriteProtect) {
  std::vector<uint8_t> list(4 + 12);
  list[4] = 0x0a;
  list[5] = 10;
  list[7] = 0x10;
  list[8] = 0x08;  // SWP
  ExpectGood(one_->Run({kModeSelect6, 0x10, 0, 0, 16}, list));
  ExpectSense(one_->Run(Cdb10(kWrite10, 0, 1), Pattern(512, 1)), kWriteProtected);
  ExpectGood(one_->Run(Cdb10(kRead10, 0, 1)));
  Answer sense = one_->Run({kModeSense6, 0x08, 0x0a, 0, 255});
  EXPECT_EQ(sense.data[2] & 0x80, 0x80);
  list[8] = 0;
  ExpectGood(one_->Run({kModeSelect6, 0x10, 0, 0, 16}, list));
  ExpectGood(one_->Run(Cdb10(kWrite10, 0, 1), Pattern(512, 1)));
}

TEST_F(LogicalUnitTest, ModeSelectRefusesTheUnchangeable) {
  std::vector<uint8_t> list(4 + 12);
  list[4] = 0x0a;
  list[5] = 10;
  ExpectSense(one_->Run({kModeSelect6, 0x10, 0, 0, 16}, list), kInvalidFieldInParameterList);
  list[5] = 200;
  ExpectSense(one_->Run({kModeSelect6, 0x10, 0, 0, 16}, list), kParameterListLengthError);
  ExpectSense(one_->Run({kModeSelect6, 0x11, 0, 0, 16}, list), kInvalidFieldInCdb);
  ExpectSense(one_->Run({kModeSelect6, 0x10, 0, 0, 3}, {0, 0, 0}), kParameterListLengthError);
}

TEST_F(LogicalUnitTest, ModeSensePages) {
  Answer all = one_->Run({kModeSense6, 0, 0x3f, 0, 255});
  ExpectGood(all);
  EXPECT_EQ(all.data[0], all.data.size() - 1);
  EXPECT_EQ(all.data[3], 8);
  ExpectSense(one_->Run({kModeSense6, 0, 0xff, 0, 255}), kSavingNotSupported);
  ExpectSense(one_->Run({kModeSense6, 0, 0x02, 0, 255}), kInvalidFieldInCdb);
  Answer ten = one_->Run({kModeSense10, 0x10, 0x08, 0, 0, 0, 0, 0, 255});
  EXPECT_EQ(LoadBe<uint16_t>(&ten.data[0]), ten.data.size() - 2);
  EXPECT_EQ(LoadBe<uint16_t>(&ten.data[6]), 16u);
  EXPECT_EQ(LoadBe<uint64_t>(&ten.data[8]), kSize / 512);
  EXPECT_EQ(one_->Run({kModeSense6, 0, 0x3f, 0, 7}).data.size(), 7u);
}

TEST_F(LogicalUnitTest, InquiryAndVpd) {
  Answer standard = one_->Run({kInquiry, 0, 0, 0, 255});
  ASSERT_EQ(standard.data.size(), 96u);
  EXPECT_EQ(std::string(standard.data.begin() + 8, standard.data.begin() + 16), "UMBLOCK ");
  Answer pages = one_->Run({kInquiry, 1, 0, 0, 255});
  for (size_t i = 4; i < pages.data.size(); ++i) {
    Answer page = one_->Run({kInquiry, 1, pages.data[i], 0, 255});
    ExpectGood(page);
    EXPECT_EQ(page.data[1], pages.data[i]);
    EXPECT_EQ(LoadBe<uint16_t>(&page.data[2]), page.data.size() - 4);
  }
  ExpectSense(one_->Run({kInquiry, 1, 0xc7, 0, 255}), kInvalidFieldInCdb);
  ExpectSense(one_->Run({kInquiry, 0, 0x80, 0, 255}), kInvalidFieldInCdb);
  EXPECT_EQ(one_->Run({kInquiry, 0, 0, 0, 5}).data.size(), 5u);
  EXPECT_TRUE(one_->Run({kInquiry, 0, 0, 0, 0}).data.empty());
}

TEST_F(LogicalUnitTest, CapacityAndLuns) {
  Cdb cdb = Cdb16(kServiceActionIn16, 0, 32, kReadCapacity16);
  Answer capacity = one_->Run(cdb);
  ASSERT_EQ(capacity.data.size(), 32u);
  EXPECT_EQ(LoadBe<uint64_t>(&capacity.data[0]), kSize / 512 - 1);
  EXPECT_EQ(capacity.data[13], 3);     // eight logical blocks per physical block
  EXPECT_EQ(capacity.data[14], 0xc0);  // thin, reads zeroes
  Answer luns = one_->Run({kReportLuns, 0, 0, 0, 0, 0, 0, 0, 1, 0});
  ASSERT_EQ(luns.data.size(), 16u);
  EXPECT_EQ(LoadBe<uint32_t>(&luns.data[0]), 8u);
}

TEST_F(LogicalUnitTest, AbsentLunsAreAnsweredAsAbsent) {
  EXPECT_EQ(one_->Run({kInquiry, 0, 0, 0, 96}, {}, 5).data[0], 0x7f);
  ExpectSense(one_->Run({kTestUnitReady}, {}, 5), kLunNotSupported);
  ExpectSense(one_->Run(Cdb10(kWrite10, 0, 1), Pattern(512, 1), 5), kLunNotSupported);
  Answer luns = one_->Run({kReportLuns, 0, 0, 0, 0, 0, 0, 0, 1, 0}, {}, 5);
  EXPECT_EQ(luns.data.size(), 16u);
  Answer sense = one_->Run({kRequestSense, 0, 0, 0, 18}, {}, 5);
  EXPECT_EQ(sense.data[12], 0x25);
}

TEST_F(LogicalUnitTest, ReportSupportedOpcodes) {
  Answer all = one_->Run({kMaintenanceIn, kReportSupportedOpcodes, 0, 0, 0, 0, 0, 0, 0xff, 0xff});
  EXPECT_EQ(LoadBe<uint32_t>(&all.data[0]), SupportedCommands().size() * 8);
  Answer one = one_->Run({kMaintenanceIn, kReportSupportedOpcodes, 1, kRead10, 0, 0, 0, 0, 1, 0});
  EXPECT_EQ(one.data[1], 3);
  EXPECT_EQ(one.data[4], kRead10);
  Answer none = one_->Run({kMaintenanceIn, kReportSupportedOpcodes, 1, 0xe0, 0, 0, 0, 0, 1, 0});
  EXPECT_EQ(none.data[1], 1);
}

TEST_F(LogicalUnitTest, ReservationsLockOthersOut) {
  ExpectGood(one_->Run({kReserve6}));
  EXPECT_EQ(two_->Run(Cdb10(kRead10, 0, 1)).status, ScsiStatus::kReservationConflict);
  EXPECT_EQ(two_->Run({kReserve6}).status, ScsiStatus::kReservationConflict);
  ExpectGood(two_->Run({kInquiry, 0, 0, 0, 96}));
  unit_->Reset();
  ClearAttentions();
  ExpectGood(two_->Run({kReserve6}));
  nexus2_.reset();  // the session ends: so does its reservation
  ExpectGood(one_->Run(Cdb10(kRead10, 0, 1)));
}

TEST_F(LogicalUnitTest, PreemptAndAbortEndsTheVictimsTasks) {
  auto out = [](uint64_t key, uint64_t action_key) {
    std::vector<uint8_t> list(24);
    StoreBe<uint64_t>(&list[0], key);
    StoreBe<uint64_t>(&list[8], action_key);
    return list;
  };
  auto cdb = [](PrOut action, uint8_t type) {
    return Cdb{kPersistentReserveOut, static_cast<uint8_t>(action), type, 0, 0, 0, 0, 0, 24, 0};
  };
  ExpectGood(one_->Run(cdb(PrOut::kRegister, 0), out(0, 1)));
  ExpectGood(two_->Run(cdb(PrOut::kRegister, 0), out(0, 2)));
  ExpectGood(one_->Run(cdb(PrOut::kReserve, 1), out(1, 0)));
  device_.Hold();
  auto victim = one_->Start(Cdb10(kWrite10, 0, 1), Pattern(512, 1));
  auto preempt = two_->Start(cdb(PrOut::kPreemptAndAbort, 1), out(2, 1));
  reactor_.Run();
  EXPECT_FALSE(preempt->answer.done);  // the victim's write still runs
  device_.ReleaseHeld();
  reactor_.Run();
  EXPECT_TRUE(victim->answer.aborted);
  ExpectGood(preempt->answer);
  ExpectSense(one_->Run({kTestUnitReady}), Sense{0x06, 0x2a, 0x05});
  EXPECT_EQ(one_->Run(Cdb10(kWrite10, 0, 1), Pattern(512, 1)).status,
            ScsiStatus::kReservationConflict);
}

TEST_F(LogicalUnitTest, ResetEndsWaitingBlockedAndRunningTasks) {
  device_.Hold();
  auto running = one_->Start(Cdb10(kWrite10, 0, 1), Pattern(512, 1));
  auto blocked = one_->Start(Cdb10(kWrite10, 1, 1), Pattern(512, 1), TaskAttribute::kOrdered);
  auto waiting = two_->Prepare(Cdb10(kWrite10, 2, 1), Pattern(512, 1));
  unit_->Reset();
  EXPECT_TRUE(blocked->answer.aborted);
  EXPECT_TRUE(waiting->answer.aborted);
  EXPECT_FALSE(running->answer.done);
  bool waited = false;
  TaskGroup group(reactor_);
  auto wait = [](LogicalUnit* unit, bool* done) -> Task<void> {
    co_await unit->WaitAborted();
    *done = true;
  };
  group.Spawn(wait(&*unit_, &waited));
  reactor_.Run();
  EXPECT_FALSE(waited);
  device_.ReleaseHeld();
  reactor_.Run();
  EXPECT_TRUE(waited);
  EXPECT_TRUE(running->answer.aborted);
  ExpectSense(one_->Run({kTestUnitReady}), Sense{0x06, 0x29, 0x03});
  ExpectSense(two_->Run({kTestUnitReady}), Sense{0x06, 0x29, 0x03});
  EXPECT_EQ(device_.bytes()[1024], std::byte{0});
}

TEST_F(LogicalUnitTest, AbortOneTask) {
  device_.Hold();
  auto first = one_->Start(Cdb10(kWrite10, 0, 1), Pattern(512, 1));
  auto second = one_->Start(Cdb10(kWrite10, 1, 1), Pattern(512, 1));
  EXPECT_TRUE(unit_->AbortTask(&first->request));
  EXPECT_FALSE(unit_->AbortTask(&first->request));
  device_.ReleaseHeld();
  reactor_.Run();
  EXPECT_TRUE(first->answer.aborted);
  ExpectGood(second->answer);
}

TEST_F(LogicalUnitTest, ClearTaskSetTellsTheOthers) {
  device_.Hold();
  auto mine = one_->Start(Cdb10(kWrite10, 0, 1), Pattern(512, 1));
  auto theirs = two_->Start(Cdb10(kWrite10, 1, 1), Pattern(512, 1));
  unit_->ClearTasks(nexus_->Find(0));
  device_.ReleaseHeld();
  reactor_.Run();
  EXPECT_TRUE(mine->answer.aborted);
  EXPECT_TRUE(theirs->answer.aborted);
  ExpectSense(two_->Run({kTestUnitReady}), Sense{0x06, 0x2f, 0x00});
  ExpectGood(one_->Run({kTestUnitReady}));
}

TEST_F(LogicalUnitTest, ScratchShortageIsTaskSetFull) {
  std::vector<Buffer> all;
  while (Buffer b = reactor_.buffers().TryAllocate(BufferPool::kLargest)) {
    all.push_back(std::move(b));
  }
  EXPECT_EQ(one_->Run(Cdb10(kVerify10, 0, 2)).status, ScsiStatus::kTaskSetFull);
  all.clear();
  ExpectGood(one_->Run(Cdb10(kVerify10, 0, 2)));
}

// A replica may get a disk with larger blocks: its parts are not written one by one.
TEST_F(LogicalUnitTest, IsNotReadyWhileTheDeviceNeedsLargerBlocks) {
  ExpectGood(one_->Run(Cdb10(kRead10, 0, 1)));
  device_.mutable_geometry().logical_block_size = 4096;
  device_.SetAccess(Access::kReadWrite);
  EXPECT_TRUE(device_.openers().empty());
  ExpectSense(one_->Run(Cdb10(kRead10, 0, 1)), Sense{0x06, 0x2a, 0x06});
  ExpectSense(one_->Run(Cdb10(kRead10, 0, 1)), kNotReadyUnavailable);
  device_.mutable_geometry().logical_block_size = 512;
  device_.SetAccess(Access::kReadWrite);
  ExpectSense(one_->Run(Cdb10(kRead10, 0, 1)), Sense{0x06, 0x2a, 0x06});
  ExpectGood(one_->Run(Cdb10(kRead10, 0, 1)));
}

TEST(LogicalUnitOptions, AreValidated) {
  InlineReactor reactor;
  MemoryDevice device(reactor, kSize);
  EXPECT_TRUE(LogicalUnit::Validate(device, {.serial = "x"}));
  EXPECT_FALSE(LogicalUnit::Validate(device, {.serial = ""}));
  EXPECT_FALSE(LogicalUnit::Validate(device, {.serial = "with space"}));
  EXPECT_FALSE(LogicalUnit::Validate(device, {.serial = std::string(37, 'x')}));
  EXPECT_FALSE(LogicalUnit::Validate(device, {.block_size = 1024, .serial = "x"}));
  EXPECT_FALSE(LogicalUnit::Validate(device, {.lun = 256, .serial = "x"}));
  device.mutable_geometry().logical_block_size = 4096;
  EXPECT_FALSE(LogicalUnit::Validate(device, {.block_size = 512, .serial = "x"}));
}

TEST(Luns, DecodeAndEncode) {
  EXPECT_EQ(DecodeLun(0), 0u);
  EXPECT_EQ(DecodeLun(EncodeLun(7)), 7u);
  EXPECT_EQ(DecodeLun(uint64_t{0x4123} << 48), 0x123u);
  EXPECT_EQ(DecodeLun(uint64_t{0x0107} << 48), std::nullopt);  // bus 1
  EXPECT_EQ(DecodeLun(uint64_t{0xc101} << 48), std::nullopt);  // well known
  EXPECT_EQ(DecodeLun(1), std::nullopt);                       // further levels
}

// WCE off: a medium write is stable when it is answered, by FUA or by a flush behind it.
TEST_F(LogicalUnitTest, WriteSameOfZeroesIsStableWithoutAWriteCache) {
  std::vector<uint8_t> list(4 + 20);
  list[4] = 0x08;
  list[5] = 18;
  ExpectGood(one_->Run(Cdb10(kWrite10, 0, 8), Pattern(4096, 1)));  // into the cache, WCE on
  uint64_t before = device_.submitted();
  ExpectGood(one_->Run({kModeSelect6, 0x10, 0, 0, 24}, list));
  // SBC-3 6.5.5: when WCE goes from one to zero what is cached is written to the medium.
  EXPECT_EQ(device_.submitted(), before + 1) << "no flush at the change of WCE";
  before = device_.submitted();
  ExpectGood(one_->Run(Cdb10(kWriteSame10, 0, 8), std::vector<uint8_t>(512)));
  EXPECT_TRUE(device_.last_fua() || device_.submitted() == before + 2)
      << "answered, and in a volatile cache (WRITE SAME of zeroes)";
  before = device_.submitted();
  ExpectGood(one_->Run(Cdb16(kWriteSame16, 0, 8, 0x01)));
  EXPECT_TRUE(device_.last_fua() || device_.submitted() == before + 2)
      << "answered, and in a volatile cache (NDOB)";
  ExpectGood(one_->Run(Cdb10(kWriteSame10, 0, 8), Pattern(512, 7)));
  EXPECT_TRUE(device_.last_fua()) << "as it is with other data";
}

}  // namespace
}  // namespace umblock::scsi
