// ResyncController: how much a sync target asks for per tick (drbd-metadata-resync.md 6.5). Pure
// arithmetic on integers; one tick is 100 ms or shorter. Units: sectors.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/drbd/config.h"

namespace umblock::drbd {

class ResyncController {
 public:
  explicit ResyncController(const ResyncOptions& options) { Configure(options); }

  void Configure(const ResyncOptions& options);
  void Reset();

  // `arrived`: sectors answered since the last tick; `elapsed`: since then. Returns how many
  // sectors may be requested now: never more in any stretch of time than c-max-rate (without a
  // plan: resync-rate) and one tick of 100 ms allow, however often it is called.
  uint64_t Tick(uint64_t arrived, Duration elapsed);
  // What was asked for since.
  void OnRequested(uint64_t sectors) {
    in_flight_ += static_cast<int64_t>(sectors);
    spent_ += static_cast<int64_t>(sectors) * 1000;
  }
  int64_t in_flight() const { return in_flight_; }
  // More was asked for than the rate allows up to now.
  bool overdrawn() const { return spent_ > 0 && (plan_.empty() || options_.c_max_rate != 0); }

 private:
  uint64_t WithinRate(int64_t sectors, uint32_t rate, Duration elapsed);

  ResyncOptions options_;
  std::vector<int64_t> plan_;
  size_t oldest_ = 0;
  int64_t total_ = 0;
  int64_t in_flight_ = 0;
  int64_t spent_ = 0;  // requested ahead of the rate limit, thousandths of sectors
};

}  // namespace umblock::drbd
