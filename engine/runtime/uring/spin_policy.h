// SpinPolicy: should a reactor that has nothing to do spin for a moment before it sleeps?
//
// It spins as long as the recent gaps between going idle and the next arrival were shorter, on
// average, than the longest spin. A gap counts at most 16 longest spins, so that one long pause
// ends spinning soon and an idle reactor does not spin at all, and so that returning traffic starts
// it again after some ten arrivals.
#pragma once

#include <algorithm>

#include "engine/runtime/time.h"

namespace umblock {

class SpinPolicy {
 public:
  // 0: never spin.
  explicit SpinPolicy(Duration longest) : longest_(longest), average_(longest * kCeiling) {}

  Duration longest() const { return longest_; }
  bool ShouldSpin() const { return average_ < longest_; }
  // `gap`: from going idle until there was something to do.
  void Record(Duration gap) { average_ = (average_ * 7 + std::min(gap, longest_ * kCeiling)) / 8; }

 private:
  static constexpr int kCeiling = 16;

  Duration longest_;
  Duration average_;
};

}  // namespace umblock
