// Whether a change may happen: drbd-states.md 2.2 and 2.3, rule by rule.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "engine/drbd/state/disk_state.h"
#include "engine/drbd/state/resource_state_fixture.h"

namespace umblock::drbd {
namespace {

using namespace testing;  // NOLINT: the fixture of this module
using ::testing::HasSubstr;

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
  EXPECT_THAT(r.text,
              HasSubstr("Another node is Primary, and the connection allows one only (node 1)"));
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
  EXPECT_THAT(r.text, HasSubstr("1 of 3 nodes visible, need 2 for quorum"));
  EXPECT_EQ(Change(primary, SetConnection(1, Conn::kDisconnecting), kHard).code,
            StateResult::kSuccess);
  // Already without quorum: what does not make it worse goes through.
  ResourceState without = Change(primary, SetConnection(1, Conn::kTimeout), kHard).state;
  EXPECT_FALSE(Vol(without).have_quorum);
  EXPECT_EQ(Change(without, SetConnection(1, Conn::kUnconnected)).code, StateResult::kSuccess);
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
  ResourceState primary = now;  // lost the peer while Primary: not a reason to refuse the rest
  primary.role = Role::kPrimary;
  EXPECT_EQ(Change(primary, [](ResourceState& s) { s.susp_user = true; }).code,
            StateResult::kSuccess);
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

}  // namespace
}  // namespace umblock::drbd
