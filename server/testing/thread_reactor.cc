#include "server/testing/thread_reactor.h"

#include <chrono>
#include <future>

namespace umblock::server {

ThreadReactor::ThreadReactor(Logger* logger)
    : logger_(logger),
      buffers_(*this, size_t{16} << 20),
      thread_([this] { Main(); }),
      blocking_thread_([this] { BlockingMain(); }) {}

ThreadReactor::~ThreadReactor() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  wake_blocking_.notify_all();
  blocking_thread_.join();
  thread_.join();
}

namespace {

struct RunOnce : Completion {
  RunOnce(const std::function<Task<void>()>& function, TaskGroup* tasks, std::promise<void>* end)
      : Completion([](Completion* self, int32_t) noexcept {
          auto* run = static_cast<RunOnce*>(self);
          run->group->Spawn(Finish(run));
        }),
        make(function),
        group(tasks),
        done(end) {}

  static Task<void> Finish(RunOnce* run) {
    co_await run->make();
    run->done->set_value();
  }

  const std::function<Task<void>()>& make;
  TaskGroup* group;
  std::promise<void>* done;
};

}  // namespace

void ThreadReactor::RunAndWait(const std::function<Task<void>()>& make) {
  // The group lives on the heap: its bookkeeping may run after `done` was set.
  struct Owner : Completion {
    explicit Owner(Reactor& reactor)
        : Completion([](Completion* self, int32_t) noexcept { delete static_cast<Owner*>(self); }),
          group(reactor) {}
    TaskGroup group;
  };
  auto* owner = new Owner(*this);
  std::promise<void> done;
  RunOnce once(make, &owner->group, &done);
  PostFromAnyThread(&once, 0);
  done.get_future().wait();
  PostFromAnyThread(owner, 0);
}

Time ThreadReactor::Now() const {
  return Time(
      std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now().time_since_epoch()));
}

void ThreadReactor::FillRandom(MutableBytes bytes) {
  for (std::byte& byte : bytes) byte = std::byte{next_random_++};
}

void ThreadReactor::Post(Completion* completion, int32_t result) {
  PostFromAnyThread(completion, result);
}

void ThreadReactor::PostFromAnyThread(Completion* completion, int32_t result) {
  {
    std::lock_guard lock(mutex_);
    completion->result = result;
    posted_.push_back(completion);
  }
  wake_.notify_one();
}

Task<Result<std::unique_ptr<File>>> ThreadReactor::OpenFile(OpenFileRequest) {
  co_return MakeError(ErrorCode::kUnimplemented, "no files here");
}
Task<Result<std::unique_ptr<Stream>>> ThreadReactor::Connect(ConnectRequest, CancelToken) {
  co_return MakeError(ErrorCode::kUnimplemented, "no network here");
}
Result<std::unique_ptr<Listener>> ThreadReactor::Listen(const ListenRequest&) {
  return MakeError(ErrorCode::kUnimplemented, "no network here");
}

void ThreadReactor::StartBlocking(BlockingWork* work) {
  {
    std::lock_guard lock(mutex_);
    blocking_.push_back(work);
  }
  wake_blocking_.notify_one();
}

void ThreadReactor::BlockingMain() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_blocking_.wait(lock, [this] { return stop_ || !blocking_.empty(); });
    if (blocking_.empty()) return;
    BlockingWork* work = blocking_.front();
    blocking_.pop_front();
    lock.unlock();
    Completion* done = work->done;
    const int32_t result = work->Run();
    PostFromAnyThread(done, result);
    lock.lock();
  }
}

void ThreadReactor::Main() {
  for (;;) {
    timers_.FireDue(Now());
    std::unique_lock lock(mutex_);
    if (posted_.empty()) {
      if (stop_) return;
      const auto due = timers_.NextDeadline();
      const auto ready = [this] { return stop_ || !posted_.empty(); };
      if (due) {
        wake_.wait_for(lock, *due - Now(), ready);
      } else {
        wake_.wait(lock, ready);
      }
      continue;
    }
    Completion* completion = posted_.front();
    posted_.pop_front();
    lock.unlock();
    completion->fn(completion, completion->result);
  }
}

}  // namespace umblock::server
