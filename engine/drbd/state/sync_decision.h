// The handshake decision: given both sides' data generations and states, who copies to whom?
//
// CompareUuids is the rule table of DRBD 9 (drbd-metadata-resync.md 5.2) for agreed versions 118
// and up; DecideSync is the whole decision (5.5 to 5.8). Both are pure and mirror images: the peer,
// given the same values from its side, comes to the opposite direction. The record they return goes
// to the log, the event stream and umctl.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/drbd/state/peer_uuids.h"
#include "engine/drbd/state/uuid_set.h"
#include "engine/drbd/wire/constants.h"
#include "engine/drbd/wire/state_word.h"

namespace umblock::drbd {

using wire::AfterSplitBrain;
using wire::ReplicationProtocol;

// Rule names as kernels log them. An 8.4 dialect adds its own table and reuses these names.
enum class SyncRule {
  kInitialHandshakeChanged,
  kJustCreatedBoth,
  kJustCreatedSelf,
  kJustCreatedPeer,
  kSyncSourceMissedFinish,
  kSyncSourcePeerMissedFinish,
  kSyncTargetMissedFinish,
  kSyncTargetPeerMissedFinish,
  kReconnected,
  kCrashedPrimary,
  kLostQuorum,
  kBothOff,
  kBitmapPeer,
  kBitmapPeerOther,
  kSyncTargetMissedStart,
  kBitmapSelf,
  kBitmapSelfOther,
  kSyncSourceMissedStart,
  kHistoryPeer,
  kHistorySelf,
  kBitmapBoth,
  kHistoryBoth,
  kUnrelated,
  kReconcileBitmap,
  kReconcileDagtag,
};
std::string_view SyncRuleName(SyncRule rule);  // "bitmap-self"

enum class SyncOutcome {
  kNoSync,
  kSourceUseBitmap,
  kSourceSetBitmap,
  kSourceCopyBitmap,  // from the slot of SyncComparison::node
  kSourceIfBothFailed,
  kTargetUseBitmap,
  kTargetSetBitmap,
  kTargetClearBitmap,
  kTargetIfBothFailed,
  kSplitBrainAutoRecover,
  kSplitBrainDisconnect,
  kUnrelatedData,
  kRetryConnect,
  kRequiresProtocol,
};
std::string_view SyncOutcomeName(SyncOutcome outcome);  // "source-use-bitmap"

constexpr bool IsSource(SyncOutcome o) {
  return o >= SyncOutcome::kSourceUseBitmap && o <= SyncOutcome::kSourceIfBothFailed;
}
constexpr bool IsTarget(SyncOutcome o) {
  return o >= SyncOutcome::kTargetUseBitmap && o <= SyncOutcome::kTargetIfBothFailed;
}
constexpr bool IsSplitBrain(SyncOutcome o) {
  return o == SyncOutcome::kSplitBrainAutoRecover || o == SyncOutcome::kSplitBrainDisconnect;
}
// What the other side must have found when this side found `o`.
SyncOutcome MirrorOf(SyncOutcome o);

struct CompareInput {
  const UuidSet* own = nullptr;     // never null
  uint64_t own_current = 0;         // resolved (ResolvedCurrent)
  uint64_t own_flags = 0;           // flags of our UUID packet to this peer
  NodeMask own_with_slot = 0;       // entries with a bitmap slot
  const PeerUuids* peer = nullptr;  // never null
  int peer_node = 0;
  int agreed_version = 124;
  ReplicationProtocol protocol = ReplicationProtocol::kC;
  bool resolve_conflicts = false;  // we accepted the control socket (drbd-wire.md 1.5)
  bool source_missed_end = false;  // marks of DetectFinishedResyncs
  bool peer_missed_end = false;
  // During a connect handshake, once our packets were sent: what was sent, what would be sent now.
  const SentUuids* sent = nullptr;
  const SentUuids* now = nullptr;
};

struct SyncComparison {
  SyncRule rule = SyncRule::kUnrelated;
  SyncOutcome outcome = SyncOutcome::kUnrelatedData;
  int node = kNoNode;         // the other node whose slot is meant (copy, clear)
  int required_protocol = 0;  // with kRequiresProtocol

  bool operator==(const SyncComparison&) const = default;
};

SyncComparison CompareUuids(const CompareInput& in);

// --- The decision --------------------------------------------------------------------------------

std::string_view AfterSplitBrainName(AfterSplitBrain policy);

struct SyncPolicies {
  AfterSplitBrain after_sb_0pri = AfterSplitBrain::kDisconnect;
  AfterSplitBrain after_sb_1pri = AfterSplitBrain::kDisconnect;
  AfterSplitBrain after_sb_2pri = AfterSplitBrain::kDisconnect;
  AfterSplitBrain rr_conflict = AfterSplitBrain::kDisconnect;
  bool always_asbp = false;
  bool dry_run = false;  // "tentative"
};

struct SyncInput {
  CompareInput compare;
  SyncPolicies policies;

  int own_node = 0;
  Role own_role = Role::kSecondary;
  Role peer_role = Role::kUnknown;
  DiskState own_disk = DiskState::kUpToDate;
  // Own disk Negotiating: what the metadata say (drbd-states.md 7.1).
  DiskState own_disk_from_metadata = DiskState::kInconsistent;
  DiskState peer_disk = DiskState::kUpToDate;  // Negotiating already resolved by its flags
  uint64_t own_bits = 0;                       // out-of-sync bits, own slot for the peer
  uint64_t peer_bits = 0;                      // the peer's dirty_bits
  bool own_stable = true;

  bool quorum_enabled = false;
  bool own_quorum = true;
  bool peer_quorum = true;

  // Feature RECONCILE_RECONNECT: positions in the stream of the one lost Primary both sides name.
  struct Reconcile {
    uint64_t own_dagtag = 0;
    uint64_t peer_dagtag = 0;
  };
  std::optional<Reconcile> reconcile;

  // Whether this Primary could be demoted now (call-pri-lost-after-sb).
  bool can_demote = false;
  // An attach while connected (5.9): no discard-my-data, quorum arbitration, auto-discard, dry run.
  bool attach = false;
};

enum class SyncVerdict { kProceed, kDisconnect, kRetry };
enum class SyncDirection { kNone, kSource, kTarget };
enum class BitmapAction {
  kNone,
  kSetAll,    // set the slot for the peer; all slots if the own current UUID is 4
  kCopyFrom,  // copy the slot of SyncDecision::node (the day0 slot if it has none)
  kClear,     // clear the slot for the peer
};
// Why a decision ends in disconnect or retry.
enum class SyncReason {
  kNone,
  kUnrelatedData,
  kRequiresProtocol,
  kHandshakeChanged,
  kMissedFinishUnclear,  // 5.5.2: the peer (< 124) would not come to the same result
  kSplitBrain,
  kPrimaryWouldBeTarget,
  kDryRun,
};
std::string_view SyncReasonName(SyncReason reason);

struct SyncDecision {
  SyncVerdict verdict = SyncVerdict::kDisconnect;
  SyncReason reason = SyncReason::kNone;
  SyncDirection direction = SyncDirection::kNone;
  BitmapAction bitmap = BitmapAction::kNone;
  int node = kNoNode;

  SyncComparison comparison;                   // what the UUIDs alone said
  SyncRule rule = SyncRule::kUnrelated;        // the rule in force at the end
  SyncOutcome outcome = SyncOutcome::kNoSync;  // the result in force at the end

  // What changed the comparison's result on the way, in the order of 5.5.
  bool by_disk_state = false;
  bool by_quorum = false;
  bool by_split_brain_policy = false;
  bool by_discard_my_data = false;
  bool by_rr_conflict = false;
  bool by_role = false;  // an if-both-failed result, decided by who is Primary now

  // Handlers to run, in this order.
  bool call_initial_split_brain = false;
  bool call_split_brain = false;
  bool call_pri_lost = false;
  bool call_pri_lost_after_sb = false;
  // This Primary must be demoted before it becomes the target.
  bool demote_self = false;
  // The own bitmap UUID for the peer goes to the history and becomes 0 (5.5.12).
  bool drop_own_bitmap_uuid = false;
  // A disconnect or retry in which this side would have been the target: its disk is Outdated.
  bool would_be_target = false;
  int required_protocol = 0;

  ReplicationState repl() const;

  bool operator==(const SyncDecision&) const = default;
};

SyncDecision DecideSync(const SyncInput& in);

}  // namespace umblock::drbd
