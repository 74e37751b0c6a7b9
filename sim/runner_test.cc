#include "sim/runner.h"

#include <gtest/gtest.h>

#include "sim/result_io.h"
#include "sim/testing/fake_replica.h"

namespace umblock::sim {
namespace {

// Each seed runs in a process of its own, so each sees this world as it was before.
int RunFakes(FakeBug bug, RunnerOptions options, std::string* output) {
  options.run.volume_bytes = uint64_t{64} << 20;
  options.run.protocol = drbd::Protocol::kC;
  testing::internal::CaptureStdout();
  const int failures = RunSeeds(options, FakeReplica::Factory(std::make_shared<FakeWorld>(bug)));
  *output = testing::internal::GetCapturedStdout();
  return failures;
}

TEST(Runner, PassingSeedsRunTwiceWithTheSameHash) {
  std::string output;
  RunnerOptions options{.first_seed = 1, .last_seed = 3, .twice = true};
  EXPECT_EQ(RunFakes(FakeBug::kNone, options, &output), 0) << output;
  EXPECT_NE(output.find("6 runs, 0 failed"), std::string::npos) << output;
}

TEST(Runner, AFailureNamesTheSeedAndTheCommandThatReplaysIt) {
  std::string output;
  RunnerOptions options{.first_seed = 0, .last_seed = 0};
  EXPECT_EQ(RunFakes(FakeBug::kTearsPeerWrites, options, &output), 1);
  EXPECT_NE(output.find("seed 0 FAILED: a read went wrong"), std::string::npos) << output;
  EXPECT_NE(output.find("replay: umblock_sim --seed 0 --volume-size 64M"), std::string::npos);
  EXPECT_NE(output.find("--without"), std::string::npos);  // it fails with fewer faults, too
}

TEST(Runner, MissingCoverageIsAFailure) {
  std::string output;
  RunnerOptions options{.first_seed = 1, .last_seed = 1, .require_coverage = true};
  EXPECT_GT(RunFakes(FakeBug::kNone, options, &output), 0);
  EXPECT_NE(output.find("lost barrier ack  FAILED: fewer than 10"), std::string::npos) << output;
}

Replica* Abort(SimNode&, const ReplicaSetup&, std::function<void()>) {
  UMBLOCK_ASSERT(false, "this replica always aborts");
}

TEST(Runner, AnAbortIsAFailureOfItsSeedWithWhatItSaid) {
  testing::internal::CaptureStdout();
  EXPECT_EQ(RunSeeds({.first_seed = 1, .last_seed = 2, .shrink = false}, Abort), 2);
  const std::string output = testing::internal::GetCapturedStdout();
  EXPECT_NE(output.find("this replica always aborts"), std::string::npos) << output;
}

TEST(ResultIo, AResultComesBackAsItWas) {
  RunResult result;
  result.ok = true;
  result.hash = ~uint64_t{0};
  result.events = 5;
  result.simulated = 7s;
  result.counts = {1, 2, 3, 4, 5, 6};
  result.coverage.Count(Situation::kFlushError);
  result.failure = "two\nlines";
  result.schedule = {"[0] a", ""};
  result.log = {"x"};
  const RunResult back = DecodeResult(EncodeResult(result));
  EXPECT_TRUE(back.ok);
  EXPECT_EQ(back.hash, result.hash);
  EXPECT_EQ(back.simulated, result.simulated);
  EXPECT_EQ(back.counts.errors, 6u);
  EXPECT_EQ(back.coverage.of(Situation::kFlushError), 1u);
  EXPECT_EQ(back.failure, result.failure);
  EXPECT_EQ(back.schedule, result.schedule);
  EXPECT_EQ(back.log, result.log);
}

TEST(ResultIo, AnythingElseIsAFailure) {
  EXPECT_FALSE(DecodeResult("").ok);
  EXPECT_FALSE(DecodeResult("1 2 3").ok);
  const std::string whole = EncodeResult({.ok = true});
  EXPECT_FALSE(DecodeResult(whole.substr(0, whole.size() / 2)).ok);
}

}  // namespace
}  // namespace umblock::sim
