// Transactions of the activity log on disk, and their replay after a crash
// (drbd-metadata-resync.md 2.9, 2.11). Pure functions on values and bytes.
//
// The ring is a sequence of 4 KiB blocks; block numbers here are logical (before the stripe
// mapping) unless a name says otherwise.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/drbd/meta/constants.h"

namespace umblock::drbd::meta {

inline constexpr uint32_t kAlMagic = 0x69CB65A2;
inline constexpr size_t kAlUpdatesPerTransaction = 64;
inline constexpr size_t kAlContextPerTransaction = 919;
inline constexpr uint32_t kAlNoExtent = 0xFFFFFFFF;
inline constexpr uint16_t kAlNoSlot = 0xFFFF;

struct AlUpdate {
  uint16_t slot = kAlNoSlot;
  uint32_t extent = kAlNoExtent;

  friend bool operator==(const AlUpdate&, const AlUpdate&) = default;
};

// An update transaction. Entries from update_count on are kAlNoSlot / kAlNoExtent. context[i] is
// the extent of slot context_start + i as it was before this transaction's own updates.
struct AlTransaction {
  AlTransaction() { context.fill(kAlNoExtent); }

  uint32_t number = 0;  // mod 2^32, compared by signed difference
  uint16_t update_count = 0;
  uint16_t context_size = 0;   // number of slots of the writer
  uint16_t context_start = 0;  // first slot that context[] describes
  std::array<AlUpdate, kAlUpdatesPerTransaction> updates{};
  std::array<uint32_t, kAlContextPerTransaction> context;

  friend bool operator==(const AlTransaction&, const AlTransaction&) = default;
};

enum class AlBlockKind : uint8_t {
  kInvalid,      // wrong magic, wrong checksum or impossible values
  kInitialised,  // written by create-md or apply-al: empty
  kUpdate,
};

using AlBlockBytes = std::span<const std::byte, kBlockBytes>;
using MutableAlBlockBytes = std::span<std::byte, kBlockBytes>;

// CRC-32C (Castagnoli) with initial value 0 and no final inversion (2.9.1).
uint32_t AlChecksum(Bytes bytes);

void EncodeAlTransaction(const AlTransaction& transaction, MutableAlBlockBytes bytes);
void EncodeInitialisedAlBlock(MutableAlBlockBytes bytes);

// Fills `*transaction` only for kUpdate.
AlBlockKind DecodeAlBlock(AlBlockBytes bytes, AlTransaction* transaction);

// Physical block of logical block `logical` (2.9.3); both are < stripes × stripe_size_4k.
uint64_t AlPhysicalBlock(uint64_t logical, uint32_t stripes, uint32_t stripe_size_4k);
// Physical block to which transaction `number` is written.
uint64_t AlBlockOfTransaction(uint32_t number, uint32_t stripes, uint32_t stripe_size_4k);

struct AlReplay {
  std::vector<uint32_t> hot_extents;  // ascending, distinct; not clipped to the device
  uint64_t update_blocks = 0;
  uint64_t initialised_blocks = 0;
  uint64_t corrupt_blocks = 0;  // tolerated, to be reported
  uint32_t newest_number = 0;   // valid if update_blocks > 0
  // True if every block is a freshly initialised one.
  bool pristine() const { return update_blocks == 0 && corrupt_blocks == 0; }
};

// Replays a ring given as its blocks in physical order (stripes × stripe_size_4k × 4096 bytes).
// Errors (kDataLoss): no usable block at all; or corrupt blocks and not one update among the rest
// (except that only logical block 0 is corrupt, which a first transaction torn by a crash causes).
Result<AlReplay> ReplayAl(Bytes ring, uint32_t stripes, uint32_t stripe_size_4k);

}  // namespace umblock::drbd::meta
