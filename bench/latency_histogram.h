// Latencies in log-linear buckets: 64 per power of two, so that a percentile is off by at most
// 1.6 percent.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace umblock::bench {

class LatencyHistogram {
 public:
  void Add(uint64_t nanoseconds) {
    ++counts_[Index(nanoseconds)];
    ++total_;
    sum_ += nanoseconds;
  }
  uint64_t count() const { return total_; }
  double mean_us() const {
    return total_ == 0 ? 0 : static_cast<double>(sum_) / static_cast<double>(total_) / 1e3;
  }
  // `fraction` from 0 to 1; microseconds.
  double PercentileUs(double fraction) const {
    auto wanted = static_cast<uint64_t>(static_cast<double>(total_) * fraction);
    uint64_t seen = 0;
    for (size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen > wanted) return static_cast<double>(Value(i)) / 1e3;
    }
    return 0;
  }

 private:
  static constexpr int kSubBits = 6;

  static size_t Index(uint64_t value) {
    int exponent = 63 - std::countl_zero(value | (uint64_t{1} << kSubBits));
    uint64_t sub = (value >> (exponent - kSubBits)) & ((1u << kSubBits) - 1);
    return static_cast<size_t>(exponent - kSubBits) << kSubBits | sub;
  }
  static uint64_t Value(size_t index) {
    uint64_t sub = index & ((1u << kSubBits) - 1);
    return ((uint64_t{1} << kSubBits) | sub) << (index >> kSubBits);
  }

  std::array<uint64_t, 58 << kSubBits> counts_{};
  uint64_t total_ = 0;
  uint64_t sum_ = 0;
};

}  // namespace umblock::bench
