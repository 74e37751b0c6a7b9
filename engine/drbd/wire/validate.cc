#include "engine/drbd/wire/validate.h"

#include <cstdint>

#include "engine/drbd/wire/bitmap_stream.h"
#include "engine/drbd/wire/config_packets.h"
#include "engine/drbd/wire/data_packets.h"

namespace umblock::drbd::wire {
namespace {

using enum PacketType;

bool IsPing(PacketType type) { return type == kPing || type == kPingAck; }
bool IsInitial(PacketType type) { return type == kInitialData || type == kInitialMeta; }
bool IsAuthentication(PacketType type) { return type == kAuthChallenge || type == kAuthResponse; }

std::unexpected<Error> WrongLength(const Header& header, std::string_view right) {
  return MakeError(ErrorCode::kInvalidArgument, "{} has a payload of {} bytes, {} expected",
                   PacketName(header.type), header.length, right);
}

Status CheckPhase(const Header& header, SocketKind socket, ConnectPhase phase) {
  bool fits = false;
  switch (phase) {
    case ConnectPhase::kInitial:
      fits = IsInitial(header.type);
      break;
    case ConnectPhase::kFeatures:
      fits =
          socket == SocketKind::kControl ? IsPing(header.type) : header.type == kConnectionFeatures;
      break;
    case ConnectPhase::kAuthentication:
      fits = socket == SocketKind::kControl ? IsPing(header.type) : IsAuthentication(header.type);
      break;
    case ConnectPhase::kConnected:
      fits = !IsInitial(header.type) && !IsAuthentication(header.type) &&
             header.type != kConnectionFeatures;
      break;
  }
  if (fits) return Ok();
  constexpr std::string_view kPhases[] = {"initial packet", "feature exchange", "authentication",
                                          "connected phase"};
  return MakeError(ErrorCode::kInvalidArgument, "{} on the {} socket does not belong to the {}",
                   PacketName(header.type), SocketKindName(socket),
                   kPhases[static_cast<int>(phase)]);
}

// Which header form may carry the packet (2.2, 1.11).
Status CheckKind(const Header& header, const Agreement& agreed) {
  bool fits = false;
  if (IsInitial(header.type)) {
    fits = header.kind == HeaderKind::kH80;
  } else if (header.type == kConnectionFeatures) {
    fits = header.kind != HeaderKind::kH95;
  } else if (IsPing(header.type)) {
    fits = true;
  } else {
    fits = (header.kind == HeaderKind::kH100) == (agreed.protocol >= 100);
  }
  if (fits) return Ok();
  return MakeError(ErrorCode::kInvalidArgument,
                   "{} came with the wrong header form for protocol {}", PacketName(header.type),
                   agreed.protocol);
}

Status CheckAgreed(const PacketInfo& info, const Agreement& agreed) {
  if (agreed.phase < ConnectPhase::kAuthentication) return Ok();
  if (agreed.protocol < info.first_protocol || agreed.protocol > info.last_protocol) {
    return MakeError(ErrorCode::kInvalidArgument, "{} does not exist in protocol {}", info.name,
                     agreed.protocol);
  }
  const uint32_t missing = info.features_needed & ~agreed.features;
  if (missing != 0) {
    return MakeError(ErrorCode::kInvalidArgument, "{} needs features {:#x} that were not agreed on",
                     info.name, missing);
  }
  return Ok();
}

Status CheckVolume(const Header& header, PacketScope scope) {
  switch (scope) {
    case PacketScope::kVolume:
      if (header.volume >= 0) return Ok();
      return MakeError(ErrorCode::kInvalidArgument, "{} names no volume", PacketName(header.type));
    case PacketScope::kConnection:
      if (header.volume == kNoVolume || header.volume == 0) return Ok();  // 0: 8.4
      return MakeError(ErrorCode::kInvalidArgument,
                       "{} names volume {}, it is for the whole connection",
                       PacketName(header.type), header.volume);
    case PacketScope::kEither:
      break;
  }
  return Ok();
}

Status CheckBulkLength(const Header& header, const Agreement& agreed) {
  const uint32_t fixed = DataHead::kSize + agreed.integrity_digest_size;
  if (header.length < fixed) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "{} has {} bytes, less than its head and a digest of {}",
                     PacketName(header.type), header.length, agreed.integrity_digest_size);
  }
  const uint32_t data = header.length - fixed;
  // 8.4 accepts, and may send, an empty write with the flush flag (5.10.1).
  if (data == 0 && header.type == kData && agreed.legacy()) return Ok();
  if (data == 0 || data % kSectorSize != 0 || data > MaxRequestBytes(agreed.protocol)) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "{} carries {} bytes of data; multiples of {} up to {} are valid",
                     PacketName(header.type), data, kSectorSize, MaxRequestBytes(agreed.protocol));
  }
  return Ok();
}

// The lengths that depend on more than the type.
Status CheckLength(const Header& header, const PacketInfo& info, const Agreement& agreed) {
  if (header.length < info.min_length || header.length > info.max_length) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "{} has a payload of {} bytes, {} to {} are valid", info.name, header.length,
                     info.min_length, info.max_length);
  }
  switch (header.type) {
    case kData:
    case kDataReply:
    case kRsDataReply:
      return CheckBulkLength(header, agreed);
    case kBitmap:
      if (header.length > MaxBitmapPayload(header.kind) || header.length % 8 != 0) {
        return WrongLength(header, "whole words that fit into a packet of 4096 bytes");
      }
      break;
    case kCompressedBitmap:
      if (header.length + header.size() > kMaxBitmapPacketBytes) {
        return WrongLength(header, "no more than fits into a packet of 4096 bytes");
      }
      break;
    case kSizes: {
      const bool with_limits = (agreed.features & kFeatureWsame) != 0;
      if (header.length != (with_limits ? Sizes::kSizeWithLimits : Sizes::kSizeWithoutLimits)) {
        return WrongLength(header, with_limits ? "56 (feature WSAME is agreed)"
                                               : "32 (feature WSAME is not agreed)");
      }
      break;
    }
    case kSyncParam89:
      if (header.length != (agreed.protocol >= 95 ? SyncParam89::kSize : 132)) {
        return WrongLength(header, agreed.protocol >= 95 ? "148" : "132");
      }
      break;
    case kUuids110:
      if (header.length % 8 != 0) return WrongLength(header, "a multiple of 8");
      break;
    default:
      break;
  }
  return Ok();
}

}  // namespace

Status CheckHeader(const Header& header, SocketKind socket, const Agreement& agreed) {
  const PacketInfo* info = Describe(header.type);
  if (info == nullptr) {
    return MakeError(ErrorCode::kInvalidArgument, "packet type {:#06x} on the {} socket is unknown",
                     static_cast<unsigned>(header.type), SocketKindName(socket));
  }
  // An accepted socket learns from its initial packet which of the two it is.
  if (agreed.phase != ConnectPhase::kInitial && !info->allowed_on(socket)) {
    return MakeError(ErrorCode::kInvalidArgument, "{} does not belong on the {} socket", info->name,
                     SocketKindName(socket));
  }
  UMBLOCK_TRY(CheckPhase(header, socket, agreed.phase));
  UMBLOCK_TRY(CheckKind(header, agreed));
  UMBLOCK_TRY(CheckAgreed(*info, agreed));
  UMBLOCK_TRY(CheckVolume(header, info->scope));
  return CheckLength(header, *info, agreed);
}

Status CheckRange(PacketType type, uint64_t sector, uint32_t size_bytes, uint32_t max_bytes,
                  uint64_t capacity_sectors) {
  if (size_bytes == 0 || size_bytes % kSectorSize != 0 || size_bytes > max_bytes) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "{} at sector {} has a size of {} bytes; multiples of {} up to {} are valid",
                     PacketName(type), sector, size_bytes, kSectorSize, max_bytes);
  }
  const uint64_t sectors = size_bytes >> kSectorShift;
  if (sector > capacity_sectors || sectors > capacity_sectors - sector) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "{} at sector {} with {} bytes ends behind the volume's {} sectors",
                     PacketName(type), sector, size_bytes, capacity_sectors);
  }
  return Ok();
}

uint32_t MaxRequestBytes(int protocol) {
  if (protocol >= 100) return kMaxRequestBytes;
  return protocol >= 95 ? 128u << 10 : 32u << 10;
}

uint32_t MaxTrimBytes(uint32_t agreed_features) {
  return (agreed_features & kFeatureWsame) != 0 ? kMaxTrimBytes : kMaxTrimBytesWithoutWsame;
}

Status CheckNodeId(PacketType type, int64_t node_id) {
  if (node_id >= 0 && node_id <= kMaxNodeId) return Ok();
  return MakeError(ErrorCode::kInvalidArgument, "{} names node id {}; 0 to {} exist",
                   PacketName(type), node_id, kMaxNodeId);
}

}  // namespace umblock::drbd::wire
