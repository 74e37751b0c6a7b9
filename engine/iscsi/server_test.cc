// The target as initiators see it, over loopback TCP on io_uring: a raw initiator in the test's
// thread, the server on a reactor thread.
#include "engine/iscsi/server.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "engine/iscsi/testing/initiator.h"
#include "engine/runtime/uring/reactor_thread.h"
#include "engine/scsi/testing/memory_device.h"

namespace umblock::iscsi {
namespace {

constexpr char kDisk[] = "iqn.2026-01.test:disk";
constexpr char kOther[] = "iqn.2026-01.test:other";
constexpr uint64_t kSize = uint64_t{8} << 20;

std::string Pattern(size_t length, char seed) {
  std::string data(length, seed);
  for (size_t i = 0; i < length; ++i) data[i] = static_cast<char>(seed + i * 31 + i / 4096);
  return data;
}

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override { Start({}); }
  void Start(ServerOptions options) {
    auto thread = ReactorThread::Start({.name = "iscsi test", .uring = {.logger = &logger_}});
    ASSERT_TRUE(thread) << thread.error().message();
    thread_ = std::move(*thread);
    Run([&] {
      device_ = std::make_unique<scsi::MemoryDevice>(thread_->reactor(), kSize, "volume r0/0");
      server_ = std::make_unique<IscsiTargetServer>(thread_->reactor(), options);
      EXPECT_TRUE(server_->CreateTarget(kDisk, {}));
      EXPECT_TRUE(server_->AddLun(kDisk, 0, device_.get(), {.serial = "r0-0"}));
      auto portal = server_->AddPortal(*SocketAddress::Parse("127.0.0.1:0"));
      ASSERT_TRUE(portal) << portal.error().message();
      address_ = *portal;
    });
  }
  void TearDown() override { Stop(); }
  void Stop() {
    if (!thread_) return;
    Run([&] { device_->ReleaseHeld(); });
    thread_->RunTask([&]() -> Task<void> { co_await server_->Stop(); });
    Run([&] {
      server_.reset();
      device_.reset();
      second_.reset();
    });
    thread_.reset();
  }
  void Restart(ServerOptions options) {
    Stop();
    Start(std::move(options));
  }
  // Runs a plain function on the reactor.
  template <typename Function>
  void Run(Function function) {
    thread_->RunTask([&]() -> Task<void> {
      function();
      co_return;
    });
  }
  ServerStatus Status() {
    return thread_->RunTask([&]() -> Task<ServerStatus> { co_return server_->status(); });
  }
  // Waits until the target has noticed.
  template <typename Condition>
  bool Eventually(Condition condition) {
    return thread_->RunTask([&]() -> Task<bool> {
      for (int i = 0; i < 5000; ++i) {
        if (condition()) co_return true;
        co_await Sleep(thread_->reactor(), 1ms);
      }
      co_return false;
    });
  }

  StderrLogger logger_{LogLevel::kError};
  std::unique_ptr<ReactorThread> thread_;
  std::unique_ptr<scsi::MemoryDevice> device_, second_;
  std::unique_ptr<IscsiTargetServer> server_;
  SocketAddress address_;
};

// ---- login and discovery

TEST_F(ServerTest, DiscoveryShowsWhatTheInitiatorMayUse) {
  Run([&] {
    EXPECT_TRUE(server_->CreateTarget(kOther, {.initiators = {"iqn.2026-01.test:somebody-else"}}));
  });
  Initiator host(address_);
  EXPECT_EQ(host.Discover().status, 0);
  Bhs text(Op::kText, kFinal);
  text.Put<uint32_t>(16, 5).Put<uint32_t>(20, kReservedTag).Put<uint32_t>(24, host.cmd_sn++);
  host.Send(text, std::string("SendTargets=All\0", 16));
  auto reply = host.Receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->header.op(), Op::kTextResponse);
  EXPECT_TRUE(reply->header.final());
  std::string expected = std::string("TargetName=") + kDisk + '\0' +
                         "TargetAddress=" + address_.ToString() + ",1" + '\0';
  EXPECT_EQ(reply->data, expected);
  // No SCSI in a discovery session.
  host.SendCommand(host.Command({0x00}, kFinal, 0));
  reply = host.Receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->header.op(), Op::kReject);
  EXPECT_EQ(reply->header.U8(2), 0x04);
}

TEST_F(ServerTest, LongDiscoveryAnswersAreContinued) {
  Run([&] {
    for (int i = 0; i < 40; ++i) {
      EXPECT_TRUE(server_->CreateTarget("iqn.2026-01.test:disk" + std::to_string(i), {}));
    }
  });
  Initiator host(address_);
  EXPECT_EQ(host.Discover({{"MaxRecvDataSegmentLength", "512"}}).status, 0);
  std::string all;
  uint32_t tag = kReservedTag;
  for (int i = 0; i < 100; ++i) {
    Bhs text(Op::kText, kFinal);
    text.Put<uint32_t>(16, 5).Put<uint32_t>(20, tag).Put<uint32_t>(24, host.cmd_sn++);
    host.Send(text, i == 0 ? std::string("SendTargets=All\0", 16) : std::string());
    auto reply = host.Receive();
    ASSERT_TRUE(reply);
    ASSERT_LE(reply->data.size(), 512u);
    all += reply->data;
    tag = reply->header.transfer_tag();
    if (reply->header.final()) break;
    EXPECT_NE(tag, kReservedTag);
  }
  EXPECT_EQ(tag, kReservedTag);
  size_t count = 0;
  for (size_t at = 0; (at = all.find("TargetName=", at)) != std::string::npos; ++at) ++count;
  EXPECT_EQ(count, 41u);
}

TEST_F(ServerTest, LoginsAreRefusedWithTheReason) {
  Run([&] {
    EXPECT_TRUE(server_->CreateTarget(kOther, {.initiators = {"iqn.2026-01.test:somebody-else"}}));
  });
  EXPECT_EQ(Initiator(address_).Login("iqn.2026-01.test:nothing").status, 0x0203);
  EXPECT_EQ(Initiator(address_).Login(kOther).status, 0x0202);
  Initiator friend_host(address_);
  friend_host.name = "iqn.2026-01.TEST:Somebody-Else";
  EXPECT_EQ(friend_host.Login(kOther).status, 0);
  // Into a session that is not there.
  Initiator lost(address_);
  EXPECT_EQ(lost.LoginStep(0x87, {{"InitiatorName", lost.name}, {"TargetName", kDisk}}, 77).status,
            0x020a);
  EXPECT_TRUE(lost.WaitClosed());
  EXPECT_EQ(Status().failed_logins, 3u);
}

TEST_F(ServerTest, WhatIsNoLoginIsNotAnswered) {
  Initiator garbage(address_);
  garbage.SendBytes(std::string(48, 'G'));
  EXPECT_TRUE(garbage.WaitClosed());
  Initiator early(address_);
  early.SendCommand(early.Command({0x00}, kFinal, 0));
  EXPECT_TRUE(early.WaitClosed());
  Initiator half(address_);
  half.SendBytes(std::string(20, '\0'));
  Initiator huge(address_);
  Bhs header(Op::kLogin, 0x87);
  header.Put8(0, 0x43).PutDataLength(0xffffff);
  huge.SendBytes(std::string(reinterpret_cast<const char*>(header.bytes().data()), 48));
  EXPECT_TRUE(huge.WaitClosed());
}

TEST_F(ServerTest, SilentConnectionsAreClosed) {
  Restart({.login_timeout = 50ms});
  Initiator silent(address_);
  EXPECT_TRUE(silent.WaitClosed());
  EXPECT_TRUE(Eventually([&] { return server_->status().logins_in_progress == 0; }));
}

TEST_F(ServerTest, ChapOverTheWire) {
  Run([&] {
    EXPECT_TRUE(server_->UpdateTarget(
        kDisk, {.chap = ChapCredentials{.user = "alice", .secret = "secret-of-alice"}}));
    EXPECT_FALSE(server_->UpdateTarget(
        kDisk, {.chap = ChapCredentials{.user = "alice", .secret = "short"}}));
  });
  EXPECT_EQ(Initiator(address_).Login(kDisk).status, 0x0201);
  Initiator host(address_);
  host.LoginStep(0x00,
                 {{"InitiatorName", host.name}, {"TargetName", kDisk}, {"AuthMethod", "CHAP"}});
  auto challenge = host.LoginStep(0x00, {{"CHAP_A", "7"}});
  auto id = static_cast<uint8_t>(std::stoi(challenge.keys["CHAP_I"]));
  std::string proof = ChapResponse(ChapHash::kSha256, id, "secret-of-alice",
                                   *ParseBinary(challenge.keys["CHAP_C"], 1024));
  auto result = host.LoginStep(0x83, {{"CHAP_N", "alice"}, {"CHAP_R", FormatHex(proof)}});
  EXPECT_EQ(result.status, 0);
  EXPECT_NE(result.tsih, 0);
  host.MakeReady();
}

TEST_F(ServerTest, SecondLoginOfTheSameNexusTakesOver) {
  Initiator first(address_);
  uint16_t tsih = first.Login(kDisk).tsih;
  first.MakeReady();
  Initiator second(address_);
  auto result = second.Login(kDisk);
  EXPECT_EQ(result.status, 0);
  EXPECT_NE(result.tsih, tsih);
  EXPECT_TRUE(first.WaitClosed());
  EXPECT_EQ(Status().sessions.size(), 1u);
  Initiator third(address_);
  third.isid = 0x00023d000002;
  EXPECT_EQ(third.Login(kDisk).status, 0);
  EXPECT_EQ(Status().sessions.size(), 2u);
}

TEST_F(ServerTest, TakingOverWaitsForWritesInFlight) {
  Initiator first(address_);
  first.Login(kDisk);
  first.MakeReady();
  Run([&] { device_->Hold(); });
  first.SendCommand(first.Command({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, kFinal | kWrite, 512),
                    Pattern(512, 'a'));
  ASSERT_TRUE(Eventually([&] { return device_->held() == 1; }));
  Initiator second(address_);
  Bhs header(Op::kLogin, 0x87);
  header.Put8(0, 0x43).Put<uint64_t>(8, second.isid << 16).Put<uint32_t>(24, second.cmd_sn);
  std::string text;
  AppendText("InitiatorName", second.name, &text);
  AppendText("TargetName", kDisk, &text);
  second.Send(header, text);
  EXPECT_TRUE(first.WaitClosed());
  EXPECT_EQ(Status().logins, 1u);  // still waiting
  Run([&] { device_->ReleaseHeld(); });
  auto reply = second.Receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->header.Be<uint16_t>(36), 0);
}

TEST_F(ServerTest, LogoutEndsTheSession) {
  Initiator host(address_);
  host.Login(kDisk);
  Bhs logout(Op::kLogout, kFinal);
  logout.Put8(0, 0x46).Put<uint32_t>(16, 9).Put<uint32_t>(24, host.cmd_sn);
  host.Send(logout);
  auto reply = host.Receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->header.op(), Op::kLogoutResponse);
  EXPECT_EQ(reply->header.U8(2), 0);
  EXPECT_TRUE(host.WaitClosed());
}

// ---- data

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

// ---- what initiators do wrong

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

// ---- task management

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

// ---- the volume and the management

TEST_F(ServerTest, LunFollowsItsVolume) {
  Initiator host(address_);
  host.Login(kDisk);
  host.MakeReady();
  Run([&] {
    ASSERT_EQ(device_->openers().size(), 1u);
    EXPECT_EQ(device_->openers()[0].description,
              "iscsi iqn.2026-01.test:disk from iqn.2026-01.test:initiator");
    EXPECT_TRUE(device_->openers()[0].write);
    device_->SetAccess(Access::kStandby);
    EXPECT_TRUE(device_->openers().empty());
  });
  host.Finish(host.SendCommand(host.Command({0x00}, kFinal, 0)));  // the attention
  auto answer = host.Read(0, 1);
  EXPECT_EQ(answer.status, 2);
  ASSERT_GE(answer.sense.size(), 14u);
  EXPECT_EQ(answer.sense[2], 0x02);
  EXPECT_EQ(answer.sense[12], 0x04);
  EXPECT_EQ(answer.sense[13], 0x0b);
  LunStatus lun = Status().targets[0].luns[0];
  EXPECT_FALSE(lun.accessible);
  EXPECT_FALSE(lun.access_reason.empty());
  Run([&] { device_->SetAccess(Access::kReadWrite); });
  host.MakeReady();
  EXPECT_EQ(host.Read(0, 1).status, 0);
}

TEST_F(ServerTest, LogsInToAStandbyVolume) {
  Run([&] { device_->SetAccess(Access::kStandby); });
  Initiator host(address_);
  EXPECT_EQ(host.Login(kDisk).status, 0);
  Run([&] { EXPECT_TRUE(device_->openers().empty()); });
  Run([&] { device_->SetAccess(Access::kReadWrite); });
  Run([&] { EXPECT_EQ(device_->openers().size(), 1u); });
  host.MakeReady();
  EXPECT_EQ(host.Read(0, 1).status, 0);
}

TEST_F(ServerTest, SessionsThatTheNewAccessRulesRefuseAreEnded) {
  Initiator allowed(address_);
  allowed.Login(kDisk);
  allowed.MakeReady();
  Initiator refused(address_);
  refused.name = "iqn.2026-01.test:other";
  refused.isid = 0x00023d000009;
  refused.Login(kDisk);
  refused.MakeReady();
  Run([&] { EXPECT_TRUE(server_->UpdateTarget(kDisk, {.initiators = {allowed.name}})); });
  EXPECT_TRUE(refused.WaitClosed());
  EXPECT_EQ(allowed.Read(0, 1).status, 0);
  const ChapCredentials chap{.user = "alice", .secret = "secret-of-alice"};
  Initiator second(address_);
  second.isid = 0x00023d00000a;
  EXPECT_EQ(second.Login(kDisk).status, 0);
  Run([&] {
    EXPECT_TRUE(server_->UpdateTarget(kDisk, {.initiators = {allowed.name}, .chap = chap}));
  });
  EXPECT_TRUE(second.WaitClosed());
  EXPECT_TRUE(Eventually([&] { return server_->status().sessions.empty(); }));
}

TEST_F(ServerTest, ALoginThatBeganBeforeNewAccessRulesIsMeasuredByThem) {
  const auto begin = [](Initiator& host) {
    return host.LoginStep(
        0x81, {{"InitiatorName", host.name}, {"TargetName", kDisk}, {"AuthMethod", "None"}});
  };
  Initiator taken_off(address_);
  EXPECT_EQ(begin(taken_off).status, 0);
  Run([&] { EXPECT_TRUE(server_->UpdateTarget(kDisk, {.initiators = {"iqn.2026-01.test:x"}})); });
  EXPECT_EQ(taken_off.LoginStep(0x87, {}).status, 0x0202);

  Run([&] { EXPECT_TRUE(server_->UpdateTarget(kDisk, {})); });
  Initiator unproved(address_);
  EXPECT_EQ(begin(unproved).status, 0);
  const ChapCredentials chap{.user = "alice", .secret = "secret-of-alice"};
  Run([&] { EXPECT_TRUE(server_->UpdateTarget(kDisk, {.chap = chap})); });
  EXPECT_EQ(unproved.LoginStep(0x87, {}).status, 0x0201);
  EXPECT_TRUE(Status().sessions.empty());

  // What was proved is enough for rules that ask for less.
  Run([&] { EXPECT_TRUE(server_->UpdateTarget(kDisk, {})); });
  Initiator host(address_);
  EXPECT_EQ(begin(host).status, 0);
  Run([&] { EXPECT_TRUE(server_->UpdateTarget(kDisk, {.initiators = {host.name}})); });
  EXPECT_EQ(host.LoginStep(0x87, {}).status, 0);
}

TEST_F(ServerTest, LunsInUseAreNotRemovedWithoutForce) {
  Initiator host(address_);
  host.Login(kDisk);
  host.MakeReady();
  auto remove = [&](bool force) {
    return thread_->RunTask([&]() { return server_->RemoveLun(kDisk, 0, force); });
  };
  auto refused = remove(false);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::kFailedPrecondition);
  EXPECT_NE(refused.error().message().find(host.name), std::string::npos);
  // A write waits for its data when the LUN goes.
  host.SendCommand(host.Command({0x2a, 0, 0, 0, 0, 0, 0, 0, 200}, kFinal | kWrite, 102400));
  EXPECT_TRUE(remove(true));
  Run([&] { EXPECT_TRUE(device_->openers().empty()); });
  auto gone = host.Finish(host.SendCommand(host.Command({0x00}, kFinal, 0)));
  EXPECT_EQ(gone.status, 2);
  EXPECT_EQ(gone.sense[12], 0x25);  // LOGICAL UNIT NOT SUPPORTED
  EXPECT_FALSE(remove(true));
  Run([&] { EXPECT_TRUE(server_->AddLun(kDisk, 0, device_.get(), {.serial = "r0-0"})); });
  host.MakeReady();
  EXPECT_EQ(host.Read(0, 1).status, 0);
}

TEST_F(ServerTest, DeletingATargetTellsItsInitiators) {
  Initiator host(address_);
  host.Login(kDisk);
  host.MakeReady();
  auto refused = thread_->RunTask([&]() { return server_->DeleteTarget(kDisk, false); });
  EXPECT_FALSE(refused);
  auto deleted = thread_->RunTask([&]() { return server_->DeleteTarget(kDisk, true); });
  EXPECT_TRUE(deleted);
  auto notice = host.Receive();
  ASSERT_TRUE(notice);
  EXPECT_EQ(notice->header.op(), Op::kAsync);
  EXPECT_EQ(notice->header.U8(36), static_cast<uint8_t>(AsyncEvent::kSessionDrop));
  EXPECT_TRUE(host.WaitClosed());
  EXPECT_TRUE(Status().targets.empty());
}

TEST_F(ServerTest, ActsAreIdempotentOrSayWhyNot) {
  Run([&] {
    EXPECT_TRUE(server_->CreateTarget(kDisk, {}));
    EXPECT_EQ(server_->CreateTarget(kDisk, {.alias = "x"}).error().code(),
              ErrorCode::kAlreadyExists);
    EXPECT_EQ(server_->CreateTarget("disk", {}).error().code(), ErrorCode::kInvalidArgument);
    EXPECT_EQ(server_->CreateTarget(kOther, {.initiators = {"host"}}).error().code(),
              ErrorCode::kInvalidArgument);
    EXPECT_TRUE(server_->AddLun(kDisk, 0, device_.get(), {.serial = "r0-0"}));
    EXPECT_EQ(server_->AddLun(kDisk, 1, device_.get(), {.serial = "r0-0"}).error().code(),
              ErrorCode::kFailedPrecondition);
    EXPECT_EQ(server_->AddLun(kOther, 0, device_.get(), {.serial = "x"}).error().code(),
              ErrorCode::kNotFound);
    second_ = std::make_unique<scsi::MemoryDevice>(thread_->reactor(), kSize);
    EXPECT_EQ(server_->AddLun(kDisk, 0, second_.get(), {.serial = "x"}).error().code(),
              ErrorCode::kAlreadyExists);
    EXPECT_EQ(server_->AddLun(kDisk, 1, second_.get(), {.serial = ""}).error().code(),
              ErrorCode::kInvalidArgument);
    EXPECT_EQ(
        server_->AddLun(kDisk, 1, second_.get(), {.serial = "x", .block_size = 520}).error().code(),
        ErrorCode::kInvalidArgument);
    EXPECT_EQ(server_->AddPortal(address_), address_);
  });
  auto removed = thread_->RunTask([&]() { return server_->RemovePortal(address_); });
  EXPECT_TRUE(removed);
  EXPECT_TRUE(Status().portals.empty());
  removed = thread_->RunTask([&]() { return server_->RemovePortal(address_); });
  EXPECT_EQ(removed.error().code(), ErrorCode::kNotFound);
}

TEST_F(ServerTest, ReservationsEndWithTheSession) {
  Initiator one(address_);
  auto two = std::make_unique<Initiator>(address_);
  two->isid = 0x00023d000002;
  one.Login(kDisk);
  two->Login(kDisk);
  one.MakeReady();
  two->MakeReady();
  EXPECT_EQ(two->Finish(two->SendCommand(two->Command({0x16}, kFinal, 0))).status, 0);
  EXPECT_EQ(one.Read(0, 1).status, 0x18);  // RESERVATION CONFLICT
  two.reset();
  ASSERT_TRUE(Eventually([&] { return server_->status().sessions.size() == 1; }));
  EXPECT_EQ(one.Read(0, 1).status, 0);
}

TEST_F(ServerTest, StoppingEndsSessionsAndLogins) {
  Initiator host(address_), idle(address_);
  host.Login(kDisk);
  host.MakeReady();
  Run([&] { device_->Hold(); });
  host.SendCommand(host.Command({0x28, 0, 0, 0, 0, 0, 0, 0, 1}, kFinal | kRead, 512));
  ASSERT_TRUE(Eventually([&] { return device_->held() == 1; }));
  Run([&] { device_->ReleaseHeld(); });
  Stop();
  EXPECT_TRUE(host.WaitClosed());
  EXPECT_TRUE(idle.WaitClosed());
}

}  // namespace
}  // namespace umblock::iscsi
