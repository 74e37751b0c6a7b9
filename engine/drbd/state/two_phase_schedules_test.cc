// Two-phase commits in any order, topology and with losses at any moment: everybody or nobody.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "engine/drbd/state/two_phase_cluster.h"

namespace umblock::drbd {
namespace {

using testing::Cluster;
using testing::Member;
using testing::Mesh;

// --- Everybody or nobody ---

// Scenario 46 and all its schedules: several nodes promote at once. Each refuses if it is Primary
// itself or serves another; whoever commits is the only Primary.
TEST(TwoPhaseCommit, CompetingPromotionsEndWithAtMostOnePrimary) {
  int committed = 0;
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    Cluster c = Mesh(3, seed);
    std::mt19937_64 random(seed);
    for (int i = 0; i < 3; ++i) {
      Member& m = c[i];
      m.check = [&m](const Transaction&) {
        return m.primary ? StateResult::kTwoPrimaries : StateResult::kSuccess;
      };
    }
    std::vector<int> starters{0, 1, 2};
    std::ranges::shuffle(starters, random);
    for (int node : starters) {
      if (!c[node].participant.active()) c.Start(node, ProposePromote(false));
      for (uint64_t steps = random() % 4; steps > 0; --steps) c.Step();
      for (int i = 0; i < 3; ++i) c[i].primary = c[i].finished == StateResult::kSuccess;
    }
    while (c.Step()) {
      for (int i = 0; i < 3; ++i) c[i].primary = c[i].finished == StateResult::kSuccess;
    }
    c.FireAll();
    int primaries = 0;
    for (int i = 0; i < 3; ++i) {
      primaries += c[i].finished == StateResult::kSuccess;
      ASSERT_FALSE(c[i].participant.active()) << seed;
      ASSERT_FALSE(c[i].coordinator.active()) << seed;
      ASSERT_FALSE(c[i].participant.deferring()) << seed;
    }
    ASSERT_LE(primaries, 1) << seed;
    committed += primaries;
  }
  EXPECT_GT(committed, 300);
}

// Random connected topologies, random order, no loss: all apply or all undo; the masks are right.
TEST(TwoPhaseCommit, EverybodyOrNobodyInAnyTopology) {
  for (uint64_t seed = 0; seed < 1500; ++seed) {
    std::mt19937_64 random(seed);
    const int nodes = 2 + static_cast<int>(random() % 6);
    Cluster c(nodes, seed);
    for (int i = 1; i < nodes; ++i)
      c.Link(i, static_cast<int>(random() % static_cast<uint64_t>(i)));
    for (int i = 0; i < nodes; ++i) {
      const int a = static_cast<int>(random() % static_cast<uint64_t>(nodes));
      const int b = static_cast<int>(random() % static_cast<uint64_t>(nodes));
      if (a != b) c.Link(a, b);
    }
    const int refuser =
        random() % 3 == 0 ? static_cast<int>(random() % static_cast<uint64_t>(nodes)) : -1;
    const int initiator = static_cast<int>(random() % static_cast<uint64_t>(nodes));
    if (refuser >= 0) {
      c[refuser].check = [](const Transaction&) { return StateResult::kDeviceInUse; };
    }
    c.Start(initiator, ProposePromote(false));
    c.Settle();
    const bool want = refuser < 0 || refuser == initiator;
    ASSERT_EQ(c[initiator].finished == StateResult::kSuccess, want) << seed;
    if (want) {
      ASSERT_EQ(c[initiator].coordinator.members(), (NodeMask{1} << nodes) - 1) << seed;
    }
    for (int i = 0; i < nodes; ++i) {
      ASSERT_EQ(c[i].applied.size(), want ? 1u : 0u) << seed << " node " << i;
      ASSERT_FALSE(c[i].participant.active()) << seed << " node " << i;
      ASSERT_FALSE(c[i].timer) << seed << " node " << i;
    }
  }
}

// With losses at any moment, everybody is free again once the timers have run, nobody applies what
// was never committed, and nobody applies twice.
TEST(TwoPhaseCommit, LossesLeaveNobodyStuck) {
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    std::mt19937_64 random(seed);
    Cluster c = Mesh(4, seed);
    c.Start(static_cast<int>(random() % 4), ProposePromote(false));
    for (int round = 0; round < 12; ++round) {
      for (uint64_t steps = random() % 3; steps > 0; --steps) c.Step();
      const int a = static_cast<int>(random() % 4);
      const int b = static_cast<int>(random() % 4);
      if (a != b && random() % 3 == 0 && Contains(c[a].direct, b)) c.Cut(a, b);
    }
    c.Settle();
    c.FireAll();
    bool success = false;
    for (int i = 0; i < 4; ++i) success = success || c[i].finished == StateResult::kSuccess;
    for (int i = 0; i < 4; ++i) {
      ASSERT_FALSE(c[i].participant.active()) << seed;
      ASSERT_FALSE(c[i].coordinator.active()) << seed;
      ASSERT_LE(c[i].applied.size(), success ? 1u : 0u) << seed;
    }
  }
}

}  // namespace
}  // namespace umblock::drbd
