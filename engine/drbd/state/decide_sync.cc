// From comparison to decision: drbd-metadata-resync.md 5.5, step by step in its order. Each step is
// one function that may change the outcome or end the decision.
#include "engine/base/assert.h"
#include "engine/drbd/state/disk_state.h"
#include "engine/drbd/state/split_brain.h"
#include "engine/drbd/state/sync_decision.h"

namespace umblock::drbd {
namespace {

struct Decider {
  const SyncInput& in;
  SyncDecision d;
  DiskState own_disk;    // Negotiating replaced by what the metadata say
  bool own_primary;      // false after a demotion was decided
  bool decided = false;  // verdict and reason are final

  explicit Decider(const SyncInput& input)
      : in(input),
        own_disk(input.own_disk == DiskState::kNegotiating ? input.own_disk_from_metadata
                                                           : input.own_disk),
        own_primary(input.own_role == Role::kPrimary) {}

  int version() const { return in.compare.agreed_version; }
  bool peer_primary() const { return in.peer_role == Role::kPrimary; }
  bool any_bits() const { return in.own_bits != 0 || in.peer_bits != 0; }
  bool OwnFlag(uint64_t flag) const { return (in.compare.own_flags & flag) != 0; }
  bool PeerFlag(uint64_t flag) const { return in.compare.peer->Has(flag); }

  void End(SyncVerdict verdict, SyncReason reason) {
    d.verdict = verdict;
    d.reason = reason;
    d.would_be_target = IsTarget(d.outcome);
    decided = true;
  }

  void Compare();
  void Impossible();
  void MissedFinishWithOldPeer();
  void DiskStates();
  void UseDiskStates(bool source);
  void Reconcile();
  void UnstableSplitBrain();
  void SplitBrain();
  void Resolve(SyncDirection direction, bool full_sync);
  void DiscardMyDataReverses();
  void PrimaryAsTarget();
  void CrashedSideYields();
  void MissedFinishSourceNotUpToDate();
  void Conclude();
};

bool IfBothFailed(SyncOutcome o) {
  return o == SyncOutcome::kSourceIfBothFailed || o == SyncOutcome::kTargetIfBothFailed;
}

bool MissedFinish(SyncRule rule) {
  return rule == SyncRule::kSyncSourceMissedFinish ||
         rule == SyncRule::kSyncSourcePeerMissedFinish ||
         rule == SyncRule::kSyncTargetMissedFinish || rule == SyncRule::kSyncTargetPeerMissedFinish;
}

void Decider::Compare() {
  d.comparison = CompareUuids(in.compare);
  d.rule = d.comparison.rule;
  d.outcome = d.comparison.outcome;
  d.node = d.comparison.node;
}

// Step 1.
void Decider::Impossible() {
  switch (d.outcome) {
    case SyncOutcome::kRetryConnect:
      return End(SyncVerdict::kRetry, SyncReason::kHandshakeChanged);
    case SyncOutcome::kUnrelatedData:
      return End(SyncVerdict::kDisconnect, SyncReason::kUnrelatedData);
    case SyncOutcome::kRequiresProtocol:
      d.required_protocol = d.comparison.required_protocol;
      return End(SyncVerdict::kDisconnect, SyncReason::kRequiresProtocol);
    default:
      return;
  }
}

// Step 2.
void Decider::MissedFinishWithOldPeer() {
  if (version() >= 124 || any_bits()) return;
  if (d.rule == SyncRule::kSyncSourceMissedFinish) {
    return End(SyncVerdict::kRetry, SyncReason::kMissedFinishUnclear);
  }
  if (d.rule == SyncRule::kSyncTargetPeerMissedFinish && own_primary) {
    d.required_protocol = 124;
    End(SyncVerdict::kDisconnect, SyncReason::kRequiresProtocol);
  }
}

// Step 3: may the disk states overrule equal UUIDs?
void Decider::DiskStates() {
  const DiskState peer = in.peer_disk;
  // One that is being attached is to the peer no more than Consistent: both decide on the same.
  const DiskState mine = in.attach && in.own_disk == DiskState::kNegotiating
                             ? ResolvePeerDisk(in.own_disk, OwnFlag(wire::kUuidFlagInconsistent))
                             : own_disk;
  if (mine == peer || mine < DiskState::kInconsistent || peer < DiskState::kInconsistent ||
      peer == DiskState::kUnknown) {
    return;
  }
  const bool one_inconsistent =
      (mine == DiskState::kInconsistent) != (peer == DiskState::kInconsistent);
  const bool soft_rule = d.rule == SyncRule::kReconnected || d.rule == SyncRule::kLostQuorum ||
                         d.rule == SyncRule::kBothOff;
  bool applies = false;
  if (version() >= 119) {
    applies = (soft_rule && IfBothFailed(d.outcome)) ||
              (d.outcome == SyncOutcome::kNoSync && one_inconsistent);
  } else {
    applies =
        (d.rule == SyncRule::kBothOff || d.outcome == SyncOutcome::kNoSync) && one_inconsistent;
  }
  if (applies) UseDiskStates(mine > peer);
}

void Decider::UseDiskStates(bool source) {
  d.by_disk_state = true;
  d.outcome = source ? SyncOutcome::kSourceUseBitmap : SyncOutcome::kTargetUseBitmap;
  const bool target_syncs_elsewhere =
      source ? PeerFlag(wire::kUuidFlagSyncTarget) : OwnFlag(wire::kUuidFlagSyncTarget);
  if (!target_syncs_elsewhere) return;

  // The target's resync from a third node was interrupted: which slot of the source knows what the
  // target misses? Both sides look at the target's bitmap UUID for the source, as it was sent.
  const UuidSet& own = *in.compare.own;
  const PeerUuids& peer = *in.compare.peer;
  const int target = source ? in.compare.peer_node : in.own_node;
  const uint64_t base = source                       ? peer.BitmapFor(in.own_node)
                        : in.compare.sent != nullptr ? in.compare.sent->bitmap
                                                     : own.bitmap(in.compare.peer_node).uuid;
  if (SameUuid(base, in.compare.own_current) && SameUuid(base, peer.current)) return;
  const auto source_slot = [&](int node) {
    return source ? own.bitmap(node).uuid : peer.BitmapFor(node);
  };
  if (base != kUuidUnknown && SameUuid(source_slot(target), base)) return;
  const NodeMask known = source ? kAllNodes & ~NodeBit(in.own_node) : peer.present;
  for (int node : Nodes(known)) {
    if (node == target || IsZeroUuid(base) || base == kUuidUnknown) continue;
    if (!SameUuid(source_slot(node), base)) continue;
    d.outcome = source ? SyncOutcome::kSourceCopyBitmap : SyncOutcome::kTargetClearBitmap;
    d.node = node;
    return;
  }
  d.outcome = source ? SyncOutcome::kSourceSetBitmap : SyncOutcome::kTargetSetBitmap;
}

// Step 4 (5.6): equal generations, but a Primary was lost in the middle of its writes.
void Decider::Reconcile() {
  if (!in.reconcile || d.outcome != SyncOutcome::kNoSync || !any_bits()) return;
  if (own_disk != DiskState::kUpToDate || in.peer_disk != DiskState::kUpToDate) return;
  const uint64_t bad = wire::kUuidFlagCrashedPrimary | wire::kUuidFlagPrimaryLostQuorum;
  if (OwnFlag(bad) || PeerFlag(bad)) return;
  bool source = false;
  if (in.own_bits == 0 || in.peer_bits == 0) {
    source = in.own_bits != 0;
    d.rule = SyncRule::kReconcileBitmap;
  } else {
    d.rule = SyncRule::kReconcileDagtag;
    source = in.reconcile->own_dagtag != in.reconcile->peer_dagtag
                 ? in.reconcile->own_dagtag > in.reconcile->peer_dagtag
                 : in.own_node < in.compare.peer_node;
  }
  d.outcome = source ? SyncOutcome::kSourceUseBitmap : SyncOutcome::kTargetUseBitmap;
}

// Step 5: compared again when stable.
void Decider::UnstableSplitBrain() {
  if (in.attach || d.outcome != SyncOutcome::kSplitBrainAutoRecover) return;
  if (!in.own_stable || !PeerFlag(wire::kUuidFlagStable)) d.outcome = SyncOutcome::kNoSync;
}

// Steps 6 to 9.
void Decider::SplitBrain() {
  if (!IsSplitBrain(d.outcome)) return;
  const bool hopeless = d.outcome == SyncOutcome::kSplitBrainDisconnect;
  d.call_initial_split_brain = true;
  if (!hopeless || in.policies.always_asbp) {
    const bool arbitrate =
        !in.attach && in.quorum_enabled && version() >= 113 && in.own_quorum != in.peer_quorum;
    if (arbitrate) {
      d.by_quorum = true;
      Resolve(in.own_quorum ? SyncDirection::kSource : SyncDirection::kTarget, hopeless);
      return;
    }
    const SplitBrainVerdict verdict = ResolveSplitBrain(in);
    d.call_pri_lost_after_sb = verdict.call_pri_lost_after_sb;
    if (verdict.direction != SyncDirection::kNone) {
      d.by_split_brain_policy = true;
      d.demote_self = verdict.demote_self;
      own_primary = own_primary && !verdict.demote_self;
      Resolve(verdict.direction, hopeless);
      return;
    }
  }
  d.outcome = SyncOutcome::kSplitBrainDisconnect;
  const bool own_discards = OwnFlag(wire::kUuidFlagDiscardMyData);
  if (!in.attach && own_discards != PeerFlag(wire::kUuidFlagDiscardMyData)) {
    d.by_discard_my_data = true;
    Resolve(own_discards ? SyncDirection::kTarget : SyncDirection::kSource, hopeless);
    return;
  }
  d.call_split_brain = true;
  End(SyncVerdict::kDisconnect, SyncReason::kSplitBrain);
}

void Decider::Resolve(SyncDirection direction, bool full_sync) {
  const bool source = direction == SyncDirection::kSource;
  if (full_sync) {
    d.outcome = source ? SyncOutcome::kSourceSetBitmap : SyncOutcome::kTargetSetBitmap;
  } else {
    d.outcome = source ? SyncOutcome::kSourceUseBitmap : SyncOutcome::kTargetUseBitmap;
  }
}

// Step 10.
void Decider::DiscardMyDataReverses() {
  if (in.attach || version() < 121) return;
  const bool own = OwnFlag(wire::kUuidFlagDiscardMyData);
  if (own == PeerFlag(wire::kUuidFlagDiscardMyData)) return;
  const bool against = own ? IsSource(d.outcome) : IsTarget(d.outcome);
  const bool reversible =
      d.outcome != SyncOutcome::kSourceCopyBitmap && d.outcome != SyncOutcome::kTargetClearBitmap;
  const DiskState new_source = own ? in.peer_disk : own_disk;
  if (!against || !reversible || new_source <= DiskState::kInconsistent) return;
  d.outcome = MirrorOf(d.outcome);
  d.by_discard_my_data = true;
}

// Step 11: this Primary would lose its data. One that attaches a disk has been without: the peer's
// data is what it has been working on.
void Decider::PrimaryAsTarget() {
  if (in.attach) return;
  if (!IsTarget(d.outcome) || d.outcome == SyncOutcome::kTargetIfBothFailed) return;
  if (!own_primary || own_disk < DiskState::kConsistent || !any_bits()) return;
  switch (in.policies.rr_conflict) {
    case AfterSplitBrain::kViolentlyAs0p:
      d.by_rr_conflict = true;
      return;
    case AfterSplitBrain::kAutoDiscard:
      if (!in.attach && d.outcome == SyncOutcome::kTargetUseBitmap &&
          d.rule == SyncRule::kCrashedPrimary) {
        d.outcome = SyncOutcome::kSourceUseBitmap;
        d.by_rr_conflict = true;
        return;
      }
      break;
    case AfterSplitBrain::kRetryConnect:
      return End(SyncVerdict::kRetry, SyncReason::kPrimaryWouldBeTarget);
    case AfterSplitBrain::kCallPriLostAfterSb:
      d.call_pri_lost = true;
      break;
    default:
      break;
  }
  End(SyncVerdict::kDisconnect, SyncReason::kPrimaryWouldBeTarget);
}

// Step 11, seen from the crashed node: the Primary it meets reverses, so it does too.
void Decider::CrashedSideYields() {
  if (in.attach || in.policies.rr_conflict != AfterSplitBrain::kAutoDiscard) return;
  if (d.outcome != SyncOutcome::kSourceUseBitmap || d.rule != SyncRule::kCrashedPrimary) return;
  if (d.by_rr_conflict || !peer_primary() || in.peer_disk < DiskState::kConsistent || !any_bits()) {
    return;
  }
  d.outcome = SyncOutcome::kTargetUseBitmap;
  d.by_rr_conflict = true;
}

// Step 12: the side whose resync seemed finished is not UpToDate itself.
void Decider::MissedFinishSourceNotUpToDate() {
  if (!MissedFinish(d.rule) || (!IsSource(d.outcome) && !IsTarget(d.outcome))) return;
  const bool target = IsTarget(d.outcome);
  if ((target ? in.peer_disk : own_disk) == DiskState::kUpToDate) return;
  d.outcome = SyncOutcome::kNoSync;
  d.drop_own_bitmap_uuid = target;
}

// Step 14.
void Decider::Conclude() {
  d.verdict = SyncVerdict::kProceed;
  d.direction = IsSource(d.outcome)   ? SyncDirection::kSource
                : IsTarget(d.outcome) ? SyncDirection::kTarget
                                      : SyncDirection::kNone;
  if (IfBothFailed(d.outcome) && (own_primary || peer_primary())) {
    d.by_role = true;
    d.direction = own_primary && peer_primary() ? SyncDirection::kNone
                  : own_primary                 ? SyncDirection::kSource
                                                : SyncDirection::kTarget;
  }
  switch (d.outcome) {
    case SyncOutcome::kSourceSetBitmap:
    case SyncOutcome::kTargetSetBitmap:
      d.bitmap = BitmapAction::kSetAll;
      break;
    case SyncOutcome::kSourceCopyBitmap:
      d.bitmap = BitmapAction::kCopyFrom;
      break;
    case SyncOutcome::kTargetClearBitmap:
      d.bitmap = BitmapAction::kClear;
      break;
    default:
      d.bitmap = BitmapAction::kNone;
      d.node = kNoNode;
      break;
  }
}

}  // namespace

ReplicationState SyncDecision::repl() const {
  switch (direction) {
    case SyncDirection::kSource:
      return ReplicationState::kWFBitMapS;
    case SyncDirection::kTarget:
      return ReplicationState::kWFBitMapT;
    case SyncDirection::kNone:
      break;
  }
  return ReplicationState::kEstablished;
}

SyncDecision DecideSync(const SyncInput& in) {
  UMBLOCK_ASSERT(in.compare.own != nullptr && in.compare.peer != nullptr,
                 "both sides' UUIDs are given");
  Decider decider(in);
  decider.Compare();
  constexpr void (Decider::* kSteps[])() = {
      &Decider::Impossible,
      &Decider::MissedFinishWithOldPeer,
      &Decider::DiskStates,
      &Decider::Reconcile,
      &Decider::UnstableSplitBrain,
      &Decider::SplitBrain,
      &Decider::DiscardMyDataReverses,
      &Decider::PrimaryAsTarget,
      &Decider::CrashedSideYields,
      &Decider::MissedFinishSourceNotUpToDate,
  };
  for (const auto step : kSteps) {
    (decider.*step)();
    if (decider.decided) return decider.d;
  }
  if (in.policies.dry_run && !in.attach) {
    decider.End(SyncVerdict::kDisconnect, SyncReason::kDryRun);
    return decider.d;
  }
  decider.Conclude();
  return decider.d;
}

}  // namespace umblock::drbd
