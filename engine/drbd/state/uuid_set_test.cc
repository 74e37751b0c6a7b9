#include "engine/drbd/state/uuid_set.h"

#include <gtest/gtest.h>

#include "engine/drbd/state/peer_uuids.h"
#include "engine/drbd/state/uuid_events.h"

namespace umblock::drbd {
namespace {

constexpr uint64_t kA = 0xAAAA0000'00000010;
constexpr uint64_t kB = 0xBBBB0000'00000020;
constexpr uint64_t kC = 0xCCCC0000'00000030;
constexpr uint64_t kD = 0xDDDD0000'00000040;
constexpr uint64_t kRandom = 0x12345678'9ABCDEF1;       // bit 0 set: must be overwritten
constexpr uint64_t kPredecessor = 0x0F0F0F0F'0F0F0F00;  // stands in for 4

// `slots` slots; peers 1.. of node 0 are configured with a slot each.
UuidPeers TwoNodes(DiskState peer_disk, int max_peers = 1) {
  UuidPeers peers;
  peers.own_node = 0;
  peers.max_peers = max_peers;
  peers.peer[1] = {true, peer_disk != DiskState::kUnknown, true, peer_disk, 0};
  return peers;
}

TEST(UuidSet, Bit0IsNotPartOfTheName) {
  EXPECT_TRUE(SameUuid(kA, kA | 1));
  EXPECT_FALSE(SameUuid(kA, kB));
  EXPECT_TRUE(IsJustCreated(4));
  EXPECT_TRUE(IsJustCreated(5));
  EXPECT_TRUE(IsJustCreated(0));
  EXPECT_FALSE(IsJustCreated(kA));
}

TEST(UuidSet, CreateMdStartsWithJustCreated) {
  const UuidSet set(3);
  EXPECT_EQ(set.current(), kUuidJustCreated);
  EXPECT_TRUE(set.AllBitmapAndHistoryZero());
  EXPECT_EQ(set.own_node(), 3);
}

TEST(UuidSet, SetCurrentStoresTheRoleInBit0) {
  UuidSet set;
  set.SetCurrent(kRandom, false);
  EXPECT_EQ(set.current(), kRandom & ~1ull);
  set.SetCurrent(kRandom, true);
  EXPECT_EQ(set.current(), kRandom | 1);
  set.ClearPrimaryFlag();
  EXPECT_EQ(set.current() & 1, 0u);
}

TEST(PushHistory, IgnoresWhatNamesNothingAndTheCurrent) {
  UuidSet set;
  set.Load(kA | 1);
  EXPECT_FALSE(set.PushHistory(0));
  EXPECT_FALSE(set.PushHistory(1));
  EXPECT_FALSE(set.PushHistory(4));
  EXPECT_FALSE(set.PushHistory(kA));
  EXPECT_TRUE(set.AllBitmapAndHistoryZero());
}

TEST(PushHistory, FirstEntryIsTakenEvenIfABitmapUuidHasIt) {
  UuidSet set;
  set.Load(kA);
  set.LoadBitmap(1, {kB, 7});
  EXPECT_TRUE(set.PushHistory(kB | 1));
  EXPECT_EQ(set.history(0), kB);  // stored with bit 0 clear
}

TEST(PushHistory, LaterOnesAreIgnoredIfKnownElsewhere) {
  UuidSet set(2);
  set.Load(kA);
  set.LoadHistory(0, kB);
  set.LoadBitmap(1, {kC, 0});
  set.LoadBitmap(2, {kD, 0});  // own entry does not count
  EXPECT_FALSE(set.PushHistory(kC));
  EXPECT_FALSE(set.PushHistory(kB));
  EXPECT_TRUE(set.PushHistory(kD));
  EXPECT_EQ(set.history(0), kD);
  EXPECT_EQ(set.history(1), kB);
}

TEST(PushHistory, TheOldestFallsOut) {
  UuidSet set;
  set.Load(kA);
  for (uint64_t i = 1; i <= kHistoryUuids + 1; ++i) set.PushHistory(i << 8);
  EXPECT_EQ(set.history(0), uint64_t{kHistoryUuids + 1} << 8);
  EXPECT_EQ(set.history(kHistoryUuids - 1), uint64_t{2} << 8);
}

TEST(SetBitmap, DagtagIsZeroForZero) {
  UuidSet set;
  EXPECT_TRUE(set.SetBitmap(1, kA, 9));
  EXPECT_EQ(set.bitmap(1), (BitmapUuid{kA, 9}));
  EXPECT_FALSE(set.SetBitmap(1, kA, 9));
  set.Load(kB);
  EXPECT_TRUE(set.SetBitmapAndPush(1, 0, 9));
  EXPECT_EQ(set.bitmap(1), (BitmapUuid{0, 0}));
  EXPECT_EQ(set.history(0), kA);
}

TEST(Rotate, MarksPeersThatMissWhatComes) {
  for (const DiskState disk :
       {DiskState::kDiskless, DiskState::kAttaching, DiskState::kFailed, DiskState::kInconsistent,
        DiskState::kOutdated, DiskState::kUnknown}) {
    UuidSet set;
    set.Load(kA | 1);
    EXPECT_EQ(set.Rotate(TwoNodes(disk), 0, 5, kPredecessor), NodeBit(1)) << DiskStateName(disk);
    EXPECT_EQ(set.bitmap(1), (BitmapUuid{kA | 1, 5}));  // bit 0 is copied
  }
  for (const DiskState disk :
       {DiskState::kNegotiating, DiskState::kConsistent, DiskState::kUpToDate}) {
    UuidSet set;
    set.Load(kA);
    EXPECT_EQ(set.Rotate(TwoNodes(disk), 0, 5, kPredecessor), 0u) << DiskStateName(disk);
    EXPECT_EQ(set.bitmap(1).uuid, 0u);
    EXPECT_EQ(set.Rotate(TwoNodes(disk), NodeBit(1), 5, kPredecessor), NodeBit(1));
  }
}

TEST(Rotate, KeepsWhatIsAlreadyCounted) {
  UuidSet set;
  set.Load(kB);
  set.LoadBitmap(1, {kA, 3});
  EXPECT_EQ(set.Rotate(TwoNodes(DiskState::kUnknown), 0, 5, kPredecessor), 0u);
  EXPECT_EQ(set.bitmap(1), (BitmapUuid{kA, 3}));
}

TEST(Rotate, JustCreatedLeavesARandomPredecessor) {
  UuidSet set;
  set.Rotate(TwoNodes(DiskState::kInconsistent), 0, 0, kPredecessor);
  EXPECT_EQ(set.bitmap(1).uuid, kPredecessor);
}

TEST(Rotate, DisklessPeerWithoutSlotIsSkipped) {
  UuidSet set;
  set.Load(kA);
  UuidPeers peers = TwoNodes(DiskState::kDiskless);
  peers.peer[1].slot = -1;
  EXPECT_FALSE(Contains(set.Rotate(peers, 0, 0, kPredecessor), 1));
  EXPECT_EQ(set.bitmap(1).uuid, 0u);
}

TEST(Rotate, UnusedIdsRememberDay0AndFreeSlotsCount) {
  UuidSet set;
  set.Load(kA);
  // One slot, taken by the peer: the unused ids carry the UUID but do not count.
  EXPECT_EQ(set.Rotate(TwoNodes(DiskState::kUpToDate, 1), 0, 0, kPredecessor), 0u);
  EXPECT_EQ(set.bitmap(5).uuid, kA);
  EXPECT_EQ(set.bitmap(0).uuid, 0u);  // not the own one

  // A spare slot: exactly one unused id counts.
  UuidSet spare;
  spare.Load(kA);
  EXPECT_EQ(spare.Rotate(TwoNodes(DiskState::kUpToDate, 2), 0, 0, kPredecessor), NodeBit(2));
  // The next generation leaves them on the first one.
  spare.Load(kB);
  EXPECT_EQ(spare.Rotate(TwoNodes(DiskState::kUpToDate, 2), 0, 0, kPredecessor), 0u);
  EXPECT_EQ(spare.bitmap(2).uuid, kA);
  EXPECT_EQ(spare.bitmap(31).uuid, kA);
}

TEST(NewCurrent, PeerAwayLeavesTheOldGenerationInItsSlot) {
  UuidSet set;
  set.Load(kA);
  const NewCurrentResult result =
      set.NewCurrent(TwoNodes(DiskState::kUnknown), false, true, 8, kRandom, kPredecessor);
  EXPECT_TRUE(result.created);
  EXPECT_EQ(result.marked, NodeBit(1));
  EXPECT_EQ(set.current(), kRandom | 1);
  EXPECT_EQ(set.bitmap(1), (BitmapUuid{kA, 8}));
  EXPECT_EQ(set.history(0), 0u);
}

TEST(NewCurrent, FullyConnectedClusterCreatesNone) {
  UuidSet set;
  set.Load(kB);
  set.LoadHistory(0, kA);
  EXPECT_FALSE(set.NewCurrent(TwoNodes(DiskState::kUpToDate), false, true, 0, kRandom, kPredecessor)
                   .created);
  EXPECT_EQ(set.current(), kB);
}

// Recorded (93-93-writes-c): the first promotion of a fresh, connected pair makes a generation and
// puts the first one into the history.
TEST(NewCurrent, Day0GoesToTheHistory) {
  UuidSet set(1);
  set.Load(0x6d23986d17abcff6);
  UuidPeers peers = TwoNodes(DiskState::kUpToDate);
  peers.own_node = 1;
  peers.peer[0] = peers.peer[1];
  peers.peer[1] = {};
  const NewCurrentResult result =
      set.NewCurrent(peers, false, true, 0, 0xe4f1b6f81d3961fb, kPredecessor);
  EXPECT_TRUE(result.created);
  EXPECT_EQ(result.marked, 0u);
  EXPECT_EQ(set.current(), 0xe4f1b6f81d3961fb);
  EXPECT_EQ(set.history(0), 0x6d23986d17abcff6);
}

TEST(NewCurrent, ForcedPromotionMarksInconsistentPeers) {
  UuidSet set;
  const NewCurrentResult result =
      set.NewCurrent(TwoNodes(DiskState::kInconsistent), true, true, 0, kRandom, kPredecessor);
  EXPECT_TRUE(result.created);
  EXPECT_EQ(result.marked, NodeBit(1));
  EXPECT_EQ(set.bitmap(1).uuid, kPredecessor);
}

TEST(WeakNodes, IsTheComplementOfTheGoodOnes) {
  UuidPeers peers = TwoNodes(DiskState::kUnknown);
  EXPECT_EQ(WeakNodesOfDevice(0, DiskState::kUpToDate, peers), ~NodeBit(0));  // recorded ..fffe
  peers.peer[1].disk = DiskState::kUpToDate;
  EXPECT_EQ(WeakNodesOfDevice(0, DiskState::kUpToDate, peers), ~(NodeBit(0) | NodeBit(1)));
  EXPECT_EQ(WeakNodesOfDevice(0, DiskState::kInconsistent, peers), ~NodeBit(1));
  peers.peer[1].disk = DiskState::kInconsistent;
  EXPECT_EQ(WeakNodesOfDevice(0, DiskState::kUpToDate, peers), ~(NodeBit(0) | NodeBit(1)));
  for (DiskState bad : {DiskState::kFailed, DiskState::kDiskless, DiskState::kOutdated}) {
    peers.peer[1].disk = bad;
    EXPECT_EQ(WeakNodesOfDevice(0, DiskState::kUpToDate, peers), ~NodeBit(0));
  }
}

// --- 4.4 ---

// Recorded (93-93-writes-c): n1 follows n2's new generation.
TEST(ReceiveNewDatagen, SecondaryFollows) {
  UuidSet own(0);
  own.Load(0x6d23986d17abcff6);
  NewDatagenInput in;
  in.new_current = 0xe4f1b6f81d3961fb;
  in.weak = 0xfffffffffffffffc;
  const NewDatagenResult result = ReceiveNewDatagen(own, TwoNodes(DiskState::kUpToDate), in);
  EXPECT_TRUE(result.adopted);
  EXPECT_EQ(own.current(), 0xe4f1b6f81d3961fa);
  EXPECT_EQ(own.history(0), 0x6d23986d17abcff6);
  EXPECT_EQ(own.bitmap(1).uuid, 0u);
}

TEST(ReceiveNewDatagen, SyncTargetOnlyRemembers) {
  UuidSet own(0);
  own.Load(kA);
  NewDatagenInput in;
  in.new_current = kB;
  in.target_of = NodeBit(1) | NodeBit(2);
  const NewDatagenResult result = ReceiveNewDatagen(own, TwoNodes(DiskState::kUpToDate), in);
  EXPECT_EQ(result.remember_for, NodeBit(1) | NodeBit(2));
  EXPECT_FALSE(result.adopted);
  EXPECT_EQ(own.current(), kA);
}

TEST(ReceiveNewDatagen, NodesWithThePrimaryGetTheNewUuidWeakOnesTheOld) {
  UuidSet own(0);
  own.Load(kA);
  own.LoadBitmap(3, {kC, 1});
  UuidPeers peers = TwoNodes(DiskState::kUpToDate, 3);
  peers.peer[2] = {true, false, false, DiskState::kUnknown, 1};  // weak
  peers.peer[3] = {true, false, false, DiskState::kUnknown, 2};  // with the Primary
  NewDatagenInput in;
  in.new_current = kB;
  in.weak = ~(NodeBit(0) | NodeBit(1) | NodeBit(3));
  in.dagtag = 77;
  const NewDatagenResult result = ReceiveNewDatagen(own, peers, in);
  EXPECT_TRUE(Contains(result.marked, 2));
  EXPECT_EQ(own.bitmap(2), (BitmapUuid{kA, 77}));
  EXPECT_EQ(own.bitmap(3), (BitmapUuid{kB, 77}));
  EXPECT_EQ(own.current(), kB);
}

TEST(ReceiveNewDatagen, OutdatedNodeDoesNotRotate) {
  UuidSet own(0);
  own.Load(kA);
  NewDatagenInput in;
  in.new_current = kB;
  in.weak = kAllNodes;
  in.own_disk = DiskState::kOutdated;
  const NewDatagenResult result = ReceiveNewDatagen(own, TwoNodes(DiskState::kUnknown), in);
  EXPECT_EQ(result.marked, 0u);
  EXPECT_EQ(own.bitmap(1).uuid, 0u);
  EXPECT_EQ(own.current(), kB);
}

// --- 4.7 ---

// Recorded (93-93-reconnect-bitmap, both resyncs of n2).
TEST(ResyncFinish, RecordedTargetHistory) {
  const uint64_t a = 0xaebb3d45f5f591d8;
  const uint64_t b = 0x9a346775bd3c1c31;
  const uint64_t c = 0xaba86547b7dacf1f;
  UuidSet own(1);
  own.Load(a);
  UuidPeers peers;
  peers.own_node = 1;
  peers.peer[0] = {true, true, true, DiskState::kUpToDate, 0};

  PeerUuids source;
  source.current = b;
  source.present = 3;
  source.bitmap[1] = a;
  ResyncStart start = StartResyncAsTarget(own, peers, source, 0, kPredecessor);
  EXPECT_EQ(start.rs_start, a);
  EXPECT_EQ(start.marked, 0u);
  FinishResyncAsTarget(own, peers, source, start.rs_start, 0, false, 0);
  EXPECT_EQ(own.current(), b & ~1ull);
  EXPECT_EQ(own.history(0), 0u);

  source.current = c;
  source.bitmap[1] = b;
  source.history[0] = a;
  start = StartResyncAsTarget(own, peers, source, 0, kPredecessor);
  FinishResyncAsTarget(own, peers, source, start.rs_start, 0, false, 0);
  EXPECT_EQ(own.current(), c & ~1ull);
  EXPECT_EQ(own.history(0), a);
  EXPECT_EQ(own.history(1), 0u);
  EXPECT_EQ(own.bitmap(0).uuid, 0u);
}

TEST(ResyncFinish, ThirdNodesTheSourceCountsForAreBehindUnlessThereAlready) {
  UuidSet own(1);
  own.Load(kA);
  UuidPeers peers;
  peers.own_node = 1;
  peers.max_peers = 3;
  peers.peer[0] = {true, true, true, DiskState::kUpToDate, 0};
  peers.peer[2] = {true, false, false, DiskState::kUnknown, 1};
  peers.peer[3] = {true, true, true, DiskState::kUpToDate, 2};
  PeerUuids source;
  source.current = kB;
  source.present = 0xF;
  source.bitmap[1] = kA;
  source.bitmap[2] = kC;
  source.bitmap[3] = kC;
  const ResyncFinish result = FinishResyncAsTarget(own, peers, source, kA, NodeBit(3), false, 4);
  EXPECT_EQ(result.behind, NodeBit(2));
  EXPECT_EQ(own.bitmap(2).uuid, kA);
  EXPECT_EQ(own.bitmap(3).uuid, 0u);
  EXPECT_TRUE(own.InHistory(kC));
}

TEST(ResyncFinish, SentinelIsNoUuid) {
  UuidSet own(1);
  own.Load(kA);
  UuidPeers peers;
  peers.own_node = 1;
  peers.peer[2] = {true, false, false, DiskState::kUnknown, 1};
  PeerUuids source;
  source.current = kB;
  source.present = NodeBit(2);
  source.bitmap[2] = kUuidUnknown;
  EXPECT_EQ(FinishResyncAsTarget(own, peers, source, kA, 0, false, 0).behind, 0u);
  EXPECT_FALSE(own.InHistory(kUuidUnknown));
}

TEST(ResyncStart, NewTargetTakesTheSourcesBitmapUuid) {
  UuidSet own(1);
  PeerUuids source;
  source.current = kB;
  source.present = NodeBit(1);
  source.bitmap[1] = kA;
  UuidPeers peers;
  peers.own_node = 1;
  const ResyncStart start = StartResyncAsTarget(own, peers, source, 0, kPredecessor);
  EXPECT_EQ(own.current(), kA);
  EXPECT_EQ(start.rs_start, kA);
}

TEST(ResyncSource, DropsItsBitmapUuidIntoTheHistory) {
  UuidSet own(0);
  own.Load(kB);
  own.LoadBitmap(1, {kA | 1, 3});
  EXPECT_TRUE(DropBitmapUuid(own, 1));
  EXPECT_EQ(own.bitmap(1).uuid, 0u);
  EXPECT_EQ(own.history(0), kA);
}

TEST(ResyncSource, FullSyncRemembersThePeersGeneration) {
  UuidSet own(0);
  own.Load(kB);
  SetAllAsSource(own, 1, kA | 1, 6);
  EXPECT_EQ(own.bitmap(1), (BitmapUuid{kA, 6}));
  SetAllAsSource(own, 1, kUuidJustCreated, 6);  // not a generation: nothing to remember
  EXPECT_EQ(own.bitmap(1).uuid, kA);
}

// --- 4.6 ---

TEST(SkipInitialSync, BothSidesEndOnOneGenerationWithoutBitmaps) {
  UuidSet asked(0);
  ASSERT_TRUE(
      SkipInitialSync(asked, TwoNodes(DiskState::kInconsistent), false, 0, kRandom, kPredecessor));
  EXPECT_EQ(asked.current(), kRandom & ~1ull);
  EXPECT_EQ(asked.bitmap(1).uuid, 0u);
  EXPECT_EQ(asked.bitmap(7).uuid, kPredecessor);  // day0 for nodes that may come later

  UuidSet peer(1);
  PeerUuids packet;
  packet.current = asked.current();
  packet.flags = wire::kUuidFlagSkipInitialSync;
  EXPECT_FALSE(AdoptSkippedInitialSync(peer, packet, 0, false, 124));
  EXPECT_FALSE(AdoptSkippedInitialSync(peer, packet, 0, true, 89));
  EXPECT_TRUE(AdoptSkippedInitialSync(peer, packet, 0, true, 124));
  EXPECT_EQ(peer.current(), asked.current());
  EXPECT_FALSE(AdoptSkippedInitialSync(peer, packet, 0, true, 124)) << "no longer just created";
  EXPECT_FALSE(
      SkipInitialSync(asked, TwoNodes(DiskState::kInconsistent), false, 0, kRandom, kPredecessor));
}

// --- 4.8 ---

DetectInput Connecting() {
  DetectInput in;
  in.peer_node = 1;
  in.repl_off = true;
  in.known = NodeBit(1);
  return in;
}

TEST(DetectFinished, PeerMissedTheEnd) {
  UuidSet own(0);
  own.Load(kB);
  PeerUuids peer;
  peer.current = kB;
  peer.present = 3;
  peer.bitmap[0] = kA;
  peer.dirty_bits = 4;
  DetectInput in = Connecting();
  in.own_resolved = kB;
  const DetectResult result = DetectFinishedResyncs(own, TwoNodes(DiskState::kUnknown), peer, in);
  EXPECT_TRUE(result.peer_missed_end);
  EXPECT_FALSE(result.source_missed_end);
}

TEST(DetectFinished, SourceMissedTheEndWithoutBitsDropsItsUuid) {
  UuidSet own(0);
  own.Load(kB);
  own.LoadBitmap(1, {kA, 0});
  PeerUuids peer;
  peer.current = kB;
  peer.present = 3;
  DetectInput in = Connecting();
  in.own_resolved = kB;
  UuidSet old = own;
  DetectResult result = DetectFinishedResyncs(own, TwoNodes(DiskState::kUnknown), peer, in);
  EXPECT_FALSE(result.source_missed_end);
  EXPECT_TRUE(result.changed);
  EXPECT_EQ(own.bitmap(1).uuid, 0u);

  in.agreed_version = 123;  // older peers always get the mark
  result = DetectFinishedResyncs(old, TwoNodes(DiskState::kUnknown), peer, in);
  EXPECT_TRUE(result.source_missed_end);
}

TEST(DetectFinished, SyncTargetOfAThirdNodeIsNotCompared) {
  UuidSet own(0);
  own.Load(kB);
  PeerUuids peer;
  peer.current = kB;
  peer.present = 3;
  peer.bitmap[0] = kA;
  peer.dirty_bits = 4;
  peer.flags = wire::kUuidFlagSyncTarget;
  DetectInput in = Connecting();
  in.own_resolved = kB;
  EXPECT_FALSE(DetectFinishedResyncs(own, TwoNodes(DiskState::kUnknown), peer, in).peer_missed_end);
}

TEST(DetectFinished, ThirdNodeSyncedByThePeerLosesItsBits) {
  UuidSet own(0);
  own.Load(kB);
  own.LoadBitmap(2, {kA, 0});
  UuidPeers peers = TwoNodes(DiskState::kUpToDate, 2);
  peers.peer[2] = {true, false, false, DiskState::kUnknown, 1};
  PeerUuids peer;
  peer.current = kB;
  peer.present = 7;
  DetectInput in = Connecting();
  in.repl_off = false;
  in.own_resolved = kB;
  in.known = NodeBit(1) | NodeBit(2);
  const DetectResult result = DetectFinishedResyncs(own, peers, peer, in);
  EXPECT_EQ(result.clear_bits, NodeBit(2));
  EXPECT_EQ(own.bitmap(2).uuid, 0u);
  EXPECT_EQ(own.history(0), kA);
}

TEST(DetectFinished, NodeSyncedUpToThePeersGenerationCopiesTheSlot) {
  UuidSet own(0);
  own.Load(kC);
  own.LoadBitmap(1, {kB, 20});  // the peer's current
  own.LoadBitmap(2, {kA, 10});  // older
  UuidPeers peers = TwoNodes(DiskState::kUnknown, 2);
  peers.peer[2] = {true, false, false, DiskState::kUnknown, 1};
  PeerUuids peer;
  peer.current = kB;
  peer.present = 7;  // bitmap 0 for node 2: in sync with it
  DetectInput in = Connecting();
  in.own_resolved = kC;
  in.known = NodeBit(1) | NodeBit(2);
  const DetectResult result = DetectFinishedResyncs(own, peers, peer, in);
  ASSERT_EQ(result.copies, 1);
  EXPECT_EQ(result.copy[0], (DetectResult::Copy{1, 2}));
  EXPECT_EQ(own.bitmap(2), (BitmapUuid{kB, 20}));
}

TEST(DetectFinished, TwinsThePeerSawLeaveTogether) {
  UuidSet own(0);
  own.Load(kD);
  own.LoadBitmap(2, {kB, 20});
  own.LoadBitmap(3, {kA, 10});
  UuidPeers peers = TwoNodes(DiskState::kUpToDate, 3);
  peers.peer[2] = {true, false, false, DiskState::kUnknown, 1};
  peers.peer[3] = {true, false, false, DiskState::kUnknown, 2};
  PeerUuids peer;
  peer.current = kD;
  peer.present = 0xF;
  peer.bitmap[2] = kB;
  peer.bitmap[3] = kB;
  DetectInput in = Connecting();
  in.repl_off = false;
  in.own_resolved = kD;
  in.known = 0xE;
  in.unconnected = NodeBit(2) | NodeBit(3);
  const DetectResult result = DetectFinishedResyncs(own, peers, peer, in);
  ASSERT_EQ(result.copies, 1);
  EXPECT_EQ(result.copy[0], (DetectResult::Copy{2, 3}));
  in.unconnected = NodeBit(2);
  UuidSet again = own;
  EXPECT_EQ(DetectFinishedResyncs(again, peers, peer, in).copies, 0);
}

// --- 4.9 ---

// Recorded (93-93-reconnect-bitmap): what n1 sent when it connected again.
TEST(BuildUuids, RecordedPrimaryReconnecting) {
  UuidSet own(0);
  own.Load(0x9a346775bd3c1c31);
  own.LoadBitmap(1, {0xaebb3d45f5f591d8, 0});
  UuidSendContext context;
  context.peer_node = 1;
  context.with_slot = NodeBit(1);
  context.node_exists = NodeBit(0) | NodeBit(1);
  context.configured = NodeBit(1);
  context.dirty_bits = 47;
  context.stable = true;
  context.reconnect = true;
  context.weak = ~NodeBit(0);
  const PeerUuids out = BuildUuidsFor(own, context);
  EXPECT_EQ(out.current, 0x9a346775bd3c1c31);
  EXPECT_EQ(out.dirty_bits, 47u);
  EXPECT_EQ(out.flags, wire::kUuidFlagStable | wire::kUuidFlagReconnect);
  EXPECT_EQ(out.node_mask, 0xfffffffffffffffe);
  EXPECT_EQ(out.present, 3u);
  EXPECT_EQ(out.BitmapFor(1), 0xaebb3d45f5f591d8);
  EXPECT_EQ(out.BitmapFor(2), kUuidUnknown);
  EXPECT_EQ(FromWire(ToWire(out)), out);
}

TEST(BuildUuids, UnstableNodeNamesItsPrimaries) {
  UuidSet own(0);
  UuidSendContext context;
  context.peer_node = 1;
  context.weak = 0xFF;
  context.authoritative = NodeBit(2);
  EXPECT_EQ(BuildUuidsFor(own, context).node_mask, NodeBit(2));
}

TEST(BuildUuids, SyncTargetShowsItsSourcesGenerationToOthers) {
  UuidSet own(0);
  own.Load(kA);
  UuidSendContext context;
  context.peer_node = 1;
  context.with_slot = NodeBit(1) | NodeBit(2);
  context.sync_source = 2;
  context.sync_source_current = kB;
  context.target_of_newer = NodeBit(2);
  PeerUuids out = BuildUuidsFor(own, context);
  EXPECT_EQ(out.current, kB);
  EXPECT_TRUE(out.Has(wire::kUuidFlagSyncTarget));
  EXPECT_EQ(out.BitmapFor(1), 0u);
  EXPECT_EQ(out.BitmapFor(2), kUuidUnknown);  // present, but must not be dropped
  EXPECT_TRUE(Contains(out.present, 2));
  context.peer_node = 2;  // the source itself sees ours
  out = BuildUuidsFor(own, context);
  EXPECT_EQ(out.current, kA);
  EXPECT_FALSE(out.Has(wire::kUuidFlagSyncTarget));
}

TEST(BuildUuids, OneUnallocatedSlotIsAdvertised) {
  UuidSet own(0);
  own.Load(kB);
  for (int node = 1; node < kNodeIds; ++node) own.LoadBitmap(node, {kA, 0});
  UuidSendContext context;
  context.peer_node = 1;
  context.with_slot = NodeBit(1);
  context.configured = NodeBit(1);
  context.max_peers = 2;
  PeerUuids out = BuildUuidsFor(own, context);
  EXPECT_EQ(out.present, NodeBit(1) | NodeBit(2));
  EXPECT_TRUE(out.Has(wire::kUuidFlagHasUnalloc));
  EXPECT_EQ(out.flags >> wire::kUuidUnallocShift, 2u);
  context.agreed_version = 115;
  EXPECT_EQ(BuildUuidsFor(own, context).present, NodeBit(1));
  context.agreed_version = 124;
  context.max_peers = 1;
  EXPECT_EQ(BuildUuidsFor(own, context).present, NodeBit(1));
}

TEST(SentUuids, InconsistentIsIgnoredTheRestIsNot) {
  UuidSet own(0);
  own.Load(kA);
  UuidSendContext context;
  context.peer_node = 1;
  context.with_slot = NodeBit(1);
  const SentUuids sent = SentUuids::Of(BuildUuidsFor(own, context), 1);
  context.inconsistent = true;
  EXPECT_TRUE(sent.SameAs(SentUuids::Of(BuildUuidsFor(own, context), 1)));
  context.crashed_primary = true;
  EXPECT_FALSE(sent.SameAs(SentUuids::Of(BuildUuidsFor(own, context), 1)));
  context.crashed_primary = false;
  own.LoadBitmap(1, {kB, 0});
  EXPECT_FALSE(sent.SameAs(SentUuids::Of(BuildUuidsFor(own, context), 1)));
}

TEST(UuidSet, StartupDagtagIsTheLargestInUse) {
  UuidSet set;
  set.LoadBitmap(1, {kA, 5});
  set.LoadBitmap(2, {0, 99});
  set.LoadBitmap(3, {kB, 8});
  EXPECT_EQ(set.StartupDagtag(), 8u);
}

// A forgotten node may have the generation in use, and no slot is free that would end it.
TEST(UuidSet, AForgottenIdEndsTheGenerationOnce) {
  UuidPeers peers;
  peers.own_node = 0;
  peers.max_peers = 1;
  peers.peer[2] = {.configured = true,
                   .connected = true,
                   .established = true,
                   .disk = DiskState::kUpToDate,
                   .slot = 0};
  UuidSet set(0);
  set.Load(0xA0);
  set.LoadHistory(0, 0x90);
  for (int node = 1; node < kNodeIds; ++node) {
    if (node != 2) set.LoadBitmap(node, {0x80, 0});
  }
  EXPECT_FALSE(set.NewCurrent(peers, false, true, 0, 0xB0, 0xC0).created);
  set.SetBitmapAndPush(1, 0, 0);
  NewCurrentResult result = set.NewCurrent(peers, false, true, 0, 0xB0, 0xC0);
  EXPECT_TRUE(result.created);
  EXPECT_TRUE(SameUuid(set.bitmap(1).uuid, 0xA0));
  EXPECT_FALSE(set.NewCurrent(peers, false, true, 0, 0xD0, 0xC0).created);
}

}  // namespace
}  // namespace umblock::drbd
