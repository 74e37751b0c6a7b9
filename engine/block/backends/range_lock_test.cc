#include "engine/block/backends/range_lock.h"

#include <gtest/gtest.h>

#include <deque>
#include <random>
#include <string>
#include <vector>

namespace umblock {
namespace {

struct Holder : RangeLock::Holder {
  Holder(uint64_t from, uint64_t to, bool alone, char letter = 'x', std::string* t = nullptr)
      : RangeLock::Holder([](RangeLock::Holder* self) noexcept {
          auto* holder = static_cast<Holder*>(self);
          holder->held = true;
          if (holder->text != nullptr) holder->text->push_back(holder->name);
        }),
        name(letter),
        text(t) {
    begin = from;
    end = to;
    exclusive = alone;
  }
  bool held = false;
  char name;
  std::string* text;
};

TEST(RangeLockTest, SharersOverlapFreely) {
  RangeLock lock;
  Holder a(0, 100, false), b(50, 150, false);
  EXPECT_TRUE(lock.Acquire(&a));
  EXPECT_TRUE(lock.Acquire(&b));
  lock.Release(&a);
  lock.Release(&b);
  EXPECT_TRUE(lock.empty());
}

TEST(RangeLockTest, AnExclusiveHolderIsAloneInItsRange) {
  RangeLock lock;
  Holder a(0, 100, true), overlaps(99, 150, false), beside(100, 200, true);
  EXPECT_TRUE(lock.Acquire(&a));
  EXPECT_FALSE(lock.Acquire(&overlaps));
  EXPECT_FALSE(lock.Acquire(&beside)) << "it would overtake a waiter that it overlaps";
  lock.Release(&a);
  EXPECT_TRUE(overlaps.held);
  EXPECT_FALSE(beside.held);
  lock.Release(&overlaps);
  EXPECT_TRUE(beside.held);
  lock.Release(&beside);
}

TEST(RangeLockTest, WaitersGoInOrder) {
  RangeLock lock;
  std::string order;
  Holder a(0, 10, false), b(0, 10, true, 'b', &order), c(0, 10, false, 'c', &order),
      d(0, 10, false, 'd', &order), far(20, 30, true);
  EXPECT_TRUE(lock.Acquire(&a));
  EXPECT_FALSE(lock.Acquire(&b));
  EXPECT_FALSE(lock.Acquire(&c));
  EXPECT_FALSE(lock.Acquire(&d));
  EXPECT_TRUE(lock.Acquire(&far));
  lock.Release(&a);
  EXPECT_EQ(order, "b");
  lock.Release(&b);
  EXPECT_EQ(order, "bcd");
  for (Holder* holder : {&c, &d, &far}) lock.Release(holder);
  EXPECT_TRUE(lock.empty());
}

// Whatever comes and goes: no two conflicting holders at a time, and everybody gets a turn.
TEST(RangeLockTest, RandomHoldersNeverConflictAndNobodyStarves) {
  RangeLock lock;
  std::minstd_rand random(5);
  std::deque<Holder> all;
  std::vector<Holder*> live;
  for (int i = 0; i < 20000; ++i) {
    if (live.size() < 30 && random() % 2 == 0) {
      uint64_t begin = random() % 64;
      Holder& holder = all.emplace_back(begin, begin + 1 + random() % 16, random() % 4 == 0);
      holder.held = lock.Acquire(&holder);
      live.push_back(&holder);
    }
    for (Holder* a : live) {
      for (Holder* b : live) {
        if (a == b || !a->held || !b->held || (!a->exclusive && !b->exclusive)) continue;
        ASSERT_TRUE(a->end <= b->begin || b->end <= a->begin);
      }
    }
    if (live.empty() || random() % 2 == 0) continue;
    size_t pick = random() % live.size();
    if (!live[pick]->held) pick = 0;
    ASSERT_TRUE(live[pick]->held) << "the oldest never waits for younger ones";
    lock.Release(live[pick]);
    live.erase(live.begin() + static_cast<ptrdiff_t>(pick));
  }
  while (!live.empty()) {
    ASSERT_TRUE(live.front()->held);
    lock.Release(live.front());
    live.erase(live.begin());
  }
  EXPECT_TRUE(lock.empty());
}

}  // namespace
}  // namespace umblock
