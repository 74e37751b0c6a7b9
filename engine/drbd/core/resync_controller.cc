#include "engine/drbd/core/resync_controller.h"

#include <algorithm>

namespace umblock::drbd {

void ResyncController::Configure(const ResyncOptions& options) {
  bool same_plan = options.c_plan_ahead == options_.c_plan_ahead && !plan_.empty();
  options_ = options;
  if (!same_plan) {
    plan_.assign(options.c_plan_ahead, 0);
    oldest_ = 0;
    total_ = 0;
  }
}

void ResyncController::Reset() {
  std::fill(plan_.begin(), plan_.end(), 0);
  oldest_ = 0;
  total_ = 0;
  in_flight_ = 0;
  spent_ = 0;
}

// `rate` in KiB/s, 2 sectors each.
uint64_t ResyncController::WithinRate(int64_t sectors, uint32_t rate, Duration elapsed) {
  int64_t per_ms = int64_t{rate} * 2;  // thousandths of sectors
  spent_ = std::max<int64_t>(spent_ - per_ms * (elapsed / 1us) / 1000, 0);
  int64_t left = (per_ms * 100 - spent_) / 1000;
  return static_cast<uint64_t>(std::clamp<int64_t>(sectors, 0, std::max<int64_t>(left, 0)));
}

uint64_t ResyncController::Tick(uint64_t arrived, Duration elapsed) {
  // Rates are per 100 ms: KiB/s are 2 sectors each.
  int64_t came = static_cast<int64_t>(arrived);
  in_flight_ = std::max<int64_t>(in_flight_ - came, 0);
  Duration passed = std::clamp<Duration>(elapsed, Duration::zero(), 1s);
  elapsed = std::clamp<Duration>(elapsed, 1ms, 1s);
  if (plan_.empty()) {
    return WithinRate(int64_t{options_.resync_rate} * 2 / 10, options_.resync_rate, passed);
  }
  if (elapsed < 100ms) came = came * (100ms / 1ms) / (elapsed / 1ms);

  int64_t steps = static_cast<int64_t>(plan_.size());
  int64_t want;
  if (in_flight_ + came == 0) {
    want = int64_t{options_.resync_rate} * 2 / 10 * steps;
  } else if (options_.c_fill_target != 0) {
    want = options_.c_fill_target;
  } else {
    want = came * int64_t{options_.c_delay_target} * 100 / std::max<int64_t>(elapsed / 1ms, 1);
  }
  int64_t correction = want - in_flight_ - total_;
  int64_t per_step = correction / steps;
  for (int64_t& entry : plan_) entry += per_step;
  total_ += per_step * steps;
  int64_t current = plan_[oldest_];
  plan_[oldest_] = 0;
  oldest_ = (oldest_ + 1) % plan_.size();
  total_ -= current;

  if (options_.c_max_rate == 0) return static_cast<uint64_t>(std::max<int64_t>(came + current, 0));
  return WithinRate(came + current, options_.c_max_rate, passed);
}

}  // namespace umblock::drbd
