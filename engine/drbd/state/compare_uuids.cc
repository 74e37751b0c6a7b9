// The rule table of DRBD 9, drbd-metadata-resync.md 5.2, for agreed versions 118 and up. The rules
// for peers below 110 (4, 5, 23, 26) belong to the 8.4 dialect and are not here.
#include <optional>

#include "engine/base/assert.h"
#include "engine/drbd/state/sync_decision.h"

namespace umblock::drbd {
namespace {

constexpr int kReconnectFirst = 120;    // rule 8 instead of 14
constexpr int kCrashedPrimaryAb = 121;  // rules 9 and 10

bool OwnHas(const CompareInput& in, uint64_t flag) { return (in.own_flags & flag) != 0; }

uint64_t Generation(uint64_t current) {
  return IsJustCreated(current) ? kUuidJustCreated : WithoutPrimaryFlag(current);
}

SyncComparison Is(SyncRule rule, SyncOutcome outcome, int node = kNoNode) {
  return {rule, outcome, node, 0};
}

// Rules 9 and 10: only one side crashed as Primary, and writes may have been completed that the
// other side never got.
std::optional<SyncComparison> CrashedPrimaryAsync(const CompareInput& in) {
  if (in.agreed_version < kCrashedPrimaryAb || in.protocol == ReplicationProtocol::kC) {
    return std::nullopt;
  }
  const bool own = OwnHas(in, wire::kUuidFlagCrashedPrimary);
  const bool peer = in.peer->Has(wire::kUuidFlagCrashedPrimary);
  if (own == peer) return std::nullopt;
  return Is(SyncRule::kCrashedPrimary,
            own ? SyncOutcome::kSourceUseBitmap : SyncOutcome::kTargetUseBitmap);
}

// Rules 11 to 13.
std::optional<SyncComparison> LostQuorum(const CompareInput& in) {
  const bool own = OwnHas(in, wire::kUuidFlagPrimaryLostQuorum);
  const bool peer = in.peer->Has(wire::kUuidFlagPrimaryLostQuorum);
  if (!own && !peer) return std::nullopt;
  const bool source = own != peer ? own : in.resolve_conflicts;
  return Is(SyncRule::kLostQuorum,
            source ? SyncOutcome::kSourceIfBothFailed : SyncOutcome::kTargetIfBothFailed);
}

// Rules 15 to 20: equal data generations, what do crashes and survivors mean?
SyncComparison CrashedOrReconnected(const CompareInput& in) {
  const bool own_crashed = OwnHas(in, wire::kUuidFlagCrashedPrimary);
  const bool peer_crashed = in.peer->Has(wire::kUuidFlagCrashedPrimary);
  const bool own_survived = OwnHas(in, wire::kUuidFlagReconnect);
  const bool peer_survived = in.peer->Has(wire::kUuidFlagReconnect);
  const SyncRule rule =
      in.agreed_version >= kReconnectFirst ? SyncRule::kLostQuorum : SyncRule::kReconnected;
  if (peer_crashed && own_survived) return Is(rule, SyncOutcome::kSourceIfBothFailed);
  if (own_crashed && peer_survived) return Is(rule, SyncOutcome::kTargetIfBothFailed);
  if (own_survived || peer_survived) return Is(rule, SyncOutcome::kNoSync);
  if (own_crashed) {
    const bool target = peer_crashed && in.resolve_conflicts;
    return Is(SyncRule::kBothOff,
              target ? SyncOutcome::kTargetIfBothFailed : SyncOutcome::kSourceIfBothFailed);
  }
  if (peer_crashed) return Is(SyncRule::kBothOff, SyncOutcome::kTargetIfBothFailed);
  return Is(SyncRule::kBothOff, SyncOutcome::kNoSync);
}

// Rules 6 to 20.
SyncComparison CompareEqual(const CompareInput& in) {
  if (in.source_missed_end) {
    return Is(SyncRule::kSyncSourceMissedFinish, SyncOutcome::kSourceUseBitmap);
  }
  if (in.peer_missed_end) {
    return Is(SyncRule::kSyncTargetPeerMissedFinish, SyncOutcome::kTargetUseBitmap);
  }
  const bool both_reconnect =
      OwnHas(in, wire::kUuidFlagReconnect) && in.peer->Has(wire::kUuidFlagReconnect);
  if (in.agreed_version >= kReconnectFirst && both_reconnect) {
    return Is(SyncRule::kReconnected, SyncOutcome::kNoSync);
  }
  if (const auto found = CrashedPrimaryAsync(in)) return *found;
  if (const auto found = LostQuorum(in)) return *found;
  if (in.agreed_version < kReconnectFirst && both_reconnect) {
    return Is(SyncRule::kReconnected, SyncOutcome::kNoSync);
  }
  return CrashedOrReconnected(in);
}

// Rule 22: some other slot of the peer names our generation.
int PeerSlotNaming(const CompareInput& in, uint64_t self) {
  for (int node : Nodes(in.peer->present)) {
    if (node == in.own->own_node() || node == in.peer_node) continue;
    if (SameUuid(in.peer->BitmapFor(node), self)) return node;
  }
  return kNoNode;
}

// Rule 30; both scans stop at the first 0.
bool CommonHistory(const CompareInput& in) {
  for (uint64_t mine : in.own->history()) {
    if (IsZeroUuid(mine)) break;
    for (uint64_t theirs : in.peer->history) {
      if (IsZeroUuid(theirs)) break;
      if (SameUuid(mine, theirs)) return true;
    }
  }
  return false;
}

// Rules 21 to 31.
SyncComparison CompareDifferent(const CompareInput& in, uint64_t self, uint64_t peer) {
  const uint64_t peer_for_me = in.peer->BitmapFor(in.own->own_node());
  const uint64_t mine_for_peer = in.own->bitmap(in.peer_node).uuid;
  if (SameUuid(peer_for_me, self)) return Is(SyncRule::kBitmapPeer, SyncOutcome::kTargetUseBitmap);
  if (const int node = PeerSlotNaming(in, self); node != kNoNode) {
    return Is(SyncRule::kBitmapPeerOther, SyncOutcome::kTargetClearBitmap, node);
  }
  if (SameUuid(mine_for_peer, peer)) {
    return Is(SyncRule::kBitmapSelf, SyncOutcome::kSourceUseBitmap);
  }
  const NodeMask among =
      (in.agreed_version < 116 ? in.own_with_slot : kAllNodes) & ~NodeBit(in.peer_node);
  if (const auto node = in.own->FindBitmap(peer, among)) {
    return Is(SyncRule::kBitmapSelfOther, SyncOutcome::kSourceCopyBitmap, *node);
  }
  const bool self_in_peers = in.peer->InHistory(self);
  const bool peer_in_own = in.own->InHistory(peer);
  if (self_in_peers && !peer_in_own) {
    return Is(SyncRule::kHistoryPeer, SyncOutcome::kTargetSetBitmap);
  }
  if (peer_in_own && !self_in_peers) {
    return Is(SyncRule::kHistorySelf, SyncOutcome::kSourceSetBitmap);
  }
  if (SameUuid(mine_for_peer, peer_for_me) && !IsZeroUuid(mine_for_peer)) {
    return Is(SyncRule::kBitmapBoth, SyncOutcome::kSplitBrainAutoRecover);
  }
  if (CommonHistory(in)) return Is(SyncRule::kHistoryBoth, SyncOutcome::kSplitBrainDisconnect);
  return Is(SyncRule::kUnrelated, SyncOutcome::kUnrelatedData);
}

}  // namespace

SyncComparison CompareUuids(const CompareInput& in) {
  UMBLOCK_ASSERT(in.own != nullptr && in.peer != nullptr, "both sides' UUIDs are given");
  if (in.sent != nullptr && in.now != nullptr && !in.sent->SameAs(*in.now)) {
    return Is(SyncRule::kInitialHandshakeChanged, SyncOutcome::kRetryConnect);
  }
  const uint64_t self = Generation(in.own_current);
  const uint64_t peer = Generation(in.peer->current);
  if (self == kUuidJustCreated && peer == kUuidJustCreated) {
    return Is(SyncRule::kJustCreatedBoth, SyncOutcome::kNoSync);
  }
  if (self == kUuidJustCreated) {
    return Is(SyncRule::kJustCreatedSelf, SyncOutcome::kTargetSetBitmap);
  }
  if (peer == kUuidJustCreated) {
    return Is(SyncRule::kJustCreatedPeer, SyncOutcome::kSourceSetBitmap);
  }
  return self == peer ? CompareEqual(in) : CompareDifferent(in, self, peer);
}

}  // namespace umblock::drbd
