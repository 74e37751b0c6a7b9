#include "engine/runtime/channel.h"

#include <gtest/gtest.h>

#include <string>

#include "engine/runtime/testing/loop_reactor.h"

namespace umblock {
namespace {

struct Letter : Completion {
  Letter(std::string* t, char l)
      : Completion([](Completion* self, int32_t value) noexcept {
          auto* letter = static_cast<Letter*>(self);
          letter->text->push_back(letter->name);
          letter->got = value;
          if (letter->again != nullptr) {
            std::exchange(letter->again, nullptr)->Send(letter, value + 1);
          }
        }),
        text(t),
        name(l) {}
  std::string* text;
  char name;
  int32_t got = 0;
  Channel* again = nullptr;
};

TEST(ChannelTest, ATurnsMessagesArriveTogetherAndInOrder) {
  LoopReactor from, to;
  Channel channel(from, to);
  std::string text;
  Letter a(&text, 'a'), b(&text, 'b'), c(&text, 'c');
  channel.Send(&a, 1);
  channel.Send(&b, 2);
  to.RunReady();
  EXPECT_EQ(text, "") << "the turn is not over";
  from.RunReady();
  EXPECT_EQ(text, "") << "functions run on the other side";
  to.RunReady();
  EXPECT_EQ(text, "ab");
  EXPECT_EQ(b.got, 2);
  channel.Send(&c);
  from.RunReady();
  to.RunReady();
  EXPECT_EQ(text, "abc");
}

TEST(ChannelTest, LaterTurnsQueueBehindWhatHasNotBeenTaken) {
  LoopReactor from, to;
  Channel channel(from, to);
  std::string text;
  Letter a(&text, 'a'), b(&text, 'b'), c(&text, 'c');
  for (Letter* letter : {&a, &b, &c}) {
    channel.Send(letter);
    from.RunReady();
  }
  to.RunReady();
  EXPECT_EQ(text, "abc");
}

TEST(ChannelTest, AMessageMayBeSentAgainFromItsOwnFunction) {
  LoopReactor reactor;
  Channel channel(reactor, reactor);
  std::string text;
  Letter a(&text, 'a');
  a.again = &channel;
  channel.Send(&a, 5);
  reactor.RunReady();
  EXPECT_EQ(text, "aa");
  EXPECT_EQ(a.got, 6);
}

TEST(ChannelTest, CrossMovesACoroutine) {
  LoopReactor from, to;
  Channel channel(from, to);
  TaskGroup group(from);
  bool crossed = false;
  group.Spawn([](Channel* c, bool* done) -> Task<void> {
    co_await c->Cross();
    *done = true;
  }(&channel, &crossed));
  from.RunReady();
  EXPECT_FALSE(crossed);
  to.RunReady();
  EXPECT_TRUE(crossed);
  from.RunReady();
}

}  // namespace
}  // namespace umblock
