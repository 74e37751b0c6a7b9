// Sizes of a volume between two nodes: resizes with I/O running, from either side, crashes in the
// middle of them, and what the nodes agree on when they meet.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/pair.h"

namespace umblock::drbd {
namespace {

using testing::FrontIo;
using testing::Options;
using testing::Pair;
using testing::Text;

constexpr uint64_t kMiB = 1 << 20;

struct Growing : Pair {
  explicit Growing(uint64_t seed = 1, Protocol protocol = Protocol::kC)
      : Pair(Options(seed, protocol)), before(size(0)) {}
  uint64_t size(int i) { return status(i).volumes.at(0).size_bytes; }
  uint64_t backing(int i) { return status(i).volumes.at(0).backing_bytes; }
  void GrowBacking(int i, uint64_t bytes) {
    Status grown = Await(i, program(i).backends[0]->Grow(bytes));
    ASSERT_TRUE(grown) << Text(grown);
    ASSERT_TRUE(RunUntil([&] { return backing(i) == bytes; }));
  }
  void GrowBoth(uint64_t bytes) {
    GrowBacking(0, bytes);
    GrowBacking(1, bytes);
  }
  Status Resize(int i, ResizeRequest request = {}) {
    return Await(i, resource(i).Resize(0, request));
  }
  // Both have this size, all of it is UpToDate and equal.
  void ExpectBoth(uint64_t bytes) {
    EXPECT_TRUE(BecomesUpToDate());
    EXPECT_EQ(size(0), bytes);
    EXPECT_EQ(size(1), bytes);
    EXPECT_EQ(out_of_sync(0, 1), 0U);
    EXPECT_EQ(out_of_sync(1, 0), 0U);
    EXPECT_TRUE(Equal(0, 1));
  }
  // As a daemon after a crash: it knows how large the backing device was.
  void BootGrown(int i, uint64_t last_known) {
    RememberSize(last_known);
    Boot(i);
  }

  uint64_t before;
};

class FromEitherSide : public ::testing::TestWithParam<int> {};

TEST_P(FromEitherSide, GrowsWithItsIoRunning) {
  Growing pair(10);
  pair.GrowBoth(160 * kMiB);
  // What lies beyond differs until it is synced.
  std::vector<std::byte> junk(64 * 1024, std::byte{0x5a});
  pair.disk(1).WriteNow(100 * kMiB, junk);
  EXPECT_EQ(pair.size(0), pair.before);
  bool stop = false;
  uint64_t written = 0;
  std::function<void()> again = [&] {
    if (stop) return;
    const uint64_t at = written++ % 64 * 65536;
    FrontIo* io = pair.StartWrite(0, at, 65536, static_cast<uint8_t>(written));
    io->on_done = again;
  };
  for (int i = 0; i < 4; ++i) again();
  pair.RunFor(50ms);
  Status resized = pair.Resize(GetParam());
  ASSERT_TRUE(resized) << Text(resized);
  ASSERT_TRUE(pair.RunUntil([&] { return pair.size(0) == pair.size(1); }));
  EXPECT_GT(pair.size(0), 159 * kMiB);
  // The end is there to be written before the resync has come to it.
  EXPECT_EQ(pair.Do(0, IoOp::kWrite, pair.size(0) - 65536, 65536, 0x77), 0);
  stop = true;
  ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }));
  EXPECT_GT(written, 8U);
  pair.ExpectAnsweredOnce();
  for (int i : {0, 1}) EXPECT_EQ(pair.ByteOnDisk(i, pair.size(0) - 1), 0x77) << i;
  pair.ExpectBoth(pair.size(0));
  EXPECT_EQ(pair.status(0).role, Role::kPrimary);
}

TEST_P(FromEitherSide, AssumedCleanNothingIsSynced) {
  Growing pair(11);
  pair.GrowBoth(160 * kMiB);
  const uint64_t read_before = pair.disk(0).count(SimDiskOp::kRead);
  ASSERT_TRUE(pair.Resize(GetParam(), {.assume_clean = true}));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.size(0) == pair.size(1); }));
  EXPECT_EQ(pair.repl(0, 1), ReplicationState::kEstablished);
  EXPECT_LT(pair.disk(0).count(SimDiskOp::kRead) - read_before, 10U);
  pair.ExpectBoth(pair.size(0));
}

// Neither is Primary: who asks is the source.
TEST_P(FromEitherSide, GrowsWithoutAPrimary) {
  Growing pair(12);
  ASSERT_TRUE(pair.Demote(0));
  pair.GrowBoth(96 * kMiB);
  pair.disk(0).WriteNow(80 * kMiB, std::vector<std::byte>(4096, std::byte{1}));
  pair.disk(1).WriteNow(80 * kMiB, std::vector<std::byte>(4096, std::byte{2}));
  ASSERT_TRUE(pair.Resize(GetParam()));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.size(0) == pair.size(1); }));
  pair.ExpectBoth(pair.size(0));
  EXPECT_EQ(pair.ByteOnDisk(0, 80 * kMiB), GetParam() + 1);
}

TEST_P(FromEitherSide, TheSmallestDeviceWins) {
  Growing pair(13);
  pair.GrowBacking(GetParam(), 200 * kMiB);
  EXPECT_TRUE(pair.Resize(GetParam()));
  pair.ExpectBoth(pair.before);
  Status more = pair.Resize(GetParam(), {.size = 128 * kMiB});
  ASSERT_FALSE(more);
  EXPECT_NE(more.error().message().find("the least of all nodes"), std::string::npos) << Text(more);
  pair.GrowBacking(1 - GetParam(), 130 * kMiB);
  ASSERT_TRUE(pair.Resize(GetParam(), {.size = 128 * kMiB}));
  pair.ExpectBoth(128 * kMiB);
  // And is kept at a reconnect, though there is room for more.
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.Connect(1, 0));
  ASSERT_TRUE(pair.WaitConnection(0, ConnectionState::kConnected));
  pair.ExpectBoth(128 * kMiB);
}

INSTANTIATE_TEST_SUITE_P(Node, FromEitherSide, ::testing::Values(0, 1));

// What the peer said of its size when it connected is not what it has now.
TEST(Resize, ADiskThatIsAttachedAfterwardsHasTheNewSize) {
  for (int who : {0, 1}) {
    Growing pair(140 + static_cast<uint64_t>(who));
    pair.GrowBoth(160 * kMiB);
    ASSERT_TRUE(pair.Resize(0));
    ASSERT_TRUE(pair.RunUntil([&] { return pair.size(0) == pair.size(1); }));
    const uint64_t after = pair.size(0);
    ASSERT_TRUE(pair.BecomesUpToDate());
    ASSERT_TRUE(pair.Detach(who));
    Status attached = pair.Attach(who);
    ASSERT_TRUE(attached) << Text(attached);
    EXPECT_EQ(pair.size(0), after);
    EXPECT_EQ(pair.size(1), after);
    EXPECT_EQ(pair.Do(0, IoOp::kWrite, after - 65536, 65536, 0x77), 0);
    pair.ExpectBoth(after);
  }
}

TEST(Resize, WhatIsNotPossibleIsRefusedWithTheReason) {
  Growing pair(14);
  auto refused = [&](ResizeRequest request, std::string_view part) {
    Status status = pair.Resize(0, request);
    ASSERT_FALSE(status) << part;
    EXPECT_NE(status.error().message().find(part), std::string::npos) << Text(status);
    EXPECT_EQ(pair.size(0), pair.before);
    EXPECT_EQ(pair.size(1), pair.before);
  };
  refused({.size = 128 * kMiB}, "has room for");
  refused({.size = 5000}, "multiple of 4096");
  refused({.size = 32 * kMiB}, "would be lost");
  Result<OpenerId> opener = pair.volume(0).Open({"a test", true});
  ASSERT_TRUE(opener);
  refused({.size = 32 * kMiB, .shrink = true}, "a test");
  pair.volume(0).Close(*opener);
  ASSERT_TRUE(pair.Await(1, pair.resource(1).Invalidate(0, 0)));
  pair.GrowBoth(100 * kMiB);
  refused({}, "when that is over");
  ASSERT_TRUE(pair.BecomesUpToDate());
  ASSERT_TRUE(pair.Disconnect(0, 1));
  refused({}, "is away");
}

TEST(Resize, ShrinksWhenThatIsAskedFor) {
  Growing pair(15);
  ASSERT_TRUE(pair.Resize(0, {.size = 32 * kMiB, .shrink = true}));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.size(1) == 32 * kMiB; }));
  pair.ExpectBoth(32 * kMiB);
  EXPECT_EQ(pair.Do(0, IoOp::kWrite, 32 * kMiB, 4096, 1), EINVAL);
  EXPECT_EQ(pair.Do(0, IoOp::kWrite, 32 * kMiB - 4096, 4096, 1), 0);
  ASSERT_TRUE(pair.Resize(1));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.size(0) == pair.before; }));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.size(1) == pair.before; }));
  pair.ExpectBoth(pair.before);
}

// The size is that of the nodes with a disk.
TEST(Resize, ADisklessPrimaryGrowsWithItsPeer) {
  Growing pair(16);
  ASSERT_TRUE(pair.Detach(0));
  pair.GrowBacking(1, 128 * kMiB);
  ASSERT_TRUE(pair.Resize(1));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.size(0) == pair.size(1); }));
  EXPECT_GT(pair.size(0), 127 * kMiB);
  EXPECT_EQ(pair.Do(0, IoOp::kWrite, 120 * kMiB, 4096, 0x42), 0);
  EXPECT_EQ(pair.ByteOnDisk(1, 120 * kMiB), 0x42);
  EXPECT_FALSE(pair.Resize(0));
}

// Alone, with the word of the operator; the peer follows when it is back.
TEST(Resize, WhoIsAwayFollowsWhenItComes) {
  Growing pair(17);
  pair.GrowBoth(128 * kMiB);
  pair.disk(1).WriteNow(100 * kMiB, std::vector<std::byte>(4096, std::byte{9}));
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_TRUE(pair.Resize(0, {.assume_peer_has_space = true}));
  const uint64_t after = pair.size(0);
  EXPECT_GT(after, 127 * kMiB);
  EXPECT_EQ(pair.size(1), pair.before);
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.Connect(1, 0));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.size(1) == after; }));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.out_of_sync(0, 1) == 0; }));
  pair.ExpectBoth(after);
}

// Devices that grew while nobody looked: found by the size they had, and as a kernel the volume
// takes the room when the nodes meet. Nothing was written since, so the generations are equal.
TEST(Resize, NodesThatMeetWithLargerDevicesGrow) {
  Growing pair(18);
  ASSERT_TRUE(pair.Demote(0));
  const uint64_t bytes = pair.backing(0);
  for (int i : {0, 1}) pair.node(i).Crash(SimCrash::kProcessKill);
  pair.RunFor(1s);
  for (int i : {0, 1}) {
    pair.disk(i).Grow(128 * kMiB);
    pair.disk(i).WriteNow(100 * kMiB, std::vector<std::byte>(4096, static_cast<std::byte>(i)));
  }
  for (int i : {0, 1}) pair.BootGrown(i, bytes);
  ASSERT_TRUE(
      pair.RunUntil([&] { return pair.size(0) > 127 * kMiB && pair.size(1) > 127 * kMiB; }));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.out_of_sync(0, 1) + pair.out_of_sync(1, 0) == 0; }));
  pair.ExpectBoth(pair.size(0));
}

// A power cut of one node, or of both, at any moment of a resize: each has one of the two sizes,
// and they settle when they meet again.
class CutDuringResize : public ::testing::TestWithParam<int> {};

TEST_P(CutDuringResize, LeavesOneOfTheTwoSizesAndSettles) {
  for (uint64_t seed = 0; seed < 14; ++seed) {
    SCOPED_TRACE(seed);
    const int who = GetParam();  // 0, 1, 2: both
    Growing pair(100 + seed);
    const uint64_t bytes = pair.backing(0);
    for (int i : {0, 1}) {
      pair.node(i).reactor()->Spawn([](Backend* b) -> Task<void> {
        (void)co_await b->Grow(128 * kMiB);
      }(pair.program(i).backends[0].get()));
    }
    pair.disk(1).Grow(128 * kMiB);
    pair.disk(1).WriteNow(110 * kMiB, std::vector<std::byte>(4096, std::byte{7}));
    auto resize = pair.Start(static_cast<int>(seed % 2),
                             pair.resource(static_cast<int>(seed % 2)).Resize(0, {}));
    pair.StartWrite(0, 65536, 65536, 0x33);
    pair.RunFor(std::chrono::microseconds(1500 * seed));
    if (who != 1) pair.node(0).Crash(SimCrash::kPowerCut);
    if (who != 0) pair.node(1).Crash(SimCrash::kPowerCut);
    pair.RunFor(2s);
    if (who != 1) pair.BootGrown(0, bytes);
    if (who != 0) pair.BootGrown(1, bytes);
    ASSERT_TRUE(pair.BecomesUpToDate());
    ASSERT_TRUE(pair.RunUntil([&] {
      return pair.out_of_sync(0, 1) + pair.out_of_sync(1, 0) == 0 && pair.size(0) == pair.size(1);
    })) << pair.size(0)
        << " " << pair.size(1);
    EXPECT_TRUE(pair.size(0) == pair.before || pair.size(0) > 127 * kMiB) << pair.size(0);
    EXPECT_TRUE(pair.Equal(0, 1));
  }
}

INSTANTIATE_TEST_SUITE_P(Nodes, CutDuringResize, ::testing::Values(0, 1, 2));

// A link that is lost between the votes and the end.
TEST(Resize, ALostLinkSettlesAtTheReconnect) {
  for (uint64_t seed = 0; seed < 16; ++seed) {
    SCOPED_TRACE(seed);
    Growing pair(200 + seed);
    pair.GrowBoth(128 * kMiB);
    pair.disk(1).WriteNow(110 * kMiB, std::vector<std::byte>(4096, std::byte{7}));
    const int from = static_cast<int>(seed % 2);
    auto resize = pair.Start(from, pair.resource(from).Resize(0, {}));
    pair.RunFor(std::chrono::microseconds(400 * seed));
    pair.Cut(true);
    pair.RunFor(20s);
    pair.Cut(false);
    ASSERT_TRUE(pair.WaitConnection(0, ConnectionState::kConnected));
    ASSERT_TRUE(pair.RunUntil([&] {
      return pair.out_of_sync(0, 1) + pair.out_of_sync(1, 0) == 0 && pair.size(0) == pair.size(1);
    })) << pair.size(0)
        << " " << pair.size(1);
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
  }
}

}  // namespace
}  // namespace umblock::drbd
