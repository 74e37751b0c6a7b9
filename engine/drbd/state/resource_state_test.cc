// Sanitising (2.4), hard and soft rules (2.2, 2.3), diffs and state words of drbd-states.md.
#include "engine/drbd/state/resource_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/drbd/state/disk_state.h"

namespace umblock::drbd {
namespace {

using Repl = ReplicationState;
using Disk = DiskState;
using Conn = ConnectionState;

// Node 0 with one volume; `peers` connected peers 1.., everything UpToDate.
ResourceState Healthy(int peers = 1) {
  ResourceState s;
  s.own_node = 0;
  s.volumes.resize(1);
  s.volumes[0].disk = Disk::kUpToDate;
  s.volumes[0].disk_from_metadata = Disk::kUpToDate;
  for (int node = 1; node <= peers; ++node) {
    s.peer(node).configured = true;
    s.peer(node).connection = Conn::kConnected;
    s.peer(node).role = Role::kSecondary;
    s.peer(node).agreed_version = 124;
    PeerDeviceState& pd = s.volumes[0].peer(node);
    pd.repl = Repl::kEstablished;
    pd.disk = Disk::kUpToDate;
    pd.uuids_known = pd.peer_stable = true;
    pd.peer_quorum = true;
    s.volumes[0].slots[static_cast<size_t>(node)] = {true, true, true, false};
  }
  s.members = (NodeMask{1} << (peers + 1)) - 1;
  return s;
}
VolumeState& Vol(ResourceState& s) { return s.volumes[0]; }
PeerDeviceState& Dev(ResourceState& s, int node = 1) { return s.volumes[0].peer(node); }

struct Result {
  ResourceState state;
  SanitizeNotes notes;
  StateResult code = StateResult::kSuccess;
  std::string text;
};
// `edit` applied to `now`, sanitised and checked.
template <typename Edit>
Result Change(const ResourceState& now, Edit edit, ChangeOptions options = {}) {
  Result result{now, {}};
  edit(result.state);
  result.notes = Sanitize(now, result.state, options);
  const StateCheck check = CheckTransition(now, result.state, options);
  if (!check) {
    result.code = check.error().code;
    result.text = check.error().text();
  }
  return result;
}
const ChangeOptions kHard{.hard = true};

auto SetConnection(int node, Conn to) {
  return [=](ResourceState& s) { s.peer(node).connection = to; };
}
void Promote(ResourceState& s) { s.role = Role::kPrimary; }
void Demote(ResourceState& s) { s.role = Role::kSecondary; }

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
  r = Change(r.state, [](ResourceState& s) { Dev(s, 2).resync_susp_other = false; });
  EXPECT_EQ(Dev(r.state, 2).repl, Repl::kSyncSource);
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

// --- Hard rules ---

TEST(HardRules, BrokenConnectionsWalkThroughUnconnected) {
  const auto code = [](Conn from, Conn to) {
    ResourceState now = Healthy();
    now.peer(1).connection = from;
    Dev(now).repl = Repl::kOff;
    Dev(now).disk = Disk::kUnknown;
    return Change(now, SetConnection(1, to), kHard).code;
  };
  EXPECT_EQ(code(Conn::kStandAlone, Conn::kDisconnecting), StateResult::kAlreadyStandalone);
  EXPECT_EQ(code(Conn::kStandAlone, Conn::kConnecting), StateResult::kNeedConnection);
  EXPECT_EQ(code(Conn::kStandAlone, Conn::kUnconnected), StateResult::kSuccess);
  for (const Conn broken : {Conn::kTimeout, Conn::kBrokenPipe, Conn::kNetworkFailure,
                            Conn::kProtocolError, Conn::kTearDown}) {
    EXPECT_EQ(code(broken, Conn::kConnecting), StateResult::kInTransientState);
    EXPECT_EQ(code(broken, Conn::kConnected), StateResult::kInTransientState);
    EXPECT_EQ(code(broken, Conn::kUnconnected), StateResult::kSuccess);
    EXPECT_EQ(code(broken, Conn::kDisconnecting), StateResult::kSuccess);
  }
  EXPECT_EQ(code(Conn::kDisconnecting, Conn::kUnconnected), StateResult::kInTransientState);
  EXPECT_EQ(code(Conn::kDisconnecting, Conn::kStandAlone), StateResult::kSuccess);
}

TEST(HardRules, DisklessCannotFail) {
  ResourceState now = Healthy();
  Vol(now).disk = Disk::kDiskless;
  EXPECT_EQ(Change(
                now, [](ResourceState& s) { Vol(s).disk = Disk::kFailed; }, kHard)
                .code,
            StateResult::kIsDiskless);
  // S3: detaching a detached disk is nothing.
  EXPECT_EQ(
      Change(now, [](ResourceState& s) { Vol(s).disk = Disk::kDetaching; }).state.volumes[0].disk,
      Disk::kDiskless);
}

// --- Soft rules ---

// Scenario 18.
TEST(SoftRules, R1TwoPrimaries) {
  ResourceState now = Healthy();
  now.peer(1).role = Role::kPrimary;
  Result r = Change(now, Promote);
  EXPECT_EQ(r.code, StateResult::kTwoPrimaries);
  EXPECT_THAT(r.text, testing::HasSubstr("Multiple primaries not allowed by config (node 1)"));
  now.peer(1).allow_two_primaries = true;
  EXPECT_EQ(Change(now, Promote).code, StateResult::kSuccess);
}

TEST(SoftRules, R2AndD1WaitForAHandshake) {
  ResourceState now = Healthy();
  now.peer(1).connection = Conn::kConnecting;
  Dev(now).repl = Repl::kOff;
  Dev(now).disk = Disk::kUnknown;
  Dev(now).handshake_running = true;
  EXPECT_EQ(Change(now, Promote).code, StateResult::kInTransientState);
  EXPECT_EQ(Change(now, [](ResourceState& s) { Vol(s).disk = Disk::kDetaching; }).code,
            StateResult::kInTransientState);
}

TEST(SoftRules, C2AndC3) {
  ResourceState now = Healthy();
  now.peer(1).connection = Conn::kUnconnected;
  Dev(now).repl = Repl::kOff;
  EXPECT_EQ(Change(now, SetConnection(1, Conn::kDisconnecting)).code,
            StateResult::kInTransientState);
  EXPECT_EQ(Change(now, SetConnection(1, Conn::kDisconnecting), kHard).code, StateResult::kSuccess);
}

TEST(SoftRules, C4AndC5PeerBecomesPrimary) {
  const auto peer_promotes = [](ResourceState& s) { s.peer(1).role = Role::kPrimary; };
  ResourceState now = Healthy();
  EXPECT_EQ(Change(now, peer_promotes).code, StateResult::kSuccess);
  Vol(now).read_only_openers = 1;  // scenario 19
  EXPECT_EQ(Change(now, peer_promotes).code, StateResult::kPrimaryReader);
  Vol(now).read_write_openers = 1;
  EXPECT_EQ(Change(now, peer_promotes).code, StateResult::kSuccess);
  now.role = Role::kPrimary;
  EXPECT_EQ(Change(now, peer_promotes).code, StateResult::kTwoPrimaries);
}

TEST(SoftRules, D3DisklessNeedsAttaching) {
  ResourceState now = Healthy();
  Vol(now).disk = Disk::kDiskless;
  EXPECT_EQ(Change(now, [](ResourceState& s) { Vol(s).disk = Disk::kUpToDate; }).code,
            StateResult::kIsDiskless);
  EXPECT_EQ(Change(now, [](ResourceState& s) { Vol(s).disk = Disk::kAttaching; }).code,
            StateResult::kSuccess);
}

TEST(SoftRules, D4CannotOutdateWhatIsLower) {
  ResourceState now = Healthy();
  now.peer(1).connection = Conn::kStandAlone;
  Dev(now).repl = Repl::kOff;
  Dev(now).disk = Disk::kUnknown;
  Vol(now).disk = Disk::kInconsistent;
  const auto outdate = [](ResourceState& s) { Vol(s).disk = Disk::kOutdated; };
  EXPECT_EQ(Change(now, outdate).code, StateResult::kLowerThanOutdated);
  const Result ignored = Change(now, outdate, {.ignore_failed_outdate = true});  // S4
  EXPECT_EQ(ignored.code, StateResult::kSuccess);
  EXPECT_EQ(ignored.state.volumes[0].disk, Disk::kInconsistent);
}

// Scenarios 7, 22, 25.
TEST(SoftRules, D5PrimaryNeedsData) {
  ResourceState now = Healthy();
  Vol(now).disk = Dev(now).disk = Disk::kInconsistent;
  EXPECT_EQ(Change(now, Promote).code, StateResult::kNoUpToDateDisk);
  EXPECT_EQ(Change(now,
                   [](ResourceState& s) {
                     Promote(s);
                     Vol(s).disk = Disk::kUpToDate;  // --force, scenario 23
                   })
                .code,
            StateResult::kSuccess);
  Vol(now).disk = Disk::kOutdated;
  Dev(now).disk = Disk::kUpToDate;
  Dev(now).peer_stable = false;
  EXPECT_EQ(Change(now, Promote).code, StateResult::kSuccess);
  now.peer(1).allow_remote_read = false;
  EXPECT_EQ(Change(now, Promote).code, StateResult::kNoUpToDateDisk);
}

// A node that already is in a bad state may stay there.
TEST(SoftRules, D5FiresOnlyIfTheChangeIntroducesIt) {
  ResourceState now = Healthy(2);
  now.role = Role::kPrimary;
  Vol(now).disk = Disk::kInconsistent;
  Dev(now, 1).disk = Dev(now, 2).disk = Disk::kInconsistent;
  EXPECT_EQ(Change(now, [](ResourceState& s) { Dev(s).resync_susp_user = true; }).code,
            StateResult::kSuccess);
}

// Scenario 76 seen from the diskless Primary.
TEST(SoftRules, D5LastDiskOfADisklessPrimary) {
  ResourceState now = Healthy();
  now.role = Role::kPrimary;
  Vol(now).disk = Disk::kDiskless;
  EXPECT_EQ(Change(now, [](ResourceState& s) { Dev(s).disk = Disk::kDetaching; }).code,
            StateResult::kNoUpToDateDisk);
}

TEST(SoftRules, D6ReadersKeepTheirData) {
  ResourceState now = Healthy();
  Vol(now).disk = Disk::kDiskless;
  Vol(now).read_only_openers = 1;
  EXPECT_EQ(Change(now, SetConnection(1, Conn::kDisconnecting)).code, StateResult::kNoUpToDateDisk);
}

// Scenarios 58 and 73.
TEST(SoftRules, D7QuorumForPromotionAndWhilePrimary) {
  ResourceState now = Healthy(2);
  now.quorum.quorum = kQuorumMajority;
  now = Change(now, SetConnection(2, Conn::kTimeout), kHard).state;
  ResourceState primary = Change(now, Promote).state;
  EXPECT_TRUE(Vol(primary).have_quorum);
  Result r = Change(primary, SetConnection(1, Conn::kDisconnecting));
  EXPECT_EQ(r.code, StateResult::kNoQuorum);
  EXPECT_THAT(r.text, testing::HasSubstr("1 of 3 nodes visible, need 2 for quorum"));
  EXPECT_EQ(Change(primary, SetConnection(1, Conn::kDisconnecting), kHard).code,
            StateResult::kSuccess);
  ResourceState alone = Change(now, SetConnection(1, Conn::kTimeout), kHard).state;
  EXPECT_EQ(Change(alone, Promote).code, StateResult::kNoQuorum);
}

TEST(SoftRules, D8OneAttachAtATime) {
  ResourceState now = Healthy();
  Vol(now).disk = Disk::kAttaching;
  Dev(now).disk = Disk::kNegotiating;
  EXPECT_EQ(Change(now,
                   [](ResourceState& s) {
                     Vol(s).disk = Disk::kNegotiating;
                     Vol(s).negotiation_pending = true;
                   })
                .code,
            StateResult::kInTransientState);
}

TEST(SoftRules, P1FencingKeepsThePrimaryAway) {
  ResourceState now = Healthy();
  now.peer(1).connection = Conn::kConnecting;
  now.peer(1).fencing = FencingPolicy::kResourceOnly;
  Dev(now).repl = Repl::kOff;
  Dev(now).disk = Disk::kUnknown;
  EXPECT_EQ(Change(now, Promote).code, StateResult::kPrimaryNop);
  Dev(now).disk = Disk::kOutdated;  // fenced
  EXPECT_EQ(Change(now, Promote).code, StateResult::kSuccess);
}

TEST(SoftRules, P2AndP3ResyncNeedsBothDisks) {
  ResourceState now = Healthy();
  Vol(now).disk = Disk::kAttaching;
  const auto sync = [](ResourceState& s) { s.volumes[0].peer(1).repl = Repl::kWFBitMapT; };
  // Sanitising already turns it back into Established (S9).
  EXPECT_EQ(Change(now, sync).state.volumes[0].peer(1).repl, Repl::kEstablished);
  ResourceState raw = now;
  sync(raw);
  EXPECT_EQ(CheckTransition(now, raw, {}).error().code, StateResult::kNoLocalDisk);
  now = Healthy();
  Dev(now).disk = Disk::kDiskless;
  raw = now;
  sync(raw);
  EXPECT_EQ(CheckTransition(now, raw, {}).error().code, StateResult::kNoRemoteDisk);
}

// Scenario 24.
TEST(SoftRules, P4RefusesToBeOutdatedWhileAPrimaryIsConnected) {
  ResourceState now = Healthy();
  now.peer(1).role = Role::kPrimary;
  const auto outdate = [](ResourceState& s) {
    Vol(s).disk = Disk::kOutdated;
    Dev(s).peer_stable = false;
  };
  EXPECT_EQ(Change(now, outdate).code, StateResult::kConnectedOutdates);
  now.peer(1).role = Role::kSecondary;
  EXPECT_EQ(Change(now, outdate).code, StateResult::kSuccess);
  now.peer(1).role = Role::kPrimary;
  EXPECT_EQ(Change(now, [](ResourceState& s) { Dev(s).repl = Repl::kWFBitMapT; }).code,
            StateResult::kSuccess)
      << "a sync target is Outdated first";
}

// Scenario 96 and P5 to P11.
TEST(SoftRules, P5ToP11ResyncAndVerify) {
  ResourceState now = Healthy();
  now.peer(1).has_verify_alg = true;
  const auto to = [](Repl repl) { return [=](ResourceState& s) { Dev(s).repl = repl; }; };
  EXPECT_EQ(Change(now, to(Repl::kVerifyS)).code, StateResult::kSuccess);
  now.peer(1).has_verify_alg = false;
  EXPECT_EQ(Change(now, to(Repl::kVerifyS)).code, StateResult::kNoVerifyAlg);
  now.peer(1).has_verify_alg = true;
  now.peer(1).agreed_version = 87;
  EXPECT_EQ(Change(now, to(Repl::kVerifyS)).code, StateResult::kNotSupported);
  now.peer(1).agreed_version = 124;
  EXPECT_EQ(Change(now, to(Repl::kStartingSyncT)).code, StateResult::kSuccess);
  Dev(now).repl = Repl::kSyncSource;
  Dev(now).disk = Disk::kInconsistent;
  EXPECT_EQ(Change(now, to(Repl::kStartingSyncS)).code, StateResult::kResyncRunning);
  EXPECT_EQ(Change(now, to(Repl::kWFBitMapS)).code, StateResult::kResyncRunning);
  EXPECT_EQ(Change(now, to(Repl::kVerifyS)).code, StateResult::kResyncRunning);
  Dev(now).repl = Repl::kOff;
  EXPECT_EQ(Change(now, to(Repl::kVerifyS)).code, StateResult::kNeedConnection);
  EXPECT_EQ(Change(now, to(Repl::kStartingSyncS)).code, StateResult::kNeedConnection);
}

// Scenario 83.
TEST(SoftRules, P13IntentionalDisklessPeerMayNotAttach) {
  ResourceState now = Healthy();
  Dev(now).disk = Disk::kDiskless;
  Dev(now).bitmap = false;
  EXPECT_EQ(Change(now, [](ResourceState& s) { Dev(s).disk = Disk::kNegotiating; }).code,
            StateResult::kAttachNoBitmap);
}

// --- Refusals, diffs, words ---

TEST(StateRefusal, NamesObjectReasonAndWayOut) {
  const StateRefusal refusal{StateResult::kNoUpToDateDisk, "volume 0"};
  EXPECT_EQ(refusal.text(),
            "Need access to UpToDate data (volume 0). Connect a node with an UpToDate disk, or "
            "promote with force if this data is the one to keep.");
  EXPECT_EQ(refusal.ToError().code(), ErrorCode::kFailedPrecondition);
  for (int code = -28; code < 0; ++code) {
    if (code == -3) continue;
    EXPECT_NE(StateResultText(StateResult(code)), StateResultText(StateResult::kUnknownError));
    EXPECT_FALSE(StateResultRemedy(StateResult(code)).empty()) << code;
  }
}

TEST(Diff, ListsChangesInTheOrderOfEvents) {
  const ResourceState before = Healthy();
  ResourceState after = before;
  after.role = Role::kPrimary;
  after.peer(1).connection = Conn::kConnecting;
  Vol(after).disk = Disk::kOutdated;
  Dev(after).disk = Disk::kUnknown;
  const std::vector<StateChange> changes = Diff(before, after);
  ASSERT_EQ(changes.size(), 4u);
  EXPECT_EQ(changes[0], (StateChange{StateChange::Object::kResource, kNoNode, -1, "role",
                                     "Secondary", "Primary"}));
  EXPECT_EQ(changes[1].attribute, "connection");
  EXPECT_EQ(changes[1].node, 1);
  EXPECT_EQ(changes[2].attribute, "disk");
  EXPECT_EQ(changes[2].to, "Outdated");
  EXPECT_EQ(changes[3].attribute, "peer-disk");
  EXPECT_TRUE(Diff(before, before).empty());
}

TEST(Diff, FactsAreNoChanges) {
  const ResourceState before = Healthy();
  ResourceState after = before;
  Dev(after).peer_stable = false;
  Dev(after).out_of_sync = 5;
  Vol(after).read_only_openers = 1;
  EXPECT_TRUE(Diff(before, after).empty());
}

TEST(Diff, NewVolumesCountFromTheirInitialState) {
  const ResourceState before = Healthy();
  ResourceState after = before;
  after.volumes.push_back({});
  after.volumes[1].number = 5;
  after.volumes[1].disk = Disk::kAttaching;
  const std::vector<StateChange> changes = Diff(before, after);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].volume, 5);
  EXPECT_EQ(changes[0].from, "Diskless");
}

// Recorded words (drbd-wire.md 8).
TEST(StateWords, AsRecorded) {
  ResourceState s = Healthy();
  EXPECT_EQ(wire::EncodeStateWord(ToStateWord(s, 1, 0)), 0x008132aau);
  s.role = Role::kPrimary;
  EXPECT_EQ(wire::EncodeStateWord(ToStateWord(s, 1, 0)), 0x008132a9u);
  s = Healthy();
  s.peer(1).connection = Conn::kConnecting;
  s.peer(1).role = Role::kUnknown;
  Dev(s).repl = Repl::kOff;
  Dev(s).disk = Disk::kUnknown;
  EXPECT_EQ(wire::EncodeStateWord(ToStateWord(s, 1, 0)), 0x0080f282u);
}

TEST(StateWords, AftrIspOfASourceThatLostItsData) {
  ResourceState s = Healthy();
  Vol(s).disk = Disk::kInconsistent;
  Dev(s).repl = Repl::kSyncSource;
  EXPECT_TRUE(ToStateWord(s, 1, 0).paused_after);
  Vol(s).disk = Disk::kUpToDate;
  EXPECT_FALSE(ToStateWord(s, 1, 0).paused_after);
  Dev(s).resync_susp_other = true;
  EXPECT_TRUE(ToStateWord(s, 1, 0).paused_after);
}

TEST(StateWords, ApplyTakesThePeersView) {
  ResourceState s = Healthy();
  wire::StateWord word;
  word.role = Role::kPrimary;
  word.disk = Disk::kNegotiating;
  word.paused_after = true;
  word.quorum = false;
  ApplyPeerStateWord(s, 1, 0, word, true);
  EXPECT_EQ(s.peer(1).role, Role::kPrimary);
  EXPECT_EQ(Dev(s).disk, Disk::kInconsistent);
  EXPECT_TRUE(Dev(s).resync_susp_peer);
  EXPECT_FALSE(Dev(s).peer_quorum);
  ApplyPeerStateWord(s, 1, 0, word, false);
  EXPECT_EQ(Dev(s).disk, Disk::kConsistent);
  ApplyPeerStateWord(s, 1, 99, word, false);  // a volume only the peer has
}

// --- Disk states from metadata (7.1) ---

TEST(DiskFromMetadata, Table) {
  EXPECT_EQ(DiskStateFromMetadata(false, true, true), Disk::kInconsistent);
  EXPECT_EQ(DiskStateFromMetadata(true, false, true), Disk::kOutdated);
  EXPECT_EQ(DiskStateFromMetadata(true, true, true), Disk::kUpToDate);
  EXPECT_EQ(DiskStateFromMetadata(true, true, false), Disk::kConsistent);
  for (const Disk disk : {Disk::kInconsistent, Disk::kOutdated, Disk::kUpToDate}) {
    const DiskFlags flags = FlagsForDisk(disk);
    EXPECT_EQ(DiskStateFromMetadata(flags.consistent, flags.was_up_to_date, true), disk);
  }
}

// Scenario 34: alone with fencing, the peer unknown.
TEST(DiskFromMetadata, FencingNeedsAnExcuse) {
  MayBeUpToDateInput in;
  FencingSlot& slot = in.slots[1];
  slot = {.known = true, .fencing = true, .device_seen = true};
  EXPECT_FALSE(MayBeUpToDate(in));
  for (const Disk disk :
       {Disk::kInconsistent, Disk::kOutdated, Disk::kConsistent, Disk::kUpToDate}) {
    slot.disk = disk;
    EXPECT_TRUE(MayBeUpToDate(in));
  }
  slot.disk = Disk::kUnknown;
  slot.outdated = true;
  EXPECT_TRUE(MayBeUpToDate(in));
  slot.outdated = false;
  slot.bitmap_no = true;
  EXPECT_TRUE(MayBeUpToDate(in));
  slot.bitmap_no = false;
  slot.disk = Disk::kDiskless;
  EXPECT_FALSE(MayBeUpToDate(in));
  slot.device_seen = false;
  EXPECT_TRUE(MayBeUpToDate(in));
  slot.disk = Disk::kUnknown;
  slot.fencing = false;  // without fencing a node may be UpToDate alone
  EXPECT_TRUE(MayBeUpToDate(in));
  in.reconcile_pending = true;
  EXPECT_FALSE(MayBeUpToDate(in));
  in.reconcile_pending = false;
  in.diskless_primary_on_other_uuid = true;
  EXPECT_FALSE(MayBeUpToDate(in));
}

}  // namespace
}  // namespace umblock::drbd
