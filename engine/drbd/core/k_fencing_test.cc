// Fencing (drbd-states.md 5.3, 5.1): scenarios 28 to 37, and what may never happen: a write that is
// acknowledged while the peer may go on alone.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/pair.h"

namespace umblock::drbd {
namespace {

using testing::ClusterOptions;
using testing::FrontIo;
using testing::Options;
using testing::Pair;
using testing::Text;

constexpr const char* kFence = "/h/fence-peer";
constexpr const char* kUnfence = "/h/unfence-peer";

ClusterOptions Fencing(uint64_t seed, FencingPolicy policy) {
  ClusterOptions options = Options(seed);
  options.net.fencing = policy;
  options.handlers.path(Handler::kFencePeer) = kFence;
  options.handlers.path(Handler::kUnfencePeer) = kUnfence;
  return options;
}
ClusterOptions Stonith(uint64_t seed) { return Fencing(seed, FencingPolicy::kResourceAndStonith); }
ClusterOptions ResourceOnly(uint64_t seed) { return Fencing(seed, FencingPolicy::kResourceOnly); }

struct FencingPair : Pair {
  FencingPair(const ClusterOptions& options, int exit_code, Duration after = 500ms)
      : Pair(options) {
    for (int node : {0, 1}) {
      handlers(node).Exits(kFence, exit_code, after);
      handlers(node).Exits(kUnfence, 0);
      handlers(node).runs.clear();
    }
  }
  size_t Fenced(int node) { return handlers(node).Count(kFence); }
  DiskState peer_disk(int node) { return peer_volume(node).peer_disk; }
  std::string uuid(int node) { return volume_status(node).current_uuid.substr(0, 15); }
  // Writes under way when the link is cut, some of which the peer has got.
  std::vector<FrontIo*> CutUnderLoad() {
    std::vector<FrontIo*> writes;
    for (uint64_t i = 0; i < 40; ++i) writes.push_back(StartWrite(0, i * 16384, 8192, 0x51));
    RunFor(200us);
    Cut(true);
    for (uint64_t i = 40; i < 60; ++i) writes.push_back(StartWrite(0, i * 16384, 8192, 0x51));
    return writes;
  }
  static size_t Answered(const std::vector<FrontIo*>& writes) {
    return static_cast<size_t>(
        std::count_if(writes.begin(), writes.end(), [](FrontIo* w) { return w->answered(); }));
  }
  // Every write that was acknowledged is on the peer, as long as nobody has fenced it.
  void ExpectAcknowledgedAreThere(const std::vector<FrontIo*>& writes) {
    for (FrontIo* write : writes) {
      if (write->ok()) EXPECT_TRUE(NowIs(1, write->offset, 8192, 0x51)) << write->offset;
    }
  }
};

// The Primary works on the Secondary's disk, and that fails and comes back. What it has is what is
// in use; without that nobody could ever say so, as the Primary's own disk may not come back
// before.
TEST(Fencing, ADiskThatComesBackToADisklessPrimaryIsTheOneInUse) {
  FencingPair pair(ResourceOnly(281), 4);
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 8192, 0x31), 0);
  ASSERT_TRUE(pair.Detach(0));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 65536, 8192, 0x32), 0);
  pair.disk(1).FailNext(SimDiskOp::kRead, EIO);
  (void)pair.Do(0, IoOp::kRead, 65536, 8192);
  ASSERT_TRUE(pair.WaitDisk(1, DiskState::kDiskless));
  Status refused = pair.Attach(0);
  EXPECT_FALSE(refused) << "its disk lacks the second write";
  Status attached = pair.Attach(1);
  ASSERT_TRUE(attached) << Text(attached);
  EXPECT_EQ(pair.disk_state(1), DiskState::kUpToDate);
  attached = pair.Attach(0);
  ASSERT_TRUE(attached) << Text(attached);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.NowIs(0, 65536, 8192, 0x32));
  EXPECT_TRUE(pair.Equal(0, 1));
}

TEST(Fencing, S28TheHandlerOutdatesThePeerAndIoGoesOn) {
  FencingPair pair(Stonith(28), 4, 5s);
  const std::string before = pair.uuid(0);
  std::vector<FrontIo*> writes = pair.CutUnderLoad();
  ASSERT_TRUE(pair.RunUntil([&] { return pair.Fenced(0) == 1; }));
  EXPECT_EQ(pair.status(0).suspended, "fencing");
  pair.RunFor(4s);
  EXPECT_LT(FencingPair::Answered(writes), writes.size());
  pair.ExpectAcknowledgedAreThere(writes);
  EXPECT_EQ(pair.uuid(0), before);
  FrontIo* read = pair.Submit(0, IoOp::kRead, 0, 4096);
  FrontIo* flush = pair.Submit(0, IoOp::kFlush, 0, 0);
  pair.RunFor(200ms);
  EXPECT_FALSE(read->answered());
  EXPECT_FALSE(flush->answered());
  ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }, 10s));
  for (FrontIo* write : writes) EXPECT_TRUE(write->ok());
  EXPECT_EQ(pair.status(0).suspended, "no");
  EXPECT_EQ(pair.peer_disk(0), DiskState::kOutdated);
  EXPECT_NE(pair.uuid(0), before);
  EXPECT_EQ(pair.disk_state(1), DiskState::kUpToDate);  // nobody has told it
  EXPECT_TRUE(pair.SawEvent(0, "suspended-fencing", "yes"));
  EXPECT_EQ(pair.Fenced(1), 0u);
  // And back.
  pair.Cut(false);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
  EXPECT_EQ(pair.Fenced(0), 1u);
  pair.ExpectAnsweredOnce();
  pair.ExpectIdleCounters();
}

TEST(Fencing, S29AHandlerThatFailsLeavesIoSuspendedUntilItIsResumedByHand) {
  FencingPair pair(Stonith(29), 1);
  const std::string before = pair.uuid(0);
  std::vector<FrontIo*> writes = pair.CutUnderLoad();
  pair.RunFor(30s);
  EXPECT_EQ(pair.Fenced(0), 1u);
  EXPECT_EQ(pair.status(0).suspended, "fencing");
  EXPECT_LT(FencingPair::Answered(writes), writes.size());
  pair.ExpectAcknowledgedAreThere(writes);
  EXPECT_EQ(pair.uuid(0), before);
  Status demoted = pair.Demote(0);
  ASSERT_FALSE(demoted);
  EXPECT_NE(demoted.error().message().find("holds writes back"), std::string::npos);
  ASSERT_TRUE(pair.Await(0, pair.resource(0).ResumeIo()));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }, 10s));
  for (FrontIo* write : writes) EXPECT_TRUE(write->ok());
  EXPECT_NE(pair.uuid(0), before);
  EXPECT_EQ(pair.status(0).suspended, "no");
  pair.Cut(false);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
  pair.ExpectIdleCounters();
}

TEST(Fencing, S30WritesAreSentAgainWhenThePeerIsBack) {
  for (uint64_t seed = 300; seed < 310; ++seed) {
    SCOPED_TRACE(seed);
    FencingPair pair(Stonith(seed), 1);
    const std::string before = pair.uuid(0);
    std::vector<FrontIo*> writes = pair.CutUnderLoad();
    ASSERT_TRUE(pair.RunUntil([&] { return pair.status(0).suspended == "fencing"; }));
    ASSERT_TRUE(pair.WaitConnection(1, ConnectionState::kConnecting));
    pair.RunFor(5s);
    pair.ExpectAcknowledgedAreThere(writes);
    EXPECT_EQ(pair.status(0).suspended, "fencing");
    pair.Cut(false);
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }, 60s)) << pair.Describe(0);
    for (FrontIo* write : writes) EXPECT_TRUE(write->ok());
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_EQ(pair.status(0).suspended, "no");
    EXPECT_EQ(pair.uuid(0), before);
    EXPECT_EQ(pair.uuid(1), before);
    EXPECT_FALSE(pair.SawEvent(0, "replication", "SyncSource"));
    EXPECT_TRUE(pair.Equal(0, 1));
    EXPECT_EQ(pair.out_of_sync(0, 1), 0u);
    pair.ExpectAnsweredOnce();
    // It goes on as ever, and an ordinary loss later is one.
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x61), 0);
    ASSERT_EQ(pair.Do(0, IoOp::kFlush, 0, 0), 0);
    EXPECT_TRUE(pair.StableIs(1, 0, 4096, 0x61));
    pair.ExpectIdleCounters();
  }
}

TEST(Fencing, S31UnreachableOrStonithed) {
  for (int code : {3, 5, 7}) {
    SCOPED_TRACE(code);
    FencingPair pair(Stonith(31), code);
    std::vector<FrontIo*> writes = pair.CutUnderLoad();
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }, 30s));
    EXPECT_EQ(pair.peer_disk(0), code == 3 ? DiskState::kInconsistent : DiskState::kOutdated);
    EXPECT_EQ(pair.status(0).suspended, "no");
    pair.Cut(false);
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
  }
}

TEST(Fencing, S32ThePeerComesBackWhileTheHandlerRuns) {
  FencingPair pair(Stonith(32), 4, 20s);
  std::vector<FrontIo*> writes = pair.CutUnderLoad();
  ASSERT_TRUE(pair.RunUntil([&] { return pair.Fenced(0) == 1; }));
  pair.Cut(false);
  ASSERT_TRUE(pair.BecomesUpToDate());
  ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }, 10s));
  pair.RunFor(30s);
  EXPECT_TRUE(pair.SawEvent(0, "handler", "exit code 4"));
  EXPECT_TRUE(pair.AllUpToDate());
  EXPECT_FALSE(pair.SawEvent(0, "peer-disk", "Outdated"));
}

TEST(Fencing, S33AGracefulDisconnectOutdatesWithoutAHandler) {
  FencingPair pair(ResourceOnly(33), 4);
  ASSERT_TRUE(pair.Disconnect(0, 1));
  EXPECT_EQ(pair.peer_disk(0), DiskState::kOutdated);
  ASSERT_TRUE(pair.WaitDisk(1, DiskState::kOutdated));
  pair.RunFor(5s);
  EXPECT_EQ(pair.Fenced(0), 0u);
  EXPECT_EQ(pair.status(0).suspended, "no");
  EXPECT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x33), 0);
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.BecomesUpToDate());
}

TEST(Fencing, ASecondaryThatLeavesOutdatesItself) {
  for (FencingPolicy own : {FencingPolicy::kResourceAndStonith, FencingPolicy::kDontCare}) {
    FencingPair pair(Stonith(331), 4);
    if (own == FencingPolicy::kDontCare) {
      NetOptions net = pair.PeerOf(1, 0).net;
      net.fencing = own;
      ASSERT_TRUE(pair.Await(1, pair.resource(1).UpdateNetOptions(0, net)));
    }
    Status left = pair.Disconnect(1, 0);
    ASSERT_TRUE(left) << Text(left);
    EXPECT_EQ(pair.disk_state(1), DiskState::kOutdated);
    EXPECT_EQ(pair.peer_disk(0), DiskState::kOutdated);
    EXPECT_EQ(pair.status(0).suspended, "no");
    EXPECT_EQ(pair.Fenced(0), 0u);
    EXPECT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x34), 0);
  }
}

// The other node is gone, and this one has been restarted: what is there may be old.
struct Alone : FencingPair {
  Alone(const ClusterOptions& options, int exit_code) : FencingPair(options, exit_code) {
    node(0).Crash(SimCrash::kPowerCut);
    RunFor(10s);
    node(1).Crash(SimCrash::kPowerCut);
    RunFor(1s);
    Boot(1);
    EXPECT_EQ(disk_state(1), DiskState::kConsistent);
  }
};

TEST(Fencing, S34ARestartedNodeFencesBeforeItIsPromoted) {
  Alone pair(ResourceOnly(34), 4);
  const std::string before = pair.uuid(1);
  Status promoted = pair.Promote(1);
  ASSERT_TRUE(promoted) << Text(promoted);
  EXPECT_EQ(pair.Fenced(1), 1u);
  EXPECT_EQ(pair.peer_disk(1), DiskState::kOutdated);
  EXPECT_EQ(pair.disk_state(1), DiskState::kUpToDate);
  EXPECT_NE(pair.uuid(1), before);
  EXPECT_EQ(pair.Do(1, IoOp::kWrite, 0, 4096, 0x35), 0);
}

TEST(Fencing, S35ThePeerIsPrimaryAndThisNodeOutdatesItself) {
  Alone pair(ResourceOnly(35), 6);
  Status promoted = pair.Promote(1);
  ASSERT_FALSE(promoted);
  EXPECT_NE(promoted.error().message().find("No UpToDate data can be reached"), std::string::npos)
      << Text(promoted);
  EXPECT_EQ(pair.disk_state(1), DiskState::kOutdated);
}

TEST(Fencing, APromotionNeedsFencingToSucceed) {
  Alone pair(ResourceOnly(351), 1);
  EXPECT_FALSE(pair.Promote(1));
  EXPECT_GE(pair.Fenced(1), 1u);
  EXPECT_EQ(pair.status(1).role, Role::kSecondary);
  // With nothing in the way but the unknown peer.
  FencingPair other(ResourceOnly(352), 1);
  other.node(0).Crash(SimCrash::kPowerCut);
  ASSERT_TRUE(other.WaitConnection(1, ConnectionState::kConnecting));
  ASSERT_TRUE(other.WaitDisk(1, DiskState::kUpToDate));
  Status promoted = other.Promote(1);
  ASSERT_FALSE(promoted);
  EXPECT_NE(promoted.error().message().find("The fencing policy forbids"), std::string::npos)
      << Text(promoted);
  EXPECT_EQ(other.Fenced(1), 1u);
  other.handlers(1).Exits(kFence, 7);
  promoted = other.Promote(1);
  ASSERT_TRUE(promoted) << Text(promoted);
  EXPECT_EQ(other.peer_disk(1), DiskState::kOutdated);
  // The old Primary comes back, and gets what it has missed.
  ASSERT_EQ(other.Do(1, IoOp::kWrite, 0, 4096, 0x36), 0);
  other.Boot(0);
  ASSERT_TRUE(other.BecomesUpToDate());
  EXPECT_TRUE(other.Equal(0, 1));
}

TEST(Fencing, S36AForcedPromotionAsksNobody) {
  Alone pair(ResourceOnly(36), 1);
  Status promoted = pair.Promote(1, true);
  ASSERT_TRUE(promoted) << Text(promoted);
  EXPECT_EQ(pair.Fenced(1), 0u);
  EXPECT_EQ(pair.disk_state(1), DiskState::kUpToDate);
  EXPECT_EQ(pair.peer_disk(1), DiskState::kOutdated);
}

TEST(Fencing, AConnectedPeerExcusesAConsistentDisk) {
  FencingPair pair(ResourceOnly(361), 4);
  ASSERT_TRUE(pair.Demote(0));
  for (int node : {0, 1}) pair.node(node).Crash(SimCrash::kPowerCut);
  pair.RunFor(1s);
  pair.Boot(0);
  EXPECT_EQ(pair.disk_state(0), DiskState::kConsistent);
  pair.Boot(1);
  ASSERT_TRUE(pair.BecomesUpToDate());
}

TEST(Fencing, S37UnfencePeerRunsOnBothNodes) {
  FencingPair pair(ResourceOnly(37), 4);
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 65536, 0x37), 0);
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  pair.RunFor(1s);
  for (int node : {0, 1}) EXPECT_EQ(pair.handlers(node).Count(kUnfence), 1u) << node;
  std::string nodes;
  for (const std::string& entry : pair.handlers(0).runs.back().environment) {
    if (entry.starts_with("UP_TO_DATE_NODES=")) nodes = entry;
  }
  EXPECT_EQ(nodes, "UP_TO_DATE_NODES=0x00000003");
}

TEST(Fencing, WithResourceOnlyIoGoesOnWhileTheHandlerRuns) {
  FencingPair pair(ResourceOnly(38), 4, 20s);
  std::vector<FrontIo*> writes = pair.CutUnderLoad();
  ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }, 60s));
  for (FrontIo* write : writes) EXPECT_TRUE(write->ok());
  EXPECT_EQ(pair.status(0).suspended, "no");
  EXPECT_EQ(pair.peer_disk(0), DiskState::kUnknown);
  ASSERT_TRUE(pair.RunUntil([&] { return pair.peer_disk(0) == DiskState::kOutdated; }));
}

TEST(Fencing, DontCareCallsNobody) {
  FencingPair pair(Fencing(39, FencingPolicy::kDontCare), 4);
  pair.Cut(true);
  ASSERT_TRUE(pair.WaitConnection(0, ConnectionState::kConnecting));
  EXPECT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x39), 0);
  EXPECT_EQ(pair.Fenced(0), 0u);
}

TEST(Fencing, WithoutAHandlerIoStaysSuspended) {
  ClusterOptions options = Stonith(40);
  options.handlers = {};
  FencingPair pair(options, 4);
  std::vector<FrontIo*> writes = pair.CutUnderLoad();
  pair.RunFor(60s);
  EXPECT_EQ(pair.status(0).suspended, "fencing");
  EXPECT_LT(FencingPair::Answered(writes), writes.size());
  pair.ExpectAcknowledgedAreThere(writes);
}

// A peer that was restarted may have lost what it had acknowledged: it gets all of it by a resync,
// under a new generation, and no write is acknowledged before.
TEST(Fencing, APeerThatWasRestartedIsResynchronised) {
  for (uint64_t seed = 410; seed < 416; ++seed) {
    SCOPED_TRACE(seed);
    FencingPair pair(Stonith(seed), 1);
    const std::string before = pair.uuid(0);
    std::vector<FrontIo*> writes = pair.CutUnderLoad();
    pair.RunFor(5s);
    const size_t answered = FencingPair::Answered(writes);
    EXPECT_LT(answered, writes.size());
    pair.node(1).Crash(SimCrash::kPowerCut);
    pair.RunFor(1s);
    EXPECT_EQ(FencingPair::Answered(writes), answered);
    pair.Cut(false);
    pair.Boot(1);
    ASSERT_TRUE(pair.BecomesUpToDate());
    ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }, 60s));
    for (FrontIo* write : writes) EXPECT_TRUE(write->ok());
    EXPECT_NE(pair.uuid(0), before);
    EXPECT_TRUE(pair.Equal(0, 1));
    pair.ExpectAnsweredOnce();
    pair.ExpectIdleCounters();
  }
}

// The other node was promoted by force meanwhile: nothing of this node's held writes was
// acknowledged, but both have gone on.
TEST(Fencing, APeerThatWentOnIsASplitBrainAndNothingIsAcknowledged) {
  FencingPair pair(Stonith(42), 1);
  std::vector<FrontIo*> writes = pair.CutUnderLoad();
  pair.RunFor(10s);
  const size_t answered = FencingPair::Answered(writes);
  ASSERT_TRUE(pair.Promote(1, true));
  ASSERT_EQ(pair.Do(1, IoOp::kWrite, 32 << 20, 4096, 0x43), 0);
  ASSERT_TRUE(pair.Demote(1));
  pair.Cut(false);
  ASSERT_TRUE(pair.WaitConnection(0, ConnectionState::kStandAlone, 120s)) << pair.Describe(0);
  EXPECT_EQ(FencingPair::Answered(writes), answered);
  EXPECT_EQ(pair.status(0).suspended, "fencing");
}

TEST(Fencing, ThePeerMayBeRemovedWhileWritesAreHeldBack) {
  FencingPair pair(Stonith(43), 1);
  const std::string before = pair.uuid(0);
  std::vector<FrontIo*> writes = pair.CutUnderLoad();
  pair.RunFor(5s);
  ASSERT_TRUE(pair.Await(0, pair.resource(0).RemovePeer(1, true)));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.AllDone(); }, 30s));
  for (FrontIo* write : writes) EXPECT_TRUE(write->ok());
  EXPECT_NE(pair.uuid(0), before);
  EXPECT_EQ(pair.status(0).suspended, "no");
}

// Acknowledged, but its barrier was not: it waits for the peer although nobody else waits for it.
TEST(Fencing, AVolumeIsNotRemovedWhileItsWritesAreHeldBack) {
  FencingPair pair(Stonith(46), 1);
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 8192, 0x46), 0);
  pair.Cut(true);
  ASSERT_TRUE(pair.RunUntil([&] { return pair.Fenced(0) == 1; }));
  pair.RunFor(5s);
  ASSERT_EQ(pair.status(0).suspended, "fencing");
  Resource& resource = pair.resource(0);
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_TRUE(pair.Await(0, resource.Detach(0, true)));
  Status removed = pair.Await(0, resource.RemoveVolume(0));
  ASSERT_FALSE(removed);
  EXPECT_NE(removed.error().message().find("held back"), std::string::npos) << Text(removed);
  ASSERT_TRUE(pair.Await(0, resource.ResumeIo()));
  EXPECT_TRUE(pair.Await(0, resource.RemoveVolume(0)));
}

TEST(Fencing, TheEndOfTheProgramFailsWhatIsHeldBack) {
  FencingPair pair(Stonith(44), 1, 1000s);
  std::vector<FrontIo*> writes = pair.CutUnderLoad();
  pair.RunFor(5s);
  const size_t answered = FencingPair::Answered(writes);
  auto stop = [](Resource& resource) -> Task<Status> {
    co_await resource.Stop();
    co_return Ok();
  };
  ASSERT_TRUE(pair.Await(0, stop(pair.resource(0))));
  EXPECT_TRUE(pair.AllDone());
  size_t ok = 0;
  for (FrontIo* write : writes) ok += write->ok() ? 1 : 0;
  EXPECT_EQ(ok, answered);
  pair.ExpectAcknowledgedAreThere(writes);
}

TEST(Fencing, APrimaryThatDiesWithHeldWritesIsResynchronised) {
  for (uint64_t seed = 450; seed < 456; ++seed) {
    SCOPED_TRACE(seed);
    FencingPair pair(Stonith(seed), 1);
    std::vector<FrontIo*> writes = pair.CutUnderLoad();
    pair.RunFor(5s);
    pair.node(0).Crash(SimCrash::kPowerCut);
    pair.RunFor(1s);
    pair.Cut(false);
    pair.Boot(0);
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
    pair.ExpectAcknowledgedAreThere(writes);
  }
}

TEST(Fencing, StonithNeedsAProtocolThatWaits) {
  PeerConfig peer;
  peer.node_id = 1;
  peer.net.protocol = Protocol::kA;
  peer.net.fencing = FencingPolicy::kResourceAndStonith;
  Status refused = Validate(peer);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("use B or C"), std::string::npos);
  peer.net.fencing = FencingPolicy::kResourceOnly;
  EXPECT_TRUE(Validate(peer));
}

}  // namespace
}  // namespace umblock::drbd
