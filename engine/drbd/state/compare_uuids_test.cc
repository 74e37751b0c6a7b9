// The rule table 5.2, row by row and from both sides; the cases of 11.2; decisions of real kernels;
// the mirror property over random UUID sets.
#include <gtest/gtest.h>

#include <random>

#include "engine/drbd/state/sync_decision.h"
#include "engine/drbd/state/uuid_events.h"

namespace umblock::drbd {
namespace {

constexpr uint64_t kA = 0xAAAA0000'00000010;
constexpr uint64_t kB = 0xBBBB0000'00000020;
constexpr uint64_t kC = 0xCCCC0000'00000030;

// One node's data generations and what it says about itself.
struct Side {
  UuidSet set;
  uint64_t flags = wire::kUuidFlagStable;
  NodeMask present = 7;
  bool source_missed_end = false;
  bool peer_missed_end = false;

  explicit Side(int node) : set(node) {}
  PeerUuids Packet() const {
    PeerUuids out;
    out.current = set.current();
    out.flags = flags;
    out.present = present;
    for (int node : Nodes(present)) {
      out.bitmap[static_cast<size_t>(node)] = set.bitmap(node).uuid;
    }
    out.history = set.history();
    return out;
  }
};

struct Pair {
  Side a{0};
  Side b{1};
  int version = 124;
  ReplicationProtocol protocol = ReplicationProtocol::kC;
  bool a_resolves = false;

  SyncComparison FromA() const { return From(a, b, a_resolves); }
  SyncComparison FromB() const { return From(b, a, !a_resolves); }

 private:
  SyncComparison From(const Side& self, const Side& peer, bool resolves) const {
    const PeerUuids packet = peer.Packet();
    CompareInput in;
    in.own = &self.set;
    in.own_current = self.set.current();
    in.own_flags = self.flags;
    in.own_with_slot = kAllNodes;
    in.peer = &packet;
    in.peer_node = peer.set.own_node();
    in.agreed_version = version;
    in.protocol = protocol;
    in.resolve_conflicts = resolves;
    in.source_missed_end = self.source_missed_end;
    in.peer_missed_end = self.peer_missed_end;
    return CompareUuids(in);
  }
};

#define EXPECT_RESULT(comparison, want_rule, want_outcome)  \
  do {                                                      \
    const SyncComparison got_ = (comparison);               \
    EXPECT_EQ(SyncRuleName(got_.rule), want_rule);          \
    EXPECT_EQ(SyncOutcomeName(got_.outcome), want_outcome); \
  } while (false)

void ToggleBit0(UuidSet& set, int which) {
  if (which == 0) {
    set.Load(set.current() ^ 1);
  } else if (which <= 3) {
    BitmapUuid entry = set.bitmap(which - 1);
    entry.uuid ^= 1;
    set.LoadBitmap(which - 1, entry);
  } else {
    set.LoadHistory(which - 4, set.history(which - 4) ^ 1);
  }
}

// The result must not depend on bit 0 of any UUID (11.2).
void ExpectBit0Irrelevant(const Pair& pair) {
  const SyncComparison a = pair.FromA();
  const SyncComparison b = pair.FromB();
  for (int side = 0; side < 2; ++side) {
    for (int which = 0; which < 7; ++which) {
      Pair toggled = pair;
      ToggleBit0(side == 0 ? toggled.a.set : toggled.b.set, which);
      EXPECT_EQ(toggled.FromA(), a) << "side " << side << " uuid " << which;
      EXPECT_EQ(toggled.FromB(), b) << "side " << side << " uuid " << which;
    }
  }
}

Pair Equal() {
  Pair pair;
  pair.a.set.Load(kB);
  pair.b.set.Load(kB);
  return pair;
}

TEST(CompareUuids, Rule0HandshakeChanged) {
  Pair pair = Equal();
  const PeerUuids packet = pair.b.Packet();
  CompareInput in;
  in.own = &pair.a.set;
  in.own_current = kB;
  in.peer = &packet;
  in.peer_node = 1;
  SentUuids sent{kB, 0, 0};
  SentUuids now{kB | 1, 0, 0};
  in.sent = &sent;
  in.now = &now;
  EXPECT_RESULT(CompareUuids(in), "both-off", "no-sync");
  now.current = kC;
  EXPECT_RESULT(CompareUuids(in), "initial-handshake-changed", "retry-connect");
}

TEST(CompareUuids, Rule1JustCreatedBoth) {
  Pair pair;
  EXPECT_RESULT(pair.FromA(), "just-created-both", "no-sync");
  EXPECT_RESULT(pair.FromB(), "just-created-both", "no-sync");
  ExpectBit0Irrelevant(pair);
  pair.a.set.Load(0);  // 0 counts as 4
  EXPECT_RESULT(pair.FromA(), "just-created-both", "no-sync");
}

TEST(CompareUuids, Rules2And3JustCreatedOne) {
  Pair pair;
  pair.a.set.Load(kA);
  EXPECT_RESULT(pair.FromA(), "just-created-peer", "source-set-bitmap");
  EXPECT_RESULT(pair.FromB(), "just-created-self", "target-set-bitmap");
  ExpectBit0Irrelevant(pair);
}

TEST(CompareUuids, Rules6And7MissedFinish) {
  Pair pair = Equal();
  pair.a.source_missed_end = true;
  pair.b.peer_missed_end = true;
  EXPECT_RESULT(pair.FromA(), "sync-source-missed-finish", "source-use-bitmap");
  EXPECT_RESULT(pair.FromB(), "sync-target-peer-missed-finish", "target-use-bitmap");
}

TEST(CompareUuids, Rules8And14BothReconnect) {
  Pair pair = Equal();
  pair.a.flags |= wire::kUuidFlagReconnect | wire::kUuidFlagPrimaryLostQuorum;
  pair.b.flags |= wire::kUuidFlagReconnect;
  EXPECT_RESULT(pair.FromA(), "reconnected", "no-sync");
  EXPECT_RESULT(pair.FromB(), "reconnected", "no-sync");
  pair.version = 119;  // the lost quorum is looked at first
  EXPECT_RESULT(pair.FromA(), "lost-quorum", "source-if-both-failed");
  EXPECT_RESULT(pair.FromB(), "lost-quorum", "target-if-both-failed");
  pair.a.flags &= ~wire::kUuidFlagPrimaryLostQuorum;
  EXPECT_RESULT(pair.FromA(), "reconnected", "no-sync");
}

TEST(CompareUuids, Rules9And10CrashedPrimaryWithAsynchronousProtocol) {
  Pair pair = Equal();
  pair.a.flags |= wire::kUuidFlagCrashedPrimary;
  pair.b.flags |= wire::kUuidFlagReconnect;
  for (const auto protocol : {ReplicationProtocol::kA, ReplicationProtocol::kB}) {
    pair.protocol = protocol;
    pair.version = 124;
    EXPECT_RESULT(pair.FromA(), "crashed-primary", "source-use-bitmap");
    EXPECT_RESULT(pair.FromB(), "crashed-primary", "target-use-bitmap");
    pair.version = 120;
    EXPECT_RESULT(pair.FromA(), "lost-quorum", "target-if-both-failed");
  }
}

TEST(CompareUuids, Rules11To13LostQuorum) {
  Pair pair = Equal();
  pair.a.flags |= wire::kUuidFlagPrimaryLostQuorum;
  EXPECT_RESULT(pair.FromA(), "lost-quorum", "source-if-both-failed");
  EXPECT_RESULT(pair.FromB(), "lost-quorum", "target-if-both-failed");
  pair.b.flags |= wire::kUuidFlagPrimaryLostQuorum;
  EXPECT_RESULT(pair.FromA(), "lost-quorum", "target-if-both-failed");
  EXPECT_RESULT(pair.FromB(), "lost-quorum", "source-if-both-failed");
  pair.a_resolves = true;
  EXPECT_RESULT(pair.FromA(), "lost-quorum", "source-if-both-failed");
  EXPECT_RESULT(pair.FromB(), "lost-quorum", "target-if-both-failed");
}

TEST(CompareUuids, Rules15And16OneCrashedOneSurvived) {
  Pair pair = Equal();
  pair.a.flags |= wire::kUuidFlagCrashedPrimary;
  pair.b.flags |= wire::kUuidFlagReconnect;
  EXPECT_RESULT(pair.FromA(), "lost-quorum", "target-if-both-failed");
  EXPECT_RESULT(pair.FromB(), "lost-quorum", "source-if-both-failed");
  pair.version = 119;
  EXPECT_RESULT(pair.FromA(), "reconnected", "target-if-both-failed");
  EXPECT_RESULT(pair.FromB(), "reconnected", "source-if-both-failed");
}

TEST(CompareUuids, Rule17OneReconnect) {
  Pair pair = Equal();
  pair.b.flags |= wire::kUuidFlagReconnect;
  EXPECT_RESULT(pair.FromA(), "lost-quorum", "no-sync");
  EXPECT_RESULT(pair.FromB(), "lost-quorum", "no-sync");
}

TEST(CompareUuids, Rules18To20BothOff) {
  Pair pair = Equal();
  EXPECT_RESULT(pair.FromA(), "both-off", "no-sync");
  pair.a.flags |= wire::kUuidFlagCrashedPrimary;
  EXPECT_RESULT(pair.FromA(), "both-off", "source-if-both-failed");
  EXPECT_RESULT(pair.FromB(), "both-off", "target-if-both-failed");
  pair.b.flags |= wire::kUuidFlagCrashedPrimary;
  EXPECT_RESULT(pair.FromA(), "both-off", "source-if-both-failed");
  EXPECT_RESULT(pair.FromB(), "both-off", "target-if-both-failed");
  pair.a_resolves = true;
  EXPECT_RESULT(pair.FromA(), "both-off", "target-if-both-failed");
  EXPECT_RESULT(pair.FromB(), "both-off", "source-if-both-failed");
}

TEST(CompareUuids, Rules21And24OneWentOn) {
  Pair pair;
  pair.a.set.Load(kB);
  pair.a.set.LoadBitmap(1, {kA, 0});
  pair.b.set.Load(kA);
  EXPECT_RESULT(pair.FromA(), "bitmap-self", "source-use-bitmap");
  EXPECT_RESULT(pair.FromB(), "bitmap-peer", "target-use-bitmap");
  ExpectBit0Irrelevant(pair);
}

TEST(CompareUuids, Rules22And25ThroughAnotherSlot) {
  Pair pair;
  pair.a.set.Load(kB);
  pair.a.set.LoadBitmap(2, {kA, 0});
  pair.b.set.Load(kA);
  EXPECT_RESULT(pair.FromA(), "bitmap-self-other", "source-copy-bitmap");
  EXPECT_EQ(pair.FromA().node, 2);
  EXPECT_RESULT(pair.FromB(), "bitmap-peer-other", "target-clear-bitmap");
  EXPECT_EQ(pair.FromB().node, 2);
  ExpectBit0Irrelevant(pair);
}

TEST(CompareUuids, Rule25NeedsASlotBefore116) {
  Pair pair;
  pair.a.set.Load(kB);
  pair.a.set.LoadBitmap(2, {kA, 0});
  pair.b.set.Load(kA);
  const PeerUuids packet = pair.b.Packet();
  CompareInput in;
  in.own = &pair.a.set;
  in.own_current = kB;
  in.own_with_slot = NodeBit(1);
  in.peer = &packet;
  in.peer_node = 1;
  in.agreed_version = 115;
  EXPECT_RESULT(CompareUuids(in), "unrelated-data", "unrelated-data");
  in.agreed_version = 116;
  EXPECT_RESULT(CompareUuids(in), "bitmap-self-other", "source-copy-bitmap");
}

TEST(CompareUuids, Rules27And28History) {
  Pair pair;
  pair.a.set.Load(kC);
  pair.a.set.LoadHistory(0, kB);
  pair.a.set.LoadHistory(1, kA);
  pair.b.set.Load(kA);
  EXPECT_RESULT(pair.FromA(), "history-self", "source-set-bitmap");
  EXPECT_RESULT(pair.FromB(), "history-peer", "target-set-bitmap");
  ExpectBit0Irrelevant(pair);
}

TEST(CompareUuids, EachInTheOthersHistoryIsNoDirection) {
  Pair pair;
  pair.a.set.Load(kA);
  pair.a.set.LoadHistory(0, kB);
  pair.b.set.Load(kB);
  pair.b.set.LoadHistory(0, kA);
  EXPECT_RESULT(pair.FromA(), "unrelated-data", "unrelated-data");
}

TEST(CompareUuids, Rule29SplitBrain) {
  Pair pair;
  pair.a.set.Load(kB);
  pair.a.set.LoadBitmap(1, {kA, 0});
  pair.b.set.Load(kC);
  pair.b.set.LoadBitmap(0, {kA | 1, 0});
  EXPECT_RESULT(pair.FromA(), "bitmap-both", "split-brain-auto-recover");
  EXPECT_RESULT(pair.FromB(), "bitmap-both", "split-brain-auto-recover");
  ExpectBit0Irrelevant(pair);
}

TEST(CompareUuids, Rule30DivergedHistories) {
  Pair pair;
  pair.a.set.Load(kB);
  pair.a.set.LoadHistory(0, kA);
  pair.b.set.Load(kC);
  pair.b.set.LoadHistory(0, kA);
  EXPECT_RESULT(pair.FromA(), "history-both", "split-brain-disconnect");
  EXPECT_RESULT(pair.FromB(), "history-both", "split-brain-disconnect");
  ExpectBit0Irrelevant(pair);
  // The scan of a list stops at its first 0.
  pair.a.set.LoadHistory(0, 0);
  pair.a.set.LoadHistory(1, kA);
  EXPECT_RESULT(pair.FromA(), "unrelated-data", "unrelated-data");
}

TEST(CompareUuids, Rule31Unrelated) {
  Pair pair;
  pair.a.set.Load(kB);
  pair.b.set.Load(kC);
  EXPECT_RESULT(pair.FromA(), "unrelated-data", "unrelated-data");
  EXPECT_RESULT(pair.FromB(), "unrelated-data", "unrelated-data");
  ExpectBit0Irrelevant(pair);
}

TEST(CompareUuids, AbsentEntriesMatchNothing) {
  Pair pair;
  pair.a.set.Load(kB);
  pair.a.set.LoadBitmap(1, {kA, 0});
  pair.a.present = 0;  // sends no bitmap UUID at all
  pair.b.set.Load(kA);
  EXPECT_RESULT(pair.FromB(), "unrelated-data", "unrelated-data");
}

// 11.2, "third node known": B's bitmap UUID for node 3 against node 3 with current A.
TEST(CompareUuids, Vector112ThirdNodeKnown) {
  Pair pair;
  pair.b = Side(3);
  pair.b.present = 0xF;
  pair.a.set.Load(kB);
  pair.a.set.LoadBitmap(3, {kA, 0});
  pair.a.present = 0xF;
  pair.b.set.Load(kA);
  EXPECT_RESULT(pair.FromA(), "bitmap-self", "source-use-bitmap");
  EXPECT_RESULT(pair.FromB(), "bitmap-peer", "target-use-bitmap");
}

// 11.2, "missed resync end, no bits, 9.3 pair": the own bitmap UUID is dropped, no resync.
TEST(CompareUuids, Vector112MissedResyncEndWithoutBits) {
  Pair pair = Equal();
  pair.a.set.LoadBitmap(1, {kA, 0});
  DetectInput in;
  in.peer_node = 1;
  in.repl_off = true;
  in.own_resolved = kB;
  in.known = NodeBit(1);
  const DetectResult a = DetectFinishedResyncs(pair.a.set, UuidPeers{}, pair.b.Packet(), in);
  EXPECT_FALSE(a.source_missed_end);
  EXPECT_EQ(pair.a.set.bitmap(1).uuid, 0u);
  EXPECT_RESULT(pair.FromA(), "both-off", "no-sync");
  EXPECT_RESULT(pair.FromB(), "both-off", "no-sync");
}

// --- Decisions of real kernels ---

struct LoggedSide {
  uint64_t current, bitmap, history0, history1, bits, flags;
};
struct LoggedDecision {
  const char* recording;
  int version;
  ReplicationProtocol protocol;
  LoggedSide self, peer;
  const char* outcome;
  const char* rule;
};
const LoggedDecision kLogged[] = {
#include "engine/drbd/state/kernel_decisions.inc"
};

void Fill(Side& side, int other, const LoggedSide& logged) {
  side.set.Load(logged.current);
  side.set.LoadBitmap(other, {logged.bitmap, 0});
  side.set.LoadHistory(0, logged.history0);
  side.set.LoadHistory(1, logged.history1);
  side.flags = logged.flags;
}

TEST(CompareUuids, AsRealKernelsDid) {
  int checked = 0;
  for (const LoggedDecision& logged : kLogged) {
    SCOPED_TRACE(logged.recording);
    Pair pair;
    pair.version = logged.version;
    pair.protocol = logged.protocol;
    Fill(pair.a, 1, logged.self);
    Fill(pair.b, 0, logged.peer);
    PeerUuids packet = pair.b.Packet();
    packet.dirty_bits = logged.peer.bits;
    DetectInput in;
    in.peer_node = 1;
    in.repl_off = true;
    in.own_resolved = logged.self.current;
    in.own_bits = logged.self.bits;
    in.agreed_version = logged.version;
    in.known = NodeBit(1);
    const DetectResult marks = DetectFinishedResyncs(pair.a.set, UuidPeers{}, packet, in);
    pair.a.source_missed_end = marks.source_missed_end;
    pair.a.peer_missed_end = marks.peer_missed_end;
    EXPECT_RESULT(pair.FromA(), logged.rule, logged.outcome);
    ++checked;
  }
  EXPECT_GE(checked, 60);
}

// --- Mirror property ---

// Each side holds a slot for the other's generation: no history of real nodes ends there, and no
// rule could decide it.
bool Contradictory(const Pair& pair) {
  const bool a_knows_b = pair.a.set.FindBitmap(pair.b.set.current()).has_value();
  const bool b_knows_a = pair.b.set.FindBitmap(pair.a.set.current()).has_value();
  return a_knows_b && b_knows_a;
}

TEST(CompareUuids, MirrorsForRandomSets) {
  std::mt19937_64 random(20240607);
  const auto any = [&](uint64_t n) { return random() % n; };
  const uint64_t names[] = {0, 4, kA, kB, kC, 0xDD00, 0xEE00};
  const auto uuid = [&] { return names[any(std::size(names))] | any(2); };
  int different = 0;
  for (int i = 0; i < 60000; ++i) {
    Pair pair;
    pair.version = 118 + static_cast<int>(any(7));
    pair.protocol = static_cast<ReplicationProtocol>(1 + any(3));
    pair.a_resolves = any(2) != 0;
    for (Side* side : {&pair.a, &pair.b}) {
      side->set.Load(uuid());
      for (int node = 0; node < 3; ++node) {
        if (node != side->set.own_node() && any(3) == 0) side->set.LoadBitmap(node, {uuid(), 0});
      }
      for (int n = 0; n < 3 && any(2) == 0; ++n) side->set.LoadHistory(n, uuid());
      side->flags |= (any(2) ? wire::kUuidFlagCrashedPrimary : 0) |
                     (any(2) ? wire::kUuidFlagReconnect : 0) |
                     (any(3) ? 0 : wire::kUuidFlagPrimaryLostQuorum);
    }
    if (Contradictory(pair)) continue;
    const SyncComparison a = pair.FromA();
    const SyncComparison b = pair.FromB();
    ASSERT_EQ(SyncOutcomeName(a.outcome), SyncOutcomeName(MirrorOf(b.outcome)))
        << i << ": " << SyncRuleName(a.rule) << " / " << SyncRuleName(b.rule);
    ASSERT_EQ(a.node, b.node) << i;
    different += a.outcome != SyncOutcome::kNoSync;
  }
  EXPECT_GT(different, 10000);
}

// Nodes that really live through partitions, writes and resyncs: whatever they arrive at, both
// sides agree on the direction, and a side that is behind is never the source.
TEST(CompareUuids, MirrorsForRandomHistories) {
  std::mt19937_64 random(77);
  for (int run = 0; run < 400; ++run) {
    Pair pair;
    UuidPeers view_a;
    view_a.own_node = 0;
    view_a.peer[1] = {true, true, true, DiskState::kUpToDate, 0};
    UuidPeers view_b;
    view_b.own_node = 1;
    view_b.peer[0] = {true, true, true, DiskState::kUpToDate, 0};
    SkipInitialSync(pair.a.set, view_a, false, 0, random(), random());
    AdoptSkippedInitialSync(
        pair.b.set,
        [&] {
          PeerUuids p = pair.a.Packet();
          p.flags |= wire::kUuidFlagSkipInitialSync;
          return p;
        }(),
        0, true, 124);
    for (int step = 0; step < 6; ++step) {
      view_a.peer[1].disk = view_b.peer[0].disk = DiskState::kUnknown;
      const bool a_writes = random() % 2 != 0;
      const bool b_writes = random() % 4 == 0;
      if (a_writes) pair.a.set.NewCurrent(view_a, false, true, 0, random(), random());
      if (b_writes) pair.b.set.NewCurrent(view_b, false, true, 0, random(), random());
      pair.a.set.ClearPrimaryFlag();
      pair.b.set.ClearPrimaryFlag();
      const SyncComparison a = pair.FromA();
      const SyncComparison b = pair.FromB();
      ASSERT_EQ(a.outcome, MirrorOf(b.outcome));
      view_a.peer[1].disk = view_b.peer[0].disk = DiskState::kUpToDate;
      if (a_writes && b_writes) {
        ASSERT_EQ(a.outcome, SyncOutcome::kSplitBrainAutoRecover);
        break;
      }
      ASSERT_EQ(a.outcome, a_writes   ? SyncOutcome::kSourceUseBitmap
                           : b_writes ? SyncOutcome::kTargetUseBitmap
                                      : SyncOutcome::kNoSync);
      if (!a_writes && !b_writes) continue;
      Side& source = a_writes ? pair.a : pair.b;
      Side& target = a_writes ? pair.b : pair.a;
      const UuidPeers& view = a_writes ? view_b : view_a;
      const ResyncStart start = StartResyncAsTarget(target.set, view, source.Packet(), 0, random());
      FinishResyncAsTarget(target.set, view, source.Packet(), start.rs_start, 0, false, 0);
      DropBitmapUuid(source.set, target.set.own_node());
      ASSERT_EQ(pair.FromA().outcome, SyncOutcome::kNoSync);
      ASSERT_EQ(pair.FromB().outcome, SyncOutcome::kNoSync);
    }
  }
}

}  // namespace
}  // namespace umblock::drbd
