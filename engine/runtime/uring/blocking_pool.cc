#include "engine/runtime/uring/blocking_pool.h"

#include <pthread.h>

#include <csignal>

namespace umblock {

BlockingPool::~BlockingPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void BlockingPool::Start(BlockingWork* work, Reactor* reactor) {
  {
    std::lock_guard lock(mutex_);
    queue_.push_back({work, reactor});
    if (static_cast<int>(queue_.size()) > idle_ &&
        static_cast<int>(threads_.size()) < max_threads_) {
      threads_.emplace_back([this] { ThreadMain(); });
    }
  }
  wake_.notify_one();
}

void BlockingPool::ThreadMain() {
  // Signals are for the process's main thread.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  pthread_setname_np(pthread_self(), "umblock-block");

  std::unique_lock lock(mutex_);
  while (true) {
    while (queue_.empty() && !stopping_) {
      ++idle_;
      wake_.wait(lock);
      --idle_;
    }
    if (queue_.empty()) return;
    Item item = queue_.front();
    queue_.pop_front();
    lock.unlock();
    Completion* done = item.work->done;
    int32_t result = item.work->Run();
    item.reactor->PostFromAnyThread(done, result);
    lock.lock();
  }
}

}  // namespace umblock
