// Reactor: one thread's event loop, and the engine's only door to time, randomness, network and
// disk. Implemented on io_uring (engine/runtime/uring) and on simulated time, network and disks
// (engine/runtime/sim); code in engine/ sees only this interface and runs on both.
//
// A turn: run what is ready (completions, posted work, due timers) until nothing is, then the
// turn-end hooks, then hand all new operations to the kernel in one go and wait. A turn should stay
// below about 1 ms: long scans call Yield().
//
// Threading: every member is for the reactor's own thread, except PostFromAnyThread.
#pragma once

#include <coroutine>
#include <cstdint>
#include <memory>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/base/log.h"
#include "engine/runtime/cancel.h"
#include "engine/runtime/completion.h"
#include "engine/runtime/file.h"
#include "engine/runtime/mapped_memory.h"
#include "engine/runtime/stream.h"
#include "engine/runtime/task.h"
#include "engine/runtime/time.h"
#include "engine/runtime/timer.h"

namespace umblock {

class BufferPool;

// Work for the small pool of threads that may block (getaddrinfo, handlers, config fsync).
// Run() is called on a pool thread, then `done` on the reactor that started it, with Run's result.
class BlockingWork {
 public:
  explicit BlockingWork(Completion* done_completion) : done(done_completion) {}
  virtual ~BlockingWork() = default;
  virtual int32_t Run() noexcept = 0;
  Completion* done;
};

class Reactor {
 public:
  virtual ~Reactor() = default;

  virtual Time Now() const = 0;
  // From the system's random source (the simulator: from the seed).
  virtual void FillRandom(MutableBytes bytes) = 0;
  uint64_t Random64() {
    std::byte raw[8];
    FillRandom(raw);
    return LoadLe<uint64_t>(raw);
  }

  // Calls completion->fn(result) later in this turn, after what is queued already.
  virtual void Post(Completion* completion, int32_t result = 0) = 0;
  // The same from any thread (fn runs on this reactor); wakes the reactor if it sleeps.
  virtual void PostFromAnyThread(Completion* completion, int32_t result = 0) = 0;
  // Calls completion->fn(0) once nothing is ready any more in this turn, before operations are
  // handed to the kernel: the place where output queues are flushed.
  virtual void PostAtTurnEnd(Completion* completion) = 0;

  virtual void Arm(Timer* timer, Time deadline) = 0;
  void ArmIn(Timer* timer, Duration delay) { Arm(timer, Now() + delay); }

  virtual Task<Result<std::unique_ptr<File>>> OpenFile(OpenFileRequest request) = 0;
  virtual Task<Result<std::unique_ptr<Stream>>> Connect(ConnectRequest request,
                                                        CancelToken cancel) = 0;
  virtual Result<std::unique_ptr<Listener>> Listen(const ListenRequest& request) = 0;
  virtual Task<Result<std::unique_ptr<MappedMemory>>> MapMemory(MapMemoryRequest request) {
    co_return MakeError(ErrorCode::kUnimplemented, "{}: this reactor maps no memory", request.path);
  }
  virtual void StartBlocking(BlockingWork* work) = 0;

  virtual BufferPool& buffers() = 0;
  virtual Logger& logger() = 0;

  // co_await reactor.Yield(): lets everything else that is ready run first.
  auto Yield() {
    struct Awaiter : CompletionAwaiter<Awaiter> {
      Reactor* reactor;
      explicit Awaiter(Reactor* r) : reactor(r) {}
      void Start(Completion* c) { reactor->Post(c); }
    };
    return Awaiter(this);
  }
  // co_await reactor.SwitchTo(): continues the calling coroutine, which runs on another reactor or
  // thread now, on this reactor.
  auto SwitchTo() {
    struct Awaiter : CompletionAwaiter<Awaiter> {
      Reactor* reactor;
      explicit Awaiter(Reactor* r) : reactor(r) {}
      void Start(Completion* c) { reactor->PostFromAnyThread(c); }
    };
    return Awaiter(this);
  }
};

}  // namespace umblock
