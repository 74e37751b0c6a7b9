// ServerTest: login and discovery.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/iscsi/testing/server_fixture.h"

namespace umblock::iscsi {
namespace {

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

}  // namespace
}  // namespace umblock::iscsi
