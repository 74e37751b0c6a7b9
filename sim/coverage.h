// The situations that a set of seeds must have met, each at least so many times (design.md, the
// acceptance of the replication milestone), and how often others occurred.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace umblock::sim {

enum class Situation : uint8_t {
  // Required.
  kTornActivityLogWrite,
  kActivityLogEviction,
  kCutInsidePayload,
  kLostBarrierAck,
  kCrashDuringBitmapExchange,
  kTwoPhaseCommitTimeout,
  kCrossedConnects,
  kFlushError,
  kCrashOfBothNodes,
  // Counted.
  kPrimaryCrash,
  kSecondaryCrash,
  kFailover,
  kMove,
  kRefusedPromotion,
  kWriteError,
  kReadError,
  kMetadataError,
  kResync,
  kFullSync,
  kPartition,
  kDisksCompared,
  kCount,
};
inline constexpr size_t kSituations = static_cast<size_t>(Situation::kCount);
inline constexpr size_t kRequiredSituations = static_cast<size_t>(Situation::kPrimaryCrash);
inline constexpr uint64_t kRequiredTimes = 10;

constexpr std::string_view SituationName(size_t index) {
  constexpr std::array<std::string_view, kSituations> kNames = {
      "torn activity-log write",
      "activity-log eviction",
      "cut inside a payload",
      "lost barrier ack",
      "crash during bitmap exchange",
      "two-phase-commit timeout",
      "crossed connects",
      "flush error",
      "crash of both nodes",
      "crash of the primary",
      "crash of the secondary",
      "failover",
      "move of the primary",
      "refused promotion",
      "write error",
      "read error",
      "metadata error",
      "resync",
      "full sync",
      "partition",
      "disks compared",
  };
  return kNames[index];
}

struct Coverage {
  std::array<uint64_t, kSituations> counts{};

  void Count(Situation situation) { ++counts[static_cast<size_t>(situation)]; }
  uint64_t of(Situation situation) const { return counts[static_cast<size_t>(situation)]; }
  void Add(const Coverage& other) {
    for (size_t i = 0; i < kSituations; ++i) counts[i] += other.counts[i];
  }
};

}  // namespace umblock::sim
