#include "engine/drbd/wire/state_word.h"

#include <array>
#include <cstddef>

namespace umblock::drbd {
namespace {

template <size_t N>
std::string_view NameAt(const std::array<std::string_view, N>& names, size_t index) {
  return index < N ? names[index] : "?";
}

}  // namespace

std::string_view RoleName(Role role) {
  static constexpr std::array<std::string_view, 3> kNames = {"Unknown", "Primary", "Secondary"};
  return NameAt(kNames, static_cast<size_t>(role));
}

std::string_view DiskStateName(DiskState state) {
  static constexpr std::array<std::string_view, 10> kNames = {
      "Diskless",     "Attaching", "Detaching", "Failed",     "Negotiating",
      "Inconsistent", "Outdated",  "DUnknown",  "Consistent", "UpToDate"};
  return NameAt(kNames, static_cast<size_t>(state));
}

std::string_view ConnectionStateName(ConnectionState state) {
  static constexpr std::array<std::string_view, 10> kNames = {
      "StandAlone",     "Disconnecting", "Unconnected", "Timeout",    "BrokenPipe",
      "NetworkFailure", "ProtocolError", "TearDown",    "Connecting", "Connected"};
  return NameAt(kNames, static_cast<size_t>(state));
}

std::string_view ReplicationStateName(ReplicationState state) {
  static constexpr std::array<std::string_view, 15> kNames = {
      "Off",       "Established", "StartingSyncS", "StartingSyncT", "WFBitMapS",
      "WFBitMapT", "WFSyncUUID",  "SyncSource",    "SyncTarget",    "VerifyS",
      "VerifyT",   "PausedSyncS", "PausedSyncT",   "Ahead",         "Behind"};
  // Below kOff the index wraps around and is out of range, too.
  return NameAt(kNames, static_cast<size_t>(state) - static_cast<size_t>(ReplicationState::kOff));
}

ReplicationState CounterpartOf(ReplicationState state) {
  using enum ReplicationState;
  switch (state) {
    case kStartingSyncS:
      return kStartingSyncT;
    case kStartingSyncT:
      return kStartingSyncS;
    case kWFBitMapS:
      return kWFBitMapT;
    case kWFBitMapT:
      return kWFBitMapS;
    case kSyncSource:
      return kSyncTarget;
    case kSyncTarget:
      return kSyncSource;
    case kVerifyS:
      return kVerifyT;
    case kVerifyT:
      return kVerifyS;
    case kPausedSyncS:
      return kPausedSyncT;
    case kPausedSyncT:
      return kPausedSyncS;
    case kAhead:
      return kBehind;
    case kOff:
    case kEstablished:
    case kWFSyncUUID:
    case kBehind:
      break;
  }
  return state;
}

namespace wire {
namespace {

constexpr uint32_t kFirstReplication = static_cast<uint32_t>(ReplicationState::kOff);
constexpr uint32_t kLastReplication = static_cast<uint32_t>(ReplicationState::kBehind);
constexpr uint32_t kDetaching = static_cast<uint32_t>(DiskState::kDetaching);
constexpr uint32_t kLastDisk = static_cast<uint32_t>(DiskState::kUpToDate);

constexpr uint32_t Bit(bool on, uint32_t bit) { return on ? bit : 0; }

}  // namespace

uint32_t DiskStateToWire(DiskState state, DiskNumbering numbering) {
  const auto number = static_cast<uint32_t>(state);
  return numbering == DiskNumbering::k84 && number > kDetaching ? number - 1 : number;
}

std::optional<DiskState> DiskStateFromWire(uint32_t number, DiskNumbering numbering) {
  if (numbering == DiskNumbering::k84 && number >= kDetaching) ++number;
  if (number > kLastDisk) return std::nullopt;
  return static_cast<DiskState>(number);
}

uint32_t EncodeStateWord(const StateWord& s, DiskNumbering numbering) {
  const uint32_t conn = s.connection == ConnectionState::kConnected
                            ? static_cast<uint32_t>(s.replication)
                            : static_cast<uint32_t>(s.connection);
  return static_cast<uint32_t>(s.role) | static_cast<uint32_t>(s.peer_role) << 2 |
         conn << kConnShift | DiskStateToWire(s.disk, numbering) << kDiskShift |
         DiskStateToWire(s.peer_disk, numbering) << kPeerDiskShift |
         Bit(s.suspended_by_user, kSuspendedByUserBit) | Bit(s.paused_after, kPausedAfterBit) |
         Bit(s.paused_by_peer, kPausedByPeerBit) | Bit(s.paused_by_user, kPausedByUserBit) |
         Bit(s.suspended_no_data, kSuspendedNoDataBit) |
         Bit(s.suspended_fencing, kSuspendedFencingBit) | Bit(s.quorum, kQuorumBit);
}

Result<StateWord> DecodeStateWord(uint32_t word, DiskNumbering numbering) {
  const uint32_t role = word & kRoleMask;
  const uint32_t peer_role = (word & kPeerRoleMask) >> 2;
  const uint32_t conn = (word & kConnMask) >> kConnShift;
  const auto disk = DiskStateFromWire((word & kDiskMask) >> kDiskShift, numbering);
  const auto peer_disk = DiskStateFromWire((word & kPeerDiskMask) >> kPeerDiskShift, numbering);
  if (role > static_cast<uint32_t>(Role::kSecondary) ||
      peer_role > static_cast<uint32_t>(Role::kSecondary)) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "state word {:#010x}: role {} or peer role {} does not exist (0..2 do)", word,
                     role, peer_role);
  }
  if (conn > kLastReplication) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "state word {:#010x}: connection state {} does not exist (0..{} do)", word,
                     conn, kLastReplication);
  }
  if (!disk || !peer_disk) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "state word {:#010x}: disk state {} or peer disk state {} does not exist",
                     word, (word & kDiskMask) >> kDiskShift,
                     (word & kPeerDiskMask) >> kPeerDiskShift);
  }
  const bool connected = conn >= kFirstReplication;
  return StateWord{
      .role = static_cast<Role>(role),
      .peer_role = static_cast<Role>(peer_role),
      .connection = connected ? ConnectionState::kConnected : static_cast<ConnectionState>(conn),
      .replication = connected ? static_cast<ReplicationState>(conn) : ReplicationState::kOff,
      .disk = *disk,
      .peer_disk = *peer_disk,
      .suspended_by_user = (word & kSuspendedByUserBit) != 0,
      .paused_after = (word & kPausedAfterBit) != 0,
      .paused_by_peer = (word & kPausedByPeerBit) != 0,
      .paused_by_user = (word & kPausedByUserBit) != 0,
      .suspended_no_data = (word & kSuspendedNoDataBit) != 0,
      .suspended_fencing = (word & kSuspendedFencingBit) != 0,
      .quorum = (word & kQuorumBit) != 0,
  };
}

StateWord MirrorStateWord(const StateWord& peers_view) {
  StateWord own;
  own.role = peers_view.peer_role;
  own.peer_role = peers_view.role;
  own.connection = peers_view.connection == ConnectionState::kDisconnecting
                       ? ConnectionState::kTearDown
                       : peers_view.connection;
  own.replication = CounterpartOf(peers_view.replication);
  own.disk = peers_view.peer_disk;
  own.peer_disk = peers_view.disk;
  own.paused_by_peer = peers_view.paused_after || peers_view.paused_by_user;
  return own;
}

namespace {

uint32_t SwapSides(uint32_t word) {
  constexpr int kDiskDistance = kPeerDiskShift - kDiskShift;
  return (word & kRoleMask) << 2 | (word & kPeerRoleMask) >> 2 |
         (word & kDiskMask) << kDiskDistance | (word & kPeerDiskMask) >> kDiskDistance |
         (word & ~(kRoleMask | kPeerRoleMask | kDiskMask | kPeerDiskMask));
}

uint32_t MirrorConn(uint32_t conn) {
  if (conn == static_cast<uint32_t>(ConnectionState::kDisconnecting)) {
    return static_cast<uint32_t>(ConnectionState::kTearDown);
  }
  if (conn < kFirstReplication || conn > kLastReplication) return conn;
  return static_cast<uint32_t>(CounterpartOf(static_cast<ReplicationState>(conn)));
}

}  // namespace

StateChangeWords MirrorStateChange(StateChangeWords words) {
  const uint32_t pause = kPausedAfterBit | kPausedByUserBit;
  StateChangeWords own{SwapSides(words.mask), SwapSides(words.val)};
  if ((words.mask & kConnMask) != 0) {
    const uint32_t conn = MirrorConn((words.val & kConnMask) >> kConnShift);
    own.val = (own.val & ~kConnMask) | conn << kConnShift;
  }
  // What pauses the requester's side is, seen from here, a pause by the peer.
  own.mask =
      (own.mask & ~(pause | kPausedByPeerBit)) | Bit((words.mask & pause) != 0, kPausedByPeerBit);
  own.val =
      (own.val & ~(pause | kPausedByPeerBit)) | Bit((words.val & pause) != 0, kPausedByPeerBit);
  return own;
}

}  // namespace wire
}  // namespace umblock::drbd
