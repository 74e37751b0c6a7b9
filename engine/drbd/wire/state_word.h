// Roles, disk states, connection and replication states, and the 32-bit word that carries them on
// the wire (drbd-wire.md 5.6, 5.7, 5.8.5).
//
// The enums are the engine's own vocabulary (namespace umblock::drbd); their numbers are those of
// DRBD 9. Towards a peer with an agreed protocol below 110 disk states are numbered as in 8.4,
// which lacks Detaching: pass DiskNumbering::k84 at the boundary, and only there.
//
// Pure values; no allocation except for the message of an error.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "engine/base/error.h"

namespace umblock::drbd {

enum class Role : uint8_t { kUnknown = 0, kPrimary = 1, kSecondary = 2 };

enum class DiskState : uint8_t {
  kDiskless = 0,
  kAttaching = 1,
  kDetaching = 2,
  kFailed = 3,
  kNegotiating = 4,
  kInconsistent = 5,
  kOutdated = 6,
  kUnknown = 7,
  kConsistent = 8,
  kUpToDate = 9,
};

enum class ConnectionState : uint8_t {
  kStandAlone = 0,
  kDisconnecting = 1,
  kUnconnected = 2,
  kTimeout = 3,
  kBrokenPipe = 4,
  kNetworkFailure = 5,
  kProtocolError = 6,
  kTearDown = 7,
  kConnecting = 8,
  kConnected = 9,
};

// One per volume and peer; anything but kOff implies ConnectionState::kConnected.
enum class ReplicationState : uint8_t {
  kOff = 9,
  kEstablished = 10,
  kStartingSyncS = 11,
  kStartingSyncT = 12,
  kWFBitMapS = 13,
  kWFBitMapT = 14,
  kWFSyncUUID = 15,
  kSyncSource = 16,
  kSyncTarget = 17,
  kVerifyS = 18,
  kVerifyT = 19,
  kPausedSyncS = 20,
  kPausedSyncT = 21,
  kAhead = 22,
  kBehind = 23,
};

// The names drbdsetup prints: "Primary", "UpToDate", "SyncTarget", "StandAlone". The unknown disk
// state is "DUnknown". A number outside the enum gives "?".
std::string_view RoleName(Role role);
std::string_view DiskStateName(DiskState state);
std::string_view ConnectionStateName(ConnectionState state);
std::string_view ReplicationStateName(ReplicationState state);

// What the other side is in when this side is in `state`: SyncSource <-> SyncTarget,
// Ahead -> Behind and so on; states without a counterpart stay as they are.
ReplicationState CounterpartOf(ReplicationState state);

namespace wire {

// How disk states are numbered: k9 from protocol 110 on, k84 below.
enum class DiskNumbering : uint8_t { k9, k84 };

// The number on the wire. 8.4 has no Detaching; it goes out as 2, which 8.4 reads as Failed.
uint32_t DiskStateToWire(DiskState state, DiskNumbering numbering);
// nullopt for a number that is no disk state.
std::optional<DiskState> DiskStateFromWire(uint32_t number, DiskNumbering numbering);

// Fields of the word, for masks of state change requests (5.7, 5.8.5).
inline constexpr uint32_t kRoleMask = 0x00000003;
inline constexpr uint32_t kPeerRoleMask = 0x0000000c;
inline constexpr uint32_t kConnMask = 0x000001f0;
inline constexpr uint32_t kDiskMask = 0x00001e00;
inline constexpr uint32_t kPeerDiskMask = 0x0001e000;
inline constexpr uint32_t kSuspendedByUserBit = 0x00020000;
inline constexpr uint32_t kPausedAfterBit = 0x00040000;
inline constexpr uint32_t kPausedByPeerBit = 0x00080000;
inline constexpr uint32_t kPausedByUserBit = 0x00100000;
inline constexpr uint32_t kSuspendedNoDataBit = 0x00200000;
inline constexpr uint32_t kSuspendedFencingBit = 0x00400000;
inline constexpr uint32_t kQuorumBit = 0x00800000;
inline constexpr uint32_t kStateWordBits = 0x00ffffff;  // the fields above; the rest is ignored
inline constexpr int kConnShift = 4;
inline constexpr int kDiskShift = 9;
inline constexpr int kPeerDiskShift = 13;

// The state word, decoded. It is always the sender's own view (5.6.3).
struct StateWord {
  Role role = Role::kUnknown;
  Role peer_role = Role::kUnknown;
  // kConnected exactly when the number is 9 or more; `replication` is kOff otherwise.
  ConnectionState connection = ConnectionState::kStandAlone;
  ReplicationState replication = ReplicationState::kOff;
  DiskState disk = DiskState::kDiskless;
  DiskState peer_disk = DiskState::kDiskless;
  bool suspended_by_user = false;  // susp
  bool paused_after = false;       // aftr_isp
  bool paused_by_peer = false;     // peer_isp
  bool paused_by_user = false;     // user_isp
  bool suspended_no_data = false;  // susp_nod
  bool suspended_fencing = false;  // susp_fen
  bool quorum = false;             // 113 and up

  friend bool operator==(const StateWord&, const StateWord&) = default;
};

uint32_t EncodeStateWord(const StateWord& state, DiskNumbering numbering = DiskNumbering::k9);

// Bits above the known fields are ignored. kInvalidArgument for a number that is no role, no
// connection state or no disk state.
Result<StateWord> DecodeStateWord(uint32_t word, DiskNumbering numbering = DiskNumbering::k9);

// The peer's word in this side's terms (5.6.3): role <-> peer_role, disk <-> peer_disk,
// Disconnecting -> TearDown, replication as by CounterpartOf, paused_by_peer = the peer's
// paused_after or paused_by_user. Fields that say nothing about this side are false.
StateWord MirrorStateWord(const StateWord& peers_view);

// `mask` and `val` of a state change request, from the requester's view to the receiver's: role
// and disk fields swap places, conn is mirrored. Both words stay raw; numbers are not checked.
struct StateChangeWords {
  uint32_t mask = 0;
  uint32_t val = 0;
  friend bool operator==(const StateChangeWords&, const StateChangeWords&) = default;
};
StateChangeWords MirrorStateChange(StateChangeWords words);

}  // namespace wire
}  // namespace umblock::drbd
