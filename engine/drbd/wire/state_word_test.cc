#include "engine/drbd/wire/state_word.h"

#include <gtest/gtest.h>

namespace umblock::drbd::wire {
namespace {

TEST(StateWord, WordsOfRecordedTraffic) {
  struct Case {
    uint32_t word;
    DiskNumbering numbering;
    StateWord state;
  };
  using R = Role;
  using C = ConnectionState;
  using D = DiskState;
  const auto disconnected = ReplicationState::kOff;
  const Case kCases[] = {
      // drbd-wire.md 8.1: 8.4, before and after the evaluation of the peer's word.
      {0x0000c882,
       DiskNumbering::k84,
       {.role = R::kSecondary,
        .connection = C::kConnecting,
        .replication = disconnected,
        .disk = D::kInconsistent,
        .peer_disk = D::kUnknown}},
      {0x000110aa,
       DiskNumbering::k84,
       {.role = R::kSecondary,
        .peer_role = R::kSecondary,
        .connection = C::kConnected,
        .replication = ReplicationState::kEstablished,
        .disk = D::kUpToDate,
        .peer_disk = D::kUpToDate}},
      // 8.2: 9.3.
      {0x0080ea82,
       DiskNumbering::k9,
       {.role = R::kSecondary,
        .connection = C::kConnecting,
        .replication = disconnected,
        .disk = D::kInconsistent,
        .peer_disk = D::kUnknown,
        .quorum = true}},
      {0x008132aa,
       DiskNumbering::k9,
       {.role = R::kSecondary,
        .peer_role = R::kSecondary,
        .connection = C::kConnected,
        .replication = ReplicationState::kEstablished,
        .disk = D::kUpToDate,
        .peer_disk = D::kUpToDate,
        .quorum = true}},
      // 8.3: 9.3 towards 8.4, conn 9.
      {0x0080c89a,
       DiskNumbering::k84,
       {.role = R::kSecondary,
        .peer_role = R::kSecondary,
        .connection = C::kConnected,
        .replication = disconnected,
        .disk = D::kInconsistent,
        .peer_disk = D::kUnknown,
        .quorum = true}},
      // 8.6: SyncTarget.
      {0x00812b16,
       DiskNumbering::k9,
       {.role = R::kSecondary,
        .peer_role = R::kPrimary,
        .connection = C::kConnected,
        .replication = ReplicationState::kSyncTarget,
        .disk = D::kInconsistent,
        .peer_disk = D::kUpToDate,
        .quorum = true}},
      // 5.8.5: the role notice after a demotion.
      {0x00000002,
       DiskNumbering::k9,
       {.role = R::kSecondary,
        .connection = C::kStandAlone,
        .replication = disconnected,
        .disk = D::kDiskless,
        .peer_disk = D::kDiskless}},
  };
  for (const Case& c : kCases) {
    const auto decoded = DecodeStateWord(c.word, c.numbering);
    ASSERT_TRUE(decoded.has_value()) << std::hex << c.word;
    EXPECT_EQ(*decoded, c.state) << std::hex << c.word;
    EXPECT_EQ(EncodeStateWord(c.state, c.numbering), c.word);
  }
}

TEST(StateWord, EachFlagHasItsBit) {
  const auto all = DecodeStateWord(
      kStateWordBits & ~(kRoleMask | kPeerRoleMask | kConnMask | kDiskMask | kPeerDiskMask));
  ASSERT_TRUE(all.has_value());
  EXPECT_TRUE(all->suspended_by_user && all->paused_after && all->paused_by_peer &&
              all->paused_by_user && all->suspended_no_data && all->suspended_fencing &&
              all->quorum);
  EXPECT_EQ(EncodeStateWord({.suspended_by_user = true}), 0x00020000u);
  EXPECT_EQ(EncodeStateWord({.paused_after = true}), 0x00040000u);
  EXPECT_EQ(EncodeStateWord({.paused_by_peer = true}), 0x00080000u);
  EXPECT_EQ(EncodeStateWord({.paused_by_user = true}), 0x00100000u);
  EXPECT_EQ(EncodeStateWord({.suspended_no_data = true}), 0x00200000u);
  EXPECT_EQ(EncodeStateWord({.suspended_fencing = true}), 0x00400000u);
  EXPECT_EQ(EncodeStateWord({.quorum = true}), 0x00800000u);
}

TEST(StateWord, RefusesNumbersThatMeanNothing) {
  for (const uint32_t word : {0x00000003u, 0x0000000cu,          // roles
                              24u << 4, 31u << 4,                // connection states
                              10u << 9, 15u << 9, 10u << 13}) {  // disk states
    const auto decoded = DecodeStateWord(word);
    ASSERT_FALSE(decoded.has_value()) << std::hex << word;
    EXPECT_EQ(decoded.error().code(), ErrorCode::kInvalidArgument);
  }
  EXPECT_FALSE(DecodeStateWord(9u << 9, DiskNumbering::k84).has_value());
  EXPECT_TRUE(DecodeStateWord(0xff000000u).has_value()) << "unknown upper bits are ignored";
}

TEST(StateWord, DiskNumbersOf84) {
  // drbd-wire.md 5.6.2, from Diskless to UpToDate without Detaching.
  const DiskState kOf84[] = {
      DiskState::kDiskless,    DiskState::kAttaching,    DiskState::kFailed,
      DiskState::kNegotiating, DiskState::kInconsistent, DiskState::kOutdated,
      DiskState::kUnknown,     DiskState::kConsistent,   DiskState::kUpToDate};
  uint32_t number = 0;
  for (const DiskState state : kOf84) {
    EXPECT_EQ(DiskStateToWire(state, DiskNumbering::k84), number);
    EXPECT_EQ(DiskStateFromWire(number, DiskNumbering::k84), state);
    ++number;
  }
  EXPECT_EQ(DiskStateFromWire(number, DiskNumbering::k84), std::nullopt);
  EXPECT_EQ(DiskStateToWire(DiskState::kDetaching, DiskNumbering::k84), 2u);
  for (uint32_t n = 0; n <= 9; ++n) {
    EXPECT_EQ(DiskStateToWire(*DiskStateFromWire(n, DiskNumbering::k9), DiskNumbering::k9), n);
  }
}

TEST(StateWord, Names) {
  EXPECT_EQ(RoleName(Role::kPrimary), "Primary");
  EXPECT_EQ(RoleName(static_cast<Role>(7)), "?");
  EXPECT_EQ(DiskStateName(DiskState::kUpToDate), "UpToDate");
  EXPECT_EQ(DiskStateName(DiskState::kUnknown), "DUnknown");
  EXPECT_EQ(DiskStateName(static_cast<DiskState>(10)), "?");
  EXPECT_EQ(ConnectionStateName(ConnectionState::kStandAlone), "StandAlone");
  EXPECT_EQ(ConnectionStateName(ConnectionState::kConnected), "Connected");
  EXPECT_EQ(ReplicationStateName(ReplicationState::kOff), "Off");
  EXPECT_EQ(ReplicationStateName(ReplicationState::kSyncTarget), "SyncTarget");
  EXPECT_EQ(ReplicationStateName(ReplicationState::kBehind), "Behind");
  EXPECT_EQ(ReplicationStateName(static_cast<ReplicationState>(3)), "?");
}

TEST(StateWord, MirrorSwapsPerspective) {
  const auto source = DecodeStateWord(0x0080b309);  // SyncSource, as recorded in 8.6
  ASSERT_TRUE(source.has_value());
  const StateWord own = MirrorStateWord(*source);
  EXPECT_EQ(own.role, Role::kSecondary);
  EXPECT_EQ(own.peer_role, Role::kPrimary);
  EXPECT_EQ(own.replication, ReplicationState::kSyncTarget);
  EXPECT_EQ(own.disk, DiskState::kInconsistent);
  EXPECT_EQ(own.peer_disk, DiskState::kUpToDate);
  EXPECT_FALSE(own.quorum);

  EXPECT_TRUE(MirrorStateWord({.paused_after = true}).paused_by_peer);
  EXPECT_TRUE(MirrorStateWord({.paused_by_user = true}).paused_by_peer);
  EXPECT_FALSE(MirrorStateWord({.paused_by_peer = true}).paused_by_peer);
  EXPECT_EQ(MirrorStateWord({.connection = ConnectionState::kDisconnecting}).connection,
            ConnectionState::kTearDown);
}

TEST(StateWord, CounterpartIsAnInvolutionButForAhead) {
  for (int n = 9; n <= 23; ++n) {
    const auto state = static_cast<ReplicationState>(n);
    if (state == ReplicationState::kAhead) continue;
    EXPECT_EQ(CounterpartOf(CounterpartOf(state)), state) << n;
  }
  EXPECT_EQ(CounterpartOf(ReplicationState::kAhead), ReplicationState::kBehind);
}

TEST(StateWord, MirrorOfStateChanges) {
  // Disconnect that outdates the peer: mask conn + pdsk, val Disconnecting + Outdated (5.8.5).
  EXPECT_EQ(MirrorStateChange({0x0001e1f0, 0x0000c010}),
            (StateChangeWords{0x00001ff0, 0x00000c70}));
  // Promotion.
  EXPECT_EQ(MirrorStateChange({0x00000003, 0x00000001}),
            (StateChangeWords{0x0000000c, 0x00000004}));
  // Connect: conn 9 stays.
  EXPECT_EQ(MirrorStateChange({0x000001f3, 0x00000092}),
            (StateChangeWords{0x000001fc, 0x00000098}));
  // VerifyS -> VerifyT.
  EXPECT_EQ(MirrorStateChange({0x000001f0, 0x00000120}),
            (StateChangeWords{0x000001f0, 0x00000130}));
  // A pause by the user there is a pause by the peer here.
  EXPECT_EQ(MirrorStateChange({kPausedByUserBit, kPausedByUserBit}),
            (StateChangeWords{kPausedByPeerBit, kPausedByPeerBit}));
  EXPECT_EQ(MirrorStateChange({kPausedByUserBit, 0}), (StateChangeWords{kPausedByPeerBit, 0}));
  // The empty transaction.
  EXPECT_EQ(MirrorStateChange({0, 0}), (StateChangeWords{0, 0}));
}

}  // namespace
}  // namespace umblock::drbd::wire
