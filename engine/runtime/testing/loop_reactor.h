// LoopReactor: a Reactor without network, disks or time of its own, for the tests of what needs
// only posting and timers. Its clock moves when the test says so.
#pragma once

#include "engine/runtime/buffer_pool.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/sync.h"

namespace umblock {

class LoopReactor final : public Reactor {
 public:
  // Runs what is ready until nothing is. Timers fire only in Advance.
  void RunReady() {
    while (head_ != nullptr || turn_end_ != nullptr) {
      Completion** list = head_ != nullptr ? &head_ : &turn_end_;
      Completion* first = *list;
      *list = first->next;
      first->fn(first, first->result);
      timers_.FireDue(now_);
    }
  }
  void Advance(Duration by) {
    RunReady();
    Time until = now_ + by;
    while (timers_.NextDeadline() && *timers_.NextDeadline() <= until) {
      now_ = *timers_.NextDeadline();
      timers_.FireDue(now_);
      RunReady();
    }
    now_ = until;
  }
  // Runs a task that ends without the clock.
  void RunTask(Task<void> task) {
    TaskGroup group(*this);
    group.Spawn(std::move(task));
    RunReady();
    UMBLOCK_ASSERT(group.running() == 0, "the test's task has ended");
  }

  Time Now() const override { return now_; }
  void FillRandom(MutableBytes bytes) override {
    for (std::byte& b : bytes) b = std::byte{4};
  }
  void Post(Completion* completion, int32_t result = 0) override {
    completion->result = result;
    Append(&head_, completion);
  }
  void PostFromAnyThread(Completion* completion, int32_t result = 0) override {
    Post(completion, result);
  }
  void PostAtTurnEnd(Completion* completion) override {
    completion->result = 0;
    Append(&turn_end_, completion);
  }
  void Arm(Timer* timer, Time deadline) override { timers_.Arm(timer, deadline); }
  Task<Result<std::unique_ptr<File>>> OpenFile(OpenFileRequest) override {
    co_return MakeError(ErrorCode::kUnimplemented, "no files here");
  }
  Task<Result<std::unique_ptr<Stream>>> Connect(ConnectRequest, CancelToken) override {
    co_return MakeError(ErrorCode::kUnimplemented, "no network here");
  }
  Result<std::unique_ptr<Listener>> Listen(const ListenRequest&) override {
    return MakeError(ErrorCode::kUnimplemented, "no network here");
  }
  void StartBlocking(BlockingWork* work) override { Post(work->done, work->Run()); }
  BufferPool& buffers() override { return buffers_; }
  Logger& logger() override { return logger_; }

 private:
  static void Append(Completion** list, Completion* completion) {
    completion->next = nullptr;
    while (*list != nullptr) list = &(*list)->next;
    *list = completion;
  }

  Time now_{};
  Completion* head_ = nullptr;
  Completion* turn_end_ = nullptr;
  TimerQueue timers_;
  BufferPool buffers_{*this, size_t{16} << 20};
  StderrLogger logger_;
};

}  // namespace umblock
