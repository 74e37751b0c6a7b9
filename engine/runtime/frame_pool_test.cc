// Built without sanitizers only: they take coroutine frames from the heap.
#include "engine/runtime/frame_pool.h"

#include <gtest/gtest.h>

#include "engine/runtime/task.h"
#include "engine/runtime/testing/loop_reactor.h"

namespace umblock {
namespace {

Task<int> Answer() { co_return 42; }

Task<void> AddAll(int* sum, int n) {
  for (int i = 0; i < n; ++i) *sum += co_await Answer();
}

TEST(FramePoolTest, FramesComeFromThePoolOnceItIsWarm) {
  LoopReactor reactor;
  int sum = 0;
  reactor.RunTask(AddAll(&sum, 10));
  uint64_t before = FrameHeapAllocations();
  reactor.RunTask(AddAll(&sum, 1000));
  EXPECT_EQ(FrameHeapAllocations(), before);
  EXPECT_EQ(sum, 1010 * 42);
}

}  // namespace
}  // namespace umblock
