#include "engine/drbd/core/resync_controller.h"

#include <gtest/gtest.h>

namespace umblock::drbd {
namespace {

uint64_t Blocks(uint64_t sectors) { return (sectors + 7) / 8; }

// drbd-metadata-resync.md 6.5, the trace with the defaults.
TEST(ResyncControllerTest, FollowsTheTraceOfTheSpecification) {
  ResyncController controller{ResyncOptions{}};
  struct {
    uint64_t arrived, request, blocks;
  } trace[] = {{0, 50, 6}, {48, 56, 7}, {56, 64, 8}, {64, 72, 9}};
  for (const auto& tick : trace) {
    uint64_t request = controller.Tick(tick.arrived, 100ms);
    EXPECT_EQ(request, tick.request);
    EXPECT_EQ(request / 8, tick.blocks);
    controller.OnRequested(tick.blocks * 8);
    EXPECT_EQ(controller.in_flight(), static_cast<int64_t>(tick.blocks * 8));
  }
}

TEST(ResyncControllerTest, FixedRateWithoutAPlan) {
  ResyncOptions options;
  options.c_plan_ahead = 0;
  options.resync_rate = 4096;  // KiB/s
  ResyncController controller(options);
  EXPECT_EQ(controller.Tick(0, 100ms), 4096u * 2 / 10);
  controller.OnRequested(4096u * 2 / 10);
  EXPECT_EQ(controller.Tick(100000, 100ms), 4096u * 2 / 10) << "whatever arrives";
}

// However often it is asked, in short ticks and long ones.
TEST(ResyncControllerTest, TheRateIsKeptWhateverTheLengthOfTheTicks) {
  for (bool plan : {true, false}) {
    for (Duration tick : std::initializer_list<Duration>{50us, 1ms, 3ms, 25ms, 100ms, 250ms}) {
      ResyncOptions options;
      options.c_max_rate = 2048;
      options.resync_rate = 2048;
      options.c_fill_target = 1 << 20;
      if (!plan) options.c_plan_ahead = 0;
      ResyncController controller(options);
      uint64_t total = 0;
      uint64_t last = 0;
      for (Duration now = Duration::zero(); now < 10s; now += tick) {
        last = controller.Tick(last, tick);
        controller.OnRequested(last);
        total += last;
      }
      EXPECT_LE(total, 2048u * 2 * 10 + 410) << tick / 1us << " us";
      EXPECT_GE(total, 2048u * 2 * 10 / 4) << tick / 1us << " us";
    }
  }
}

TEST(ResyncControllerTest, NeverAboveTheMaximumRate) {
  ResyncOptions options;
  options.c_max_rate = 1000;  // KiB/s: 200 sectors per tick
  ResyncController controller(options);
  for (int i = 0; i < 50; ++i) {
    uint64_t request = controller.Tick(5000, 100ms);
    EXPECT_LE(request, 200u);
    controller.OnRequested(request);
  }
}

TEST(ResyncControllerTest, WithoutAMaximumItGrowsWithWhatArrives) {
  ResyncOptions options;
  options.c_max_rate = 0;
  options.c_fill_target = 20000;
  ResyncController controller(options);
  uint64_t request = controller.Tick(0, 100ms);
  uint64_t first = request;
  for (int i = 0; i < 100; ++i) {
    controller.OnRequested(request);
    request = controller.Tick(request, 100ms);
  }
  EXPECT_GT(request, 10 * first);
}

TEST(ResyncControllerTest, ShortTicksAreScaledToTheTick) {
  ResyncController a{ResyncOptions{}};
  ResyncController b{ResyncOptions{}};
  (void)a.Tick(0, 100ms);
  (void)b.Tick(0, 100ms);
  a.OnRequested(400);
  b.OnRequested(400);
  // 40 sectors in 10 ms count as 400 in 100 ms for the plan.
  EXPECT_GT(a.Tick(40, 10ms), b.Tick(40, 100ms));
  EXPECT_EQ(a.in_flight(), 360) << "but only what came has come";
}

TEST(ResyncControllerTest, DelayTargetWithoutAFillTarget) {
  ResyncOptions options;
  options.c_fill_target = 0;
  options.c_delay_target = 10;  // 1 s
  ResyncController controller(options);
  (void)controller.Tick(0, 100ms);
  controller.OnRequested(50);
  // want = 50 × 1 s per 0.1 s = 500; nothing in flight after them; total is 950.
  uint64_t request = controller.Tick(50, 100ms);
  // corr = 500 - 0 - 950 = -450; cps = -22; the oldest entry was 50.
  EXPECT_EQ(request, 50u + 50 - 22);
}

TEST(ResyncControllerTest, ResetForgetsWhatIsInFlight) {
  ResyncController controller{ResyncOptions{}};
  controller.OnRequested(1000);
  controller.Reset();
  EXPECT_EQ(controller.in_flight(), 0);
  EXPECT_EQ(Blocks(controller.Tick(0, 100ms)), 7u);
}

TEST(ResyncControllerTest, MoreAnswersThanRequestsDoNotGoBelowZero) {
  ResyncController controller{ResyncOptions{}};
  controller.OnRequested(8);
  (void)controller.Tick(1000, 100ms);
  EXPECT_EQ(controller.in_flight(), 0);
}

}  // namespace
}  // namespace umblock::drbd
