// Numbers shared by everything that touches DRBD metadata (drbd-metadata-resync.md 1.2).
//
// Units: a sector is 512 bytes. All metadata I/O happens in blocks of 4096 bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace umblock::drbd::meta {

inline constexpr uint64_t kSectorBytes = 512;
inline constexpr uint64_t kBlockBytes = 4096;
inline constexpr uint64_t kSectorsPerBlock = kBlockBytes / kSectorBytes;

// Activity-log extent: the unit in which writes are announced on disk.
inline constexpr uint64_t kAlExtentBytes = 4ULL << 20;
inline constexpr uint64_t kAlExtentSectors = kAlExtentBytes / kSectorBytes;

// One bit of the bitmap covers this many bytes unless the superblock says otherwise; on the wire it
// always does (drbd-metadata-resync.md 6.1.4).
inline constexpr uint32_t kDefaultBytesPerBit = 4096;
inline constexpr uint32_t kMinBytesPerBit = 4096;
inline constexpr uint32_t kMaxBytesPerBit = 1U << 20;

// Node ids are 0…31, bitmap slots 0…max_peers-1 with max_peers 1…31.
inline constexpr uint32_t kMaxNodes = 32;
inline constexpr uint32_t kMaxSlots = 31;
inline constexpr uint32_t kHistoryUuids = 32;

// The largest device: 1 PiB.
inline constexpr uint64_t kMaxDeviceSectors = 1ULL << 41;
inline constexpr uint64_t kMaxDeviceBytes = kMaxDeviceSectors * kSectorBytes;

inline constexpr uint64_t kUuidJustCreated = 4;

}  // namespace umblock::drbd::meta
