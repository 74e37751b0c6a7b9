// Refusals, differences and state words.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "engine/drbd/state/disk_state.h"
#include "engine/drbd/state/resource_state_fixture.h"

namespace umblock::drbd {
namespace {

using namespace testing;  // NOLINT: the fixture of this module

// --- Refusals, diffs, words ---

TEST(StateRefusal, NamesObjectReasonAndWayOut) {
  const StateRefusal refusal{StateResult::kNoUpToDateDisk, "volume 0"};
  EXPECT_EQ(refusal.text(),
            "No UpToDate data can be reached (volume 0). Connect a node with an UpToDate disk, or "
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

}  // namespace
}  // namespace umblock::drbd
