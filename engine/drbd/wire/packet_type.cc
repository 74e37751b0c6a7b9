#include "engine/drbd/wire/packet_type.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "engine/drbd/wire/config_packets.h"
#include "engine/drbd/wire/constants.h"
#include "engine/drbd/wire/data_packets.h"
#include "engine/drbd/wire/twopc_packets.h"

namespace umblock::drbd::wire {
namespace {

enum Sockets : uint8_t { kD = 1, kC = 2, kDC = 3 };

constexpr PacketInfo Row(PacketType type, std::string_view name, Sockets sockets, PacketScope scope,
                         uint16_t first_protocol, uint16_t last_protocol, uint32_t features,
                         size_t min_length, size_t max_length) {
  return {type,
          name,
          (sockets & kD) != 0,
          (sockets & kC) != 0,
          scope,
          first_protocol,
          last_protocol,
          features,
          static_cast<uint32_t>(min_length),
          static_cast<uint32_t>(max_length)};
}

constexpr uint16_t kLast = kNoLastProtocol;
constexpr uint16_t kLegacy = kProtocolFirst9 - 1;        // last protocol of the 8.4 dialect
constexpr uint16_t kWithoutIds = kProtocolBlockIds - 1;  // last one without block ids
constexpr size_t kDataMax = DataHead::kSize + kMaxDigestBytes + kMaxRequestBytes;
constexpr size_t kBitmapMax = kMaxBitmapPacketBytes - 8;  // behind the shortest header
// More than the kernel sends; further history UUIDs are to be read and ignored (5.4.2).
constexpr size_t kUuids110Max = Uuids110::kMaxSize + 8 * kHistoryUuids;
constexpr uint32_t kThin = kFeatureThinResync;
constexpr uint32_t kDep = kFeatureResyncDagtag;

using enum PacketType;
using enum PacketScope;

// drbd-wire.md 5.1, in order of the numbers.
constexpr auto kTable = std::to_array<PacketInfo>({
    Row(kData, "P_DATA", kD, kVolume, 86, kLast, 0, 24, kDataMax),
    Row(kDataReply, "P_DATA_REPLY", kD, kVolume, 86, kLast, 0, 24, kDataMax),
    Row(kRsDataReply, "P_RS_DATA_REPLY", kD, kVolume, 86, kLast, 0, 24, kDataMax),
    Row(kBarrier, "P_BARRIER", kD, kConnection, 86, kLast, 0, 8, 8),
    Row(kBitmap, "P_BITMAP", kD, kVolume, 86, kLast, 0, 0, kBitmapMax),
    Row(kUnplugRemote, "P_UNPLUG_REMOTE", kD, kEither, 86, kLast, 0, 0, 0),
    Row(kDataRequest, "P_DATA_REQUEST", kD, kVolume, 86, kLast, 0, 24, 24),
    Row(kRsDataRequest, "P_RS_DATA_REQUEST", kD, kVolume, 86, kLast, 0, 24, 24),
    Row(kSyncParam, "P_SYNC_PARAM", kD, kVolume, 86, 88, 0, 4, 4 + kAlgorithmNameBytes),
    Row(kProtocol, "P_PROTOCOL", kD, kConnection, 86, kLast, 0, 25, Protocol::kMaxSize),
    Row(kUuids, "P_UUIDS", kD, kVolume, 86, kLegacy, 0, 48, 48),
    Row(kSizes, "P_SIZES", kD, kVolume, 86, kLast, 0, 32, 56),
    Row(kState, "P_STATE", kD, kEither, 86, kLast, 0, 4, 4),
    Row(kSyncUuid, "P_SYNC_UUID", kD, kVolume, 86, kLegacy, 0, 8, 8),
    Row(kAuthChallenge, "P_AUTH_CHALLENGE", kD, kConnection, 86, kLast, 0, 64, 64),
    Row(kAuthResponse, "P_AUTH_RESPONSE", kD, kConnection, 86, kLast, 0, 1, kMaxDigestBytes),
    Row(kStateChgReq, "P_STATE_CHG_REQ", kD, kVolume, 86, kLegacy, 0, 8, 8),
    Row(kPing, "P_PING", kC, kConnection, 86, kLast, 0, 0, 0),
    Row(kPingAck, "P_PING_ACK", kC, kConnection, 86, kLast, 0, 0, 0),
    Row(kRecvAck, "P_RECV_ACK", kC, kVolume, 86, kLast, 0, 24, 24),
    Row(kWriteAck, "P_WRITE_ACK", kC, kVolume, 86, kLast, 0, 24, 24),
    Row(kRsWriteAck, "P_RS_WRITE_ACK", kC, kVolume, 86, kLast, 0, 24, 24),
    Row(kSuperseded, "P_SUPERSEDED", kC, kVolume, 86, kLegacy, 0, 24, 24),
    Row(kNegAck, "P_NEG_ACK", kC, kVolume, 86, kLast, 0, 24, 24),
    Row(kNegDreply, "P_NEG_DREPLY", kC, kVolume, 86, kLast, 0, 24, 24),
    Row(kNegRsDreply, "P_NEG_RS_DREPLY", kC, kVolume, 86, kLast, 0, 24, 24),
    Row(kBarrierAck, "P_BARRIER_ACK", kC, kConnection, 86, kLast, 0, 8, 8),
    Row(kStateChgReply, "P_STATE_CHG_REPLY", kC, kVolume, 86, kLegacy, 0, 4, 4),
    Row(kOvRequest, "P_OV_REQUEST", kD, kVolume, 86, kLast, 0, 24, 24),
    Row(kOvReply, "P_OV_REPLY", kD, kVolume, 86, kLast, 0, 25, 24 + kMaxDigestBytes),
    Row(kOvResult, "P_OV_RESULT", kC, kVolume, 86, kWithoutIds, 0, 24, 24),
    Row(kCsumRsRequest, "P_CSUM_RS_REQUEST", kD, kVolume, 89, kLast, 0, 25, 24 + kMaxDigestBytes),
    Row(kRsIsInSync, "P_RS_IS_IN_SYNC", kC, kVolume, 89, kLast, 0, 24, 24),
    Row(kSyncParam89, "P_SYNC_PARAM89", kD, kVolume, 89, kLast, 0, 132, 148),
    Row(kCompressedBitmap, "P_COMPRESSED_BITMAP", kD, kVolume, 90, kLast, 0, 2, kBitmapMax),
    Row(kDelayProbe, "P_DELAY_PROBE", kDC, kEither, 93, kLast, 0, 8, 8),
    Row(kOutOfSync, "P_OUT_OF_SYNC", kD, kVolume, 96, kLast, 0, 16, 16),
    Row(kRsCancel, "P_RS_CANCEL", kC, kVolume, 96, kLast, 0, 24, 24),
    Row(kConnStChgReq, "P_CONN_ST_CHG_REQ", kD, kConnection, 100, kLegacy, 0, 8, 8),
    Row(kConnStChgReply, "P_CONN_ST_CHG_REPLY", kC, kConnection, 100, kLegacy, 0, 4, 4),
    Row(kRetryWrite, "P_RETRY_WRITE", kC, kVolume, 100, kLegacy, 0, 24, 24),
    Row(kProtocolUpdate, "P_PROTOCOL_UPDATE", kD, kConnection, 100, kLast, 0, 25,
        Protocol::kMaxSize),
    Row(kTwopcPrepare, "P_TWOPC_PREPARE", kD, kEither, 110, kLast, 0, 36, 36),
    Row(kTwopcAbort, "P_TWOPC_ABORT", kD, kEither, 110, kLast, 0, 36, 36),
    Row(kDagtag, "P_DAGTAG", kD, kConnection, 110, kLast, 0, 8, 8),
    Row(kTrim, "P_TRIM", kD, kVolume, 86, kLast, kFeatureTrim, 28, 28),
    Row(kRsThinReq, "P_RS_THIN_REQ", kD, kVolume, 86, kLast, kThin, 24, 24),
    Row(kRsDeallocated, "P_RS_DEALLOCATED", kD, kVolume, 86, kWithoutIds, kThin, 16, 16),
    Row(kTwopcPrepRsz, "P_TWOPC_PREP_RSZ", kD, kEither, 112, kLast, 0, 36, 36),
    Row(kZeroes, "P_ZEROES", kD, kVolume, 86, kLast, kFeatureWzeroes, 28, 28),
    Row(kPeerAck, "P_PEER_ACK", kC, kConnection, 110, kLast, 0, 16, 16),
    Row(kPeersInSync, "P_PEERS_IN_SYNC", kC, kVolume, 110, kLast, 0, 24, 24),
    Row(kUuids110, "P_UUIDS110", kD, kVolume, 110, kLast, 0, 40, kUuids110Max),
    Row(kPeerDagtag, "P_PEER_DAGTAG", kD, kConnection, 110, kLast, 0, 12, 12),
    Row(kCurrentUuid, "P_CURRENT_UUID", kD, kVolume, 110, kLast, 0, 16, 16),
    Row(kTwopcYes, "P_TWOPC_YES", kC, kEither, 110, kLast, 0, 32, 32),
    Row(kTwopcNo, "P_TWOPC_NO", kC, kEither, 110, kLast, 0, 32, 32),
    Row(kTwopcCommit, "P_TWOPC_COMMIT", kD, kEither, 110, kLast, 0, 36, 36),
    Row(kTwopcRetry, "P_TWOPC_RETRY", kC, kEither, 110, kLast, 0, 32, 32),
    Row(kConfirmStable, "P_CONFIRM_STABLE", kC, kConnection, 114, kLast, 0, 24, 24),
    Row(kRsCancelAhead, "P_RS_CANCEL_AHEAD", kC, kVolume, 115, kLast, 0, 24, 24),
    Row(kDisconnect, "P_DISCONNECT", kD, kConnection, 118, kLast, 0, 0, 0),
    Row(kRsDagtagReq, "P_RS_DAGTAG_REQ", kD, kVolume, 110, kLast, kDep, 32, 32),
    Row(kRsCsumDagtagReq, "P_RS_CSUM_DAGTAG_REQ", kD, kVolume, 110, kLast, kDep, 33,
        32 + kMaxDigestBytes),
    Row(kRsThinDagtagReq, "P_RS_THIN_DAGTAG_REQ", kD, kVolume, 110, kLast, kDep | kThin, 32, 32),
    Row(kOvDagtagReq, "P_OV_DAGTAG_REQ", kD, kVolume, 110, kLast, kDep, 32, 32),
    Row(kOvDagtagReply, "P_OV_DAGTAG_REPLY", kD, kVolume, 110, kLast, kDep, 33,
        32 + kMaxDigestBytes),
    Row(kWriteAckInSync, "P_WRITE_ACK_IN_SYNC", kC, kVolume, 122, kLast, 0, 24, 24),
    Row(kRsNegAck, "P_RS_NEG_ACK", kC, kVolume, 122, kLast, 0, 24, 24),
    Row(kOvResultId, "P_OV_RESULT_ID", kC, kVolume, 122, kLast, 0, 32, 32),
    Row(kRsDeallocatedId, "P_RS_DEALLOCATED_ID", kD, kVolume, 122, kLast, kThin, 24, 24),
    Row(kFlushRequests, "P_FLUSH_REQUESTS", kD, kConnection, 123, kLast, 0, 8, 8),
    Row(kFlushForward, "P_FLUSH_FORWARD", kC, kConnection, 123, kLast, 0, 12, 12),
    Row(kFlushRequestsAck, "P_FLUSH_REQUESTS_ACK", kD, kConnection, 123, kLast, 0, 12, 12),
    Row(kEnableReplicationNext, "P_ENABLE_REPLICATION_NEXT", kD, kVolume, 110, kLast,
        kFeatureResyncWithoutReplication, 4, 4),
    // No feature asked for: 9.3 sends it without, and it is to be ignored then (3.5).
    Row(kEnableReplication, "P_ENABLE_REPLICATION", kD, kVolume, 86, kLast, 0, 4, 4),
    Row(kInitialMeta, "P_INITIAL_META", kC, kConnection, 0, kLast, 0, 0, 0),
    Row(kInitialData, "P_INITIAL_DATA", kD, kConnection, 0, kLast, 0, 0, 0),
    Row(kConnectionFeatures, "P_CONNECTION_FEATURES", kD, kConnection, 0, kLast, 0, 72, 72),
});
static_assert(std::ranges::is_sorted(kTable, {}, &PacketInfo::type));

// Position in kTable by number, for the small numbers; 0xff: none.
constexpr size_t kSmallNumbers = static_cast<size_t>(kEnableReplication) + 1;
constexpr auto kIndex = [] {
  std::array<uint8_t, kSmallNumbers> index{};
  index.fill(0xff);
  for (size_t i = 0; i < kTable.size(); ++i) {
    const auto number = static_cast<size_t>(kTable[i].type);
    if (number < kSmallNumbers) index[number] = static_cast<uint8_t>(i);
  }
  return index;
}();

}  // namespace

std::string_view SocketKindName(SocketKind socket) {
  return socket == SocketKind::kData ? "data" : "control";
}

const PacketInfo* Describe(PacketType type) {
  const auto number = static_cast<size_t>(type);
  if (number < kSmallNumbers) {
    return kIndex[number] == 0xff ? nullptr : &kTable[kIndex[number]];
  }
  switch (type) {
    case kInitialMeta:
      return &kTable[kTable.size() - 3];
    case kInitialData:
      return &kTable[kTable.size() - 2];
    case kConnectionFeatures:
      return &kTable[kTable.size() - 1];
    default:
      return nullptr;
  }
}

std::string_view PacketName(PacketType type) {
  const PacketInfo* info = Describe(type);
  return info == nullptr ? "unknown" : info->name;
}

}  // namespace umblock::drbd::wire
