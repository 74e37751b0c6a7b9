// The bitmap of one volume in memory: per peer slot, which blocks are out of sync.
//
// Layout in memory is the layout on disk (bitmap_layout.h), so that 4 KiB pages are read and
// written verbatim. The class does no I/O: it marks changed pages dirty, and MetaStore writes them.
//
// Units: byte ranges are device bytes; "bit" means a block of bytes_per_bit() bytes; "wire bit" a
// block of 4096 bytes, whatever the granularity on disk (drbd-metadata-resync.md 6.1.4). Ranges are
// clipped to the device. Functions that change bits return how many changed. Bits beyond the device
// are 0.
//
// Rules upheld here (drbd-metadata-resync.md 2.7): setting rounds outward, clearing rounds inward,
// and the truncated last block of the device counts as covered when a range reaches the device's
// end.
//
// Cost: a scan reads one 32-bit word per 32 bits. Callers on a reactor pass bounded ranges
// (kScanBits) and yield between them.
//
// Ownership: memory comes from the operating system as zero pages and costs nothing until touched.
// Threading: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/drbd/meta/bitmap_layout.h"
#include "engine/drbd/meta/constants.h"

namespace umblock::drbd::meta {

struct BitmapShape {
  uint32_t max_peers = 1;
  uint64_t device_bytes = 0;
  uint32_t bytes_per_bit = kDefaultBytesPerBit;
};

// Half-open range of bits.
struct BitRange {
  uint64_t first = 0;
  uint64_t end = 0;
  bool empty() const { return first >= end; }
  uint64_t size() const { return empty() ? 0 : end - first; }

  friend bool operator==(const BitRange&, const BitRange&) = default;
};

// A maximal run of equal wire bits.
struct WireRun {
  bool set = false;
  uint64_t length = 0;

  friend bool operator==(const WireRun&, const WireRun&) = default;
};

// A set of bitmap slots, bit s = slot s.
using SlotMask = uint32_t;

class Bitmap {
 public:
  // How many bits one step of a long scan should cover at most to stay well under a millisecond.
  static constexpr uint64_t kScanBits = 1ULL << 22;

  // All bits clear. kInvalidArgument for an impossible shape, kResourceExhausted without memory.
  static Result<Bitmap> Create(const BitmapShape& shape);

  Bitmap(Bitmap&& other) noexcept;
  Bitmap& operator=(Bitmap&& other) noexcept;
  ~Bitmap();

  uint32_t max_peers() const { return shape_.max_peers; }
  uint64_t device_bytes() const { return shape_.device_bytes; }
  uint32_t bytes_per_bit() const { return shape_.bytes_per_bit; }
  uint64_t bits() const { return bits_; }
  SlotMask all_slots() const { return (SlotMask{1} << shape_.max_peers) - 1; }

  // Number of set bits of a slot; maintained, O(1).
  uint64_t weight(uint32_t slot) const;
  // The same in bytes, never more than the device.
  uint64_t OutOfSyncBytes(uint32_t slot) const;

  // --- byte ranges -------------------------------------------------------------------------------
  // The bits touched by / fully covered by [offset, offset + length).
  BitRange Outward(uint64_t offset, uint64_t length) const;
  BitRange Inward(uint64_t offset, uint64_t length) const;

  uint64_t SetRange(uint32_t slot, uint64_t offset, uint64_t length);
  uint64_t ClearRange(uint32_t slot, uint64_t offset, uint64_t length);
  // In every slot of `slots`; returns the changes of all of them together.
  uint64_t SetRangeIn(SlotMask slots, uint64_t offset, uint64_t length);
  uint64_t ClearRangeIn(SlotMask slots, uint64_t offset, uint64_t length);
  // Set bits among those the range touches.
  uint64_t CountRange(uint32_t slot, uint64_t offset, uint64_t length) const;

  // --- bits --------------------------------------------------------------------------------------
  bool Test(uint32_t slot, uint64_t bit) const;
  uint64_t SetBits(uint32_t slot, uint64_t first, uint64_t end);
  uint64_t ClearBits(uint32_t slot, uint64_t first, uint64_t end);
  uint64_t CountBits(uint32_t slot, uint64_t first, uint64_t end) const;
  // First set (clear) bit in [from, end), or `end` (clipped to bits()) if there is none.
  uint64_t FindNextSet(uint32_t slot, uint64_t from, uint64_t end = UINT64_MAX) const;
  uint64_t FindNextClear(uint32_t slot, uint64_t from, uint64_t end = UINT64_MAX) const;

  uint64_t SetAll(uint32_t slot) { return SetBits(slot, 0, bits_); }
  uint64_t ClearAll(uint32_t slot) { return ClearBits(slot, 0, bits_); }
  // Makes slot `to` equal to slot `from`, in [first, end).
  uint64_t CopySlot(uint32_t from, uint32_t to, uint64_t first = 0, uint64_t end = UINT64_MAX);

  // --- the bitmap on the wire, at 4 KiB granularity (drbd-metadata-resync.md 6.1.4) ----------
  uint64_t wire_bits() const;
  // The run that begins at wire bit `from` (< wire_bits()), at most `limit` bits of it.
  WireRun NextWireRun(uint32_t slot, uint64_t from, uint64_t limit = UINT64_MAX) const;
  // Wire bits 64·first_word … as little-endian 64-bit words; `out` is a multiple of 8 bytes. Words
  // beyond the device are 0.
  void LoadWireWords(uint32_t slot, uint64_t first_word, MutableBytes out) const;
  // ORs what a peer sent: a run of set wire bits [first, end), rounded outward …
  uint64_t OrWireRun(uint32_t slot, uint64_t first, uint64_t end);
  // … or plain words. Bits beyond the device are ignored.
  uint64_t OrWireWords(uint32_t slot, uint64_t first_word, Bytes words);

  // --- pages -------------------------------------------------------------------------------------
  uint64_t page_count() const { return page_count_; }
  // 4096 bytes, as they are to be on disk.
  Bytes Page(uint64_t page) const;
  // Takes over what was read from disk, clears bits beyond the device, and adjusts the weights. The
  // page becomes clean, or dirty if bits had to be cleared.
  void LoadPage(uint64_t page, Bytes bytes);

  bool IsDirty(uint64_t page) const;
  void MarkDirty(uint64_t page);
  void MarkClean(uint64_t page);
  void MarkAllDirty();
  uint64_t dirty_pages() const { return dirty_count_; }
  // First dirty page in [from, end), or `end` (clipped to page_count()).
  uint64_t FindDirtyPage(uint64_t from, uint64_t end = UINT64_MAX) const;

  // Pages with the bits of a 4 MiB activity-log extent (all slots); empty beyond the device.
  PageRange PagesOfExtent(uint32_t extent) const;
  // Bits of an activity-log extent, clipped to the device.
  BitRange BitsOfExtent(uint32_t extent) const;

  // New device size. Bits that appear are set or clear in every slot as asked, bits that vanish are
  // dropped. Changed and appearing pages become dirty (what the disk holds there is unknown).
  Status Resize(uint64_t device_bytes, bool set_new_bits);

 private:
  Bitmap() = default;

  uint32_t Word(uint64_t index) const;
  // Stores a changed word: marks its page dirty.
  void PutWord(uint64_t index, uint32_t value);
  uint64_t Change(uint32_t slot, uint64_t first, uint64_t end, bool set);
  uint64_t Find(uint32_t slot, uint64_t from, uint64_t end, bool set) const;
  void Unmap();

  BitmapShape shape_;
  uint64_t bits_ = 0;
  uint64_t page_count_ = 0;
  std::byte* pages_ = nullptr;  // page_count_ × 4096 bytes, mapped
  uint64_t mapped_bytes_ = 0;
  std::vector<uint64_t> dirty_;
  uint64_t dirty_count_ = 0;
  std::vector<uint64_t> weight_;  // per slot
};

}  // namespace umblock::drbd::meta
