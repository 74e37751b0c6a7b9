// Devices that grow below their metadata, volumes that change their size, and power failures at any
// moment of it.
#include <gtest/gtest.h>

#include <random>

#include "engine/drbd/meta/meta_store.h"
#include "engine/drbd/meta/test_store.h"

namespace umblock::drbd::meta {
namespace {

using testing::Batch;
using testing::CreateOn;
using testing::DiskFile;
using testing::Initialise;
using testing::kMiB;
using testing::Machine;
using testing::OpenOn;

constexpr uint64_t kBefore = 100 * kMiB;
constexpr uint64_t kSectors = 96 * kMiB / 512;

// A disk in use: extents 3 and 7 are hot, blocks 5 … 9 out of sync, some of that not written yet.
std::unique_ptr<MetaStore> InUse(Machine& machine, uint32_t max_peers = 2) {
  CreateOn(machine, {Placement::kInternal, max_peers});
  auto store = OpenOn(machine);
  Initialise(machine, *store, kSectors);
  store->superblock().flags |= kMdPrimaryInd | kMdConsistent;
  EXPECT_TRUE(machine.Await(store->WriteSuperblock()));
  EXPECT_TRUE(machine.Await(store->WriteTransaction(Batch(0, {{0, 3}, {1, 7}}))));
  store->bitmap().SetBits(0, 5, 8);
  EXPECT_TRUE(machine.Await(store->WriteDirtyPages()));
  EXPECT_TRUE(machine.Await(store->Flush()));
  store->bitmap().SetBits(0, 8, 10);
  return store;
}

void ExpectCovered(const Bitmap& bitmap) {
  EXPECT_EQ(bitmap.CountBits(0, 5, 8), 3U);
  for (const uint32_t extent : {3U, 7U}) {
    const BitRange range = bitmap.BitsOfExtent(extent);
    EXPECT_EQ(bitmap.CountBits(0, range.first, range.end), range.size()) << extent;
  }
}

class GrownBy : public ::testing::TestWithParam<uint64_t> {};

TEST_P(GrownBy, MetadataIsAtTheNewEndAndNothingIsLost) {
  Machine machine(kBefore);
  auto store = InUse(machine);
  const Geometry before = store->geometry();
  machine.disk.Grow(kBefore + GetParam());
  ASSERT_TRUE(machine.Await(store->MoveToEnd()));
  EXPECT_EQ(store->geometry().superblock_offset, kBefore + GetParam() - 4096);
  EXPECT_EQ(store->superblock().peers[1].flags & kPeerFullSync, 0U);
  EXPECT_FALSE(store->superblock().Has(kMdAlDisabled));
  EXPECT_EQ(store->UsableSectors(0), store->geometry().bm_offset / 512);
  // Where it was there are zeroes, as far as that is room for data now.
  const uint64_t free_end = std::min(before.superblock_offset + 4096, store->geometry().bm_offset);
  if (free_end > before.bm_offset) {
    const auto old = machine.disk.Peek(before.bm_offset, free_end - before.bm_offset);
    EXPECT_EQ(old, testing::Buffer(old.size(), std::byte{0}));
  }
  // The log goes on where it was, in the new place.
  ASSERT_TRUE(machine.Await(store->WriteTransaction(Batch(1, {{2, 11}}))));
  EXPECT_EQ(store->bitmap().CountBits(0, 5, 10), 5U);
  ASSERT_TRUE(machine.Await(store->WriteDirtyPages()));
  machine.Drain();
  std::mt19937_64 random(1);
  ASSERT_TRUE(machine.Await(store->Flush()));
  Machine after(kBefore + GetParam(), machine.disk.AfterCrash(random));
  auto again = OpenOn(after);
  ExpectCovered(again->bitmap());
  EXPECT_EQ(again->bitmap().CountBits(0, 8, 10), 2U);
  const BitRange range = again->bitmap().BitsOfExtent(11);
  EXPECT_EQ(again->bitmap().CountBits(0, range.first, range.end), range.size());
}

TEST_P(GrownBy, APowerFailureAtAnyMomentLosesNothing) {
  for (uint64_t seed = 0; seed < 150; ++seed) {
    std::mt19937_64 random(seed);
    Machine machine(kBefore);
    auto store = InUse(machine);
    machine.disk.Grow(kBefore + GetParam());
    machine.Spawn([](MetaStore& s) -> Task<void> {
      UMBLOCK_ASSERT((co_await s.MoveToEnd()).has_value(), "no error is injected");
    }(*store));
    for (uint64_t steps = random() % 60; steps > 0; --steps) machine.Step(&random);
    Machine after(kBefore + GetParam(), machine.disk.AfterCrash(random));
    auto again = OpenOn(after, nullptr,
                        {.unusable_log_means_full_sync = true, .last_device_bytes = kBefore});
    ExpectCovered(again->bitmap());
    EXPECT_EQ(again->superblock().current_uuid, 0x1234567890U);
    EXPECT_EQ(again->superblock().effective_sectors, kSectors);
    EXPECT_EQ(again->geometry().superblock_offset, kBefore + GetParam() - 4096);
    // Whoever opens it next finds it without being told.
    Machine third(kBefore + GetParam(), after.disk.AfterCrash(random));
    ExpectCovered(OpenOn(third)->bitmap());
    machine.Drain();
  }
}

// Less than the superblock, less than ring and bitmap, and more than all metadata.
INSTANTIATE_TEST_SUITE_P(Bytes, GrownBy,
                         ::testing::Values(4096, 8192, 32768, 40960, 61440, kMiB, 300 * kMiB));

TEST(MetaStoreResize, WhatRunsMeanwhileWaitsAndGoesOn) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    std::mt19937_64 random(seed);
    Machine machine(kBefore);
    auto store = InUse(machine);
    machine.disk.Grow(200 * kMiB);
    const auto run = [](Task<Status> task) -> Task<void> {
      UMBLOCK_ASSERT((co_await task).has_value(), "no error is injected");
    };
    const AlBatch batch = Batch(1, {{2, 11}}, {3});  // outlives the write
    machine.Spawn(run(store->WriteSuperblock()));
    machine.Spawn(run(store->WriteTransaction(batch)));
    machine.Spawn(run(store->MoveToEnd()));
    machine.Spawn(run(store->WriteSuperblock()));
    machine.Spawn(run(store->WriteDirtyPages()));
    for (uint64_t steps = random() % 20; steps > 0; --steps) machine.Step(&random);
    store->bitmap().SetBits(1, 100, 200);
    machine.Drain();
    ASSERT_TRUE(machine.Await(store->WriteTransaction(Batch(2, {{3, 12}}))));
    ASSERT_TRUE(machine.Await(store->WriteDirtyPages()));
    ASSERT_TRUE(machine.Await(store->Flush()));
    Machine after(200 * kMiB, machine.disk.AfterCrash(random));
    auto again = OpenOn(after);
    EXPECT_EQ(again->bitmap().CountBits(1, 100, 200), 100U) << seed;
    for (const uint32_t extent : {7U, 11U, 12U}) {
      const BitRange range = again->bitmap().BitsOfExtent(extent);
      EXPECT_EQ(again->bitmap().CountBits(0, range.first, range.end), range.size()) << seed;
    }
  }
}

// A move does not void the log: that takes a complete bitmap (M5).
TEST(MetaStoreResize, TheLogCountsUntilASuperblockIsWrittenForThat) {
  Machine machine(kBefore);
  auto store = InUse(machine);
  machine.disk.Grow(200 * kMiB);
  store->superblock().Set(kMdPrimaryInd, false);
  ASSERT_TRUE(machine.Await(store->MoveToEnd()));
  auto moved = machine.Await(MetaStore::ReadSuperblock(machine.disk, Placement::kInternal));
  ASSERT_TRUE(moved);
  EXPECT_TRUE(moved->Has(kMdPrimaryInd));
  ASSERT_TRUE(machine.Await(store->WriteSuperblock()));
  EXPECT_EQ(store->bitmap().dirty_pages(), 0U);
  moved = machine.Await(MetaStore::ReadSuperblock(machine.disk, Placement::kInternal));
  EXPECT_FALSE(moved->Has(kMdPrimaryInd));
}

TEST(MetaStoreResize, ADeviceThatIsFullOfErrorsBeyondItsOldEndChangesNothing) {
  Machine machine(kBefore);
  auto store = InUse(machine);
  const Geometry before = store->geometry();
  machine.disk.Grow(200 * kMiB);
  machine.disk.fail_if = [](const BlockIo& io) { return io.offset >= kBefore ? EIO : 0; };
  EXPECT_FALSE(machine.Await(store->MoveToEnd()));
  EXPECT_FALSE(store->failed());
  EXPECT_EQ(store->geometry(), before);
  EXPECT_TRUE(machine.Await(store->WriteSuperblock()));
}

// The bits of what is new are on disk when its size is.
TEST(MetaStoreResize, ANewSizeComesWithItsBits) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    std::mt19937_64 random(seed);
    Machine machine(200 * kMiB);
    auto store = InUse(machine);
    const uint64_t larger = 190 * kMiB / 512;
    machine.Spawn([](MetaStore& s, uint64_t to) -> Task<void> {
      UMBLOCK_ASSERT((co_await s.ChangeSize(to, true)).has_value(), "no error is injected");
    }(*store, larger));
    for (uint64_t steps = random() % 12; steps > 0; --steps) machine.Step(&random);
    Machine after(200 * kMiB, machine.disk.AfterCrash(random));
    auto again = OpenOn(after);
    ExpectCovered(again->bitmap());
    if (again->superblock().effective_sectors != kSectors) {
      EXPECT_EQ(again->superblock().effective_sectors, larger);
      for (uint32_t slot : {0U, 1U}) {
        EXPECT_EQ(again->bitmap().CountBits(slot, kSectors / 8, larger / 8),
                  (larger - kSectors) / 8);
      }
    }
    machine.Drain();
  }
}

TEST(MetaStoreResize, SizesThatDoNotFitAreRefused) {
  Machine machine(kBefore);
  auto store = InUse(machine);
  const Status beyond = machine.Await(store->ChangeSize(400 * kMiB / 512, true));
  ASSERT_FALSE(beyond);
  EXPECT_EQ(beyond.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(store->superblock().effective_sectors, kSectors);
  ASSERT_TRUE(machine.Await(store->ChangeSize(50 * kMiB / 512, true)));
  EXPECT_EQ(store->bitmap().device_bytes(), 50 * kMiB);
  ASSERT_TRUE(machine.Await(store->ChangeSize(kSectors, false)));
  EXPECT_EQ(store->bitmap().CountBits(0, 50 * kMiB / 4096, kSectors / 8), 0U);
}

// drbdmeta takes the moved metadata for metadata that it has made for a device of this size.
TEST(MetaStoreResize, DrbdmetaAcceptsIt) {
  for (const uint64_t by : {uint64_t{4096}, uint64_t{32768}, 3 * kMiB, 300 * kMiB}) {
    Machine machine(kBefore);
    auto store = InUse(machine, 3);
    machine.disk.Grow(kBefore + by);
    ASSERT_TRUE(machine.Await(store->MoveToEnd()));
    const uint64_t usable = store->UsableSectors(0);
    ASSERT_TRUE(machine.Await(store->ChangeSize(usable / 8 * 8, true)));
    store->superblock().Set(kMdPrimaryInd, false);
    ASSERT_TRUE(machine.Await(store->WriteSuperblock()));
    ASSERT_TRUE(machine.Await(store->Close()));
    DiskFile file(kBefore + by);
    machine.disk.Save(file);
    const auto dump = file.Drbdmeta(Placement::kInternal, "dump-md");
    ASSERT_EQ(dump.exit_code, 0) << dump.output;
    EXPECT_NE(dump.output.find(fmt::format("la-size-sect {};", usable / 8 * 8)), std::string::npos)
        << dump.output;
    const auto image = testing::ParseImage(file, Placement::kInternal);
    EXPECT_EQ(testing::BitmapOf(image).weight(2), store->bitmap().weight(2));
  }
}

}  // namespace
}  // namespace umblock::drbd::meta
