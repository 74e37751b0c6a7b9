// ServerTest: the volume below a LUN, and the management above it.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/iscsi/testing/server_fixture.h"

namespace umblock::iscsi {
namespace {

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
