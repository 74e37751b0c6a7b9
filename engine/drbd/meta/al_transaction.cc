#include "engine/drbd/meta/al_transaction.h"

#include <isa-l/crc.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/base/assert.h"

namespace umblock::drbd::meta {
namespace {

constexpr size_t kCrcOffset = 8;
constexpr size_t kSlotsOffset = 36;
constexpr size_t kExtentsOffset = 164;
constexpr size_t kContextOffset = 420;
constexpr uint16_t kTypeUpdate = 0;
constexpr uint16_t kTypeInitialised = 0xFFFF;
static_assert(kContextOffset + 4 * kAlContextPerTransaction == kBlockBytes);

uint32_t Crc(uint32_t seed, const std::byte* data, size_t size) {
  // ISA-L neither inverts the seed nor the result. Its parameter is not const, the data is not
  // written.
  auto* bytes = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(data));
  return crc32_iscsi(bytes, static_cast<int>(size), seed);
}

// The checksum of a block is taken with its own field zero.
uint32_t BlockChecksum(AlBlockBytes bytes) {
  static constexpr std::byte kZero[4]{};
  uint32_t crc = Crc(0, bytes.data(), kCrcOffset);
  crc = Crc(crc, kZero, sizeof kZero);
  return Crc(crc, bytes.data() + kCrcOffset + 4, kBlockBytes - kCrcOffset - 4);
}

void PutChecksum(MutableAlBlockBytes bytes) {
  StoreBe<uint32_t>(bytes.data() + kCrcOffset, BlockChecksum(bytes));
}

// State of all slots during a replay. A slot number has 16 bits, and a context window may begin at
// the highest one.
using SlotTable = std::vector<uint32_t>;
constexpr size_t kSlotTableSize = 65536 + kAlContextPerTransaction;

void Apply(const AlTransaction& tr, SlotTable& hot) {
  for (size_t i = 0; i < kAlContextPerTransaction; ++i) {
    const size_t slot = tr.context_start + i;
    if (tr.context[i] == kAlNoExtent && slot >= tr.context_size) continue;
    hot[slot] = tr.context[i];
  }
  for (size_t i = 0; i < kAlUpdatesPerTransaction; ++i) {
    if (i >= tr.update_count && tr.updates[i].slot == kAlNoSlot) continue;
    hot[tr.updates[i].slot] = tr.updates[i].extent;
  }
}

AlBlockBytes RingBlock(Bytes ring, uint64_t physical) {
  return AlBlockBytes(ring.data() + physical * kBlockBytes, kBlockBytes);
}

struct Found {
  uint32_t number;
  uint64_t physical;
};

}  // namespace

uint32_t AlChecksum(Bytes bytes) { return Crc(0, bytes.data(), bytes.size()); }

void EncodeAlTransaction(const AlTransaction& tr, MutableAlBlockBytes bytes) {
  UMBLOCK_ASSERT(tr.update_count <= kAlUpdatesPerTransaction, "a transaction holds 64 updates");
  std::byte* at = bytes.data();
  std::memset(at, 0, kSlotsOffset);
  StoreBe<uint32_t>(at, kAlMagic);
  StoreBe<uint32_t>(at + 4, tr.number);
  StoreBe<uint16_t>(at + 12, kTypeUpdate);
  StoreBe<uint16_t>(at + 14, tr.update_count);
  StoreBe<uint16_t>(at + 16, tr.context_size);
  StoreBe<uint16_t>(at + 18, tr.context_start);
  for (size_t i = 0; i < kAlUpdatesPerTransaction; ++i) {
    const AlUpdate update = i < tr.update_count ? tr.updates[i] : AlUpdate{};
    StoreBe<uint16_t>(at + kSlotsOffset + 2 * i, update.slot);
    StoreBe<uint32_t>(at + kExtentsOffset + 4 * i, update.extent);
  }
  for (size_t i = 0; i < kAlContextPerTransaction; ++i) {
    StoreBe<uint32_t>(at + kContextOffset + 4 * i, tr.context[i]);
  }
  PutChecksum(bytes);
}

void EncodeInitialisedAlBlock(MutableAlBlockBytes bytes) {
  std::memset(bytes.data(), 0, bytes.size());
  StoreBe<uint32_t>(bytes.data(), kAlMagic);
  StoreBe<uint16_t>(bytes.data() + 12, kTypeInitialised);
  PutChecksum(bytes);
}

AlBlockKind DecodeAlBlock(AlBlockBytes bytes, AlTransaction* tr) {
  const std::byte* at = bytes.data();
  if (LoadBe<uint32_t>(at) != kAlMagic) return AlBlockKind::kInvalid;
  if (LoadBe<uint32_t>(at + kCrcOffset) != BlockChecksum(bytes)) return AlBlockKind::kInvalid;
  const uint16_t type = LoadBe<uint16_t>(at + 12);
  if (type == kTypeInitialised) return AlBlockKind::kInitialised;
  tr->number = LoadBe<uint32_t>(at + 4);
  tr->update_count = LoadBe<uint16_t>(at + 14);
  tr->context_size = LoadBe<uint16_t>(at + 16);
  tr->context_start = LoadBe<uint16_t>(at + 18);
  if (type != kTypeUpdate || tr->update_count > kAlUpdatesPerTransaction) {
    return AlBlockKind::kInvalid;
  }
  for (size_t i = 0; i < kAlUpdatesPerTransaction; ++i) {
    tr->updates[i].slot = LoadBe<uint16_t>(at + kSlotsOffset + 2 * i);
    tr->updates[i].extent = LoadBe<uint32_t>(at + kExtentsOffset + 4 * i);
  }
  for (size_t i = 0; i < kAlContextPerTransaction; ++i) {
    tr->context[i] = LoadBe<uint32_t>(at + kContextOffset + 4 * i);
  }
  return AlBlockKind::kUpdate;
}

uint64_t AlPhysicalBlock(uint64_t logical, uint32_t stripes, uint32_t stripe_size_4k) {
  return logical % stripes * stripe_size_4k + logical / stripes;
}

uint64_t AlBlockOfTransaction(uint32_t number, uint32_t stripes, uint32_t stripe_size_4k) {
  return AlPhysicalBlock(number % (uint64_t{stripes} * stripe_size_4k), stripes, stripe_size_4k);
}

Result<AlReplay> ReplayAl(Bytes ring, uint32_t stripes, uint32_t stripe_size_4k) {
  const uint64_t blocks = uint64_t{stripes} * stripe_size_4k;
  UMBLOCK_ASSERT(blocks > 0 && ring.size() == blocks * kBlockBytes, "the whole ring is given");
  AlReplay result;
  std::vector<Found> updates;
  bool first_corrupt = false;
  AlTransaction tr;
  for (uint64_t logical = 0; logical < blocks; ++logical) {
    const uint64_t physical = AlPhysicalBlock(logical, stripes, stripe_size_4k);
    switch (DecodeAlBlock(RingBlock(ring, physical), &tr)) {
      case AlBlockKind::kInvalid:
        ++result.corrupt_blocks;
        if (logical == 0) first_corrupt = true;
        break;
      case AlBlockKind::kInitialised:
        ++result.initialised_blocks;
        break;
      case AlBlockKind::kUpdate:
        updates.push_back({tr.number, physical});
        break;
    }
  }
  result.update_blocks = updates.size();
  if (result.corrupt_blocks == blocks) {
    return MakeError(ErrorCode::kDataLoss, "activity log: none of its {} blocks is usable", blocks);
  }
  if (updates.empty()) {
    if (result.corrupt_blocks > (first_corrupt ? 1U : 0U)) {
      return MakeError(ErrorCode::kDataLoss,
                       "activity log: {} of {} blocks are corrupt and the rest is empty",
                       result.corrupt_blocks, blocks);
    }
    return result;
  }
  uint32_t newest = updates.front().number;
  for (const Found& found : updates) {
    if (static_cast<int32_t>(found.number - newest) > 0) newest = found.number;
  }
  // Equal numbers occur only in a damaged ring; their order is fixed by position all the same.
  std::ranges::sort(updates, {}, [newest](const Found& found) {
    return std::pair(static_cast<int32_t>(found.number - newest), found.physical);
  });
  SlotTable hot(kSlotTableSize, kAlNoExtent);
  for (const Found& found : updates) {
    DecodeAlBlock(RingBlock(ring, found.physical), &tr);
    Apply(tr, hot);
  }
  result.newest_number = newest;
  std::erase(hot, kAlNoExtent);
  std::ranges::sort(hot);
  const auto repeated = std::ranges::unique(hot);
  hot.erase(repeated.begin(), repeated.end());
  result.hot_extents = std::move(hot);
  return result;
}

}  // namespace umblock::drbd::meta
