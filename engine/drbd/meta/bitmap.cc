#include "engine/drbd/meta/bitmap.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "engine/base/assert.h"

namespace umblock::drbd::meta {
namespace {

constexpr uint64_t kWireBlock = kDefaultBytesPerBit;

// Bits [from, to) of a 32-bit word, to > from.
constexpr uint32_t WordMask(uint64_t from, uint64_t to) {
  return (~0U << from) & (~0U >> (kBitsPerWord - to));
}

// The part of group `group` that lies in [first, end).
constexpr uint32_t GroupMask(uint64_t group, uint64_t first, uint64_t end) {
  const uint64_t base = group * kBitsPerWord;
  return WordMask(std::max(first, base) - base, std::min(end, base + kBitsPerWord) - base);
}

uint64_t PageCount(uint64_t bits, uint32_t max_peers) {
  return (BitmapBytes(bits, max_peers) + kBlockBytes - 1) / kBlockBytes;
}

// A mapping cannot be empty.
uint64_t MappingBytes(uint64_t page_count) {
  return std::max<uint64_t>(page_count, 1) * kBlockBytes;
}

Status CheckShape(const BitmapShape& shape) {
  if (shape.max_peers < 1 || shape.max_peers > kMaxSlots ||
      !std::has_single_bit(shape.bytes_per_bit) || shape.bytes_per_bit < kMinBytesPerBit ||
      shape.bytes_per_bit > kMaxBytesPerBit || shape.device_bytes > kMaxDeviceBytes) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "bitmap: {} slots of {} bytes per bit for {} bytes are impossible",
                     shape.max_peers, shape.bytes_per_bit, shape.device_bytes);
  }
  return Ok();
}

}  // namespace

Result<Bitmap> Bitmap::Create(const BitmapShape& shape) {
  UMBLOCK_TRY(CheckShape(shape));
  Bitmap bitmap;
  bitmap.shape_ = shape;
  bitmap.bits_ = BitmapBits(shape.device_bytes, shape.bytes_per_bit);
  bitmap.page_count_ = PageCount(bitmap.bits_, shape.max_peers);
  bitmap.mapped_bytes_ = MappingBytes(bitmap.page_count_);
  void* memory = mmap(nullptr, bitmap.mapped_bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return MakeError(ErrorCode::kResourceExhausted, "bitmap: no memory for {} bytes",
                     bitmap.mapped_bytes_);
  }
  bitmap.pages_ = static_cast<std::byte*>(memory);
  bitmap.dirty_.resize((bitmap.page_count_ + 63) / 64);
  bitmap.weight_.resize(shape.max_peers);
  return bitmap;
}

Bitmap::Bitmap(Bitmap&& other) noexcept { *this = std::move(other); }

Bitmap& Bitmap::operator=(Bitmap&& other) noexcept {
  if (this == &other) return *this;
  Unmap();
  shape_ = other.shape_;
  bits_ = std::exchange(other.bits_, 0);
  page_count_ = std::exchange(other.page_count_, 0);
  pages_ = std::exchange(other.pages_, nullptr);
  mapped_bytes_ = std::exchange(other.mapped_bytes_, 0);
  dirty_ = std::move(other.dirty_);
  dirty_count_ = std::exchange(other.dirty_count_, 0);
  weight_ = std::move(other.weight_);
  return *this;
}

Bitmap::~Bitmap() { Unmap(); }

void Bitmap::Unmap() {
  if (pages_ != nullptr) munmap(pages_, mapped_bytes_);
  pages_ = nullptr;
}

uint64_t Bitmap::weight(uint32_t slot) const {
  UMBLOCK_ASSERT(slot < shape_.max_peers, "bitmap slot exists");
  return weight_[slot];
}

uint64_t Bitmap::OutOfSyncBytes(uint32_t slot) const {
  uint64_t bytes = weight(slot) * shape_.bytes_per_bit;
  const uint64_t overshoot = bits_ * shape_.bytes_per_bit - shape_.device_bytes;
  if (overshoot != 0 && Test(slot, bits_ - 1)) bytes -= overshoot;
  return bytes;
}

// --- byte ranges ---------------------------------------------------------------------------------

BitRange Bitmap::Outward(uint64_t offset, uint64_t length) const {
  if (length == 0 || offset >= shape_.device_bytes) return {};
  const uint64_t end = offset + std::min(length, shape_.device_bytes - offset);
  return {offset / shape_.bytes_per_bit, BitmapBits(end, shape_.bytes_per_bit)};
}

BitRange Bitmap::Inward(uint64_t offset, uint64_t length) const {
  if (length == 0 || offset >= shape_.device_bytes) return {};
  const uint64_t end = offset + std::min(length, shape_.device_bytes - offset);
  const BitRange range{BitmapBits(offset, shape_.bytes_per_bit),
                       end == shape_.device_bytes ? bits_ : end / shape_.bytes_per_bit};
  return range.empty() ? BitRange{} : range;
}

uint64_t Bitmap::SetRange(uint32_t slot, uint64_t offset, uint64_t length) {
  const BitRange range = Outward(offset, length);
  return SetBits(slot, range.first, range.end);
}

uint64_t Bitmap::ClearRange(uint32_t slot, uint64_t offset, uint64_t length) {
  const BitRange range = Inward(offset, length);
  return ClearBits(slot, range.first, range.end);
}

uint64_t Bitmap::SetRangeIn(SlotMask slots, uint64_t offset, uint64_t length) {
  uint64_t changed = 0;
  for (; slots != 0; slots &= slots - 1) {
    changed += SetRange(static_cast<uint32_t>(std::countr_zero(slots)), offset, length);
  }
  return changed;
}

uint64_t Bitmap::ClearRangeIn(SlotMask slots, uint64_t offset, uint64_t length) {
  uint64_t changed = 0;
  for (; slots != 0; slots &= slots - 1) {
    changed += ClearRange(static_cast<uint32_t>(std::countr_zero(slots)), offset, length);
  }
  return changed;
}

uint64_t Bitmap::CountRange(uint32_t slot, uint64_t offset, uint64_t length) const {
  const BitRange range = Outward(offset, length);
  return CountBits(slot, range.first, range.end);
}

// --- bits ----------------------------------------------------------------------------------------

uint32_t Bitmap::Word(uint64_t index) const { return LoadLe<uint32_t>(pages_ + index * 4); }

void Bitmap::PutWord(uint64_t index, uint32_t value) {
  StoreLe<uint32_t>(pages_ + index * 4, value);
  MarkDirty(index / kWordsPerPage);
}

uint64_t Bitmap::Change(uint32_t slot, uint64_t first, uint64_t end, bool set) {
  UMBLOCK_ASSERT(slot < shape_.max_peers, "bitmap slot exists");
  end = std::min(end, bits_);
  if (first >= end) return 0;
  uint64_t changed = 0;
  uint64_t index = BitmapWordIndex(first, slot, shape_.max_peers);
  const uint64_t last_group = (end - 1) / kBitsPerWord;
  for (uint64_t group = first / kBitsPerWord; group <= last_group;
       ++group, index += shape_.max_peers) {
    const uint32_t mask = GroupMask(group, first, end);
    const uint32_t old = Word(index);
    const uint32_t value = set ? old | mask : old & ~mask;
    if (value == old) continue;
    changed += static_cast<uint64_t>(std::popcount(value ^ old));
    PutWord(index, value);
  }
  weight_[slot] = set ? weight_[slot] + changed : weight_[slot] - changed;
  return changed;
}

uint64_t Bitmap::SetBits(uint32_t slot, uint64_t first, uint64_t end) {
  return Change(slot, first, end, true);
}

uint64_t Bitmap::ClearBits(uint32_t slot, uint64_t first, uint64_t end) {
  return Change(slot, first, end, false);
}

bool Bitmap::Test(uint32_t slot, uint64_t bit) const {
  UMBLOCK_ASSERT(slot < shape_.max_peers && bit < bits_, "bitmap slot and bit exist");
  return (Word(BitmapWordIndex(bit, slot, shape_.max_peers)) >> (bit % kBitsPerWord) & 1) != 0;
}

uint64_t Bitmap::CountBits(uint32_t slot, uint64_t first, uint64_t end) const {
  UMBLOCK_ASSERT(slot < shape_.max_peers, "bitmap slot exists");
  end = std::min(end, bits_);
  if (first >= end) return 0;
  uint64_t count = 0;
  uint64_t index = BitmapWordIndex(first, slot, shape_.max_peers);
  const uint64_t last_group = (end - 1) / kBitsPerWord;
  for (uint64_t group = first / kBitsPerWord; group <= last_group;
       ++group, index += shape_.max_peers) {
    count += static_cast<uint64_t>(std::popcount(Word(index) & GroupMask(group, first, end)));
  }
  return count;
}

uint64_t Bitmap::Find(uint32_t slot, uint64_t from, uint64_t end, bool set) const {
  UMBLOCK_ASSERT(slot < shape_.max_peers, "bitmap slot exists");
  end = std::min(end, bits_);
  if (from >= end) return end;
  const uint32_t flip = set ? 0 : ~0U;
  uint64_t index = BitmapWordIndex(from, slot, shape_.max_peers);
  uint64_t group = from / kBitsPerWord;
  const uint64_t last_group = (end - 1) / kBitsPerWord;
  uint32_t word = (Word(index) ^ flip) & (~0U << (from % kBitsPerWord));
  while (word == 0) {
    if (++group > last_group) return end;
    index += shape_.max_peers;
    word = Word(index) ^ flip;
  }
  return std::min(end, group * kBitsPerWord + static_cast<uint64_t>(std::countr_zero(word)));
}

uint64_t Bitmap::FindNextSet(uint32_t slot, uint64_t from, uint64_t end) const {
  return Find(slot, from, end, true);
}

uint64_t Bitmap::FindNextClear(uint32_t slot, uint64_t from, uint64_t end) const {
  return Find(slot, from, end, false);
}

uint64_t Bitmap::CopySlot(uint32_t from, uint32_t to, uint64_t first, uint64_t end) {
  UMBLOCK_ASSERT(from < shape_.max_peers && to < shape_.max_peers, "bitmap slots exist");
  end = std::min(end, bits_);
  if (first >= end || from == to) return 0;
  uint64_t changed = 0;
  const uint64_t last_group = (end - 1) / kBitsPerWord;
  for (uint64_t group = first / kBitsPerWord; group <= last_group; ++group) {
    const uint32_t mask = GroupMask(group, first, end);
    const uint64_t index = group * shape_.max_peers + to;
    const uint32_t old = Word(index);
    const uint32_t value = (old & ~mask) | (Word(group * shape_.max_peers + from) & mask);
    if (value == old) continue;
    changed += static_cast<uint64_t>(std::popcount(value ^ old));
    weight_[to] += static_cast<uint64_t>(std::popcount(value));
    weight_[to] -= static_cast<uint64_t>(std::popcount(old));
    PutWord(index, value);
  }
  return changed;
}

// --- the bitmap on the wire ----------------------------------------------------------------------

uint64_t Bitmap::wire_bits() const { return BitmapBits(shape_.device_bytes, kWireBlock); }

WireRun Bitmap::NextWireRun(uint32_t slot, uint64_t from, uint64_t limit) const {
  const uint64_t total = wire_bits();
  UMBLOCK_ASSERT(from < total && limit > 0, "a wire run begins inside the device");
  const uint64_t scale = shape_.bytes_per_bit / kWireBlock;
  const uint64_t end = from + std::min(limit, total - from);
  const uint64_t bit = from / scale;
  const bool set = Test(slot, bit);
  const uint64_t next = Find(slot, bit, (end + scale - 1) / scale, !set);
  return {set, std::min(next * scale, end) - from};
}

void Bitmap::LoadWireWords(uint32_t slot, uint64_t first_word, MutableBytes out) const {
  UMBLOCK_ASSERT(slot < shape_.max_peers && out.size() % 8 == 0, "whole words of an existing slot");
  const uint64_t total = wire_bits();
  const uint64_t scale = shape_.bytes_per_bit / kWireBlock;
  for (size_t i = 0; i < out.size() / 8; ++i) {
    const uint64_t base = (first_word + i) * 64;
    uint64_t word = 0;
    if (base < total && scale == 1) {
      // Slots are multiples of 64 bits long, so the second half exists.
      const uint64_t index = BitmapWordIndex(base, slot, shape_.max_peers);
      word = Word(index) | uint64_t{Word(index + shape_.max_peers)} << 32;
    } else if (base < total) {
      const uint64_t end = std::min(base + 64, total);
      for (uint64_t at = base; at < end;) {
        const WireRun run = NextWireRun(slot, at, end - at);
        if (run.set) word |= ~uint64_t{0} >> (64 - run.length) << (at - base);
        at += run.length;
      }
    }
    StoreLe<uint64_t>(out.data() + i * 8, word);
  }
}

uint64_t Bitmap::OrWireRun(uint32_t slot, uint64_t first, uint64_t end) {
  end = std::min(end, wire_bits());
  if (first >= end) return 0;
  const uint64_t scale = shape_.bytes_per_bit / kWireBlock;
  return SetBits(slot, first / scale, (end + scale - 1) / scale);
}

uint64_t Bitmap::OrWireWords(uint32_t slot, uint64_t first_word, Bytes words) {
  UMBLOCK_ASSERT(words.size() % 8 == 0, "whole words");
  const uint64_t total = wire_bits();
  uint64_t changed = 0;
  for (size_t i = 0; i < words.size() / 8; ++i) {
    uint64_t word = LoadLe<uint64_t>(words.data() + i * 8);
    if (first_word + i >= (total + 63) / 64) break;
    const uint64_t base = (first_word + i) * 64;
    while (word != 0) {
      const auto start = static_cast<uint64_t>(std::countr_zero(word));
      const auto length = static_cast<uint64_t>(std::countr_one(word >> start));
      changed += OrWireRun(slot, base + start, base + start + length);
      if (start + length >= 64) break;
      word = word >> (start + length) << (start + length);
    }
  }
  return changed;
}

// --- pages ---------------------------------------------------------------------------------------

Bytes Bitmap::Page(uint64_t page) const {
  UMBLOCK_ASSERT(page < page_count_, "bitmap page exists");
  return {pages_ + page * kBlockBytes, kBlockBytes};
}

void Bitmap::LoadPage(uint64_t page, Bytes bytes) {
  UMBLOCK_ASSERT(page < page_count_ && bytes.size() == kBlockBytes, "a whole existing page");
  bool trimmed = false;
  for (uint64_t i = 0; i < kWordsPerPage; ++i) {
    const uint64_t index = page * kWordsPerPage + i;
    const uint64_t base = index / shape_.max_peers * kBitsPerWord;
    const uint32_t read = LoadLe<uint32_t>(bytes.data() + i * 4);
    uint32_t value = read;
    if (base >= bits_) {
      value = 0;
    } else if (base + kBitsPerWord > bits_) {
      value &= WordMask(0, bits_ - base);
    }
    trimmed = trimmed || value != read;
    const uint32_t old = Word(index);
    if (value == old) continue;  // leaves untouched zero pages untouched
    uint64_t& weight = weight_[index % shape_.max_peers];
    weight += static_cast<uint64_t>(std::popcount(value));
    weight -= static_cast<uint64_t>(std::popcount(old));
    StoreLe<uint32_t>(pages_ + index * 4, value);
  }
  MarkClean(page);
  if (trimmed) MarkDirty(page);
}

bool Bitmap::IsDirty(uint64_t page) const {
  UMBLOCK_ASSERT(page < page_count_, "bitmap page exists");
  return (dirty_[page / 64] >> (page % 64) & 1) != 0;
}

void Bitmap::MarkDirty(uint64_t page) {
  if (IsDirty(page)) return;
  dirty_[page / 64] |= uint64_t{1} << (page % 64);
  ++dirty_count_;
}

void Bitmap::MarkClean(uint64_t page) {
  if (!IsDirty(page)) return;
  dirty_[page / 64] &= ~(uint64_t{1} << (page % 64));
  --dirty_count_;
}

void Bitmap::MarkAllDirty() {
  for (uint64_t page = 0; page < page_count_; ++page) MarkDirty(page);
}

uint64_t Bitmap::FindDirtyPage(uint64_t from, uint64_t end) const {
  end = std::min(end, page_count_);
  while (from < end) {
    const uint64_t word = dirty_[from / 64] >> (from % 64);
    if (word != 0) return std::min(end, from + static_cast<uint64_t>(std::countr_zero(word)));
    from = (from / 64 + 1) * 64;
  }
  return end;
}

BitRange Bitmap::BitsOfExtent(uint32_t extent) const {
  return Outward(uint64_t{extent} * kAlExtentBytes, kAlExtentBytes);
}

PageRange Bitmap::PagesOfExtent(uint32_t extent) const {
  const BitRange range = BitsOfExtent(extent);
  if (range.empty()) return {};
  return BitmapPagesOfBits(range.first, range.end, shape_.max_peers);
}

Status Bitmap::Resize(uint64_t device_bytes, bool set_new_bits) {
  BitmapShape shape = shape_;
  shape.device_bytes = device_bytes;
  UMBLOCK_TRY(CheckShape(shape));
  const uint64_t old_bits = bits_;
  const uint64_t bits = BitmapBits(device_bytes, shape.bytes_per_bit);
  const uint64_t pages = PageCount(bits, shape.max_peers);
  for (uint32_t slot = 0; slot < shape.max_peers; ++slot) ClearBits(slot, bits, bits_);
  for (uint64_t page = pages; page < page_count_; ++page) MarkClean(page);
  void* memory = mremap(pages_, mapped_bytes_, MappingBytes(pages), MREMAP_MAYMOVE);
  if (memory == MAP_FAILED) {
    return MakeError(ErrorCode::kResourceExhausted, "bitmap: no memory for {} bytes",
                     MappingBytes(pages));
  }
  pages_ = static_cast<std::byte*>(memory);
  mapped_bytes_ = MappingBytes(pages);
  const uint64_t old_pages = std::exchange(page_count_, pages);
  dirty_.resize((pages + 63) / 64);
  for (uint64_t page = old_pages; page < pages; ++page) MarkDirty(page);
  shape_ = shape;
  bits_ = bits;
  if (set_new_bits) {
    for (uint32_t slot = 0; slot < shape.max_peers; ++slot) SetBits(slot, old_bits, bits);
  }
  return Ok();
}

}  // namespace umblock::drbd::meta
