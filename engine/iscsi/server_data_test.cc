// ServerTest: data, in every way that it may be sent.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/iscsi/testing/server_fixture.h"

namespace umblock::iscsi {
namespace {

TEST_F(ServerTest, WritesAndReads) {
  Initiator host(address_);
  ASSERT_EQ(host.Login(kDisk).status, 0);
  host.MakeReady();
  for (size_t length : {512u, 4096u, 8192u, 65536u, 131072u, 1048576u}) {
    std::string data = Pattern(length, static_cast<char>(length / 512));
    EXPECT_EQ(host.Write(8, data).status, 0) << length;
    auto answer = host.Read(8, static_cast<uint16_t>(length / 512));
    EXPECT_EQ(answer.status, 0);
    EXPECT_EQ(answer.data, data) << length;
  }
}

TEST_F(ServerTest, EveryWayToSendData) {
  struct Case {
    const char *initial_r2t, *immediate;
  };
  for (Case c : {Case{"Yes", "Yes"}, Case{"Yes", "No"}, Case{"No", "Yes"}, Case{"No", "No"}}) {
    for (const char* digest : {"None", "CRC32C"}) {
      Initiator host(address_);
      auto result = host.Login(kDisk, {{"InitialR2T", c.initial_r2t},
                                       {"ImmediateData", c.immediate},
                                       {"HeaderDigest", digest},
                                       {"DataDigest", digest},
                                       {"MaxBurstLength", "16384"},
                                       {"FirstBurstLength", "8192"},
                                       {"MaxRecvDataSegmentLength", "4096"}});
      ASSERT_EQ(result.status, 0);
      EXPECT_EQ(result.keys["InitialR2T"], c.initial_r2t);
      host.MakeReady();
      std::string data = Pattern(65536 + 512, c.initial_r2t[0]);
      EXPECT_EQ(host.Write(16, data).status, 0);
      auto answer = host.Read(16, 129);
      EXPECT_EQ(answer.data, data);
      EXPECT_EQ(answer.data_pdus, 17);
    }
  }
}

TEST_F(ServerTest, UnsolicitedDataOut) {
  Initiator host(address_);
  host.Login(kDisk, {{"InitialR2T", "No"}, {"FirstBurstLength", "16384"}});
  host.MakeReady();
  std::string data = Pattern(20480, 'u');
  Bhs command = host.Command({0x2a, 0, 0, 0, 0, 32, 0, 0, 40}, kWrite, 20480);  // F=0
  uint32_t tag = host.SendCommand(command, data.substr(0, 4096));
  for (uint32_t number = 0; number < 3; ++number) {
    Bhs out(Op::kDataOut, number == 2 ? kFinal : 0);
    uint32_t offset = 4096 * (number + 1);
    out.Put<uint32_t>(16, tag).Put<uint32_t>(20, kReservedTag);
    out.Put<uint32_t>(36, number).Put<uint32_t>(40, offset);
    host.Send(out, data.substr(offset, 4096));
  }
  EXPECT_EQ(host.Finish(tag, data).status, 0);  // the last 4096 by R2T
  EXPECT_EQ(host.Read(32, 40).data, data);
}

TEST_F(ServerTest, LargeWritesAreNotCopied) {
  Initiator host(address_);
  host.Login(kDisk, {{"InitialR2T", "No"}, {"FirstBurstLength", "262144"}});
  for (int i = 0; i < 20; ++i) {
    // No other command in between, as in a stream of writes; the first one meets the attention.
    host.Write(0, Pattern(65536, 'c'));
  }
  EXPECT_EQ(host.Write(0, Pattern(262144, 'd')).status, 0);
  EXPECT_EQ(host.Write(0, Pattern(1048576, 'e')).status, 0);  // with R2T
  ServerStatus status = Status();
  ASSERT_EQ(status.sessions.size(), 1u);
  EXPECT_EQ(status.sessions[0].counters.copied_bytes, 0u);
  EXPECT_GT(status.sessions[0].counters.bytes_in, 20 * 65536u);
}

TEST_F(ServerTest, SmallWritesAreCopiedOnce) {
  Initiator host(address_);
  host.Login(kDisk);
  host.MakeReady();
  for (int i = 0; i < 10; ++i) host.Write(0, Pattern(4096, 'c'));
  EXPECT_LE(Status().sessions[0].counters.copied_bytes, 10 * 4096u);
}

TEST_F(ServerTest, FourKibibyteBlocks) {
  Run([&] {
    second_ = std::make_unique<scsi::MemoryDevice>(thread_->reactor(), kSize, "volume r0/1");
    EXPECT_TRUE(server_->AddLun(kDisk, 7, second_.get(), {.serial = "r0-1", .block_size = 4096}));
  });
  Initiator host(address_);
  host.Login(kDisk);
  host.MakeReady(7);
  std::string data = Pattern(8192, 'k');
  EXPECT_EQ(host.Write(1, data, 4096, 7).status, 0);
  EXPECT_EQ(host.Read(1, 2, 4096, 7).data, data);
  Run([&] { EXPECT_EQ(std::memcmp(&second_->bytes()[4096], data.data(), data.size()), 0); });
}

TEST_F(ServerTest, Residuals) {
  Initiator host(address_);
  host.Login(kDisk);
  host.MakeReady();
  std::vector<uint8_t> read_one = {0x28, 0, 0, 0, 0, 0, 0, 0, 1};
  auto over = host.Finish(host.SendCommand(host.Command(read_one, kFinal | kRead, 100)));
  EXPECT_EQ(over.status, 0);
  EXPECT_EQ(over.data.size(), 100u);
  EXPECT_EQ(over.residual_flags, kOverflow);
  EXPECT_EQ(over.residual, 412u);
  auto under = host.Finish(host.SendCommand(host.Command(read_one, kFinal | kRead, 1000)));
  EXPECT_EQ(under.data.size(), 512u);
  EXPECT_EQ(under.residual_flags, kUnderflow);
  EXPECT_EQ(under.residual, 488u);
  std::vector<uint8_t> write_two = {0x2a, 0, 0, 0, 0, 0, 0, 0, 2};
  auto less = host.Finish(
      host.SendCommand(host.Command(write_two, kFinal | kWrite, 512), Pattern(512, 'l')));
  EXPECT_EQ(less.status, 0);
  EXPECT_EQ(less.residual_flags, kOverflow);
  EXPECT_EQ(less.residual, 512u);
  auto none = host.Finish(host.SendCommand(host.Command(read_one, kFinal, 0)));
  EXPECT_EQ(none.status, 0);
  EXPECT_EQ(none.residual, 512u);
}

}  // namespace
}  // namespace umblock::iscsi
