// ThreadReactor: a small Reactor on a thread, a mutex and a condition variable, for tests of the
// management side. Without files and network; ThreadSanitizer sees all of its synchronisation.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "engine/runtime/buffer_pool.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/sync.h"

namespace umblock::server {

class ThreadReactor final : public Reactor {
 public:
  explicit ThreadReactor(Logger* logger);
  ~ThreadReactor() override;

  // From another thread: runs a task on the reactor and waits for its end.
  template <typename T>
  T RunTask(std::move_only_function<Task<T>()> make) {
    std::optional<T> value;
    RunAndWait([&make, &value]() -> Task<void> { value.emplace(co_await make()); });
    return std::move(*value);
  }
  void RunAndWait(const std::function<Task<void>()>& make);

  Time Now() const override;
  void FillRandom(MutableBytes bytes) override;
  void Post(Completion* completion, int32_t result) override;
  void PostFromAnyThread(Completion* completion, int32_t result) override;
  void PostAtTurnEnd(Completion* completion) override { Post(completion, 0); }
  void Arm(Timer* timer, Time deadline) override { timers_.Arm(timer, deadline); }
  Task<Result<std::unique_ptr<File>>> OpenFile(OpenFileRequest request) override;
  Task<Result<std::unique_ptr<Stream>>> Connect(ConnectRequest request,
                                                CancelToken cancel) override;
  Result<std::unique_ptr<Listener>> Listen(const ListenRequest& request) override;
  void StartBlocking(BlockingWork* work) override;
  BufferPool& buffers() override { return buffers_; }
  Logger& logger() override { return *logger_; }

 private:
  void Main();
  void BlockingMain();

  Logger* logger_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable wake_blocking_;
  std::deque<Completion*> posted_;
  std::deque<BlockingWork*> blocking_;
  bool stop_ = false;
  uint8_t next_random_ = 7;  // no two draws are equal, for a while
  TimerQueue timers_;
  BufferPool buffers_;
  std::thread thread_;
  std::thread blocking_thread_;
};

}  // namespace umblock::server
