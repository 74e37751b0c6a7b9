// An administrator without plan, and faults: testing/random_acts.h. A failing seed is replayed,
// with all that was done, by
//   UMBLOCK_RANDOM_ACTS=mode:seed drbd_k_test --gtest_filter='*RandomActs*Replay*'
// and with UMBLOCK_RANDOM_ACTS=mode:first-last more of them are tried than here.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "engine/drbd/core/testing/random_acts.h"

namespace umblock::drbd {
namespace {

using testing::RandomActs;

struct Case {
  uint32_t mode;
  uint64_t seeds;
};

void PrintTo(const Case& of, std::ostream* out) { *out << "mode " << of.mode; }

class RandomActsTest : public ::testing::TestWithParam<Case> {};

TEST_P(RandomActsTest, NothingIsLostAndAllComesTogether) {
  std::string wrong;  // told when all is over, so that no log is printed for it
  for (uint64_t seed = 1; seed <= GetParam().seeds; ++seed) {
    RandomActs acts(GetParam().mode, seed);
    std::string what = acts.Run();
    if (what.empty()) continue;
    wrong += fmt::format("\nUMBLOCK_RANDOM_ACTS={}:{}: {}", GetParam().mode, seed, what);
  }
  EXPECT_EQ(wrong, "");
}

INSTANTIATE_TEST_SUITE_P(Modes, RandomActsTest,
                         ::testing::Values(Case{0, 40}, Case{RandomActs::kDiskErrors, 40},
                                           Case{RandomActs::kSuspends | RandomActs::kRoles, 40},
                                           Case{RandomActs::kCrashes | RandomActs::kRoles, 40},
                                           Case{RandomActs::kCrashes | RandomActs::kPowerCuts, 40},
                                           Case{RandomActs::kCrashes | RandomActs::kSuspends |
                                                    RandomActs::kInvalidates,
                                                40},
                                           Case{63, 40}));

TEST(RandomActs, Replay) {
  const char* text = std::getenv("UMBLOCK_RANDOM_ACTS");
  if (text == nullptr) GTEST_SKIP() << "UMBLOCK_RANDOM_ACTS is not set";
  unsigned mode = 0;
  unsigned long long first = 0;
  unsigned long long last = 0;
  const int got = std::sscanf(text, "%u:%llu-%llu", &mode, &first, &last);
  ASSERT_GE(got, 2) << "UMBLOCK_RANDOM_ACTS is mode:seed or mode:first-last";
  if (got == 2) last = first;
  bool failed = false;
  for (uint64_t seed = first; seed <= last; ++seed) {
    RandomActs acts(mode, seed, first == last);
    const std::string wrong = acts.Run();
    failed = failed || !wrong.empty();
    if (!wrong.empty()) fmt::print(stderr, "wrong: {}:{}: {}\n", mode, seed, wrong);
    if (acts.needed_choice()) fmt::print(stderr, "chosen by hand: {}:{}\n", mode, seed);
  }
  EXPECT_FALSE(failed);
}

}  // namespace
}  // namespace umblock::drbd
