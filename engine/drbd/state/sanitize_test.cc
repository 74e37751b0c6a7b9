// What follows from a change: drbd-states.md 2.4, rule by rule.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "engine/drbd/state/disk_state.h"
#include "engine/drbd/state/resource_state_fixture.h"

namespace umblock::drbd {
namespace {

using namespace testing;  // NOLINT: the fixture of this module

// --- Sanitising ---

TEST(Sanitize, S1LostConnectionForgetsRoleAndReplication) {
  const Result r = Change(Healthy(), SetConnection(1, Conn::kNetworkFailure), kHard);
  EXPECT_EQ(r.state.peer(1).role, Role::kUnknown);
  EXPECT_EQ(r.state.volumes[0].peer(1).repl, Repl::kOff);
}

TEST(Sanitize, S6RemembersInconsistentAndOutdatedOnly) {
  for (const auto& [before, after] :
       std::vector<std::pair<Disk, Disk>>{{Disk::kUpToDate, Disk::kUnknown},
                                          {Disk::kConsistent, Disk::kUnknown},
                                          {Disk::kDiskless, Disk::kUnknown},
                                          {Disk::kFailed, Disk::kUnknown},
                                          {Disk::kNegotiating, Disk::kUnknown},
                                          {Disk::kInconsistent, Disk::kInconsistent},
                                          {Disk::kOutdated, Disk::kOutdated}}) {
    ResourceState now = Healthy();
    Dev(now).disk = before;
    Dev(now).resync_susp_peer = true;
    const Result r = Change(now, SetConnection(1, Conn::kBrokenPipe), kHard);
    EXPECT_EQ(r.state.volumes[0].peer(1).disk, after) << DiskStateName(before);
    EXPECT_FALSE(r.state.volumes[0].peer(1).resync_susp_peer);
  }
}

TEST(Sanitize, S9ResyncEndsWithoutADisk) {
  ResourceState now = Healthy();
  Dev(now).repl = Repl::kVerifyS;
  const Result r = Change(now, [](ResourceState& s) { Vol(s).disk = Disk::kFailed; }, kHard);
  EXPECT_EQ(r.state.volumes[0].peer(1).repl, Repl::kEstablished);
}

// Scenario 28.
TEST(Sanitize, S10StonithFreezesThePrimary) {
  ResourceState now = Healthy();
  now.role = Role::kPrimary;
  now.peer(1).fencing = FencingPolicy::kResourceAndStonith;
  Result r = Change(now, SetConnection(1, Conn::kTimeout), kHard);
  EXPECT_TRUE(r.state.peer(1).susp_fen);
  EXPECT_TRUE(r.state.suspended());
  now.peer(1).fencing = FencingPolicy::kResourceOnly;
  r = Change(now, SetConnection(1, Conn::kTimeout), kHard);
  EXPECT_FALSE(r.state.peer(1).susp_fen);
}

// Scenario 95, 2.4.2.
TEST(Sanitize, S11OneSyncTargetPerVolume) {
  ResourceState now = Healthy(2);
  Vol(now).disk = Disk::kInconsistent;
  Dev(now, 1).repl = Repl::kSyncTarget;
  Dev(now, 1).resync_active = true;
  Dev(now, 1).out_of_sync = 1000;
  Dev(now, 2).out_of_sync = 900;
  const auto second = [](ResourceState& s) { Dev(s, 2).repl = Repl::kSyncTarget; };
  Result r = Change(now, second);
  EXPECT_EQ(Dev(r.state, 1).repl, Repl::kSyncTarget);
  EXPECT_EQ(Dev(r.state, 2).repl, Repl::kPausedSyncT);
  EXPECT_TRUE(Dev(r.state, 2).resync_susp_other);
  Dev(now, 2).out_of_sync = 1000 - 256;  // now switching pays
  r = Change(now, second);
  EXPECT_EQ(Dev(r.state, 1).repl, Repl::kPausedSyncT);
  EXPECT_EQ(Dev(r.state, 2).repl, Repl::kSyncTarget);
  EXPECT_TRUE(Dev(r.state, 2).resync_active);
  EXPECT_FALSE(Dev(r.state, 1).resync_active);
}

TEST(Sanitize, S11PausedByTheAdministrator) {
  ResourceState now = Healthy();
  Vol(now).disk = Disk::kInconsistent;
  Dev(now).repl = Repl::kSyncTarget;
  Dev(now).resync_active = true;
  Result r = Change(now, [](ResourceState& s) { Dev(s).resync_susp_user = true; });
  EXPECT_EQ(Dev(r.state).repl, Repl::kPausedSyncT);
  r = Change(r.state, [](ResourceState& s) { Dev(s).resync_susp_user = false; });
  EXPECT_EQ(Dev(r.state).repl, Repl::kSyncTarget);
}

TEST(Sanitize, S12AndS13SourceWaitsForItsOwnResync) {
  ResourceState now = Healthy(2);
  Vol(now).disk = Disk::kInconsistent;
  Dev(now, 1).repl = Repl::kSyncTarget;
  Dev(now, 1).resync_active = true;
  Dev(now, 2).disk = Disk::kInconsistent;
  Dev(now, 2).repl = Repl::kWFBitMapS;
  Result r = Change(now, [](ResourceState& s) { Dev(s, 2).repl = Repl::kSyncSource; });
  EXPECT_EQ(Dev(r.state, 2).repl, Repl::kPausedSyncS);
  r = Change(r.state, [](ResourceState& s) {
    Vol(s).disk = Disk::kUpToDate;
    Dev(s, 1).repl = Repl::kEstablished;
    Dev(s, 1).resync_active = false;
  });
  EXPECT_EQ(Dev(r.state, 2).repl, Repl::kSyncSource);
  EXPECT_FALSE(Dev(r.state, 2).resync_susp_other);
}

// 2.4.1: what is missing is data, not the end of another resync, and nobody would end the wait.
TEST(Sanitize, S5AttachedWithoutGoodDataWaitsForNoOther) {
  ResourceState now = Healthy();
  Vol(now).disk = Disk::kNegotiating;
  Vol(now).disk_from_metadata = Disk::kInconsistent;
  Vol(now).negotiation_pending = true;
  Result r = Change(now, [](ResourceState& s) {
    Dev(s).disk = Disk::kOutdated;
    Dev(s).negotiation_result = Repl::kWFBitMapS;
  });
  EXPECT_EQ(Vol(r.state).disk, Disk::kInconsistent);
  EXPECT_EQ(Dev(r.state).repl, Repl::kPausedSyncS);
  EXPECT_FALSE(Dev(r.state).resync_susp_other);
  r = Change(r.state, [](ResourceState& s) { Vol(s).disk = Disk::kUpToDate; });
  EXPECT_EQ(Dev(r.state).repl, Repl::kSyncSource);
}

// Recorded (93-93-io-error-resync-source): P_STATE 0084ab49 of a source whose disk is Inconsistent.
TEST(Sanitize, S13SourceWithoutGoodDataIsPaused) {
  ResourceState now = Healthy();
  Vol(now).disk = Disk::kInconsistent;
  Dev(now, 1).disk = Disk::kInconsistent;
  Dev(now, 1).repl = Repl::kWFBitMapS;
  Result r = Change(now, [](ResourceState& s) { Dev(s, 1).repl = Repl::kSyncSource; });
  EXPECT_EQ(Dev(r.state, 1).repl, Repl::kPausedSyncS);
  r = Change(r.state, [](ResourceState& s) { Vol(s).disk = Disk::kUpToDate; });
  EXPECT_EQ(Dev(r.state, 1).repl, Repl::kSyncSource);
}

// 2.4.3, every row: the extremes of both disks are pulled into the range.
TEST(Sanitize, S16ClampTable) {
  struct Row {
    Repl repl;
    Disk own_low, own_high, peer_low, peer_high;
  };
  const Row rows[] = {
      {Repl::kEstablished, Disk::kDiskless, Disk::kUpToDate, Disk::kDiskless, Disk::kUpToDate},
      {Repl::kStartingSyncT, Disk::kInconsistent, Disk::kOutdated, Disk::kInconsistent,
       Disk::kUpToDate},
      {Repl::kWFBitMapT, Disk::kInconsistent, Disk::kOutdated, Disk::kInconsistent,
       Disk::kUpToDate},
      {Repl::kWFSyncUUID, Disk::kInconsistent, Disk::kOutdated, Disk::kInconsistent,
       Disk::kUpToDate},
      {Repl::kSyncTarget, Disk::kInconsistent, Disk::kInconsistent, Disk::kInconsistent,
       Disk::kUpToDate},
      {Repl::kVerifyT, Disk::kInconsistent, Disk::kUpToDate, Disk::kInconsistent, Disk::kUpToDate},
      {Repl::kBehind, Disk::kInconsistent, Disk::kOutdated, Disk::kInconsistent, Disk::kUpToDate},
      {Repl::kStartingSyncS, Disk::kInconsistent, Disk::kUpToDate, Disk::kInconsistent,
       Disk::kConsistent},
      {Repl::kWFBitMapS, Disk::kInconsistent, Disk::kUpToDate, Disk::kInconsistent,
       Disk::kConsistent},
      {Repl::kAhead, Disk::kInconsistent, Disk::kUpToDate, Disk::kInconsistent, Disk::kConsistent},
      {Repl::kSyncSource, Disk::kInconsistent, Disk::kUpToDate, Disk::kInconsistent,
       Disk::kInconsistent},
      {Repl::kVerifyS, Disk::kInconsistent, Disk::kUpToDate, Disk::kInconsistent, Disk::kUpToDate},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(ReplicationStateName(row.repl));
    const Result r = Change(Healthy(), [&](ResourceState& s) { Dev(s).repl = row.repl; }, kHard);
    EXPECT_EQ(r.state.volumes[0].disk, std::min(row.own_high, Disk::kUpToDate));
    EXPECT_EQ(r.state.volumes[0].peer(1).disk, std::min(row.peer_high, Disk::kUpToDate));
    if (row.own_low == Disk::kDiskless) continue;
    ResourceState low = Healthy();
    Vol(low).disk = Disk::kInconsistent;
    Dev(low).disk = Disk::kInconsistent;
    Result l = Change(low, [&](ResourceState& s) { Dev(s).repl = row.repl; }, kHard);
    EXPECT_GE(l.state.volumes[0].disk, row.own_low);
    EXPECT_GE(Dev(l.state).disk, row.peer_low);
  }
}

TEST(Sanitize, S14FullSyncAsTargetPausesTheOtherPeers) {
  const Result r =
      Change(Healthy(2), [](ResourceState& s) { Dev(s, 1).repl = Repl::kStartingSyncT; }, kHard);
  EXPECT_EQ(r.state.volumes[0].peer(2).repl, Repl::kPausedSyncT);
  EXPECT_TRUE(r.state.volumes[0].peer(2).resync_susp_other);
  EXPECT_EQ(r.state.volumes[0].disk, Disk::kInconsistent);
}

TEST(Sanitize, S17PeerDisklessStaysDiskless) {
  ResourceState now = Healthy();
  Dev(now).disk = Disk::kDiskless;
  const Result r = Change(now, [](ResourceState& s) { Dev(s).disk = Disk::kDetaching; }, kHard);
  EXPECT_EQ(r.state.volumes[0].peer(1).disk, Disk::kDiskless);
}

// Scenario 5: equal UUIDs, the peer is stable.
TEST(Sanitize, S18OutdatedTakesOverAStablePeersState) {
  ResourceState now = Healthy();
  now.peer(1).connection = Conn::kConnecting;
  Vol(now).disk = Disk::kOutdated;
  Dev(now).repl = Repl::kOff;
  Dev(now).disk = Disk::kUnknown;
  const auto connect = [](ResourceState& s) {
    s.peer(1).connection = Conn::kConnected;
    s.peer(1).role = Role::kSecondary;
    Dev(s).repl = Repl::kEstablished;
    Dev(s).disk = Disk::kUpToDate;
  };
  EXPECT_EQ(Change(now, connect).state.volumes[0].disk, Disk::kUpToDate);
  // 7.3, second row: not stable: wait for GOT_STABLE.
  Dev(now).peer_stable = false;
  ResourceState waiting = Change(now, connect).state;
  EXPECT_EQ(Vol(waiting).disk, Disk::kOutdated);
  Result r = Change(waiting, [](ResourceState& s) {
    Dev(s).peer_stable = true;
    Dev(s).peer_got_stable = true;
  });
  EXPECT_EQ(r.state.volumes[0].disk, Disk::kUpToDate);
  EXPECT_FALSE(Dev(r.state).peer_got_stable) << "S22: consumed";
}

TEST(Sanitize, S18PeerThatWasOutdatedItself) {
  ResourceState now = Healthy();
  Vol(now).disk = Disk::kOutdated;
  Dev(now).disk = Disk::kOutdated;
  const Result r = Change(now, [](ResourceState& s) { Dev(s).disk = Disk::kUpToDate; });
  EXPECT_EQ(r.state.volumes[0].disk, Disk::kUpToDate);
}

// Deliberately outdated beside a stable peer: an unrelated change does not undo it.
TEST(Sanitize, S18NeedsAnOccasion) {
  ResourceState now = Healthy();
  Vol(now).disk = Disk::kOutdated;
  const Result r = Change(now, [](ResourceState& s) { s.susp_user = true; });
  EXPECT_EQ(r.state.volumes[0].disk, Disk::kOutdated);
}

TEST(Sanitize, S19RolledBackResyncAttempt) {
  ResourceState now = Healthy(2);
  Vol(now).disk = Disk::kOutdated;
  Dev(now, 1).repl = Repl::kWFBitMapT;
  Result r = Change(now, SetConnection(1, Conn::kBrokenPipe), kHard);
  EXPECT_EQ(r.state.volumes[0].disk, Disk::kUpToDate);
  Dev(now, 2).peer_stable = false;
  r = Change(now, SetConnection(1, Conn::kBrokenPipe), kHard);
  EXPECT_EQ(r.state.volumes[0].disk, Disk::kOutdated);
}

TEST(Sanitize, S20ConsistentReturnsOnConnect) {
  ResourceState now = Healthy();
  now.peer(1).connection = Conn::kConnecting;
  Vol(now).disk = Disk::kConsistent;
  Dev(now).repl = Repl::kOff;
  Dev(now).disk = Disk::kUnknown;
  const auto connect = [](ResourceState& s) {
    s.peer(1).connection = Conn::kConnected;
    Dev(s).repl = Repl::kEstablished;
    Dev(s).disk = Disk::kConsistent;
  };
  EXPECT_EQ(Change(now, connect).state.volumes[0].disk, Disk::kUpToDate);
  Vol(now).may_be_up_to_date = false;
  EXPECT_EQ(Change(now, connect).state.volumes[0].disk, Disk::kConsistent);
}

TEST(Sanitize, S21FollowsAPeerFromConsistentToUpToDate) {
  ResourceState now = Healthy();
  Vol(now).disk = Disk::kConsistent;
  Vol(now).may_be_up_to_date = false;
  Dev(now).disk = Disk::kConsistent;
  const auto up = [](ResourceState& s) { Dev(s).disk = Disk::kUpToDate; };
  EXPECT_EQ(Change(now, up).state.volumes[0].disk, Disk::kUpToDate);
  Dev(now).peer_stable = false;
  EXPECT_EQ(Change(now, up).state.volumes[0].disk, Disk::kConsistent);
}

TEST(Sanitize, S23DisklessPrimary) {
  ResourceState now = Healthy();
  now.peer(1).connection = Conn::kConnecting;
  now.peer(1).role = Role::kUnknown;
  Dev(now).repl = Repl::kOff;
  Dev(now).disk = Disk::kUnknown;
  const auto connect = [](ResourceState& s) {
    s.peer(1).connection = Conn::kConnected;
    s.peer(1).role = Role::kPrimary;
    Dev(s).repl = Repl::kEstablished;
    Dev(s).disk = Disk::kDiskless;
  };
  Result r = Change(now, connect);
  EXPECT_EQ(r.state.volumes[0].disk, Disk::kConsistent);
  EXPECT_TRUE(Dev(r.state).try_other_sources);
  Dev(now).current_uuid_equal = true;
  Vol(now).disk = Disk::kOutdated;
  EXPECT_EQ(Change(now, connect).state.volumes[0].disk, Disk::kUpToDate);
  // A half-synced disk has the name of the generation that it had before.
  Vol(now).disk = Disk::kInconsistent;
  r = Change(now, connect);
  EXPECT_EQ(r.state.volumes[0].disk, Disk::kInconsistent);
  EXPECT_TRUE(Dev(r.state).try_other_sources);
}

TEST(Sanitize, NegotiatingIsResolvedWhenAllPeersAnswered) {
  ResourceState now = Healthy(2);
  Vol(now).disk = Disk::kNegotiating;
  Vol(now).negotiation_pending = true;
  Dev(now, 1).negotiation_result = Repl::kEstablished;
  EXPECT_EQ(Change(now, [](ResourceState&) {}).state.volumes[0].disk, Disk::kNegotiating);
  const auto answer = [&](Repl result) {
    return Change(now, [=](ResourceState& s) { Dev(s, 2).negotiation_result = result; }).state;
  };
  EXPECT_EQ(answer(Repl::kEstablished).volumes[0].disk, Disk::kUpToDate);  // scenario 88
  const ResourceState target = answer(Repl::kWFBitMapT);                   // scenario 89
  EXPECT_EQ(target.volumes[0].disk, Disk::kInconsistent);
  EXPECT_EQ(target.volumes[0].peer(2).repl, Repl::kWFBitMapT);
  Dev(now, 1).negotiation_result = Repl::kBehind;
  EXPECT_EQ(answer(Repl::kBehind).volumes[0].disk, Disk::kDetaching);  // scenario 90
}

TEST(Sanitize, S28ConnectionLostWhileNegotiating) {
  ResourceState now = Healthy();
  Vol(now).disk = Disk::kNegotiating;
  Vol(now).negotiation_pending = true;
  Vol(now).disk_from_metadata = Disk::kOutdated;
  const Result r = Change(now, SetConnection(1, Conn::kBrokenPipe), kHard);
  EXPECT_EQ(r.state.volumes[0].disk, Disk::kOutdated);
}

// Scenario 8: B loses its Primary.
TEST(Sanitize, S29LostPrimaryMakesConsistent) {
  ResourceState now = Healthy(2);
  now.peer(1).role = Role::kPrimary;
  Result r = Change(now, SetConnection(1, Conn::kNetworkFailure), kHard);
  EXPECT_EQ(r.state.volumes[0].disk, Disk::kConsistent);
  EXPECT_TRUE(r.notes.maybe_crashed_primary);
  EXPECT_TRUE(r.notes.run_empty_transaction);
  // Polite leave: TearDown does not count.
  r = Change(now, SetConnection(1, Conn::kTearDown), kHard);
  EXPECT_EQ(r.state.volumes[0].disk, Disk::kUpToDate);
  // Another Primary is still connected.
  now.peer(2).role = Role::kPrimary;
  r = Change(now, SetConnection(1, Conn::kNetworkFailure), kHard);
  EXPECT_EQ(r.state.volumes[0].disk, Disk::kUpToDate);
  // Two Primaries: this one has its own data.
  ResourceState primary = Healthy(1);
  primary.role = primary.peer(1).role = Role::kPrimary;
  r = Change(primary, SetConnection(1, Conn::kNetworkFailure), kHard);
  EXPECT_EQ(r.state.volumes[0].disk, Disk::kUpToDate);
  // Losing a Secondary means nothing.
  now.peer(1).role = Role::kSecondary;
  r = Change(now, SetConnection(1, Conn::kNetworkFailure), kHard);
  EXPECT_EQ(r.state.volumes[0].disk, Disk::kUpToDate);
}

// Scenarios 52 and 68.
TEST(Sanitize, S26AndS31LostQuorumSuspends) {
  ResourceState now = Healthy(2);
  now.role = Role::kPrimary;
  now.quorum.quorum = kQuorumMajority;
  ResourceState one = Change(now, SetConnection(1, Conn::kTimeout), kHard).state;
  EXPECT_TRUE(Vol(one).have_quorum);
  Result r = Change(one, SetConnection(2, Conn::kTimeout), kHard);
  EXPECT_FALSE(Vol(r.state).have_quorum);
  EXPECT_TRUE(r.state.susp_quorum);
  r.state.on_no_quorum = OnNoQuorum::kIoError;  // scenario 69
  r = Change(r.state, [](ResourceState&) {});
  EXPECT_FALSE(r.state.susp_quorum);
}

TEST(Sanitize, S26WithQuorumOffTheValueIsForcedTrue) {
  ResourceState now = Healthy(2);
  ResourceState one = Change(now, SetConnection(1, Conn::kTimeout), kHard).state;
  const Result r = Change(one, SetConnection(2, Conn::kTimeout), kHard);
  EXPECT_TRUE(r.state.volumes[0].have_quorum);
  EXPECT_FALSE(r.state.volumes[0].quorum);
}

// Scenario 65.
TEST(Sanitize, S27RestoreQuorumAfterAReboot) {
  EXPECT_TRUE(RestoresQuorum(true, true, NodeBit(0), 0));
  EXPECT_FALSE(RestoresQuorum(true, true, NodeBit(0) | NodeBit(1), 0));
  EXPECT_FALSE(RestoresQuorum(true, false, NodeBit(0), 0));
  ResourceState now = Healthy(1);
  now.quorum.quorum = kQuorumMajority;
  now.peer(1).connection = Conn::kConnecting;
  Dev(now).repl = Repl::kOff;
  Dev(now).disk = Disk::kUnknown;
  Vol(now).have_quorum = Vol(now).quorum = false;
  EXPECT_FALSE(Change(now, [](ResourceState&) {}).state.volumes[0].have_quorum);
  Vol(now).restore_quorum = true;
  EXPECT_TRUE(Change(now, [](ResourceState&) {}).state.volumes[0].have_quorum);
}

// Scenario 78.
TEST(Sanitize, S30NoDataSuspends) {
  ResourceState now = Healthy(1);
  now.role = Role::kPrimary;
  now.on_no_data = OnNoData::kSuspendIo;
  Vol(now).disk = Disk::kDiskless;
  Result r = Change(now, SetConnection(1, Conn::kTimeout), kHard);
  EXPECT_TRUE(r.state.susp_nod);
  EXPECT_TRUE(r.notes.newly_without_data);
  r = Change(
      r.state,
      [](ResourceState& s) {
        s.peer(1).connection = Conn::kConnected;
        Dev(s).repl = Repl::kEstablished;
        Dev(s).disk = Disk::kUpToDate;
      },
      kHard);
  EXPECT_FALSE(r.state.susp_nod);
}

TEST(Sanitize, S32OwedUuidBridgesTheResume) {
  ResourceState now = Healthy(1);
  now.role = Role::kPrimary;
  now.susp_user = true;
  Vol(now).owes_new_uuid = true;
  const Result r = Change(now, [](ResourceState& s) { s.susp_user = false; });
  EXPECT_TRUE(r.state.susp_uuid);
  EXPECT_TRUE(r.state.suspended());
}

// Scenario 21.
TEST(Sanitize, S33ForcedDemotionFailsIo) {
  ResourceState now = Healthy(1);
  now.role = Role::kPrimary;
  Vol(now).read_write_openers = 1;
  Result r = Change(now, Demote);
  EXPECT_EQ(r.code, StateResult::kDeviceInUse);  // scenario 20
  r = Change(now, Demote, {.ignore_openers = true});
  EXPECT_EQ(r.code, StateResult::kSuccess);
  EXPECT_TRUE(r.state.fail_io);
  EXPECT_EQ(Change(r.state, Promote).code, StateResult::kDeviceInUse);  // R3
}

TEST(Sanitize, IsIdempotent) {
  ResourceState now = Healthy(2);
  now.peer(1).role = Role::kPrimary;
  const ResourceState once = Change(now, SetConnection(1, Conn::kTimeout), kHard).state;
  EXPECT_EQ(Change(once, [](ResourceState&) {}, kHard).state, once);
}

}  // namespace
}  // namespace umblock::drbd
