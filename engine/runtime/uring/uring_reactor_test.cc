#include "engine/runtime/uring/uring_reactor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "engine/runtime/blocking.h"
#include "engine/runtime/sync.h"
#include "engine/runtime/uring/reactor_thread.h"

namespace umblock {
namespace {

std::unique_ptr<ReactorThread> StartThread(UringMode mode = UringMode::kDeferred) {
  ReactorThreadOptions options;
  options.uring.best_mode = mode;
  auto thread = ReactorThread::Start(options);
  EXPECT_TRUE(thread) << thread.error().ToString();
  return std::move(*thread);
}

class UringReactorTest : public testing::TestWithParam<UringMode> {
 protected:
  UringReactorTest() : thread_(StartThread(GetParam())), reactor_(thread_->reactor()) {}

  std::unique_ptr<ReactorThread> thread_;
  UringReactor& reactor_;
};

INSTANTIATE_TEST_SUITE_P(Modes, UringReactorTest,
                         testing::Values(UringMode::kDeferred, UringMode::kCooperative,
                                         UringMode::kPlain));

TEST_P(UringReactorTest, RunsATaskAndGivesItsValue) {
  EXPECT_EQ(thread_->RunTask([]() -> Task<int> { co_return 42; }), 42);
  EXPECT_LE(reactor_.mode(), GetParam());
}

// Appends its letter when it is called.
struct Note : Completion {
  Note(std::string* t, char l)
      : Completion([](Completion* self, int32_t result) noexcept {
          auto* note = static_cast<Note*>(self);
          note->text->push_back(note->letter);
          note->result = result;
        }),
        text(t),
        letter(l) {}
  std::string* text;
  char letter;
};

TEST_P(UringReactorTest, PostsRunInOrderAndTurnEndComesAfterEverythingReady) {
  std::string text;
  Note a(&text, 'a'), b(&text, 'b'), end(&text, '.');
  thread_->RunTask([&]() -> Task<void> {
    reactor_.PostAtTurnEnd(&end);
    reactor_.Post(&a, 7);
    reactor_.Post(&b);
    EXPECT_EQ(text, "") << "never inside the call that started it";
    co_await reactor_.Yield();
    EXPECT_EQ(text, "ab");
    co_await reactor_.Yield();
    EXPECT_EQ(text, "ab");
    co_await Sleep(reactor_, 1ns);
  });
  EXPECT_EQ(text, "ab.");
  EXPECT_EQ(a.result, 7);
}

TEST_P(UringReactorTest, TimersFireInTheOrderOfDeadlineAndArming) {
  struct Letter : Timer {
    Letter(std::string* t, char l)
        : Timer([](Timer* self) noexcept {
            auto* letter = static_cast<Letter*>(self);
            letter->text->push_back(letter->name);
          }),
          text(t),
          name(l) {}
    std::string* text;
    char name;
  };
  std::string text;
  Letter a(&text, 'a'), b(&text, 'b'), c(&text, 'c'), d(&text, 'd'), e(&text, 'e');
  thread_->RunTask([&]() -> Task<void> {
    Time start = reactor_.Now();
    reactor_.Arm(&c, start + 4ms);
    reactor_.Arm(&a, start + 2ms);
    reactor_.Arm(&b, start + 3ms);
    reactor_.Arm(&d, start + 4ms);
    reactor_.Arm(&e, start + 1ms);
    e.Disarm();
    EXPECT_EQ(co_await Sleep(reactor_, 5ms), WakeReason::kTimeout);
    EXPECT_GE(reactor_.Now(), start + 5ms);
  });
  EXPECT_EQ(text, "abcd");
}

TEST_P(UringReactorTest, CompletionsOfManyThreadsArriveEachOnceAndInOrder) {
  struct Message : Completion {
    Message() : Completion(&Arrived) {}
    static void Arrived(Completion* self, int32_t) noexcept {
      auto* message = static_cast<Message*>(self);
      EXPECT_EQ(message->number, *message->expected);
      ++*message->expected;
      message->arrived->fetch_add(1);
      message->arrived->notify_one();
    }
    int number = 0;
    int* expected = nullptr;
    std::atomic<int>* arrived = nullptr;
  };
  constexpr int kThreads = 4;
  constexpr int kMessages = 2000;
  std::atomic<int> arrived{0};
  std::vector<std::vector<Message>> messages;
  std::vector<int> expected(kThreads, 0);
  for (int t = 0; t < kThreads; ++t) messages.emplace_back(kMessages);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kMessages; ++i) {
        Message& message = messages[t][i];
        message.number = i;
        message.expected = &expected[t];
        message.arrived = &arrived;
        reactor_.PostFromAnyThread(&message);
        if (i % 64 == 0) std::this_thread::yield();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int n = arrived; n != kThreads * kMessages; n = arrived) arrived.wait(n);
}

TEST_P(UringReactorTest, AYieldingLoopLetsTimersAndMessagesThrough) {
  std::atomic<bool> stop{false};
  struct Stopper : Completion {
    explicit Stopper(std::atomic<bool>* s)
        : Completion([](Completion* self, int32_t) noexcept {
            static_cast<Stopper*>(self)->flag->store(true);
          }),
          flag(s) {}
    std::atomic<bool>* flag;
  } stopper(&stop);
  std::thread other;
  thread_->RunTask([&]() -> Task<void> {
    bool slept = false;
    TaskGroup group(reactor_);
    group.Spawn([](UringReactor& r, bool* done) -> Task<void> {
      co_await Sleep(r, 1ms);
      *done = true;
    }(reactor_, &slept));
    other = std::thread([&] { reactor_.PostFromAnyThread(&stopper); });
    while (!stop || !slept) co_await reactor_.Yield();
    co_await group.Join();
  });
  other.join();
}

TEST_P(UringReactorTest, BlockingWorkRunsElsewhereAndComesBack) {
  thread_->RunTask([&]() -> Task<void> {
    std::thread::id here = std::this_thread::get_id();
    std::thread::id there;
    int32_t result = co_await RunBlocking(reactor_, [&] {
      there = std::this_thread::get_id();
      return 11;
    });
    EXPECT_EQ(result, 11);
    EXPECT_NE(there, here);
    EXPECT_EQ(std::this_thread::get_id(), here);
  });
}

TEST_P(UringReactorTest, SwitchToMovesACoroutineBetweenReactors) {
  auto other = StartThread(GetParam());
  thread_->RunTask([&]() -> Task<void> {
    std::thread::id here = std::this_thread::get_id();
    for (int i = 0; i < 100; ++i) {
      co_await other->reactor().SwitchTo();
      EXPECT_NE(std::this_thread::get_id(), here);
      co_await reactor_.SwitchTo();
      EXPECT_EQ(std::this_thread::get_id(), here);
    }
  });
}

TEST_P(UringReactorTest, RandomBytesDiffer) {
  thread_->RunTask([&]() -> Task<void> {
    uint64_t a = reactor_.Random64();
    uint64_t b = reactor_.Random64();
    EXPECT_NE(a, b);
    co_return;
  });
}

TEST_P(UringReactorTest, StopEndsRunFromAnyThread) {
  auto created = UringReactor::Create({.best_mode = GetParam()});
  ASSERT_TRUE(created);
  UringReactor* reactor = created->get();
  std::atomic<bool> first_over{false};
  std::thread runner([&] {
    reactor->Run();
    first_over = true;
    first_over.notify_one();
    reactor->Run();
  });
  reactor->Stop();  // before, while or after it went to sleep
  first_over.wait(false);
  struct StopFromInside : Completion {
    explicit StopFromInside(UringReactor* r)
        : Completion([](Completion* self, int32_t) noexcept {
            static_cast<StopFromInside*>(self)->reactor->Stop();
          }),
          reactor(r) {}
    UringReactor* reactor;
  } stop(reactor);
  reactor->PostFromAnyThread(&stop);
  runner.join();
}

TEST(SpinPolicyTest, SpinsOnlyWhileArrivalsAreFrequent) {
  SpinPolicy policy(30us);
  EXPECT_FALSE(policy.ShouldSpin()) << "nothing is known yet";
  int arrivals = 0;
  while (!policy.ShouldSpin()) {
    policy.Record(5us);
    ASSERT_LT(++arrivals, 40);
  }
  EXPECT_GT(arrivals, 5);
  policy.Record(1s);
  EXPECT_FALSE(policy.ShouldSpin()) << "a long pause ends it at once";
  SpinPolicy never(0us);
  for (int i = 0; i < 100; ++i) never.Record(0us);
  EXPECT_FALSE(never.ShouldSpin());
}

}  // namespace
}  // namespace umblock
