#include "engine/runtime/sync.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/runtime/testing/loop_reactor.h"

namespace umblock {
namespace {

Task<void> WaitOnce(WaitQueue* queue, CancelToken cancel, std::vector<WakeReason>* reasons) {
  reasons->push_back(co_await queue->Wait(cancel));
}

TEST(WaitQueueTest, NotifyWakesInOrderAndNeverFromInside) {
  LoopReactor reactor;
  WaitQueue queue(reactor);
  std::string order;
  TaskGroup group(reactor);
  for (char name : {'a', 'b', 'c'}) {
    group.Spawn([](WaitQueue* q, std::string* text, char n) -> Task<void> {
      co_await q->Wait();
      text->push_back(n);
    }(&queue, &order, name));
  }
  queue.NotifyOne();
  EXPECT_EQ(order, "");
  reactor.RunReady();
  EXPECT_EQ(order, "a");
  queue.NotifyAll();
  reactor.RunReady();
  EXPECT_EQ(order, "abc");
  EXPECT_TRUE(queue.empty());
}

TEST(WaitQueueTest, TimeoutCancelAndNotifyEachEndAWaitOnce) {
  LoopReactor reactor;
  WaitQueue queue(reactor);
  std::vector<WakeReason> reasons;
  TaskGroup group(reactor);
  CancelSource source;
  auto timed = [](WaitQueue* q, CancelToken c, std::vector<WakeReason>* r) -> Task<void> {
    r->push_back(co_await q->WaitFor(10ms, c));
  };
  group.Spawn(timed(&queue, source, &reasons));
  reactor.Advance(9ms);
  EXPECT_TRUE(reasons.empty());
  reactor.Advance(1ms);
  EXPECT_EQ(reasons, std::vector{WakeReason::kTimeout});
  reasons.clear();

  group.Spawn(timed(&queue, source, &reasons));
  source.Cancel();
  queue.NotifyAll();  // too late: the cancel was first
  reactor.Advance(1s);
  EXPECT_EQ(reasons, std::vector{WakeReason::kCancelled});
  reasons.clear();

  group.Spawn(timed(&queue, source, &reasons));  // cancelled already: does not wait
  EXPECT_EQ(reasons, std::vector{WakeReason::kCancelled});
  reasons.clear();

  CancelSource other;
  group.Spawn(timed(&queue, other, &reasons));
  queue.NotifyAll();
  other.Cancel();  // too late: the notification was first
  reactor.Advance(1s);
  EXPECT_EQ(reasons, std::vector{WakeReason::kNotified});
}

TEST(SleepTest, EndsWithTimeOrCancel) {
  LoopReactor reactor;
  TaskGroup group(reactor);
  std::vector<WakeReason> reasons;
  auto sleep = [](Reactor* r, CancelToken c, std::vector<WakeReason>* out) -> Task<void> {
    out->push_back(co_await Sleep(*r, 5ms, c));
  };
  group.Spawn(sleep(&reactor, {}, &reasons));
  reactor.Advance(5ms);
  group.Spawn(sleep(&reactor, group.token(), &reasons));
  group.Cancel();
  reactor.RunReady();
  EXPECT_EQ(reasons, (std::vector{WakeReason::kTimeout, WakeReason::kCancelled}));
}

// A task with one await of each kind. Cancelling at every one of them must end it in order.
Task<void> ManyAwaits(Reactor* reactor, WaitQueue* queue, AsyncMutex* mutex, CancelToken cancel,
                      std::string* trace) {
  trace->push_back('1');
  if (co_await Sleep(*reactor, 1ms, cancel) == WakeReason::kCancelled) co_return;
  trace->push_back('2');
  if (co_await queue->WaitFor(1ms, cancel) == WakeReason::kCancelled) co_return;
  trace->push_back('3');
  AsyncMutex::Lock lock = co_await mutex->Acquire();
  if (cancel.requested()) co_return;
  trace->push_back('4');
  Buffer buffer = co_await reactor->buffers().Allocate(4096, cancel);
  if (!buffer) co_return;
  if (co_await Sleep(*reactor, 1ms, cancel) == WakeReason::kCancelled) co_return;
  trace->push_back('5');
}

TEST(TaskGroupTest, CancelAtEveryAwaitEndsTheTask) {
  const char* expected[] = {"1", "12", "123", "1234"};
  for (int steps = 0; steps < 4; ++steps) {
    LoopReactor reactor;
    WaitQueue queue(reactor);
    AsyncMutex mutex(reactor);
    std::string trace;
    TaskGroup group(reactor);
    AsyncMutex::Lock held;
    reactor.RunTask([](AsyncMutex* m, AsyncMutex::Lock* out) -> Task<void> {
      *out = co_await m->Acquire();
    }(&mutex, &held));
    group.Spawn(ManyAwaits(&reactor, &queue, &mutex, group.token(), &trace));
    if (steps == 3) held.Release();
    reactor.Advance(std::chrono::milliseconds(std::min(steps, 2)));
    EXPECT_EQ(group.running(), 1);
    group.Cancel();
    held.Release();
    bool joined = false;
    TaskGroup joiner(reactor);
    joiner.Spawn([](TaskGroup* g, bool* done) -> Task<void> {
      co_await g->Join();
      *done = true;
    }(&group, &joined));
    reactor.RunReady();
    EXPECT_TRUE(joined);
    EXPECT_EQ(trace, expected[steps]);
    EXPECT_FALSE(mutex.locked());
  }
}

TEST(TaskGroupTest, JoinWaitsForTasksSpawnedMeanwhile) {
  LoopReactor reactor;
  TaskGroup group(reactor);
  WaitQueue queue(reactor);
  std::vector<WakeReason> reasons;
  group.Spawn([](TaskGroup* g, WaitQueue* q, std::vector<WakeReason>* r) -> Task<void> {
    co_await q->Wait();
    g->Spawn(WaitOnce(q, {}, r));
  }(&group, &queue, &reasons));
  bool joined = false;
  TaskGroup joiner(reactor);
  joiner.Spawn([](TaskGroup* g, bool* done) -> Task<void> {
    co_await g->Join();
    *done = true;
  }(&group, &joined));
  queue.NotifyAll();
  reactor.RunReady();
  EXPECT_FALSE(joined);
  queue.NotifyAll();
  reactor.RunReady();
  EXPECT_TRUE(joined);
}

TEST(AsyncMutexTest, ServesInOrderAndLetsNobodyOvertake) {
  LoopReactor reactor;
  AsyncMutex mutex(reactor);
  std::string order;
  TaskGroup group(reactor);
  AsyncMutex::Lock held;
  reactor.RunTask([](AsyncMutex* m, AsyncMutex::Lock* out) -> Task<void> {
    *out = co_await m->Acquire();
  }(&mutex, &held));
  auto take = [](Reactor* r, AsyncMutex* m, std::string* text, char name) -> Task<void> {
    AsyncMutex::Lock lock = co_await m->Acquire();
    text->push_back(name);
    co_await r->Yield();
  };
  group.Spawn(take(&reactor, &mutex, &order, 'a'));
  group.Spawn(take(&reactor, &mutex, &order, 'b'));
  held.Release();
  group.Spawn(take(&reactor, &mutex, &order, 'c'));  // comes while 'a' has not run yet
  reactor.RunReady();
  EXPECT_EQ(order, "abc");
  EXPECT_FALSE(mutex.locked());
}

TEST(CancelTest, CallbacksMayUnregisterEachOther) {
  struct Callback : CancelCallback {
    explicit Callback(int* c)
        : CancelCallback([](CancelCallback* self) noexcept {
            auto* callback = static_cast<Callback*>(self);
            ++*callback->count;
            if (callback->other != nullptr) callback->other->Unregister();
          }),
          count(c) {}
    int* count;
    CancelCallback* other = nullptr;
  };
  CancelSource source;
  int count = 0;
  Callback a(&count), b(&count), c(&count);
  a.other = &b;
  b.other = &a;
  for (Callback* callback : {&a, &b, &c}) callback->Register(source);
  source.Cancel();
  EXPECT_EQ(count, 2) << "c, and one of a and b";
  source.Cancel();
  EXPECT_EQ(count, 2);
  EXPECT_TRUE(CancelToken(source).requested());
  EXPECT_FALSE(CancelToken().requested());
}

}  // namespace
}  // namespace umblock
