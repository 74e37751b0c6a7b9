#include "engine/drbd/core/thin_granularity.h"

#include <gtest/gtest.h>

namespace umblock::drbd {
namespace {

BlockGeometry Releasing(uint32_t granularity) {
  BlockGeometry geometry;
  geometry.can_discard = true;
  geometry.discard_granularity = granularity;
  return geometry;
}

TEST(ThinGranularity, IsOffUnlessConfiguredAndOfUse) {
  EXPECT_EQ(ThinGranularity(0, Releasing(4096)), 0u);
  BlockGeometry none = Releasing(4096);
  none.can_discard = false;
  EXPECT_EQ(ThinGranularity(65536, none), 0u);
}

TEST(ThinGranularity, IsAMultipleOfWhatTheDeviceReleases) {
  EXPECT_EQ(ThinGranularity(65536, Releasing(4096)), 65536u);
  EXPECT_EQ(ThinGranularity(65536, Releasing(512)), 65536u);
  EXPECT_EQ(ThinGranularity(65536, Releasing(0)), 65536u);
  EXPECT_EQ(ThinGranularity(100000, Releasing(65536)), 131072u);
  EXPECT_EQ(ThinGranularity(4096, Releasing(65536)), 65536u) << "less would release nothing";
  EXPECT_EQ(ThinGranularity(1, Releasing(4096)), 4096u);
  EXPECT_EQ(ThinGranularity(200000, Releasing(192 << 10)), 393216u);
}

TEST(ThinGranularity, FitsIntoARequest) {
  EXPECT_EQ(ThinGranularity(1 << 20, Releasing(4096)), uint64_t{1} << 20);
  EXPECT_EQ(ThinGranularity(1 << 20, Releasing(192 << 10)), 5u * (192 << 10));
  EXPECT_EQ(ThinGranularity(65536, Releasing(4 << 20)), 65536u);
  EXPECT_EQ(ThinGranularity(65536, Releasing(4097)), 65536u);
}

}  // namespace
}  // namespace umblock::drbd
