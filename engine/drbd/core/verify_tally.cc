#include "engine/drbd/core/verify_tally.h"

#include <algorithm>

namespace umblock::drbd {

void VerifyTally::Begin(bool started_here, uint64_t first, uint64_t end) {
  begun_ = true;
  status_ = {};
  status_.running = true;
  status_.started_here = started_here;
  status_.start = first * 512;
  status_.stop = end * 512;
  status_.position = first * 512;
  range_first_ = range_end_ = 0;
}

void VerifyTally::OnEqual(uint64_t first, uint64_t end) {
  if (!status_.running) return;
  status_.compared_bytes += (end - first) * 512;
}

void VerifyTally::OnDifferent(uint64_t first, uint64_t end) {
  if (!status_.running) return;
  status_.compared_bytes += (end - first) * 512;
  if (status_.different_bytes == 0) {
    status_.first_different = first * 512;
    status_.last_different_end = end * 512;
  }
  status_.first_different = std::min(status_.first_different, first * 512);
  status_.last_different_end = std::max(status_.last_different_end, end * 512);
  status_.different_bytes += (end - first) * 512;
  if (range_end_ != range_first_ && (first == range_end_ || end == range_first_)) {
    range_first_ = std::min(range_first_, first);
    range_end_ = std::max(range_end_, end);
    return;
  }
  LogRange();
  ++status_.different_ranges;
  range_first_ = first;
  range_end_ = end;
}

void VerifyTally::OnSkipped(uint64_t first, uint64_t end) {
  if (!status_.running) return;
  status_.skipped_bytes += (end - first) * 512;
}

void VerifyTally::LogRange() {
  if (range_first_ == range_end_ || status_.different_ranges > kMostLogged) return;
  logger_.Warn("{}: verify: {} bytes at offset {} differ", name_, (range_end_ - range_first_) * 512,
               range_first_ * 512);
}

void VerifyTally::End(uint64_t position, bool complete) {
  if (!status_.running) return;
  LogRange();
  range_first_ = range_end_ = 0;
  status_.running = false;
  status_.complete = complete;
  status_.position = position * 512;
  logger_.Info("{}: verify {} at offset {}: {} bytes compared, {} differ in {} ranges, {} skipped",
               name_, complete ? "finished" : "stopped", status_.position, status_.compared_bytes,
               status_.different_bytes, status_.different_ranges, status_.skipped_bytes);
}

}  // namespace umblock::drbd
