// disk-timeout: drbd-io-path.md F.8, A.12, K 86.
#include <gtest/gtest.h>

#include <algorithm>

#include "engine/drbd/core/testing/pair.h"

namespace umblock::drbd {
namespace {

using testing::ClusterOptions;
using testing::FrontIo;
using testing::Options;
using testing::Pair;
using testing::Text;

ClusterOptions Limited(uint64_t seed, Duration limit = 2s) {
  ClusterOptions options = Options(seed);
  options.disk.disk_timeout = limit;
  return options;
}

struct TimeoutPair : Pair {
  using Pair::Pair;
  // What is asked of the disk from now on takes far longer than any limit.
  void Hang(int node) { disk(node).set_slowdown(500000); }
  void Heal(int node) { disk(node).set_slowdown(1); }
  std::string AttachError(int node) {
    Status attached = Attach(node);
    return attached ? "" : attached.error().message();
  }
  // What hangs comes back some time; then the disk may be attached.
  void AttachWhenItMay(int node) {
    Heal(node);
    for (int i = 0; i < 600; ++i) {
      Status attached = Attach(node);
      if (attached) return;
      ASSERT_NE(attached.error().message().find("have not come back"), std::string::npos)
          << Text(attached);
      RunFor(5s);
    }
    FAIL() << "the requests never came back";
  }
};

TEST(DiskTimeout, K86ADiskThatHangsIsGivenUpAndThePeerCompletesTheWrites) {
  TimeoutPair pair(Limited(86));
  pair.Hang(0);
  const SimTime before = pair.world().now();
  std::vector<FrontIo*> writes;
  for (uint64_t i = 0; i < 20; ++i) writes.push_back(pair.StartWrite(0, i * 16384, 8192, 0x51));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }, 30s));
  EXPECT_GE(pair.world().now() - before, SimTime(1900ms));
  EXPECT_LE(pair.world().now() - before, SimTime(4s));
  for (FrontIo* write : writes) {
    EXPECT_TRUE(write->ok());
    EXPECT_TRUE(pair.NowIs(1, write->offset, 8192, 0x51));
    // The front uses its memory for something else.
    std::fill(write->data.begin(), write->data.end(), std::byte{0xee});
  }
  ASSERT_TRUE(pair.WaitDisk(0, DiskState::kDiskless));
  EXPECT_EQ(pair.volume_status(0).counters.disk_timeouts, 1u);
  EXPECT_NE(pair.volume_status(0).disk_reason.find("disk-timeout: backend disk0 has not answered"),
            std::string::npos)
      << pair.volume_status(0).disk_reason;
  EXPECT_EQ(pair.status(0).role, Role::kPrimary);
  // The peer has the data, reads and writes go on.
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 1 << 20, 4096, 0x52), 0);
  EXPECT_EQ(pair.ReadFront(0, 0, 4096), std::vector<std::byte>(4096, std::byte{0x51}));
  // Not again while what timed out may still be carried out.
  EXPECT_NE(pair.AttachError(0).find("have not come back from backend disk0"), std::string::npos);
  pair.AttachWhenItMay(0);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
  EXPECT_TRUE(pair.NowIs(0, 0, 8192, 0x51));
  pair.ExpectAnsweredOnce();
  pair.ExpectIdleCounters();
}

TEST(DiskTimeout, ALateReadTouchesNobodysMemory) {
  TimeoutPair pair(Limited(861));
  pair.Hang(0);
  FrontIo* read = pair.Submit(0, IoOp::kRead, 0, 65536, 0);
  ASSERT_TRUE(pair.RunUntil([&] { return read->answered(); }, 30s));
  EXPECT_TRUE(read->ok());
  EXPECT_EQ(read->data[0], std::byte{0x11});
  EXPECT_EQ(read->data[65535], std::byte{0x11});
  std::fill(read->data.begin(), read->data.end(), std::byte{0xaa});
  ASSERT_TRUE(pair.WaitDisk(0, DiskState::kDiskless));
  pair.AttachWhenItMay(0);
  EXPECT_TRUE(std::all_of(read->data.begin(), read->data.end(),
                          [](std::byte b) { return b == std::byte{0xaa}; }));
  ASSERT_TRUE(pair.BecomesUpToDate());
}

TEST(DiskTimeout, ASecondarysDiskThatHangsDoesNotHoldThePrimaryUp) {
  TimeoutPair pair(Limited(862));
  pair.Hang(1);
  std::vector<FrontIo*> writes;
  for (uint64_t i = 0; i < 20; ++i) writes.push_back(pair.StartWrite(0, i * 16384, 8192, 0x61));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }, 30s));
  for (FrontIo* write : writes) EXPECT_TRUE(write->ok());
  ASSERT_TRUE(pair.WaitDisk(1, DiskState::kDiskless));
  EXPECT_EQ(pair.connection(0, 1), ConnectionState::kConnected);
  pair.AttachWhenItMay(1);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
  pair.ExpectIdleCounters();
}

TEST(DiskTimeout, WithoutAPeerTheRequestsFail) {
  TimeoutPair pair(Limited(863));
  pair.Cut(true);
  ASSERT_TRUE(pair.WaitConnection(0, ConnectionState::kConnecting));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x62), 0);
  pair.Hang(0);
  EXPECT_EQ(pair.Do(0, IoOp::kWrite, 8192, 4096, 0x63), EIO);
  ASSERT_TRUE(pair.WaitDisk(0, DiskState::kDiskless));
  EXPECT_EQ(pair.Do(0, IoOp::kRead, 0, 4096), EIO);
  pair.Cut(false);
  pair.RunFor(5s);
  // What was acknowledged is on this disk only; it is there when the disk is back.
  pair.AttachWhenItMay(0);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.NowIs(1, 0, 4096, 0x62));
  EXPECT_TRUE(pair.Equal(0, 1));
}

TEST(DiskTimeout, AnAttachToADiskThatHangsEnds) {
  TimeoutPair pair(Limited(864));
  ASSERT_TRUE(pair.Detach(1));
  pair.Hang(1);
  Status attached = pair.Attach(1);
  ASSERT_FALSE(attached);
  EXPECT_EQ(pair.disk_state(1), DiskState::kDiskless);
  pair.AttachWhenItMay(1);
  ASSERT_TRUE(pair.BecomesUpToDate());
}

TEST(DiskTimeout, MetadataCountsToo) {
  // A cold extent: the first thing that the disk is asked for is the activity log.
  TimeoutPair pair(Limited(865));
  pair.RunFor(1s);
  pair.Hang(0);
  FrontIo* write = pair.StartWrite(0, 40 << 20, 4096, 0x64);
  ASSERT_TRUE(pair.RunUntil([&] { return write->answered(); }, 30s));
  EXPECT_TRUE(write->ok());
  ASSERT_TRUE(pair.WaitDisk(0, DiskState::kDiskless));
  EXPECT_TRUE(pair.NowIs(1, 40 << 20, 4096, 0x64));
}

// It is the disk that they are on the way to, whatever it is attached to next.
TEST(DiskTimeout, WhatHasNotComeBackIsInTheWayOfAnotherVolumeToo) {
  TimeoutPair pair(Limited(870));
  pair.Hang(1);
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x68), 0);
  ASSERT_TRUE(pair.WaitDisk(1, DiskState::kDiskless));
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.connection(1, 0) != ConnectionState::kConnected; }));
  ASSERT_TRUE(pair.Disconnect(1, 0));
  ASSERT_TRUE(pair.Await(1, pair.resource(1).RemoveVolume(0)));
  ASSERT_TRUE(pair.resource(1).AddVolume({}));
  EXPECT_NE(pair.AttachError(1).find("have not come back from backend disk0"), std::string::npos);
  pair.AttachWhenItMay(1);
}

// The last thing that the disk is asked for: when that is given up, nothing is left of the disk.
TEST(DiskTimeout, ADiskThatHangsWhileItIsBeingDetached) {
  for (bool external : {false, true}) {
    SCOPED_TRACE(external);
    ClusterOptions options = Limited(869);
    options.external_metadata = external;
    TimeoutPair pair(options);
    pair.RunFor(1s);
    pair.Hang(1);
    (void)pair.Detach(1);
    ASSERT_TRUE(pair.WaitDisk(1, DiskState::kDiskless));
    EXPECT_EQ(pair.volume_status(1).counters.disk_timeouts, 1u);
    pair.Heal(1);
    ASSERT_TRUE(pair.RunUntil([&] { return pair.disk(1).in_flight() == 0; }, 3600s));
    pair.RunFor(1s);
    if (external) continue;  // Attach knows nothing of the other disk
    ASSERT_TRUE(pair.Attach(1));
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
  }
}

TEST(DiskTimeout, OffByDefaultAndNotForASlowDisk) {
  TimeoutPair off(Options(866));
  off.Hang(0);
  FrontIo* write = off.StartWrite(0, 0, 4096, 0x65);
  off.RunFor(10s);
  EXPECT_FALSE(write->answered());
  EXPECT_EQ(off.disk_state(0), DiskState::kUpToDate);
  off.Heal(0);
  ASSERT_TRUE(off.RunUntil([&] { return write->answered(); }, 3600s));
  TimeoutPair slow(Limited(867, 20s));
  slow.disk(0).set_slowdown(500);
  for (uint64_t i = 0; i < 10; ++i) EXPECT_EQ(slow.Do(0, IoOp::kWrite, i * 8192, 4096, 0x66), 0);
  EXPECT_EQ(slow.disk_state(0), DiskState::kUpToDate);
  EXPECT_EQ(slow.volume_status(0).counters.disk_timeouts, 0u);
}

TEST(DiskTimeout, CallsLocalIoError) {
  ClusterOptions options = Limited(868);
  options.disk.on_io_error = OnIoError::kCallLocalIoError;
  options.handlers.path(Handler::kLocalIoError) = "/h/local-io-error";
  TimeoutPair pair(options);
  pair.handlers(0).Exits("/h/local-io-error", 0);
  pair.Hang(0);
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x67), 0);
  ASSERT_TRUE(pair.WaitDisk(0, DiskState::kDiskless));
  EXPECT_EQ(pair.handlers(0).Count("/h/local-io-error"), 1u);
}

TEST(DiskTimeout, TheRangeIsChecked) {
  VolumeConfig config;
  config.disk.disk_timeout = 50ms;
  EXPECT_FALSE(Validate(config));
  config.disk.disk_timeout = 601s;
  EXPECT_FALSE(Validate(config));
  config.disk.disk_timeout = 600s;
  EXPECT_TRUE(Validate(config));
  config.disk.disk_timeout = 0s;
  EXPECT_TRUE(Validate(config));
}

}  // namespace
}  // namespace umblock::drbd
