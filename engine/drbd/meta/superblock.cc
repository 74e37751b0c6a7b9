#include "engine/drbd/meta/superblock.h"

#include <bit>
#include <cstring>

#include "engine/base/assert.h"
#include "engine/drbd/meta/geometry.h"

namespace umblock::drbd::meta {
namespace {

constexpr size_t kMagicOffset = 60;
constexpr size_t kPeersOffset = 112;
constexpr size_t kPeerBytes = 32;
constexpr size_t kHistoryOffset = kPeersOffset + kMaxNodes * kPeerBytes;
static_assert(kHistoryOffset == 1136);

// Fields that v08 and v09 share, at the same place.
void DecodeCommon(const std::byte* at, Superblock& sb) {
  sb.effective_sectors = LoadBe<uint64_t>(at);
  sb.current_uuid = LoadBe<uint64_t>(at + 8);
  sb.flags = LoadBe<uint32_t>(at + 56);
  sb.md_size_sectors = LoadBe<uint32_t>(at + 64);
  sb.al_offset_sectors = LoadBe<int32_t>(at + 68);
  sb.al_nr_extents = LoadBe<uint32_t>(at + 72);
  sb.bm_offset_sectors = LoadBe<int32_t>(at + 76);
  sb.bytes_per_bit = LoadBe<uint32_t>(at + 80);
  sb.la_peer_max_bio_bytes = LoadBe<uint32_t>(at + 84);
}

void DecodeV08(const std::byte* at, Superblock& sb) {
  sb.format = Format::kV08;
  sb.v08_bitmap_uuid = LoadBe<uint64_t>(at + 16);
  sb.history[0] = LoadBe<uint64_t>(at + 24);
  sb.history[1] = LoadBe<uint64_t>(at + 32);
  sb.device_uuid = LoadBe<uint64_t>(at + 40);
  sb.al_stripes = LoadBe<uint32_t>(at + 88);
  sb.al_stripe_size_4k = LoadBe<uint32_t>(at + 92);
}

void DecodeV09(const std::byte* at, Superblock& sb) {
  sb.format = Format::kV09;
  sb.members = LoadBe<uint64_t>(at + 16);
  sb.device_uuid = LoadBe<uint64_t>(at + 48);
  sb.max_peers = LoadBe<uint32_t>(at + 88);
  sb.node_id = LoadBe<int32_t>(at + 92);
  sb.al_stripes = LoadBe<uint32_t>(at + 96);
  sb.al_stripe_size_4k = LoadBe<uint32_t>(at + 100);
  for (size_t i = 0; i < kMaxNodes; ++i) {
    const std::byte* from = at + kPeersOffset + i * kPeerBytes;
    PeerEntry& peer = sb.peers[i];
    peer.bitmap_uuid = LoadBe<uint64_t>(from);
    peer.bitmap_dagtag = LoadBe<uint64_t>(from + 8);
    peer.flags = LoadBe<uint32_t>(from + 16);
    peer.bitmap_index = LoadBe<int32_t>(from + 20);
  }
  for (size_t i = 0; i < kHistoryUuids; ++i) {
    sb.history[i] = LoadBe<uint64_t>(at + kHistoryOffset + 8 * i);
  }
}

Status CheckPeers(const Superblock& sb) {
  uint32_t taken = 0;
  for (size_t node = 0; node < kMaxNodes; ++node) {
    const int32_t index = sb.peers[node].bitmap_index;
    if (index == -1) continue;
    if (index < -1 || static_cast<uint32_t>(index) >= sb.max_peers) {
      return MakeError(ErrorCode::kDataLoss,
                       "superblock: peer {} has bitmap slot {}, but there are only slots 0 to {}",
                       node, index, sb.max_peers - 1);
    }
    if (static_cast<int32_t>(node) == sb.node_id) {
      return MakeError(ErrorCode::kDataLoss,
                       "superblock: the entry of this node itself (node id {}) has bitmap slot {}",
                       node, index);
    }
    if ((taken >> index & 1) != 0) {
      return MakeError(ErrorCode::kDataLoss, "superblock: bitmap slot {} belongs to two peers",
                       index);
    }
    taken |= 1U << index;
  }
  return Ok();
}

Status CheckRing(const Superblock& sb) {
  if (sb.al_stripes == 0 || sb.al_stripe_size_4k == 0 || sb.al_blocks() < kMinAlBlocks) {
    return MakeError(ErrorCode::kDataLoss,
                     "superblock: activity log of {} stripes of {} blocks is too small (at least "
                     "{} blocks)",
                     sb.al_stripes, sb.al_stripe_size_4k, kMinAlBlocks);
  }
  if (sb.al_blocks() > kMaxAlBlocks) {
    return MakeError(ErrorCode::kUnimplemented,
                     "superblock: activity log of {} stripes of {} blocks is larger than the {} "
                     "blocks that are supported",
                     sb.al_stripes, sb.al_stripe_size_4k, kMaxAlBlocks);
  }
  return Ok();
}

Status CheckValues(const Superblock& sb) {
  if (!std::has_single_bit(sb.bytes_per_bit) || sb.bytes_per_bit < kMinBytesPerBit ||
      sb.bytes_per_bit > kMaxBytesPerBit ||
      (sb.format == Format::kV08 && sb.bytes_per_bit != kDefaultBytesPerBit)) {
    return MakeError(ErrorCode::kDataLoss, "superblock: impossible bitmap block size of {} bytes",
                     sb.bytes_per_bit);
  }
  if (sb.max_peers < 1 || sb.max_peers > kMaxSlots) {
    return MakeError(ErrorCode::kDataLoss, "superblock: {} bitmap slots; 1 to {} are possible",
                     sb.max_peers, kMaxSlots);
  }
  if (sb.node_id < -1 || sb.node_id >= static_cast<int32_t>(kMaxNodes)) {
    return MakeError(ErrorCode::kDataLoss, "superblock: node id {} is outside 0 to {}", sb.node_id,
                     kMaxNodes - 1);
  }
  if (sb.effective_sectors > kMaxDeviceSectors) {
    return MakeError(ErrorCode::kDataLoss, "superblock: size of {} sectors is beyond 1 PiB",
                     sb.effective_sectors);
  }
  if (sb.al_offset_sectors % int32_t{kSectorsPerBlock} != 0 ||
      sb.bm_offset_sectors % int32_t{kSectorsPerBlock} != 0) {
    return MakeError(ErrorCode::kDataLoss,
                     "superblock: activity log (offset {}) or bitmap (offset {}) is not aligned to "
                     "8 sectors",
                     sb.al_offset_sectors, sb.bm_offset_sectors);
  }
  UMBLOCK_TRY(CheckRing(sb));
  return CheckPeers(sb);
}

}  // namespace

bool LooksLikeSuperblock(std::span<const std::byte, kSuperblockBytes> bytes) {
  const uint32_t magic = LoadBe<uint32_t>(bytes.data() + kMagicOffset);
  return magic >= kMagicV07 && magic <= kMagicV09;
}

Result<Superblock> DecodeSuperblock(std::span<const std::byte, kSuperblockBytes> bytes) {
  const std::byte* at = bytes.data();
  const uint32_t magic = LoadBe<uint32_t>(at + kMagicOffset);
  Superblock sb;
  DecodeCommon(at, sb);
  switch (magic) {
    case kMagicV08:
    case kMagicV08Unclean:
      DecodeV08(at, sb);
      sb.v08_magic_unclean = magic == kMagicV08Unclean;
      break;
    case kMagicV09:
      DecodeV09(at, sb);
      break;
    case kMagicV07:
      return MakeError(ErrorCode::kUnimplemented,
                       "superblock: DRBD metadata of version 0.7; convert it with drbdmeta first");
    default:
      return MakeError(ErrorCode::kNotFound,
                       "superblock: no DRBD metadata here (magic is {:08x}, not {:08x})", magic,
                       kMagicV09);
  }
  if (sb.al_stripes == 0 && sb.al_stripe_size_4k == 0) {
    sb.al_stripes = 1;
    sb.al_stripe_size_4k = 8;
  }
  UMBLOCK_TRY(CheckValues(sb));
  return sb;
}

void EncodeSuperblock(const Superblock& sb, std::span<std::byte, kSuperblockBytes> bytes) {
  UMBLOCK_ASSERT(sb.format == Format::kV09, "only v09 superblocks are written");
  UMBLOCK_ASSERT(CheckValues(sb).has_value(), "a superblock to be written is consistent");
  std::memset(bytes.data(), 0, bytes.size());
  std::byte* at = bytes.data();
  StoreBe<uint64_t>(at, sb.effective_sectors);
  StoreBe<uint64_t>(at + 8, sb.current_uuid);
  StoreBe<uint64_t>(at + 16, sb.members);
  StoreBe<uint64_t>(at + 48, sb.device_uuid);
  StoreBe<uint32_t>(at + 56, sb.flags);
  StoreBe<uint32_t>(at + kMagicOffset, kMagicV09);
  StoreBe<uint32_t>(at + 64, sb.md_size_sectors);
  StoreBe<int32_t>(at + 68, sb.al_offset_sectors);
  StoreBe<uint32_t>(at + 72, sb.al_nr_extents);
  StoreBe<int32_t>(at + 76, sb.bm_offset_sectors);
  StoreBe<uint32_t>(at + 80, sb.bytes_per_bit);
  StoreBe<uint32_t>(at + 84, sb.la_peer_max_bio_bytes);
  StoreBe<uint32_t>(at + 88, sb.max_peers);
  StoreBe<int32_t>(at + 92, sb.node_id);
  StoreBe<uint32_t>(at + 96, sb.al_stripes);
  StoreBe<uint32_t>(at + 100, sb.al_stripe_size_4k);
  for (size_t i = 0; i < kMaxNodes; ++i) {
    std::byte* to = at + kPeersOffset + i * kPeerBytes;
    const PeerEntry& peer = sb.peers[i];
    StoreBe<uint64_t>(to, peer.bitmap_uuid);
    StoreBe<uint64_t>(to + 8, peer.bitmap_dagtag);
    StoreBe<uint32_t>(to + 16, peer.flags & ~kPeerHaveBitmap);
    StoreBe<int32_t>(to + 20, peer.bitmap_index);
  }
  for (size_t i = 0; i < kHistoryUuids; ++i) {
    StoreBe<uint64_t>(at + kHistoryOffset + 8 * i, sb.history[i]);
  }
}

Status CheckSuperblock(const Superblock& sb, const AttachExpectations& expect) {
  UMBLOCK_TRY(CheckValues(sb));
  if (expect.require_al_clean && !sb.al_clean()) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "superblock: metadata is unclean, the activity log has not been applied since "
                     "the last use (drbdmeta apply-al, or open it for use here)");
  }
  if (expect.node_id && sb.node_id != -1 && sb.node_id != *expect.node_id) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "superblock: metadata belongs to node id {}, but this node is configured as "
                     "{}",
                     sb.node_id, *expect.node_id);
  }
  if (expect.node_id && sb.node_id == -1 && sb.peers[*expect.node_id].bitmap_index != -1) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "superblock: node id {} is taken by a peer (bitmap slot {})", *expect.node_id,
                     sb.peers[*expect.node_id].bitmap_index);
  }
  const auto geometry =
      GeometryOf(sb, expect.internal ? Placement::kInternal : Placement::kFlexExternal,
                 expect.meta_device_sectors * kSectorBytes);
  if (!geometry) return std::unexpected(geometry.error());
  return Ok();
}

}  // namespace umblock::drbd::meta
