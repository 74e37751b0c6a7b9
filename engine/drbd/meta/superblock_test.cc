#include "engine/drbd/meta/superblock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <vector>

#include "engine/drbd/meta/geometry.h"

namespace umblock::drbd::meta {
namespace {

using ::testing::HasSubstr;
using Block = std::array<std::byte, kSuperblockBytes>;

// The worked superblock of drbd-metadata-resync.md 2.10: 100 MiB, three slots, node 0.
Superblock Worked() {
  Superblock sb;
  sb.effective_sectors = 204704;
  sb.current_uuid = 0x5A17C0DE00000020;
  sb.device_uuid = 0x0102030405060708;
  sb.flags = kMdConsistent | kMdWasUpToDate | kMdAlClean;
  sb.md_size_sectors = 96;
  sb.al_offset_sectors = -64;
  sb.al_nr_extents = 257;
  sb.bm_offset_sectors = -88;
  sb.la_peer_max_bio_bytes = 1 << 20;
  sb.max_peers = 3;
  sb.node_id = 0;
  sb.peers[1] = {0, 0, kPeerConnected | kPeerDeviceSeen, 0};
  sb.peers[2] = {0x3b9d7a6400000010, 0x1000, kPeerOutdated | kPeerDeviceSeen, 1};
  sb.peers[3] = {0x3b9d7a6400000010, 0x1000, 0, -1};
  sb.history[0] = 0x3b9d7a6400000010;
  return sb;
}

constexpr uint64_t kDeviceSectors = 204800;

Block Encode(const Superblock& sb) {
  Block block;
  block.fill(std::byte{0xEE});
  EncodeSuperblock(sb, block);
  return block;
}

void Put(Block& block, size_t offset, std::initializer_list<uint32_t> words) {
  for (const uint32_t word : words) {
    StoreBe<uint32_t>(block.data() + offset, word);
    offset += 4;
  }
}

TEST(Superblock, WorkedExampleByteForByte) {
  Block expected{};
  Put(expected, 0x000, {0, 0x00031fa0, 0x5a17c0de, 0x00000020});
  Put(expected, 0x030, {0x01020304, 0x05060708, 0x00000091, 0x8374026d});
  Put(expected, 0x040, {0x60, 0xffffffc0, 0x101, 0xffffffa8});
  Put(expected, 0x050, {0x1000, 0x100000, 3, 0, 1, 8});
  Put(expected, 0x080, {0, 0xffffffff});
  Put(expected, 0x0a0, {0x11, 0});
  Put(expected, 0x0b0, {0x3b9d7a64, 0x10, 0, 0x1000, 0x12, 1});
  Put(expected, 0x0d0, {0x3b9d7a64, 0x10, 0, 0x1000, 0, 0xffffffff});
  for (size_t node = 4; node < 32; ++node) Put(expected, 112 + 32 * node + 20, {0xffffffff});
  Put(expected, 0x470, {0x3b9d7a64, 0x10});
  EXPECT_EQ(Encode(Worked()), expected);
  const auto decoded = DecodeSuperblock(expected);
  ASSERT_TRUE(decoded) << decoded.error().message();
  EXPECT_EQ(*decoded, Worked());
}

TEST(Superblock, FreshV08) {
  Block block{};
  Put(block, 0x08, {0, 4});
  Put(block, 0x38, {0x80, 0x8374026b, 0x50, 0xffffffc0, 0x101, 0xffffffb8, 0x1000, 0, 1, 8});
  const auto sb = DecodeSuperblock(block);
  ASSERT_TRUE(sb) << sb.error().message();
  EXPECT_EQ(sb->format, Format::kV08);
  EXPECT_EQ(sb->current_uuid, kUuidJustCreated);
  EXPECT_EQ(sb->md_size_sectors, 80U);
  EXPECT_EQ(sb->al_offset_sectors, -64);
  EXPECT_EQ(sb->bm_offset_sectors, -72);
  EXPECT_EQ(sb->max_peers, 1U);
  EXPECT_EQ(sb->node_id, -1);
  EXPECT_TRUE(sb->al_clean());
  // 8.4 writes another magic as soon as it uses the disk.
  Put(block, 60, {kMagicV08Unclean});
  const auto used = DecodeSuperblock(block);
  ASSERT_TRUE(used);
  EXPECT_FALSE(used->al_clean());
}

TEST(Superblock, KeepsUnknownFlagsAndNeverWritesHaveBitmap) {
  Superblock sb = Worked();
  sb.flags |= 0xABC00000;
  sb.peers[2].flags |= kPeerHaveBitmap | 0x00F00000;
  const auto decoded = DecodeSuperblock(Encode(sb));
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->flags, sb.flags);
  EXPECT_EQ(decoded->peers[2].flags, sb.peers[2].flags & ~kPeerHaveBitmap);
}

TEST(Superblock, ZeroStripingMeansTheDefault) {
  Block block = Encode(Worked());
  Put(block, 96, {0, 0});
  const auto decoded = DecodeSuperblock(block);
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->al_blocks(), 8U);
}

struct BadBytes {
  size_t offset;
  uint32_t value;
  ErrorCode code;
  const char* message;
};

TEST(Superblock, RefusesImpossibleBytes) {
  const BadBytes cases[] = {
      {60, 0, ErrorCode::kNotFound, "no DRBD metadata"},
      {60, 0x8374026E, ErrorCode::kNotFound, "no DRBD metadata"},
      {60, kMagicV07, ErrorCode::kUnimplemented, "0.7"},
      {80, 0, ErrorCode::kDataLoss, "bitmap block size"},
      {80, 4097, ErrorCode::kDataLoss, "bitmap block size"},
      {80, 2048, ErrorCode::kDataLoss, "bitmap block size"},
      {80, 2 << 20, ErrorCode::kDataLoss, "bitmap block size"},
      {88, 0, ErrorCode::kDataLoss, "bitmap slots"},
      {88, 32, ErrorCode::kDataLoss, "bitmap slots"},
      {88, 0xFFFFFFFF, ErrorCode::kDataLoss, "bitmap slots"},
      {92, 32, ErrorCode::kDataLoss, "node id"},
      {92, 0xFFFFFFFE, ErrorCode::kDataLoss, "node id"},
      {0, 0x00000400, ErrorCode::kDataLoss, "beyond 1 PiB"},
      {68, 0xffffffc1, ErrorCode::kDataLoss, "aligned"},
      {76, 0xffffffa9, ErrorCode::kDataLoss, "aligned"},
      {100, 7, ErrorCode::kDataLoss, "too small"},
      {96, 0, ErrorCode::kDataLoss, "too small"},
      {96, 0xFFFFFFFF, ErrorCode::kUnimplemented, "larger"},
      {112 + 64 + 20, 3, ErrorCode::kDataLoss, "slots 0 to 2"},
      {112 + 64 + 20, 0xFFFFFFFE, ErrorCode::kDataLoss, "slots 0 to 2"},
      {112 + 64 + 20, 0, ErrorCode::kDataLoss, "belongs to two peers"},
      {112 + 20, 2, ErrorCode::kDataLoss, "this node itself"},
  };
  for (const BadBytes& bad : cases) {
    Block block = Encode(Worked());
    Put(block, bad.offset, {bad.value});
    const auto decoded = DecodeSuperblock(block);
    ASSERT_FALSE(decoded) << bad.offset << " " << bad.value;
    EXPECT_EQ(decoded.error().code(), bad.code) << decoded.error().message();
    EXPECT_THAT(decoded.error().message(), HasSubstr(bad.message));
  }
}

TEST(Superblock, LooksLike) {
  Block block{};
  EXPECT_FALSE(LooksLikeSuperblock(block));
  for (const uint32_t magic : {kMagicV07, kMagicV08, kMagicV08Unclean, kMagicV09}) {
    Put(block, 60, {magic});
    EXPECT_TRUE(LooksLikeSuperblock(block));
  }
}

struct BadSuperblock {
  std::function<void(Superblock&, AttachExpectations&)> spoil;
  ErrorCode code;
  const char* message;
};

TEST(Superblock, AttachChecks) {
  const AttachExpectations good{true, kDeviceSectors, 0, true};
  ASSERT_TRUE(CheckSuperblock(Worked(), good));
  const BadSuperblock cases[] = {
      {[](auto& sb, auto&) { sb.flags &= ~kMdAlClean; }, ErrorCode::kFailedPrecondition, "unclean"},
      {[](auto&, auto& e) { e.node_id = 4; }, ErrorCode::kFailedPrecondition,
       "belongs to node id 0, but this node is configured as 4"},
      {[](auto& sb, auto& e) { sb.node_id = -1, e.node_id = 2; }, ErrorCode::kFailedPrecondition,
       "node id 2 is taken"},
      {[](auto&, auto& e) { e.internal = false; }, ErrorCode::kDataLoss, "external"},
      {[](auto& sb, auto&) { sb.al_offset_sectors = -56; }, ErrorCode::kDataLoss, "offsets"},
      {[](auto& sb, auto&) { sb.al_offset_sectors = 8; }, ErrorCode::kDataLoss, "offsets"},
      {[](auto& sb, auto&) { sb.bm_offset_sectors = -64; }, ErrorCode::kDataLoss, "offsets"},
      {[](auto& sb, auto&) { sb.md_size_sectors = 88; }, ErrorCode::kDataLoss, "does not fit"},
      {[](auto& sb, auto&) { sb.md_size_sectors = 104; }, ErrorCode::kDataLoss, "does not fit"},
      {[](auto&, auto& e) { e.meta_device_sectors = 80; }, ErrorCode::kDataLoss, "does not fit"},
      {[](auto& sb, auto&) { sb.effective_sectors = 300000; }, ErrorCode::kDataLoss, "needs"},
  };
  for (const BadSuperblock& bad : cases) {
    Superblock sb = Worked();
    AttachExpectations expect = good;
    bad.spoil(sb, expect);
    const Status status = CheckSuperblock(sb, expect);
    ASSERT_FALSE(status) << bad.message;
    EXPECT_EQ(status.error().code(), bad.code) << status.error().message();
    EXPECT_THAT(status.error().message(), HasSubstr(bad.message));
  }
}

TEST(Superblock, UnassignedNodeIdAndNoExpectationPass) {
  Superblock sb = Worked();
  sb.node_id = -1;
  EXPECT_TRUE(CheckSuperblock(sb, {true, kDeviceSectors, 7, true}));
  sb.node_id = 5;
  sb.flags = 0;
  EXPECT_TRUE(CheckSuperblock(sb, {true, kDeviceSectors, std::nullopt, false}));
}

}  // namespace
}  // namespace umblock::drbd::meta
