#include "sim/schedule.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace umblock::sim {
namespace {

struct FaultKind {
  std::string_view name;
  uint32_t weight;      // of seeds that keep to faults
  uint32_t repertoire;  // of seeds with the whole repertoire
};

constexpr std::array<FaultKind, static_cast<size_t>(Fault::kCount)> kKinds = {{
    {"crash of the primary", 10, 8},
    {"crash of the secondary", 8, 6},
    {"crash of both nodes", 8, 5},
    {"crash in the bitmap exchange", 8, 4},
    {"crash in an activity-log write", 8, 4},
    {"crash at a packet", 8, 8},
    {"cut inside a payload", 8, 4},
    {"cut anywhere", 6, 5},
    {"cut of a barrier ack", 8, 4},
    {"cut at both ends", 6, 3},
    {"partition", 6, 7},
    {"one-way silence", 5, 4},
    {"loss in a two-phase commit", 7, 4},
    {"refused connects", 3, 2},
    {"data write errors", 4, 4},
    {"data read errors", 3, 4},
    {"metadata errors", 3, 2},
    {"flush errors", 7, 3},
    {"disk hang", 3, 9},
    {"slow disk", 4, 6},
    {"slow node", 4, 4},
    {"move of the primary", 8, 6},
    {"refused promotion", 5, 3},
    {"disconnect", 5, 5},
    {"detach", 3, 3},
    {"pause and compare", 10, 6},
    {"verify at rest", 0, 12},
    {"verify under load", 0, 9},
    {"growth", 0, 9},
    {"paused resync", 0, 9},
    {"invalidation", 0, 8},
    {"diskless primary", 0, 7},
    {"suspension", 0, 8},
    {"new options", 0, 9},
}};

}  // namespace

std::string_view FaultName(Fault fault) { return kKinds[static_cast<size_t>(fault)].name; }

std::string Describe(const Episode& episode) {
  return fmt::format("at {:.3f} s for {:.3f} s: {} ({:x})",
                     static_cast<double>(episode.at.count()) / 1e9,
                     static_cast<double>(episode.duration.count()) / 1e9, FaultName(episode.fault),
                     episode.choice & 0xffff);
}

std::vector<Episode> MakeSchedule(SimRandom random, size_t episodes, Duration active,
                                  bool repertoire) {
  const auto weight = repertoire ? &FaultKind::repertoire : &FaultKind::weight;
  uint32_t total = 0;
  for (const FaultKind& kind : kKinds) total += kind.*weight;
  std::vector<Episode> schedule;
  for (size_t i = 0; i < episodes; ++i) {
    uint64_t dice = random.Below(total);
    size_t kind = 0;
    while (dice >= kKinds[kind].*weight) dice -= kKinds[kind++].*weight;
    schedule.push_back({static_cast<Fault>(kind), random.Between(Duration(0), active),
                        random.Skewed(Duration(1ms), Duration(12s)), random.Next()});
  }
  std::sort(schedule.begin(), schedule.end(),
            [](const Episode& a, const Episode& b) { return a.at < b.at; });
  return schedule;
}

}  // namespace umblock::sim
