// Where superblock, activity log and bitmap lie, and how much room is left for data
// (drbd-metadata-resync.md 2.1, 2.2). Pure arithmetic.
//
// Units: *_sectors are sectors of 512 bytes; offset/bytes members are bytes from the start of the
// device that holds the metadata.
#pragma once

#include <cstdint>

#include "engine/base/error.h"
#include "engine/drbd/meta/constants.h"
#include "engine/drbd/meta/superblock.h"

namespace umblock::drbd::meta {

enum class Placement : uint8_t {
  kInternal,      // at the end of the device that carries the data
  kFlexExternal,  // on a device (or file) of its own, superblock first
};

struct MetaLayoutOptions {
  Placement placement = Placement::kInternal;
  uint32_t max_peers = 1;  // 1…31
  uint32_t bytes_per_bit = kDefaultBytesPerBit;
  uint32_t al_stripes = 1;
  uint32_t al_stripe_size_4k = 8;
};

struct Geometry {
  Placement placement = Placement::kInternal;
  uint32_t max_peers = 1;
  uint32_t bytes_per_bit = kDefaultBytesPerBit;
  uint32_t al_stripes = 1;
  uint32_t al_stripe_size_4k = 8;
  uint32_t md_size_sectors = 0;
  int32_t al_offset_sectors = 0;  // relative to the superblock
  int32_t bm_offset_sectors = 0;
  uint64_t superblock_offset = 0;  // bytes, absolute
  uint64_t al_offset = 0;
  uint64_t bm_offset = 0;
  uint64_t bm_bytes = 0;  // size of the bitmap area

  uint64_t al_blocks() const { return uint64_t{al_stripes} * al_stripe_size_4k; }
  uint64_t al_bytes() const { return al_blocks() * kBlockBytes; }

  friend bool operator==(const Geometry&, const Geometry&) = default;
};

// Bounds (2.2): the kernel will not attach a metadata device below 2048 sectors; the ring has at
// least 8 blocks and, for drbdmeta, at most 32 MiB.
inline constexpr uint64_t kMinMetaDeviceSectors = 2048;
inline constexpr uint64_t kMinAlBlocks = 8;
inline constexpr uint64_t kMaxAlBlocks = (32ULL << 20) / kBlockBytes;
inline constexpr uint32_t kMinAlExtents = 67;
inline constexpr uint32_t kMaxAlExtents = 65534;
inline constexpr uint32_t kDefaultAlExtents = 1237;

// Layout of new metadata on a device of `device_bytes` (with kInternal: the backing device,
// metadata included; with kFlexExternal: the metadata device).
Result<Geometry> ComputeGeometry(const MetaLayoutOptions& options, uint64_t device_bytes);

// Layout that an existing superblock describes. The caller has read it from where `placement` puts
// it on a device of `device_bytes`; overlaps and areas outside the device are errors.
Result<Geometry> GeometryOf(const Superblock& superblock, Placement placement,
                            uint64_t device_bytes);

// Byte position of the superblock: internal (device_bytes & ~4095) - 4096, external 0.
uint64_t SuperblockOffset(Placement placement, uint64_t device_bytes);

// Size of the bitmap area in sectors for a device of `device_sectors` with `max_peers` slots.
uint64_t BitmapAreaSectors(uint64_t device_sectors, uint32_t max_peers, uint32_t bytes_per_bit);

// Sectors available for data. `backing_sectors` is the size of the device that carries the data.
// Internal: up to the lowest metadata sector. External: what the bitmap area can track at most.
uint64_t UsableSectors(const Geometry& geometry, uint64_t backing_sectors);

// Largest al-extents for a ring of this size, so that a whole context always survives in it
// (2.2.6).
uint32_t MaxAlExtentsFor(uint64_t al_blocks);

}  // namespace umblock::drbd::meta
