#include "engine/drbd/meta/al_transaction.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace umblock::drbd::meta {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::string Hex(Bytes bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x}", static_cast<unsigned>(byte));
  return text;
}

// A ring of freshly initialised blocks.
class Ring {
 public:
  explicit Ring(uint32_t stripes = 1, uint32_t size = 8)
      : stripes_(stripes), size_(size), bytes_(uint64_t{stripes} * size * kBlockBytes) {
    for (uint64_t i = 0; i < uint64_t{stripes} * size; ++i) EncodeInitialisedAlBlock(block(i));
  }
  MutableAlBlockBytes block(uint64_t physical) {
    return MutableAlBlockBytes(bytes_.data() + physical * kBlockBytes, kBlockBytes);
  }
  void Put(const AlTransaction& tr) {
    EncodeAlTransaction(tr, block(AlBlockOfTransaction(tr.number, stripes_, size_)));
  }
  void Spoil(uint64_t physical) { block(physical)[100] ^= std::byte{1}; }
  Result<AlReplay> Replay() const { return ReplayAl(bytes_, stripes_, size_); }

 private:
  uint32_t stripes_, size_;
  std::vector<std::byte> bytes_;
};

AlTransaction Update(uint32_t number, std::initializer_list<AlUpdate> updates,
                     uint16_t context_size = 1237, uint16_t context_start = 0) {
  AlTransaction tr;
  tr.number = number;
  tr.context_size = context_size;
  tr.context_start = context_start;
  for (const AlUpdate& update : updates) tr.updates[tr.update_count++] = update;
  return tr;
}

// The three transactions of drbd-metadata-resync.md 2.9.
std::vector<AlTransaction> Worked() {
  std::vector<AlTransaction> all = {Update(0, {{0, 0}, {1, 5}}), Update(1, {{2, 23}}, 1237, 919),
                                    Update(2, {{0, 24}})};
  all[2].context[0] = 0;
  all[2].context[1] = 5;
  all[2].context[2] = 23;
  return all;
}

TEST(AlTransaction, InitialisedBlock) {
  Ring ring;
  EXPECT_EQ(Hex(ring.block(0).first(16)), "69cb65a200000000709cc651ffff0000");
  for (const std::byte byte : ring.block(0).subspan(16)) EXPECT_EQ(byte, std::byte{0});
  AlTransaction unused;
  EXPECT_EQ(DecodeAlBlock(ring.block(0), &unused), AlBlockKind::kInitialised);
}

TEST(AlTransaction, WorkedBlocksByteForByte) {
  const auto all = Worked();
  Ring ring;
  for (const AlTransaction& tr : all) ring.Put(tr);
  EXPECT_EQ(Hex(ring.block(0).first(20)), "69cb65a2000000007d144e3f0000000204d50000");
  EXPECT_EQ(Hex(ring.block(0).subspan(0x14, 24)),
            "00000000000000000000000000000000"
            "00000001ffffffff");
  EXPECT_EQ(Hex(ring.block(0).subspan(0xa4, 12)), "0000000000000005ffffffff");
  EXPECT_EQ(Hex(ring.block(0).subspan(0x1a4, 8)), "ffffffffffffffff");
  EXPECT_EQ(Hex(ring.block(1).first(20)), "69cb65a200000001cfbc28d60000000104d50397");
  EXPECT_EQ(Hex(ring.block(1).subspan(0x24, 4)), "0002ffff");
  EXPECT_EQ(Hex(ring.block(1).subspan(0xa4, 8)), "00000017ffffffff");
  EXPECT_EQ(Hex(ring.block(2).first(20)), "69cb65a200000002b84033ef0000000104d50000");
  EXPECT_EQ(Hex(ring.block(2).subspan(0x1a4, 16)), "000000000000000500000017ffffffff");
  for (size_t i = 0; i < all.size(); ++i) {
    AlTransaction decoded;
    ASSERT_EQ(DecodeAlBlock(ring.block(i), &decoded), AlBlockKind::kUpdate);
    EXPECT_EQ(decoded, all[i]);
  }
}

TEST(AlTransaction, EveryFlippedBitIsNoticed) {
  Ring ring;
  ring.Put(Worked()[0]);
  AlTransaction tr;
  for (size_t byte : {0, 4, 8, 11, 12, 14, 20, 36, 164, 420, 4095}) {
    ring.block(0)[byte] ^= std::byte{0x40};
    EXPECT_EQ(DecodeAlBlock(ring.block(0), &tr), AlBlockKind::kInvalid) << byte;
    ring.block(0)[byte] ^= std::byte{0x40};
  }
  EXPECT_EQ(DecodeAlBlock(ring.block(0), &tr), AlBlockKind::kUpdate);
}

void Sign(MutableAlBlockBytes block) {
  StoreBe<uint32_t>(block.data() + 8, 0);
  StoreBe<uint32_t>(block.data() + 8, AlChecksum(block));
}

TEST(AlTransaction, ImpossibleValuesWithGoodChecksum) {
  Ring ring;
  AlTransaction tr;
  ring.Put(Worked()[0]);
  StoreBe<uint16_t>(ring.block(0).data() + 14, 65);
  Sign(ring.block(0));
  EXPECT_EQ(DecodeAlBlock(ring.block(0), &tr), AlBlockKind::kInvalid);
  ring.Put(Worked()[0]);
  StoreBe<uint16_t>(ring.block(0).data() + 12, 1);
  Sign(ring.block(0));
  EXPECT_EQ(DecodeAlBlock(ring.block(0), &tr), AlBlockKind::kInvalid);
}

TEST(AlTransaction, Striping) {
  for (uint64_t logical = 0; logical < 8; ++logical) {
    EXPECT_EQ(AlPhysicalBlock(logical, 1, 8), logical);
  }
  EXPECT_EQ(AlBlockOfTransaction(1, 4, 16), 16U);
  EXPECT_EQ(AlBlockOfTransaction(4, 4, 16), 1U);
  EXPECT_EQ(AlBlockOfTransaction(64, 4, 16), 0U);
  EXPECT_EQ(AlBlockOfTransaction(0xFFFFFFFF, 4, 16), 63U);
  std::vector<bool> used(60);
  for (uint64_t logical = 0; logical < 60; ++logical) {
    const uint64_t physical = AlPhysicalBlock(logical, 3, 20);
    ASSERT_LT(physical, 60U);
    EXPECT_FALSE(used[physical]);
    used[physical] = true;
  }
}

TEST(AlReplay, WorkedExample) {
  Ring ring;
  for (const AlTransaction& tr : Worked()) ring.Put(tr);
  const auto replay = ring.Replay();
  ASSERT_TRUE(replay);
  EXPECT_THAT(replay->hot_extents, ElementsAre(5, 23, 24));
  EXPECT_EQ(replay->newest_number, 2U);
  EXPECT_EQ(replay->update_blocks, 3U);
  EXPECT_EQ(replay->initialised_blocks, 5U);
  EXPECT_FALSE(replay->pristine());
}

TEST(AlReplay, EmptyRing) {
  const auto replay = Ring().Replay();
  ASSERT_TRUE(replay);
  EXPECT_THAT(replay->hot_extents, IsEmpty());
  EXPECT_TRUE(replay->pristine());
}

TEST(AlReplay, NumbersWrap) {
  Ring ring;
  ring.Put(Update(0xfffffffe, {{0, 1}}));
  ring.Put(Update(0xffffffff, {{0, 2}}));
  ring.Put(Update(0, {{0, 3}}));
  const auto replay = ring.Replay();
  ASSERT_TRUE(replay);
  EXPECT_THAT(replay->hot_extents, ElementsAre(3));
  EXPECT_EQ(replay->newest_number, 0U);
}

TEST(AlReplay, RingThatWentRoundManyTimes) {
  Ring ring(3, 4);
  for (uint32_t n = 0; n < 1000; ++n) {
    ring.Put(Update(n, {{static_cast<uint16_t>(n % 20), n}}, 1237, 919));
  }
  const auto replay = ring.Replay();
  ASSERT_TRUE(replay);
  EXPECT_EQ(replay->newest_number, 999U);
  // Twelve transactions are left in the ring.
  EXPECT_EQ(replay->hot_extents.size(), 12U);
  EXPECT_EQ(replay->hot_extents.front(), 988U);
}

TEST(AlReplay, ToleratesCorruptBlocksBesideUpdates) {
  Ring ring;
  ring.Put(Update(0, {{0, 7}}));
  ring.Put(Update(1, {{1, 8}}, 1237, 919));
  ring.Put(Update(2, {{2, 9}}, 1237, 919));
  ring.Spoil(1);
  const auto replay = ring.Replay();
  ASSERT_TRUE(replay);
  EXPECT_THAT(replay->hot_extents, ElementsAre(7, 9));
  EXPECT_EQ(replay->corrupt_blocks, 1U);
}

TEST(AlReplay, CorruptBlocksWithoutUpdates) {
  Ring only_first;
  only_first.Spoil(0);
  const auto torn_first = only_first.Replay();
  ASSERT_TRUE(torn_first);
  EXPECT_THAT(torn_first->hot_extents, IsEmpty());
  EXPECT_FALSE(torn_first->pristine());

  Ring third;
  third.Spoil(3);
  EXPECT_EQ(third.Replay().error().code(), ErrorCode::kDataLoss);

  Ring first_and_third;
  first_and_third.Spoil(0);
  first_and_third.Spoil(3);
  EXPECT_FALSE(first_and_third.Replay());

  Ring all;
  for (uint64_t i = 0; i < 8; ++i) all.Spoil(i);
  EXPECT_THAT(all.Replay().error().message(), ::testing::HasSubstr("none of its 8 blocks"));
}

TEST(AlReplay, EmptiedSlotsAndTheEdgesOfTheSlotTable) {
  Ring ring;
  ring.Put(Update(0, {{0, 1}, {65534, 2}, {3, 4}}, 65534));
  AlTransaction window = Update(1, {{0, kAlNoExtent}}, 65534, 65535);
  window.context[918] = 77;  // far beyond context_size, and still an extent
  ring.Put(window);
  const auto replay = ring.Replay();
  ASSERT_TRUE(replay);
  EXPECT_THAT(replay->hot_extents, ElementsAre(2, 4, 77));
}

TEST(AlReplay, ContextRestoresWhatTheRingForgot) {
  // The transaction that brought extent 9 in is overwritten; a later context still names it.
  Ring ring;
  ring.Put(Update(0, {{3, 9}}));
  for (uint32_t n = 1; n <= 8; ++n) {
    AlTransaction tr = Update(n, {{static_cast<uint16_t>(10 + n), 100 + n}}, 100);
    tr.context[3] = 9;
    ring.Put(tr);
  }
  const auto replay = ring.Replay();
  ASSERT_TRUE(replay);
  EXPECT_EQ(replay->hot_extents.front(), 9U);
}

}  // namespace
}  // namespace umblock::drbd::meta
