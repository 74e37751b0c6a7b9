#include "engine/drbd/state/connect_handshake.h"

#include <gtest/gtest.h>

#include <vector>

namespace umblock::drbd {
namespace {

SyncDecision Decision(SyncVerdict verdict, SyncDirection direction = SyncDirection::kNone) {
  SyncDecision d;
  d.verdict = verdict;
  d.direction = direction;
  return d;
}

TEST(ConnectHandshake, PacketsBeforeThePrepareDoNotCount) {
  ConnectHandshake h;
  EXPECT_EQ(h.state(), HandshakeState::kNotNeeded);
  EXPECT_FALSE(h.OnUuids(0));
  EXPECT_FALSE(h.OnState(0));
  h.Begin({0});
  EXPECT_EQ(h.state(), HandshakeState::kPending);
  EXPECT_FALSE(h.OnState(0)) << "UUIDs come first";
  EXPECT_TRUE(h.OnUuids(0));
  EXPECT_TRUE(h.OnState(0));
  h.OnDecision(0, Decision(SyncVerdict::kProceed));
  EXPECT_EQ(h.state(), HandshakeState::kReady);
}

TEST(ConnectHandshake, EveryVolumeIsWaitedFor) {
  ConnectHandshake h;
  h.Begin({0, 7});
  h.OnUuids(0);
  h.OnDecision(0, Decision(SyncVerdict::kProceed));
  EXPECT_EQ(h.state(), HandshakeState::kPending);
  EXPECT_FALSE(h.OnUuids(3)) << "a volume only the peer has";
  h.OnUuids(7);
  h.OnDecision(7, Decision(SyncVerdict::kDisconnect));
  EXPECT_EQ(h.state(), HandshakeState::kWantsDisconnect);
}

TEST(ConnectHandshake, RepeatedStatesDoNotOverwrite) {
  ConnectHandshake h;
  h.Begin({0});
  h.OnUuids(0);
  h.OnDecision(0, Decision(SyncVerdict::kRetry));
  EXPECT_FALSE(h.OnState(0));
  h.OnDecision(0, Decision(SyncVerdict::kProceed));
  EXPECT_EQ(h.state(), HandshakeState::kWantsRetry);
  h.Begin({0});  // a new attempt starts over
  EXPECT_EQ(h.state(), HandshakeState::kPending);
}

TEST(ConnectHandshake, NoVolumesIsReadyAtOnce) {
  ConnectHandshake h;
  h.Begin({});
  EXPECT_EQ(h.state(), HandshakeState::kReady);
  h.OnRefused();
  EXPECT_EQ(h.state(), HandshakeState::kWantsDisconnect);
}

TEST(ConnectHandshake, TargetsAreOutdatedAfterAFailedConnect) {
  ConnectHandshake h;
  h.Begin({0, 1, 2});
  for (int v : {0, 1, 2}) h.OnUuids(v);
  h.OnDecision(0, Decision(SyncVerdict::kProceed, SyncDirection::kTarget));
  SyncDecision refused = Decision(SyncVerdict::kDisconnect);
  refused.would_be_target = true;
  h.OnDecision(1, refused);
  h.OnDecision(2, Decision(SyncVerdict::kProceed, SyncDirection::kSource));
  EXPECT_EQ(h.WouldBeTargets(), (std::vector<int>{0, 1}));
}

// 4.8, last table.
TEST(ConnectHandshake, FollowUp) {
  const auto policy = AfterSplitBrain::kDisconnect;
  const auto retry = AfterSplitBrain::kRetryConnect;
  EXPECT_EQ(AfterConnect(StateResult::kSuccess, policy, false), ConnectFollowUp::kConnected);
  EXPECT_EQ(AfterConnect(StateResult::kConcurrentStateChange, policy, false),
            ConnectFollowUp::kRetryIn50Ms);
  EXPECT_EQ(AfterConnect(StateResult::kTimeout, policy, false), ConnectFollowUp::kRetryIn50Ms);
  EXPECT_EQ(AfterConnect(StateResult::kHandshakeRetry, policy, false),
            ConnectFollowUp::kOutdateAndRetryIn1s);
  EXPECT_EQ(AfterConnect(StateResult::kHandshakeDisconnect, retry, false),
            ConnectFollowUp::kDisconnect);
  for (const auto code : {StateResult::kCwFailedByPeer, StateResult::kTwoPrimaries}) {
    EXPECT_EQ(AfterConnect(code, policy, false), ConnectFollowUp::kDisconnect);
    EXPECT_EQ(AfterConnect(code, retry, false), ConnectFollowUp::kOutdateAndRetryIn1s);
    EXPECT_EQ(AfterConnect(code, policy, true), ConnectFollowUp::kOutdateAndRetryIn1s);
  }
  EXPECT_EQ(AfterConnect(StateResult::kPrimaryReader, policy, false),
            ConnectFollowUp::kWaitForReaders);
  EXPECT_EQ(AfterConnect(StateResult::kNeedConnection, policy, false),
            ConnectFollowUp::kNetworkFailure);
  EXPECT_TRUE(StartsConnect(0, 1));
  EXPECT_FALSE(StartsConnect(1, 0));
}

}  // namespace
}  // namespace umblock::drbd
