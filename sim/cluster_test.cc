// The cluster simulator on a fake replica: a correct one passes, each fault is caught.
#include <gtest/gtest.h>

#include "sim/run.h"
#include "sim/testing/fake_replica.h"

namespace umblock::sim {
namespace {

RunResult RunFake(FakeBug bug, uint64_t seed, bool calm = false) {
  RunOptions options;
  options.seed = seed;
  options.volume_bytes = uint64_t{64} << 20;
  options.protocol = drbd::Protocol::kC;
  options.calm = calm;
  return RunSeed(options, FakeReplica::Factory(std::make_shared<FakeWorld>(bug)));
}

std::string Report(const RunResult& result) {
  std::string text = result.failure + "\n";
  for (const std::string& line : result.schedule) text += line + "\n";
  return text;
}

TEST(Cluster, ACorrectReplicaPasses) {
  Coverage coverage;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const RunResult result = RunFake(FakeBug::kNone, seed);
    ASSERT_TRUE(result.ok) << "seed " << seed << ": " << Report(result);
    EXPECT_GT(result.counts.writes, 100u);
    coverage.Add(result.coverage);
  }
  for (Situation situation :
       {Situation::kPrimaryCrash, Situation::kSecondaryCrash, Situation::kCrashOfBothNodes,
        Situation::kMove, Situation::kFailover, Situation::kDisksCompared}) {
    EXPECT_GT(coverage.of(situation), 0u) << SituationName(static_cast<size_t>(situation));
  }
}

TEST(Cluster, TheSameSeedGivesTheSameHash) {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const RunResult first = RunFake(FakeBug::kNone, seed);
    const RunResult second = RunFake(FakeBug::kNone, seed);
    EXPECT_EQ(first.hash, second.hash);
    EXPECT_EQ(first.events, second.events);
    EXPECT_NE(first.hash, RunFake(FakeBug::kNone, seed + 100).hash);
  }
}

class ClusterCatches : public testing::TestWithParam<FakeBug> {};

TEST_P(ClusterCatches, WithinAHundredSeeds) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const RunResult result = RunFake(GetParam(), seed);
    if (result.ok) continue;
    std::printf("seed %d: %s\n", static_cast<int>(seed), result.failure.c_str());
    return;
  }
  ADD_FAILURE() << "not found";
}

INSTANTIATE_TEST_SUITE_P(Faults, ClusterCatches,
                         testing::Values(FakeBug::kAcksBeforeThePeerHasIt,
                                         FakeBug::kIgnoresFlushAndFua, FakeBug::kLosesAWakeup,
                                         FakeBug::kAllowsTwoPrimaries, FakeBug::kReadsTheOtherDisk,
                                         FakeBug::kForgetsWhatIsOutOfSync,
                                         FakeBug::kTearsPeerWrites, FakeBug::kAppliesOutOfOrder));

}  // namespace
}  // namespace umblock::sim
