// VerifyTally: what an online verify of one volume with one peer has found so far, in either role
// (drbd-metadata-resync.md 6.10.3). Differences that follow on each other count as one range,
// unless others are found in between; each range is logged, up to a bound. Threading: one reactor.
#pragma once

#include <cstdint>
#include <string>

#include "engine/base/log.h"
#include "engine/drbd/status.h"

namespace umblock::drbd {

class VerifyTally {
 public:
  // Logged in one run; more are counted only.
  static constexpr uint64_t kMostLogged = 64;

  VerifyTally(Logger& logger, const std::string& name) : logger_(logger), name_(name) {}

  // Sectors [first, end) are to be compared.
  void Begin(bool started_here, uint64_t first, uint64_t end);
  // Sectors [first, end) were compared, or skipped: in use, or not readable now. What comes when
  // none runs does not count.
  void OnEqual(uint64_t first, uint64_t end);
  void OnDifferent(uint64_t first, uint64_t end);
  void OnSkipped(uint64_t first, uint64_t end);
  // It is over, at `position`.
  void End(uint64_t position, bool complete);

  bool begun() const { return begun_; }
  bool running() const { return status_.running; }
  VerifyStatus& status() { return status_; }
  const VerifyStatus& status() const { return status_; }

 private:
  void LogRange();

  Logger& logger_;
  const std::string& name_;
  bool begun_ = false;
  VerifyStatus status_;
  uint64_t range_first_ = 0;  // sectors; the range that may still grow
  uint64_t range_end_ = 0;
};

}  // namespace umblock::drbd
