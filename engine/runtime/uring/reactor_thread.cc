#include "engine/runtime/uring/reactor_thread.h"

#include <pthread.h>
#include <sched.h>

#include <condition_variable>
#include <csignal>
#include <mutex>

namespace umblock {
namespace {

void NameAndPin(const ReactorThreadOptions& options, Logger& logger) {
  // Signals are for the process's main thread.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  pthread_setname_np(pthread_self(), options.name.substr(0, 15).c_str());
  if (options.cpu < 0) return;
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(static_cast<size_t>(options.cpu), &cpus);
  int error = pthread_setaffinity_np(pthread_self(), sizeof cpus, &cpus);
  if (error != 0) {
    logger.Warn("{}: not pinned to CPU {}: {}", options.name, options.cpu,
                Error::FromErrno(error, "pthread_setaffinity_np").message());
  }
}

}  // namespace

// A task that another thread waits for.
struct ReactorThread::Call : Completion {
  Call(ReactorThread* t, const std::function<Task<void>()>& m)
      : Completion([](Completion* self, int32_t) noexcept {
          auto* call = static_cast<Call*>(self);
          call->thread->calls_.Spawn(RunCall(call));
        }),
        thread(t),
        main(m) {}

  ReactorThread* thread;
  const std::function<Task<void>()>& main;
  std::mutex mutex;
  std::condition_variable ended;
  bool done = false;
};

Result<std::unique_ptr<ReactorThread>> ReactorThread::Start(ReactorThreadOptions options) {
  auto reactor = UringReactor::Create(options.uring);
  if (!reactor) return std::unexpected(reactor.error().Within(options.name));
  std::unique_ptr<ReactorThread> thread(new ReactorThread(std::move(*reactor)));
  UringReactor* raw = thread->reactor_.get();
  thread->thread_ = std::thread([raw, options = std::move(options)] {
    NameAndPin(options, raw->logger());
    raw->Run();
  });
  return thread;
}

ReactorThread::ReactorThread(std::unique_ptr<UringReactor> reactor)
    : reactor_(std::move(reactor)), calls_(*reactor_) {}

ReactorThread::~ReactorThread() {
  reactor_->Stop();
  if (thread_.joinable()) thread_.join();
}

void ReactorThread::RunAndWait(const std::function<Task<void>()>& main) {
  Call call(this, main);
  reactor_->PostFromAnyThread(&call);
  std::unique_lock lock(call.mutex);
  call.ended.wait(lock, [&call] { return call.done; });
}

Task<void> ReactorThread::RunCall(Call* call) {
  co_await call->main();
  // The waiter destroys the call as soon as it gets the lock: the last touch is the unlock.
  std::lock_guard lock(call->mutex);
  call->done = true;
  call->ended.notify_one();
}

UringCounters ReactorThread::counters() {
  return RunTask([this]() -> Task<UringCounters> { co_return reactor_->counters(); });
}

}  // namespace umblock
