// StopSignals: how SIGTERM and SIGINT end the daemon. The first asks: what runs is finished or
// stopped in order. The second, whether the daemon is starting, running down or stuck in either,
// ends the process at once with status 1, and the log says so. SIGHUP is ignored.
//
// Threading: made on the main thread before any other is started (the log's too: `log` is used from
// During on), since all inherit that these signals are blocked; used on the main thread only,
// except asked().
#pragma once

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <thread>
#include <utility>

#include "engine/base/error.h"
#include "server/daemon_log.h"

namespace umblock::server {

class StopSignals {
 public:
  explicit StopSignals(DaemonLog* log);

  bool asked() const { return asked_.load(std::memory_order_acquire); }
  // Returns when the daemon is asked to stop.
  void WaitUntilAsked();
  // Runs `step`, which may take long and gives a Status, on a thread of its own while this one
  // takes signals.
  template <typename Step>
  Status During(Step step) {
    Status status;
    std::atomic<bool> done = false;
    std::thread thread([&, waiter = ::pthread_self()] {
      status = step();
      done.store(true, std::memory_order_release);
      ::pthread_kill(waiter, kStepEnded);
    });
    while (!done.load(std::memory_order_acquire)) Take();
    thread.join();
    return status;
  }

 private:
  static constexpr int kStepEnded = SIGUSR2;  // sent to the main thread by a step's

  // Waits for one signal. Does not return if it is the second that asks.
  void Take();

  DaemonLog* log_;
  sigset_t signals_;
  std::atomic<bool> asked_ = false;
};

}  // namespace umblock::server
