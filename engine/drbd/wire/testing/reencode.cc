#include "engine/drbd/wire/testing/reencode.h"

#include <algorithm>
#include <bit>

#include "engine/drbd/wire/config_packets.h"
#include "engine/drbd/wire/data_packets.h"
#include "engine/drbd/wire/packet.h"

namespace umblock::drbd::wire::testing {
namespace {

using Buffer = std::vector<std::byte>;
using enum PacketType;

std::unexpected<Error> Malformed(const Header& header, Bytes payload) {
  return MakeError(ErrorCode::kInvalidArgument, "{} with {} bytes does not decode",
                   PacketName(header.type), payload.size());
}

template <typename T>
size_t SizeOf(const T& packet) {
  if constexpr (VariablePacket<T>) {
    return packet.EncodedSize();
  } else {
    return T::kSize;
  }
}

// The packet is all of the payload. Decode returns an optional or a Result.
template <typename T>
Result<Buffer> Again(const Header& header, Bytes payload) {
  const auto packet = T::Decode(payload);
  if (!packet) return Malformed(header, payload);
  Buffer out(SizeOf(*packet));
  Encode(*packet, out);
  return out;
}

// A digest or data may follow.
template <typename T>
Result<Buffer> AgainWithRest(const Header& header, Bytes payload) {
  const auto packet = T::Decode(payload);
  if (!packet) return Malformed(header, payload);
  Buffer out(T::kSize);
  Encode(*packet, out);
  out.insert(out.end(), payload.begin() + T::kSize, payload.end());
  return out;
}

Result<Buffer> TwoPcAgain(const Header& header, Bytes payload, TwoPcLayout layout) {
  const auto packet = TwoPcRequest::Decode(payload, layout);
  if (!packet) return Malformed(header, payload);
  Buffer out(TwoPcRequest::kSize);
  Encode(*packet, layout, out);
  return out;
}

void Zero(Buffer& bytes, size_t begin, size_t end) {
  end = std::min(end, bytes.size());
  if (begin < end)
    std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(begin),
              bytes.begin() + static_cast<std::ptrdiff_t>(end), std::byte{0});
}

// Behind the NUL of a name in [begin, end).
void ZeroBehindName(Buffer& bytes, size_t begin, size_t end) {
  for (size_t i = begin; i < std::min(end, bytes.size()); ++i) {
    if (bytes[i] == std::byte{0}) return Zero(bytes, i, end);
  }
}

}  // namespace

Result<std::vector<std::byte>> ReencodePayload(const Header& header, Bytes payload,
                                               TwoPcLayout layout) {
  switch (header.type) {
    case kData:
    case kDataReply:
    case kRsDataReply:
      return AgainWithRest<DataHead>(header, payload);
    case kTrim:
    case kZeroes:
      return Again<TrimRequest>(header, payload);
    case kDataRequest:
    case kRsDataRequest:
    case kOvRequest:
    case kRsThinReq:
    case kOvReply:
    case kCsumRsRequest:
      return AgainWithRest<BlockRequest>(header, payload);
    case kRsDagtagReq:
    case kRsThinDagtagReq:
    case kOvDagtagReq:
    case kOvDagtagReply:
    case kRsCsumDagtagReq:
      return AgainWithRest<DagtagRequest>(header, payload);
    case kRecvAck:
    case kWriteAck:
    case kRsWriteAck:
    case kSuperseded:
    case kNegAck:
    case kNegDreply:
    case kNegRsDreply:
    case kOvResult:
    case kRsIsInSync:
    case kRsCancel:
    case kRetryWrite:
    case kRsCancelAhead:
    case kWriteAckInSync:
    case kRsNegAck:
    case kRsDeallocatedId:
      return Again<BlockAck>(header, payload);
    case kOutOfSync:
    case kRsDeallocated:
      return Again<BlockDescription>(header, payload);
    case kBarrier:
      return Again<Barrier>(header, payload);
    case kBarrierAck:
      return Again<BarrierAck>(header, payload);
    case kConfirmStable:
      return Again<ConfirmStable>(header, payload);
    case kDagtag:
      return Again<Dagtag>(header, payload);
    case kPeerAck:
      return Again<PeerAck>(header, payload);
    case kPeerDagtag:
      return Again<PeerDagtag>(header, payload);
    case kPeersInSync:
      return Again<PeersInSync>(header, payload);
    case kOvResultId:
      return Again<OvResultId>(header, payload);
    case kFlushRequests:
      return Again<FlushRequests>(header, payload);
    case kFlushForward:
      return Again<FlushForward>(header, payload);
    case kFlushRequestsAck:
      return Again<FlushRequestsAck>(header, payload);
    case kEnableReplicationNext:
    case kEnableReplication:
      return Again<EnableReplication>(header, payload);
    case kConnectionFeatures:
      return Again<ConnectionFeatures>(header, payload);
    case kAuthChallenge:
      return Again<AuthChallenge>(header, payload);
    case kProtocol:
    case kProtocolUpdate:
      return Again<Protocol>(header, payload);
    case kSyncParam89:
      return Again<SyncParam89>(header, payload);
    case kSizes:
      return Again<Sizes>(header, payload);
    case kUuids110:
      return Again<Uuids110>(header, payload);
    case kUuids:
      return Again<Uuids>(header, payload);
    case kCurrentUuid:
      return Again<CurrentUuid>(header, payload);
    case kSyncUuid:
      return Again<SyncUuid>(header, payload);
    case kState:
      return Again<State>(header, payload);
    case kStateChgReq:
    case kConnStChgReq:
      return Again<StateChangeRequest>(header, payload);
    case kStateChgReply:
    case kConnStChgReply:
      return Again<StateChangeReply>(header, payload);
    case kTwopcPrepare:
    case kTwopcAbort:
    case kTwopcCommit:
    case kTwopcPrepRsz:
      return TwoPcAgain(header, payload, layout);
    case kTwopcYes:
    case kTwopcNo:
    case kTwopcRetry:
      return Again<TwoPcReply>(header, payload);
    case kPing:
    case kPingAck:
    case kUnplugRemote:
    case kDisconnect:
    case kInitialData:
    case kInitialMeta:
      if (!payload.empty()) return Malformed(header, payload);
      return Buffer{};
    case kAuthResponse:
    case kBitmap:
    case kCompressedBitmap:  // streams of their own: bitmap_stream.h
      return Buffer(payload.begin(), payload.end());
    case kSyncParam:
    case kDelayProbe:
    case kWsame:
      break;
  }
  return MakeError(ErrorCode::kUnimplemented, "packet type {:#x} has no codec",
                   static_cast<unsigned>(header.type));
}

std::vector<std::byte> MaskIgnored(const Header& header, Bytes payload, TwoPcLayout layout) {
  Buffer bytes(payload.begin(), payload.end());
  switch (header.type) {
    case kDataRequest:
    case kRsDataRequest:
    case kOvRequest:
    case kRsThinReq:
    case kOvReply:
    case kCsumRsRequest:
    case kConfirmStable:
    case kPeersInSync:
      Zero(bytes, 20, 24);
      break;
    case kOutOfSync:
    case kRsDeallocated:
      Zero(bytes, 12, 16);
      break;
    case kBarrier:
      Zero(bytes, 4, 8);
      break;
    case kOvResultId:
      Zero(bytes, 28, 32);
      break;
    case kEnableReplicationNext:
    case kEnableReplication:
      if (!bytes.empty() && bytes[0] != std::byte{0}) bytes[0] = std::byte{1};
      Zero(bytes, 1, 4);
      break;
    case kConnectionFeatures:
      Zero(bytes, 20, 72);
      // A protocol_max of 0 means protocol_min (3.2).
      if (bytes.size() >= 12 && LoadBe<uint32_t>(bytes.data() + 8) == 0) {
        std::copy_n(bytes.begin(), 4, bytes.begin() + 8);
      }
      break;
    case kProtocol:
    case kProtocolUpdate: {
      // The packet ends with the NUL.
      const auto name = bytes.begin() + std::min<std::ptrdiff_t>(24, std::ssize(bytes));
      const auto nul = std::find(name, bytes.end(), std::byte{0});
      if (nul != bytes.end()) bytes.erase(nul + 1, bytes.end());
      break;
    }
    case kSyncParam89:
      ZeroBehindName(bytes, 4, 68);
      ZeroBehindName(bytes, 68, 132);
      break;
    case kUuids110:
      if (bytes.size() >= Uuids110::kFixedSize) {
        const auto mask = LoadBe<uint64_t>(bytes.data() + 32);
        const size_t kept =
            Uuids110::kFixedSize + 8 * (static_cast<size_t>(std::popcount(mask)) + kHistoryUuids);
        if (bytes.size() > kept) bytes.resize(kept);
      }
      break;
    case kTwopcPrepare:
    case kTwopcAbort:
    case kTwopcCommit:
    case kTwopcPrepRsz:
      if (layout == TwoPcLayout::kV2) Zero(bytes, 8, 10);
      break;
    default:
      break;
  }
  return bytes;
}

}  // namespace umblock::drbd::wire::testing
