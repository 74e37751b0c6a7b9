// Disk: what becomes durable before what (drbd-metadata-resync.md 3.7).
#include "engine/drbd/core/disk.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "engine/block/backends/backend.h"
#include "engine/drbd/resource.h"
#include "engine/runtime/sim/node.h"
#include "engine/runtime/sim/world.h"

namespace umblock::drbd {
namespace {

constexpr uint64_t kDiskBytes = uint64_t{640} << 20;
constexpr uint64_t kExtentSectors = (4 << 20) / 512;

struct User : AlUser {
  User() {
    al_ready = [](AlUser* self, bool granted) noexcept {
      auto* user = static_cast<User*>(self);
      ++user->calls;
      user->granted = granted;
    };
  }
  int calls = 0;
  bool granted = false;
};

struct Op {
  SimDiskOp op;
  bool metadata;
  bool done;
  uint64_t offset;
};

class DiskTest : public ::testing::Test, public DiskOwner {
  void OnBackingFollowed() override {}

 protected:
  DiskTest() : world_(7) {
    node_ = world_.AddNode({"alfa", {SocketAddress::Ipv4({192, 0, 2, 1}, 0)}});
    SimDiskOptions options;
    options.size = kDiskBytes;
    node_->files().Create("disk0", options);
    node_->Start([](SimNode& self) { self.AddReactor(); });
    Run([this]() -> Task<void> {
      auto backend = co_await OpenBackend(*node_->reactor(), {.name = "disk0", .path = "disk0"});
      EXPECT_TRUE(backend);
      backend_ = std::move(*backend);
      Status made = co_await CreateMetadata({.backing = backend_.get(), .max_peers = 2});
      EXPECT_TRUE(made);
    }());
    Open();
    sim().SetObserver([this](const SimDiskEvent& event) {
      bool done = event.what == SimDiskEvent::What::kCompleted;
      if (!done && event.what != SimDiskEvent::What::kStarted) return;
      ops_.push_back({event.op, event.offset + event.length > DataBytes(), done, event.offset});
    });
  }
  ~DiskTest() override {
    sim().SetObserver(nullptr);
    if (disk_ != nullptr) Close(false);
    Run(backend_->Stop());
    backend_.reset();
    node_->Shutdown();
  }

  void Run(Task<void> task) {
    TaskGroup& group = node_->reactor()->group();
    node_->reactor()->Spawn(std::move(task));
    ASSERT_TRUE(world_.RunUntil([&] { return group.running() == 0; }, 60s));
  }
  void Open(DiskOptions options = SmallLog()) {
    Run([this, options]() -> Task<void> {
      auto disk = co_await Disk::Open(
          *node_->reactor(), *this,
          {.backing = backend_.get(), .node_id = 0, .options = options, .name = "volume r0/0"});
      EXPECT_TRUE(disk) << (disk ? "" : disk.error().ToString());
      if (disk) disk_ = std::move(*disk);
    }());
    ASSERT_NE(disk_, nullptr);
    // As AgreeOnSize does for a fresh disk.
    ASSERT_TRUE(disk_->bitmap().Resize(disk_->usable_sectors() * 512, true));
    disk_->superblock().effective_sectors = disk_->usable_sectors();
    for (uint32_t slot = 0; slot < disk_->bitmap().max_peers(); ++slot) {
      disk_->bitmap().ClearAll(slot);
    }
    RunStatus(disk_->WriteBitmap(), true);
    RunStatus(disk_->WriteSuperblock(), true);
    ops_.clear();
  }
  void RunStatus(Task<Status> task, bool expected) {
    Run([](Task<Status> inner, bool want) -> Task<void> {
      Status status = co_await std::move(inner);
      EXPECT_EQ(status.has_value(), want) << (status ? "" : status.error().ToString());
    }(std::move(task), expected));
  }
  void Close(bool clean) {
    Run(disk_->Close(clean));
    disk_.reset();
  }
  bool Acquire(uint64_t extent, User* user) {
    return disk_->AcquireExtents(extent * kExtentSectors, extent * kExtentSectors + 8, user);
  }
  void Release(uint64_t extent) {
    disk_->ReleaseExtents(extent * kExtentSectors, extent * kExtentSectors + 8);
  }
  void AcquireAndWait(uint64_t extent) {
    User user;
    if (Acquire(extent, &user)) return;
    ASSERT_TRUE(world_.RunUntil([&] { return user.calls == 1; }, 10s));
    EXPECT_TRUE(user.granted);
  }
  SimDisk& sim() { return *node_->files().Find("disk0"); }
  uint64_t DataBytes() const { return disk_ == nullptr ? 0 : disk_->usable_sectors() * 512; }
  // The place of the first event like this, or npos.
  size_t First(SimDiskOp op, bool done, size_t from = 0) const {
    for (size_t i = from; i < ops_.size(); ++i) {
      if (ops_[i].op == op && ops_[i].done == done &&
          (op != SimDiskOp::kWrite || ops_[i].metadata)) {
        return i;
      }
    }
    return std::string::npos;
  }
  static DiskOptions SmallLog() {
    DiskOptions options;
    options.al_extents = 67;
    return options;
  }
  void OnMetadataFailed(const Error&) override { ++failures_; }
  void OnActivityLogStarving() override { ++starved_; }

  SimWorld world_;
  SimNode* node_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Disk> disk_;
  std::vector<Op> ops_;
  int failures_ = 0;
  int starved_ = 0;
};

TEST_F(DiskTest, AColdExtentIsGrantedWhenItsTransactionIsDurable) {
  User user;
  EXPECT_FALSE(Acquire(3, &user));
  size_t durable_at = std::string::npos;
  ASSERT_TRUE(world_.RunUntil(
      [&] {
        if (durable_at == std::string::npos) durable_at = First(SimDiskOp::kWrite, true);
        EXPECT_FALSE(user.calls == 1 && durable_at == std::string::npos) << "INV-2";
        return user.calls == 1;
      },
      10s));
  EXPECT_TRUE(user.granted);
  EXPECT_EQ(sim().unstable_sectors(), 0u) << "written through";
  // Hot now: at once, and without a write.
  ops_.clear();
  User again;
  EXPECT_TRUE(Acquire(3, &again));
  EXPECT_EQ(again.calls, 0);
  world_.RunFor(1s);
  EXPECT_TRUE(ops_.empty());
  Release(3);
  Release(3);
}

TEST_F(DiskTest, ManyAtOnceShareATransaction) {
  std::vector<User> users(64);
  for (uint64_t i = 0; i < 64; ++i) EXPECT_FALSE(Acquire(i, &users[i]));
  ASSERT_TRUE(world_.RunUntil(
      [&] { return std::ranges::all_of(users, [](const User& u) { return u.calls == 1; }); }, 10s));
  EXPECT_EQ(disk_->al_transactions(), 1u);
  for (uint64_t i = 0; i < 64; ++i) Release(i);
}

// The data an evicted extent stands for, then the page with its bits, then the transaction.
TEST_F(DiskTest, AnEvictionIsPrecededByDataAndBitmap) {
  for (uint64_t i = 0; i < 67; ++i) AcquireAndWait(i);
  for (uint64_t i = 0; i < 67; ++i) Release(i);
  disk_->bitmap().SetRangeIn(1, 0, 4096);  // extent 0 is out of sync towards somebody
  ops_.clear();
  AcquireAndWait(100);
  size_t flushed = First(SimDiskOp::kSync, true);
  size_t page = First(SimDiskOp::kWrite, false);
  ASSERT_NE(flushed, std::string::npos) << "no flush of the data";
  ASSERT_NE(page, std::string::npos);
  EXPECT_LT(flushed, page);
  size_t page_done = First(SimDiskOp::kWrite, true);
  size_t transaction = First(SimDiskOp::kWrite, false, page + 1);
  ASSERT_NE(transaction, std::string::npos) << "one write: page and transaction are two";
  EXPECT_LT(page_done, transaction);
  Release(100);
}

TEST_F(DiskTest, ALogThatIsFullOfUsersStarvesAndSaysSo) {
  for (uint64_t i = 0; i < 67; ++i) AcquireAndWait(i);
  User user;
  EXPECT_FALSE(Acquire(100, &user));
  world_.RunFor(2s);
  EXPECT_EQ(user.calls, 0);
  EXPECT_TRUE(disk_->log_starving());
  EXPECT_GT(starved_, 0);
  Release(5);
  ASSERT_TRUE(world_.RunUntil([&] { return user.calls == 1; }, 10s));
  EXPECT_TRUE(user.granted);
  for (uint64_t i = 0; i < 67; ++i) {
    if (i != 5) Release(i);
  }
  Release(100);
}

TEST_F(DiskTest, ClearedBitsAreWrittenAfterTheDataTheyStandFor) {
  disk_->bitmap().SetRangeIn(1, 0, 1 << 20);
  RunStatus(disk_->WriteBitmap(), true);
  disk_->bitmap().ClearRangeIn(1, 0, 1 << 20);
  disk_->NoteCleared();
  ops_.clear();
  RunStatus(disk_->WriteBitmap(), true);
  size_t flushed = First(SimDiskOp::kSync, true);
  size_t page = First(SimDiskOp::kWrite, false);
  ASSERT_NE(flushed, std::string::npos);
  ASSERT_NE(page, std::string::npos);
  EXPECT_LT(flushed, page);
}

TEST_F(DiskTest, AMetadataErrorIsReportedOnceAndRefusesTheRest) {
  AcquireAndWait(1);
  uint64_t data = DataBytes();
  sim().AddBadRange(data, kDiskBytes - data, EIO);
  std::vector<User> users(3);
  for (uint64_t i = 0; i < 3; ++i) EXPECT_FALSE(Acquire(10 + i, &users[i]));
  ASSERT_TRUE(world_.RunUntil(
      [&] { return std::ranges::all_of(users, [](const User& u) { return u.calls == 1; }); }, 10s));
  for (const User& user : users) EXPECT_FALSE(user.granted);
  EXPECT_EQ(failures_, 1);
  EXPECT_TRUE(disk_->log_failed());
  User later;
  EXPECT_FALSE(Acquire(20, &later));
  EXPECT_EQ(later.calls, 0) << "never from inside the call";
  ASSERT_TRUE(world_.RunUntil([&] { return later.calls == 1; }, 10s));
  EXPECT_FALSE(later.granted);
  RunStatus(disk_->WriteSuperblock(), false);
  RunStatus(disk_->WriteBitmap(), false);
  EXPECT_EQ(failures_, 1);
  Release(1);
  sim().ClearFaults();
}

TEST_F(DiskTest, OnlyAnUncleanEndLeavesExtentsToReplay) {
  AcquireAndWait(1);
  AcquireAndWait(2);
  Release(1);
  Release(2);
  Close(true);
  Open();
  EXPECT_EQ(disk_->replayed_extents(), 0u);
  disk_->superblock().Set(meta::kMdPrimaryInd, true);
  disk_->superblock().Set(meta::kMdCrashedPrimary, true);
  RunStatus(disk_->WriteSuperblock(), true);
  AcquireAndWait(1);
  AcquireAndWait(2);
  Close(false);
  uint64_t replayed = 0;
  uint64_t bits = 0;
  Run([&]() -> Task<void> {
    auto disk = co_await Disk::Open(
        *node_->reactor(), *this,
        {.backing = backend_.get(), .node_id = 0, .options = SmallLog(), .name = "volume"});
    EXPECT_TRUE(disk);
    replayed = (*disk)->replayed_extents();
    bits = (*disk)->bitmap().weight(0);
    co_await (*disk)->Close(false);
  }());
  EXPECT_EQ(replayed, 2u);
  EXPECT_EQ(bits, 2u * 1024);
}

TEST_F(DiskTest, WithoutUpdatesEverythingIsGranted) {
  Close(true);
  DiskOptions options;
  options.al_updates = false;
  Open(options);
  User user;
  EXPECT_TRUE(Acquire(3, &user));
  Release(3);
  world_.RunFor(1s);
  EXPECT_EQ(disk_->al_transactions(), 0u);
}

TEST_F(DiskTest, SlotsAreGivenOutOnceAndRunOut) {
  auto first = disk_->AssignSlot(3);
  auto second = disk_->AssignSlot(7);
  ASSERT_TRUE(first && second);
  EXPECT_NE(*first, *second);
  EXPECT_EQ(*disk_->AssignSlot(3), *first);
  EXPECT_EQ(disk_->SlotOf(7), *second);
  EXPECT_FALSE(disk_->SlotOf(9));
  auto third = disk_->AssignSlot(9);
  ASSERT_FALSE(third);
  EXPECT_EQ(third.error().code(), ErrorCode::kResourceExhausted);
}

}  // namespace
}  // namespace umblock::drbd
