#include "sim/run.h"

#include <fmt/core.h>

#include "sim/cluster.h"
#include "sim/faults.h"
#include "sim/schedule.h"

namespace umblock::sim {

RunResult RunSeed(const RunOptions& options, const ReplicaFactory& factory) {
  RunResult result;
  SimWorld world(options.seed);
  world.set_log_to_stderr(options.verbose);
  SimRandom random = world.Stream(0x72756e);
  const Duration active = random.Between(Duration(15s), Duration(45s));
  std::vector<Episode> schedule;
  if (!options.calm) {
    schedule = MakeSchedule(world.Stream(0x7363686564), random.Between(5, 14), active);
  }
  for (size_t i = 0; i < schedule.size(); ++i) {
    result.schedule.push_back(fmt::format("[{}] {}", i, Describe(schedule[i])));
  }
  {
    Cluster cluster(world, options, factory, result.coverage);
    Faults faults(cluster, schedule, options.without);
    if (cluster.SetUp()) {
      faults.Begin();
      world.RunFor(active);
      faults.End();
      if (!world.failed() && cluster.Converge()) cluster.TearDown();
    }
    result.counts = cluster.workload().counts();
    result.ok = !world.failed();
    result.failure = world.failure();
    result.hash = world.hash();
    result.events = world.events();
    result.simulated = world.now();
    result.log = world.recent_log();
    // Whatever still runs refers to the cluster: it must be dead before that goes.
    for (const auto& node : world.nodes()) node->Abandon();
  }
  return result;
}

}  // namespace umblock::sim
