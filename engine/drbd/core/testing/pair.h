// Pair: two nodes of the bench, the first Primary, with something written.
#pragma once

#include "engine/drbd/core/testing/bench.h"

namespace umblock::drbd::testing {

// A(P) B(S), something written.
struct Pair : Bench {
  explicit Pair(const ClusterOptions& options) : Bench(options) {
    BringUpPrimary();
    EXPECT_EQ(Do(0, IoOp::kWrite, 0, 1 << 20, 0x11), 0);
    RunFor(300ms);
  }
  bool WaitConnection(int i, ConnectionState wanted, Duration bound = 60s) {
    return RunUntil([&] { return connection(i, 1 - i) == wanted; }, bound);
  }
  bool WaitDisk(int i, DiskState wanted, Duration bound = 60s) {
    return RunUntil([&] { return disk_state(i) == wanted; }, bound);
  }
  void Cut(bool apart) { world().network().Partition(node(0), node(1), apart); }
};

}  // namespace umblock::drbd::testing
