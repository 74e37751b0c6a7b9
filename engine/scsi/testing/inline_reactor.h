// A Reactor for unit tests and fuzzers: a queue of completions, a clock that the test moves, a
// pseudo random source; no files and no sockets.
#pragma once

#include <cstdint>

#include "engine/runtime/buffer_pool.h"
#include "engine/runtime/reactor.h"

namespace umblock::scsi {

class InlineReactor final : public Reactor {
 public:
  InlineReactor() : buffers_(*this, size_t{64} << 20) {}

  // Runs until nothing is ready.
  void Run() {
    while (head_ != nullptr || turn_end_ != nullptr) {
      if (head_ == nullptr) {
        head_ = turn_end_;
        tail_ = turn_end_;
        while (tail_->next != nullptr) tail_ = tail_->next;
        turn_end_ = nullptr;
      }
      Completion* first = head_;
      head_ = first->next;
      if (head_ == nullptr) tail_ = nullptr;
      first->next = nullptr;
      first->fn(first, first->result);
    }
  }
  void Advance(Duration by) {
    now_ += by;
    timers_.FireDue(now_);
    Run();
  }

  Time Now() const override { return now_; }
  void FillRandom(MutableBytes bytes) override {
    for (std::byte& b : bytes) {
      random_ = random_ * 6364136223846793005 + 1442695040888963407;
      b = static_cast<std::byte>(random_ >> 56);
    }
  }
  void Post(Completion* completion, int32_t result) override {
    completion->result = result;
    completion->next = nullptr;
    (tail_ == nullptr ? head_ : tail_->next) = completion;
    tail_ = completion;
  }
  void PostFromAnyThread(Completion* completion, int32_t result) override {
    Post(completion, result);
  }
  void PostAtTurnEnd(Completion* completion) override {
    completion->result = 0;
    completion->next = turn_end_;
    turn_end_ = completion;
  }
  void Arm(Timer* timer, Time deadline) override { timers_.Arm(timer, deadline); }
  Task<Result<std::unique_ptr<File>>> OpenFile(OpenFileRequest) override {
    co_return MakeError(ErrorCode::kUnimplemented, "no files here");
  }
  Task<Result<std::unique_ptr<Stream>>> Connect(ConnectRequest, CancelToken) override {
    co_return MakeError(ErrorCode::kUnimplemented, "no sockets here");
  }
  Result<std::unique_ptr<Listener>> Listen(const ListenRequest&) override {
    return MakeError(ErrorCode::kUnimplemented, "no sockets here");
  }
  void StartBlocking(BlockingWork* work) override { Post(work->done, work->Run()); }
  BufferPool& buffers() override { return buffers_; }
  Logger& logger() override { return logger_; }

 private:
  Completion* head_ = nullptr;
  Completion* tail_ = nullptr;
  Completion* turn_end_ = nullptr;
  Time now_{};
  uint64_t random_ = 1;
  TimerQueue timers_;
  StderrLogger logger_{LogLevel::kError};
  BufferPool buffers_;
};

}  // namespace umblock::scsi
