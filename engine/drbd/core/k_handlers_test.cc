// Handlers (drbd-states.md 5.5): when they are called, with what, and what their end means.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/pair.h"

namespace umblock::drbd {
namespace {

using testing::ClusterOptions;
using testing::Options;
using testing::Pair;
using testing::Text;

// Every handler is "/h/NAME" and exits with 0.
ClusterOptions WithHandlers(uint64_t seed) {
  ClusterOptions options = Options(seed);
  for (int i = 0; i < kHandlers; ++i) {
    options.handlers.paths[static_cast<size_t>(i)] =
        "/h/" + std::string(HandlerName(static_cast<Handler>(i)));
  }
  return options;
}

struct HandlerPair : Pair {
  explicit HandlerPair(const ClusterOptions& options) : Pair(options) {
    for (int node : {0, 1}) {
      for (int i = 0; i < kHandlers; ++i) {
        handlers(node).Exits("/h/" + std::string(HandlerName(static_cast<Handler>(i))), 0);
      }
      handlers(node).runs.clear();
    }
  }
  size_t Called(int node, std::string_view name) {
    return handlers(node).Count("/h/" + std::string(name));
  }
  std::string Variable(int node, std::string_view name, const std::string& variable) {
    for (const ProcessRequest& run : handlers(node).runs) {
      if (run.path != "/h/" + std::string(name)) continue;
      for (const std::string& entry : run.environment) {
        if (entry.starts_with(variable + "=")) return entry.substr(variable.size() + 1);
      }
    }
    return "(not set)";
  }
  // Both are Primary apart from each other, and write.
  void SplitBrain() {
    Cut(true);
    ASSERT_TRUE(WaitConnection(0, ConnectionState::kConnecting));
    ASSERT_TRUE(WaitDisk(1, DiskState::kUpToDate));
    Status promoted = Promote(1);
    ASSERT_TRUE(promoted) << Text(promoted);
    ASSERT_EQ(Do(0, IoOp::kWrite, 0, 4096, 0x21), 0);
    ASSERT_EQ(Do(1, IoOp::kWrite, 8192, 4096, 0x22), 0);
    ASSERT_TRUE(Demote(1));
    Cut(false);
  }
};

TEST(Handlers, BothSidesOfAResyncAreAskedAndTold) {
  HandlerPair pair(WithHandlers(1));
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 65536, 0x31), 0);
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  pair.RunFor(1s);
  EXPECT_EQ(pair.Called(0, "before-resync-source"), 1u);
  EXPECT_EQ(pair.Called(1, "before-resync-target"), 1u);
  EXPECT_EQ(pair.Called(1, "after-resync-target"), 1u);
  EXPECT_EQ(pair.Called(0, "before-resync-target"), 0u);
  EXPECT_EQ(pair.Called(0, "after-resync-target"), 0u);
  EXPECT_EQ(pair.Variable(1, "before-resync-target", "DRBD_RESOURCE"), "r0");
  EXPECT_EQ(pair.Variable(1, "before-resync-target", "DRBD_VOLUME"), "0");
  EXPECT_EQ(pair.Variable(1, "before-resync-target", "DRBD_BACKING_DEV"), "disk0");
  EXPECT_EQ(pair.Variable(1, "before-resync-target", "DRBD_LL_DISK"), "disk0");
  EXPECT_EQ(pair.Variable(1, "before-resync-target", "DRBD_MY_NODE_ID"), "1");
  EXPECT_EQ(pair.Variable(1, "before-resync-target", "DRBD_PEER_NODE_ID"), "0");
  EXPECT_EQ(pair.Variable(1, "before-resync-target", "DRBD_NODE_ID_0"), "node0");
  EXPECT_EQ(pair.Variable(1, "before-resync-target", "DRBD_NODE_ID_1"), "node1");
  EXPECT_EQ(pair.Variable(1, "before-resync-target", "DRBD_PEER_ADDRESS"), "192.0.2.11");
  EXPECT_EQ(pair.Variable(1, "before-resync-target", "DRBD_MY_ADDRESS"), "192.0.2.12");
  EXPECT_EQ(pair.Variable(1, "before-resync-target", "DRBD_PEER_AF"), "ipv4");
  EXPECT_EQ(pair.Variable(1, "before-resync-target", "DRBD_CSTATE"), "Connected");
  EXPECT_EQ(pair.Variable(1, "before-resync-target", "PATH"), "/sbin:/usr/sbin:/bin:/usr/bin");
  EXPECT_EQ(pair.Variable(1, "before-resync-target", "UMBLOCK_HANDLER"), "before-resync-target");
  EXPECT_EQ(pair.Variable(1, "before-resync-target", "UP_TO_DATE_NODES"), "(not set)");
  EXPECT_TRUE(pair.SawEvent(1, "handler", "called"));
  EXPECT_TRUE(pair.SawEvent(1, "handler", "exit code 0"));
}

TEST(Handlers, NoResyncBeginsBeforeItsHandlerHasEnded) {
  HandlerPair pair(WithHandlers(2));
  pair.handlers(1).Exits("/h/before-resync-target", 0, 5s);
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 65536, 0x32), 0);
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.Called(1, "before-resync-target") == 1; }));
  pair.RunFor(4s);
  EXPECT_EQ(pair.disk_state(1), DiskState::kOutdated);
  EXPECT_EQ(pair.repl(1, 0), ReplicationState::kWFBitMapT);
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_TRUE(pair.Equal(0, 1));
}

// Longer than a peer may take for its bitmap, which has come.
TEST(Handlers, AHandlerMayTakeItsTime) {
  for (const auto& [node, name] :
       {std::pair{1, "before-resync-target"}, {0, "before-resync-source"}}) {
    SCOPED_TRACE(name);
    HandlerPair pair(WithHandlers(21));
    pair.handlers(node).Exits("/h/" + std::string(name), 0, 60s);
    ASSERT_TRUE(pair.Disconnect(0, 1));
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 65536, 0x34), 0);
    ASSERT_TRUE(pair.Connect(0, 1));
    ASSERT_TRUE(pair.RunUntil([&] { return pair.Called(node, name) == 1; }));
    pair.RunFor(55s);
    EXPECT_EQ(pair.connection(0, 1), ConnectionState::kConnected) << pair.last_error(node);
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_EQ(pair.Called(node, name), 1u);
    EXPECT_TRUE(pair.Equal(0, 1));
  }
}

TEST(Handlers, AHandlerMayRefuseAResync) {
  for (const auto& [node, name, code, refused] : {std::tuple{1, "before-resync-target", 1, true},
                                                  {1, "before-resync-target", 3, true},
                                                  {0, "before-resync-source", 1, true},
                                                  {0, "before-resync-source", 3, false}}) {
    SCOPED_TRACE(fmt::format("{} {}", name, code));
    HandlerPair pair(WithHandlers(3));
    pair.handlers(node).Exits("/h/" + std::string(name), code);
    ASSERT_TRUE(pair.Disconnect(0, 1));
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 65536, 0x33), 0);
    ASSERT_TRUE(pair.Connect(0, 1));
    if (!refused) {
      ASSERT_TRUE(pair.BecomesUpToDate());
      continue;
    }
    ASSERT_TRUE(pair.RunUntil(
        [&] { return pair.connection(node, 1 - node) == ConnectionState::kStandAlone; }));
    EXPECT_NE(pair.last_error(node).find(fmt::format("handler {}", name)), std::string::npos)
        << pair.last_error(node);
    EXPECT_LT(pair.disk_state(1), DiskState::kUpToDate);
    // The way out.
    pair.handlers(node).Exits("/h/" + std::string(name), 0);
    ASSERT_TRUE(pair.Connect(node, 1 - node));
    ASSERT_TRUE(pair.BecomesUpToDate());
    EXPECT_TRUE(pair.Equal(0, 1));
  }
}

TEST(Handlers, AHandlerThatHangsIsEndedAndHasRefused) {
  ClusterOptions options = WithHandlers(4);
  options.handlers.timeout = 2s;
  HandlerPair pair(options);
  pair.handlers(1).Exits("/h/before-resync-target", 0, 1000s);
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 65536, 0x34), 0);
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.WaitConnection(1, ConnectionState::kStandAlone));
  EXPECT_TRUE(pair.SawEvent(1, "handler", "ended after 2 s without an exit code"));
}

TEST(Handlers, SplitBrainIsToldOnBothSides) {
  HandlerPair pair(WithHandlers(5));
  pair.SplitBrain();
  ASSERT_TRUE(pair.WaitConnection(0, ConnectionState::kStandAlone));
  pair.RunFor(1s);
  for (int node : {0, 1}) {
    SCOPED_TRACE(node);
    EXPECT_EQ(pair.Called(node, "initial-split-brain"), 1u);
    EXPECT_EQ(pair.Called(node, "split-brain"), 1u);
    EXPECT_EQ(pair.Called(node, "pri-lost-after-sb"), 0u);
  }
}

TEST(Handlers, ASplitBrainThatAPolicyResolvesCallsOnlyTheFirst) {
  ClusterOptions options = WithHandlers(6);
  options.net.after_sb_1pri = SplitBrainPolicy::kDiscardSecondary;
  HandlerPair pair(options);
  pair.SplitBrain();
  ASSERT_TRUE(pair.BecomesUpToDate());
  for (int node : {0, 1}) {
    SCOPED_TRACE(node);
    EXPECT_EQ(pair.Called(node, "initial-split-brain"), 1u);
    EXPECT_EQ(pair.Called(node, "split-brain"), 0u);
  }
  EXPECT_TRUE(pair.Equal(0, 1));
}

TEST(Handlers, APrimaryThatLosesTheSplitBrainIsTold) {
  ClusterOptions options = WithHandlers(7);
  options.net.after_sb_1pri = SplitBrainPolicy::kCallPriLost;
  options.net.after_sb_0pri = SplitBrainPolicy::kDiscardLeastChanges;
  HandlerPair pair(options);
  pair.Cut(true);
  ASSERT_TRUE(pair.WaitConnection(0, ConnectionState::kConnecting));
  ASSERT_TRUE(pair.WaitDisk(1, DiskState::kUpToDate));
  ASSERT_TRUE(pair.Promote(1));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x21), 0);
  ASSERT_EQ(pair.Do(1, IoOp::kWrite, 8192, 1 << 20, 0x22), 0);
  ASSERT_TRUE(pair.Demote(1));
  pair.Cut(false);
  ASSERT_TRUE(pair.WaitConnection(0, ConnectionState::kStandAlone));
  pair.RunFor(1s);
  EXPECT_EQ(pair.Called(0, "pri-lost-after-sb"), 1u);
  EXPECT_EQ(pair.Called(1, "pri-lost-after-sb"), 0u);
}

TEST(Handlers, ADiskErrorCallsLocalIoError) {
  for (OnIoError policy : {OnIoError::kCallLocalIoError, OnIoError::kDetach}) {
    ClusterOptions options = WithHandlers(8);
    options.disk.on_io_error = policy;
    HandlerPair pair(options);
    pair.handlers(0).Exits("/h/local-io-error", 0, 3s);
    pair.disk(0).FailNext(SimDiskOp::kWrite, EIO, 1000);
    ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 4096, 0x41), 0);
    if (policy == OnIoError::kCallLocalIoError) {
      // The disk is out of use at once, and goes when the handler has ended.
      EXPECT_EQ(pair.disk_state(0), DiskState::kFailed);
      ASSERT_TRUE(pair.RunUntil([&] { return pair.Called(0, "local-io-error") == 1; }));
    }
    ASSERT_TRUE(pair.WaitDisk(0, DiskState::kDiskless));
    EXPECT_EQ(pair.Called(0, "local-io-error"), policy == OnIoError::kDetach ? 0u : 1u);
    EXPECT_TRUE(pair.NowIs(1, 0, 4096, 0x41));
  }
}

TEST(Handlers, ADetachThatIsForcedIsNoError) {
  ClusterOptions options = WithHandlers(9);
  options.disk.on_io_error = OnIoError::kCallLocalIoError;
  HandlerPair pair(options);
  ASSERT_TRUE(pair.Await(0, pair.resource(0).Detach(0, true)));
  pair.RunFor(1s);
  EXPECT_EQ(pair.Called(0, "local-io-error"), 0u);
}

TEST(Handlers, APrimaryThatLosesItsLastDataIsTold) {
  HandlerPair pair(WithHandlers(10));
  ASSERT_TRUE(pair.Await(0, pair.resource(0).Detach(0, true)));
  EXPECT_EQ(pair.Called(0, "pri-on-incon-degr"), 0u);
  pair.Cut(true);
  ASSERT_TRUE(pair.RunUntil([&] { return pair.Called(0, "pri-on-incon-degr") == 1; }));
  EXPECT_EQ(pair.Called(1, "pri-on-incon-degr"), 0u);
}

TEST(Handlers, ADaemonThatStopsWaitsForNone) {
  HandlerPair pair(WithHandlers(11));
  pair.handlers(1).Exits("/h/before-resync-target", 0, 500s);
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 65536, 0x35), 0);
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.RunUntil([&] { return pair.Called(1, "before-resync-target") == 1; }));
  const SimTime before = pair.world().now();
  auto stop = [](Resource& resource) -> Task<Status> {
    co_await resource.Stop();
    co_return Ok();
  };
  ASSERT_TRUE(pair.Await(1, stop(pair.resource(1))));
  EXPECT_LT(pair.world().now() - before, SimTime(60s));
}

TEST(Handlers, ChangedHandlersHoldFromTheNextCallOn) {
  HandlerPair pair(WithHandlers(12));
  HandlerConfig none;
  ASSERT_TRUE(pair.resource(1).UpdateHandlers(none));
  HandlerConfig bad;
  bad.path(Handler::kFencePeer) = "relative; rm -rf /";
  EXPECT_EQ(pair.resource(1).UpdateHandlers(bad).error().code(), ErrorCode::kInvalidArgument);
  bad = {};
  bad.timeout = 2h;
  EXPECT_EQ(pair.resource(1).UpdateHandlers(bad).error().code(), ErrorCode::kInvalidArgument);
  ASSERT_TRUE(pair.Disconnect(0, 1));
  ASSERT_EQ(pair.Do(0, IoOp::kWrite, 0, 65536, 0x36), 0);
  ASSERT_TRUE(pair.Connect(0, 1));
  ASSERT_TRUE(pair.BecomesUpToDate());
  EXPECT_EQ(pair.handlers(1).runs.size(), 0u);
}

}  // namespace
}  // namespace umblock::drbd
