// QuiesceGuard: no I/O of the front is admitted to some volumes while an act changes what it would
// rest on. It remembers which: volumes may be added meanwhile. Acts keep them from being removed
// (they hold the lock of acts). Threading: the resource's reactor.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "engine/drbd/core/volume.h"

namespace umblock::drbd {

class QuiesceGuard {
 public:
  explicit QuiesceGuard(Volume& volume) { Add(volume); }
  explicit QuiesceGuard(std::map<int, std::unique_ptr<Volume>>& volumes) {
    for (auto& [number, of] : volumes) Add(*of);
  }
  QuiesceGuard(const QuiesceGuard&) = delete;
  QuiesceGuard& operator=(const QuiesceGuard&) = delete;
  ~QuiesceGuard() { Release(); }

  void Release() {
    for (Volume* of : std::exchange(held_, {})) of->Quiesce(false);
  }

 private:
  void Add(Volume& volume) {
    volume.Quiesce(true);
    held_.push_back(&volume);
  }
  std::vector<Volume*> held_;
};

}  // namespace umblock::drbd
