// BlockingPool: a few threads for calls that may block (open, ioctl, getaddrinfo, fsync of the
// configuration). Not for the data path: its queue has a lock.
//
// Threading: Start from any thread. Threads are started when they are first needed. The destructor
// runs what is queued to its end, so that no work is left without its completion.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/runtime/reactor.h"

namespace umblock {

class BlockingPool {
 public:
  explicit BlockingPool(int max_threads) : max_threads_(max_threads < 1 ? 1 : max_threads) {}
  BlockingPool(const BlockingPool&) = delete;
  BlockingPool& operator=(const BlockingPool&) = delete;
  ~BlockingPool();

  // Runs `work` on a thread, then posts its completion to `reactor`.
  void Start(BlockingWork* work, Reactor* reactor);

 private:
  struct Item {
    BlockingWork* work;
    Reactor* reactor;
  };

  void ThreadMain();

  const int max_threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Item> queue_;
  std::vector<std::thread> threads_;
  int idle_ = 0;
  bool stopping_ = false;
};

}  // namespace umblock
