#include "engine/drbd/state/proposal.h"

#include <gtest/gtest.h>

namespace umblock::drbd {
namespace {

void ExpectWords(const Proposal& proposal, uint32_t mask, uint32_t value) {
  EXPECT_EQ(proposal.mask, mask);
  EXPECT_EQ(proposal.value, value);
}

// drbd-wire.md 5.8.5, most of it recorded.
TEST(Proposal, MasksAndValuesAsOnTheWire) {
  ExpectWords(ProposeConnect(1, Role::kSecondary), 0x1f3, 0x92);
  ExpectWords(ProposeConnect(1, Role::kPrimary), 0x1f3, 0x91);
  ExpectWords(ProposeDisconnect(1, OutdateOnDisconnect::kNobody), 0x1f0, 0x10);
  ExpectWords(ProposeDisconnect(1, OutdateOnDisconnect::kSelf), 0x1ff0, 0xc10);
  ExpectWords(ProposeDisconnect(1, OutdateOnDisconnect::kPeer), 0x1e1f0, 0xc010);
  ExpectWords(ProposePromote(false), 0x3, 0x1);
  ExpectWords(ProposePromote(true), 0x1e03, 0x1201);
  ExpectWords(ProposeDemote(), 0x3, 0x2);
  ExpectWords(ProposeEmpty(), 0, 0);
  ExpectWords(ProposeDetach(0), 0x1e00, 0x400);
  ExpectWords(ProposeAttach(0), 0x1e00, 0x800);
  ExpectWords(ProposeResync(1, 0, ReplicationState::kStartingSyncS), 0x1f0, 0xb0);
  ExpectWords(ProposeResync(1, 0, ReplicationState::kStartingSyncT), 0x1f0, 0xc0);
  ExpectWords(ProposeResync(1, 0, ReplicationState::kWFBitMapT), 0x1f0, 0xe0);
  ExpectWords(ProposeVerify(1, 0), 0x1f0, 0x120);
  ExpectWords(ProposeRemoveVolume(1, 0), 0x1f0, 0x90);
}

TEST(Proposal, InterpretReadsWhatIsProposed) {
  const auto kind = [](const Proposal& p) { return Interpret(p.mask, p.value, p.volume).kind; };
  EXPECT_EQ(kind(ProposeConnect(1, Role::kPrimary)), ProposalKind::kConnect);
  EXPECT_EQ(kind(ProposePromote(false)), ProposalKind::kPromote);
  EXPECT_EQ(kind(ProposePromote(true)), ProposalKind::kPromote);
  EXPECT_EQ(kind(ProposeDemote()), ProposalKind::kDemote);
  EXPECT_EQ(kind(ProposeEmpty()), ProposalKind::kEmpty);
  EXPECT_EQ(kind(ProposeAttach(3)), ProposalKind::kAttach);
  EXPECT_EQ(kind(ProposeDetach(3)), ProposalKind::kDetach);
  EXPECT_EQ(kind(ProposeResync(1, 0, ReplicationState::kWFBitMapS)), ProposalKind::kStartResync);
  EXPECT_EQ(kind(ProposeVerify(1, 0)), ProposalKind::kStartVerify);
  EXPECT_EQ(kind(ProposeRemoveVolume(1, 0)), ProposalKind::kRemoveVolume);
  for (const auto outdate :
       {OutdateOnDisconnect::kNobody, OutdateOnDisconnect::kSelf, OutdateOnDisconnect::kPeer}) {
    const Proposal p = ProposeDisconnect(1, outdate);
    EXPECT_EQ(kind(p), ProposalKind::kDisconnect);
    EXPECT_EQ(Interpret(p.mask, p.value, p.volume).outdate, outdate);
  }
  EXPECT_EQ(Interpret(0x1f3, 0x91, kNoVolume).role, Role::kPrimary);
}

TEST(Proposal, UnknownCombinationsAreOther) {
  EXPECT_EQ(Interpret(0x1f3, 0x92, 0).kind, ProposalKind::kOther);
  EXPECT_EQ(Interpret(0x3, 0x0, kNoVolume).kind, ProposalKind::kOther);
  EXPECT_EQ(Interpret(0x1e00, 0x1200, 0).kind, ProposalKind::kOther);
  EXPECT_EQ(Interpret(0xffffffff, 0xffffffff, kNoVolume).kind, ProposalKind::kOther);
  EXPECT_EQ(Interpret(0x1f0, 0x1f0, 0).kind, ProposalKind::kOther);
  EXPECT_EQ(Interpret(0x1e03, 0xc01, kNoVolume).kind, ProposalKind::kOther);
}

// The receiver's view is the mirror image (3.4).
TEST(Proposal, MirroredDisconnectOutdatesTheOtherSide) {
  const Proposal p = ProposeDisconnect(1, OutdateOnDisconnect::kPeer);
  const wire::StateChangeWords mine = wire::MirrorStateChange({p.mask, p.value});
  EXPECT_EQ(mine.mask, wire::kConnMask | wire::kDiskMask);
  EXPECT_EQ((mine.val & wire::kDiskMask) >> wire::kDiskShift,
            static_cast<uint32_t>(DiskState::kOutdated));
  EXPECT_EQ((mine.val & wire::kConnMask) >> wire::kConnShift,
            static_cast<uint32_t>(ConnectionState::kTearDown));
}

// 4.2 step 14.
TEST(Proposal, CommitBeforeLocalOrder) {
  EXPECT_TRUE(CommitBeforeLocal(ProposeDemote()));
  EXPECT_TRUE(CommitBeforeLocal(ProposeAttach(0)));
  EXPECT_TRUE(CommitBeforeLocal(ProposeDetach(0)));
  EXPECT_TRUE(CommitBeforeLocal(ProposeConnect(1, Role::kSecondary)));
  EXPECT_TRUE(CommitBeforeLocal(ProposeDisconnect(1, OutdateOnDisconnect::kNobody)));
  EXPECT_TRUE(CommitBeforeLocal(ProposeResync(1, 0, ReplicationState::kWFBitMapS)));
  EXPECT_TRUE(CommitBeforeLocal(ProposeVerify(1, 0)));
  EXPECT_FALSE(CommitBeforeLocal(ProposePromote(false)));
  EXPECT_FALSE(CommitBeforeLocal(ProposePromote(true)));
  EXPECT_FALSE(CommitBeforeLocal(ProposeEmpty()));
  EXPECT_FALSE(CommitBeforeLocal(ProposeResync(1, 0, ReplicationState::kStartingSyncT)));
  EXPECT_FALSE(CommitBeforeLocal(ProposeResync(1, 0, ReplicationState::kWFBitMapT)));
  EXPECT_FALSE(CommitBeforeLocal(ProposeRemoveVolume(1, 0)));
}

// 4.6.1.
TEST(Proposal, WhoIsOutdatedOnDisconnect) {
  DisconnectFacts facts;
  facts.own_role = Role::kPrimary;
  EXPECT_EQ(WhoIsOutdated(facts), OutdateOnDisconnect::kNobody);  // no fencing, no quorum
  facts.quorum = true;
  EXPECT_EQ(WhoIsOutdated(facts), OutdateOnDisconnect::kPeer);
  facts.quorum = false;
  facts.fencing = true;
  EXPECT_EQ(WhoIsOutdated(facts), OutdateOnDisconnect::kPeer);
  facts.own_role = Role::kSecondary;
  EXPECT_EQ(WhoIsOutdated(facts), OutdateOnDisconnect::kNobody);  // two Secondaries
  facts.peer_role = Role::kPrimary;
  EXPECT_EQ(WhoIsOutdated(facts), OutdateOnDisconnect::kSelf);
  facts.connected = false;  // scenario 61
  EXPECT_EQ(WhoIsOutdated(facts), OutdateOnDisconnect::kNobody);
}

}  // namespace
}  // namespace umblock::drbd
