// ServerTest: what initiators do wrong, or do not do.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/iscsi/testing/server_fixture.h"

namespace umblock::iscsi {
namespace {

TEST_F(ServerTest, DataOutOfOrderFailsTheCommandOnly) {
  Initiator host(address_);
  host.Login(kDisk, {{"ImmediateData", "No"}});
  host.MakeReady();
  Bhs write = host.Command({0x2a, 0, 0, 0, 0, 0, 0, 0, 2}, kFinal | kWrite, 1024);
  for (auto [number, offset] : {std::pair{27u, 0u}, std::pair{0u, 512u}, std::pair{0u, 4096u}}) {
    uint32_t tag = host.SendCommand(write);
    auto r2t = host.Receive();
    ASSERT_TRUE(r2t);
    ASSERT_EQ(r2t->header.op(), Op::kR2t);
    Bhs out(Op::kDataOut, kFinal);
    out.Put<uint32_t>(16, tag).Put<uint32_t>(20, r2t->header.transfer_tag());
    out.Put<uint32_t>(36, number).Put<uint32_t>(40, offset);
    host.Send(out, std::string(1024, 'x'));
    auto answer = host.Finish(tag);
    EXPECT_EQ(answer.status, 2);
    ASSERT_GE(answer.sense.size(), 14u);
    EXPECT_EQ(answer.sense[2], 0x0b);
  }
  // Data for a command that is not there is dropped.
  Bhs stray(Op::kDataOut, kFinal);
  stray.Put<uint32_t>(16, 4711).Put<uint32_t>(20, 0x00010003);
  host.Send(stray, std::string(700, 's'));
  EXPECT_EQ(host.Read(0, 2).data, std::string(1024, '\0'));
}

TEST_F(ServerTest, MalformedPdusAreRejected) {
  Initiator host(address_);
  host.Login(kDisk);
  host.MakeReady();
  Bhs snack(Op::kSnack, kFinal);
  host.Send(snack);
  auto reply = host.Receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->header.op(), Op::kReject);
  EXPECT_EQ(reply->header.U8(2), 0x03);
  EXPECT_EQ(reply->data.size(), kBhsLength);
  host.Send(Bhs(static_cast<Op>(0x1d), 0), "data of an unknown kind");
  reply = host.Receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->header.op(), Op::kReject);
  EXPECT_EQ(reply->header.U8(2), 0x05);
  EXPECT_EQ(host.Read(0, 1).status, 0);  // the session goes on
  EXPECT_EQ(Status().sessions[0].counters.rejects, 2u);
}

TEST_F(ServerTest, TooLongDataSegmentsEndTheSession) {
  Initiator host(address_);
  host.Login(kDisk);
  Bhs nop(Op::kNopOut, kFinal);
  nop.Put8(0, 0x40).Put<uint32_t>(16, 3).Put<uint32_t>(20, kReservedTag).PutDataLength(0xffffff);
  host.SendBytes(std::string(reinterpret_cast<const char*>(nop.bytes().data()), 48));
  EXPECT_TRUE(host.WaitClosed());
}

TEST_F(ServerTest, WrongDigests) {
  Initiator host(address_);
  host.Login(kDisk, {{"HeaderDigest", "CRC32C"}, {"DataDigest", "CRC32C"}});
  host.MakeReady();
  // A wrong data digest: rejected, and the command fails.
  host.data_digest = false;
  Bhs write = host.Command({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, kFinal | kWrite, 512);
  write.PutDataLength(512);
  write.Put<uint32_t>(16, 50).Put<uint32_t>(24, host.cmd_sn++);
  std::string bytes = Pattern(512, 'w') + "oops";
  // Send() would set the length to 516: 512 bytes of data and four of (wrong) digest go raw.
  host.header_digest = true;
  {
    Bhs header = write;
    std::string raw(reinterpret_cast<const char*>(header.bytes().data()), kBhsLength);
    std::byte digest[4];
    StoreLe<uint32_t>(digest, Digest(header.bytes()));
    raw.append(reinterpret_cast<char*>(digest), 4);
    host.SendBytes(raw + bytes);
  }
  host.data_digest = true;
  auto reject = host.Receive();
  ASSERT_TRUE(reject);
  EXPECT_EQ(reject->header.op(), Op::kReject);
  EXPECT_EQ(reject->header.U8(2), 0x02);
  EXPECT_EQ(host.Finish(50).status, 2);
  // A wrong header digest: nothing in the stream can be trusted any more.
  host.SendBytes(std::string(52, '\0'));
  EXPECT_TRUE(host.WaitClosed());
}

TEST_F(ServerTest, CommandWindow) {
  Restart({.sessions = {.command_window = 4}});
  Initiator host(address_);
  host.Login(kDisk);
  host.MakeReady();
  Run([&] { device_->Hold(); });
  EXPECT_EQ(host.max_cmd_sn, host.cmd_sn + 3);
  std::vector<uint32_t> tags;
  Bhs read = host.Command({0x28, 0, 0, 0, 0, 0, 0, 0, 1}, kFinal | kRead, 512);
  for (int i = 0; i < 4; ++i) tags.push_back(host.SendCommand(read));
  // Beyond the window and below it: ignored.
  host.SendCommand(read);
  host.cmd_sn = 3;
  host.SendCommand(read);
  Bhs ping(Op::kNopOut, kFinal);
  ping.Put8(0, 0x40).Put<uint32_t>(16, 900).Put<uint32_t>(20, kReservedTag);
  ping.Put<uint32_t>(24, host.exp_cmd_sn + 4);
  host.Send(ping);
  auto pong = host.Receive();
  ASSERT_TRUE(pong);
  EXPECT_EQ(pong->header.op(), Op::kNopIn);
  EXPECT_EQ(host.max_cmd_sn + 1, host.exp_cmd_sn);  // closed
  EXPECT_EQ(Status().sessions[0].commands_in_flight, 4u);
  Run([&] { device_->ReleaseHeld(); });
  for (size_t i = 0; i < tags.size(); ++i) {
    auto answer = host.Receive();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->header.op(), Op::kDataIn);
  }
  EXPECT_EQ(host.max_cmd_sn, host.exp_cmd_sn + 3);  // open again
}

TEST_F(ServerTest, PingsAreEchoed) {
  Initiator host(address_);
  host.Login(kDisk);
  Bhs ping(Op::kNopOut, kFinal);
  ping.Put8(0, 0x40).Put<uint32_t>(16, 900).Put<uint32_t>(20, kReservedTag);
  ping.Put<uint32_t>(24, host.cmd_sn);
  host.Send(ping, "are you there?");
  auto pong = host.Receive();
  ASSERT_TRUE(pong);
  EXPECT_EQ(pong->header.op(), Op::kNopIn);
  EXPECT_EQ(pong->header.task_tag(), 900u);
  EXPECT_EQ(pong->data, "are you there?");
}

TEST_F(ServerTest, QuietInitiatorsArePingedAndDropped) {
  Restart({.sessions = {.ping_interval = 20ms, .ping_timeout = 100ms}});
  Initiator host(address_);
  host.Login(kDisk);
  auto ping = host.Receive();
  ASSERT_TRUE(ping);
  EXPECT_EQ(ping->header.op(), Op::kNopIn);
  EXPECT_EQ(ping->header.task_tag(), kReservedTag);
  EXPECT_NE(ping->header.transfer_tag(), kReservedTag);
  Bhs answer(Op::kNopOut, kFinal);
  answer.Put8(0, 0x40)
      .Put<uint32_t>(16, kReservedTag)
      .Put<uint32_t>(20, ping->header.transfer_tag());
  answer.Put<uint32_t>(24, host.cmd_sn);
  host.Send(answer);
  ping = host.Receive();  // the next one
  ASSERT_TRUE(ping);
  EXPECT_EQ(ping->header.op(), Op::kNopIn);
  EXPECT_TRUE(host.WaitClosed());
  EXPECT_TRUE(Eventually([&] { return server_->status().sessions.empty(); }));
}

TEST_F(ServerTest, PromisedDataThatNeverComesEndsTheSession) {
  Restart({.sessions = {.ping_interval = 20ms, .ping_timeout = 60s, .data_timeout = 50ms}});
  Initiator host(address_);
  host.Login(kDisk, {{"ImmediateData", "No"}});
  host.MakeReady();
  host.SendCommand(host.Command({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, kFinal | kWrite, 512));
  EXPECT_TRUE(host.WaitClosed());
  EXPECT_TRUE(Eventually([&] { return server_->status().sessions.empty(); }));
}

// INQUIRY, REPORT LUNS and REQUEST SENSE are answered for units that do not exist: such a command
// is nobody's while it waits for the data that it announced.
TEST_F(ServerTest, ACommandForNoUnitThatWaitsForDataEndsWithItsSession) {
  for (uint8_t opcode : {0x12, 0xa0, 0x03}) {
    SCOPED_TRACE(opcode);
    Initiator host(address_);
    host.Login(kDisk, {{"InitialR2T", "No"}});
    std::vector<uint8_t> cdb(12, 0);
    cdb[0] = opcode;
    cdb[opcode == 0xa0 ? 9 : 4] = 64;
    host.SendCommand(host.Command(cdb, kWrite, 512, 200));
  }
  EXPECT_TRUE(Eventually([&] { return server_->status().sessions.empty(); }));
  Run([&] { EXPECT_EQ(thread_->reactor().buffers().bytes_out(), 0u); });
}

TEST_F(ServerTest, WhoDoesNotReadIsDropped) {
  Restart({.sessions = {.ping_interval = 20ms, .ping_timeout = 60s, .send_timeout = 100ms}});
  Initiator host(address_);
  host.Login(kDisk, {{"MaxRecvDataSegmentLength", "262144"}});
  host.MakeReady();
  // 64 MiB that nobody reads: more than both socket buffers hold.
  for (int i = 0; i < 64; ++i) {
    host.SendCommand(host.Command({0x28, 0, 0, 0, 0, 0, 0, 8, 0}, kFinal | kRead, 1 << 20));
  }
  EXPECT_TRUE(Eventually([&] { return server_->status().sessions.empty(); }));
}

TEST_F(ServerTest, PayloadMemoryIsBounded) {
  Restart({.sessions = {.max_buffer_bytes = 256 * 1024}});
  Initiator host(address_);
  host.Login(kDisk, {{"InitialR2T", "No"}, {"FirstBurstLength", "65536"}});
  host.MakeReady();
  Run([&] { device_->Hold(); });
  // Reads and writes by R2T wait for memory; writes that bring their data are turned away.
  std::vector<uint32_t> reads;
  for (int i = 0; i < 16; ++i) {
    reads.push_back(
        host.SendCommand(host.Command({0x28, 0, 0, 0, 0, 0, 0, 0, 128}, kFinal | kRead, 65536)));
  }
  ASSERT_TRUE(Eventually([&] { return device_->held() == 4; }));
  uint32_t refused = host.SendCommand(
      host.Command({0x2a, 0, 0, 0, 0, 0, 0, 0, 8}, kFinal | kWrite, 4096), Pattern(4096, 'x'));
  auto answer = host.Finish(refused);
  EXPECT_EQ(answer.status, 0x28);  // TASK SET FULL
  EXPECT_LE(Status().sessions[0].buffer_bytes, 256 * 1024u);
  Run([&] { device_->ReleaseHeld(); });
  size_t done = 0;
  while (done < reads.size()) {
    auto pdu = host.Receive();
    ASSERT_TRUE(pdu);
    if ((pdu->header.flags() & kStatusPresent) != 0) ++done;
  }
  EXPECT_EQ(Status().sessions[0].counters.task_set_full, 1u);
}

TEST_F(ServerTest, DisconnectInTheMiddleOfAWriteLeavesNothingBehind) {
  for (size_t cut : {10u, 48u, 100u, 5000u}) {
    Initiator host(address_);
    host.Login(kDisk);
    host.MakeReady();
    Bhs write = host.Command({0x2a, 0, 0, 0, 0, 0, 0, 0, 32}, kFinal | kWrite, 16384);
    write.PutDataLength(16384).Put<uint32_t>(24, host.cmd_sn);
    std::string bytes(reinterpret_cast<const char*>(write.bytes().data()), kBhsLength);
    bytes += Pattern(16384, 'z');
    host.SendBytes(std::string_view(bytes).substr(0, cut));
  }
  EXPECT_TRUE(Eventually([&] { return server_->status().sessions.empty(); }));
  Run([&] { EXPECT_EQ(thread_->reactor().buffers().bytes_out(), 0u); });
}

}  // namespace
}  // namespace umblock::iscsi
