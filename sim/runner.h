// Runner: many seeds, each in a process of its own (an assertion or a sanitizer ends only that
// seed, and what a simulated crash leaves behind is given back), several at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sim/run.h"

namespace umblock::sim {

struct RunnerOptions {
  uint64_t first_seed = 1;
  uint64_t last_seed = 1;
  RunOptions run;  // without the seed
  int jobs = 2;
  bool twice = false;  // run each seed a second time and compare the hashes
  bool shrink = true;  // leave faults out of a failing schedule as long as it still fails
  bool stop_at_failure = false;
  bool require_coverage = false;
  int seconds_per_seed = 600;  // of real time; longer counts as a hang
};

// Prints failures, how to replay them, and the coverage. Returns the number of failures.
int RunSeeds(const RunnerOptions& options, const ReplicaFactory& factory);

}  // namespace umblock::sim
