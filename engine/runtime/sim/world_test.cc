#include "engine/runtime/sim/world.h"

#include <gtest/gtest.h>

#include "engine/runtime/sim/network.h"
#include "engine/runtime/sim/node.h"
#include "engine/runtime/sync.h"

namespace umblock {
namespace {

SimNodeOptions NodeOptions(const char* name, uint8_t host) {
  return {name, {SocketAddress::Ipv4({192, 0, 2, host}, 0)}};
}

struct OneNode {
  explicit OneNode(uint64_t seed) : world(seed), node(world.AddNode(NodeOptions("alfa", 1))) {
    node->Start([](SimNode& self) { self.AddReactor(); });
  }
  SimWorld world;
  SimNode* node;
  SimReactor* reactor() { return node->reactor(); }
};

TEST(SimWorld, EventsRunInTimeOrderAndTiesByTheSeed) {
  auto order_of = [](uint64_t seed) {
    SimWorld world(seed);
    std::string order;
    world.At(2ms, SimEventKind::kHarness, [&] { order += 'z'; });
    for (char c : std::string("abcdefgh")) {
      world.At(1ms, SimEventKind::kHarness, [&order, c] { order += c; });
    }
    world.Run(3ms);
    EXPECT_EQ(world.now(), 3ms);
    EXPECT_EQ(order.size(), 9u);
    EXPECT_EQ(order.back(), 'z');
    return order;
  };
  EXPECT_EQ(order_of(1), order_of(1));
  std::set<std::string> orders;
  for (uint64_t seed = 0; seed < 20; ++seed) orders.insert(order_of(seed));
  EXPECT_GT(orders.size(), 10u);
}

TEST(SimWorld, RunUntilEndsAtTheConditionOrTheBound) {
  SimWorld world(1);
  bool happened = false;
  world.At(5ms, SimEventKind::kHarness, [&] { happened = true; });
  world.At(50ms, SimEventKind::kHarness, [] {});
  EXPECT_FALSE(world.RunUntil([&] { return happened; }, 4ms));
  EXPECT_TRUE(world.RunUntil([&] { return happened; }, 10ms));
  EXPECT_EQ(world.now(), 5ms);
}

TEST(SimWorld, AnEventStormIsAFailure) {
  SimWorld world(1);
  std::function<void()> again = [&] { world.After(0ns, SimEventKind::kHarness, [&] { again(); }); };
  again();
  EXPECT_FALSE(world.Run(1s));
  EXPECT_NE(world.failure().find("storm"), std::string::npos);
}

TEST(SimReactor, PostedWorkRunsInOrderAndTurnEndHooksAfterIt) {
  OneNode one(7);
  std::string order;
  struct Step : Completion {
    Step(std::string* to, char c)
        : Completion([](Completion* self, int32_t) noexcept {
            auto* step = static_cast<Step*>(self);
            *step->out += step->name;
          }),
          out(to),
          name(c) {}
    std::string* out;
    char name;
  };
  Step end(&order, '.'), a(&order, 'a'), b(&order, 'b'), c(&order, 'c');
  one.reactor()->PostAtTurnEnd(&end);
  one.reactor()->Post(&a);
  one.reactor()->Post(&b);
  one.reactor()->Post(&c);
  one.world.RunFor(10ms);
  EXPECT_EQ(order, "abc.");
  one.node->Shutdown();
}

Task<void> SleepAndNote(SimReactor& reactor, Duration delay, std::vector<Duration>* slept) {
  const Time before = reactor.Now();
  EXPECT_EQ(co_await Sleep(reactor, delay), WakeReason::kTimeout);
  slept->push_back(reactor.Now() - before);
}

TEST(SimReactor, TimersFireAtTheirTimeOnTheNodesOwnClock) {
  OneNode one(3);
  std::vector<Duration> slept;
  const std::vector<Duration> delays = {Duration(0), 1ms, 20ms, 3s, 100s};
  for (Duration delay : delays) one.reactor()->Spawn(SleepAndNote(*one.reactor(), delay, &slept));
  one.world.RunFor(200s);
  ASSERT_EQ(slept.size(), delays.size());
  for (size_t i = 0; i < delays.size(); ++i) {
    EXPECT_GE(slept[i], delays[i]);
    EXPECT_LT(slept[i], delays[i] + 1ms);
  }
  one.node->Shutdown();
}

TEST(SimReactor, ClocksOfTwoNodesDiffer) {
  SimWorld world(5);
  SimNode* a = world.AddNode(NodeOptions("alfa", 1));
  SimNode* b = world.AddNode(NodeOptions("bravo", 2));
  for (SimNode* node : {a, b}) node->Start([](SimNode& self) { self.AddReactor(); });
  const Duration before = a->reactor()->Now() - b->reactor()->Now();
  EXPECT_NE(before, Duration(0));
  world.RunFor(10000s);
  EXPECT_NE(a->reactor()->Now() - b->reactor()->Now(), before);
  a->Shutdown();
  b->Shutdown();
}

Task<void> SpinForEver(SimReactor& reactor) {
  while (true) co_await reactor.Yield();
}

TEST(SimReactor, ATurnThatNeverEndsIsAFailure) {
  OneNode one(1);
  one.reactor()->Spawn(SpinForEver(*one.reactor()));
  EXPECT_FALSE(one.world.RunFor(1000s));
  EXPECT_NE(one.world.failure().find("does not end"), std::string::npos);
}

struct Shared {
  explicit Shared(Reactor& reactor) : mutex(reactor), changed(reactor) {}
  AsyncMutex mutex;
  WaitQueue changed;
  int inside = 0;
  int finished = 0;
};

Task<void> UseMutex(SimReactor& reactor, Shared& shared, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    AsyncMutex::Lock lock = co_await shared.mutex.Acquire();
    EXPECT_EQ(++shared.inside, 1);
    co_await Sleep(reactor, Duration(reactor.Random64() % 100000));
    --shared.inside;
  }
  ++shared.finished;
  shared.changed.NotifyAll();
}

Task<void> AwaitFinished(Shared& shared, int wanted, bool* done) {
  while (shared.finished < wanted) co_await shared.changed.Wait();
  *done = true;
}

TEST(SimReactor, TasksMutexesAndConditionsRunOnIt) {
  OneNode one(11);
  Shared shared(*one.reactor());
  bool done = false;
  one.reactor()->Spawn(AwaitFinished(shared, 8, &done));
  for (int i = 0; i < 8; ++i) one.reactor()->Spawn(UseMutex(*one.reactor(), shared, 25));
  EXPECT_TRUE(one.world.RunUntil([&] { return done; }, 10s));
  EXPECT_EQ(one.reactor()->group().running(), 0);
  one.node->Shutdown();
}

Task<void> HopBetween(SimReactor& a, SimReactor& b, int hops, int* done) {
  for (int i = 0; i < hops; ++i) {
    co_await b.SwitchTo();
    co_await a.SwitchTo();
    ++*done;
  }
}

TEST(SimReactor, ATaskHopsBetweenTheReactorsOfANode) {
  SimWorld world(1);
  SimNode* node = world.AddNode(NodeOptions("alfa", 1));
  node->Start([](SimNode& self) {
    self.AddReactor();
    self.AddReactor();
  });
  int done = 0;
  node->reactor(0)->Spawn(HopBetween(*node->reactor(0), *node->reactor(1), 50, &done));
  world.RunFor(1s);
  EXPECT_EQ(done, 50);
  EXPECT_GE(node->reactor(1)->turns(), 50u);
  node->Shutdown();
}

struct Doubler : BlockingWork {
  Doubler(Completion* done_completion, int v) : BlockingWork(done_completion), value(v) {}
  int32_t Run() noexcept override { return 2 * value; }
  int value;
};

TEST(SimReactor, BlockingWorkRunsLater) {
  OneNode one(1);
  int32_t got = 0;
  struct Done : Completion {
    explicit Done(int32_t* to)
        : Completion([](Completion* self, int32_t result) noexcept {
            *static_cast<Done*>(self)->out = result;
          }),
          out(to) {}
    int32_t* out;
  } done(&got);
  Doubler work(&done, 21);
  one.reactor()->StartBlocking(&work);
  EXPECT_EQ(got, 0);
  one.world.RunFor(1s);
  EXPECT_EQ(got, 42);
  one.node->Shutdown();
}

struct MustNotDie {
  ~MustNotDie() { ADD_FAILURE() << "an object of a dead incarnation was destructed"; }
};

Task<void> CountTicks(SimReactor& reactor, int* ticks) {
  while (true) {
    co_await Sleep(reactor, 1ms);
    ++*ticks;
  }
}

TEST(SimNode, NothingOfADeadIncarnationRunsAgain) {
  SimWorld world(9);
  SimNode* node = world.AddNode(NodeOptions("alfa", 1));
  auto* ticks = new std::vector<std::unique_ptr<int>>;
  node->Start([ticks](SimNode& self) {
    self.AddReactor();
    self.Make<MustNotDie>();
    ticks->push_back(std::make_unique<int>(0));
    self.reactor()->Spawn(CountTicks(*self.reactor(), ticks->back().get()));
  });
  world.RunFor(100ms);
  EXPECT_GT(*ticks->at(0), 50);
  node->Crash(SimCrash::kPowerCut);
  EXPECT_FALSE(node->running());
  EXPECT_FALSE(node->powered());
  const int frozen = *ticks->at(0);
  world.RunFor(100ms);
  node->Restart();
  world.RunFor(100ms);
  EXPECT_EQ(*ticks->at(0), frozen);
  EXPECT_GT(*ticks->at(1), 50);
  EXPECT_EQ(node->crashes(), 1u);
  node->Crash(SimCrash::kProcessKill);
  EXPECT_TRUE(node->powered());
  delete ticks;
}

TEST(SimNode, ACrashAfterSoManyStepsFallsBetweenTwoCompletions) {
  std::set<int> frozen_at;
  for (uint64_t steps = 1; steps < 40; ++steps) {
    SimWorld world(13);
    SimNode* node = world.AddNode(NodeOptions("alfa", 1));
    auto ticks = std::make_unique<int>(0);
    node->Start([&](SimNode& self) {
      self.AddReactor();
      self.reactor()->Spawn(CountTicks(*self.reactor(), ticks.get()));
    });
    node->CrashAfterSteps(steps, SimCrash::kPowerCut);
    world.RunFor(1s);
    EXPECT_FALSE(node->running());
    frozen_at.insert(*ticks);
  }
  EXPECT_GT(frozen_at.size(), 10u);
}

Task<void> RandomLife(SimReactor& reactor, std::vector<uint64_t>* numbers) {
  for (int i = 0; i < 50; ++i) {
    numbers->push_back(reactor.Random64());
    co_await Sleep(reactor, Duration(reactor.Random64() % 1000000));
  }
}

TEST(SimWorld, TheSameSeedGivesTheSameHash) {
  auto run = [](uint64_t seed, std::vector<uint64_t>* numbers) {
    SimWorld world(seed);
    std::vector<SimNode*> nodes = {world.AddNode(NodeOptions("alfa", 1)),
                                   world.AddNode(NodeOptions("bravo", 2))};
    for (SimNode* node : nodes) {
      node->Start([&](SimNode& self) {
        self.AddReactor();
        self.AddReactor();
        for (int i = 0; i < 2; ++i) {
          self.reactor(i)->Spawn(RandomLife(*self.reactor(i), numbers));
        }
      });
    }
    world.RunFor(10s);
    for (SimNode* node : nodes) node->Shutdown();
    return world.hash();
  };
  std::set<uint64_t> hashes;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    std::vector<uint64_t> first, second;
    const uint64_t hash = run(seed, &first);
    EXPECT_EQ(hash, run(seed, &second));
    EXPECT_EQ(first, second);
    hashes.insert(hash);
  }
  EXPECT_EQ(hashes.size(), 10u);
}

}  // namespace
}  // namespace umblock
