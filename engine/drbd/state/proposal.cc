#include "engine/drbd/state/proposal.h"

#include "engine/base/assert.h"

namespace umblock::drbd {
namespace {

using namespace wire;  // NOLINT: the fields of the state word

uint32_t Conn(ConnectionState state) { return static_cast<uint32_t>(state) << kConnShift; }
uint32_t Conn(ReplicationState state) { return static_cast<uint32_t>(state) << kConnShift; }
uint32_t Disk(DiskState state) { return static_cast<uint32_t>(state) << kDiskShift; }
uint32_t PeerDisk(DiskState state) { return static_cast<uint32_t>(state) << kPeerDiskShift; }
uint32_t RoleBits(Role role) { return static_cast<uint32_t>(role); }

ReplicationState ReplOf(uint32_t value) {
  return static_cast<ReplicationState>((value & kConnMask) >> kConnShift);
}

ProposalReading ReadConnection(uint32_t mask, uint32_t value) {
  ProposalReading reading;
  const uint32_t conn = value & kConnMask;
  if (mask == (kConnMask | kRoleMask) && conn == Conn(ConnectionState::kConnected)) {
    reading.kind = ProposalKind::kConnect;
    reading.role = static_cast<Role>(value & kRoleMask);
    return reading;
  }
  if (conn != Conn(ConnectionState::kDisconnecting)) return reading;
  if (mask == (kConnMask | kDiskMask) && (value & kDiskMask) == Disk(DiskState::kOutdated)) {
    reading.outdate = OutdateOnDisconnect::kSelf;
  } else if (mask == (kConnMask | kPeerDiskMask) &&
             (value & kPeerDiskMask) == PeerDisk(DiskState::kOutdated)) {
    reading.outdate = OutdateOnDisconnect::kPeer;
  } else if (mask != kConnMask) {
    return reading;
  }
  reading.kind = ProposalKind::kDisconnect;
  return reading;
}

ProposalReading ReadRole(uint32_t mask, uint32_t value) {
  ProposalReading reading;
  const uint32_t role = value & kRoleMask;
  if (mask == kRoleMask && role == RoleBits(Role::kSecondary)) {
    reading.kind = ProposalKind::kDemote;
  } else if (role == RoleBits(Role::kPrimary)) {
    const bool forced =
        mask == (kRoleMask | kDiskMask) && (value & kDiskMask) == Disk(DiskState::kUpToDate);
    if (mask != kRoleMask && !forced) return reading;
    reading.kind = ProposalKind::kPromote;
    reading.force_up_to_date = forced;
  }
  return reading;
}

ProposalReading ReadVolume(uint32_t mask, uint32_t value) {
  ProposalReading reading;
  if (mask == kDiskMask) {
    if ((value & kDiskMask) == Disk(DiskState::kNegotiating)) reading.kind = ProposalKind::kAttach;
    if ((value & kDiskMask) == Disk(DiskState::kDetaching)) reading.kind = ProposalKind::kDetach;
    return reading;
  }
  if (mask != kConnMask) return reading;
  reading.repl = ReplOf(value);
  switch (reading.repl) {
    case ReplicationState::kOff:
      reading.kind = ProposalKind::kRemoveVolume;
      break;
    case ReplicationState::kStartingSyncS:
    case ReplicationState::kStartingSyncT:
    case ReplicationState::kWFBitMapS:
    case ReplicationState::kWFBitMapT:
      reading.kind = ProposalKind::kStartResync;
      break;
    case ReplicationState::kVerifyS:
      reading.kind = ProposalKind::kStartVerify;
      break;
    default:
      break;
  }
  return reading;
}

}  // namespace

std::string_view ProposalKindName(ProposalKind kind) {
  switch (kind) {
    case ProposalKind::kEmpty:
      return "lost-peer probe";
    case ProposalKind::kConnect:
      return "connect";
    case ProposalKind::kDisconnect:
      return "disconnect";
    case ProposalKind::kPromote:
      return "promote";
    case ProposalKind::kDemote:
      return "demote";
    case ProposalKind::kAttach:
      return "attach";
    case ProposalKind::kDetach:
      return "detach";
    case ProposalKind::kStartResync:
      return "start resync";
    case ProposalKind::kStartVerify:
      return "start verify";
    case ProposalKind::kRemoveVolume:
      return "remove volume";
    case ProposalKind::kOther:
      return "state change";
  }
  return "?";
}

Proposal ProposeConnect(int peer, Role own_role) {
  return {kConnMask | kRoleMask, Conn(ConnectionState::kConnected) | RoleBits(own_role), peer,
          kNoVolume};
}

Proposal ProposeDisconnect(int peer, OutdateOnDisconnect outdate) {
  Proposal proposal{kConnMask, Conn(ConnectionState::kDisconnecting), peer, kNoVolume};
  if (outdate == OutdateOnDisconnect::kSelf) {
    proposal.mask |= kDiskMask;
    proposal.value |= Disk(DiskState::kOutdated);
  } else if (outdate == OutdateOnDisconnect::kPeer) {
    proposal.mask |= kPeerDiskMask;
    proposal.value |= PeerDisk(DiskState::kOutdated);
  }
  return proposal;
}

Proposal ProposePromote(bool force_up_to_date) {
  Proposal proposal{kRoleMask, RoleBits(Role::kPrimary), kNoNode, kNoVolume};
  if (force_up_to_date) {
    proposal.mask |= kDiskMask;
    proposal.value |= Disk(DiskState::kUpToDate);
  }
  return proposal;
}

Proposal ProposeDemote() { return {kRoleMask, RoleBits(Role::kSecondary), kNoNode, kNoVolume}; }

Proposal ProposeEmpty() { return {}; }

Proposal ProposeAttach(int volume) {
  return {kDiskMask, Disk(DiskState::kNegotiating), kNoNode, volume};
}

Proposal ProposeDetach(int volume) {
  return {kDiskMask, Disk(DiskState::kDetaching), kNoNode, volume};
}

Proposal ProposeResync(int peer, int volume, ReplicationState repl) {
  const Proposal proposal{kConnMask, Conn(repl), peer, volume};
  UMBLOCK_ASSERT(
      Interpret(proposal.mask, proposal.value, volume).kind == ProposalKind::kStartResync,
      "a resync begins in StartingSync or WFBitMap");
  return proposal;
}

Proposal ProposeVerify(int peer, int volume) {
  return {kConnMask, Conn(ReplicationState::kVerifyS), peer, volume};
}

Proposal ProposeRemoveVolume(int peer, int volume) {
  return {kConnMask, Conn(ReplicationState::kOff), peer, volume};
}

OutdateOnDisconnect WhoIsOutdated(const DisconnectFacts& facts) {
  if (!facts.connected || !(facts.fencing || facts.quorum)) return OutdateOnDisconnect::kNobody;
  const bool self = facts.own_role == Role::kPrimary;
  const bool peer = facts.peer_role == Role::kPrimary;
  if (self == peer) return OutdateOnDisconnect::kNobody;
  return self ? OutdateOnDisconnect::kPeer : OutdateOnDisconnect::kSelf;
}

ProposalReading Interpret(uint32_t mask, uint32_t value, int volume) {
  if (mask == 0) {
    ProposalReading reading;
    reading.kind = ProposalKind::kEmpty;
    return reading;
  }
  if (volume != kNoVolume) return ReadVolume(mask, value);
  return (mask & kConnMask) != 0 ? ReadConnection(mask, value) : ReadRole(mask, value);
}

bool CommitBeforeLocal(const Proposal& proposal) {
  const ProposalReading reading = Interpret(proposal.mask, proposal.value, proposal.volume);
  switch (reading.kind) {
    case ProposalKind::kDemote:
    case ProposalKind::kConnect:
    case ProposalKind::kDisconnect:
    case ProposalKind::kAttach:
    case ProposalKind::kDetach:
    case ProposalKind::kStartVerify:
      return true;
    case ProposalKind::kStartResync:
      return reading.repl == ReplicationState::kWFBitMapS;
    default:
      return false;
  }
}

}  // namespace umblock::drbd
