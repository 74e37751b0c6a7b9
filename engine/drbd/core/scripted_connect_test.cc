// What is said before a link is up: features, authentication, P_PROTOCOL, the handshake.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/scripted_fixture.h"

namespace umblock::drbd {
namespace {

using testing::After;
using testing::ClusterOptions;
using testing::ExpectDropped;
using testing::kData;
using testing::PacketType;
using testing::ScriptedOptions;
using testing::ScriptedPeer;

TEST(ScriptedPeerTest, AWellBehavedOneConnects) {
  ScriptedPeer peer(ScriptedOptions());
  peer.StartResource();
  ASSERT_TRUE(peer.Establish()) << peer.last_error();
  peer.bench->RunFor(30s);
  EXPECT_EQ(peer.state(), ConnectionState::kConnected) << peer.last_error();
  EXPECT_EQ(peer.repl(), ReplicationState::kEstablished);
}

// --- features
// -----------------------------------------------------------------------------------

TEST(ScriptedFeatures, NoCommonProtocol) {
  for (auto [low, high] : {std::pair{86u, 101u}, {102u, 117u}, {200u, 210u}}) {
    ScriptedPeer peer(ScriptedOptions());
    peer.StartResource();
    ASSERT_TRUE(peer.Dial());
    peer.persona.protocol_min = low;
    peer.persona.protocol_max = high;
    peer.SendFeatures();
    ExpectDropped(peer, After::kStandAlone, "protocol");
    peer.persona.protocol_min = wire::kProtocolMin9;
    peer.persona.protocol_max = wire::kProtocolBlockIds;
    peer.ExpectUsable();
  }
}

TEST(ScriptedFeatures, WrongNodeIds) {
  for (bool sender : {true, false}) {
    ScriptedPeer peer(ScriptedOptions());
    peer.StartResource();
    ASSERT_TRUE(peer.Dial());
    (sender ? peer.persona.sender : peer.persona.receiver) = 9;
    peer.SendFeatures();
    ExpectDropped(peer, After::kRetry, "node ids");
    peer.persona.sender = 1;
    peer.persona.receiver = 0;
    peer.ExpectUsable();
  }
}

TEST(ScriptedFeatures, SomethingElseInstead) {
  std::vector<std::vector<std::byte>> mistakes = {
      std::vector<std::byte>(64, std::byte{0x41}),
      ScriptedPeer::Encoded(PacketType::kProtocol, wire::kNoVolume, wire::Protocol{}),
      ScriptedPeer::Claimed(PacketType::kConnectionFeatures, wire::kNoVolume, 71, 71),
      ScriptedPeer::Claimed(PacketType::kConnectionFeatures, wire::kNoVolume, 0xffffffff, 0),
      ScriptedPeer::Claimed(PacketType::kData, 0, 4096 + 24, 4096 + 24)};
  for (size_t i = 0; i < mistakes.size(); ++i) {
    SCOPED_TRACE(i);
    ScriptedPeer peer(ScriptedOptions());
    peer.StartResource();
    ASSERT_TRUE(peer.Dial());
    peer.SendRaw(kData, mistakes[i]);
    ASSERT_TRUE(peer.WaitClosed());
    EXPECT_FALSE(peer.last_error().empty());
    peer.ExpectUsable();
  }
}

TEST(ScriptedFeatures, SilenceIsGivenUp) {
  ScriptedPeer peer(ScriptedOptions());
  peer.StartResource();
  ASSERT_TRUE(peer.Dial());
  SimTime since = peer.world().now();
  ExpectDropped(peer, After::kRetry, "silent");
  EXPECT_LT(peer.world().now() - since, 5s) << "4 x ping-timeout after the settle time";
  peer.ExpectUsable();
}

TEST(ScriptedFeatures, APeerThatHangsUpAtOnceIsDialledAgain) {
  ScriptedPeer peer(ScriptedOptions());
  peer.StartResource();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(peer.Dial());
    peer.bench->RunFor(std::chrono::milliseconds(200 * i));
    peer.Hangup();
  }
  peer.ExpectUsable();
}

// --- authentication
// -----------------------------------------------------------------------------

ClusterOptions WithAuth() {
  ClusterOptions options = ScriptedOptions();
  options.net.cram_hmac_alg = "sha256";
  options.net.shared_secret = "a secret";
  return options;
}

TEST(ScriptedAuth, TheRightSecretConnects) {
  ScriptedPeer peer(WithAuth());
  peer.StartResource();
  ASSERT_TRUE(peer.Establish()) << peer.last_error();
}

TEST(ScriptedAuth, AWrongSecretIsFinal) {
  ScriptedPeer peer(WithAuth());
  peer.StartResource();
  peer.persona.secret = "another";
  ASSERT_TRUE(peer.Dial());
  (void)peer.Negotiate();
  ExpectDropped(peer, After::kStandAlone, "authentication failed");
  peer.persona.secret = "a secret";
  peer.ExpectUsable();
}

TEST(ScriptedAuth, AResponseOfAnotherLengthIsWrong) {
  ScriptedPeer peer(WithAuth());
  peer.StartResource();
  ASSERT_TRUE(peer.Dial());
  peer.SendFeatures();
  wire::AuthChallenge challenge;
  challenge.bytes.fill(std::byte{1});
  peer.Send(kData, PacketType::kAuthChallenge, wire::kNoVolume, challenge);
  ASSERT_TRUE(peer.Wait(kData, PacketType::kAuthChallenge));
  peer.SendRaw(kData, ScriptedPeer::Claimed(PacketType::kAuthResponse, wire::kNoVolume, 1, 1));
  ASSERT_TRUE(peer.WaitClosed());
  peer.ExpectUsable();
}

TEST(ScriptedAuth, OurOwnChallengeIsNoQuestion) {
  ScriptedPeer peer(WithAuth());
  peer.StartResource();
  ASSERT_TRUE(peer.Dial());
  peer.SendFeatures();
  auto challenge = peer.Wait(kData, PacketType::kAuthChallenge);
  ASSERT_TRUE(challenge);
  peer.Send(kData, PacketType::kAuthChallenge, wire::kNoVolume,
            *wire::AuthChallenge::Decode(challenge->payload));
  ExpectDropped(peer, After::kStandAlone, "reflects");
  peer.ExpectUsable();
}

TEST(ScriptedAuth, APeerWithoutAuthenticationIsTold) {
  ScriptedPeer peer(WithAuth());
  peer.StartResource();
  ASSERT_TRUE(peer.Dial());
  peer.SendFeatures();
  peer.SendProtocol();
  ExpectDropped(peer, After::kStandAlone, "authentication configured on one side only");
  peer.ExpectUsable();
}

TEST(ScriptedAuth, APeerThatWantsAuthenticationIsTold) {
  ScriptedPeer peer(ScriptedOptions());
  peer.StartResource();
  ASSERT_TRUE(peer.Dial());
  peer.SendFeatures();
  wire::AuthChallenge challenge;
  challenge.bytes.fill(std::byte{1});
  peer.Send(kData, PacketType::kAuthChallenge, wire::kNoVolume, challenge);
  ASSERT_TRUE(peer.WaitClosed());
  peer.ExpectUsable();
}

TEST(ScriptedAuth, SilenceIsGivenUp) {
  ScriptedPeer peer(WithAuth());
  peer.StartResource();
  ASSERT_TRUE(peer.Dial());
  peer.SendFeatures();
  ExpectDropped(peer, After::kRetry, "silent");
  peer.ExpectUsable();
}

// --- P_PROTOCOL and P_SYNC_PARAM
// ----------------------------------------------------------------

TEST(ScriptedProtocol, EachOptionThatDiffersIsNamed) {
  struct {
    const char* option;
    std::function<void(wire::Protocol&)> change;
  } cases[] = {
      {"'protocol'", [](wire::Protocol& p) { p.protocol = 1; }},
      {"'protocol'", [](wire::Protocol& p) { p.protocol = 77; }},
      {"after-sb-0pri", [](wire::Protocol& p) { p.after_sb_0p = 1; }},
      {"after-sb-1pri", [](wire::Protocol& p) { p.after_sb_1p = 7; }},
      {"after-sb-2pri", [](wire::Protocol& p) { p.after_sb_2p = 9; }},
      {"allow-two-primaries", [](wire::Protocol& p) { p.two_primaries = 1; }},
      {"data-integrity-alg",
       [](wire::Protocol& p) { p.integrity_alg = wire::AlgorithmName("crc32c"); }},
  };
  for (auto& each : cases) {
    SCOPED_TRACE(each.option);
    ScriptedPeer peer(ScriptedOptions());
    wire::Protocol right = peer.persona.protocol;
    peer.StartResource();
    ASSERT_TRUE(peer.Dial());
    each.change(peer.persona.protocol);
    (void)peer.Negotiate();
    ExpectDropped(peer, After::kStandAlone, each.option);
    peer.persona.protocol = right;
    peer.ExpectUsable();
  }
}

TEST(ScriptedProtocol, MalformedOnesDropTheLink) {
  std::vector<std::byte> no_nul =
      ScriptedPeer::Claimed(PacketType::kProtocol, wire::kNoVolume, 24 + 4, 28);
  for (size_t i = 16 + 24; i < no_nul.size(); ++i) no_nul[i] = std::byte{'x'};
  std::vector<std::vector<std::byte>> mistakes = {
      no_nul, ScriptedPeer::Claimed(PacketType::kProtocol, wire::kNoVolume, 8, 8),
      ScriptedPeer::Claimed(PacketType::kProtocol, wire::kNoVolume, 5000, 5000),
      ScriptedPeer::Claimed(PacketType::kProtocol, 7, 25, 25)};
  for (size_t i = 0; i < mistakes.size(); ++i) {
    SCOPED_TRACE(i);
    ScriptedPeer peer(ScriptedOptions());
    peer.StartResource();
    ASSERT_TRUE(peer.Dial());
    peer.SendFeatures();
    ASSERT_TRUE(peer.Wait(kData, PacketType::kConnectionFeatures));
    peer.SendRaw(kData, mistakes[i]);
    ASSERT_TRUE(peer.WaitClosed());
    EXPECT_FALSE(peer.last_error().empty());
    peer.ExpectUsable();
  }
}

TEST(ScriptedProtocol, SilenceIsGivenUp) {
  ScriptedPeer peer(ScriptedOptions());
  peer.StartResource();
  ASSERT_TRUE(peer.Dial());
  peer.SendFeatures();
  ASSERT_TRUE(peer.Wait(kData, PacketType::kProtocol));
  SimTime since = peer.world().now();
  ExpectDropped(peer, After::kRetry, "silent");
  EXPECT_LT(peer.world().now() - since, 8s);
  peer.ExpectUsable();
}

TEST(ScriptedProtocol, DifferentVerifyAlgorithmsAreNamed) {
  ScriptedPeer peer(ScriptedOptions());
  peer.StartResource();
  ASSERT_TRUE(peer.Dial());
  ASSERT_TRUE(peer.Negotiate());
  ASSERT_TRUE(peer.Wait(kData, PacketType::kTwopcPrepare));
  wire::SyncParam89 param;
  param.verify_alg = wire::AlgorithmName("md5");
  peer.Send(kData, PacketType::kSyncParam89, 0, param);
  ExpectDropped(peer, After::kStandAlone, "verify-alg");
  peer.ExpectUsable();
}

// --- the rest of the handshake
// --------------------------------------------------------------------

TEST(ScriptedHandshake, SilenceAfterThePrepareIsGivenUp) {
  ScriptedPeer peer(ScriptedOptions());
  peer.StartResource();
  ASSERT_TRUE(peer.Dial());
  ASSERT_TRUE(peer.Negotiate());
  ASSERT_TRUE(peer.Wait(kData, PacketType::kTwopcPrepare));
  SimTime since = peer.world().now();
  ASSERT_TRUE(peer.WaitClosed(60s));
  EXPECT_LT(peer.world().now() - since, 35s) << "twopc-timeout at the latest";
  peer.ExpectUsable();
}

TEST(ScriptedHandshake, StatesWithoutAVoteAreGivenUp) {
  ScriptedPeer peer(ScriptedOptions());
  peer.StartResource();
  ASSERT_TRUE(peer.Dial());
  ASSERT_TRUE(peer.Negotiate());
  ASSERT_TRUE(peer.Wait(kData, PacketType::kTwopcPrepare));
  peer.SendStates();
  ASSERT_TRUE(peer.WaitClosed(90s)) << "neither connected nor given up";
  EXPECT_NE(peer.state(), ConnectionState::kConnected);
  peer.ExpectUsable();
}

TEST(ScriptedHandshake, ANoIsRetriedOrFinal) {
  ScriptedPeer peer(ScriptedOptions());
  peer.StartResource();
  ASSERT_TRUE(peer.Dial());
  ASSERT_TRUE(peer.Negotiate());
  auto prepare = peer.Wait(kData, PacketType::kTwopcPrepare);
  ASSERT_TRUE(prepare);
  peer.SendStates();
  peer.Vote(PacketType::kTwopcNo, ScriptedPeer::Request(*prepare));
  EXPECT_TRUE(peer.Wait(kData, PacketType::kTwopcAbort) || peer.closed());
  EXPECT_NE(peer.state(), ConnectionState::kConnected);
  peer.ExpectUsable();
}

TEST(ScriptedHandshake, ARetryIsTriedAgain) {
  ScriptedPeer peer(ScriptedOptions());
  peer.StartResource();
  ASSERT_TRUE(peer.Dial());
  ASSERT_TRUE(peer.Negotiate());
  auto prepare = peer.Wait(kData, PacketType::kTwopcPrepare);
  ASSERT_TRUE(prepare);
  peer.Vote(PacketType::kTwopcRetry, ScriptedPeer::Request(*prepare));
  auto again = peer.Wait(kData, PacketType::kTwopcPrepare, 10s);
  ASSERT_TRUE(again) << peer.last_error();
  EXPECT_NE(ScriptedPeer::Request(*again).tid, ScriptedPeer::Request(*prepare).tid);
  peer.SendStates();
  peer.Vote(PacketType::kTwopcYes, ScriptedPeer::Request(*again));
  ASSERT_TRUE(peer.Wait(kData, PacketType::kTwopcCommit));
}

TEST(ScriptedHandshake, AVoteOnAnotherTransactionIsNone) {
  ScriptedPeer peer(ScriptedOptions());
  peer.StartResource();
  ASSERT_TRUE(peer.Dial());
  ASSERT_TRUE(peer.Negotiate());
  auto prepare = peer.Wait(kData, PacketType::kTwopcPrepare);
  ASSERT_TRUE(prepare);
  peer.SendStates();
  wire::TwoPcRequest other = ScriptedPeer::Request(*prepare);
  other.tid ^= 0x1234;
  peer.Vote(PacketType::kTwopcYes, other);
  peer.bench->RunFor(1s);
  EXPECT_NE(peer.state(), ConnectionState::kConnected);
  peer.Vote(PacketType::kTwopcYes, ScriptedPeer::Request(*prepare));
  ASSERT_TRUE(peer.Wait(kData, PacketType::kTwopcCommit)) << peer.last_error();
}

TEST(ScriptedHandshake, UnknownVolumesInConfigurationAreIgnored) {
  ScriptedPeer peer(ScriptedOptions());
  peer.StartResource();
  ASSERT_TRUE(peer.Dial());
  ASSERT_TRUE(peer.Negotiate());
  auto prepare = peer.Wait(kData, PacketType::kTwopcPrepare);
  ASSERT_TRUE(prepare);
  peer.Send(kData, PacketType::kSyncParam89, 7, peer.SyncParam());
  peer.Send(kData, PacketType::kSizes, 7, peer.Sizes(0));
  peer.Send(kData, PacketType::kState, 7, wire::State{0});
  peer.SendStates();
  peer.Vote(PacketType::kTwopcYes, ScriptedPeer::Request(*prepare));
  ASSERT_TRUE(peer.Wait(kData, PacketType::kTwopcCommit)) << peer.last_error();
}

TEST(ScriptedHandshake, SizesThatCannotBe) {
  struct {
    uint64_t device, asked, current;
  } cases[] = {
      {1000, 0, 2000}, {uint64_t{1} << 60, 0, 0}, {~uint64_t{0}, ~uint64_t{0}, 1}, {8, 0, 8}};
  for (auto [device, asked, current] : cases) {
    SCOPED_TRACE(device);
    ScriptedPeer peer(ScriptedOptions());
    peer.StartResource();
    ASSERT_TRUE(peer.Dial());
    ASSERT_TRUE(peer.Negotiate());
    auto prepare = peer.Wait(kData, PacketType::kTwopcPrepare);
    ASSERT_TRUE(prepare);
    uint64_t before = peer.bench->volume_status(0).size_bytes;
    wire::Sizes sizes = peer.Sizes(0);
    sizes.d_size = device;
    sizes.u_size = asked;
    sizes.c_size = current;
    peer.Send(kData, PacketType::kSyncParam89, 0, peer.SyncParam());
    peer.Send(kData, PacketType::kSizes, 0, sizes);
    peer.SendUuids();
    peer.SendState();
    peer.Vote(PacketType::kTwopcYes, ScriptedPeer::Request(*prepare));
    peer.bench->RunFor(5s);
    EXPECT_NE(peer.state(), ConnectionState::kConnected);
    EXPECT_EQ(peer.bench->volume_status(0).size_bytes, before);
    peer.ExpectUsable();
  }
}

// What follows from there on is not yet acceptable (9.2 point 7).
TEST(ScriptedHandshake, DataBeforeTheConnectIsRefused) {
  std::vector<std::byte> payload(4096);
  std::vector<std::vector<std::byte>> early = {
      ScriptedPeer::Encoded(PacketType::kData, 0, wire::DataHead{0, 1, 1, 0}, payload),
      ScriptedPeer::Encoded(PacketType::kBarrier, wire::kNoVolume, wire::Barrier{1}),
      ScriptedPeer::Encoded(PacketType::kRsDataRequest, 0, wire::BlockRequest{0, 1, 4096}),
      ScriptedPeer::Encoded(PacketType::kDataRequest, 0, wire::BlockRequest{0, 1, 4096}),
      ScriptedPeer::Encoded(PacketType::kOutOfSync, 0, wire::BlockDescription{0, 4096}),
      ScriptedPeer::Claimed(PacketType::kBitmap, 0, 8, 8),
      ScriptedPeer::Encoded(PacketType::kRsDataReply, 0, wire::DataHead{0, 1, 1, 0}, payload)};
  for (size_t i = 0; i < early.size(); ++i) {
    SCOPED_TRACE(i);
    ScriptedPeer peer(ScriptedOptions());
    peer.StartResource();
    ASSERT_TRUE(peer.Dial());
    ASSERT_TRUE(peer.Negotiate());
    peer.SendRaw(kData, early[i]);
    ExpectDropped(peer, After::kRetry, "");
    peer.ExpectUsable();
  }
}

TEST(ScriptedHandshake, TheLinkIsCutAtEveryPacket) {
  for (uint64_t cut = 0; cut < 900; cut += 23) {
    SCOPED_TRACE(cut);
    ScriptedPeer peer(ScriptedOptions(cut));
    peer.StartResource();
    ASSERT_TRUE(peer.Dial());
    auto links = peer.world().network().Connections(peer.bench->node(0), *peer.node);
    ASSERT_EQ(links.size(), 2u);
    links[0]->CutAfter(cut % 2 == 0 ? 0 : 1, cut);
    if (peer.Negotiate()) {
      auto prepare = peer.Wait(kData, PacketType::kTwopcPrepare, 5s);
      if (prepare) {
        peer.SendStates();
        peer.Vote(PacketType::kTwopcYes, ScriptedPeer::Request(*prepare));
        (void)peer.Wait(kData, PacketType::kTwopcCommit, 3s);
      }
    }
    peer.ExpectUsable();
  }
}

}  // namespace
}  // namespace umblock::drbd
