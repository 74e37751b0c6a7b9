// SimRandom: the simulator's only source of chance, xoshiro256** seeded through splitmix64.
//
// Streams that must not disturb each other (workload, fault schedule, each disk, each link) are
// forked from one seed by a tag, so that dropping a fault from a schedule changes as little as
// possible of the rest of the run.
#pragma once

#include <array>
#include <cstdint>

#include "engine/base/assert.h"
#include "engine/base/bytes.h"
#include "engine/runtime/time.h"

namespace umblock {

// A well mixed function of both values.
constexpr uint64_t SimMix(uint64_t a, uint64_t b) {
  uint64_t z = a + 0x9e3779b97f4a7c15 * (b + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

class SimRandom {
 public:
  explicit SimRandom(uint64_t seed) {
    for (size_t i = 0; i < state_.size(); ++i) state_[i] = SimMix(seed, i);
  }

  uint64_t Next() {
    const uint64_t result = Rotate(state_[1] * 5, 7) * 9;
    const uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = Rotate(state_[3], 45);
    return result;
  }
  // 0 … n-1.
  uint64_t Below(uint64_t n) {
    UMBLOCK_ASSERT(n > 0, "a choice has at least one outcome");
    return static_cast<uint64_t>((static_cast<unsigned __int128>(Next()) * n) >> 64);
  }
  // low … high, both included.
  uint64_t Between(uint64_t low, uint64_t high) { return low + Below(high - low + 1); }
  Duration Between(Duration low, Duration high) {
    return Duration(static_cast<int64_t>(
        Between(static_cast<uint64_t>(low.count()), static_cast<uint64_t>(high.count()))));
  }
  // Mostly near `low`, seldom near `high`: the shape of latencies.
  Duration Skewed(Duration low, Duration high) {
    const uint64_t span = static_cast<uint64_t>((high - low).count()) + 1;
    return low + Duration(static_cast<int64_t>(Below(Below(Below(span) + 1) + 1)));
  }
  bool OneIn(uint64_t n) { return Below(n) == 0; }
  bool Permille(uint64_t p) { return Below(1000) < p; }
  void Fill(MutableBytes bytes) {
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(Next() >> 56);
  }

 private:
  static constexpr uint64_t Rotate(uint64_t value, int by) {
    return (value << by) | (value >> (64 - by));
  }

  std::array<uint64_t, 4> state_;
};

}  // namespace umblock
