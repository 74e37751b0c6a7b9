// Names of rules, outcomes and policies.
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

}  // namespace umblock::drbd
