#include "engine/drbd/meta/geometry.h"

#include <gtest/gtest.h>

#include "engine/drbd/meta/bitmap_layout.h"

namespace umblock::drbd::meta {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;

struct Worked {
  MetaLayoutOptions options;
  uint64_t device_bytes;
  uint64_t bits, bm_sectors, md_size, sb, al, bm, usable;
};

// The table of drbd-metadata-resync.md 2.1.
TEST(Geometry, WorkedSizes) {
  const auto internal = [](uint32_t peers, uint32_t per_bit = 4096, uint32_t stripes = 1,
                           uint32_t size = 8) {
    return MetaLayoutOptions{Placement::kInternal, peers, per_bit, stripes, size};
  };
  const Worked table[] = {
      {internal(1), 100 * kMiB, 25600, 8, 80, 104853504, 104820736, 104816640, 204720},
      {internal(3), 100 * kMiB, 25600, 24, 96, 104853504, 104820736, 104808448, 204704},
      {internal(1), 100 * kMiB + 1536, 25601, 8, 80, 104853504, 104820736, 104816640, 204720},
      {internal(2, 4096, 4, 16), 200 * kMiB, 51200, 32, 552, 209711104, 209448960, 209432576,
       409048},
      {internal(2, 65536), 200 * kMiB, 3200, 8, 80, 209711104, 209678336, 209674240, 409520},
      {internal(2, 65536), 2 * kGiB, 32768, 16, 88, 2147479552, 2147446784, 2147438592, 4194216},
  };
  for (const Worked& row : table) {
    const auto g = ComputeGeometry(row.options, row.device_bytes);
    ASSERT_TRUE(g) << g.error().message();
    EXPECT_EQ(BitmapBits(AlignDown<uint64_t>(row.device_bytes, 512), row.options.bytes_per_bit),
              row.bits);
    EXPECT_EQ(g->bm_bytes, row.bm_sectors * 512);
    EXPECT_EQ(g->md_size_sectors, row.md_size);
    EXPECT_EQ(g->superblock_offset, row.sb);
    EXPECT_EQ(g->al_offset, row.al);
    EXPECT_EQ(g->bm_offset, row.bm);
    EXPECT_EQ(UsableSectors(*g, row.device_bytes / 512), row.usable);
    EXPECT_EQ(g->al_offset_sectors, -static_cast<int64_t>(g->al_blocks() * 8));
    EXPECT_EQ(g->bm_offset_sectors, 8 - static_cast<int64_t>(row.md_size));
  }
}

TEST(Geometry, ThreeHundredMiBWithTwoSlots) {
  const auto g = ComputeGeometry({Placement::kInternal, 2}, 300 * kMiB);
  ASSERT_TRUE(g);
  EXPECT_EQ(g->md_size_sectors, 0x70U);
  EXPECT_EQ(static_cast<uint32_t>(g->bm_offset_sectors), 0xffffff98);
  EXPECT_EQ(g->bm_offset, 314515456U);
}

TEST(Geometry, FlexibleExternal) {
  const auto g = ComputeGeometry({Placement::kFlexExternal, 3}, kMiB + 512);
  ASSERT_TRUE(g);
  EXPECT_EQ(g->md_size_sectors, 2049U);
  EXPECT_EQ(g->superblock_offset, 0U);
  EXPECT_EQ(g->al_offset, 4096U);
  EXPECT_EQ(g->bm_offset, 4096U + 32768);
  EXPECT_EQ(g->bm_bytes, kMiB - 36864);
  // Small backing device: all of it. Large one: what the bitmap can track.
  EXPECT_EQ(UsableSectors(*g, 5000), 5000U);
  const uint64_t bits = (kMiB - 36864) / 8 / 3 * 64;
  EXPECT_EQ(UsableSectors(*g, uint64_t{1} << 40), bits * 8);
  EXPECT_LE(BitmapBytes(bits, 3), g->bm_bytes);
}

TEST(Geometry, OfSuperblockIsTheInverse) {
  for (const Placement placement : {Placement::kInternal, Placement::kFlexExternal}) {
    for (const uint32_t peers : {1U, 2U, 7U, 31U}) {
      for (const uint32_t stripes : {1U, 3U}) {
        const uint64_t bytes = 777 * kMiB + 1024;
        const auto g = ComputeGeometry({placement, peers, 4096, stripes, 16}, bytes);
        ASSERT_TRUE(g);
        Superblock sb;
        sb.md_size_sectors = g->md_size_sectors;
        sb.al_offset_sectors = g->al_offset_sectors;
        sb.bm_offset_sectors = g->bm_offset_sectors;
        sb.max_peers = peers;
        sb.al_stripes = stripes;
        sb.al_stripe_size_4k = 16;
        sb.effective_sectors = UsableSectors(*g, bytes / 512);
        const auto again = GeometryOf(sb, placement, bytes);
        ASSERT_TRUE(again) << again.error().message();
        EXPECT_EQ(*again, *g);
        // With the other placement, or on a smaller device, it does not fit.
        EXPECT_FALSE(GeometryOf(
            sb, placement == Placement::kInternal ? Placement::kFlexExternal : Placement::kInternal,
            bytes));
        EXPECT_FALSE(GeometryOf(sb, placement, 64 * 1024));
      }
    }
  }
}

TEST(Geometry, LargestDevice) {
  const auto g = ComputeGeometry({Placement::kInternal, 31}, kMaxDeviceBytes);
  ASSERT_TRUE(g) << g.error().message();
  EXPECT_GT(UsableSectors(*g, kMaxDeviceSectors), kMaxDeviceSectors / 2);
  EXPECT_FALSE(ComputeGeometry({Placement::kInternal, 31}, kMaxDeviceBytes + 4096));
}

TEST(Geometry, RefusesImpossibleOptions) {
  const MetaLayoutOptions bad[] = {
      {Placement::kInternal, 0},          {Placement::kInternal, 32},
      {Placement::kInternal, 1, 2048},    {Placement::kInternal, 1, 12288},
      {Placement::kInternal, 1, 1 << 21}, {Placement::kInternal, 1, 4096, 1, 7},
      {Placement::kInternal, 1, 4096, 0}, {Placement::kInternal, 1, 4096, 1, 8193},
  };
  for (const MetaLayoutOptions& options : bad) {
    const auto g = ComputeGeometry(options, 100 * kMiB);
    ASSERT_FALSE(g);
    EXPECT_EQ(g.error().code(), ErrorCode::kInvalidArgument);
  }
  EXPECT_FALSE(ComputeGeometry({Placement::kInternal, 1}, 64 * 1024));
  EXPECT_FALSE(ComputeGeometry({Placement::kInternal, 1, 4096, 1, 64}, 260 * 1024));
  EXPECT_FALSE(ComputeGeometry({Placement::kFlexExternal, 1, 4096, 1, 8192}, kMiB));
  EXPECT_FALSE(ComputeGeometry({Placement::kFlexExternal, 1}, uint64_t{4} << 40));
}

TEST(Geometry, AlExtentsSoThatAContextSurvives) {
  EXPECT_EQ(MaxAlExtentsFor(8), 6433U);
  EXPECT_EQ(MaxAlExtentsFor(72), 65249U);
  EXPECT_EQ(MaxAlExtentsFor(73), 65534U);
}

// The example of drbd-metadata-resync.md 2.7.
TEST(BitmapLayout, Interleaving) {
  EXPECT_EQ(BitmapByteOffset(0, 1, 3), 4U);
  EXPECT_EQ(BitmapByteOffset(63, 2, 3), 0x0cU + 8 + 3);
  EXPECT_EQ(BitmapByteOffset(64, 1, 3), 0x18U + 4);
  EXPECT_EQ(BitmapByteOffset(191, 1, 3), 0x3cU + 4 + 3);
  EXPECT_EQ(BitmapByteOffset(12345, 0, 1), 12345U / 8);
  EXPECT_EQ(BitmapPagesOfBits(0, 32768, 1), (PageRange{0, 1}));
  EXPECT_EQ(BitmapPagesOfBits(32768, 32769, 1), (PageRange{1, 2}));
  EXPECT_EQ(BitmapPagesOfBits(10900, 10950, 3), (PageRange{0, 2}));
}

}  // namespace
}  // namespace umblock::drbd::meta
