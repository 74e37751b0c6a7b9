// What acts promise beside each other: sizes, attaching under load, force, volumes that come while
// an act runs.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/bench.h"
#include "engine/drbd/core/testing/pair.h"
#include "engine/drbd/core/testing/scripted_peer.h"

namespace umblock::drbd {
namespace {

using testing::Bench;
using testing::ClusterOptions;
using testing::FrontIo;
using testing::Options;
using testing::ScriptedPeer;
using testing::Text;

// What a node with data has stays as large as it is, whatever room the peer has or lacks.
TEST(Acts, AVolumeWithDataKeepsItsSize) {
  ScriptedPeer peer(Options(1));
  uint64_t bytes = peer.bench->volume_status(0).size_bytes;
  peer.persona.size_sectors = bytes / 512 + 4096;
  peer.StartResource();
  ASSERT_TRUE(peer.Establish()) << peer.last_error();
  EXPECT_EQ(peer.bench->volume_status(0).size_bytes, bytes);
  peer.Hangup();
  peer.bench->RunFor(2s);
  peer.persona.size_sectors = bytes / 512 - 4096;
  EXPECT_FALSE(peer.Establish());
  EXPECT_EQ(peer.bench->volume_status(0).size_bytes, bytes);
  EXPECT_NE(peer.last_error().find("with data"), std::string::npos) << peer.last_error();
}

// Protocols A and B call a write done that is still on its way to the only disk there is.
TEST(Acts, ADisklessPrimaryReadsWhatItHasWritten) {
  for (Protocol protocol : {Protocol::kA, Protocol::kB, Protocol::kC}) {
    SCOPED_TRACE(static_cast<int>(protocol));
    Bench bench(Options(2, protocol));
    bench.BringUpPrimary();
    Status detached = bench.Detach(0);
    ASSERT_TRUE(detached) << Text(detached);
    bench.disk(1).set_slowdown(50);
    for (int i = 0; i < 40; ++i) {
      uint64_t offset = bench.world().random().Below(64) * 4096;
      auto fill = static_cast<uint8_t>(i + 1);
      ASSERT_EQ(bench.Do(0, IoOp::kWrite, offset, 4096, fill), 0);
      ASSERT_EQ(bench.ReadFront(0, offset, 4096), std::vector<std::byte>(4096, std::byte{fill}));
    }
    bench.disk(1).set_slowdown(1);
  }
}

// A demotion waits for a peer that went silent; who knows better need not.
TEST(Acts, AForcedDisconnectDoesNotWaitForOtherActs) {
  ClusterOptions options = Options(3);
  options.net.ping_int = 120s;
  options.net.timeout = 60s;
  options.net.ping_timeout = 30s;
  Bench bench(options);
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
  bench.world().network().Partition(bench.node(0), bench.node(1), true);
  FrontIo* write = bench.StartWrite(0, 0, 4096, 1);
  bench.RunFor(100ms);
  auto demoted = bench.Start(0, bench.resource(0).Demote(false));
  bench.RunFor(1s);
  ASSERT_FALSE(write->answered());
  ASSERT_FALSE(demoted->has_value());
  auto disconnected = bench.Start(0, bench.resource(0).Disconnect(1, true));
  EXPECT_TRUE(bench.RunUntil([&] { return disconnected->has_value(); }, 5s));
  EXPECT_TRUE(bench.RunUntil([&] { return write->answered() && demoted->has_value(); }, 5s));
  EXPECT_EQ(write->error, 0);
  EXPECT_TRUE(**demoted) << Text(**demoted);
  EXPECT_EQ(bench.connection(0, 1), ConnectionState::kStandAlone);
}

// An attach waits for the peer's answer for half a minute; who knows better need not.
TEST(Acts, AForcedDetachEndsAnAttachThatNegotiates) {
  ClusterOptions options = Options(7);
  options.net.ping_int = 120s;
  options.net.timeout = 60s;
  options.net.ping_timeout = 30s;
  Bench bench(options);
  bench.BringUpPrimary();
  ASSERT_TRUE(bench.Detach(1));
  auto attached = bench.Start(
      1, bench.resource(1).Attach({.volume = 0, .backing = bench.program(1).backends[0].get()}));
  ASSERT_TRUE(bench.RunUntil([&] { return bench.disk_state(1) == DiskState::kNegotiating; }, 5s));
  bench.world().network().Partition(bench.node(0), bench.node(1), true);
  bench.RunFor(1s);
  ASSERT_FALSE(attached->has_value());
  auto detached = bench.Start(1, bench.resource(1).Detach(0, true));
  ASSERT_TRUE(bench.RunUntil([&] { return detached->has_value(); }, 5s));
  EXPECT_TRUE(**detached) << Text(**detached);
  ASSERT_TRUE(attached->has_value());
  EXPECT_NE(Text(**attached).find("ended by a forced detach"), std::string::npos)
      << Text(**attached);
  EXPECT_EQ(bench.disk_state(1), DiskState::kDiskless);
  // And nothing of it stays behind.
  bench.world().network().Partition(bench.node(0), bench.node(1), false);
  ASSERT_TRUE(bench.Await(1, bench.resource(1).Disconnect(0, true), 5s));
  ASSERT_TRUE(bench.Attach(1));
  ASSERT_TRUE(bench.Connect(1, 0));
  EXPECT_TRUE(bench.BecomesUpToDate());
}

// Acts that wait for I/O are refused while it is held; to resume stands behind nothing.
TEST(Acts, ASuspensionHasAWayOut) {
  Bench bench(Options(5));
  bench.BringUpPrimary();
  ASSERT_TRUE(bench.Await(0, bench.resource(0).SuspendIo()));
  FrontIo* write = bench.StartWrite(0, 0, 4096, 1);
  bench.RunFor(100ms);
  Status detached = bench.Detach(0);
  ASSERT_FALSE(detached);
  EXPECT_NE(Text(detached).find("resume it first"), std::string::npos) << Text(detached);
  EXPECT_FALSE(write->answered());
  ASSERT_TRUE(bench.Await(0, bench.resource(0).ResumeIo(), 5s));
  ASSERT_TRUE(bench.RunUntil([&] { return write->answered(); }, 5s));
  EXPECT_TRUE(write->ok());
  // An I/O on its way when it is suspended, and an act that waits for it.
  bench.disk(0).set_slowdown(1000);
  FrontIo* slow = bench.StartWrite(0, 4096, 4096, 2);
  bench.RunFor(10ms);
  auto detaching = bench.Start(0, bench.resource(0).Detach(0, false));
  bench.RunFor(10ms);
  auto suspended = bench.Start(0, bench.resource(0).SuspendIo());
  bench.RunFor(10ms);
  bench.disk(0).set_slowdown(1);
  ASSERT_TRUE(bench.Await(0, bench.resource(0).ResumeIo(), 5s));
  EXPECT_TRUE(bench.RunUntil([&] { return slow->answered() && detaching->has_value(); }, 60s));
  EXPECT_TRUE(bench.RunUntil([&] { return suspended->has_value(); }, 60s));
  ASSERT_TRUE(bench.Await(0, bench.resource(0).ResumeIo(), 5s));
}

TEST(Acts, TheEndAnswersWhatASuspensionHolds) {
  Bench bench(Options(6));
  bench.BringUpPrimary();
  bench.resource(0).FailHeldIo();  // nothing is held
  EXPECT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 1), 0);
  ASSERT_TRUE(bench.Await(0, bench.resource(0).SuspendIo()));
  FrontIo* write = bench.StartWrite(0, 0, 4096, 2);
  FrontIo* flush = bench.Submit(0, IoOp::kFlush, 0, 0);
  bench.RunFor(1s);
  EXPECT_FALSE(write->answered());
  bench.resource(0).FailHeldIo();
  ASSERT_TRUE(bench.RunUntil([&] { return write->answered() && flush->answered(); }, 5s));
  EXPECT_EQ(write->error, ENODEV);
  EXPECT_EQ(flush->error, ENODEV);
  EXPECT_EQ(bench.Do(0, IoOp::kWrite, 0, 4096, 3), ENODEV);
}

TEST(Acts, AVolumeAddedDuringAPromotionIsUsable) {
  ScriptedPeer peer(Options(4));
  auto promoted = peer.bench->Start(0, peer.resource().Promote(false));
  VolumeConfig added;
  added.number = 1;
  Status status = peer.resource().AddVolume(added);
  ASSERT_TRUE(status) << Text(status);
  ASSERT_TRUE(peer.bench->RunUntil([&] { return promoted->has_value(); }));
  EXPECT_TRUE(**promoted) << Text(**promoted);
  // It has no data, and says so at once.
  EXPECT_EQ(peer.bench->Do(0, IoOp::kWrite, 0, 4096, 1), 0);
  FrontIo* read = peer.bench->Submit(0, IoOp::kFlush, 0, 0, 0, false, 1);
  EXPECT_TRUE(peer.bench->RunUntil([&] { return read->answered(); }, 5s));
}

// Node 0 has written without node 1, and lost its disk since: what it has shown is nowhere in
// reach, and it refuses to connect, at every attempt.
struct RefusingPair : Bench {
  explicit RefusingPair(const ClusterOptions& options) : Bench(options) {
    BringUpPrimary();
    EXPECT_EQ(Do(0, IoOp::kWrite, 0, 4096, 1), 0);
    world().network().Partition(node(0), node(1), true);
    EXPECT_TRUE(RunUntil([&] { return !Connected(); }, 60s));
    EXPECT_EQ(Do(0, IoOp::kWrite, 0, 4096, 2), 0);
    disk(0).AddBadRange(65536, 4096, EIO);
    EXPECT_NE(Do(0, IoOp::kWrite, 65536, 4096, 2), 0);
    EXPECT_TRUE(RunUntil([&] { return disk_state(0) == DiskState::kDiskless; }, 60s));
    disk(0).ClearFaults();
    world().network().Partition(node(0), node(1), false);
    EXPECT_TRUE(RunUntil([&] { return Refusals() > 0; }, 60s));
  }
  bool Connected() {
    return connection(0, 1) == ConnectionState::kConnected ||
           connection(1, 0) == ConnectionState::kConnected;
  }
  size_t Refusals() {
    size_t lines = 0;
    for (const std::string& line : world().recent_log()) {
      lines += line.find("has shown data of generation") != std::string::npos;
    }
    return lines;
  }
};

TEST(Acts, ARefusedConnectSaysWhyOnceAndInItsStatus) {
  RefusingPair pair(Options(6));
  for (int i = 0; i < 20; ++i) {
    pair.RunFor(2s);
    EXPECT_NE(pair.last_error(0).find("has shown data of generation"), std::string::npos)
        << pair.last_error(0);
    EXPECT_NE(pair.last_error(1).find("its status says why"), std::string::npos)
        << pair.last_error(1);
  }
  EXPECT_EQ(pair.Refusals(), 1u);
  pair.RunFor(5min);
  EXPECT_EQ(pair.Refusals(), 2u) << "with a count, every five minutes";
}

TEST(Acts, ADemotionComesThroughBetweenTwoConnects) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    RefusingPair pair(Options(seed));
    pair.RunFor(std::chrono::milliseconds(130 * seed));
    Status demoted = pair.Demote(0);
    ASSERT_TRUE(demoted) << Text(demoted);
    ASSERT_TRUE(pair.RunUntil([&] { return pair.Connected(); }, 60s)) << pair.Describe(0);
    Status attached = pair.Attach(0);
    ASSERT_TRUE(attached) << Text(attached);
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
  }
}

// A node that has written nothing must not become a split brain for one that has.
TEST(Acts, OnlyAPrimaryBeginsAGeneration) {
  Bench bench(Options(7));
  bench.BringUp();
  Status connected = bench.Await(0, bench.resource(0).NewCurrentUuid(0, false, true));
  ASSERT_FALSE(connected);
  EXPECT_NE(Text(connected).find("disconnect it first"), std::string::npos) << Text(connected);
  ASSERT_TRUE(bench.Disconnect(0, 1));
  const std::string before = bench.volume_status(0).current_uuid;
  Status refused = bench.Await(0, bench.resource(0).NewCurrentUuid(0, false));
  ASSERT_FALSE(refused);
  EXPECT_NE(Text(refused).find("split brain"), std::string::npos) << Text(refused);
  EXPECT_NE(Text(refused).find("promote it"), std::string::npos) << Text(refused);
  EXPECT_EQ(bench.volume_status(0).current_uuid, before);

  ASSERT_TRUE(bench.Await(0, bench.resource(0).NewCurrentUuid(0, false, true)));
  const std::string forced = bench.volume_status(0).current_uuid;
  EXPECT_NE(forced, before);
  EXPECT_EQ(std::stoull(forced, nullptr, 16) & 1, 0u) << "it was not Primary";
  ASSERT_TRUE(bench.Promote(0));
  EXPECT_TRUE(bench.Await(0, bench.resource(0).NewCurrentUuid(0, false)));
  ASSERT_TRUE(bench.Connect(0, 1));
  ASSERT_TRUE(bench.BecomesUpToDate());
}

// One bitmap slot: another node id gets it only when the one that has it is forgotten.
TEST(Acts, AForgottenPeerMakesRoomAndIsSynchronisedInFull) {
  ClusterOptions options = Options(8);
  options.max_peers = 1;
  Bench bench(options);
  bench.BringUpPrimary();
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 65536, 0x11), 0);
  Resource& resource = bench.resource(0);
  Status early = bench.Await(0, resource.ForgetPeer(0, 1));
  ASSERT_FALSE(early);
  EXPECT_NE(Text(early).find("delete the connection"), std::string::npos) << Text(early);
  ASSERT_TRUE(bench.Disconnect(0, 1));
  ASSERT_TRUE(bench.Await(0, resource.RemovePeer(1, false)));

  PeerConfig other = bench.PeerOf(0, 1);
  other.node_id = 5;
  Status full = resource.AddPeer(other);
  ASSERT_FALSE(full);
  EXPECT_NE(Text(full).find("other nodes (1)"), std::string::npos) << Text(full);
  EXPECT_NE(Text(full).find("umctl volume forget-peer r0/0 NODE_ID"), std::string::npos);
  EXPECT_FALSE(bench.Await(0, resource.ForgetPeer(0, 0)));
  EXPECT_FALSE(bench.Await(0, resource.ForgetPeer(0, 99)));
  EXPECT_FALSE(bench.Await(0, resource.ForgetPeer(3, 1)));
  Status unknown = bench.Await(0, resource.ForgetPeer(0, 5));
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code(), ErrorCode::kNotFound);

  Status forgotten = bench.Await(0, resource.ForgetPeer(0, 1));
  ASSERT_TRUE(forgotten) << Text(forgotten);
  Status again = bench.Await(0, resource.ForgetPeer(0, 1));
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code(), ErrorCode::kNotFound);
  Status added = resource.AddPeer(other);
  ASSERT_TRUE(added) << Text(added);
  ASSERT_EQ(bench.Do(0, IoOp::kWrite, 0, 65536, 0x22), 0);
  ASSERT_TRUE(bench.Await(0, resource.RemovePeer(5, false)));
  ASSERT_TRUE(bench.Await(0, resource.ForgetPeer(0, 5)));

  // The first one is back, as it was.
  ASSERT_TRUE(resource.AddPeer(bench.PeerOf(0, 1)));
  EXPECT_EQ(bench.out_of_sync(0, 1), bench.volume_status(0).size_bytes);
  ASSERT_TRUE(bench.Connect(0, 1));
  ASSERT_TRUE(bench.BecomesUpToDate());
  EXPECT_TRUE(bench.Equal(0, 1));
  EXPECT_TRUE(bench.NowIs(1, 0, 65536, 0x22));
}

TEST(Acts, WhatIsForgottenStaysForgottenAfterAPowerCut) {
  ClusterOptions options = Options(9);
  options.max_peers = 1;
  Bench bench(options);
  bench.BringUp();
  ASSERT_TRUE(bench.Disconnect(0, 1));
  ASSERT_TRUE(bench.Await(0, bench.resource(0).RemovePeer(1, false)));
  ASSERT_TRUE(bench.Await(0, bench.resource(0).ForgetPeer(0, 1)));
  bench.node(0).Crash(SimCrash::kPowerCut);
  bench.world().network().Partition(bench.node(0), bench.node(1), true);
  bench.Boot(0);
  EXPECT_EQ(bench.out_of_sync(0, 1), bench.volume_status(0).size_bytes) << "a slot like a new one";
}

// A clean detach of the Secondary's disk under load: a received write that reaches the disk's gate
// only after the disk has begun to close is refused and marks its block; the bitmap page of it gets
// dirty between the last write of the bitmap and the end of the flush behind it.
TEST(Acts, ADetachUnderWriteLoadOnASlowDiskEnds) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    testing::ClusterOptions options =
        testing::Options(seed, seed % 2 != 0 ? Protocol::kA : Protocol::kB);
    options.disk_bytes = uint64_t{640} << 20;
    options.disk.al_extents = 67;
    testing::Pair pair(options);
    constexpr uint64_t kExtent = uint64_t{4} << 20;
    pair.disk(1).set_slowdown(1 + seed % 30);
    for (uint64_t i = 0; i < 120; ++i) {
      uint64_t extent = pair.world().random().Below(150);
      pair.StartWrite(0, extent * kExtent + (i % 64) * 4096, 4096, 0x41);
      pair.RunFor(std::chrono::microseconds(pair.world().random().Below(400)));
    }
    auto detached = pair.Start(1, pair.resource(1).Detach(0, false));
    for (int round = 0; round < 300 && !detached->has_value(); ++round) {
      uint64_t extent = pair.world().random().Below(150);
      pair.StartWrite(0, extent * kExtent, 4096, 0x42);
      pair.RunFor(500us);
    }
    ASSERT_TRUE(pair.RunUntil([&] { return detached->has_value() && pair.AllDone(); }, 120s));
    ASSERT_TRUE(pair.Attach(1));
    EXPECT_TRUE(pair.BecomesUpToDate(120s));
    EXPECT_TRUE(pair.Equal(0, 1));
  }
}

}  // namespace
}  // namespace umblock::drbd
