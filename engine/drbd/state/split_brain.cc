#include "engine/drbd/state/split_brain.h"

namespace umblock::drbd {
namespace {

SyncDirection Opposite(SyncDirection d) {
  if (d == SyncDirection::kSource) return SyncDirection::kTarget;
  return d == SyncDirection::kTarget ? SyncDirection::kSource : d;
}

SyncDirection ByConflictResolver(const SyncInput& in) {
  return in.compare.resolve_conflicts ? SyncDirection::kTarget : SyncDirection::kSource;
}

// Whoever became Primary earlier (bit 0 of its bitmap UUID: it was Primary when the common
// generation ended) is the older one. kNone: both or neither.
SyncDirection OlderPrimaryIsSource(const SyncInput& in) {
  const CompareInput& c = in.compare;
  const uint64_t peer_bitmap = c.peer->BitmapFor(in.own_node);
  const bool self = (c.own->bitmap(c.peer_node).uuid & kUuidPrimaryBit) != 0;
  const bool peer = peer_bitmap != kUuidUnknown && (peer_bitmap & kUuidPrimaryBit) != 0;
  if (self == peer) return SyncDirection::kNone;
  return self ? SyncDirection::kSource : SyncDirection::kTarget;
}

SyncDirection ZeroChangesIsTarget(const SyncInput& in) {
  if (in.own_bits == 0 && in.peer_bits == 0) return ByConflictResolver(in);
  if (in.peer_bits == 0) return SyncDirection::kSource;
  if (in.own_bits == 0) return SyncDirection::kTarget;
  return SyncDirection::kNone;
}

SyncDirection FewerChangesIsTarget(const SyncInput& in) {
  if (in.own_bits < in.peer_bits) return SyncDirection::kTarget;
  if (in.own_bits > in.peer_bits) return SyncDirection::kSource;
  return ByConflictResolver(in);
}

SyncDirection ByChanges(const SyncInput& in) {
  const SyncDirection zero = ZeroChangesIsTarget(in);
  return zero != SyncDirection::kNone ? zero : FewerChangesIsTarget(in);
}

SyncDirection ZeroPrimaries(const SyncInput& in) {
  switch (in.policies.after_sb_0pri) {
    case AfterSplitBrain::kDiscardYoungerPrimary: {
      const SyncDirection found = OlderPrimaryIsSource(in);
      return found != SyncDirection::kNone ? found : ByChanges(in);
    }
    case AfterSplitBrain::kDiscardOlderPrimary: {
      const SyncDirection found = Opposite(OlderPrimaryIsSource(in));
      return found != SyncDirection::kNone ? found : ByChanges(in);
    }
    case AfterSplitBrain::kDiscardZeroChanges:
      return ZeroChangesIsTarget(in);
    case AfterSplitBrain::kDiscardLeastChanges:
      return FewerChangesIsTarget(in);
    case AfterSplitBrain::kDiscardLocal:
      return SyncDirection::kTarget;
    case AfterSplitBrain::kDiscardRemote:
      return SyncDirection::kSource;
    default:
      return SyncDirection::kNone;
  }
}

// The zero-Primaries decision; if it is against this Primary, the Primary has to give in.
SplitBrainVerdict CallPriLost(const SyncInput& in) {
  SplitBrainVerdict verdict;
  verdict.direction = ZeroPrimaries(in);
  if (verdict.direction != SyncDirection::kTarget || in.own_role != Role::kPrimary) return verdict;
  if (in.can_demote) {
    verdict.demote_self = true;
  } else {
    verdict.direction = SyncDirection::kNone;
    verdict.call_pri_lost_after_sb = true;
  }
  return verdict;
}

SplitBrainVerdict OnePrimary(const SyncInput& in) {
  const bool self_primary = in.own_role == Role::kPrimary;
  SplitBrainVerdict verdict;
  switch (in.policies.after_sb_1pri) {
    case AfterSplitBrain::kConsensus: {
      const SyncDirection found = ZeroPrimaries(in);
      if (found == (self_primary ? SyncDirection::kSource : SyncDirection::kTarget)) {
        verdict.direction = found;
      }
      return verdict;
    }
    case AfterSplitBrain::kViolentlyAs0p:
      verdict.direction = ZeroPrimaries(in);
      return verdict;
    case AfterSplitBrain::kDiscardSecondary:
      verdict.direction = self_primary ? SyncDirection::kSource : SyncDirection::kTarget;
      return verdict;
    case AfterSplitBrain::kCallPriLostAfterSb:
      return CallPriLost(in);
    default:
      return verdict;
  }
}

SplitBrainVerdict TwoPrimaries(const SyncInput& in) {
  SplitBrainVerdict verdict;
  switch (in.policies.after_sb_2pri) {
    case AfterSplitBrain::kViolentlyAs0p:
      verdict.direction = ZeroPrimaries(in);
      return verdict;
    case AfterSplitBrain::kCallPriLostAfterSb:
      return CallPriLost(in);
    default:
      return verdict;
  }
}

}  // namespace

SplitBrainVerdict ResolveSplitBrain(const SyncInput& in) {
  const int primaries = (in.own_role == Role::kPrimary) + (in.peer_role == Role::kPrimary);
  if (primaries == 0) return {ZeroPrimaries(in), false, false};
  return primaries == 1 ? OnePrimary(in) : TwoPrimaries(in);
}

}  // namespace umblock::drbd
