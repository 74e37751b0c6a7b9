// UringReactor: the Reactor of production, one io_uring and one thread.
//
// Made by Create on any thread, run by Run on one; from then on it belongs to that thread. Owners
// of tasks, streams and files on it close them before it is destroyed. docs/runtime.md describes
// its turns, its limits and its counters.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <thread>

#include "engine/runtime/buffer_pool.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/uring/completion_list.h"
#include "engine/runtime/uring/post_queue.h"
#include "engine/runtime/uring/registered_arenas.h"
#include "engine/runtime/uring/ring.h"
#include "engine/runtime/uring/spin_policy.h"
#include "engine/runtime/uring/uring_options.h"

namespace umblock {

class BlockingPool;
class FileOpPool;

class UringReactor final : public Reactor {
 public:
  static Result<std::unique_ptr<UringReactor>> Create(UringOptions options);
  ~UringReactor() override;

  // Runs turns until Stop. May be called again, on the same thread.
  void Run();
  // From any thread. The turn that runs is finished.
  void Stop();

  Time Now() const override;
  void FillRandom(MutableBytes bytes) override;
  void Post(Completion* completion, int32_t result = 0) override;
  void PostFromAnyThread(Completion* completion, int32_t result = 0) override;
  void PostAtTurnEnd(Completion* completion) override;
  void Arm(Timer* timer, Time deadline) override { timers_.Arm(timer, deadline); }

  Task<Result<std::unique_ptr<File>>> OpenFile(OpenFileRequest request) override;
  Task<Result<std::unique_ptr<Stream>>> Connect(ConnectRequest request,
                                                CancelToken cancel) override;
  Result<std::unique_ptr<Listener>> Listen(const ListenRequest& request) override;
  Task<Result<std::unique_ptr<MappedMemory>>> MapMemory(MapMemoryRequest request) override;
  void StartBlocking(BlockingWork* work) override;

  BufferPool& buffers() override { return *buffers_; }
  Logger& logger() override { return *logger_; }

  // On the reactor's thread.
  const UringCounters& counters() const { return ring_.counters; }
  UringMode mode() const { return ring_.mode(); }

  // For this directory's own classes.
  Ring& ring() { return ring_; }
  FileOpPool& file_ops() { return *file_ops_; }
  const RegisteredArenas& arenas() const { return arenas_; }
  void CountSyscall(int calls = 1) { ring_.counters.other_syscalls += calls; }

 private:
  explicit UringReactor(const UringOptions& options);

  Status Start();
  void ArmWake();
  static void OnWake(UringOp* op, int32_t result, uint32_t flags) noexcept;
  void Wake();

  void Turn();
  void RunReady(Time deadline);
  bool RunQueue(Time deadline);
  void RunTurnEnd();
  void TakePosted();
  bool HasWork() const;
  void Wait();
  bool Spin(Time since, std::optional<Time> wake_at);

  struct WakeOp : UringOp {
    explicit WakeOp(UringReactor* r) : UringOp(&OnWake), reactor(r) {}
    UringReactor* reactor;
  };

  const UringOptions options_;
  StderrLogger default_logger_;
  Logger* logger_;
  Ring ring_;
  RegisteredArenas arenas_;
  SpinPolicy spin_;

  CompletionList ready_;
  CompletionList turn_end_;
  TimerQueue timers_;

  int wake_fd_ = -1;
  WakeOp wake_op_{this};

  // Shared with other threads.
  alignas(64) PostQueue posted_;
  std::atomic<bool> sleeping_{false};
  std::atomic<bool> stop_{false};
  std::atomic<uint32_t> posting_{0};  // threads inside PostFromAnyThread or Stop
  std::atomic<uint64_t> wakes_{0};

  std::unique_ptr<FileOpPool> file_ops_;
  std::unique_ptr<BufferPool> buffers_;
  std::unique_ptr<BlockingPool> own_blocking_;
  BlockingPool* blocking_ = nullptr;
};

}  // namespace umblock
