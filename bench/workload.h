// What is asked of a device, and how it went: shared by the programs that measure.
#pragma once

#include <cstdint>
#include <string>

#include "bench/latency_histogram.h"

namespace umblock::bench {

struct Workload {
  uint32_t depth = 1;    // requests in flight
  uint32_t size = 4096;  // bytes per request
  int read_percent = 0;  // the rest are writes
  bool sequential = false;
  double seconds = 3;  // measured, after warm-up
  double warm_up = 0.3;
  uint64_t span = 0;  // bytes of the device that are used; 0: all
  uint64_t seed = 1;
  int cpu = -1;  // the load's own CPU
};

struct Measurement {
  uint64_t requests = 0;
  uint64_t errors = 0;
  double seconds = 0;
  double load_cpu_seconds = 0;  // of the load generator
  LatencyHistogram latency;
};

// Recognises "--depth N" and so on; false if `name` is none of its options.
bool ParseWorkloadOption(const std::string& name, const std::string& value, Workload* workload);
void PinToCpu(int cpu);
double ProcessCpuSeconds();
uint64_t NowNs();
// One line of JSON.
void Print(const Workload& workload, const Measurement& measurement);

// A small, fast generator (xorshift): the load must not spend its time on chance.
class Chance {
 public:
  explicit Chance(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 | 1) {}
  uint64_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }

 private:
  uint64_t state_;
};

// Offsets of a workload, in units of its size.
class Offsets {
 public:
  Offsets(const Workload& workload, uint64_t device_bytes)
      : chance_(workload.seed),
        sequential_(workload.sequential),
        count_((workload.span == 0 ? device_bytes : workload.span) / workload.size) {}
  uint64_t count() const { return count_; }
  uint64_t Next() {
    if (!sequential_) return chance_.Next() % count_;
    uint64_t now = next_++;
    if (next_ == count_) next_ = 0;
    return now;
  }
  bool NextIsRead(int read_percent) {
    if (read_percent == 0 || read_percent == 100) return read_percent != 0;
    return static_cast<int>(chance_.Next() % 100) < read_percent;
  }

 private:
  Chance chance_;
  bool sequential_;
  uint64_t count_;
  uint64_t next_ = 0;
};

}  // namespace umblock::bench
