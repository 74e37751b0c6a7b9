// How coroutines of one reactor wait: for time, for a condition, for each other.
//
// WaitQueue is the condition variable: a waiter loops `while (!condition) co_await queue.Wait(…)`.
// Resumption goes through the reactor's ready queue, never from inside Notify, so whoever notifies
// keeps its own picture of the world. Threading: one reactor.
#pragma once

#include <coroutine>
#include <utility>

#include "engine/base/assert.h"
#include "engine/runtime/cancel.h"
#include "engine/runtime/completion.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/task.h"
#include "engine/runtime/timer.h"

namespace umblock {

enum class WakeReason { kNotified, kTimeout, kCancelled };

class WaitQueue {
 public:
  explicit WaitQueue(Reactor& reactor) : reactor_(&reactor) {}
  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;
  ~WaitQueue() { UMBLOCK_ASSERT(head_ == nullptr, "nobody waits on a queue that goes away"); }

  void NotifyAll() noexcept;
  void NotifyOne() noexcept;
  bool empty() const { return head_ == nullptr; }

  class Awaiter : private Completion, private Timer, private CancelCallback {
   public:
    Awaiter(WaitQueue* queue, Reactor* reactor, CancelToken cancel, Duration timeout, bool timed);
    ~Awaiter() = default;
    bool await_ready() noexcept;
    void await_suspend(std::coroutine_handle<> waiting);
    WakeReason await_resume() const noexcept { return reason_; }

   private:
    friend class WaitQueue;
    void Wake(WakeReason reason) noexcept;

    WaitQueue* queue_;
    Reactor* reactor_;
    CancelToken cancel_;
    Duration timeout_;
    bool timed_;
    bool queued_ = false;
    WakeReason reason_ = WakeReason::kNotified;
    Awaiter* next_ = nullptr;
    Awaiter* previous_ = nullptr;
    std::coroutine_handle<> waiting_;
  };

  Awaiter Wait(CancelToken cancel = {}) { return Awaiter(this, reactor_, cancel, {}, false); }
  Awaiter WaitFor(Duration timeout, CancelToken cancel = {}) {
    return Awaiter(this, reactor_, cancel, timeout, true);
  }

 private:
  void Add(Awaiter* awaiter);
  void Remove(Awaiter* awaiter) noexcept;

  Reactor* reactor_;
  Awaiter* head_ = nullptr;
  Awaiter* tail_ = nullptr;
};

// co_await Sleep(reactor, 1s, cancel): kTimeout when the time is over, kCancelled before.
inline WaitQueue::Awaiter Sleep(Reactor& reactor, Duration duration, CancelToken cancel = {}) {
  return WaitQueue::Awaiter(nullptr, &reactor, cancel, duration, true);
}

// Owns running tasks and their cancel source. Tasks start inside Spawn, run on the reactor, and
// free themselves when they end. Before the group dies its owner calls `Cancel()` (if they do not
// end by themselves) and awaits `Join()`.
class TaskGroup {
 public:
  explicit TaskGroup(Reactor& reactor) : idle_(reactor) {}
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;
  ~TaskGroup() { UMBLOCK_ASSERT(running_ == 0, "a task group is joined before it dies"); }

  void Spawn(Task<void> task);
  void Cancel() noexcept { source_.Cancel(); }
  CancelToken token() { return CancelToken(source_); }
  bool cancelled() const { return source_.requested(); }
  int running() const { return running_; }
  // Ends when no task runs any more (also one spawned meanwhile).
  Task<void> Join();

 private:
  struct Detached;
  static Detached Run(TaskGroup* group, Task<void> task);

  CancelSource source_;
  WaitQueue idle_;
  int running_ = 0;
};

// One at a time, first come first served.
class AsyncMutex {
 public:
  explicit AsyncMutex(Reactor& reactor) : waiters_(reactor) {}

  class [[nodiscard]] Lock {
   public:
    Lock() = default;
    explicit Lock(AsyncMutex* mutex) : mutex_(mutex) {}
    Lock(Lock&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
    Lock& operator=(Lock&& other) noexcept {
      Release();
      mutex_ = std::exchange(other.mutex_, nullptr);
      return *this;
    }
    ~Lock() { Release(); }
    void Release() noexcept;

   private:
    AsyncMutex* mutex_ = nullptr;
  };

  Task<Lock> Acquire();
  bool locked() const { return locked_; }

 private:
  WaitQueue waiters_;
  bool locked_ = false;
};

}  // namespace umblock
