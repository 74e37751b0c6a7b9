#include "engine/runtime/task.h"

#include <gtest/gtest.h>

#include <memory>

#include "engine/runtime/sync.h"
#include "engine/runtime/testing/loop_reactor.h"

namespace umblock {
namespace {

Task<int> Answer() { co_return 42; }
Task<std::unique_ptr<int>> MoveOnly(int n) { co_return std::make_unique<int>(n); }

Task<int> Count(int depth) {
  if (depth == 0) co_return 0;
  co_return 1 + co_await Count(depth - 1);
}

Task<void> AddAll(int* sum, int n) {
  for (int i = 0; i < n; ++i) *sum += co_await Answer();
}

TEST(TaskTest, ATaskNeverAwaitedNeverRuns) {
  bool ran = false;
  {
    auto task = [](bool* flag) -> Task<void> {
      *flag = true;
      co_return;
    }(&ran);
  }
  EXPECT_FALSE(ran);
}

TEST(TaskTest, ValuesComeBack) {
  LoopReactor reactor;
  int sum = 0;
  reactor.RunTask([](int* out) -> Task<void> {
    *out = co_await Answer();
    auto moved = co_await MoveOnly(7);
    *out += *moved;
  }(&sum));
  EXPECT_EQ(sum, 49);
}

TEST(TaskTest, LongLoopsAndDeepChainsKeepTheStackFlat) {
  LoopReactor reactor;
  int sum = 0;
  reactor.RunTask(AddAll(&sum, 100000));
  EXPECT_EQ(sum, 4200000);
  int depth = 0;
  reactor.RunTask([](int* out) -> Task<void> { *out = co_await Count(2000); }(&depth));
  EXPECT_EQ(depth, 2000);
}

using TaskDeathTest = testing::Test;

TEST(TaskDeathTest, DestroyingARunningTaskAsserts) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        LoopReactor reactor;
        WaitQueue queue(reactor);
        auto wait = [](WaitQueue* q) -> Task<void> { co_await q->Wait(); };
        auto* task = new Task<void>(wait(&queue));
        task->await_suspend(std::noop_coroutine()).resume();
        delete task;
      },
      "a running task is not destroyed");
}

}  // namespace
}  // namespace umblock
