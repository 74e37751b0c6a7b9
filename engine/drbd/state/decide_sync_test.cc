// From comparison to decision (5.5 to 5.8), step by step; the split brain policies (5.7); the
// mirror property of the whole decision.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "engine/drbd/state/sync_decision.h"
#include "engine/drbd/state/sync_pair_fixture.h"

namespace umblock::drbd {
namespace {

using ::testing::HasSubstr;

using namespace umblock::drbd::testing;  // NOLINT(google-build-using-namespace)

void ExpectSource(const SyncDecision& d, BitmapAction bitmap = BitmapAction::kNone) {
  EXPECT_EQ(d.verdict, SyncVerdict::kProceed);
  EXPECT_EQ(d.direction, SyncDirection::kSource);
  EXPECT_EQ(d.bitmap, bitmap);
  EXPECT_EQ(d.repl(), ReplicationState::kWFBitMapS);
}
void ExpectTarget(const SyncDecision& d, BitmapAction bitmap = BitmapAction::kNone) {
  EXPECT_EQ(d.verdict, SyncVerdict::kProceed);
  EXPECT_EQ(d.direction, SyncDirection::kTarget);
  EXPECT_EQ(d.bitmap, bitmap);
  EXPECT_EQ(d.repl(), ReplicationState::kWFBitMapT);
}
void ExpectNone(const SyncDecision& d) {
  EXPECT_EQ(d.verdict, SyncVerdict::kProceed);
  EXPECT_EQ(d.direction, SyncDirection::kNone);
  EXPECT_EQ(d.bitmap, BitmapAction::kNone);
  EXPECT_EQ(d.repl(), ReplicationState::kEstablished);
}
void ExpectEnd(const SyncDecision& d, SyncVerdict verdict, SyncReason reason) {
  EXPECT_EQ(d.verdict, verdict);
  EXPECT_EQ(SyncReasonName(d.reason), SyncReasonName(reason));
}

TEST(DecideSync, Step1UnrelatedDataDisconnects) {
  Pair pair;
  pair.a.set.Load(kA);
  pair.b.set.Load(kB);
  ExpectEnd(pair.FromA(), SyncVerdict::kDisconnect, SyncReason::kUnrelatedData);
  EXPECT_THAT(pair.ExplainA(), HasSubstr("unrelated data"));
}

TEST(DecideSync, Step2MissedFinishWithAPeerBefore124) {
  Pair pair = Equal();
  pair.a.source_missed_end = pair.b.peer_missed_end = true;
  pair.version = 123;
  ExpectEnd(pair.FromA(), SyncVerdict::kRetry, SyncReason::kMissedFinishUnclear);
  ExpectTarget(pair.FromB());
  pair.b.role = Role::kPrimary;
  ExpectEnd(pair.FromB(), SyncVerdict::kDisconnect, SyncReason::kRequiresProtocol);
  EXPECT_EQ(pair.FromB().required_protocol, 124);
  pair.a.bits = 1;
  ExpectSource(pair.FromA());
}

TEST(DecideSync, Step3BetterDiskIsSourceAfterBothFailed) {
  Pair pair = Equal();
  pair.a.flags |= wire::kUuidFlagCrashedPrimary;  // would be source-if-both-failed
  pair.a.disk = DiskState::kOutdated;
  ExpectTarget(pair.FromA());
  ExpectSource(pair.FromB());
  EXPECT_TRUE(pair.FromA().by_disk_state);
}

TEST(DecideSync, Step3InconsistentOneIsTargetOfAnEqualGeneration) {
  for (int version : {118, 119, 124}) {
    Pair pair = Equal();
    pair.version = version;
    pair.a.disk = DiskState::kInconsistent;
    ExpectTarget(pair.FromA());
    ExpectSource(pair.FromB());
  }
}

TEST(DecideSync, Step3OutdatedAloneDoesNotResync) {
  Pair pair = Equal();
  pair.a.disk = DiskState::kOutdated;
  ExpectNone(pair.FromA());
  ExpectNone(pair.FromB());
}

TEST(DecideSync, Step3BothInconsistentStayAsTheyAre) {
  Pair pair;
  pair.a.disk = pair.b.disk = DiskState::kInconsistent;
  ExpectNone(pair.FromA());
}

TEST(DecideSync, Step3Before119OnlyInconsistencyOverrules) {
  Pair pair = Equal();
  pair.version = 118;
  pair.a.flags |= wire::kUuidFlagCrashedPrimary;
  pair.a.disk = DiskState::kOutdated;
  ExpectSource(pair.FromA());
  ExpectTarget(pair.FromB());
}

TEST(DecideSync, Step3UnequalUuidsAreNotOverruled) {
  Pair pair = OneWrote();
  pair.a.disk = DiskState::kOutdated;
  ExpectSource(pair.FromA());
  ExpectTarget(pair.FromB());
}

TEST(DecideSync, Step3InterruptedTargetOfAThirdNodeLooksUpItsSlot) {
  Pair pair = Equal();
  pair.b.disk = DiskState::kInconsistent;
  pair.b.flags |= wire::kUuidFlagSyncTarget;
  pair.b.set.LoadBitmap(0, {kA, 0});  // what B last shared with A
  ExpectSource(pair.FromA(), BitmapAction::kSetAll);
  ExpectTarget(pair.FromB(), BitmapAction::kSetAll);
  pair.a.set.LoadBitmap(1, {kA, 0});
  ExpectSource(pair.FromA());
  ExpectTarget(pair.FromB());
  pair.a.set.LoadBitmap(1, {0, 0});
  pair.a.set.LoadBitmap(2, {kA, 0});
  ExpectSource(pair.FromA(), BitmapAction::kCopyFrom);
  EXPECT_EQ(pair.FromA().node, 2);
  ExpectTarget(pair.FromB(), BitmapAction::kClear);
  EXPECT_EQ(pair.FromB().node, 2);
  pair.b.set.LoadBitmap(0, {kB, 0});  // all three equal
  ExpectSource(pair.FromA());
  ExpectTarget(pair.FromB());
}

TEST(DecideSync, Step3OwnNegotiatingIsReplacedByTheMetadata) {
  Pair pair = Equal();
  pair.a.disk = DiskState::kNegotiating;  // from metadata: Inconsistent
  ExpectTarget(pair.FromA());
}

TEST(DecideSync, Step4ReconcileByBitmap) {
  Pair pair = Equal();
  pair.lost_primary = true;
  ExpectNone(pair.FromA());  // no bits
  pair.a.bits = 4;
  ExpectSource(pair.FromA());
  ExpectTarget(pair.FromB());
  EXPECT_EQ(SyncRuleName(pair.FromA().rule), "reconcile-bitmap");
  pair.a.flags |= wire::kUuidFlagCrashedPrimary | wire::kUuidFlagReconnect;
  pair.b.flags |= wire::kUuidFlagReconnect;
  ExpectNone(pair.FromA());
}

TEST(DecideSync, Step4ReconcileByDagtagThenNodeId) {
  Pair pair = Equal();
  pair.lost_primary = true;
  pair.a.bits = 4;
  pair.b.bits = 4;
  pair.a.dagtag = 10;
  pair.b.dagtag = 20;
  ExpectTarget(pair.FromA());
  ExpectSource(pair.FromB());
  pair.a.dagtag = 20;
  ExpectSource(pair.FromA());  // the lower id
  ExpectTarget(pair.FromB());
  EXPECT_EQ(SyncRuleName(pair.FromA().rule), "reconcile-dagtag");
}

TEST(DecideSync, Step5UnstableSplitBrainWaits) {
  Pair pair = SplitBrain();
  pair.b.stable = false;
  ExpectNone(pair.FromA());
  ExpectNone(pair.FromB());
}

TEST(DecideSync, Step6And9SplitBrainCallsBothHandlers) {
  const Pair pair = SplitBrain();
  for (const SyncDecision& d : {pair.FromA(), pair.FromB()}) {
    ExpectEnd(d, SyncVerdict::kDisconnect, SyncReason::kSplitBrain);
    EXPECT_TRUE(d.call_initial_split_brain);
    EXPECT_TRUE(d.call_split_brain);
  }
  EXPECT_THAT(pair.ExplainA(), HasSubstr("discard-my-data"));
}

// Scenario 72: exactly one side has quorum.
TEST(DecideSync, Step7QuorateSideIsSource) {
  Pair pair = SplitBrain();
  pair.quorum_enabled = true;
  pair.a.quorum = false;
  SetPolicies(pair, AfterSplitBrain::kDiscardRemote);
  ExpectTarget(pair.FromA());
  EXPECT_TRUE(pair.FromA().by_quorum);
  pair.a.policies.after_sb_0pri = AfterSplitBrain::kDiscardLocal;
  ExpectTarget(pair.FromA());
  ExpectSource(pair.FromB());
  pair.quorum_enabled = false;  // then the policies count
  pair.a.policies.after_sb_0pri = AfterSplitBrain::kDiscardRemote;
  ExpectSource(pair.FromA());
}

TEST(DecideSync, Step7HopelessSplitBrainNeedsAlwaysAsbpAndIsFull) {
  Pair pair = Diverged();
  SetPolicies(pair, AfterSplitBrain::kDiscardLeastChanges);
  pair.a.bits = 9;
  ExpectEnd(pair.FromA(), SyncVerdict::kDisconnect, SyncReason::kSplitBrain);
  pair.a.policies.always_asbp = pair.b.policies.always_asbp = true;
  ExpectSource(pair.FromA(), BitmapAction::kSetAll);
  ExpectTarget(pair.FromB(), BitmapAction::kSetAll);
}

// Scenario 12.
TEST(DecideSync, Step8DiscardMyDataSolvesASplitBrain) {
  Pair pair = SplitBrain();
  pair.a.flags |= wire::kUuidFlagDiscardMyData;
  ExpectTarget(pair.FromA());
  ExpectSource(pair.FromB());
  EXPECT_FALSE(pair.FromA().call_split_brain);
  pair.b.flags |= wire::kUuidFlagDiscardMyData;  // both: not allowed to decide
  ExpectEnd(pair.FromA(), SyncVerdict::kDisconnect, SyncReason::kSplitBrain);
  Pair diverged = Diverged();
  diverged.b.flags |= wire::kUuidFlagDiscardMyData;
  ExpectSource(diverged.FromA(), BitmapAction::kSetAll);
  ExpectTarget(diverged.FromB(), BitmapAction::kSetAll);
}

TEST(DecideSync, Step10DiscardMyDataReversesFrom121) {
  Pair pair = OneWrote();
  pair.a.flags |= wire::kUuidFlagDiscardMyData;
  ExpectTarget(pair.FromA());
  ExpectSource(pair.FromB());
  pair.version = 120;
  ExpectSource(pair.FromA());
  pair.version = 121;
  pair.b.disk = DiskState::kInconsistent;  // no source
  ExpectSource(pair.FromA());
}

TEST(DecideSync, Step10CopyIsNotReversed) {
  Pair pair;
  pair.a.set.Load(kB);
  pair.a.set.LoadBitmap(2, {kA, 0});
  pair.b.set.Load(kA);
  pair.a.flags |= wire::kUuidFlagDiscardMyData;
  ExpectSource(pair.FromA(), BitmapAction::kCopyFrom);
  ExpectTarget(pair.FromB(), BitmapAction::kClear);
}

TEST(DecideSync, Step11RrConflict) {
  Pair pair = OneWrote();
  pair.b.role = Role::kPrimary;
  SyncDecision d = pair.FromB();
  ExpectEnd(d, SyncVerdict::kDisconnect, SyncReason::kPrimaryWouldBeTarget);
  EXPECT_TRUE(d.would_be_target);
  EXPECT_FALSE(d.call_pri_lost);

  pair.b.policies.rr_conflict = AfterSplitBrain::kCallPriLostAfterSb;
  d = pair.FromB();
  ExpectEnd(d, SyncVerdict::kDisconnect, SyncReason::kPrimaryWouldBeTarget);
  EXPECT_TRUE(d.call_pri_lost);

  pair.b.policies.rr_conflict = AfterSplitBrain::kRetryConnect;
  ExpectEnd(pair.FromB(), SyncVerdict::kRetry, SyncReason::kPrimaryWouldBeTarget);
  EXPECT_TRUE(pair.FromB().would_be_target);

  pair.b.policies.rr_conflict = AfterSplitBrain::kViolentlyAs0p;
  ExpectTarget(pair.FromB());

  pair.b.policies.rr_conflict = AfterSplitBrain::kAutoDiscard;  // not by rule crashed-primary
  ExpectEnd(pair.FromB(), SyncVerdict::kDisconnect, SyncReason::kPrimaryWouldBeTarget);

  pair.b.policies.rr_conflict = AfterSplitBrain::kDisconnect;
  pair.b.disk = DiskState::kInconsistent;  // no data to lose
  ExpectTarget(pair.FromB());
}

TEST(DecideSync, Step11WithoutBitsNothingIsLost) {
  Pair pair = OneWrote();
  pair.a.bits = 0;
  pair.b.role = Role::kPrimary;
  ExpectTarget(pair.FromB());
}

// Scenario 16.
TEST(DecideSync, Step11AutoDiscardReversesOnBothSides) {
  Pair pair = Equal();
  pair.protocol = ReplicationProtocol::kA;
  pair.a.flags |= wire::kUuidFlagCrashedPrimary;
  pair.a.bits = 10;
  pair.b.flags |= wire::kUuidFlagReconnect;
  pair.b.role = Role::kPrimary;
  ExpectEnd(pair.FromB(), SyncVerdict::kDisconnect, SyncReason::kPrimaryWouldBeTarget);
  pair.a.policies.rr_conflict = pair.b.policies.rr_conflict = AfterSplitBrain::kAutoDiscard;
  ExpectSource(pair.FromB());
  ExpectTarget(pair.FromA());
  // The crashed one was promoted, too: the one that never went away still keeps its data.
  pair.a.role = Role::kPrimary;
  ExpectSource(pair.FromB());
}

TEST(DecideSync, Step12MissedFinishFromASourceThatIsNotUpToDate) {
  Pair pair = Equal();
  pair.a.source_missed_end = pair.b.peer_missed_end = true;
  pair.a.bits = 2;
  ExpectSource(pair.FromA());
  ExpectTarget(pair.FromB());
  pair.a.disk = DiskState::kOutdated;
  ExpectNone(pair.FromA());
  ExpectNone(pair.FromB());
  EXPECT_FALSE(pair.FromA().drop_own_bitmap_uuid);
  EXPECT_TRUE(pair.FromB().drop_own_bitmap_uuid);
}

TEST(DecideSync, Step13DryRunDisconnects) {
  Pair pair = OneWrote();
  pair.a.policies.dry_run = true;
  ExpectEnd(pair.FromA(), SyncVerdict::kDisconnect, SyncReason::kDryRun);
  EXPECT_EQ(pair.FromA().outcome, SyncOutcome::kSourceUseBitmap);
}

// Scenario 14 (rule 8 of 7.3): the survivor is the source.
TEST(DecideSync, Scenario14ProtocolC) {
  Pair pair = Equal();
  pair.a.flags |= wire::kUuidFlagCrashedPrimary;
  pair.b.flags |= wire::kUuidFlagReconnect;
  ExpectTarget(pair.FromA());
  ExpectSource(pair.FromB());
}

// Scenario 15 (rule 4): the crashed side is the source.
TEST(DecideSync, Scenario15ProtocolA) {
  Pair pair = Equal();
  pair.protocol = ReplicationProtocol::kA;
  pair.a.flags |= wire::kUuidFlagCrashedPrimary;
  pair.b.flags |= wire::kUuidFlagReconnect;
  ExpectSource(pair.FromA());
  ExpectTarget(pair.FromB());
}

// Scenario 17 (rule 10).
TEST(DecideSync, Scenario17BothLostPower) {
  Pair pair = Equal();
  pair.a.flags |= wire::kUuidFlagCrashedPrimary;
  ExpectSource(pair.FromA());
  ExpectTarget(pair.FromB());
}

TEST(DecideSync, IfBothFailedFollowsThePresentPrimary) {
  Pair pair = Equal();
  pair.a.flags |= wire::kUuidFlagCrashedPrimary;  // source-if-both-failed
  pair.b.role = Role::kPrimary;
  ExpectTarget(pair.FromA());
  ExpectSource(pair.FromB());
  EXPECT_TRUE(pair.FromA().by_role);
  pair.a.role = Role::kPrimary;
  ExpectNone(pair.FromA());
  ExpectNone(pair.FromB());
}

TEST(DecideSync, AttachUsesTheReducedCopy) {
  Pair pair = SplitBrain();
  pair.attach = true;
  pair.a.flags |= wire::kUuidFlagDiscardMyData;
  pair.quorum_enabled = true;
  pair.b.quorum = false;
  ExpectEnd(pair.FromA(), SyncVerdict::kDisconnect, SyncReason::kSplitBrain);
  SetPolicies(pair, AfterSplitBrain::kDiscardLeastChanges);
  ExpectTarget(pair.FromA());
}

// --- 5.7 ---

TEST(SplitBrainPolicy, DisconnectIsUnresolved) {
  Pair pair = SplitBrain();
  ExpectEnd(pair.FromA(), SyncVerdict::kDisconnect, SyncReason::kSplitBrain);
}

TEST(SplitBrainPolicy, DiscardYoungerAndOlderPrimary) {
  Pair pair = SplitBrain();
  SetPolicies(pair, AfterSplitBrain::kDiscardYoungerPrimary);
  pair.b.set.LoadBitmap(0, {kA | 1, 0});  // s=0, p=1: B was Primary when they parted
  ExpectTarget(pair.FromA());
  ExpectSource(pair.FromB());
  SetPolicies(pair, AfterSplitBrain::kDiscardOlderPrimary);
  ExpectSource(pair.FromA());
  ExpectTarget(pair.FromB());
  // Undecided: zero changes, then least changes.
  pair.b.set.LoadBitmap(0, {kA, 0});
  ExpectTarget(pair.FromA());  // 3 < 5
  ExpectSource(pair.FromB());
  pair.b.bits = 0;
  ExpectSource(pair.FromA());
  ExpectTarget(pair.FromB());
}

TEST(SplitBrainPolicy, DiscardZeroChanges) {
  Pair pair = SplitBrain();
  SetPolicies(pair, AfterSplitBrain::kDiscardZeroChanges);
  ExpectEnd(pair.FromA(), SyncVerdict::kDisconnect, SyncReason::kSplitBrain);
  pair.a.bits = 0;
  ExpectTarget(pair.FromA());
  ExpectSource(pair.FromB());
  pair.b.bits = 0;  // both: the conflict resolver becomes target
  ExpectSource(pair.FromA());
  ExpectTarget(pair.FromB());
  pair.a_resolves = true;
  ExpectTarget(pair.FromA());
}

TEST(SplitBrainPolicy, DiscardLeastChanges) {
  Pair pair = SplitBrain();
  SetPolicies(pair, AfterSplitBrain::kDiscardLeastChanges);
  ExpectTarget(pair.FromA());
  ExpectSource(pair.FromB());
  pair.b.bits = 3;
  ExpectSource(pair.FromA());
  ExpectTarget(pair.FromB());
}

TEST(SplitBrainPolicy, DiscardLocalPairsWithRemote) {
  Pair pair = SplitBrain();
  pair.a.policies.after_sb_0pri = AfterSplitBrain::kDiscardLocal;
  pair.b.policies.after_sb_0pri = AfterSplitBrain::kDiscardRemote;
  ExpectTarget(pair.FromA());
  ExpectSource(pair.FromB());
}

TEST(SplitBrainPolicy, OnePrimary) {
  Pair pair = SplitBrain();  // least changes: A is the target
  pair.b.role = Role::kPrimary;
  SetPolicies(pair, AfterSplitBrain::kDiscardLeastChanges, AfterSplitBrain::kConsensus);
  ExpectTarget(pair.FromA());
  ExpectSource(pair.FromB());
  pair.a.role = Role::kPrimary;
  pair.b.role = Role::kSecondary;  // consensus would hit the Primary
  ExpectEnd(pair.FromA(), SyncVerdict::kDisconnect, SyncReason::kSplitBrain);
  ExpectEnd(pair.FromB(), SyncVerdict::kDisconnect, SyncReason::kSplitBrain);
  SetPolicies(pair, AfterSplitBrain::kDisconnect, AfterSplitBrain::kDiscardSecondary);
  ExpectSource(pair.FromA());
  ExpectTarget(pair.FromB());
  SetPolicies(pair, AfterSplitBrain::kDiscardLeastChanges, AfterSplitBrain::kViolentlyAs0p);
  pair.a.policies.rr_conflict = AfterSplitBrain::kViolentlyAs0p;
  ExpectTarget(pair.FromA());
  ExpectSource(pair.FromB());
}

TEST(SplitBrainPolicy, CallPriLostDemotesOrGivesUp) {
  for (const Role peer : {Role::kSecondary, Role::kPrimary}) {
    Pair pair = SplitBrain();
    pair.a.role = Role::kPrimary;
    pair.b.role = peer;
    SetPolicies(pair, AfterSplitBrain::kDiscardLeastChanges, AfterSplitBrain::kCallPriLostAfterSb,
                AfterSplitBrain::kCallPriLostAfterSb);
    ExpectTarget(pair.FromA());
    EXPECT_TRUE(pair.FromA().demote_self);
    ExpectSource(pair.FromB());
    EXPECT_FALSE(pair.FromB().demote_self);
    pair.a.can_demote = false;
    ExpectEnd(pair.FromA(), SyncVerdict::kDisconnect, SyncReason::kSplitBrain);
    EXPECT_TRUE(pair.FromA().call_pri_lost_after_sb);
  }
}

TEST(SplitBrainPolicy, TwoPrimaries) {
  Pair pair = SplitBrain();
  pair.a.role = pair.b.role = Role::kPrimary;
  SetPolicies(pair, AfterSplitBrain::kDiscardLeastChanges, AfterSplitBrain::kDiscardSecondary);
  ExpectEnd(pair.FromA(), SyncVerdict::kDisconnect, SyncReason::kSplitBrain);
  SetPolicies(pair, AfterSplitBrain::kDiscardLeastChanges, AfterSplitBrain::kDisconnect,
              AfterSplitBrain::kViolentlyAs0p);
  ExpectSource(pair.FromB());
}

TEST(SplitBrainPolicy, ValueInTheWrongPlaceIsUnresolved) {
  Pair pair = SplitBrain();
  SetPolicies(pair, AfterSplitBrain::kConsensus);
  ExpectEnd(pair.FromA(), SyncVerdict::kDisconnect, SyncReason::kSplitBrain);
}

TEST(Explain, NamesDirectionRuleAndInputs) {
  const std::string text = OneWrote().ExplainA();
  EXPECT_THAT(text, HasSubstr("source of a resync"));
  EXPECT_THAT(text, HasSubstr("bitmap-self"));
  EXPECT_THAT(text, HasSubstr("BBBB000000000020"));
  EXPECT_THAT(text, HasSubstr("UpToDate"));
}

// --- The whole decision mirrors ---

BitmapAction MirrorAction(BitmapAction action) {
  if (action == BitmapAction::kCopyFrom) return BitmapAction::kClear;
  return action == BitmapAction::kClear ? BitmapAction::kCopyFrom : action;
}

TEST(DecideSync, MirrorsForRandomSituations) {
  std::mt19937_64 random(4711);
  const auto any = [&](uint64_t n) { return random() % n; };
  const uint64_t names[] = {0, 4, kA, kB, kC};
  const auto uuid = [&] { return names[any(std::size(names))] | any(2); };
  constexpr DiskState kDisks[] = {DiskState::kInconsistent, DiskState::kOutdated,
                                  DiskState::kConsistent, DiskState::kUpToDate};
  int proceeded = 0;
  for (int i = 0; i < 60000; ++i) {
    Pair pair;
    pair.version = 118 + static_cast<int>(any(7));
    pair.protocol = static_cast<ReplicationProtocol>(1 + any(3));
    pair.a_resolves = any(2) != 0;
    pair.quorum_enabled = any(2) != 0;
    pair.lost_primary = any(2) != 0;
    const auto p0 = static_cast<AfterSplitBrain>(any(5));
    const auto p1 = static_cast<AfterSplitBrain>(any(5) + 7);
    const auto p2 = any(2) ? AfterSplitBrain::kDisconnect : AfterSplitBrain::kViolentlyAs0p;
    SetPolicies(pair, p0, p1, p2);
    const bool asbp = any(2) != 0;
    const auto rr = any(2) ? AfterSplitBrain::kViolentlyAs0p : AfterSplitBrain::kAutoDiscard;
    for (Node* node : {&pair.a, &pair.b}) {
      node->policies.always_asbp = asbp;
      node->policies.rr_conflict = rr;
      node->set.Load(uuid());
      for (int n = 0; n < 3; ++n) {
        if (n != node->set.own_node() && any(3) == 0) node->set.LoadBitmap(n, {uuid(), 0});
      }
      for (int n = 0; n < 3 && any(2) == 0; ++n) node->set.LoadHistory(n, uuid());
      node->flags =
          (any(2) ? wire::kUuidFlagCrashedPrimary : 0) | (any(2) ? wire::kUuidFlagReconnect : 0) |
          (any(3) ? 0 : wire::kUuidFlagPrimaryLostQuorum) |
          (any(4) ? 0 : wire::kUuidFlagDiscardMyData) | (any(4) ? 0 : wire::kUuidFlagSyncTarget);
      node->disk = kDisks[any(4)];
      node->role = any(2) ? Role::kPrimary : Role::kSecondary;
      node->bits = any(3);
      node->stable = any(4) != 0;
      node->quorum = any(2) != 0;
      node->dagtag = any(3);
    }
    if (pair.a.set.FindBitmap(pair.b.set.current()) &&
        pair.b.set.FindBitmap(pair.a.set.current())) {
      continue;
    }
    const SyncDecision a = pair.FromA();
    const SyncDecision b = pair.FromB();
    if (a.verdict != SyncVerdict::kProceed || b.verdict != SyncVerdict::kProceed) continue;
    // Two Primaries, one of them crashed before: both reverse, see docs/states.md.
    if (a.by_rr_conflict && b.by_rr_conflict && pair.a.role == pair.b.role) continue;
    ASSERT_EQ(SyncOutcomeName(a.outcome), SyncOutcomeName(MirrorOf(b.outcome)))
        << i << ": " << SyncRuleName(a.rule) << " / " << SyncRuleName(b.rule);
    ASSERT_EQ(a.direction == SyncDirection::kSource, b.direction == SyncDirection::kTarget) << i;
    ASSERT_EQ(a.direction == SyncDirection::kTarget, b.direction == SyncDirection::kSource) << i;
    ASSERT_EQ(a.bitmap, MirrorAction(b.bitmap)) << i;
    ASSERT_EQ(a.node, b.node) << i;
    ++proceeded;
  }
  EXPECT_GT(proceeded, 10000);
}

}  // namespace
}  // namespace umblock::drbd
