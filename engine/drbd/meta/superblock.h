// The DRBD superblock, as a value and as its 4096 bytes (drbd-metadata-resync.md 2.3–2.6).
//
// DecodeSuperblock understands v09 and, for reading, v08 (DRBD 8.4); EncodeSuperblock writes v09.
// Pure functions; every number on disk is big endian; sizes and offsets are in sectors, offsets are
// relative to the superblock. What is found on a disk is never asserted: each violation is a
// kDataLoss or kFailedPrecondition error that names the field and its value.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/drbd/meta/constants.h"

namespace umblock::drbd::meta {

inline constexpr size_t kSuperblockBytes = kBlockBytes;

inline constexpr uint32_t kMagicV07 = 0x8374026A;
inline constexpr uint32_t kMagicV08 = 0x8374026B;
inline constexpr uint32_t kMagicV08Unclean = 0x8374026C;
inline constexpr uint32_t kMagicV09 = 0x8374026D;

// Superblock flags (2.5). Bits not listed here are kept as they were read.
inline constexpr uint32_t kMdConsistent = 1U << 0;
inline constexpr uint32_t kMdPrimaryInd = 1U << 1;
inline constexpr uint32_t kMdConnectedInd = 1U << 2;  // v08 only
inline constexpr uint32_t kMdFullSync = 1U << 3;      // v08 only
inline constexpr uint32_t kMdWasUpToDate = 1U << 4;
inline constexpr uint32_t kMdPeerOutdated = 1U << 5;  // v08 only
inline constexpr uint32_t kMdCrashedPrimary = 1U << 6;
inline constexpr uint32_t kMdAlClean = 1U << 7;
inline constexpr uint32_t kMdAlDisabled = 1U << 8;
inline constexpr uint32_t kMdPrimaryLostQuorum = 1U << 9;
inline constexpr uint32_t kMdHaveQuorum = 1U << 10;

// Flags of a v09 peer entry.
inline constexpr uint32_t kPeerConnected = 1U << 0;
inline constexpr uint32_t kPeerOutdated = 1U << 1;
inline constexpr uint32_t kPeerFencing = 1U << 2;
inline constexpr uint32_t kPeerFullSync = 1U << 3;
inline constexpr uint32_t kPeerDeviceSeen = 1U << 4;
inline constexpr uint32_t kPeerNodeExists = 1U << 16;
// Of umblock alone; kernels and drbdmeta keep what they do not know: the slot has bits of blocks
// that came with a new size, which count although both disks are of one generation.
inline constexpr uint32_t kPeerSyncOwed = 1U << 24;
inline constexpr uint32_t kPeerHaveBitmap = 1U << 31;  // in core only, never written

enum class Format : uint8_t { kV08, kV09 };

struct PeerEntry {
  uint64_t bitmap_uuid = 0;
  uint64_t bitmap_dagtag = 0;
  uint32_t flags = 0;
  int32_t bitmap_index = -1;  // slot, -1 = none

  friend bool operator==(const PeerEntry&, const PeerEntry&) = default;
};

// Plain value. For v08, peers[] stays empty and v08_bitmap_uuid holds the one bitmap UUID; node_id
// is -1, max_peers 1, history[0..1] the two history UUIDs.
struct Superblock {
  Format format = Format::kV09;
  uint64_t effective_sectors = 0;  // last agreed size; 0 = never agreed
  uint64_t current_uuid = kUuidJustCreated;
  uint64_t members = 0;  // node mask
  uint64_t device_uuid = 0;
  uint32_t flags = 0;
  bool v08_magic_unclean = false;  // magic …6C
  uint32_t md_size_sectors = 0;
  int32_t al_offset_sectors = 0;
  uint32_t al_nr_extents = 0;
  int32_t bm_offset_sectors = 0;
  uint32_t bytes_per_bit = kDefaultBytesPerBit;
  uint32_t la_peer_max_bio_bytes = 0;
  uint32_t max_peers = 1;  // bitmap slots
  int32_t node_id = -1;    // -1 = not yet assigned
  uint32_t al_stripes = 1;
  uint32_t al_stripe_size_4k = 8;
  uint64_t v08_bitmap_uuid = 0;
  std::array<PeerEntry, kMaxNodes> peers{};
  std::array<uint64_t, kHistoryUuids> history{};

  bool Has(uint32_t flag) const { return (flags & flag) != 0; }
  void Set(uint32_t flag, bool on) { flags = on ? flags | flag : flags & ~flag; }
  // False when the activity log must be replayed before the bitmap can be trusted (2.6).
  bool al_clean() const { return Has(kMdAlClean) && !v08_magic_unclean; }
  uint64_t al_blocks() const { return uint64_t{al_stripes} * al_stripe_size_4k; }

  friend bool operator==(const Superblock&, const Superblock&) = default;
};

// Bytes to value; checks only what makes the value meaningful by itself: magic, power-of-two
// granularity, ring size, slot count, indices, alignment of the offsets.
// Both AL striping fields zero are read as 1 × 8 (2.2.5).
Result<Superblock> DecodeSuperblock(std::span<const std::byte, kSuperblockBytes> bytes);

// Writes all 4096 bytes; unused ones are zero. `superblock` must be v09 and pass CheckSuperblock's
// value rules (asserted: it is ours). kPeerHaveBitmap is masked out.
void EncodeSuperblock(const Superblock& superblock, std::span<std::byte, kSuperblockBytes> bytes);

// True if the magic at byte 60 is that of any DRBD superblock, v07 included; decides nothing else.
bool LooksLikeSuperblock(std::span<const std::byte, kSuperblockBytes> bytes);

// What a kernel checks when it attaches (2.4), against the place where the superblock was found.
struct AttachExpectations {
  bool internal = true;
  uint64_t meta_device_sectors = 0;  // of the device the superblock lies on
  std::optional<int32_t> node_id;    // configured id; unset: not checked
  bool require_al_clean = false;     // true: kFailedPrecondition if unclean
};
Status CheckSuperblock(const Superblock& superblock, const AttachExpectations& expect);

}  // namespace umblock::drbd::meta
