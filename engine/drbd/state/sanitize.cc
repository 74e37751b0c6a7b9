// What follows from a requested change: drbd-states.md 2.4, in its order, one function per rule or
// group of rules. Rules for 8.4 peers (S15, second half of the clamp table) belong to their
// dialect.
#include <algorithm>

#include "engine/drbd/state/resource_state.h"

namespace umblock::drbd {
namespace {

using Repl = ReplicationState;
using Disk = DiskState;

constexpr bool IsTargetState(Repl repl) {
  return repl == Repl::kSyncTarget || repl == Repl::kPausedSyncT;
}

struct Sanitizer {
  const ResourceState& now;
  ResourceState& next;
  const ChangeOptions& options;
  SanitizeNotes notes;
  NodeMask peers;

  Sanitizer(const ResourceState& old, ResourceState& state, const ChangeOptions& opts)
      : now(old), next(state), options(opts), peers(state.configured()) {}

  const VolumeState* Before(const VolumeState& v) const { return now.Volume(v.number); }
  Repl ReplBefore(const VolumeState& v, int node) const {
    const VolumeState* before = Before(v);
    return before != nullptr ? before->peer(node).repl : Repl::kOff;
  }
  Disk PeerDiskBefore(const VolumeState& v, int node) const {
    const VolumeState* before = Before(v);
    return before != nullptr ? before->peer(node).disk : Disk::kUnknown;
  }
  bool Lost(int node) const { return now.peer(node).connected() && !next.peer(node).connected(); }

  void Connections();
  void Requested(VolumeState& v);
  void Negotiating(VolumeState& v);
  void Unreplicated(VolumeState& v);
  void SelectSyncTarget(VolumeState& v);
  void PauseAndResume(VolumeState& v, int node);
  void Clamp(VolumeState& v, int node);
  void Upgrade(VolumeState& v, int node);
  void MeetDisklessPrimary(VolumeState& v, int node);
  bool MayBeUpToDateNow(const VolumeState& v) const;
  void Fencing();
  void Quorum(VolumeState& v);
  void LostWhileNegotiating(VolumeState& v);
  void LostPrimary(VolumeState& v);
  void Resource();
};

// S1, S2; and the invariant of 1.4.
void Sanitizer::Connections() {
  for (int node : Nodes(peers)) {
    PeerState& peer = next.peer(node);
    const PeerState& before = now.peer(node);
    if (peer.connection < ConnectionState::kConnected) peer.role = Role::kUnknown;
    const bool broke = (peer.connection >= ConnectionState::kTimeout &&
                        peer.connection <= ConnectionState::kProtocolError) ||
                       (peer.connection == ConnectionState::kDisconnecting && options.hard);
    if (before.role == Role::kPrimary && before.connected() && broke) {
      notes.maybe_crashed_primary = true;
    }
    if (!peer.connected()) {
      for (VolumeState& v : next.volumes) v.peer(node).repl = Repl::kOff;
    }
  }
}

// S3, S4.
void Sanitizer::Requested(VolumeState& v) {
  const VolumeState* before = Before(v);
  if (before == nullptr) return;
  if (before->disk == Disk::kDiskless && v.disk == Disk::kDetaching) v.disk = Disk::kDiskless;
  if (options.ignore_failed_outdate && v.disk == Disk::kOutdated &&
      before->disk < Disk::kOutdated) {
    v.disk = before->disk;
  }
}

// S5, 2.4.1.
void Sanitizer::Negotiating(VolumeState& v) {
  if (v.disk != Disk::kNegotiating || !v.negotiation_pending) return;
  bool any = false;
  bool target = false;
  bool all_failed = true;
  bool up_to_date = false;
  const auto considered = [&](int node) {
    const PeerDeviceState& pd = v.peer(node);
    return pd.disk >= Disk::kNegotiating && pd.disk != Disk::kUnknown && pd.repl != Repl::kOff;
  };
  for (int node : Nodes(peers)) {
    const PeerDeviceState& pd = v.peer(node);
    if (!considered(node)) continue;
    if (pd.negotiation_result == Repl::kOff) return;  // still pending
    any = true;
    target = target || pd.negotiation_result == Repl::kWFBitMapT;
    all_failed = all_failed && pd.negotiation_result == Repl::kBehind;
    up_to_date = up_to_date || pd.disk == Disk::kUpToDate;
  }
  v.negotiation_pending = false;
  if (any && all_failed) {
    v.disk = Disk::kDetaching;
    return;
  }
  v.disk = target ? Disk::kInconsistent : up_to_date ? Disk::kUpToDate : v.disk_from_metadata;
  for (int node : Nodes(peers)) {
    if (!considered(node)) continue;
    PeerDeviceState& pd = v.peer(node);
    pd.repl = pd.negotiation_result == Repl::kBehind ? Repl::kEstablished : pd.negotiation_result;
    // Without good data it waits: for the peer that brings some, or for an administrator (S13).
    if (pd.repl == Repl::kWFBitMapS && v.disk == Disk::kInconsistent) {
      pd.repl = Repl::kPausedSyncS;
      pd.resync_susp_other = target;
    }
    pd.negotiation_result = Repl::kOff;
  }
}

// S6 to S10.
void Sanitizer::Unreplicated(VolumeState& v) {
  const VolumeState* before = Before(v);
  for (int node : Nodes(peers)) {
    PeerDeviceState& pd = v.peer(node);
    PeerState& peer = next.peer(node);
    if (pd.repl < Repl::kEstablished) {
      pd.resync_susp_peer = false;
      // Inconsistent and Outdated are remembered; everything else is unknown from now on.
      if (pd.disk > Disk::kUnknown || pd.disk < Disk::kInconsistent) pd.disk = Disk::kUnknown;
    }
    if (Lost(node)) pd.resync_active = false;
    if (peer.connection == ConnectionState::kStandAlone && v.disk == Disk::kDiskless &&
        next.role == Role::kSecondary) {
      pd.resync_susp_dependency = false;
    }
    if (pd.repl > Repl::kEstablished && (v.disk <= Disk::kFailed || pd.disk <= Disk::kFailed)) {
      pd.repl = Repl::kEstablished;
    }
    const bool newly = now.role != Role::kPrimary || before == nullptr ||
                       before->peer(node).disk != Disk::kUnknown;
    if (peer.fencing == FencingPolicy::kResourceAndStonith && next.role == Role::kPrimary &&
        pd.repl < Repl::kEstablished && pd.disk == Disk::kUnknown && newly) {
      peer.susp_fen = true;
    }
  }
}

// S11, 2.4.2: at most one SyncTarget per volume.
void Sanitizer::SelectSyncTarget(VolumeState& v) {
  int running = kNoNode;
  int best = kNoNode;
  bool winding_down = false;
  for (int node : Nodes(peers)) {
    const PeerDeviceState& pd = v.peer(node);
    if (pd.resync_active && !IsTargetState(pd.repl)) winding_down = true;
    if (!IsTargetState(pd.repl) || pd.resync_susp_user || pd.resync_susp_peer ||
        pd.resync_susp_dependency || pd.resync_susp_parallel || pd.disk < Disk::kOutdated) {
      continue;
    }
    if (pd.resync_active) running = node;
    if (best == kNoNode || pd.out_of_sync <= v.peer(best).out_of_sync) best = node;
  }
  constexpr uint64_t kWorthSwitching = 256;  // bits
  if (running != kNoNode && best != running &&
      v.peer(best).out_of_sync + kWorthSwitching > v.peer(running).out_of_sync) {
    best = running;
  }
  if (winding_down) best = kNoNode;
  for (int node : Nodes(peers)) {
    PeerDeviceState& pd = v.peer(node);
    if (!IsTargetState(pd.repl)) continue;
    if (node == best) {
      pd.resync_susp_other = false;
      pd.repl = Repl::kSyncTarget;
      pd.resync_active = true;
    } else {
      // Waits for the chosen one, or is paused for a reason of its own.
      pd.resync_susp_other = best != kNoNode || winding_down;
      pd.repl = Repl::kPausedSyncT;
      pd.resync_active = false;
    }
  }
}

// S12 to S14.
void Sanitizer::PauseAndResume(VolumeState& v, int node) {
  PeerDeviceState& pd = v.peer(node);
  bool target_elsewhere = false;
  for (int other : Nodes(peers)) {
    target_elsewhere = target_elsewhere || (other != node && IsTargetState(v.peer(other).repl));
  }
  if (pd.repl == Repl::kSyncSource && ReplBefore(v, node) != Repl::kSyncSource) {
    pd.resync_susp_other = pd.resync_susp_other || target_elsewhere;
  }
  // Whoever was waited for is done, or gone: nobody else would take this back.
  if (!target_elsewhere && !IsTargetState(pd.repl)) pd.resync_susp_other = false;
  // A source without good data has nothing to give: it waits, and says so by aftr_isp (1.6).
  const bool paused = pd.resync_suspended() || v.disk <= Disk::kInconsistent;
  if (pd.repl == Repl::kSyncSource && paused) pd.repl = Repl::kPausedSyncS;
  if (pd.repl == Repl::kPausedSyncS && !paused) pd.repl = Repl::kSyncSource;
  if (pd.repl == Repl::kStartingSyncT && ReplBefore(v, node) != Repl::kStartingSyncT) {
    for (int other : Nodes(peers)) {
      PeerDeviceState& o = v.peer(other);
      if (other == node || o.repl != Repl::kEstablished || o.disk < Disk::kInconsistent) continue;
      o.repl = Repl::kPausedSyncT;
      o.resync_susp_other = true;
    }
  }
}

struct Range {
  Disk low;
  Disk high;
  Disk Clamp(Disk disk) const { return std::clamp(disk, low, high); }
};
struct Limits {
  Range own;
  Range peer;
};

// 2.4.3, columns of DRBD 9.
Limits LimitsFor(Repl repl) {
  constexpr Range kAny{Disk::kDiskless, Disk::kUpToDate};
  constexpr Range kReal{Disk::kInconsistent, Disk::kUpToDate};
  switch (repl) {
    case Repl::kOff:
      return {kAny, {Disk::kInconsistent, Disk::kUnknown}};
    case Repl::kEstablished:
      return {kAny, kAny};
    case Repl::kStartingSyncT:
    case Repl::kWFBitMapT:
    case Repl::kWFSyncUUID:
    case Repl::kBehind:
      return {{Disk::kInconsistent, Disk::kOutdated}, kReal};
    case Repl::kPausedSyncT:
    case Repl::kSyncTarget:
      return {{Disk::kInconsistent, Disk::kInconsistent}, kReal};
    case Repl::kStartingSyncS:
    case Repl::kWFBitMapS:
    case Repl::kPausedSyncS:
    case Repl::kAhead:
      return {kReal, {Disk::kInconsistent, Disk::kConsistent}};
    case Repl::kSyncSource:
      return {kReal, {Disk::kInconsistent, Disk::kInconsistent}};
    case Repl::kVerifyS:
    case Repl::kVerifyT:
      return {kReal, kReal};
  }
  return {kAny, kAny};
}

// S16, S17.
void Sanitizer::Clamp(VolumeState& v, int node) {
  PeerDeviceState& pd = v.peer(node);
  const Limits limits = LimitsFor(pd.repl);
  v.disk = limits.own.Clamp(v.disk);
  pd.disk = limits.peer.Clamp(pd.disk);
  if (PeerDiskBefore(v, node) == Disk::kDiskless &&
      (pd.disk == Disk::kFailed || pd.disk == Disk::kDetaching)) {
    pd.disk = Disk::kDiskless;
  }
}

// A peer that has come excuses itself (7.1 (c)).
bool Sanitizer::MayBeUpToDateNow(const VolumeState& v) const {
  if (v.may_be_up_to_date) return true;
  const bool fencing = std::ranges::any_of(v.slots, [](const QuorumSlot& s) { return s.fencing; });
  return fencing && MayBeUpToDate(v);
}

// S18 to S22: how a lowered disk comes back without a resync.
void Sanitizer::Upgrade(VolumeState& v, int node) {
  PeerDeviceState& pd = v.peer(node);
  const Repl repl_before = ReplBefore(v, node);
  const Disk disk_before = PeerDiskBefore(v, node);
  if (pd.repl == Repl::kEstablished && v.disk == Disk::kOutdated && pd.disk >= Disk::kConsistent &&
      pd.uuids_known && pd.peer_stable &&
      (repl_before < Repl::kEstablished || pd.peer_got_stable || disk_before == Disk::kOutdated ||
       (pd.current_uuid_equal && pd.out_of_sync == 0 && disk_before != pd.disk))) {
    v.disk = pd.disk;
  }
  // A Secondary is never stable beside a Primary: the Primary goes by the name and the bitmap.
  if (next.role == Role::kPrimary && pd.repl == Repl::kEstablished && v.disk == Disk::kOutdated &&
      pd.disk == Disk::kUpToDate && disk_before != pd.disk && pd.uuids_known &&
      pd.current_uuid_equal && pd.out_of_sync == 0) {
    v.disk = Disk::kUpToDate;
  }
  if (repl_before == Repl::kWFBitMapT && pd.repl == Repl::kOff && v.disk == Disk::kOutdated &&
      MayBeUpToDateNow(v)) {
    for (int other : Nodes(peers)) {
      const PeerDeviceState& o = v.peer(other);
      if (other != node && o.disk == Disk::kUpToDate && o.peer_stable &&
          o.repl >= Repl::kEstablished) {
        v.disk = Disk::kUpToDate;
      }
    }
  }
  if (repl_before < Repl::kEstablished && pd.repl >= Repl::kEstablished &&
      v.disk == Disk::kConsistent && MayBeUpToDateNow(v)) {
    v.disk = Disk::kUpToDate;
  }
  if (v.disk == Disk::kConsistent && disk_before == Disk::kConsistent &&
      pd.disk == Disk::kUpToDate && pd.peer_stable) {
    v.disk = Disk::kUpToDate;
  }
  pd.peer_got_stable = false;
}

// S23: just connected to a diskless Primary.
void Sanitizer::MeetDisklessPrimary(VolumeState& v, int node) {
  PeerDeviceState& pd = v.peer(node);
  if (now.peer(node).role != Role::kUnknown || next.peer(node).role != Role::kPrimary) return;
  if (pd.disk != Disk::kDiskless || v.disk < Disk::kNegotiating) return;
  bool target_elsewhere = false;
  for (int other : Nodes(peers)) {
    const Repl repl = v.peer(other).repl;
    target_elsewhere = target_elsewhere || IsTargetState(repl) || repl == Repl::kWFBitMapT;
  }
  // Half-synced data keeps the name of the generation that it had before: it proves nothing.
  const bool whole = v.disk != Disk::kInconsistent &&
                     (v.disk != Disk::kNegotiating || v.disk_from_metadata >= Disk::kOutdated);
  if (pd.current_uuid_equal && whole && !target_elsewhere) {
    v.disk = Disk::kUpToDate;
  } else {
    pd.try_other_sources = true;
    if (v.disk == Disk::kUpToDate) v.disk = Disk::kConsistent;
  }
}

// S26, S27.
void Sanitizer::Quorum(VolumeState& v) {
  const VolumeState* before = Before(v);
  QuorumInput in;
  in.self = next.own_node;
  in.options = next.quorum;
  in.own_disk = v.disk;
  in.intentional_diskless = v.intentional_diskless;
  in.had_quorum = before != nullptr && before->quorum;
  if (before != nullptr && before->have_quorum && now.members != 0) in.quorumless = ~now.members;
  in.slots = v.slots;
  for (int node : Nodes(peers)) {
    const PeerDeviceState& pd = v.peer(node);
    in.peers[static_cast<size_t>(node)] = {true,          pd.repl > Repl::kOff,
                                           pd.disk,       pd.bitmap,
                                           pd.tiebreaker, next.peer(node).allow_remote_read,
                                           pd.peer_quorum};
  }
  v.quorum = ComputeQuorum(in).quorum;
  v.have_quorum = v.quorum || !next.quorum.enabled();
  if (v.disk < Disk::kUpToDate || v.quorum) v.restore_quorum = false;
  if (!v.have_quorum && v.disk == Disk::kUpToDate && v.restore_quorum) v.have_quorum = true;
}

// S28.
void Sanitizer::LostWhileNegotiating(VolumeState& v) {
  if (v.disk != Disk::kNegotiating) return;
  for (int node : Nodes(peers)) {
    if (!Lost(node)) continue;
    v.disk = v.disk_from_metadata;
    v.negotiation_pending = false;
    return;
  }
}

// S29: the lost Primary may have written what we never got.
void Sanitizer::LostPrimary(VolumeState& v) {
  if (notes.maybe_crashed_primary && next.connected_primaries() == 0 && v.disk == Disk::kUpToDate &&
      next.role == Role::kSecondary) {
    v.disk = Disk::kConsistent;
  }
  const VolumeState* before = Before(v);
  if (before != nullptr && before->disk == Disk::kUpToDate && v.disk == Disk::kConsistent) {
    notes.run_empty_transaction = true;
  }
}

// The end of a suspension for fencing (5.3): the peer cannot go on alone, or it is back.
void Sanitizer::Fencing() {
  for (int node : Nodes(peers)) {
    PeerState& peer = next.peer(node);
    if (!peer.susp_fen || !now.peer(node).susp_fen) continue;
    bool fenced = true;
    bool back = true;
    for (const VolumeState& v : next.volumes) {
      fenced = fenced && v.peer(node).disk <= Disk::kOutdated;
      back = back && v.peer(node).repl >= Repl::kEstablished;
    }
    if (fenced || back || next.role != Role::kPrimary) peer.susp_fen = false;
  }
}

// S30 to S33.
void Sanitizer::Resource() {
  bool all_accessible = true;
  bool quorum = true;
  bool owes_uuid = false;
  bool writers = false;
  for (const VolumeState& v : next.volumes) {
    const VolumeState* before = Before(v);
    const bool accessible = DataAccessible(next, v);
    all_accessible = all_accessible && accessible;
    const bool was_fine =
        before == nullptr || now.role != Role::kPrimary || DataAccessible(now, *before);
    if (next.role == Role::kPrimary && !accessible && was_fine) notes.newly_without_data = true;
    quorum = quorum && v.have_quorum;
    // Without data in reach there is nothing to begin a generation of; it stays owed.
    owes_uuid = owes_uuid || (v.owes_new_uuid && accessible);
    writers = writers || v.read_write_openers > 0;
  }
  if (all_accessible || next.role != Role::kPrimary) next.susp_nod = false;
  if (notes.newly_without_data && next.on_no_data == OnNoData::kSuspendIo) next.susp_nod = true;
  next.susp_quorum = next.on_no_quorum == OnNoQuorum::kSuspendIo && !quorum;
  const bool resumed = now.suspended() && !now.susp_uuid && !next.suspended();
  if (resumed && owes_uuid) next.susp_uuid = true;
  if (now.role == Role::kPrimary && next.role == Role::kSecondary && options.ignore_openers &&
      writers) {
    next.fail_io = true;
  }
}

}  // namespace

SanitizeNotes Sanitize(const ResourceState& now, ResourceState& next,
                       const ChangeOptions& options) {
  Sanitizer s(now, next, options);
  s.Connections();
  for (VolumeState& v : next.volumes) {
    s.Requested(v);
    s.Negotiating(v);
    s.Unreplicated(v);
    s.SelectSyncTarget(v);
    for (int node : Nodes(s.peers)) {
      s.PauseAndResume(v, node);
      s.Clamp(v, node);
      s.Upgrade(v, node);
      s.MeetDisklessPrimary(v, node);
    }
    s.Quorum(v);
    s.LostWhileNegotiating(v);
    s.LostPrimary(v);
  }
  s.Fencing();
  s.Resource();
  return s.notes;
}

}  // namespace umblock::drbd
