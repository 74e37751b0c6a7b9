// May a change happen? Hard rules 2.2, soft rules 2.3 of drbd-states.md, in evaluation order. Soft
// rules compare old with new: they fire only if the change introduces the violation.
#include <fmt/format.h>

#include "engine/drbd/state/resource_state.h"

namespace umblock::drbd {
namespace {

using Repl = ReplicationState;
using Disk = DiskState;
using Conn = ConnectionState;

StateCheck Refuse(StateResult code, std::string detail) {
  return std::unexpected(StateRefusal{code, std::move(detail)});
}
std::string OfNode(int node) { return fmt::format("node {}", node); }
std::string OfVolume(int volume) { return fmt::format("volume {}", volume); }
std::string OfPeerDevice(int volume, int node) {
  return fmt::format("volume {}, node {}", volume, node);
}

bool IsPrimary(const ResourceState& s) { return s.role == Role::kPrimary; }

struct Checker {
  const ResourceState& now;
  const ResourceState& next;
  const ChangeOptions& options;

  const VolumeState* Before(const VolumeState& v) const { return now.Volume(v.number); }

  StateCheck Hard() const;
  StateCheck HardConnection(int node) const;
  StateCheck Soft() const;
  StateCheck SoftResource() const;
  StateCheck SoftConnection(int node) const;
  StateCheck SoftDevice(const VolumeState& v, const VolumeState& old) const;
  StateCheck SoftDeviceData(const VolumeState& v, const VolumeState& old) const;
  StateCheck SoftPeerDevice(const VolumeState& v, const VolumeState& old, int node) const;
  StateCheck SoftResync(const VolumeState& v, int node, Repl from, Repl to) const;
  bool HandshakeRunning() const;
  bool MayBeOutdated(const VolumeState& v) const;
  StateCheck NoQuorum(const VolumeState& v) const;
};

// --- 2.2 ---

StateCheck Checker::HardConnection(int node) const {
  const Conn from = now.peer(node).connection;
  const Conn to = next.peer(node).connection;
  if (from == to) return {};
  if (from == Conn::kStandAlone && to == Conn::kDisconnecting) {
    return Refuse(StateResult::kAlreadyStandalone, OfNode(node));
  }
  if (from == Conn::kStandAlone && to != Conn::kUnconnected) {
    return Refuse(StateResult::kNeedConnection, OfNode(node));
  }
  if (from >= Conn::kTimeout && from <= Conn::kTearDown && to != Conn::kUnconnected &&
      to != Conn::kDisconnecting) {
    return Refuse(StateResult::kInTransientState, OfNode(node));
  }
  if (from == Conn::kDisconnecting && to != Conn::kStandAlone) {
    return Refuse(StateResult::kInTransientState, OfNode(node));
  }
  return {};
}

StateCheck Checker::Hard() const {
  for (int node : Nodes(next.configured())) {
    if (StateCheck check = HardConnection(node); !check) return check;
  }
  for (const VolumeState& v : next.volumes) {
    const VolumeState* old = Before(v);
    if (old == nullptr || old->disk != Disk::kDiskless) continue;
    if (v.disk == Disk::kFailed || v.disk == Disk::kDetaching) {
      return Refuse(StateResult::kIsDiskless, OfVolume(v.number));
    }
  }
  return {};
}

// --- 2.3 ---

bool Checker::HandshakeRunning() const {
  for (const VolumeState& v : next.volumes) {
    for (int node : Nodes(next.configured())) {
      const PeerDeviceState& pd = v.peer(node);
      if (pd.handshake_running && pd.repl == Repl::kOff) return true;
    }
  }
  return false;
}

// R1 to R3.
StateCheck Checker::SoftResource() const {
  const bool becomes_primary = !IsPrimary(now) && IsPrimary(next);
  if (becomes_primary) {
    for (int node : Nodes(next.configured())) {
      if (next.peer(node).role == Role::kPrimary && !next.peer(node).allow_two_primaries) {
        return Refuse(StateResult::kTwoPrimaries, OfNode(node));
      }
    }
  }
  if (now.role != next.role && HandshakeRunning()) {
    return Refuse(StateResult::kInTransientState, "a connection is being set up");
  }
  if (becomes_primary && next.fail_io) {
    return Refuse(StateResult::kDeviceInUse, "I/O fails until the last opener has closed");
  }
  return {};
}

// C1 to C5.
StateCheck Checker::SoftConnection(int node) const {
  const PeerState& from = now.peer(node);
  const PeerState& to = next.peer(node);
  if (from.connection == Conn::kStandAlone && to.connection == Conn::kDisconnecting) {
    return Refuse(StateResult::kAlreadyStandalone, OfNode(node));
  }
  if (to.connection == Conn::kConnecting && from.connection < Conn::kUnconnected) {
    return Refuse(StateResult::kNoNetConfig, OfNode(node));
  }
  if (from.connection == Conn::kUnconnected && to.connection == Conn::kDisconnecting) {
    return Refuse(StateResult::kInTransientState, OfNode(node));
  }
  const bool peer_becomes_primary = from.role != Role::kPrimary && to.role == Role::kPrimary;
  if (!peer_becomes_primary || to.allow_two_primaries) return {};
  if (IsPrimary(next)) return Refuse(StateResult::kTwoPrimaries, OfNode(node));
  if (next.fail_io) return {};
  for (const VolumeState& v : next.volumes) {
    // A read-write opener's own promotion is decided by its own transaction.
    if (v.read_only_openers > 0 && v.read_write_openers == 0) {
      return Refuse(StateResult::kPrimaryReader, OfPeerDevice(v.number, node));
    }
  }
  return {};
}

StateCheck Checker::NoQuorum(const VolumeState& v) const {
  QuorumInput in;
  in.self = next.own_node;
  in.options = next.quorum;
  in.own_disk = v.disk;
  in.intentional_diskless = v.intentional_diskless;
  in.slots = v.slots;
  const VolumeState* old = Before(v);
  if (old != nullptr && old->have_quorum && now.members != 0) in.quorumless = ~now.members;
  for (int node : Nodes(next.configured())) {
    const PeerDeviceState& pd = v.peer(node);
    in.peers[static_cast<size_t>(node)] = {true,          pd.repl > Repl::kOff,
                                           pd.disk,       pd.bitmap,
                                           pd.tiebreaker, next.peer(node).allow_remote_read,
                                           pd.peer_quorum};
  }
  return Refuse(StateResult::kNoQuorum,
                fmt::format("volume {}: {}", v.number, NoQuorumText(in, ComputeQuorum(in))));
}

// D5 to D8.
StateCheck Checker::SoftDeviceData(const VolumeState& v, const VolumeState& old) const {
  const bool accessible = DataAccessible(next, v);
  const bool was_accessible = DataAccessible(now, old);
  const bool was_as_bad = IsPrimary(now) && !was_accessible;
  if (IsPrimary(next) && !accessible && !was_as_bad) {
    return Refuse(StateResult::kNoUpToDateDisk, OfVolume(v.number));
  }
  if (v.read_only_openers > 0 && v.read_write_openers == 0 && was_accessible && !accessible) {
    return Refuse(StateResult::kNoUpToDateDisk,
                  fmt::format("volume {} is open for reading", v.number));
  }
  if (IsPrimary(next) && !v.have_quorum && (!IsPrimary(now) || old.have_quorum)) {
    return NoQuorum(v);
  }
  int negotiating = v.disk == Disk::kNegotiating;
  for (int node : Nodes(next.configured())) {
    negotiating += v.peer(node).disk == Disk::kNegotiating;
  }
  if (negotiating > 1) {
    return Refuse(StateResult::kInTransientState,
                  fmt::format("volume {}: another node is attaching its disk", v.number));
  }
  return {};
}

// D1 to D4.
StateCheck Checker::SoftDevice(const VolumeState& v, const VolumeState& old) const {
  const bool attaching = old.disk != Disk::kAttaching && v.disk == Disk::kAttaching;
  const bool detaching = old.disk > Disk::kDetaching && v.disk == Disk::kDetaching;
  if ((attaching || detaching) && HandshakeRunning()) {
    return Refuse(StateResult::kInTransientState, OfVolume(v.number));
  }
  if (IsPrimary(now) && !IsPrimary(next) && v.read_write_openers > 0 && !options.ignore_openers) {
    return Refuse(StateResult::kDeviceInUse, OfVolume(v.number));
  }
  if (old.disk == Disk::kDiskless && v.disk > Disk::kAttaching) {
    return Refuse(StateResult::kIsDiskless, OfVolume(v.number));
  }
  if (v.disk == Disk::kOutdated && old.disk < Disk::kOutdated && old.disk != Disk::kAttaching &&
      old.disk != Disk::kNegotiating) {
    bool resync_ends = false;
    for (int node : Nodes(next.configured())) {
      resync_ends = resync_ends || (old.peer(node).repl == Repl::kSyncTarget &&
                                    v.peer(node).repl == Repl::kEstablished);
    }
    if (!resync_ends) return Refuse(StateResult::kLowerThanOutdated, OfVolume(v.number));
  }
  return SoftDeviceData(v, old);
}

// P4: evaluated on the new state.
bool Checker::MayBeOutdated(const VolumeState& v) const {
  bool target = false;
  bool connects_to_diskless = false;
  for (int node : Nodes(next.configured())) {
    const PeerDeviceState& pd = v.peer(node);
    if (IsPrimary(next)) {
      target = target || (pd.disk == Disk::kUpToDate && pd.repl == Repl::kWFBitMapT);
      continue;
    }
    switch (pd.repl) {
      case Repl::kWFSyncUUID:
      case Repl::kWFBitMapT:
      case Repl::kStartingSyncT:
      case Repl::kSyncTarget:
      case Repl::kPausedSyncT:
      case Repl::kBehind:
        target = true;
        break;
      default:
        break;
    }
    connects_to_diskless = connects_to_diskless ||
                           (next.peer(node).role == Role::kPrimary && pd.disk == Disk::kDiskless &&
                            !now.peer(node).connected() && next.peer(node).connected());
  }
  if (IsPrimary(next)) return target;
  return next.connected_primaries() == 0 || connects_to_diskless || target;
}

// P5 to P12.
StateCheck Checker::SoftResync(const VolumeState& v, int node, Repl from, Repl to) const {
  const auto entering = [&](Repl a, Repl b) { return from != to && (to == a || to == b); };
  const auto refuse = [&](StateResult code) { return Refuse(code, OfPeerDevice(v.number, node)); };
  const bool verify = entering(Repl::kVerifyS, Repl::kVerifyT);
  const bool start = entering(Repl::kStartingSyncS, Repl::kStartingSyncT);
  if (verify && !next.peer(node).has_verify_alg) return refuse(StateResult::kNoVerifyAlg);
  if (verify && next.peer(node).agreed_version < 88) return refuse(StateResult::kNotSupported);
  if ((from == Repl::kSyncSource && to == Repl::kWFBitMapS) ||
      (from == Repl::kSyncTarget && to == Repl::kWFBitMapT)) {
    return refuse(StateResult::kResyncRunning);
  }
  if (start && from > Repl::kEstablished) return refuse(StateResult::kResyncRunning);
  if (verify && from < Repl::kEstablished) return refuse(StateResult::kNeedConnection);
  if (verify && from > Repl::kEstablished) return refuse(StateResult::kResyncRunning);
  if (start && from < Repl::kEstablished) return refuse(StateResult::kNeedConnection);
  return {};
}

StateCheck Checker::SoftPeerDevice(const VolumeState& v, const VolumeState& old, int node) const {
  const PeerDeviceState& to = v.peer(node);
  const PeerDeviceState& from = old.peer(node);
  const auto refuse = [&](StateResult code) { return Refuse(code, OfPeerDevice(v.number, node)); };
  const auto unfenced = [&](const ResourceState& s, const PeerDeviceState& pd) {
    return s.peer(node).fencing >= FencingPolicy::kResourceOnly && IsPrimary(s) &&
           pd.repl < Repl::kEstablished && pd.disk > Disk::kOutdated;
  };
  if (unfenced(next, to) && !unfenced(now, from)) return refuse(StateResult::kPrimaryNop);
  const auto no_local = [](const VolumeState& volume, const PeerDeviceState& pd) {
    return pd.repl > Repl::kEstablished && volume.disk < Disk::kInconsistent;
  };
  if (no_local(v, to) && !no_local(old, from)) return refuse(StateResult::kNoLocalDisk);
  const auto no_remote = [](const PeerDeviceState& pd) {
    return pd.repl > Repl::kEstablished && pd.disk < Disk::kInconsistent;
  };
  if (no_remote(to) && !no_remote(from)) return refuse(StateResult::kNoRemoteDisk);
  if (old.disk > Disk::kOutdated && v.disk == Disk::kOutdated && !MayBeOutdated(v)) {
    return refuse(StateResult::kConnectedOutdates);
  }
  if (StateCheck check = SoftResync(v, node, from.repl, to.repl); !check) return check;
  if (from.disk == Disk::kDiskless && to.disk > Disk::kDiskless && to.disk != Disk::kUnknown &&
      !to.bitmap) {
    return refuse(StateResult::kAttachNoBitmap);
  }
  return {};
}

StateCheck Checker::Soft() const {
  if (StateCheck check = SoftResource(); !check) return check;
  for (int node : Nodes(next.configured())) {
    if (StateCheck check = SoftConnection(node); !check) return check;
  }
  for (const VolumeState& v : next.volumes) {
    const VolumeState* before = Before(v);
    if (before == nullptr) continue;
    if (StateCheck check = SoftDevice(v, *before); !check) return check;
    for (int node : Nodes(next.configured())) {
      if (StateCheck check = SoftPeerDevice(v, *before, node); !check) return check;
    }
  }
  return {};
}

}  // namespace

StateCheck CheckTransition(const ResourceState& now, const ResourceState& next,
                           const ChangeOptions& options) {
  const Checker checker{now, next, options};
  if (StateCheck check = checker.Hard(); !check) return check;
  return options.hard ? StateCheck{} : checker.Soft();
}

}  // namespace umblock::drbd
