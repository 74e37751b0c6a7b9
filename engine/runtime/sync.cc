#include "engine/runtime/sync.h"

namespace umblock {

WaitQueue::Awaiter::Awaiter(WaitQueue* queue, Reactor* reactor, CancelToken cancel,
                            Duration timeout, bool timed)
    : Completion([](Completion* self, int32_t) noexcept {
        static_cast<Awaiter*>(self)->waiting_.resume();
      }),
      Timer([](Timer* self) noexcept { static_cast<Awaiter*>(self)->Wake(WakeReason::kTimeout); }),
      CancelCallback([](CancelCallback* self) noexcept {
        static_cast<Awaiter*>(self)->Wake(WakeReason::kCancelled);
      }),
      queue_(queue),
      reactor_(reactor),
      cancel_(cancel),
      timeout_(timeout),
      timed_(timed) {}

bool WaitQueue::Awaiter::await_ready() noexcept {
  if (!cancel_.requested()) return false;
  reason_ = WakeReason::kCancelled;
  return true;
}

void WaitQueue::Awaiter::await_suspend(std::coroutine_handle<> waiting) {
  waiting_ = waiting;
  if (queue_ != nullptr) queue_->Add(this);
  if (timed_) reactor_->Arm(this, reactor_->Now() + timeout_);
  CancelCallback::Register(cancel_);
}

void WaitQueue::Awaiter::Wake(WakeReason reason) noexcept {
  reason_ = reason;
  if (queued_) queue_->Remove(this);
  Timer::Disarm();
  CancelCallback::Unregister();
  reactor_->Post(this);
}

void WaitQueue::Add(Awaiter* awaiter) {
  awaiter->queued_ = true;
  awaiter->previous_ = tail_;
  (tail_ != nullptr ? tail_->next_ : head_) = awaiter;
  tail_ = awaiter;
}

void WaitQueue::Remove(Awaiter* awaiter) noexcept {
  (awaiter->previous_ != nullptr ? awaiter->previous_->next_ : head_) = awaiter->next_;
  (awaiter->next_ != nullptr ? awaiter->next_->previous_ : tail_) = awaiter->previous_;
  awaiter->next_ = nullptr;
  awaiter->previous_ = nullptr;
  awaiter->queued_ = false;
}

void WaitQueue::NotifyAll() noexcept {
  while (head_ != nullptr) head_->Wake(WakeReason::kNotified);
}

void WaitQueue::NotifyOne() noexcept {
  if (head_ != nullptr) head_->Wake(WakeReason::kNotified);
}

// A coroutine that nobody awaits: it starts at once and frees its own frame at its end.
struct TaskGroup::Detached {
  struct promise_type {
    static void* operator new(size_t bytes) { return AllocateFrame(bytes); }
    static void operator delete(void* frame, size_t bytes) noexcept { FreeFrame(frame, bytes); }
    Detached get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
};

TaskGroup::Detached TaskGroup::Run(TaskGroup* group, Task<void> task) {
  co_await std::move(task);
  if (--group->running_ == 0) group->idle_.NotifyAll();
}

void TaskGroup::Spawn(Task<void> task) {
  ++running_;
  Run(this, std::move(task));
}

Task<void> TaskGroup::Join() {
  while (running_ != 0) co_await idle_.Wait();
}

Task<AsyncMutex::Lock> AsyncMutex::Acquire() {
  if (locked_) {
    co_await waiters_.Wait();  // Release hands the lock over: it is ours, and stays locked
  } else {
    locked_ = true;
  }
  co_return Lock(this);
}

void AsyncMutex::Lock::Release() noexcept {
  if (mutex_ == nullptr) return;
  AsyncMutex* mutex = std::exchange(mutex_, nullptr);
  if (mutex->waiters_.empty()) {
    mutex->locked_ = false;
  } else {
    mutex->waiters_.NotifyOne();
  }
}

}  // namespace umblock
