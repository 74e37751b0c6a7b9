#include "engine/runtime/buffer_pool.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "engine/runtime/testing/loop_reactor.h"

namespace umblock {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

TEST(BufferPoolTest, BuffersAreAlignedAndRoundedUp) {
  LoopReactor reactor;
  BufferPool pool(reactor, 8 * kMiB);
  for (size_t bytes : {size_t{1}, size_t{4096}, size_t{4097}, size_t{65536}, kMiB}) {
    Buffer buffer = pool.TryAllocate(bytes);
    ASSERT_TRUE(buffer);
    EXPECT_GE(buffer.capacity(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % BufferPool::kAlignment, 0u);
    memset(buffer.data(), 1, buffer.capacity());
  }
  EXPECT_EQ(pool.bytes_out(), 0u);
}

TEST(BufferPoolTest, MemoryIsReused) {
  LoopReactor reactor;
  BufferPool pool(reactor, 8 * kMiB);
  std::byte* first = pool.TryAllocate(4096).data();
  uint64_t arenas = pool.arena_bytes();
  for (int i = 0; i < 10000; ++i) EXPECT_EQ(pool.TryAllocate(4096).data(), first);
  EXPECT_EQ(pool.arena_bytes(), arenas);
}

TEST(BufferPoolTest, TheLimitHolds) {
  LoopReactor reactor;
  BufferPool pool(reactor, 2 * kMiB);
  Buffer a = pool.TryAllocate(kMiB);
  Buffer b = pool.TryAllocate(kMiB);
  EXPECT_TRUE(a && b);
  EXPECT_FALSE(pool.TryAllocate(1));
  b.Release();
  EXPECT_TRUE(pool.TryAllocate(1));
  EXPECT_EQ(BufferPool(reactor, 0).limit(), BufferPool::kLargest);
}

struct Waits {
  Waits(Reactor& reactor, BufferPool* p) : pool(p), group(reactor) {}
  void Spawn(char name, size_t bytes, CancelToken cancel = {}) {
    group.Spawn([](Waits* self, char n, size_t size, CancelToken c) -> Task<void> {
      Buffer buffer = co_await self->pool->Allocate(size, c);
      self->order.push_back(n);
      if (buffer) self->held.push_back(std::move(buffer));
    }(this, name, bytes, cancel));
  }
  BufferPool* pool;
  TaskGroup group;
  std::string order;
  std::vector<Buffer> held;
};

TEST(BufferPoolTest, WaitersAreServedInOrderAndSmallOnesDoNotOvertake) {
  LoopReactor reactor;
  BufferPool pool(reactor, 2 * kMiB);
  Waits waits(reactor, &pool);
  std::vector<Buffer> out;
  for (int i = 0; i < 4; ++i) out.push_back(pool.TryAllocate(kMiB / 2));
  waits.Spawn('a', kMiB);
  waits.Spawn('b', 4096);
  waits.Spawn('c', 4096);
  out.pop_back();
  reactor.RunReady();
  EXPECT_EQ(waits.order, "") << "room for b and c, but a is first";
  EXPECT_FALSE(pool.TryAllocate(4096)) << "nor does anybody pass the queue";
  out.pop_back();
  reactor.RunReady();
  EXPECT_EQ(waits.order, "a");
  out.clear();
  reactor.RunReady();
  EXPECT_EQ(waits.order, "abc");
  waits.held.clear();
}

TEST(BufferPoolTest, ACancelledWaiterLetsTheNextOnesPass) {
  LoopReactor reactor;
  BufferPool pool(reactor, 2 * kMiB);
  Waits waits(reactor, &pool);
  Buffer half = pool.TryAllocate(kMiB);
  Buffer small = pool.TryAllocate(4096);
  CancelSource source;
  waits.Spawn('a', kMiB, source);
  waits.Spawn('b', 4096);
  reactor.RunReady();
  EXPECT_EQ(waits.order, "");
  source.Cancel();
  reactor.RunReady();
  EXPECT_EQ(waits.order, "ab");
  EXPECT_EQ(waits.held.size(), 1u) << "a has none";
  waits.Spawn('c', kMiB, source);
  EXPECT_EQ(waits.order, "abc") << "cancelled before: does not wait";
  waits.held.clear();
}

TEST(BufferPoolTest, ReleaseUnderCancelNeverLosesABuffer) {
  LoopReactor reactor;
  BufferPool pool(reactor, kMiB);
  Waits waits(reactor, &pool);
  Buffer all = pool.TryAllocate(kMiB);
  CancelSource source;
  waits.Spawn('a', kMiB, source);
  all.Release();    // granted …
  source.Cancel();  // … before the cancel
  reactor.RunReady();
  EXPECT_EQ(waits.held.size(), 1u);
  waits.held.clear();
  EXPECT_EQ(pool.bytes_out(), 0u);
}

TEST(BufferPoolTest, ArenasAreReported) {
  struct Observer : ArenaObserver {
    void OnArena(std::byte*, size_t length) override { bytes += length; }
    size_t bytes = 0;
  } observer;
  LoopReactor reactor;
  BufferPool pool(reactor, 8 * kMiB, &observer);
  Buffer a = pool.TryAllocate(4096);
  Buffer b = pool.TryAllocate(kMiB);
  EXPECT_EQ(observer.bytes, pool.arena_bytes());
  EXPECT_GT(observer.bytes, 0u);
}

}  // namespace
}  // namespace umblock
