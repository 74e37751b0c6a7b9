#include "engine/runtime/timer.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>

namespace umblock {
namespace {

struct Letter : Timer {
  Letter(std::string* t, char l)
      : Timer([](Timer* self) noexcept {
          auto* letter = static_cast<Letter*>(self);
          letter->text->push_back(letter->name);
          if (letter->then) letter->then();
        }),
        text(t),
        name(l) {}
  std::string* text;
  char name;
  std::function<void()> then;
};

constexpr Time At(int n) { return Time(std::chrono::milliseconds(n)); }

TEST(TimerQueueTest, FiresInTheOrderOfDeadlineThenArming) {
  TimerQueue queue;
  std::string text;
  Letter a(&text, 'a'), b(&text, 'b'), c(&text, 'c'), d(&text, 'd');
  queue.Arm(&d, At(2));
  queue.Arm(&b, At(1));
  queue.Arm(&c, At(1));
  queue.Arm(&a, At(0));
  EXPECT_EQ(queue.NextDeadline(), At(0));
  EXPECT_EQ(queue.FireDue(At(1)), 3);
  EXPECT_EQ(text, "abc");
  EXPECT_EQ(queue.FireDue(At(1)), 0);
  EXPECT_EQ(queue.FireDue(At(5)), 1);
  EXPECT_EQ(text, "abcd");
  EXPECT_TRUE(queue.empty());
}

TEST(TimerQueueTest, ArmingAgainMovesATimer) {
  TimerQueue queue;
  std::string text;
  Letter a(&text, 'a'), b(&text, 'b');
  queue.Arm(&a, At(1));
  queue.Arm(&b, At(1));
  queue.Arm(&a, At(1));
  queue.FireDue(At(1));
  EXPECT_EQ(text, "ba");
}

TEST(TimerQueueTest, AFiringTimerMayArmItselfOthersAndDisarmTheNext) {
  TimerQueue queue;
  std::string text;
  Letter a(&text, 'a'), b(&text, 'b'), c(&text, 'c');
  int left = 2;
  a.then = [&] {
    b.Disarm();
    queue.Arm(&c, At(1));
    if (left-- > 0) queue.Arm(&a, At(1));
  };
  queue.Arm(&a, At(1));
  queue.Arm(&b, At(1));
  queue.FireDue(At(1));
  EXPECT_EQ(text, "acacac") << "each a arms c, then itself; b never fires";
}

TEST(TimerQueueTest, ALimitKeepsATimerThatArmsItselfFromHoldingTheTurn) {
  TimerQueue queue;
  std::string text;
  Letter a(&text, 'a');
  a.then = [&] { queue.Arm(&a, At(0)); };
  queue.Arm(&a, At(0));
  EXPECT_EQ(queue.FireDue(At(0), 5), 5);
  a.Disarm();
}

TEST(TimerQueueTest, DestroyingATimerDisarmsIt) {
  TimerQueue queue;
  std::string text;
  {
    Letter a(&text, 'a');
    queue.Arm(&a, At(0));
    EXPECT_TRUE(a.armed());
  }
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.NextDeadline(), std::nullopt);
}

}  // namespace
}  // namespace umblock
