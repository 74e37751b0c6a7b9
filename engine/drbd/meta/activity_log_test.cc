#include "engine/drbd/meta/activity_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "engine/drbd/meta/geometry.h"

namespace umblock::drbd::meta {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Outcome = ActivityLog::Outcome;

// Drives a log without a disk: transactions become durable when the test says so.
class AlTest : public ::testing::Test {
 protected:
  Outcome Acquire(uint32_t first, uint32_t last, AlWaiter& waiter) {
    return log_->Acquire(first, last, &waiter);
  }
  // Runs transactions until nobody can be helped any more.
  void Drain() {
    AlWaiterList released;
    while (!log_->in_flight() && log_->NextTransaction(&released) != nullptr) {
      log_->TransactionDurable(&released);
    }
    released.clear();
  }
  void MakeHot(uint32_t first, uint32_t last) {
    AlWaiter waiter;
    if (Acquire(first, last, waiter) == Outcome::kQueued) Drain();
    log_->Release(first, last);
  }
  void Reset(uint32_t slots, uint32_t number = 0) {
    log_ = std::make_unique<ActivityLog>(slots, number);
  }

  std::unique_ptr<ActivityLog> log_ = std::make_unique<ActivityLog>(kDefaultAlExtents, 0);
};

TEST_F(AlTest, ColdWaitsHotDoesNot) {
  AlWaiter waiter;
  EXPECT_EQ(Acquire(5, 5, waiter), Outcome::kQueued);
  AlWaiterList released;
  const AlBatch* batch = log_->NextTransaction(&released);
  ASSERT_NE(batch, nullptr);
  EXPECT_EQ(batch->transaction.number, 0U);
  EXPECT_EQ(batch->transaction.update_count, 1);
  EXPECT_EQ(batch->transaction.updates[0], (AlUpdate{0, 5}));
  EXPECT_EQ(batch->transaction.context_size, 1237);
  EXPECT_THAT(batch->evicted(), IsEmpty());
  EXPECT_FALSE(log_->IsHot(5)) << "not before it is durable";
  EXPECT_TRUE(released.empty());
  log_->TransactionDurable(&released);
  ASSERT_EQ(released.size(), 1U);
  EXPECT_TRUE(released.front().granted());
  released.clear();
  EXPECT_TRUE(log_->IsHot(5));
  EXPECT_EQ(Acquire(5, 5, waiter), Outcome::kHot);
  EXPECT_EQ(log_->References(5), 2U);
  log_->Release(5, 5);
  log_->Release(5, 5);
  EXPECT_EQ(log_->References(5), 0U);
  EXPECT_TRUE(log_->TryAcquire(5, 5));
  EXPECT_FALSE(log_->TryAcquire(5, 6));
  log_->Release(5, 5);
}

TEST_F(AlTest, WorkedExampleOfTheFormat) {
  MakeHot(0, 0);
  // Both extents of the example in one transaction.
  Reset(1237);
  AlWaiter a, b;
  Acquire(0, 0, a);
  Acquire(5, 5, b);
  AlWaiterList released;
  const AlTransaction first = log_->NextTransaction(&released)->transaction;
  log_->TransactionDurable(&released);
  released.clear();
  EXPECT_EQ(first.update_count, 2);
  Acquire(23, 23, a);
  const AlTransaction second = log_->NextTransaction(&released)->transaction;
  EXPECT_EQ(second.context_start, 919);
  log_->TransactionDurable(&released);
  released.clear();
  std::vector<std::byte> block(kBlockBytes);
  EncodeAlTransaction(first, MutableAlBlockBytes(block));
  EXPECT_EQ(LoadBe<uint32_t>(block.data() + 8), 0x7d144e3fU);
  EncodeAlTransaction(second, MutableAlBlockBytes(block));
  EXPECT_EQ(LoadBe<uint32_t>(block.data() + 8), 0xcfbc28d6U);
}

TEST_F(AlTest, SixtyFourColdExtentsBehindATransactionCostOneMore) {
  AlWaiter first;
  Acquire(1000, 1000, first);
  AlWaiterList released;
  ASSERT_NE(log_->NextTransaction(&released), nullptr);
  std::vector<AlWaiter> waiters(64);
  for (uint32_t i = 0; i < 64; ++i) EXPECT_EQ(Acquire(i, i, waiters[i]), Outcome::kQueued);
  log_->TransactionDurable(&released);
  EXPECT_EQ(released.size(), 1U);
  const AlBatch* batch = log_->NextTransaction(&released);
  ASSERT_NE(batch, nullptr);
  EXPECT_EQ(batch->transaction.update_count, 64);
  log_->TransactionDurable(&released);
  EXPECT_EQ(released.size(), 65U);
  EXPECT_EQ(log_->NextTransaction(&released), nullptr);
  EXPECT_EQ(log_->counters().transactions, 2U);
  released.clear();
}

TEST_F(AlTest, SixtyFifthChangeGoesToTheNextTransaction) {
  std::vector<AlWaiter> waiters(33);
  for (uint32_t i = 0; i < 33; ++i) Acquire(10 * i, 10 * i + 1, waiters[i]);
  AlWaiterList released;
  EXPECT_EQ(log_->NextTransaction(&released)->transaction.update_count, 64);
  EXPECT_FALSE(log_->starving());
  log_->TransactionDurable(&released);
  EXPECT_EQ(log_->NextTransaction(&released)->transaction.update_count, 2);
  log_->TransactionDurable(&released);
  EXPECT_EQ(released.size(), 33U);
  released.clear();
}

TEST_F(AlTest, ThousandWritesToHotExtentsMakeNoTransaction) {
  MakeHot(0, 15);
  const uint64_t before = log_->counters().transactions;
  AlWaiter waiter;
  for (uint32_t i = 0; i < 1000; ++i) {
    ASSERT_EQ(Acquire(i % 15, i % 15 + 1, waiter), Outcome::kHot);
    log_->Release(i % 15, i % 15 + 1);
  }
  EXPECT_EQ(log_->counters().transactions, before);
  EXPECT_EQ(log_->counters().hits, 1000U);
}

TEST_F(AlTest, SecondWriteToAnExtentOnItsWayJoinsThatTransaction) {
  AlWaiter a, b;
  Acquire(7, 7, a);
  AlWaiterList released;
  log_->NextTransaction(&released);
  EXPECT_EQ(Acquire(7, 7, b), Outcome::kQueued);
  EXPECT_FALSE(log_->Cancel(&b)) << "part of the transaction in flight";
  log_->TransactionDurable(&released);
  EXPECT_EQ(released.size(), 2U);
  EXPECT_EQ(log_->References(7), 2U);
  EXPECT_EQ(log_->NextTransaction(&released), nullptr);
  released.clear();
}

TEST_F(AlTest, EvictsTheLeastRecentlyUsedWithoutReferences) {
  Reset(67);
  MakeHot(0, 63);
  MakeHot(64, 66);
  ASSERT_TRUE(log_->TryAcquire(0, 0));  // in use
  MakeHot(1, 1);                        // used again
  AlWaiter waiter;
  Acquire(100, 101, waiter);
  AlWaiterList released;
  const AlBatch* batch = log_->NextTransaction(&released);
  EXPECT_THAT(batch->evicted(), ElementsAre(2, 3));
  // The context still shows the old contents of the slots.
  const AlTransaction& tr = batch->transaction;
  EXPECT_EQ(tr.updates[0], (AlUpdate{2, 100}));
  EXPECT_EQ(tr.context[2], 2U);
  // An extent that is being evicted is cold already.
  AlWaiter again;
  EXPECT_EQ(Acquire(2, 2, again), Outcome::kQueued);
  log_->TransactionDurable(&released);
  EXPECT_EQ(released.size(), 1U);
  EXPECT_EQ(log_->counters().evictions, 2U);
  Drain();
  released.clear();
  EXPECT_TRUE(log_->IsHot(2));
  EXPECT_TRUE(log_->IsHot(0));
}

TEST_F(AlTest, AllOrNothingAndItsOwnHotExtentsSurvive) {
  Reset(67);
  MakeHot(0, 63);
  MakeHot(64, 66);
  // 0 is the oldest; the request needs it and one new extent: another one must go.
  AlWaiter waiter;
  MakeHot(1000, 1000);  // evicts 0
  MakeHot(0, 0);        // evicts 1, comes back as the newest
  for (uint32_t extent = 2; extent < 67; ++extent) MakeHot(extent, extent);
  // Order of age now: 1000, 0, 2 …
  Acquire(1000, 1001, waiter);
  AlWaiterList released;
  EXPECT_THAT(log_->NextTransaction(&released)->evicted(), ElementsAre(0));
  log_->TransactionDurable(&released);
  released.clear();
}

TEST_F(AlTest, StarvationHoldsBackChangesButNotHotExtents) {
  Reset(67);
  MakeHot(0, 63);
  MakeHot(64, 66);
  for (uint32_t i = 0; i < 66; ++i) ASSERT_TRUE(log_->TryAcquire(i, i));
  // One evictable slot; the head needs two.
  AlWaiter head, small;
  Acquire(100, 101, head);
  AlWaiterList released;
  EXPECT_EQ(log_->NextTransaction(&released), nullptr);
  EXPECT_TRUE(log_->starving());
  EXPECT_EQ(log_->counters().starved, 1U);
  // It would fit, but may not overtake.
  EXPECT_EQ(Acquire(200, 200, small), Outcome::kQueued);
  EXPECT_EQ(log_->NextTransaction(&released), nullptr);
  EXPECT_TRUE(log_->TryAcquire(3, 3));
  EXPECT_FALSE(log_->Release(3, 3)) << "still referenced by someone else";
  EXPECT_TRUE(log_->Release(4, 4));
  const AlBatch* batch = log_->NextTransaction(&released);
  ASSERT_NE(batch, nullptr);
  EXPECT_THAT(batch->evicted(), ElementsAre(66, 4));
  log_->TransactionDurable(&released);
  EXPECT_EQ(released.size(), 1U);
  EXPECT_EQ(&released.front(), &head);
  released.clear();
  // Now the small one starves.
  EXPECT_EQ(log_->NextTransaction(&released), nullptr);
  EXPECT_TRUE(log_->Cancel(&small));
  EXPECT_FALSE(log_->starving());
  EXPECT_FALSE(log_->waiting());
}

TEST_F(AlTest, HotTrafficCannotStarveTheHeadForEver) {
  Reset(67);
  MakeHot(0, 63);
  MakeHot(64, 66);
  for (uint32_t i = 0; i < 67; ++i) ASSERT_TRUE(log_->TryAcquire(i, i));
  AlWaiter head;
  Acquire(100, 100, head);
  AlWaiterList released;
  EXPECT_EQ(log_->NextTransaction(&released), nullptr);
  // Every extent is taken again before it is given back.
  uint32_t granted = 0;
  AlWaiter late;
  while (Acquire(granted % 67, granted % 67, late) == Outcome::kHot) {
    log_->Release(granted % 67, granted % 67);
    ASSERT_LE(++granted, ActivityLog::kStarvationPatience);
  }
  EXPECT_EQ(granted, ActivityLog::kStarvationPatience);
  for (uint32_t i = 0; i < 67; ++i) log_->Release(i, i);
  ASSERT_NE(log_->NextTransaction(&released), nullptr);
  log_->TransactionDurable(&released);
  EXPECT_EQ(released.size(), 2U);
  released.clear();
}

TEST_F(AlTest, FailureReleasesEverybodyUngranted) {
  MakeHot(1, 1);
  ASSERT_TRUE(log_->TryAcquire(1, 1));
  AlWaiter joined, mixed, queued;
  Acquire(1, 2, joined);
  AlWaiterList released;
  ASSERT_NE(log_->NextTransaction(&released), nullptr);
  Acquire(2, 2, mixed);
  Acquire(3, 3, queued);
  log_->TransactionFailed(&released);
  ASSERT_EQ(released.size(), 3U);
  for (const AlWaiter& waiter : released) EXPECT_FALSE(waiter.granted());
  released.clear();
  EXPECT_TRUE(log_->failed());
  EXPECT_EQ(log_->References(1), 1U);
  EXPECT_FALSE(log_->IsHot(2));
  EXPECT_EQ(log_->References(2), 0U);
  EXPECT_EQ(Acquire(1, 1, queued), Outcome::kFailed);
  EXPECT_FALSE(log_->TryAcquire(1, 1));
  EXPECT_EQ(log_->NextTransaction(&released), nullptr);
  EXPECT_FALSE(log_->Release(1, 1));
}

TEST_F(AlTest, NumbersContinueAndWrap) {
  Reset(67, 0xFFFFFFFF);
  AlWaiter waiter;
  AlWaiterList released;
  Acquire(1, 1, waiter);
  EXPECT_EQ(log_->NextTransaction(&released)->transaction.number, 0xFFFFFFFFU);
  log_->TransactionDurable(&released);
  released.clear();
  EXPECT_EQ(log_->next_number(), 0U);
}

TEST(ActivityLogDeath, MisuseIsCaught) {
  ActivityLog log(67, 0);
  AlWaiter waiter;
  EXPECT_DEATH(ActivityLog(66, 0), "67 to 65534");
  EXPECT_DEATH(log.Acquire(0, 64, &waiter), "1 to 64 extents");
  EXPECT_DEATH(log.Release(0, 0), "never evicted");
}

// --- against a model ---------------------------------------------------------------------------

struct Request : AlWaiter {
  uint32_t first = 0;
  uint32_t last = 0;
  bool active = false;
};

// Random requests with crashes at any moment: after a crash, replaying what the disk holds (the
// transactions that became durable, and perhaps the one in flight) gives a superset of the extents
// that granted requests hold.
class AlModel : public ::testing::TestWithParam<uint32_t> {
 protected:
  void SetUp() override {
    random_.seed(GetParam());
    slots_ = 67 + Below(3) * Below(1000);
    range_ = 20 + Below(uint64_t{slots_} * 3);
    blocks_ = std::max<uint32_t>(8, slots_ / 919 + 2);
    number_ = Below(2) == 0 ? 0 : 0xFFFFFFF0;
    log_ = std::make_unique<ActivityLog>(slots_, number_);
    ring_.resize(blocks_ * kBlockBytes);
    for (uint32_t i = 0; i < blocks_; ++i) EncodeInitialisedAlBlock(Block(i));
  }

  uint32_t Below(uint64_t n) { return static_cast<uint32_t>(random_() % n); }
  MutableAlBlockBytes Block(uint64_t i) {
    return MutableAlBlockBytes(ring_.data() + i * kBlockBytes, kBlockBytes);
  }
  void WriteBatch() {
    const AlTransaction& tr = batch_->transaction;
    EncodeAlTransaction(tr, Block(AlBlockOfTransaction(tr.number, 1, blocks_)));
  }
  std::set<uint32_t> Held() const {
    std::set<uint32_t> held;
    for (const auto& request : requests_) {
      if (!request->active) continue;
      for (uint32_t e = request->first; e <= request->last; ++e) held.insert(e);
    }
    return held;
  }
  void CheckReplay() {
    const auto replay = ReplayAl(ring_, 1, blocks_);
    ASSERT_TRUE(replay) << replay.error().message();
    ASSERT_LE(replay->hot_extents.size(), slots_);
    const std::set<uint32_t> held = Held();
    ASSERT_TRUE(std::ranges::includes(replay->hot_extents, held));
    ASSERT_LE(held.size(), slots_);
    for (const uint32_t extent : held) ASSERT_TRUE(log_->IsHot(extent));
  }
  void Activate(AlWaiterList& released) {
    while (!released.empty()) {
      auto& request = static_cast<Request&>(released.front());
      released.pop_front();
      ASSERT_TRUE(request.granted());
      request.active = true;
    }
  }
  void CheckBatch() {
    const std::set<uint32_t> held = Held();
    for (const uint32_t extent : batch_->evicted()) {
      ASSERT_FALSE(held.contains(extent)) << "evicted while referenced";
    }
    ASSERT_LE(batch_->transaction.update_count, kAlUpdatesPerTransaction);
    ASSERT_GT(batch_->transaction.update_count, 0);
    ASSERT_EQ(batch_->transaction.number, number_);
  }
  void TryNext() {
    AlWaiterList released;
    batch_ = log_->NextTransaction(&released);
    Activate(released);
    if (batch_ != nullptr) CheckBatch();
  }
  void NewRequest() {
    requests_.push_back(std::make_unique<Request>());
    Request& request = *requests_.back();
    const uint32_t length = Below(4) == 0 ? 1 + Below(std::min(range_, 64U)) : 1 + Below(2);
    request.first = Below(range_);
    request.last = request.first + length - 1;
    if (log_->Acquire(request.first, request.last, &request) == Outcome::kHot) {
      request.active = true;
    } else if (!log_->in_flight()) {
      TryNext();
    }
  }
  void FinishSome() {
    const size_t at = Below(requests_.size());
    Request& request = *requests_[at];
    if (!request.active) return;
    const bool useful = log_->Release(request.first, request.last);
    requests_.erase(requests_.begin() + at);
    if (useful) TryNext();
  }

  std::mt19937_64 random_;
  uint32_t slots_, range_, blocks_, number_;
  std::unique_ptr<ActivityLog> log_;
  const AlBatch* batch_ = nullptr;
  std::vector<std::byte> ring_;
  std::vector<std::unique_ptr<Request>> requests_;
};

TEST_P(AlModel, ReplayCoversWhatIsReferenced) {
  bool written = false;
  for (int step = 0; step < 1500 && !HasFatalFailure(); ++step) {
    const uint32_t dice = Below(10);
    if (dice < 4 && requests_.size() < 200) {
      NewRequest();
    } else if (dice < 7 && !requests_.empty()) {
      FinishSome();
    } else if (batch_ != nullptr && !written) {
      WriteBatch();  // on disk, but not yet reported
      written = true;
    } else if (batch_ != nullptr) {
      AlWaiterList released;
      log_->TransactionDurable(&released);
      written = false;
      ++number_;
      Activate(released);
      TryNext();
    }
    if (step % 8 == 0) CheckReplay();
  }
  // Everything that was ever asked for is granted in the end.
  AlWaiterList released;
  for (int turn = 0; turn < 10000 && !requests_.empty(); ++turn) {
    if (batch_ != nullptr) {
      WriteBatch();
      log_->TransactionDurable(&released);
      ++number_;
      Activate(released);
      TryNext();
    }
    for (int i = 0; i < 20 && !requests_.empty(); ++i) FinishSome();
  }
  EXPECT_TRUE(requests_.empty());
  EXPECT_EQ(log_->referenced_slots(), 0U);
  EXPECT_FALSE(log_->waiting());
}

INSTANTIATE_TEST_SUITE_P(Seeds, AlModel, ::testing::Range(0U, 40U));

// Every order of a few events on a tiny working set: two requests wait for each other's extents.
TEST(ActivityLogExhaustive, TwoRequestsEveryInterleaving) {
  // Events: A acquires, B acquires, next/durable step, A releases, B releases. All permutations
  // that make sense.
  std::vector<int> events = {0, 1, 2, 2, 3, 4};
  int runs = 0;
  do {
    ActivityLog log(67, 0);
    Request a, b;
    a.first = 0, a.last = 1;
    b.first = 1, b.last = 2;
    AlWaiterList released;
    const AlBatch* batch = nullptr;
    const auto settle = [&] {
      while (!released.empty()) {
        static_cast<Request&>(released.front()).active = true;
        released.pop_front();
      }
    };
    const auto acquire = [&](Request& r) {
      if (log.Acquire(r.first, r.last, &r) == Outcome::kHot) {
        r.active = true;
      } else if (!log.in_flight()) {
        batch = log.NextTransaction(&released);
      }
      settle();
    };
    const auto step = [&] {
      if (batch == nullptr) return;
      log.TransactionDurable(&released);
      batch = log.NextTransaction(&released);
      settle();
    };
    std::vector<Request*> pending_release;
    for (const int event : events) {
      if (event == 0) acquire(a);
      if (event == 1) acquire(b);
      if (event == 2) step();
      if (event >= 3) pending_release.push_back(event == 3 ? &a : &b);
      std::erase_if(pending_release, [&](Request* r) {
        if (!r->active) return false;
        log.Release(r->first, r->last);
        r->active = false;
        return true;
      });
      if (a.active) ASSERT_TRUE(log.IsHot(0) && log.IsHot(1));
      if (b.active) ASSERT_TRUE(log.IsHot(1) && log.IsHot(2));
    }
    for (int i = 0; i < 3; ++i) step();
    for (Request* r : {&a, &b}) {
      if (r->active) log.Release(r->first, r->last);
    }
    ASSERT_FALSE(log.waiting());
    ASSERT_LE(log.counters().transactions, 2U);
    ASSERT_EQ(log.counters().updates, 3U);
    ++runs;
  } while (std::ranges::next_permutation(events).found);
  EXPECT_EQ(runs, 360);
}

}  // namespace
}  // namespace umblock::drbd::meta
