#include "engine/drbd/meta/geometry.h"

#include <algorithm>
#include <bit>

#include "engine/drbd/meta/al_transaction.h"
#include "engine/drbd/meta/bitmap_layout.h"

namespace umblock::drbd::meta {
namespace {

// drbdmeta wants at least this much for any metadata device.
constexpr uint64_t kMinDeviceBytes = uint64_t{68} * 1024;
constexpr int64_t kBlockSectors = kSectorsPerBlock;

uint64_t AlSectors(const MetaLayoutOptions& o) {
  return uint64_t{o.al_stripes} * o.al_stripe_size_4k * kSectorsPerBlock;
}

Status CheckOptions(const MetaLayoutOptions& o, uint64_t device_bytes) {
  if (o.max_peers < 1 || o.max_peers > kMaxSlots) {
    return MakeError(ErrorCode::kInvalidArgument, "metadata: max_peers {} is outside 1 to {}",
                     o.max_peers, kMaxSlots);
  }
  if (!std::has_single_bit(o.bytes_per_bit) || o.bytes_per_bit < kMinBytesPerBit ||
      o.bytes_per_bit > kMaxBytesPerBit) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "metadata: bitmap block size {} is not a power of two from {} to {}",
                     o.bytes_per_bit, kMinBytesPerBit, kMaxBytesPerBit);
  }
  const uint64_t blocks = uint64_t{o.al_stripes} * o.al_stripe_size_4k;
  if (blocks < kMinAlBlocks || blocks > kMaxAlBlocks) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "metadata: activity log of {} × {} blocks of 4 KiB; {} to {} are possible",
                     o.al_stripes, o.al_stripe_size_4k, kMinAlBlocks, kMaxAlBlocks);
  }
  if (device_bytes < kMinDeviceBytes) {
    return MakeError(ErrorCode::kInvalidArgument, "metadata: device of {} bytes is too small",
                     device_bytes);
  }
  if (device_bytes > kMaxDeviceBytes) {
    return MakeError(ErrorCode::kInvalidArgument, "metadata: device of {} bytes is beyond 1 PiB",
                     device_bytes);
  }
  return Ok();
}

Geometry Skeleton(const MetaLayoutOptions& o) {
  Geometry g;
  g.placement = o.placement;
  g.max_peers = o.max_peers;
  g.bytes_per_bit = o.bytes_per_bit;
  g.al_stripes = o.al_stripes;
  g.al_stripe_size_4k = o.al_stripe_size_4k;
  return g;
}

void Locate(Geometry& g, uint64_t device_bytes, uint64_t bm_sectors) {
  g.superblock_offset = SuperblockOffset(g.placement, device_bytes);
  g.al_offset = g.superblock_offset + static_cast<uint64_t>(int64_t{g.al_offset_sectors} * 512);
  g.bm_offset = g.superblock_offset + static_cast<uint64_t>(int64_t{g.bm_offset_sectors} * 512);
  g.bm_bytes = bm_sectors * kSectorBytes;
}

// Sectors of the bitmap area, or an error if the three areas do not fit together.
Result<uint64_t> InternalAreas(const Superblock& sb, uint64_t device_bytes) {
  const int64_t al_sectors = static_cast<int64_t>(sb.al_blocks() * kSectorsPerBlock);
  const int64_t al = sb.al_offset_sectors;
  const int64_t bm = sb.bm_offset_sectors;
  if (al >= 0 || bm >= al || -al != al_sectors) {
    return MakeError(
        ErrorCode::kDataLoss,
        "superblock: offsets of activity log ({}, {} sectors long) and bitmap ({}) are "
        "impossible for internal metadata",
        al, al_sectors, bm);
  }
  const int64_t sb_sector =
      static_cast<int64_t>(SuperblockOffset(Placement::kInternal, device_bytes) / kSectorBytes);
  if (sb_sector + bm < 0 || int64_t{sb.md_size_sectors} < kBlockSectors - bm ||
      static_cast<int64_t>(device_bytes / kSectorBytes) - int64_t{sb.md_size_sectors} <
          sb_sector + bm) {
    return MakeError(ErrorCode::kDataLoss,
                     "superblock: internal metadata of {} sectors (bitmap at {}) does not fit a "
                     "device of {} sectors",
                     sb.md_size_sectors, bm, device_bytes / kSectorBytes);
  }
  return static_cast<uint64_t>(al - bm);
}

Result<uint64_t> ExternalAreas(const Superblock& sb, uint64_t device_bytes) {
  const int64_t al_sectors = static_cast<int64_t>(sb.al_blocks() * kSectorsPerBlock);
  const int64_t al = sb.al_offset_sectors;
  const int64_t bm = sb.bm_offset_sectors;
  if (al != kBlockSectors || bm != al + al_sectors) {
    return MakeError(
        ErrorCode::kDataLoss,
        "superblock: offsets of activity log ({}, {} sectors long) and bitmap ({}) are "
        "impossible for external metadata",
        al, al_sectors, bm);
  }
  if (sb.md_size_sectors > device_bytes / kSectorBytes || int64_t{sb.md_size_sectors} <= bm) {
    return MakeError(ErrorCode::kDataLoss,
                     "superblock: external metadata of {} sectors does not fit a device of {} "
                     "sectors",
                     sb.md_size_sectors, device_bytes / kSectorBytes);
  }
  return AlignDown<uint64_t>(static_cast<uint64_t>(int64_t{sb.md_size_sectors} - bm),
                             kSectorsPerBlock);
}

}  // namespace

uint64_t SuperblockOffset(Placement placement, uint64_t device_bytes) {
  if (placement == Placement::kFlexExternal || device_bytes < kBlockBytes) return 0;
  return AlignDown(device_bytes, kBlockBytes) - kBlockBytes;
}

uint64_t BitmapAreaSectors(uint64_t device_sectors, uint32_t max_peers, uint32_t bytes_per_bit) {
  const uint64_t bits = BitmapBits(device_sectors * kSectorBytes, bytes_per_bit);
  return AlignUp(BitmapBytes(bits, max_peers), kBlockBytes) / kSectorBytes;
}

Result<Geometry> ComputeGeometry(const MetaLayoutOptions& o, uint64_t device_bytes) {
  UMBLOCK_TRY(CheckOptions(o, device_bytes));
  Geometry g = Skeleton(o);
  const uint64_t device_sectors = device_bytes / kSectorBytes;
  const uint64_t al = AlSectors(o);
  uint64_t bm = 0;
  if (o.placement == Placement::kInternal) {
    bm = BitmapAreaSectors(device_sectors, o.max_peers, o.bytes_per_bit);
    const uint64_t total = bm + al + kSectorsPerBlock;
    if (total + kSectorsPerBlock > device_sectors) {
      return MakeError(ErrorCode::kInvalidArgument,
                       "metadata: {} sectors of metadata leave no room for data on a device of {} "
                       "sectors",
                       total, device_sectors);
    }
    g.md_size_sectors = static_cast<uint32_t>(total);
    g.al_offset_sectors = -static_cast<int32_t>(al);
    g.bm_offset_sectors = static_cast<int32_t>(-static_cast<int64_t>(total) + kBlockSectors);
  } else {
    const uint64_t before_bitmap = kSectorsPerBlock + al;
    if (device_sectors > UINT32_MAX || device_sectors < before_bitmap + kSectorsPerBlock) {
      return MakeError(ErrorCode::kInvalidArgument,
                       "metadata: a device of {} sectors cannot hold external metadata ({} are "
                       "needed, 2 TiB are the limit)",
                       device_sectors, before_bitmap + kSectorsPerBlock);
    }
    g.md_size_sectors = static_cast<uint32_t>(device_sectors);
    g.al_offset_sectors = kSectorsPerBlock;
    g.bm_offset_sectors = static_cast<int32_t>(before_bitmap);
    bm = AlignDown<uint64_t>(device_sectors - before_bitmap, kSectorsPerBlock);
  }
  Locate(g, device_bytes, bm);
  return g;
}

Result<Geometry> GeometryOf(const Superblock& sb, Placement placement, uint64_t device_bytes) {
  if (sb.al_blocks() > kMaxAlBlocks || device_bytes > kMaxDeviceBytes) {
    return MakeError(ErrorCode::kUnimplemented,
                     "superblock: activity log of {} blocks or device of {} bytes is beyond the "
                     "limits",
                     sb.al_blocks(), device_bytes);
  }
  const Result<uint64_t> bm_sectors = placement == Placement::kInternal
                                          ? InternalAreas(sb, device_bytes)
                                          : ExternalAreas(sb, device_bytes);
  if (!bm_sectors) return std::unexpected(bm_sectors.error());
  const uint64_t needed =
      BitmapBytes(BitmapBits(sb.effective_sectors * kSectorBytes, sb.bytes_per_bit), sb.max_peers);
  if (needed > *bm_sectors * kSectorBytes) {
    return MakeError(ErrorCode::kDataLoss,
                     "superblock: a device of {} sectors needs {} bytes of bitmap, but the bitmap "
                     "area has {}",
                     sb.effective_sectors, needed, *bm_sectors * kSectorBytes);
  }
  Geometry g =
      Skeleton({placement, sb.max_peers, sb.bytes_per_bit, sb.al_stripes, sb.al_stripe_size_4k});
  g.md_size_sectors = sb.md_size_sectors;
  g.al_offset_sectors = sb.al_offset_sectors;
  g.bm_offset_sectors = sb.bm_offset_sectors;
  Locate(g, device_bytes, *bm_sectors);
  return g;
}

uint64_t UsableSectors(const Geometry& g, uint64_t backing_sectors) {
  if (g.placement == Placement::kInternal) {
    return std::min(g.bm_offset / kSectorBytes, kMaxDeviceSectors);
  }
  const uint64_t bits_per_slot = g.bm_bytes / 8 / g.max_peers * 64;
  return std::min(
      {backing_sectors, bits_per_slot * (g.bytes_per_bit / kSectorBytes), kMaxDeviceSectors});
}

uint32_t MaxAlExtentsFor(uint64_t al_blocks) {
  if (al_blocks > 72) return kMaxAlExtents;
  return static_cast<uint32_t>(
      std::min<uint64_t>(kMaxAlExtents, (al_blocks - 1) * kAlContextPerTransaction));
}

}  // namespace umblock::drbd::meta
