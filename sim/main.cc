// umblock_sim: runs seeds of the cluster simulator on the replication engine.
#include <CLI/CLI.hpp>

#include "sim/resource_replica.h"
#include "sim/runner.h"

int main(int argc, char** argv) {
  using namespace umblock;
  sim::RunnerOptions options;
  CLI::App app(
      "Two simulated nodes with one replicated volume, under faults drawn from a seed. "
      "Exit status 0: every seed passed.");
  std::string seeds;
  uint64_t volume_size = options.run.volume_bytes;
  std::string protocol;
  auto* range = app.add_option("--seeds", seeds, "First and last seed, as 1-200");
  app.add_option("--seed", options.first_seed, "One seed")->excludes(range);
  app.add_option("--volume-size", volume_size, "Of the replicated volume, as 512M")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--al-extents", options.run.al_extents, "Size of the activity log")
      ->check(CLI::Range(67, 65534));
  app.add_option("--protocol", protocol, "A, B or C; by default the seed decides")
      ->check(CLI::IsMember({"A", "B", "C"}));
  app.add_flag("--full-sync", options.run.full_sync, "Begin with a full initial sync");
  app.add_flag("--repertoire", options.run.repertoire,
               "Schedules with all that an administrator may ask for");
  app.add_flag("--calm", options.run.calm, "No faults");
  app.add_option("--without", options.run.without, "Faults of the schedule to leave out")
      ->delimiter(',');
  app.add_flag("--verbose,-v", options.run.verbose, "Log to stderr as it happens");
  app.add_option("--jobs,-j", options.jobs, "Seeds at a time")->check(CLI::Range(1, 64));
  app.add_flag("--twice", options.twice, "Run each seed twice and compare the hashes");
  app.add_flag("!--no-shrink", options.shrink, "Do not look for a smaller schedule that fails");
  app.add_flag("--stop-at-failure", options.stop_at_failure, "Start no seed after the first one");
  app.add_flag("--require-coverage", options.require_coverage,
               "Fail unless each required situation occurred ten times");
  app.add_option("--seconds-per-seed", options.seconds_per_seed,
                 "Real time after which a seed counts as hung");
  CLI11_PARSE(app, argc, argv);

  options.last_seed = options.first_seed;
  if (!seeds.empty() &&
      std::sscanf(seeds.c_str(), "%lu-%lu", &options.first_seed, &options.last_seed) != 2) {
    std::fprintf(stderr, "umblock_sim: --seeds wants two numbers, as 1-200\n");
    return 2;
  }
  if (!protocol.empty()) {
    options.run.protocol = static_cast<drbd::Protocol>(protocol[0] - 'A' + 1);
  }
  constexpr uint64_t kMegabyte = uint64_t{1} << 20;
  if (volume_size < 16 * kMegabyte || volume_size % kMegabyte != 0) {
    std::fprintf(stderr, "umblock_sim: --volume-size is a multiple of 1M, at least 16M\n");
    return 2;
  }
  options.run.volume_bytes = volume_size;
  return sim::RunSeeds(options, sim::ResourceReplica::Factory()) == 0 ? 0 : 1;
}
