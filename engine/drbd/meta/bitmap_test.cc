#include "engine/drbd/meta/bitmap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace umblock::drbd::meta {
namespace {

constexpr uint64_t kMiB = 1 << 20;

Bitmap Make(uint32_t peers, uint64_t bytes, uint32_t per_bit = 4096) {
  auto bitmap = Bitmap::Create({peers, bytes, per_bit});
  UMBLOCK_ASSERT(bitmap.has_value(), "test shape");
  return std::move(*bitmap);
}

TEST(Bitmap, RefusesImpossibleShapes) {
  const BitmapShape bad[] = {
      {0, kMiB}, {32, kMiB}, {1, kMiB, 2048}, {1, kMiB, 5000}, {1, kMaxDeviceBytes + 1}};
  for (const BitmapShape& shape : bad) {
    const auto bitmap = Bitmap::Create(shape);
    ASSERT_FALSE(bitmap);
    EXPECT_EQ(bitmap.error().code(), ErrorCode::kInvalidArgument);
  }
}

TEST(Bitmap, InterleavingExample) {
  Bitmap bitmap = Make(3, 100 * kMiB);
  EXPECT_EQ(bitmap.SetBits(1, 0, 1) + bitmap.SetBits(1, 2, 3) + bitmap.SetBits(1, 64, 192), 130U);
  EXPECT_EQ(bitmap.SetBits(2, 63, 64), 1U);
  const uint32_t expected[] = {0, 5, 0,   0, 0, 0x80000000, 0, ~0U, 0, 0, ~0U,
                               0, 0, ~0U, 0, 0, ~0U,        0, 0,   0, 0};
  for (size_t i = 0; i < std::size(expected); ++i) {
    EXPECT_EQ(LoadLe<uint32_t>(bitmap.Page(0).data() + 4 * i), expected[i]) << i;
  }
  EXPECT_EQ(bitmap.weight(0), 0U);
  EXPECT_EQ(bitmap.weight(1), 130U);
  EXPECT_EQ(bitmap.weight(2), 1U);
}

TEST(Bitmap, SettingRoundsOutwardClearingInward) {
  Bitmap bitmap = Make(1, kMiB);
  EXPECT_EQ(bitmap.SetRange(0, 4095, 2), 2U);
  EXPECT_EQ(bitmap.SetRange(0, 8192, 512), 1U);
  EXPECT_EQ(bitmap.weight(0), 3U);
  EXPECT_EQ(bitmap.ClearRange(0, 512, 4096), 0U);
  EXPECT_EQ(bitmap.ClearRange(0, 512, 7680), 1U);
  EXPECT_TRUE(bitmap.Test(0, 0));
  EXPECT_FALSE(bitmap.Test(0, 1));
  EXPECT_EQ(bitmap.ClearRange(0, 0, 0), 0U);
  EXPECT_EQ(bitmap.SetRange(0, 0, 0), 0U);
  EXPECT_EQ(bitmap.CountRange(0, 8191, 2), 1U);
}

TEST(Bitmap, TruncatedLastBlockCountsAsCovered) {
  Bitmap bitmap = Make(2, kMiB + 512);
  EXPECT_EQ(bitmap.bits(), 257U);
  EXPECT_EQ(bitmap.SetRange(1, kMiB - 1, 100), 2U);
  EXPECT_EQ(bitmap.OutOfSyncBytes(1), 4096U + 512);
  EXPECT_EQ(bitmap.ClearRange(1, kMiB, 511), 0U);
  EXPECT_EQ(bitmap.ClearRange(1, kMiB + 1, 511), 0U);
  EXPECT_EQ(bitmap.ClearRange(1, kMiB, 512), 1U);
  EXPECT_EQ(bitmap.OutOfSyncBytes(1), 4096U);
}

TEST(Bitmap, RangesBeyondTheDeviceAreClipped) {
  Bitmap bitmap = Make(1, kMiB);
  EXPECT_EQ(bitmap.SetRange(0, kMiB, 4096), 0U);
  EXPECT_EQ(bitmap.SetRange(0, UINT64_MAX - 10, 5), 0U);
  EXPECT_EQ(bitmap.SetRange(0, kMiB - 4096, UINT64_MAX), 1U);
  EXPECT_EQ(bitmap.SetBits(0, 0, UINT64_MAX), 255U);
  EXPECT_EQ(bitmap.SetBits(0, 300, 400), 0U);
  EXPECT_EQ(bitmap.FindNextSet(0, 400), 256U);
  EXPECT_EQ(bitmap.FindNextClear(0, 0), 256U);
}

TEST(Bitmap, EmptyDevice) {
  Bitmap bitmap = Make(3, 0);
  EXPECT_EQ(bitmap.bits(), 0U);
  EXPECT_EQ(bitmap.page_count(), 0U);
  EXPECT_EQ(bitmap.SetAll(0), 0U);
  EXPECT_EQ(bitmap.FindNextSet(0, 0), 0U);
  EXPECT_EQ(bitmap.FindDirtyPage(0), 0U);
  EXPECT_EQ(bitmap.OutOfSyncBytes(0), 0U);
}

TEST(Bitmap, AllSlotsTogether) {
  Bitmap bitmap = Make(31, 10 * kMiB);
  EXPECT_EQ(bitmap.all_slots(), 0x7FFFFFFFU);
  EXPECT_EQ(bitmap.SetRangeIn(bitmap.all_slots(), 4096, 8192), 62U);
  EXPECT_EQ(bitmap.ClearRangeIn(0b101, 4096, 4096), 2U);
  EXPECT_EQ(bitmap.weight(0), 1U);
  EXPECT_EQ(bitmap.weight(1), 2U);
  EXPECT_EQ(bitmap.weight(2), 1U);
  EXPECT_EQ(bitmap.weight(30), 2U);
}

TEST(Bitmap, OnlyChangesMakePagesDirty) {
  Bitmap bitmap = Make(1, 1024 * kMiB);  // 8 pages of 128 MiB
  EXPECT_EQ(bitmap.page_count(), 8U);
  EXPECT_EQ(bitmap.FindDirtyPage(0), 8U);
  bitmap.SetRange(0, 300 * kMiB, 4096);
  EXPECT_EQ(bitmap.FindDirtyPage(0), 2U);
  EXPECT_EQ(bitmap.FindDirtyPage(3), 8U);
  EXPECT_EQ(bitmap.FindDirtyPage(0, 2), 2U);
  EXPECT_EQ(bitmap.dirty_pages(), 1U);
  bitmap.MarkClean(2);
  bitmap.SetRange(0, 300 * kMiB, 4096);
  bitmap.ClearRange(0, 500 * kMiB, kMiB);
  EXPECT_EQ(bitmap.dirty_pages(), 0U);
  bitmap.SetRange(0, 128 * kMiB - 1, 2);
  EXPECT_TRUE(bitmap.IsDirty(0));
  EXPECT_TRUE(bitmap.IsDirty(1));
  bitmap.MarkAllDirty();
  EXPECT_EQ(bitmap.dirty_pages(), 8U);
}

TEST(Bitmap, ExtentsAndTheirPages) {
  Bitmap bitmap = Make(1, 130 * kMiB);
  EXPECT_EQ(bitmap.PagesOfExtent(0), (PageRange{0, 1}));
  EXPECT_EQ(bitmap.PagesOfExtent(31), (PageRange{0, 1}));
  EXPECT_EQ(bitmap.PagesOfExtent(32), (PageRange{1, 2}));
  EXPECT_EQ(bitmap.BitsOfExtent(32), (BitRange{32768, 33280}));
  EXPECT_EQ(bitmap.PagesOfExtent(33), (PageRange{0, 0}));
  EXPECT_TRUE(bitmap.BitsOfExtent(0xFFFFFFFE).empty());
  // Three slots: 42 and a fraction MiB per page.
  Bitmap wide = Make(3, 130 * kMiB);
  EXPECT_EQ(wide.PagesOfExtent(10), (PageRange{0, 2}));
  // 1 MiB per bit: four bits per extent.
  Bitmap coarse = Make(2, 130 * kMiB, 1 << 20);
  EXPECT_EQ(coarse.BitsOfExtent(5), (BitRange{20, 24}));
}

TEST(Bitmap, LoadedPagesAreCountedAndTrimmed) {
  Bitmap bitmap = Make(2, 130 * kMiB);  // 33280 bits: 3 pages, the last of 512 bits per slot
  ASSERT_EQ(bitmap.page_count(), 3U);
  std::vector<std::byte> ones(kBlockBytes, std::byte{0xFF});
  for (uint64_t page = 0; page < 3; ++page) bitmap.LoadPage(page, ones);
  EXPECT_EQ(bitmap.weight(0), 33280U);
  EXPECT_EQ(bitmap.weight(1), 33280U);
  EXPECT_FALSE(bitmap.IsDirty(0));
  EXPECT_TRUE(bitmap.IsDirty(2));
  std::vector<std::byte> zeroes(kBlockBytes);
  bitmap.LoadPage(1, zeroes);
  EXPECT_EQ(bitmap.weight(0), 33280U - 16384);
  EXPECT_EQ(bitmap.FindNextClear(1, 0), 16384U);
}

TEST(Bitmap, HugeDeviceCostsNothingUntilTouched) {
  Bitmap bitmap = Make(31, uint64_t{1} << 44);  // 16 TiB: 15.5 GiB of bits
  EXPECT_EQ(bitmap.SetRange(30, (uint64_t{1} << 44) - 512, 512), 1U);
  EXPECT_EQ(bitmap.FindNextSet(30, bitmap.bits() - 1000), bitmap.bits() - 1);
}

// --- against a model ---------------------------------------------------------------------------

struct Model {
  std::vector<std::vector<bool>> slots;

  uint64_t Set(uint32_t slot, uint64_t first, uint64_t end, bool value) {
    uint64_t changed = 0;
    for (uint64_t i = first; i < std::min<uint64_t>(end, slots[slot].size()); ++i) {
      if (slots[slot][i] == value) continue;
      slots[slot][i] = value;
      ++changed;
    }
    return changed;
  }
  uint64_t Find(uint32_t slot, uint64_t from, uint64_t end, bool value) const {
    end = std::min<uint64_t>(end, slots[slot].size());
    while (from < end && slots[slot][from] != value) ++from;
    return std::min(from, end);
  }
};

struct ModelShape {
  uint32_t peers;
  uint64_t bytes;
  uint32_t per_bit;
};

class BitmapModel : public ::testing::TestWithParam<ModelShape> {};

void ExpectEqual(const Bitmap& bitmap, const Model& model) {
  for (uint32_t slot = 0; slot < bitmap.max_peers(); ++slot) {
    ASSERT_EQ(bitmap.bits(), model.slots[slot].size());
    uint64_t weight = 0;
    for (uint64_t i = 0; i < bitmap.bits(); ++i) {
      ASSERT_EQ(bitmap.Test(slot, i), model.slots[slot][i]) << slot << " " << i;
      weight += model.slots[slot][i];
    }
    ASSERT_EQ(bitmap.weight(slot), weight);
  }
}

// Every bit that differs from what was last written lies in a dirty page.
void ExpectDirtyCoversChanges(const Bitmap& bitmap, std::vector<std::vector<std::byte>>& disk) {
  disk.resize(bitmap.page_count(), std::vector<std::byte>(kBlockBytes));
  for (uint64_t page = 0; page < bitmap.page_count(); ++page) {
    if (bitmap.IsDirty(page)) continue;
    ASSERT_TRUE(std::ranges::equal(bitmap.Page(page), disk[page])) << page;
  }
}

TEST_P(BitmapModel, RandomOperations) {
  const ModelShape shape = GetParam();
  std::mt19937_64 random(shape.bytes ^ shape.peers ^ shape.per_bit);
  Bitmap bitmap = Make(shape.peers, shape.bytes, shape.per_bit);
  Model model;
  model.slots.assign(shape.peers, std::vector<bool>(bitmap.bits()));
  std::vector<std::vector<std::byte>> disk;
  const auto below = [&random](uint64_t n) { return random() % n; };
  for (int step = 0; step < 900; ++step) {
    const auto slot = static_cast<uint32_t>(below(shape.peers));
    const auto other = static_cast<uint32_t>(below(shape.peers));
    const uint64_t bits = bitmap.bits();
    const uint64_t first = below(bits + 3);
    const uint64_t end = first + (below(3) == 0 ? below(bits) : below(70));
    switch (below(10)) {
      case 0:
      case 1:
      case 2:
        ASSERT_EQ(bitmap.SetBits(slot, first, end), model.Set(slot, first, end, true));
        break;
      case 3:
      case 4:
        ASSERT_EQ(bitmap.ClearBits(slot, first, end), model.Set(slot, first, end, false));
        break;
      case 5: {
        const uint64_t offset = below(shape.bytes);
        const uint64_t length = below(64) * 512;
        const uint64_t stop = std::min(offset + length, bitmap.device_bytes());
        uint64_t changed = 0;
        for (uint64_t i = 0; i < bits; ++i) {
          if (i * shape.per_bit < stop && (i + 1) * shape.per_bit > offset && offset < stop) {
            changed += model.Set(slot, i, i + 1, true);
          }
        }
        ASSERT_EQ(bitmap.SetRange(slot, offset, length), changed);
        break;
      }
      case 6: {
        const uint64_t offset = below(shape.bytes);
        const uint64_t length = below(300) * 512;
        const uint64_t stop = std::min(offset + length, bitmap.device_bytes());
        uint64_t changed = 0;
        for (uint64_t i = 0; i < bits; ++i) {
          const uint64_t last = std::min((i + 1) * shape.per_bit, bitmap.device_bytes());
          if (i * shape.per_bit >= offset && last <= stop) {
            changed += model.Set(slot, i, i + 1, false);
          }
        }
        ASSERT_EQ(bitmap.ClearRange(slot, offset, length), changed);
        break;
      }
      case 7: {
        uint64_t changed = 0;
        for (uint64_t i = first; i < std::min(end, bits) && slot != other; ++i) {
          changed += model.Set(other, i, i + 1, model.slots[slot][i]);
        }
        ASSERT_EQ(bitmap.CopySlot(slot, other, first, end), changed);
        break;
      }
      case 8:
        ASSERT_EQ(bitmap.FindNextSet(slot, first, end), model.Find(slot, first, end, true));
        ASSERT_EQ(bitmap.FindNextClear(slot, first, end), model.Find(slot, first, end, false));
        ASSERT_EQ(bitmap.FindNextSet(slot, first), model.Find(slot, first, UINT64_MAX, true));
        break;
      default: {
        uint64_t count = 0;
        for (uint64_t i = first; i < std::min(end, bits); ++i) count += model.slots[slot][i];
        ASSERT_EQ(bitmap.CountBits(slot, first, end), count);
        break;
      }
    }
    if (step % 100 == 99) {
      ExpectEqual(bitmap, model);
      ExpectDirtyCoversChanges(bitmap, disk);
      for (uint64_t page; (page = bitmap.FindDirtyPage(0)) < bitmap.page_count();) {
        std::ranges::copy(bitmap.Page(page), disk[page].begin());
        bitmap.MarkClean(page);
      }
      ASSERT_EQ(bitmap.dirty_pages(), 0U);
    }
    if (step % 300 == 299) {
      const bool set = below(2) == 0;
      const uint64_t bytes = below(2 * shape.bytes);
      ASSERT_TRUE(bitmap.Resize(bytes + 512, set));
      for (auto& bits_of_slot : model.slots) bits_of_slot.resize(bitmap.bits(), set);
      ExpectEqual(bitmap, model);
      ExpectDirtyCoversChanges(bitmap, disk);
    }
  }
}

TEST_P(BitmapModel, WireRunsAndWordsSayTheSame) {
  const ModelShape shape = GetParam();
  std::mt19937_64 random(shape.bytes * 31 + shape.peers);
  Bitmap bitmap = Make(shape.peers, shape.bytes, shape.per_bit);
  const uint32_t slot = shape.peers - 1;
  for (int i = 0; i < 20; ++i) {
    const uint64_t first = random() % bitmap.bits();
    bitmap.SetBits(slot, first, first + random() % 100);
  }
  const uint64_t total = bitmap.wire_bits();
  EXPECT_EQ(total, (shape.bytes + 4095) / 4096);
  // The runs, put together, are the bits at 4 KiB granularity; neighbours differ.
  std::vector<bool> wire;
  std::vector<WireRun> runs;
  while (wire.size() < total) {
    const WireRun run = bitmap.NextWireRun(slot, wire.size());
    ASSERT_GT(run.length, 0U);
    ASSERT_TRUE(runs.empty() || runs.back().set != run.set);
    runs.push_back(run);
    wire.insert(wire.end(), run.length, run.set);
  }
  ASSERT_EQ(wire.size(), total);
  for (uint64_t i = 0; i < total; ++i) {
    ASSERT_EQ(wire[i], bitmap.Test(slot, i * 4096 / shape.per_bit));
  }
  const WireRun cut = bitmap.NextWireRun(slot, total / 2, 3);
  EXPECT_LE(cut.length, 3U);
  EXPECT_EQ(cut.set, wire[total / 2]);
  // The words say the same and are zero beyond the end.
  std::vector<std::byte> words((total / 64 + 2) * 8, std::byte{0xAA});
  bitmap.LoadWireWords(slot, 0, words);
  for (uint64_t i = 0; i < words.size() * 8; ++i) {
    const bool bit = (static_cast<unsigned>(words[i / 8]) >> (i % 8) & 1) != 0;
    ASSERT_EQ(bit, i < total && wire[i]) << i;
  }
  // Receiving them gives the same bitmap again, also at another granularity, rounded outward.
  Bitmap same = Make(1, shape.bytes, shape.per_bit);
  EXPECT_EQ(same.OrWireWords(0, 0, words), bitmap.weight(slot));
  EXPECT_EQ(same.OrWireWords(0, 0, words), 0U);
  Bitmap coarse = Make(2, shape.bytes, 1 << 20);
  uint64_t at = 0;
  for (const WireRun& run : runs) {
    if (run.set) coarse.OrWireRun(1, at, at + run.length);
    at += run.length;
  }
  for (uint64_t i = 0; i < total; ++i) {
    if (wire[i]) ASSERT_TRUE(coarse.Test(1, i / 256));
  }
  EXPECT_LE(coarse.weight(1), bitmap.weight(slot));
  // What a peer sends beyond the device is ignored.
  std::vector<std::byte> ones(16, std::byte{0xFF});
  EXPECT_EQ(same.OrWireWords(0, total / 64 + 1, ones), 0U);
  EXPECT_EQ(same.OrWireWords(0, UINT64_MAX / 8, ones), 0U);
  EXPECT_EQ(same.OrWireRun(0, total, total + 9), 0U);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, BitmapModel,
    ::testing::Values(ModelShape{1, 20 * kMiB, 4096}, ModelShape{1, 140 * kMiB + 512, 4096},
                      ModelShape{3, 60 * kMiB + 7680, 4096}, ModelShape{7, 8 * kMiB + 4096, 4096},
                      ModelShape{31, 5 * kMiB, 4096}, ModelShape{2, 100 * kMiB + 512, 65536},
                      ModelShape{5, 900 * kMiB, 1 << 20}));

}  // namespace
}  // namespace umblock::drbd::meta
