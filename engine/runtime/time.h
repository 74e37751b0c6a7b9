// Durations and points of monotonic time, in nanoseconds.
#pragma once

#include <chrono>

namespace umblock {

using Duration = std::chrono::nanoseconds;

// A reactor's monotonic clock: comparable only with the same reactor's other readings (clocks of
// two nodes differ, in the simulator as in life).
struct MonotonicClock {
  using duration = Duration;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<MonotonicClock>;
  static constexpr bool is_steady = true;
};
using Time = MonotonicClock::time_point;

using namespace std::chrono_literals;  // 100ms, 6s

}  // namespace umblock
