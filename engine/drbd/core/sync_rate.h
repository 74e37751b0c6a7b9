// SyncRate: how fast something that runs for long gets on, over the last seconds. Values, no clock.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/drbd/status.h"
#include "engine/runtime/time.h"

namespace umblock::drbd {

class SyncRate {
 public:
  void Begin(Time now, uint64_t left_bytes) { marks_.assign(1, {now, left_bytes}); }
  // Called now and then.
  void Sample(Time now, uint64_t left_bytes) {
    if (!marks_.empty() && now - marks_.back().at < kMarkEvery) return;
    marks_.push_back({now, left_bytes});
    if (marks_.size() > kMarks) marks_.erase(marks_.begin());
  }
  // Fills in rate and eta of `progress` from its left_bytes.
  void Describe(Time now, SyncProgress& progress) const {
    if (marks_.empty()) return;
    const Mark& mark = marks_.size() > 1 ? marks_[marks_.size() - 2] : marks_.front();
    auto elapsed_ms = static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(now - mark.at).count());
    if (elapsed_ms > 0 && mark.left_bytes > progress.left_bytes) {
      progress.rate_bytes_per_second = (mark.left_bytes - progress.left_bytes) * 1000 / elapsed_ms;
    }
    if (progress.rate_bytes_per_second > 0) {
      progress.eta = Duration(std::chrono::seconds(
          static_cast<int64_t>(progress.left_bytes / progress.rate_bytes_per_second)));
    }
  }

 private:
  static constexpr Duration kMarkEvery = 3s;
  static constexpr size_t kMarks = 8;
  struct Mark {
    Time at;
    uint64_t left_bytes;
  };
  std::vector<Mark> marks_;
};

}  // namespace umblock::drbd
