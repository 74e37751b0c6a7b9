// Names of rules, outcomes and policies, and the sentence that explains a decision.
#include <fmt/format.h>

#include "engine/drbd/state/sync_decision.h"

namespace umblock::drbd {

std::string_view SyncRuleName(SyncRule rule) {
  switch (rule) {
    case SyncRule::kInitialHandshakeChanged:
      return "initial-handshake-changed";
    case SyncRule::kJustCreatedBoth:
      return "just-created-both";
    case SyncRule::kJustCreatedSelf:
      return "just-created-self";
    case SyncRule::kJustCreatedPeer:
      return "just-created-peer";
    case SyncRule::kSyncSourceMissedFinish:
      return "sync-source-missed-finish";
    case SyncRule::kSyncSourcePeerMissedFinish:
      return "sync-source-peer-missed-finish";
    case SyncRule::kSyncTargetMissedFinish:
      return "sync-target-missed-finish";
    case SyncRule::kSyncTargetPeerMissedFinish:
      return "sync-target-peer-missed-finish";
    case SyncRule::kReconnected:
      return "reconnected";
    case SyncRule::kCrashedPrimary:
      return "crashed-primary";
    case SyncRule::kLostQuorum:
      return "lost-quorum";
    case SyncRule::kBothOff:
      return "both-off";
    case SyncRule::kBitmapPeer:
      return "bitmap-peer";
    case SyncRule::kBitmapPeerOther:
      return "bitmap-peer-other";
    case SyncRule::kSyncTargetMissedStart:
      return "sync-target-missed-start";
    case SyncRule::kBitmapSelf:
      return "bitmap-self";
    case SyncRule::kBitmapSelfOther:
      return "bitmap-self-other";
    case SyncRule::kSyncSourceMissedStart:
      return "sync-source-missed-start";
    case SyncRule::kHistoryPeer:
      return "history-peer";
    case SyncRule::kHistorySelf:
      return "history-self";
    case SyncRule::kBitmapBoth:
      return "bitmap-both";
    case SyncRule::kHistoryBoth:
      return "history-both";
    case SyncRule::kUnrelated:
      return "unrelated-data";
    case SyncRule::kReconcileBitmap:
      return "reconcile-bitmap";
    case SyncRule::kReconcileDagtag:
      return "reconcile-dagtag";
  }
  return "?";
}

std::string_view SyncOutcomeName(SyncOutcome outcome) {
  switch (outcome) {
    case SyncOutcome::kNoSync:
      return "no-sync";
    case SyncOutcome::kSourceUseBitmap:
      return "source-use-bitmap";
    case SyncOutcome::kSourceSetBitmap:
      return "source-set-bitmap";
    case SyncOutcome::kSourceCopyBitmap:
      return "source-copy-bitmap";
    case SyncOutcome::kSourceIfBothFailed:
      return "source-if-both-failed";
    case SyncOutcome::kTargetUseBitmap:
      return "target-use-bitmap";
    case SyncOutcome::kTargetSetBitmap:
      return "target-set-bitmap";
    case SyncOutcome::kTargetClearBitmap:
      return "target-clear-bitmap";
    case SyncOutcome::kTargetIfBothFailed:
      return "target-if-both-failed";
    case SyncOutcome::kSplitBrainAutoRecover:
      return "split-brain-auto-recover";
    case SyncOutcome::kSplitBrainDisconnect:
      return "split-brain-disconnect";
    case SyncOutcome::kUnrelatedData:
      return "unrelated-data";
    case SyncOutcome::kRetryConnect:
      return "retry-connect";
    case SyncOutcome::kRequiresProtocol:
      return "requires-protocol";
  }
  return "?";
}

SyncOutcome MirrorOf(SyncOutcome o) {
  switch (o) {
    case SyncOutcome::kSourceUseBitmap:
      return SyncOutcome::kTargetUseBitmap;
    case SyncOutcome::kSourceSetBitmap:
      return SyncOutcome::kTargetSetBitmap;
    case SyncOutcome::kSourceCopyBitmap:
      return SyncOutcome::kTargetClearBitmap;
    case SyncOutcome::kSourceIfBothFailed:
      return SyncOutcome::kTargetIfBothFailed;
    case SyncOutcome::kTargetUseBitmap:
      return SyncOutcome::kSourceUseBitmap;
    case SyncOutcome::kTargetSetBitmap:
      return SyncOutcome::kSourceSetBitmap;
    case SyncOutcome::kTargetClearBitmap:
      return SyncOutcome::kSourceCopyBitmap;
    case SyncOutcome::kTargetIfBothFailed:
      return SyncOutcome::kSourceIfBothFailed;
    default:
      return o;
  }
}

std::string_view AfterSplitBrainName(AfterSplitBrain policy) {
  switch (policy) {
    case AfterSplitBrain::kDisconnect:
      return "disconnect";
    case AfterSplitBrain::kDiscardYoungerPrimary:
      return "discard-younger-primary";
    case AfterSplitBrain::kDiscardOlderPrimary:
      return "discard-older-primary";
    case AfterSplitBrain::kDiscardZeroChanges:
      return "discard-zero-changes";
    case AfterSplitBrain::kDiscardLeastChanges:
      return "discard-least-changes";
    case AfterSplitBrain::kDiscardLocal:
      return "discard-local";
    case AfterSplitBrain::kDiscardRemote:
      return "discard-remote";
    case AfterSplitBrain::kConsensus:
      return "consensus";
    case AfterSplitBrain::kDiscardSecondary:
      return "discard-secondary";
    case AfterSplitBrain::kCallPriLostAfterSb:
      return "call-pri-lost-after-sb";
    case AfterSplitBrain::kViolentlyAs0p:
      return "violently-as0p";
    case AfterSplitBrain::kRetryConnect:
      return "retry-connect";
    case AfterSplitBrain::kAutoDiscard:
      return "auto-discard";
  }
  return "?";
}

std::string_view SyncReasonName(SyncReason reason) {
  switch (reason) {
    case SyncReason::kNone:
      return "none";
    case SyncReason::kUnrelatedData:
      return "unrelated-data";
    case SyncReason::kRequiresProtocol:
      return "requires-protocol";
    case SyncReason::kHandshakeChanged:
      return "handshake-changed";
    case SyncReason::kMissedFinishUnclear:
      return "missed-finish-unclear";
    case SyncReason::kSplitBrain:
      return "split-brain";
    case SyncReason::kPrimaryWouldBeTarget:
      return "primary-would-be-target";
    case SyncReason::kDryRun:
      return "dry-run";
  }
  return "?";
}

namespace {

std::string_view DirectionText(const SyncDecision& d) {
  switch (d.direction) {
    case SyncDirection::kNone:
      return "no resync is needed";
    case SyncDirection::kSource:
      return "this node is the source of a resync";
    case SyncDirection::kTarget:
      return "this node is the target of a resync";
  }
  return "?";
}

std::string BitmapText(const SyncDecision& d) {
  switch (d.bitmap) {
    case BitmapAction::kNone:
      return d.direction == SyncDirection::kNone ? "" : ", of the blocks marked in the bitmap";
    case BitmapAction::kSetAll:
      return ", of the whole device";
    case BitmapAction::kCopyFrom:
      return fmt::format(", of the blocks tracked for node {}", d.node);
    case BitmapAction::kClear:
      return fmt::format(", of the blocks the source tracks for node {}", d.node);
  }
  return "";
}

std::string_view ReasonText(SyncReason reason) {
  switch (reason) {
    case SyncReason::kUnrelatedData:
      return "the two disks hold unrelated data; invalidate one of them if they are meant to be "
             "the same volume";
    case SyncReason::kRequiresProtocol:
      return "the peer's protocol is too old for this situation; upgrade it";
    case SyncReason::kHandshakeChanged:
      return "this node's data generation changed during the handshake";
    case SyncReason::kMissedFinishUnclear:
      return "the end of an earlier resync was missed and this peer would judge it differently";
    case SyncReason::kSplitBrain:
      return "both sides were changed independently (split brain); connect with discard-my-data "
             "on the side whose changes shall be lost";
    case SyncReason::kPrimaryWouldBeTarget:
      return "this Primary would have to take over the peer's data; demote it first or set "
             "rr-conflict";
    case SyncReason::kDryRun:
      return "only a dry run was asked for";
    case SyncReason::kNone:
      break;
  }
  return "";
}

}  // namespace

std::string Explain(const SyncInput& in, const SyncDecision& d) {
  const CompareInput& c = in.compare;
  std::string text;
  if (d.verdict == SyncVerdict::kProceed) {
    text = fmt::format("{}{}", DirectionText(d), BitmapText(d));
  } else {
    text = fmt::format("{}: {}", d.verdict == SyncVerdict::kRetry ? "retry" : "disconnect",
                       ReasonText(d.reason));
  }
  text += fmt::format("; rule {} gave {}", SyncRuleName(d.comparison.rule),
                      SyncOutcomeName(d.comparison.outcome));
  if (d.outcome != d.comparison.outcome) {
    text += fmt::format(", changed to {}", SyncOutcomeName(d.outcome));
    if (d.by_disk_state) text += " by the disk states";
    if (d.by_quorum) text += " by quorum";
    if (d.by_split_brain_policy) text += " by the after-split-brain policy";
    if (d.by_discard_my_data) text += " by discard-my-data";
    if (d.by_rr_conflict) text += " by rr-conflict";
    if (d.rule != d.comparison.rule) text += fmt::format(" by rule {}", SyncRuleName(d.rule));
  }
  if (d.by_role) text += ", directed by who is Primary";
  text += fmt::format(
      "; self {:016X}:{:016X} {} {} bits {} flags {:X}, node {} {:016X}:{:016X} {} {} bits {} "
      "flags {:X}",
      c.own_current, c.own->bitmap(c.peer_node).uuid, RoleName(in.own_role),
      DiskStateName(in.own_disk), in.own_bits, c.own_flags, c.peer_node, c.peer->current,
      c.peer->BitmapFor(in.own_node), RoleName(in.peer_role), DiskStateName(in.peer_disk),
      in.peer_bits, c.peer->flags);
  return text;
}

}  // namespace umblock::drbd
