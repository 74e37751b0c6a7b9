#include "engine/drbd/meta/meta_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <list>
#include <memory>
#include <random>
#include <string_view>
#include <vector>

#include "engine/drbd/meta/test_store.h"

namespace umblock::drbd::meta {
namespace {

using testing::Batch;
using testing::CrashedWithThreeExtents;
using testing::CreateOn;
using testing::DiskContents;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Initialise;
using testing::kMiB;
using testing::Machine;
using testing::OpenOn;
using testing::TryOpen;

Superblock OnDisk(const Machine& machine, const Geometry& geometry) {
  const auto block = machine.disk.Peek(geometry.superblock_offset, kSuperblockBytes);
  const auto sb = DecodeSuperblock(testing::SuperblockBytes(block));
  UMBLOCK_ASSERT(sb.has_value(), "a superblock on disk");
  return *sb;
}

// --- create ------------------------------------------------------------------------------------

TEST(MetaStoreCreate, FreshMetadataIsCleanAndOpens) {
  Machine machine(100 * kMiB);
  const Geometry geometry = CreateOn(machine, {Placement::kInternal, 3});
  const Superblock created = OnDisk(machine, geometry);
  EXPECT_TRUE(created.al_clean());
  EXPECT_EQ(created.current_uuid, kUuidJustCreated);
  MetaOpenReport report;
  const auto store = OpenOn(machine, &report);
  EXPECT_EQ(report.found, created);
  EXPECT_FALSE(report.log_applied);
  EXPECT_EQ(store->geometry(), geometry);
  EXPECT_EQ(store->first_transaction_number(), 0U);
  EXPECT_EQ(store->UsableSectors(204800), 204704U);
  EXPECT_FALSE(OnDisk(machine, geometry).al_clean()) << "in use";
}

TEST(MetaStoreCreate, RefusesWhatLooksLikeData) {
  struct Sign {
    uint64_t offset;
    std::string_view bytes;
    const char* what;
  };
  using namespace std::string_view_literals;
  const Sign signs[] = {{1080, "\x53\xEF"sv, "ext2/3/4"},
                        {0, "XFSB"sv, "xfs"},
                        {4086, "SWAPSPACE2"sv, "swap"},
                        {512, "LABELONE"sv, "LVM"},
                        {65600, "_BHRfS_M"sv, "btrfs"},
                        {510, "\x55\xAA"sv, nullptr},
                        {60, "\x83\x74\x02\x6D"sv, "DRBD metadata (external"},
                        {100 * kMiB - 4096 + 60, "\x83\x74\x02\x6B"sv, "DRBD metadata already"}};
  for (const Sign& sign : signs) {
    Machine machine(100 * kMiB);
    machine.disk.Poke(sign.offset, std::as_bytes(std::span(sign.bytes)));
    const DiskContents before = machine.disk.contents();
    const auto refused = machine.Await(MetaStore::Create(machine.disk, {}));
    if (sign.what == nullptr) {
      EXPECT_TRUE(refused) << "an empty boot sector is no partition table";
      continue;
    }
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), ErrorCode::kFailedPrecondition);
    EXPECT_THAT(refused.error().message(), HasSubstr(sign.what));
    EXPECT_EQ(machine.disk.contents(), before);
    EXPECT_TRUE(machine.Await(MetaStore::Create(machine.disk, {{}, 0, true})));
    OpenOn(machine);
  }
}

TEST(MetaStoreCreate, PartitionTable) {
  Machine machine(100 * kMiB);
  const std::byte entry[] = {std::byte{0x83}};
  machine.disk.Poke(446 + 4, entry);
  machine.disk.Poke(510, std::as_bytes(std::span("\x55\xAA", 2)));
  const auto refused = machine.Await(MetaStore::Create(machine.disk, {}));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr("partition table"));
}

TEST(MetaStoreCreate, ErasesOldBitmapAndRing) {
  for (const bool can_write_zeroes : {true, false}) {
    Machine machine(kMiB);
    machine.disk.set_can_write_zeroes(can_write_zeroes);
    const std::vector<std::byte> garbage(kMiB, std::byte{0xA5});
    machine.disk.Poke(0, garbage);
    const Geometry geometry = CreateOn(machine, {Placement::kFlexExternal, 2});
    for (const std::byte b : machine.disk.Peek(geometry.bm_offset, geometry.bm_bytes)) {
      ASSERT_EQ(b, std::byte{0});
    }
    MetaOpenOptions options;
    options.placement = Placement::kFlexExternal;
    OpenOn(machine, nullptr, options);
  }
}

TEST(MetaStoreCreate, FallsBackWhenZeroingIsNotOffered) {
  Machine machine(100 * kMiB);
  machine.disk.fail_if = [](const BlockIo& io) {
    return io.op == IoOp::kWriteZeroes ? EOPNOTSUPP : 0;
  };
  CreateOn(machine);
}

// A crash at any moment while metadata is created anew leaves either none or the new one.
TEST(MetaStoreCreate, CrashNeverLeavesTheOldSuperblockOverANewBitmap) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    std::mt19937_64 random(seed);
    Machine machine(2 * kMiB);
    CreateOn(machine);
    auto store = OpenOn(machine);
    Initialise(machine, *store, 1024);
    store->bitmap().SetAll(0);
    ASSERT_TRUE(machine.Await(store->Close()));
    std::optional<Result<Geometry>> done;
    machine.Spawn([](Machine& m, auto& out) -> Task<void> {
      out.emplace(co_await MetaStore::Create(m.disk, {{}, 0, true}));
    }(machine, done));
    for (uint64_t steps = random() % 20; steps > 0; --steps) machine.Step(&random);
    Machine after(2 * kMiB, machine.disk.AfterCrash(random));
    MetaOpenReport report;
    const auto opened = TryOpen(after, {}, &report);
    if (opened && report.found.current_uuid != kUuidJustCreated) {
      EXPECT_EQ((*opened)->bitmap().weight(0), 128U) << seed;
    }
    machine.Drain();
  }
}

TEST(MetaStoreCreate, TooSmall) {
  Machine machine(512 * 1024);
  const auto refused = machine.Await(MetaStore::Create(machine.disk, {}));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(TryOpen(machine, {}, std::make_unique<MetaOpenReport>().get()).error().code(),
            ErrorCode::kNotFound);
}

// --- open --------------------------------------------------------------------------------------

TEST(MetaStoreOpen, RefusesWhatIsNotOurs) {
  Machine machine(100 * kMiB);
  MetaOpenReport report;
  EXPECT_EQ(TryOpen(machine, {}, &report).error().code(), ErrorCode::kNotFound);
  const Geometry geometry = CreateOn(machine);
  {
    auto store = OpenOn(machine);
    Initialise(machine, *store, 100000);
  }
  MetaOpenOptions other_node;
  other_node.node_id = 3;
  const auto refused = TryOpen(machine, other_node, &report);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::kFailedPrecondition);
  EXPECT_THAT(refused.error().message(), HasSubstr("testdisk: "));
  // v08.
  const uint32_t magic = ByteSwap(kMagicV08);
  machine.disk.Poke(geometry.superblock_offset + 60, std::as_bytes(std::span(&magic, 1)));
  const uint32_t stripes[] = {ByteSwap(1U), ByteSwap(8U)};
  machine.disk.Poke(geometry.superblock_offset + 88, std::as_bytes(std::span(stripes)));
  const auto v08 = TryOpen(machine, {}, &report);
  ASSERT_FALSE(v08);
  EXPECT_THAT(v08.error().message(), HasSubstr("convert it"));
}

TEST(MetaStoreOpen, ReadErrorsAreReported) {
  Machine machine(100 * kMiB);
  const Geometry geometry = CreateOn(machine);
  auto store = OpenOn(machine);
  Initialise(machine, *store, 100000);
  store.reset();
  for (const uint64_t bad : {geometry.superblock_offset, geometry.al_offset, geometry.bm_offset}) {
    machine.disk.fail_if = [bad](const BlockIo& io) {
      return io.op == IoOp::kRead && io.offset == bad ? EIO : 0;
    };
    MetaOpenReport report;
    const auto failed = TryOpen(machine, {}, &report);
    ASSERT_FALSE(failed);
    EXPECT_THAT(failed.error().message(), HasSubstr("reading"));
  }
}

TEST(MetaStoreOpen, AppliesTheLogAfterACrash) {
  Machine machine(100 * kMiB);
  CrashedWithThreeExtents(machine, kMdPrimaryInd | kMdConsistent);
  MetaOpenReport report;
  auto store = OpenOn(machine, &report);
  EXPECT_TRUE(report.log_applied);
  EXPECT_THAT(report.hot_extents, ElementsAre(5, 23, 24));
  // Extent 24 is cut by the end of the device.
  EXPECT_EQ(report.bits_set, 2 * (2048 + 25000 - 24 * 1024));
  for (uint32_t slot = 0; slot < 2; ++slot) {
    EXPECT_EQ(store->bitmap().FindNextSet(slot, 0), 5U * 1024);
    EXPECT_EQ(store->bitmap().weight(slot), 2048U + 25000 - 24 * 1024);
  }
  EXPECT_TRUE(store->superblock().Has(kMdPrimaryInd)) << "left alone";
  EXPECT_EQ(store->first_transaction_number(), 3U);
  // It is in the bitmap on disk now: opening again, without any close, finds nothing more to do.
  store.reset();
  MetaOpenReport again;
  store = OpenOn(machine, &again);
  EXPECT_EQ(again.bits_set, 0U);
  EXPECT_TRUE(again.hot_extents.empty());
  EXPECT_EQ(store->bitmap().weight(1), 2048U + 25000 - 24 * 1024);
}

TEST(MetaStoreOpen, IgnoresTheLogOfASecondaryWithoutPrimary) {
  Machine machine(100 * kMiB);
  CrashedWithThreeExtents(machine, kMdConsistent);
  MetaOpenReport report;
  auto store = OpenOn(machine, &report);
  EXPECT_FALSE(report.log_applied);
  EXPECT_EQ(store->bitmap().weight(0), 0U);
}

TEST(MetaStoreOpen, UnusableLog) {
  Machine machine(100 * kMiB);
  CrashedWithThreeExtents(machine, kMdPrimaryInd);
  MetaOpenReport report;
  const Geometry geometry =
      *GeometryOf(*machine.Await(MetaStore::ReadSuperblock(machine.disk, Placement::kInternal)),
                  Placement::kInternal, 100 * kMiB);
  machine.disk.Poke(geometry.al_offset, std::vector<std::byte>(32768, std::byte{1}));
  const auto refused = TryOpen(machine, {}, &report);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::kDataLoss);
  EXPECT_TRUE(report.log_unusable);
  MetaOpenOptions options;
  options.unusable_log_means_full_sync = true;
  MetaOpenReport second;
  auto store = OpenOn(machine, &second, options);
  EXPECT_TRUE(second.full_sync);
  EXPECT_EQ(store->bitmap().weight(0), 25000U);
  EXPECT_EQ(store->bitmap().weight(1), 25000U);
}

TEST(MetaStoreOpen, FullSyncFlagsBecomeBits) {
  Machine machine(100 * kMiB);
  const Geometry geometry = CreateOn(machine, {Placement::kInternal, 3});
  auto store = OpenOn(machine);
  Initialise(machine, *store, 200000);
  store->superblock().peers[4] = {0, 0, kPeerFullSync | kPeerDeviceSeen, 2};
  store->superblock().peers[5] = {0, 0, kPeerFullSync, -1};
  ASSERT_TRUE(machine.Await(store->WriteSuperblock()));
  store.reset();
  MetaOpenReport report;
  store = OpenOn(machine, &report);
  EXPECT_TRUE(report.full_sync);
  EXPECT_EQ(store->bitmap().weight(0), 0U);
  EXPECT_EQ(store->bitmap().weight(2), 25000U);
  const Superblock disk = OnDisk(machine, geometry);
  EXPECT_EQ(disk.peers[4].flags, kPeerDeviceSeen);
  EXPECT_EQ(disk.peers[5].flags, kPeerFullSync) << "no slot, nothing done";
}

TEST(MetaStoreOpen, CrashedPrimaryWithoutLogIsAllOutOfSync) {
  Machine machine(100 * kMiB);
  CreateOn(machine, {Placement::kInternal, 2});
  auto store = OpenOn(machine);
  Initialise(machine, *store, 200000);
  store->superblock().flags |= kMdCrashedPrimary | kMdAlDisabled | kMdPrimaryInd;
  ASSERT_TRUE(machine.Await(store->WriteSuperblock()));
  store.reset();
  MetaOpenReport report;
  store = OpenOn(machine, &report);
  EXPECT_TRUE(report.full_sync);
  EXPECT_EQ(report.bits_set, 50000U);
}

// --- writing -----------------------------------------------------------------------------------

TEST(MetaStore, CloseMakesItCleanAgain) {
  Machine machine(100 * kMiB);
  CrashedWithThreeExtents(machine, kMdPrimaryInd);
  const Geometry geometry = OpenOn(machine)->geometry();
  auto store = OpenOn(machine);
  store->bitmap().SetBits(1, 7, 9);
  const uint64_t weight = store->bitmap().weight(1);
  store->superblock().Set(kMdPrimaryInd, false);
  ASSERT_TRUE(machine.Await(store->Close()));
  EXPECT_FALSE(machine.Await(store->WriteSuperblock())) << "closed";
  store.reset();
  EXPECT_TRUE(OnDisk(machine, geometry).al_clean());
  EXPECT_TRUE(ReplayAl(machine.disk.Peek(geometry.al_offset, 32768), 1, 8)->pristine());
  MetaOpenReport report;
  store = OpenOn(machine, &report);
  EXPECT_FALSE(report.log_applied);
  EXPECT_EQ(store->bitmap().weight(1), weight);
}

TEST(MetaStore, SuperblockWritesAreSerialisedAndShared) {
  Machine machine(100 * kMiB);
  const Geometry geometry = CreateOn(machine);
  auto store = OpenOn(machine);
  const uint64_t before = store->counters().superblock_writes;
  std::vector<int> ended;
  const auto writer = [&](int id) -> Task<void> {
    const Status status = co_await store->WriteSuperblock();
    UMBLOCK_ASSERT(status.has_value(), "no error is injected");
    ended.push_back(id);
  };
  store->superblock().current_uuid = 0x100;
  machine.Spawn(writer(1));
  ASSERT_EQ(machine.disk.in_flight(), 1U);
  machine.Step();  // the flush; now the block is on its way with 0x100
  for (int id = 2; id < 10; ++id) {
    store->superblock().current_uuid = uint64_t{0x100} * id;
    machine.Spawn(writer(id));
  }
  EXPECT_EQ(machine.disk.in_flight(), 1U);
  machine.Step();
  EXPECT_THAT(ended, ElementsAre(1));
  EXPECT_EQ(OnDisk(machine, geometry).current_uuid, 0x100U);
  machine.Drain();
  EXPECT_EQ(ended.size(), 9U);
  EXPECT_EQ(OnDisk(machine, geometry).current_uuid, 0x900U);
  EXPECT_EQ(store->counters().superblock_writes, before + 2);
}

TEST(MetaStore, TheLogLosesItsSayOnlyWhenTheBitmapIsOnDisk) {
  Machine machine(100 * kMiB);
  const Geometry geometry = CreateOn(machine);
  auto store = OpenOn(machine);
  Initialise(machine, *store, 200000);
  store->superblock().Set(kMdPrimaryInd, true);
  ASSERT_TRUE(machine.Await(store->WriteSuperblock()));
  store->bitmap().SetBits(0, 0, 1);
  ASSERT_TRUE(machine.Await(store->WriteSuperblock()));
  EXPECT_EQ(machine.disk.Peek(geometry.bm_offset, 4096)[0], std::byte{0}) << "the log covers it";
  store->superblock().Set(kMdPrimaryInd, false);
  std::optional<Status> done;
  machine.Spawn([](MetaStore& s, auto& out) -> Task<void> {
    out.emplace(co_await s.WriteSuperblock());
  }(*store, done));
  ASSERT_EQ(machine.disk.in_flight(), 1U);
  EXPECT_EQ(machine.disk.request(0).offset, geometry.bm_offset);
  store->bitmap().SetBits(0, 8, 9);  // meanwhile
  machine.Drain();
  ASSERT_TRUE(done && *done);
  EXPECT_EQ(machine.disk.Peek(geometry.bm_offset, 4096)[0], std::byte{1});
  EXPECT_EQ(store->bitmap().dirty_pages(), 0U);
}

TEST(MetaStore, DirtyPagesAreJoinedIntoRequests) {
  Machine machine(4096 * kMiB);
  CreateOn(machine);
  auto store = OpenOn(machine);
  Initialise(machine, *store, 4000 * kMiB / 512);
  const auto before = store->counters();
  store->bitmap().SetRange(0, 0, 512);
  store->bitmap().SetRange(0, 300 * kMiB, 400 * kMiB);
  ASSERT_EQ(store->bitmap().dirty_pages(), 5U);
  ASSERT_TRUE(machine.Await(store->WriteDirtyPages({2, 3})));
  EXPECT_EQ(store->bitmap().dirty_pages(), 4U);
  ASSERT_TRUE(machine.Await(store->WriteDirtyPages()));
  EXPECT_EQ(store->bitmap().dirty_pages(), 0U);
  EXPECT_EQ(store->counters().page_writes, before.page_writes + 5);
  EXPECT_EQ(store->counters().page_requests, before.page_requests + 3);
}

TEST(MetaStore, BitsThatChangeDuringAWriteMakeThePageDirtyAgain) {
  Machine machine(100 * kMiB);
  const Geometry geometry = CreateOn(machine);
  auto store = OpenOn(machine);
  Initialise(machine, *store, 200000);
  store->bitmap().SetBits(0, 0, 1);
  std::optional<Status> done;
  machine.Spawn([](MetaStore& s, auto& out) -> Task<void> {
    out.emplace(co_await s.WriteDirtyPages());
  }(*store, done));
  ASSERT_EQ(machine.disk.in_flight(), 1U);
  store->bitmap().SetBits(0, 1, 2);
  EXPECT_TRUE(store->bitmap().IsDirty(0));
  machine.Drain();
  ASSERT_TRUE(done->has_value());
  EXPECT_EQ(machine.disk.Peek(geometry.bm_offset, 4096)[0], std::byte{1});
  EXPECT_TRUE(store->bitmap().IsDirty(0));
}

TEST(MetaStore, EvictedPagesComeBeforeTheTransaction) {
  Machine machine(1024 * kMiB);
  const Geometry geometry = CreateOn(machine);
  auto store = OpenOn(machine);
  Initialise(machine, *store, 1000 * kMiB / 512);
  // A lazy write of extent 40's page is under way, so the page counts as clean already.
  store->bitmap().SetRange(0, 40 * 4 * kMiB, 4096);
  machine.Spawn([](MetaStore& s) -> Task<void> {
    UMBLOCK_ASSERT((co_await s.WriteDirtyPages()).has_value(), "no error is injected");
  }(*store));
  ASSERT_EQ(machine.disk.in_flight(), 1U);
  ASSERT_EQ(store->bitmap().dirty_pages(), 0U);
  store->bitmap().SetRange(0, 0, 4096);  // extent 0, another page
  std::optional<Status> done;
  const AlBatch batch = Batch(0, {{0, 99}}, {0, 40});
  machine.Spawn([](MetaStore& s, const AlBatch& b, auto& out) -> Task<void> {
    out.emplace(co_await s.WriteTransaction(b));
  }(*store, batch, done));
  ASSERT_EQ(machine.disk.in_flight(), 1U) << "waits for the write under way";
  const auto offset = [&] { return machine.disk.request(0).offset; };
  EXPECT_EQ(offset(), geometry.bm_offset + 4096);
  machine.Step();
  ASSERT_EQ(machine.disk.in_flight(), 1U);
  EXPECT_EQ(offset(), geometry.bm_offset);
  machine.Step();
  ASSERT_EQ(machine.disk.in_flight(), 1U);
  EXPECT_EQ(machine.disk.request(0).op, IoOp::kFlush);
  machine.Step();
  EXPECT_EQ(offset(), geometry.al_offset);
  EXPECT_TRUE(machine.disk.request(0).fua);
  EXPECT_FALSE(done);
  machine.Step();
  ASSERT_TRUE(done && *done);
}

TEST(MetaStore, DataDeviceIsFlushedBeforeEvictionWithExternalMetadata) {
  Machine meta(kMiB);
  testing::TestDisk data(meta.reactor, 1024 * kMiB);
  CreateOn(meta, {Placement::kFlexExternal, 1});
  MetaOpenOptions options;
  options.placement = Placement::kFlexExternal;
  options.data_device = &data;
  std::unique_ptr<MetaStore> store;
  meta.Spawn([](testing::TestDisk& disk, MetaOpenOptions how, auto& out) -> Task<void> {
    MetaOpenReport report;
    auto opened = co_await MetaStore::Open(disk, how, &report);
    UMBLOCK_ASSERT(opened.has_value(), "there is metadata");
    out = std::move(*opened);
  }(meta.disk, options, store));
  meta.Drain();
  // The log is void from here on: what it stood for is stable first.
  ASSERT_EQ(data.in_flight(), 1U);
  data.Complete(0);
  meta.Drain();
  ASSERT_NE(store, nullptr);
  Initialise(meta, *store, 200000);
  ASSERT_TRUE(meta.Await(store->WriteTransaction(Batch(0, {{0, 1}}))));
  std::optional<Status> done;
  const AlBatch batch = Batch(1, {{0, 2}}, {1});
  meta.Spawn([](MetaStore& s, const AlBatch& b, auto& out) -> Task<void> {
    out.emplace(co_await s.WriteTransaction(b));
  }(*store, batch, done));
  meta.Drain();
  EXPECT_FALSE(done);
  ASSERT_EQ(data.in_flight(), 1U);
  EXPECT_EQ(data.request(0).op, IoOp::kFlush);
  data.Complete(0);
  meta.Drain();
  EXPECT_TRUE(done && *done);
}

TEST(MetaStore, AFailedWriteIsFinal) {
  for (const int victim : {0, 1, 2}) {
    Machine machine(100 * kMiB);
    const Geometry geometry = CreateOn(machine);
    auto store = OpenOn(machine);
    Initialise(machine, *store, 200000);
    const uint64_t bad[] = {geometry.superblock_offset, geometry.al_offset, geometry.bm_offset};
    machine.disk.fail_if = [&](const BlockIo& io) {
      return io.op == IoOp::kWrite && io.offset == bad[victim] ? EIO : 0;
    };
    store->bitmap().SetBits(0, 0, 1);
    Status status = Ok();
    if (victim == 0) status = machine.Await(store->WriteSuperblock());
    if (victim == 1) status = machine.Await(store->WriteTransaction(Batch(0, {{0, 0}})));
    if (victim == 2) status = machine.Await(store->WriteTransaction(Batch(0, {{0, 9}}, {0})));
    ASSERT_FALSE(status);
    EXPECT_TRUE(store->failed());
    if (victim == 2) EXPECT_TRUE(store->bitmap().IsDirty(0));
    machine.disk.fail_if = nullptr;
    EXPECT_EQ(machine.Await(store->WriteSuperblock()), status);
    EXPECT_EQ(machine.Await(store->WriteDirtyPages()), status);
    EXPECT_EQ(machine.Await(store->WriteTransaction(Batch(0, {{0, 1}}))), status);
    if (victim != 0) {
      // Nothing of the transaction reached the ring.
      EXPECT_TRUE(ReplayAl(machine.disk.Peek(geometry.al_offset, 32768), 1, 8)->pristine());
    }
  }
}

TEST(MetaStore, WaitersOfAFailedSuperblockWriteFailToo) {
  Machine machine(100 * kMiB);
  CreateOn(machine);
  auto store = OpenOn(machine);
  machine.disk.fail_if = [](const BlockIo& io) { return io.op == IoOp::kFlush ? EIO : 0; };
  int failures = 0;
  for (int i = 0; i < 3; ++i) {
    machine.Spawn([](MetaStore& s, int& count) -> Task<void> {
      if (const Status status = co_await s.WriteSuperblock(); !status) {
        ++count;
      }
    }(*store, failures));
  }
  machine.Drain();
  EXPECT_EQ(failures, 3);
}

TEST(MetaStore, StopWaitsForWhatRuns) {
  Machine machine(100 * kMiB);
  CreateOn(machine);
  auto store = OpenOn(machine);
  bool stopped = false;
  machine.Spawn([](MetaStore& s) -> Task<void> { (void)co_await s.WriteSuperblock(); }(*store));
  machine.Spawn([](MetaStore& s, bool& out) -> Task<void> {
    co_await s.Stop();
    out = true;
  }(*store, stopped));
  EXPECT_FALSE(stopped);
  machine.Drain();
  EXPECT_TRUE(stopped);
  EXPECT_FALSE(machine.Await(store->WriteSuperblock()));
}

TEST(MetaStoreDeath, InvariantsAreAsserted) {
  Machine machine(100 * kMiB);
  CreateOn(machine);
  auto store = OpenOn(machine);
  EXPECT_DEATH((void)machine.Await(store->WriteTransaction(Batch(7, {{0, 1}}))), "in order");
  store->superblock().Set(kMdAlClean, true);
  EXPECT_DEATH((void)machine.Await(store->WriteSuperblock()), "AL_CLEAN");
  store->superblock().Set(kMdAlClean, false);
}

}  // namespace
}  // namespace umblock::drbd::meta
