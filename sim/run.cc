#include "sim/run.h"

#include <fmt/core.h>

#include "sim/cluster.h"
#include "sim/faults.h"
#include "sim/schedule.h"

namespace umblock::sim {

namespace {

struct Plan {
  Duration active{};
  std::vector<Episode> schedule;
};

Plan MakePlan(const RunOptions& options) {
  Plan plan;
  SimRandom random(SimMix(options.seed, 0x72756e));
  plan.active = random.Between(Duration(15s), Duration(45s));
  if (options.calm) return plan;
  plan.schedule = MakeSchedule(SimRandom(SimMix(options.seed, 0x7363686564)), random.Between(5, 14),
                               plan.active, options.repertoire);
  return plan;
}

}  // namespace

std::vector<std::string> DescribeSchedule(const RunOptions& options) {
  std::vector<std::string> lines;
  const Plan plan = MakePlan(options);
  for (size_t i = 0; i < plan.schedule.size(); ++i) {
    lines.push_back(fmt::format("[{}] {}", i, Describe(plan.schedule[i])));
  }
  return lines;
}

RunResult RunSeed(const RunOptions& options, const ReplicaFactory& factory) {
  RunResult result;
  result.schedule = DescribeSchedule(options);
  const Plan plan = MakePlan(options);
  SimWorld world(options.seed);
  world.set_log_to_stderr(options.verbose);
  {
    Cluster cluster(world, options, factory, result.coverage);
    Faults faults(cluster, plan.schedule, options.without);
    if (cluster.SetUp()) {
      faults.Begin();
      world.RunFor(plan.active);
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
