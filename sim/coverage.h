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
  // Required of seeds with the repertoire.
  kVerifyEnded,
  kVerifyStopped,
  kVerifyUnderLoad,
  kCorruptionRepaired,
  kResize,
  kCrashDuringResize,
  kChecksumResync,
  kPausedResync,
  kInvalidation,
  kReadOverPeer,
  kSuspension,
  kPeerFenced,
  kFencingFailed,
  kFencingHung,
  kStonith,
  kPullAhead,
  kDiskTimeout,
  kNewProtocol,
  kNewSecret,
  kNewIntegrity,
  kCount,
};
inline constexpr size_t kSituations = static_cast<size_t>(Situation::kCount);
inline constexpr size_t kRequiredSituations = static_cast<size_t>(Situation::kPrimaryCrash);
inline constexpr size_t kFirstOfRepertoire = static_cast<size_t>(Situation::kVerifyEnded);
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
      "verify that came to its end",
      "verify that was stopped",
      "verify under load",
      "silent corruption found and repaired",
      "resize under load",
      "crash during a resize",
      "resync by checksums",
      "paused resync",
      "invalidation",
      "read over the peer",
      "suspension of I/O",
      "peer outdated by a handler",
      "fencing that failed",
      "fencing that hung",
      "peer stonithed",
      "pulled ahead",
      "disk timeout",
      "change of the protocol",
      "change of the secret",
      "change of data integrity",
  };
  return kNames[index];
}

constexpr bool IsRequired(size_t index, bool repertoire) {
  return repertoire ? index >= kFirstOfRepertoire : index < kRequiredSituations;
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
