#include "sim/schedule.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace umblock::sim {
namespace {

struct FaultKind {
  std::string_view name;
  uint32_t weight;
};

constexpr std::array<FaultKind, static_cast<size_t>(Fault::kCount)> kKinds = {{
    {"crash of the primary", 10},
    {"crash of the secondary", 8},
    {"crash of both nodes", 8},
    {"crash in the bitmap exchange", 8},
    {"crash in an activity-log write", 8},
    {"crash at a packet", 8},
    {"cut inside a payload", 8},
    {"cut anywhere", 6},
    {"cut of a barrier ack", 8},
    {"cut at both ends", 6},
    {"partition", 6},
    {"one-way silence", 5},
    {"loss in a two-phase commit", 7},
    {"refused connects", 3},
    {"data write errors", 4},
    {"data read errors", 3},
    {"metadata errors", 3},
    {"flush errors", 7},
    {"disk hang", 3},
    {"slow disk", 4},
    {"slow node", 4},
    {"move of the primary", 8},
    {"refused promotion", 5},
    {"disconnect", 5},
    {"detach", 3},
    {"pause and compare", 10},
}};

}  // namespace

std::string_view FaultName(Fault fault) { return kKinds[static_cast<size_t>(fault)].name; }

std::string Describe(const Episode& episode) {
  return fmt::format("at {:.3f} s for {:.3f} s: {} ({:x})",
                     static_cast<double>(episode.at.count()) / 1e9,
                     static_cast<double>(episode.duration.count()) / 1e9, FaultName(episode.fault),
                     episode.choice & 0xffff);
}

std::vector<Episode> MakeSchedule(SimRandom random, size_t episodes, Duration active) {
  uint32_t total = 0;
  for (const FaultKind& kind : kKinds) total += kind.weight;
  std::vector<Episode> schedule;
  for (size_t i = 0; i < episodes; ++i) {
    uint64_t dice = random.Below(total);
    size_t kind = 0;
    while (dice >= kKinds[kind].weight) dice -= kKinds[kind++].weight;
    schedule.push_back({static_cast<Fault>(kind), random.Between(Duration(0), active),
                        random.Skewed(Duration(1ms), Duration(12s)), random.Next()});
  }
  std::sort(schedule.begin(), schedule.end(),
            [](const Episode& a, const Episode& b) { return a.at < b.at; });
  return schedule;
}

}  // namespace umblock::sim
