// FileMemory: how much memory the requests of one file hold, and its bound.
//
// When the bound is reached the session thread waits in Take, which holds back all files of the
// mount: right for a file that is overloaded, for a while. A file of which nothing ends while it is
// waited for counts as stalled: from then on Take gives up at once, until there was room again.
// Threading: Take on the session thread, Give on any; neither takes a lock.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <semaphore>

namespace umblock {

class FileMemory {
 public:
  explicit FileMemory(uint64_t limit_bytes) : limit_(limit_bytes) {}

  // False: no room, and for `patience` nothing ended that would make some.
  bool Take(uint64_t bytes, std::chrono::milliseconds patience) {
    if (TryTake(bytes)) {
      stalled_ = false;
      return true;
    }
    if (stalled_) return false;
    waiting_.store(true);
    bool taken = TryTake(bytes);
    // Whatever ends shows that the file is alive, though it may be too small yet.
    while (!taken && given_.try_acquire_for(patience)) taken = TryTake(bytes);
    waiting_.store(false);
    while (given_.try_acquire()) {
    }
    stalled_ = !taken;
    return taken;
  }
  void Give(uint64_t bytes) {
    used_.fetch_sub(bytes);
    if (waiting_.load()) given_.release();
  }

  bool stalled() const { return stalled_; }  // as Take
  uint64_t limit() const { return limit_; }

 private:
  bool TryTake(uint64_t bytes) {
    if (used_.load() + bytes > limit_) return false;
    used_.fetch_add(bytes);
    return true;
  }

  const uint64_t limit_;
  // Sequentially consistent: either Take sees what Give gave or Give sees that Take waits.
  std::atomic<uint64_t> used_{0};
  std::atomic<bool> waiting_{false};
  std::counting_semaphore<> given_{0};
  bool stalled_ = false;
};

}  // namespace umblock
