// How the bits of several peers share the bitmap area (drbd-metadata-resync.md 2.7).
//
// The area is an array of 32-bit little-endian words. The word of slot s with bits 32·g … 32·g+31
// has index g × max_peers + s. A set bit says: this block is out of sync towards the slot's peer.
#pragma once

#include <cstdint>

#include "engine/base/bytes.h"
#include "engine/drbd/meta/constants.h"

namespace umblock::drbd::meta {

inline constexpr uint64_t kBitsPerWord = 32;
inline constexpr uint64_t kWordsPerPage = kBlockBytes / 4;

constexpr uint64_t BitmapWordIndex(uint64_t bit, uint32_t slot, uint32_t max_peers) {
  return (bit / kBitsPerWord) * max_peers + slot;
}
constexpr uint64_t BitmapByteOffset(uint64_t bit, uint32_t slot, uint32_t max_peers) {
  return BitmapWordIndex(bit, slot, max_peers) * 4 + (bit % kBitsPerWord) / 8;
}

// Bits of a device: a partial last block counts.
constexpr uint64_t BitmapBits(uint64_t device_bytes, uint32_t bytes_per_bit) {
  return (device_bytes + bytes_per_bit - 1) / bytes_per_bit;
}

// Bytes that the slots of a device with this many bits occupy, before rounding to 4 KiB: each
// slot's length is a multiple of 64 bits.
constexpr uint64_t BitmapBytes(uint64_t bits, uint32_t max_peers) {
  return AlignUp<uint64_t>(bits, 64) / 8 * max_peers;
}

// Half-open range of 4 KiB pages.
struct PageRange {
  uint64_t first = 0;
  uint64_t end = 0;

  friend bool operator==(const PageRange&, const PageRange&) = default;
};

// The pages that hold the bits [first, end) of all slots; end > first.
constexpr PageRange BitmapPagesOfBits(uint64_t first, uint64_t end, uint32_t max_peers) {
  const uint64_t first_word = first / kBitsPerWord * max_peers;
  const uint64_t end_word = ((end - 1) / kBitsPerWord + 1) * max_peers;
  return {first_word / kWordsPerPage, (end_word - 1) / kWordsPerPage + 1};
}

}  // namespace umblock::drbd::meta
