// One seed, from its options to its verdict.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/drbd/config.h"
#include "engine/runtime/time.h"
#include "sim/coverage.h"
#include "sim/replica.h"
#include "sim/workload.h"

namespace umblock::sim {

struct RunOptions {
  uint64_t seed = 0;
  uint64_t volume_bytes = uint64_t{512} << 20;
  uint32_t al_extents = 67;
  std::optional<drbd::Protocol> protocol;  // unset: by the seed
  bool full_sync = false;                  // the initial sync is not skipped
  bool calm = false;                       // no faults at all
  bool repertoire = false;                 // with all that an administrator may ask for
  std::vector<size_t> without;             // episodes to leave out, by index
  bool verbose = false;                    // log to stderr as it happens
};

struct RunResult {
  bool ok = false;
  std::string failure;
  uint64_t hash = 0;
  uint64_t events = 0;
  Duration simulated{};
  Coverage coverage;
  WorkloadCounts counts;
  std::vector<std::string> schedule;  // by index
  std::vector<std::string> log;       // the last lines
};

// The faults that this seed draws, one line each.
std::vector<std::string> DescribeSchedule(const RunOptions& options);

RunResult RunSeed(const RunOptions& options, const ReplicaFactory& factory);

}  // namespace umblock::sim
