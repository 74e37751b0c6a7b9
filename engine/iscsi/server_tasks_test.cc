// ServerTest: task management.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/iscsi/testing/server_fixture.h"

namespace umblock::iscsi {
namespace {

Bhs Tmf(Initiator& host, TmFunction function, uint32_t referenced = kReservedTag) {
  Bhs header(Op::kTaskManagement, static_cast<uint8_t>(0x80 | static_cast<uint8_t>(function)));
  header.Put8(0, 0x42).Put<uint32_t>(16, 5000).Put<uint32_t>(20, referenced);
  header.Put<uint32_t>(24, host.cmd_sn);
  return header;
}

TEST_F(ServerTest, AbortTaskEndsAWriteThatWaitsForData) {
  Initiator host(address_);
  host.Login(kDisk, {{"ImmediateData", "No"}});
  host.MakeReady();
  uint32_t tag =
      host.SendCommand(host.Command({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, kFinal | kWrite, 512));
  auto r2t = host.Receive();
  ASSERT_TRUE(r2t);
  ASSERT_EQ(r2t->header.op(), Op::kR2t);
  host.Send(Tmf(host, TmFunction::kAbortTask, tag));
  auto reply = host.Receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->header.op(), Op::kTaskManagementResponse);
  EXPECT_EQ(reply->header.U8(2), 0);
  // Its data comes too late and is dropped.
  Bhs out(Op::kDataOut, kFinal);
  out.Put<uint32_t>(16, tag).Put<uint32_t>(20, r2t->header.transfer_tag());
  host.Send(out, std::string(512, 'x'));
  host.Send(Tmf(host, TmFunction::kAbortTask, tag).Put<uint32_t>(32, 1));
  reply = host.Receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->header.U8(2), 1);  // does not exist
  EXPECT_EQ(host.Read(0, 1).data, std::string(512, '\0'));
}

TEST_F(ServerTest, LunResetAnswersWhenTheTasksAreOver) {
  Initiator host(address_);
  host.Login(kDisk);
  host.MakeReady();
  Run([&] { device_->Hold(); });
  uint32_t tag = host.SendCommand(
      host.Command({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, kFinal | kWrite, 512), Pattern(512, 'q'));
  ASSERT_TRUE(Eventually([&] { return device_->held() == 1; }));
  host.Send(Tmf(host, TmFunction::kLogicalUnitReset));
  Bhs ping(Op::kNopOut, kFinal);
  ping.Put8(0, 0x40).Put<uint32_t>(16, 900).Put<uint32_t>(20, kReservedTag);
  ping.Put<uint32_t>(24, host.cmd_sn);
  host.Send(ping);
  auto reply = host.Receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->header.op(), Op::kNopIn);  // the reset is not over
  Run([&] { device_->ReleaseHeld(); });
  reply = host.Receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->header.op(), Op::kTaskManagementResponse);
  EXPECT_EQ(reply->header.U8(2), 0);
  EXPECT_NE(reply->header.task_tag(), tag);
  auto attention = host.Finish(host.SendCommand(host.Command({0x00}, kFinal, 0)));
  EXPECT_EQ(attention.status, 2);
  EXPECT_EQ(attention.sense[12], 0x29);
}

TEST_F(ServerTest, ResetOfAnotherSessionWhileDataIsOnItsWay) {
  Initiator victim(address_), other(address_);
  other.isid = 0x00023d000009;
  victim.Login(kDisk);
  other.Login(kDisk);
  victim.MakeReady();
  other.MakeReady();
  // Half of the immediate data: the target is receiving into the command's buffer.
  Bhs write = victim.Command({0x2a, 0, 0, 0, 0, 0, 0, 0, 64}, kFinal | kWrite, 32768);
  write.PutDataLength(32768).Put<uint32_t>(16, 77).Put<uint32_t>(24, victim.cmd_sn++);
  std::string bytes(reinterpret_cast<const char*>(write.bytes().data()), kBhsLength);
  bytes += Pattern(32768, 'h');
  victim.SendBytes(std::string_view(bytes).substr(0, 20000));
  ASSERT_TRUE(Eventually([&] {
    for (const SessionStatus& s : server_->status().sessions) {
      if (s.commands_in_flight == 1) return true;
    }
    return false;
  }));
  other.Send(Tmf(other, TmFunction::kLogicalUnitReset));
  auto reply = other.Receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->header.U8(2), 0);
  victim.SendBytes(std::string_view(bytes).substr(20000));
  auto attention = victim.Finish(victim.SendCommand(victim.Command({0x00}, kFinal, 0)));
  EXPECT_EQ(attention.status, 2);
  Run([&] {
    EXPECT_EQ(device_->bytes()[0], std::byte{0});
    EXPECT_EQ(thread_->reactor().buffers().bytes_out(), 0u);
  });
}

TEST_F(ServerTest, TaskManagementThatIsNotOffered) {
  Initiator host(address_);
  host.Login(kDisk);
  for (auto [function, response] :
       {std::pair{TmFunction::kClearAca, 5}, std::pair{TmFunction::kTaskReassign, 4},
        std::pair{static_cast<TmFunction>(99), 5}}) {
    host.Send(Tmf(host, function));
    auto reply = host.Receive();
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->header.U8(2), response);
  }
  host.Send(Tmf(host, TmFunction::kLogicalUnitReset).Put<uint64_t>(8, uint64_t{9} << 48));
  auto reply = host.Receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->header.U8(2), 2);
}

}  // namespace
}  // namespace umblock::iscsi
