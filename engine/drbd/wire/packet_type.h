// Packet numbers and what is known of each (drbd-wire.md 5.1): socket, protocols, scope, length.
#pragma once

#include <cstdint>
#include <string_view>

namespace umblock::drbd::wire {

enum class PacketType : uint16_t {
  kData = 0x00,
  kDataReply = 0x01,
  kRsDataReply = 0x02,
  kBarrier = 0x03,
  kBitmap = 0x04,
  kUnplugRemote = 0x07,
  kDataRequest = 0x08,
  kRsDataRequest = 0x09,
  kSyncParam = 0x0a,
  kProtocol = 0x0b,
  kUuids = 0x0c,
  kSizes = 0x0d,
  kState = 0x0e,
  kSyncUuid = 0x0f,
  kAuthChallenge = 0x10,
  kAuthResponse = 0x11,
  kStateChgReq = 0x12,
  kPing = 0x13,
  kPingAck = 0x14,
  kRecvAck = 0x15,
  kWriteAck = 0x16,
  kRsWriteAck = 0x17,
  kSuperseded = 0x18,
  kNegAck = 0x19,
  kNegDreply = 0x1a,
  kNegRsDreply = 0x1b,
  kBarrierAck = 0x1c,
  kStateChgReply = 0x1d,
  kOvRequest = 0x1e,
  kOvReply = 0x1f,
  kOvResult = 0x20,
  kCsumRsRequest = 0x21,
  kRsIsInSync = 0x22,
  kSyncParam89 = 0x23,
  kCompressedBitmap = 0x24,
  kDelayProbe = 0x27,
  kOutOfSync = 0x28,
  kRsCancel = 0x29,
  kConnStChgReq = 0x2a,
  kConnStChgReply = 0x2b,
  kRetryWrite = 0x2c,
  kProtocolUpdate = 0x2d,
  kTwopcPrepare = 0x2e,
  kTwopcAbort = 0x2f,
  kDagtag = 0x30,
  kTrim = 0x31,
  kRsThinReq = 0x32,
  kRsDeallocated = 0x33,
  kWsame = 0x34,
  kTwopcPrepRsz = 0x35,
  kZeroes = 0x36,
  kPeerAck = 0x40,
  kPeersInSync = 0x41,
  kUuids110 = 0x42,
  kPeerDagtag = 0x43,
  kCurrentUuid = 0x44,
  kTwopcYes = 0x45,
  kTwopcNo = 0x46,
  kTwopcCommit = 0x47,
  kTwopcRetry = 0x48,
  kConfirmStable = 0x49,
  kRsCancelAhead = 0x4a,
  kDisconnect = 0x4b,
  kRsDagtagReq = 0x4c,
  kRsCsumDagtagReq = 0x4d,
  kRsThinDagtagReq = 0x4e,
  kOvDagtagReq = 0x4f,
  kOvDagtagReply = 0x50,
  kWriteAckInSync = 0x51,
  kRsNegAck = 0x52,
  kOvResultId = 0x53,
  kRsDeallocatedId = 0x54,
  kFlushRequests = 0x55,
  kFlushForward = 0x56,
  kFlushRequestsAck = 0x57,
  kEnableReplicationNext = 0x58,
  kEnableReplication = 0x59,
  kInitialMeta = 0xfff1,
  kInitialData = 0xfff2,
  kConnectionFeatures = 0xfffe,
};

// The two TCP connections of a link. The specification also calls control "meta".
enum class SocketKind : uint8_t { kData, kControl };
std::string_view SocketKindName(SocketKind socket);  // "data", "control"

enum class PacketScope : uint8_t {
  kVolume,      // names an existing volume
  kConnection,  // volume -1 (0 from 8.4)
  kEither,      // volume or -1, both have a meaning, or the volume is ignored
};

struct PacketInfo {
  PacketType type;
  std::string_view name;  // "P_DATA"
  bool on_data;
  bool on_control;
  PacketScope scope;
  uint16_t first_protocol;
  uint16_t last_protocol;    // kNoLastProtocol: still in use
  uint32_t features_needed;  // all of these must be agreed
  uint32_t min_length;       // of the payload; equal to max_length: fixed
  uint32_t max_length;

  bool fixed_length() const { return min_length == max_length; }
  bool allowed_on(SocketKind socket) const {
    return socket == SocketKind::kData ? on_data : on_control;
  }
};
inline constexpr uint16_t kNoLastProtocol = 0xffff;

// nullptr for a number without a meaning, and for the obsolete and reserved ones that no current
// version handles (P_BECOME_SYNC_TARGET, P_CKPT_*, P_WSAME …).
const PacketInfo* Describe(PacketType type);

// "P_DATA"; "unknown" for a number Describe does not know. Log the number beside it.
std::string_view PacketName(PacketType type);

}  // namespace umblock::drbd::wire
