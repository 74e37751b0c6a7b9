#include "engine/drbd/core/failure_log.h"

#include <gtest/gtest.h>

namespace umblock::drbd {
namespace {

TEST(FailureLogTest, TheSameReasonIsSaidOnceAndThenWithACount) {
  FailureLog log;
  Time now{};
  EXPECT_EQ(log.Add("no", now), 1u);
  for (int i = 1; i < 300; ++i)
    EXPECT_EQ(log.Add("no", now + std::chrono::seconds(i)), std::nullopt);
  EXPECT_EQ(log.Add("no", now + FailureLog::kRepeat), 300u);
  EXPECT_EQ(log.Add("no", now + FailureLog::kRepeat + 1s), std::nullopt);
}

TEST(FailureLogTest, ReasonsThatTakeTurnsAreSaidOnceEach) {
  FailureLog log;
  Time now{};
  EXPECT_EQ(log.Add("refused", now), 1u);
  EXPECT_EQ(log.Add("closed", now + 1s), 1u);
  EXPECT_EQ(log.Add("refused", now + 2s), std::nullopt);
  EXPECT_EQ(log.Add("closed", now + 3s), std::nullopt);
}

TEST(FailureLogTest, AnotherReasonAndOneAfterSuccessAreNews) {
  FailureLog log;
  Time now{};
  EXPECT_EQ(log.Add("0", now), 1u);
  // What it remembers is bounded.
  for (int i = 1; i < 20; ++i) EXPECT_EQ(log.Add(std::to_string(i), now), 1u);
  EXPECT_EQ(log.Add("0", now), 1u);
  log.Clear();
  EXPECT_EQ(log.Add("0", now), 1u);
}

}  // namespace
}  // namespace umblock::drbd
