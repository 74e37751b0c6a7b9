// Power failures at any moment of a volume's life, on a disk with a volatile cache.
#include <gtest/gtest.h>

#include <list>
#include <memory>
#include <random>

#include "engine/drbd/meta/meta_store.h"
#include "engine/drbd/meta/test_store.h"

namespace umblock::drbd::meta {
namespace {

using testing::CrashedWithThreeExtents;
using testing::CreateOn;
using testing::Initialise;
using testing::kMiB;
using testing::Machine;
using testing::OpenOn;

// A volume in miniature: writes take activity-log references, their blocks become out of sync
// towards the absent peer of slot 1 when they end, and sometimes bits are cleared. At random
// moments the power fails on a copy of the disk; whatever Open makes of it must cover every write
// that ran or had ended.
class CrashTest : public ::testing::TestWithParam<uint64_t> {
 protected:
  struct Write : AlWaiter {
    uint64_t offset = 0;
    uint64_t length = 0;
    bool active = false;
  };

  static constexpr uint64_t kDevice = 600 * kMiB;
  static constexpr uint64_t kSectors = 590 * kMiB / 512;

  void Start() {
    random_.seed(GetParam());
    CreateOn(machine_, {Placement::kInternal, 1 + Below(3) + 1});
    store_ = OpenOn(machine_);
    Initialise(machine_, *store_, kSectors);
    store_->superblock().flags |= kMdPrimaryInd | kMdConsistent;
    ASSERT_TRUE(machine_.Await(store_->WriteSuperblock()));
    log_ = std::make_unique<ActivityLog>(67, store_->first_transaction_number());
  }
  uint32_t Below(uint64_t n) { return static_cast<uint32_t>(random_() % n); }

  void Grant(AlWaiterList& released) {
    while (!released.empty()) {
      auto& write = static_cast<Write&>(released.front());
      released.pop_front();
      ASSERT_TRUE(write.granted());
      write.active = true;
    }
  }
  Task<void> WriteLog() {
    if (writing_log_) co_return;
    writing_log_ = true;
    while (true) {
      AlWaiterList released;
      const AlBatch* batch = log_->NextTransaction(&released);
      Grant(released);
      if (batch == nullptr) break;
      const Status status = co_await store_->WriteTransaction(*batch);
      UMBLOCK_ASSERT(status.has_value(), "no error is injected");
      log_->TransactionDurable(&released);
      Grant(released);
    }
    writing_log_ = false;
  }
  void NewWrite() {
    Write& write = writes_.emplace_back();
    write.length = uint64_t{4096} * (1 + Below(16));
    write.offset = Below((kSectors * 512 - write.length) / 4096) * uint64_t{4096};
    const auto first = static_cast<uint32_t>(write.offset / kAlExtentBytes);
    const auto last = static_cast<uint32_t>((write.offset + write.length - 1) / kAlExtentBytes);
    if (log_->Acquire(first, last, &write) == ActivityLog::Outcome::kHot) {
      write.active = true;
    } else {
      machine_.Spawn(WriteLog());
    }
  }
  void EndWrite() {
    for (auto it = writes_.begin(); it != writes_.end(); ++it) {
      if (!it->active || Below(3) != 0) continue;
      store_->bitmap().SetRange(1, it->offset, it->length);
      out_of_sync_.SetRange(0, it->offset, it->length);
      const auto first = static_cast<uint32_t>(it->offset / kAlExtentBytes);
      const auto last = static_cast<uint32_t>((it->offset + it->length - 1) / kAlExtentBytes);
      const bool useful = log_->Release(first, last);
      writes_.erase(it);
      if (useful) machine_.Spawn(WriteLog());
      return;
    }
  }
  void ClearSome() {
    const uint64_t at = Below(kSectors / 8) * uint64_t{4096};
    store_->bitmap().ClearRange(1, at, 64 * 4096);
    out_of_sync_.ClearRange(0, at, 64 * 4096);
  }
  void CheckCrash() {
    Machine after(kDevice, machine_.disk.AfterCrash(random_));
    MetaOpenReport report;
    auto store = OpenOn(after, &report);
    const Bitmap& bitmap = store->bitmap();
    for (uint64_t bit = 0; (bit = out_of_sync_.FindNextSet(0, bit)) < out_of_sync_.bits(); ++bit) {
      ASSERT_TRUE(bitmap.Test(1, bit)) << "block " << bit << " was written and is not out of sync";
    }
    for (const Write& write : writes_) {
      if (!write.active) continue;
      for (uint32_t slot = 0; slot < bitmap.max_peers(); ++slot) {
        ASSERT_EQ(bitmap.CountRange(slot, write.offset, write.length), write.length / 4096)
            << "a write in flight at " << write.offset << " is not covered in slot " << slot;
      }
    }
    // What was recovered is stable: a second crash right now loses nothing.
    Machine twice(kDevice, after.disk.AfterCrash(random_));
    auto again = OpenOn(twice);
    for (uint32_t slot = 0; slot < bitmap.max_peers(); ++slot) {
      ASSERT_EQ(again->bitmap().weight(slot), bitmap.weight(slot));
    }
  }

  Machine machine_{kDevice};
  std::unique_ptr<MetaStore> store_;
  std::unique_ptr<ActivityLog> log_;
  std::list<Write> writes_;
  Bitmap out_of_sync_ = std::move(*Bitmap::Create({1, kSectors * 512}));
  std::mt19937_64 random_;
  bool writing_log_ = false;
};

TEST_P(CrashTest, EveryWriteIsCovered) {
  Start();
  for (int step = 0; step < 1200 && !HasFatalFailure(); ++step) {
    const uint32_t dice = Below(500);
    if (dice < 150 && writes_.size() < 40) {
      NewWrite();
    } else if (dice < 275) {
      EndWrite();
    } else if (dice < 280) {
      ClearSome();
    } else if (dice < 282) {
      machine_.Spawn([](MetaStore& s) -> Task<void> {
        UMBLOCK_ASSERT((co_await s.WriteDirtyPages()).has_value(), "no error is injected");
      }(*store_));
    } else if (dice < 285) {
      machine_.Spawn([](MetaStore& s) -> Task<void> {
        UMBLOCK_ASSERT((co_await s.WriteSuperblock()).has_value(), "no error is injected");
      }(*store_));
    } else {
      machine_.Step(&random_);
    }
    if (step % 25 == 24) CheckCrash();
  }
  EXPECT_GT(log_->counters().evictions, 20U) << "the test must evict";
  for (int turn = 0; turn < 100000 && !writes_.empty(); ++turn) {
    machine_.Step(&random_);
    EndWrite();
  }
  EXPECT_TRUE(writes_.empty());
  machine_.Drain();
}

INSTANTIATE_TEST_SUITE_P(Seeds, CrashTest, ::testing::Range<uint64_t>(0, 12));

// Power fails anywhere during recovery or during a clean close: nothing is lost.
TEST(MetaStoreCrash, DuringRecoveryAndClose) {
  for (uint64_t seed = 0; seed < 120; ++seed) {
    std::mt19937_64 random(seed);
    Machine first(100 * kMiB);
    CrashedWithThreeExtents(first, kMdPrimaryInd);
    std::unique_ptr<MetaStore> store;
    if (seed % 2 == 0) store = OpenOn(first);
    const auto run = [](Machine& m, MetaStore* s) -> Task<void> {
      if (s != nullptr) {
        UMBLOCK_ASSERT((co_await s->Close()).has_value(), "no error is injected");
      } else {
        MetaOpenReport report;
        const auto opened = co_await MetaStore::Open(m.disk, {}, &report);
        UMBLOCK_ASSERT(opened.has_value(), "no error is injected");
      }
    };
    first.Spawn(run(first, store.get()));
    for (uint64_t steps = random() % 25; steps > 0; --steps) first.Step(&random);
    Machine second(100 * kMiB, first.disk.AfterCrash(random));
    auto again = OpenOn(second);
    // A ring that is only partly emptied may bring older extents back; never fewer.
    for (const uint32_t extent : {5U, 23U, 24U}) {
      const BitRange range = again->bitmap().BitsOfExtent(extent);
      EXPECT_EQ(again->bitmap().CountBits(0, range.first, range.end), range.size()) << seed;
    }
    first.Drain();
  }
}

}  // namespace
}  // namespace umblock::drbd::meta
