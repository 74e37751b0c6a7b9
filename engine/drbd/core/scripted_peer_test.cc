// A peer that does what a well-behaved node never does (drbd-wire.md 9.1, 9.2): every mistake ends
// the connection with its reason or is ignored, nothing is lost, and the next connect succeeds.
#include "engine/drbd/core/testing/scripted_peer.h"

#include <gtest/gtest.h>

#include "engine/drbd/wire/digest.h"

namespace umblock::drbd {
namespace {

using testing::ClusterOptions;
using testing::FrontIo;
using testing::PacketType;
using testing::ScriptedPeer;
using testing::SocketKind;
using testing::Text;

constexpr SocketKind kData = SocketKind::kData;
constexpr SocketKind kControl = SocketKind::kControl;

ClusterOptions Options(uint64_t seed = 1) {
  ClusterOptions options;
  options.seed = seed;
  options.disk_bytes = uint64_t{16} << 20;
  return options;
}

// What a mistake leads to: StandAlone where trying again cannot help, else a new attempt.
enum class After { kRetry, kStandAlone };

void ExpectDropped(ScriptedPeer& peer, After after, std::string_view reason) {
  ASSERT_TRUE(peer.WaitClosed(60s)) << "the connection stays up; " << reason;
  ASSERT_TRUE(
      peer.world().RunUntil([&] { return peer.state() != ConnectionState::kConnected; }, 10s));
  EXPECT_NE(peer.last_error().find(reason), std::string::npos) << peer.last_error();
  peer.bench->RunFor(500ms);
  if (after == After::kStandAlone) {
    EXPECT_EQ(peer.state(), ConnectionState::kStandAlone) << peer.last_error();
  } else {
    EXPECT_NE(peer.state(), ConnectionState::kStandAlone) << peer.last_error();
  }
  EXPECT_EQ(peer.bench->disk_state(0), DiskState::kUpToDate);
}

TEST(ScriptedPeerTest, AWellBehavedOneConnects) {
  ScriptedPeer peer(Options());
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
    ScriptedPeer peer(Options());
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
    ScriptedPeer peer(Options());
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
    ScriptedPeer peer(Options());
    peer.StartResource();
    ASSERT_TRUE(peer.Dial());
    peer.SendRaw(kData, mistakes[i]);
    ASSERT_TRUE(peer.WaitClosed());
    EXPECT_FALSE(peer.last_error().empty());
    peer.ExpectUsable();
  }
}

TEST(ScriptedFeatures, SilenceIsGivenUp) {
  ScriptedPeer peer(Options());
  peer.StartResource();
  ASSERT_TRUE(peer.Dial());
  SimTime since = peer.world().now();
  ExpectDropped(peer, After::kRetry, "silent");
  EXPECT_LT(peer.world().now() - since, 5s) << "4 x ping-timeout after the settle time";
  peer.ExpectUsable();
}

TEST(ScriptedFeatures, APeerThatHangsUpAtOnceIsDialledAgain) {
  ScriptedPeer peer(Options());
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
  ClusterOptions options = Options();
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
  ScriptedPeer peer(Options());
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
    ScriptedPeer peer(Options());
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
    ScriptedPeer peer(Options());
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
  ScriptedPeer peer(Options());
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
  ScriptedPeer peer(Options());
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
  ScriptedPeer peer(Options());
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
  ScriptedPeer peer(Options());
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
  ScriptedPeer peer(Options());
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
  ScriptedPeer peer(Options());
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
  ScriptedPeer peer(Options());
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
  ScriptedPeer peer(Options());
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
    ScriptedPeer peer(Options());
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
    ScriptedPeer peer(Options());
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
    ScriptedPeer peer(Options(cut));
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

// --- malformed packets on an established link
// ---------------------------------------------------

struct Mistake {
  const char* name;
  SocketKind socket;
  std::vector<std::byte> bytes;
  After after = After::kRetry;
};

std::vector<Mistake> Mistakes() {
  std::vector<std::byte> block(4096);
  std::vector<std::byte> odd(777);
  uint64_t far = uint64_t{1} << 40;
  auto E = [](PacketType type, int volume, const auto& packet,
              std::span<const std::byte> trailing = {}) {
    return ScriptedPeer::Encoded(type, volume, packet, trailing);
  };
  auto C = &ScriptedPeer::Claimed;
  std::vector<std::byte> junk(64, std::byte{0x5a});
  std::vector<std::byte> pad = E(PacketType::kBarrier, wire::kNoVolume, wire::Barrier{1});
  pad[14] = std::byte{1};
  std::vector<std::byte> h80(8 + 8);
  wire::EncodeHeader(
      {.type = PacketType::kBarrier, .volume = 0, .length = 8, .kind = wire::HeaderKind::kH80},
      h80);
  wire::TwoPcRequest no_tid;
  auto transaction = [](wire::TwoPcRequest request) {
    std::vector<std::byte> raw(wire::kMaxHeaderSize + wire::TwoPcRequest::kSize);
    wire::EncodeHeader({.type = PacketType::kTwopcPrepare,
                        .volume = wire::kNoVolume,
                        .length = wire::TwoPcRequest::kSize},
                       raw);
    wire::Encode(request, wire::TwoPcLayout::kV2, MutableBytes(raw).subspan(wire::kMaxHeaderSize));
    return raw;
  };
  wire::TwoPcRequest bad_initiator{
      .tid = 5, .flags = wire::kTwoPcHasFlags, .initiator_node_id = 40};
  wire::TwoPcRequest bad_target{
      .tid = 5, .flags = wire::kTwoPcHasFlags, .initiator_node_id = 1, .target_node_id = 77};
  using T = PacketType;
  return {
      // framing
      {"junk", kData, junk},
      {"junk on control", kControl, junk},
      {"padding", kData, pad},
      {"h80 header", kData, h80},
      {"unknown command", kData, C(static_cast<T>(0x7e), 0, 0, 0)},
      {"command above 0x100", kData, C(static_cast<T>(0x123), 0, 0, 0)},
      {"unknown control command", kControl, C(static_cast<T>(0x7e), 0, 0, 0)},
      {"control packet on data", kData, E(T::kWriteAck, 0, wire::BlockAck{0, 1, 4096, 1})},
      {"data packet on control", kControl, E(T::kBarrier, wire::kNoVolume, wire::Barrier{1})},
      {"huge control packet", kControl, C(T::kWriteAck, 0, 1 << 20, 100)},
      {"huge data packet", kData, C(T::kData, 0, 0x7fffffff, 100)},
      {"features again", kData, C(T::kConnectionFeatures, wire::kNoVolume, 72, 72)},
      {"a challenge again", kData, C(T::kAuthChallenge, wire::kNoVolume, 64, 64)},
      {"an initial packet again", kData, C(T::kInitialData, wire::kNoVolume, 0, 0)},
      // lengths
      {"short barrier", kData, C(T::kBarrier, wire::kNoVolume, 4, 4)},
      {"long dagtag", kData, C(T::kDagtag, wire::kNoVolume, 16, 16)},
      {"short trim", kData, C(T::kTrim, 0, 24, 24)},
      {"data without payload", kData, C(T::kData, 0, 24, 24)},
      {"data shorter than its head", kData, C(T::kData, 0, 10, 10)},
      {"odd payload", kData, E(T::kData, 0, wire::DataHead{0, 1, 1, 0}, odd)},
      {"unplug with payload", kData, C(T::kUnplugRemote, wire::kNoVolume, 8, 8)},
      {"short state", kData, C(T::kState, 0, 3, 3)},
      {"short uuids", kData, C(T::kUuids110, 0, 16, 16)},
      {"uuids of 41 bytes", kData, C(T::kUuids110, 0, 41, 41)},
      {"sizes without limits", kData, C(T::kSizes, 0, 32, 32)},
      {"short ack", kControl, C(T::kWriteAck, 0, 16, 16)},
      {"short barrier ack", kControl, C(T::kBarrierAck, wire::kNoVolume, 4, 4)},
      {"short confirm stable", kControl, C(T::kConfirmStable, wire::kNoVolume, 8, 8)},
      {"short peer ack", kControl, C(T::kPeerAck, wire::kNoVolume, 8, 8)},
      {"ping with payload", kControl, C(T::kPing, wire::kNoVolume, 8, 8)},
      {"short vote", kControl, C(T::kTwopcYes, wire::kNoVolume, 8, 8)},
      // volumes
      {"write to an unknown volume", kData, E(T::kData, 9, wire::DataHead{0, 1, 1, 0}, block)},
      {"trim of an unknown volume", kData, E(T::kTrim, 9, wire::TrimRequest{{0, 1, 1, 0}, 4096})},
      {"ack for an unknown volume", kControl, E(T::kWriteAck, 9, wire::BlockAck{0, 1, 4096, 1})},
      {"write to no volume", kData,
       E(T::kData, wire::kNoVolume, wire::DataHead{0, 1, 1, 0}, block)},
      {"barrier of a volume", kData, E(T::kBarrier, 3, wire::Barrier{1})},
      // ranges
      {"write beyond the end", kData, E(T::kData, 0, wire::DataHead{far, 1, 1, 0}, block)},
      {"write across the end", kData,
       E(T::kData, 0, wire::DataHead{(uint64_t{16} << 20) / 512, 1, 1, 0}, block)},
      {"write at the last sector there is", kData,
       E(T::kData, 0, wire::DataHead{~uint64_t{0}, 1, 1, 0}, block)},
      {"trim beyond the end", kData, E(T::kTrim, 0, wire::TrimRequest{{far, 1, 1, 0}, 4096})},
      {"trim of nothing", kData, E(T::kTrim, 0, wire::TrimRequest{{0, 1, 1, 0}, 0})},
      {"trim of 256 MiB", kData, E(T::kTrim, 0, wire::TrimRequest{{0, 1, 1, 0}, 256u << 20})},
      {"trim of 100 bytes", kData, E(T::kTrim, 0, wire::TrimRequest{{0, 1, 1, 0}, 100})},
      {"zeroes beyond the end", kData, E(T::kZeroes, 0, wire::TrimRequest{{far, 1, 1, 0}, 4096})},
      {"write same", kData, E(T::kData, 0, wire::DataHead{0, 1, 1, wire::kDpWsame}, block)},
      {"out of sync beyond the end", kData, E(T::kOutOfSync, 0, wire::BlockDescription{far, 4096})},
      {"out of sync of nothing", kData, E(T::kOutOfSync, 0, wire::BlockDescription{0, 0})},
      {"read beyond the end", kData, E(T::kDataRequest, 0, wire::BlockRequest{far, 1, 4096})},
      {"read of nothing", kData, E(T::kDataRequest, 0, wire::BlockRequest{0, 1, 0})},
      {"read of 2 MiB", kData, E(T::kDataRequest, 0, wire::BlockRequest{0, 1, 2 << 20})},
      {"resync read beyond the end", kData,
       E(T::kRsDagtagReq, 0, wire::DagtagRequest{far, 1, 4096, 0, 0})},
      {"resync read of 2 MiB", kData,
       E(T::kRsDagtagReq, 0, wire::DagtagRequest{0, 1, 2 << 20, 0, 0})},
      {"in sync beyond the end", kControl, E(T::kPeersInSync, 0, wire::PeersInSync{far, 1, 4096})},
      // what nobody asked for
      {"read reply", kData, E(T::kDataReply, 0, wire::DataHead{0, 1, 1, 0}, block)},
      {"read refusal", kControl, E(T::kNegDreply, 0, wire::BlockAck{0, 1, 4096, 1})},
      {"write ack", kControl, E(T::kWriteAck, 0, wire::BlockAck{0, 1, 4096, 1})},
      {"receive ack", kControl, E(T::kRecvAck, 0, wire::BlockAck{0, 1, 4096, 1})},
      {"in-sync ack", kControl, E(T::kWriteAckInSync, 0, wire::BlockAck{0, 1, 4096, 1})},
      {"superseded", kControl, E(T::kSuperseded, 0, wire::BlockAck{0, 1, 4096, 1})},
      {"retry write", kControl, E(T::kRetryWrite, 0, wire::BlockAck{0, 1, 4096, 1})},
      {"barrier ack", kControl, E(T::kBarrierAck, wire::kNoVolume, wire::BarrierAck{1, 1})},
      {"empty barrier ack", kControl, E(T::kBarrierAck, wire::kNoVolume, wire::BarrierAck{1, 0})},
      {"confirm stable", kControl,
       E(T::kConfirmStable, wire::kNoVolume, wire::ConfirmStable{1, 1, 1})},
      {"confirm stable of nothing", kControl,
       E(T::kConfirmStable, wire::kNoVolume, wire::ConfirmStable{0, 0, 0})},
      {"deallocated", kData, E(T::kRsDeallocatedId, 0, wire::BlockAck{0, 1, 4096, 1})},
      {"barrier without a write", kData, E(T::kBarrier, wire::kNoVolume, wire::Barrier{1})},
      {"bitmap", kData, C(T::kBitmap, 0, 8, 8)},
      {"bitmap of 7 bytes", kData, C(T::kBitmap, 0, 7, 7)},
      {"compressed bitmap", kData, C(T::kCompressedBitmap, 0, 9, 9)},
      // contents
      {"a state that does not exist", kData, E(T::kState, 0, wire::State{0xffffffff})},
      {"uuids for node 40", kData,
       [&] {
         std::vector<std::byte> raw = C(T::kUuids110, 0, 40 + 8, 48);
         raw[16 + 32 + 2] = std::byte{1};  // bit 40 of the mask, which begins at byte 32
         return raw;
       }()},
      {"transaction 0", kData, transaction(no_tid)},
      {"transaction of node 40", kData, transaction(bad_initiator)},
      {"transaction with node 77", kData, transaction(bad_target)},
      // goodbye
      {"disconnect", kData, C(T::kDisconnect, wire::kNoVolume, 0, 0), After::kStandAlone},
  };
}

class ScriptedMistake : public ::testing::TestWithParam<size_t> {};

TEST_P(ScriptedMistake, EndsTheLinkAndNothingElse) {
  Mistake mistake = Mistakes().at(GetParam());
  SCOPED_TRACE(mistake.name);
  ScriptedPeer peer(Options(GetParam() + 1));
  peer.StartResource();
  peer.persona.role = Role::kPrimary;
  ASSERT_TRUE(peer.Establish()) << peer.last_error();
  // Something good before it: it stays.
  peer.Send(kData, PacketType::kDagtag, wire::kNoVolume, wire::Dagtag{1000});
  uint64_t id = peer.Write(64, 4096, 0x21);
  auto ack = peer.Wait(kControl, PacketType::kWriteAck);
  ASSERT_TRUE(ack);
  EXPECT_EQ(ack->As<wire::BlockAck>().block_id, id);
  peer.Send(kData, PacketType::kBarrier, wire::kNoVolume, wire::Barrier{0xaabbccdd});
  ASSERT_TRUE(peer.Wait(kControl, PacketType::kBarrierAck));
  peer.SendRaw(mistake.socket, mistake.bytes);
  ASSERT_TRUE(peer.WaitClosed()) << "the connection stays up";
  EXPECT_FALSE(peer.last_error().empty());
  peer.bench->RunFor(300ms);
  EXPECT_EQ(peer.state() == ConnectionState::kStandAlone, mistake.after == After::kStandAlone)
      << peer.last_error();
  EXPECT_TRUE(peer.bench->NowIs(0, 64 * 512, 4096, 0x21));
  EXPECT_TRUE(peer.bench->NowIs(0, 0, 4096, 0));
  peer.persona.role = Role::kSecondary;
  peer.ExpectUsable();
  EXPECT_EQ(peer.bench->disk_state(0), DiskState::kUpToDate);
}
INSTANTIATE_TEST_SUITE_P(Each, ScriptedMistake, ::testing::Range(size_t{0}, Mistakes().size()),
                         [](const auto& info) {
                           std::string name = Mistakes().at(info.param).name;
                           for (char& c : name) {
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           }
                           return name;
                         });

// What may be ignored is.
TEST(ScriptedEstablished, HarmlessPacketsAreIgnored) {
  ScriptedPeer peer(Options());
  peer.StartResource();
  ASSERT_TRUE(peer.Establish()) << peer.last_error();
  peer.Send(kControl, PacketType::kPeerAck, wire::kNoVolume, wire::PeerAck{3, 12345});
  peer.Send(kControl, PacketType::kRsWriteAck, 0, wire::BlockAck{0, 99, 4096, 1});
  peer.Send(kControl, PacketType::kRsNegAck, 0, wire::BlockAck{0, 99, 4096, 1});
  peer.Send(kControl, PacketType::kNegRsDreply, 0, wire::BlockAck{0, 99, 4096, 1});
  peer.Send(kControl, PacketType::kRsCancel, 0, wire::BlockAck{0, 99, 4096, 1});
  peer.Send(kControl, PacketType::kPeersInSync, 0, wire::PeersInSync{0, ~uint64_t{0}, 4096});
  peer.SendEmpty(kControl, PacketType::kPingAck);
  peer.SendEmpty(kData, PacketType::kUnplugRemote);
  peer.Send(kData, PacketType::kDagtag, wire::kNoVolume, wire::Dagtag{~uint64_t{0} - 5});
  peer.Send(kData, PacketType::kSyncParam89, 7, peer.SyncParam());
  peer.bench->RunFor(5s);
  EXPECT_EQ(peer.state(), ConnectionState::kConnected) << peer.last_error();
}

// --- this node is Primary, the peer answers wrongly
// -----------------------------------------------

class ScriptedSecondary : public ::testing::Test {
 protected:
  void Up(ClusterOptions options) {
    peer.emplace(options);
    peer->StartResource();
    ASSERT_TRUE(peer->Establish()) << peer->last_error();
    promotion_ = peer->bench->Start(0, peer->resource().Promote(false));
    auto prepare = peer->Wait(kData, PacketType::kTwopcPrepare);
    ASSERT_TRUE(prepare);
    peer->Vote(PacketType::kTwopcYes, ScriptedPeer::Request(*prepare));
    ASSERT_TRUE(peer->world().RunUntil([&] { return promotion_->has_value(); }, 20s));
    ASSERT_TRUE(**promotion_) << Text(**promotion_);
  }
  // Issues a write and takes the P_DATA.
  FrontIo* Write(uint64_t offset, size_t bytes = 4096, uint8_t fill = 7) {
    FrontIo* write = peer->bench->StartWrite(0, offset, bytes, fill);
    auto data = peer->Wait(kData, PacketType::kData);
    EXPECT_TRUE(data) << peer->last_error();
    if (data) head = data->As<wire::DataHead>();
    return write;
  }
  // After the mistake: the link goes, the write is answered by the own disk and is out of sync.
  void ExpectLost(FrontIo* write, uint64_t out_of_sync, std::string_view reason) {
    ExpectDropped(*peer, After::kRetry, reason);
    ASSERT_TRUE(peer->world().RunUntil([&] { return write->answered(); }, 20s));
    EXPECT_TRUE(write->ok());
    EXPECT_EQ(write->completions, 1);
    peer->bench->RunFor(200ms);
    EXPECT_EQ(peer->bench->out_of_sync(0, 1), out_of_sync) << "INV-6";
    peer->bench->ExpectIdleCounters();
  }

  std::optional<ScriptedPeer> peer;
  wire::DataHead head;
  std::shared_ptr<std::optional<Status>> promotion_;
};

TEST_F(ScriptedSecondary, TheRightAnswersKeepTheLink) {
  Up(Options());
  FrontIo* write = Write(0);
  peer->Ack(PacketType::kWriteAck, head.sector, head.block_id, 4096);
  auto barrier = peer->Wait(kData, PacketType::kBarrier);
  ASSERT_TRUE(barrier);
  EXPECT_TRUE(write->ok());
  peer->Send(kControl, PacketType::kBarrierAck, wire::kNoVolume,
             wire::BarrierAck{barrier->As<wire::Barrier>().barrier, 1});
  ASSERT_TRUE(peer->Wait(kControl, PacketType::kPeerAck));
  EXPECT_EQ(peer->state(), ConnectionState::kConnected);
  EXPECT_EQ(peer->bench->out_of_sync(0, 1), 0u);
  peer->bench->ExpectIdleCounters();
}

TEST_F(ScriptedSecondary, K15AckForAnUnknownWrite) {
  Up(Options());
  FrontIo* write = Write(0);
  peer->Ack(PacketType::kWriteAck, head.sector, head.block_id + 1, 4096);
  ExpectLost(write, 4096, "names no write of ours");
  peer->ExpectUsable();
}

TEST_F(ScriptedSecondary, K15AckForAnotherSector) {
  Up(Options());
  FrontIo* write = Write(8192);
  peer->Ack(PacketType::kWriteAck, head.sector + 8, head.block_id, 4096);
  ExpectLost(write, 4096, "names no write of ours");
}

TEST_F(ScriptedSecondary, K15AckAfterTheBarrierAck) {
  Up(Options());
  FrontIo* write = Write(0);
  peer->Ack(PacketType::kWriteAck, head.sector, head.block_id, 4096);
  auto barrier = peer->Wait(kData, PacketType::kBarrier);
  ASSERT_TRUE(barrier);
  peer->Send(kControl, PacketType::kBarrierAck, wire::kNoVolume,
             wire::BarrierAck{barrier->As<wire::Barrier>().barrier, 1});
  peer->Ack(PacketType::kWriteAck, head.sector, head.block_id, 4096);
  ExpectLost(write, 0, "");
}

TEST_F(ScriptedSecondary, AReceiveAckIsOnlyForProtocolB) {
  Up(Options());
  FrontIo* write = Write(0);
  peer->Ack(PacketType::kRecvAck, head.sector, head.block_id, 4096);
  ExpectLost(write, 4096, "cannot acknowledge");
}

TEST_F(ScriptedSecondary, TwoAcksForOneWriteCountOnce) {
  Up(Options());
  FrontIo* write = Write(0);
  peer->Ack(PacketType::kWriteAck, head.sector, head.block_id, 4096);
  peer->Ack(PacketType::kWriteAck, head.sector, head.block_id, 4096);
  ASSERT_TRUE(peer->world().RunUntil([&] { return write->answered(); }, 5s));
  peer->bench->RunFor(1s);
  EXPECT_EQ(write->completions, 1);
}

TEST_F(ScriptedSecondary, K36BarrierAckWithTheWrongCount) {
  for (uint32_t count : {0u, 2u, 0xffffffffu}) {
    SCOPED_TRACE(count);
    Up(Options());
    FrontIo* write = Write(0);
    peer->Ack(PacketType::kWriteAck, head.sector, head.block_id, 4096);
    auto barrier = peer->Wait(kData, PacketType::kBarrier);
    ASSERT_TRUE(barrier);
    peer->Send(kControl, PacketType::kBarrierAck, wire::kNoVolume,
               wire::BarrierAck{barrier->As<wire::Barrier>().barrier, count});
    ExpectLost(write, 4096, "counts");
    peer.reset();
  }
}

TEST_F(ScriptedSecondary, K36BarrierAckWithTheWrongNumber) {
  Up(Options());
  FrontIo* write = Write(0);
  peer->Ack(PacketType::kWriteAck, head.sector, head.block_id, 4096);
  auto barrier = peer->Wait(kData, PacketType::kBarrier);
  ASSERT_TRUE(barrier);
  peer->Send(kControl, PacketType::kBarrierAck, wire::kNoVolume,
             wire::BarrierAck{barrier->As<wire::Barrier>().barrier + 1, 1});
  ExpectLost(write, 4096, "not the oldest");
  peer->ExpectUsable();
}

TEST_F(ScriptedSecondary, K36BarrierAckBeforeItsBarrier) {
  Up(Options());
  FrontIo* write = Write(0);
  peer->Send(kControl, PacketType::kBarrierAck, wire::kNoVolume, wire::BarrierAck{0, 1});
  ExpectLost(write, 4096, "not the oldest");
}

TEST_F(ScriptedSecondary, K37BarrierAcksInTheWrongOrder) {
  Up(Options());
  uint32_t numbers[2];
  FrontIo* writes[2];
  for (int i = 0; i < 2; ++i) {
    writes[i] = Write(static_cast<uint64_t>(i) * 8192);
    peer->Ack(PacketType::kWriteAck, head.sector, head.block_id, 4096);
    auto barrier = peer->Wait(kData, PacketType::kBarrier);
    ASSERT_TRUE(barrier);
    numbers[i] = barrier->As<wire::Barrier>().barrier;
  }
  EXPECT_NE(numbers[0], numbers[1]);
  peer->Send(kControl, PacketType::kBarrierAck, wire::kNoVolume, wire::BarrierAck{numbers[1], 1});
  ExpectLost(writes[0], 2 * 4096, "not the oldest");
}

TEST_F(ScriptedSecondary, ANegAckIsOutOfSyncAndNoError) {
  Up(Options());
  FrontIo* write = Write(0);
  peer->Ack(PacketType::kNegAck, head.sector, head.block_id, 4096);
  ASSERT_TRUE(peer->world().RunUntil([&] { return write->answered(); }, 5s));
  EXPECT_TRUE(write->ok());
  auto barrier = peer->Wait(kData, PacketType::kBarrier);
  ASSERT_TRUE(barrier) << "INV-24: it counts";
  peer->Send(kControl, PacketType::kBarrierAck, wire::kNoVolume,
             wire::BarrierAck{barrier->As<wire::Barrier>().barrier, 1});
  ASSERT_TRUE(peer->world().RunUntil([&] { return peer->bench->out_of_sync(0, 1) == 4096; }, 5s));
  EXPECT_EQ(peer->state(), ConnectionState::kConnected);
}

TEST_F(ScriptedSecondary, ANegAckForAnUnknownWriteIsOutOfSync) {
  Up(Options());
  peer->Ack(PacketType::kNegAck, 800, 0x1234567, 8192);
  ASSERT_TRUE(peer->world().RunUntil([&] { return peer->bench->out_of_sync(0, 1) == 8192; }, 5s));
  EXPECT_EQ(peer->state(), ConnectionState::kConnected);
  peer->Ack(PacketType::kNegAck, uint64_t{1} << 50, 0x1234567, 8192);  // nowhere
  peer->bench->RunFor(1s);
  EXPECT_EQ(peer->bench->out_of_sync(0, 1), 8192u);
}

TEST_F(ScriptedSecondary, ConfirmStableMustBeARunOfTheOldest) {
  struct {
    int oldest, youngest;
    uint32_t count;
  } cases[] = {{1, 1, 1}, {0, 1, 3}, {0, 2, 2}, {0, 0, 2}, {1, 0, 2}};
  for (auto [oldest, youngest, count] : cases) {
    SCOPED_TRACE(count);
    Up(Options());
    std::vector<FrontIo*> writes;
    std::vector<uint64_t> ids;
    for (uint64_t i = 0; i < 3; ++i) {
      writes.push_back(Write(i * 8192));
      ids.push_back(head.block_id);
    }
    peer->Send(kControl, PacketType::kConfirmStable, wire::kNoVolume,
               wire::ConfirmStable{ids[static_cast<size_t>(oldest)],
                                   ids[static_cast<size_t>(youngest)], count});
    ExpectLost(writes[0], 3 * 4096, "P_CONFIRM_STABLE");
    peer.reset();
  }
}

// INV-31: what is confirmed is acked to the peers at once, and subtracted from the barrier ack.
TEST_F(ScriptedSecondary, ConfirmStableIsAnsweredByAPeerAck) {
  Up(Options());
  std::vector<FrontIo*> writes;
  std::vector<uint64_t> ids;
  // One before them, so that their extent is hot.
  (void)Write(65536);
  peer->Ack(PacketType::kWriteAck, head.sector, head.block_id, 4096);
  auto first = peer->Wait(kData, PacketType::kBarrier);
  ASSERT_TRUE(first);
  peer->Send(kControl, PacketType::kBarrierAck, wire::kNoVolume,
             wire::BarrierAck{first->As<wire::Barrier>().barrier, 1});
  ASSERT_TRUE(peer->Wait(kControl, PacketType::kPeerAck));
  peer->bench->disk(0).SetHang(true);  // the epoch stays open
  for (uint64_t i = 0; i < 3; ++i) {
    writes.push_back(Write(i * 8192));
    ids.push_back(head.block_id);
    peer->Ack(PacketType::kWriteAck, head.sector, head.block_id, 4096);
  }
  peer->Send(kControl, PacketType::kConfirmStable, wire::kNoVolume,
             wire::ConfirmStable{ids[0], ids[1], 2});
  peer->bench->RunFor(300ms);
  peer->bench->disk(0).SetHang(false);
  ASSERT_TRUE(peer->Wait(kControl, PacketType::kPeerAck)) << peer->last_error();
  auto barrier = peer->Wait(kData, PacketType::kBarrier);
  ASSERT_TRUE(barrier);
  peer->Send(kControl, PacketType::kBarrierAck, wire::kNoVolume,
             wire::BarrierAck{barrier->As<wire::Barrier>().barrier, 1});
  peer->bench->RunFor(1s);
  EXPECT_EQ(peer->state(), ConnectionState::kConnected) << peer->last_error();
  for (FrontIo* write : writes) EXPECT_TRUE(write->ok());
  EXPECT_EQ(peer->bench->out_of_sync(0, 1), 0u);
  peer->bench->ExpectIdleCounters();
}

TEST_F(ScriptedSecondary, K43APeerThatNeverAcksIsGivenUpAfterKoCount) {
  Up(Options());
  SimTime since = peer->world().now();
  FrontIo* write = Write(0);
  ASSERT_TRUE(peer->world().RunUntil([&] { return write->answered(); }, 120s));
  EXPECT_TRUE(write->ok());
  EXPECT_GE(peer->world().now() - since, 41s) << "timeout x ko-count";
  EXPECT_LE(peer->world().now() - since, 50s);
  EXPECT_TRUE(peer->bench->SawEvent(0, "connection", "Timeout"));
  peer->ExpectUsable();
}

TEST_F(ScriptedSecondary, K43APeerThatNeverSendsBarrierAcksIsGivenUpToo) {
  Up(Options());
  FrontIo* write = Write(0);
  peer->Ack(PacketType::kWriteAck, head.sector, head.block_id, 4096);
  ASSERT_TRUE(peer->world().RunUntil([&] { return write->answered(); }, 5s));
  ASSERT_TRUE(peer->WaitClosed(90s));
  EXPECT_TRUE(peer->bench->SawEvent(0, "connection", "Timeout"));
}

TEST_F(ScriptedSecondary, K43WithoutKoCountItIsWaitedFor) {
  ClusterOptions options = Options();
  options.net.ko_count = 0;
  Up(options);
  FrontIo* write = Write(0);
  peer->bench->RunFor(200s);
  EXPECT_FALSE(write->answered());
  EXPECT_EQ(peer->state(), ConnectionState::kConnected);
  peer->Ack(PacketType::kWriteAck, head.sector, head.block_id, 4096);
  ASSERT_TRUE(peer->world().RunUntil([&] { return write->answered(); }, 5s));
}

TEST_F(ScriptedSecondary, K44APeerThatStopsReadingIsGivenUpAfterKoCount) {
  ClusterOptions options = Options();
  options.net.sndbuf_size = 16384;
  options.net.rcvbuf_size = 16384;
  Up(options);
  SimTime since = peer->world().now();
  // Answers pings, takes no data: only the control socket is read on.
  for (auto& link : peer->world().network().Connections(peer->bench->node(0), *peer->node)) {
    if (link->id() == peer->bench->log.data_connection()) {
      link->MuteAfter(peer->bench->EndOf(*link, 0), 0);
    }
  }
  std::vector<FrontIo*> writes;
  for (uint64_t i = 0; i < 8; ++i) {
    writes.push_back(peer->bench->StartWrite(0, i << 20, 1 << 20, 3));
  }
  ASSERT_TRUE(peer->world().RunUntil([&] { return peer->bench->AllDone(); }, 120s));
  EXPECT_GE(peer->world().now() - since, 40s);
  EXPECT_LE(peer->world().now() - since, 60s);
  for (FrontIo* write : writes) EXPECT_TRUE(write->ok());
  peer->ExpectUsable();
}

TEST_F(ScriptedSecondary, APeerWithoutPingsIsGivenUp) {
  Up(Options());
  peer->set_answer_pings(false);
  SimTime since = peer->world().now();
  ASSERT_TRUE(peer->WaitClosed(60s));
  EXPECT_LE(peer->world().now() - since, 13s);
  peer->ExpectUsable();
}

TEST_F(ScriptedSecondary, APeerThatTalksButDoesNotAnswerPingsIsGivenUp) {
  Up(Options());
  peer->set_answer_pings(false);
  // Demote pings everybody; the act must not hang.
  auto demoted = peer->bench->Start(0, peer->resource().Demote(false));
  for (int i = 0; i < 400 && !peer->closed(); ++i) {
    peer->SendEmpty(kControl, PacketType::kPing);
    peer->bench->RunFor(100ms);
  }
  EXPECT_TRUE(peer->closed());
  peer->Hangup();
  ASSERT_TRUE(peer->world().RunUntil([&] { return demoted->has_value(); }, 60s));
}

TEST_F(ScriptedSecondary, SixMoreVotesThanAskedForAreIgnored) {
  Up(Options());
  for (int i = 0; i < 6; ++i) {
    wire::TwoPcReply reply;
    reply.tid = 77 + static_cast<uint32_t>(i);
    reply.initiator_node_id = i % 2;
    peer->Send(kControl, PacketType::kTwopcNo, wire::kNoVolume, reply);
  }
  peer->bench->RunFor(1s);
  EXPECT_EQ(peer->state(), ConnectionState::kConnected);
}

TEST_F(ScriptedSecondary, DisconnectOfAPeerThatDoesNotVoteEnds) {
  Up(Options());
  auto disconnected = peer->bench->Start(0, peer->resource().Disconnect(1, false));
  ASSERT_TRUE(peer->Wait(kData, PacketType::kTwopcPrepare));
  auto forced = peer->bench->Start(0, peer->resource().Disconnect(1, true));
  ASSERT_TRUE(peer->world().RunUntil(
      [&] { return disconnected->has_value() && forced->has_value(); }, 1200s));
  EXPECT_TRUE(**forced);
  EXPECT_EQ(peer->state(), ConnectionState::kStandAlone);
}

// --- the peer is Primary and writes
// -------------------------------------------------------------

class ScriptedPrimary : public ::testing::Test {
 protected:
  void Up(ClusterOptions options) {
    peer.emplace(options);
    peer->persona.role = Role::kPrimary;
    peer->StartResource();
    ASSERT_TRUE(peer->Establish()) << peer->last_error();
  }
  std::optional<ScriptedPeer> peer;
};

TEST_F(ScriptedPrimary, K38BarrierNumbersAndDagtagsOfAnySize) {
  Up(Options());
  for (uint64_t dagtag : {uint64_t{0xffffffff} - 3, (uint64_t{1} << 63) - 5, ~uint64_t{0} - 20}) {
    peer->Send(kData, PacketType::kDagtag, wire::kNoVolume, wire::Dagtag{dagtag});
    for (uint32_t number : {0xffffffffu, 0x00000000u, 0x80000000u, 0x01020304u}) {
      uint64_t id = peer->Write(0, 4096, 1);
      auto ack = peer->Wait(kControl, PacketType::kWriteAck);
      ASSERT_TRUE(ack) << peer->last_error();
      EXPECT_EQ(ack->As<wire::BlockAck>().block_id, id);
      auto sent =
          ScriptedPeer::Encoded(PacketType::kBarrier, wire::kNoVolume, wire::Barrier{number});
      peer->SendRaw(kData, sent);
      auto barrier = peer->Wait(kControl, PacketType::kBarrierAck);
      ASSERT_TRUE(barrier);
      EXPECT_EQ(std::memcmp(barrier->payload.data(), sent.data() + 16, 4), 0)
          << "echoed bit-identical";
      EXPECT_EQ(barrier->As<wire::BarrierAck>().set_size, 1u);
    }
  }
}

TEST_F(ScriptedPrimary, ProtocolsAreAcknowledgedAsTheFlagsAsk) {
  Up(Options());
  peer->Send(kData, PacketType::kDagtag, wire::kNoVolume, wire::Dagtag{0});
  peer->Write(0, 4096, 1, 0);  // A: no ack
  peer->Write(8, 4096, 2, wire::kDpSendReceiveAck);
  auto received = peer->Wait(kControl, PacketType::kRecvAck);
  ASSERT_TRUE(received);
  peer->Send(kData, PacketType::kBarrier, wire::kNoVolume, wire::Barrier{5});
  ASSERT_TRUE(peer->Wait(kControl, PacketType::kBarrierAck));
  EXPECT_EQ(peer->CountReceived(kControl, PacketType::kWriteAck), 0u);
  EXPECT_TRUE(peer->bench->StableIs(0, 0, 4096, 1)) << "INV-7";
  EXPECT_TRUE(peer->bench->StableIs(0, 4096, 4096, 2));
}

TEST_F(ScriptedPrimary, K40WithoutADiskWritesAreRefusedAndCounted) {
  Up(Options());
  // As it is while the detach is not known to the Primary yet.
  auto detached = peer->bench->Start(0, peer->resource().Detach(0, true));
  peer->Send(kData, PacketType::kDagtag, wire::kNoVolume, wire::Dagtag{0});
  ASSERT_TRUE(peer->world().RunUntil([&] { return detached->has_value(); }, 10s));
  uint64_t ids[3];
  for (int i = 0; i < 3; ++i) ids[i] = peer->Write(static_cast<uint64_t>(i) * 8, 4096, 1);
  peer->Send(kData, PacketType::kBarrier, wire::kNoVolume, wire::Barrier{5});
  for (uint64_t id : ids) {
    auto ack = peer->Wait(kControl, PacketType::kNegAck);
    ASSERT_TRUE(ack) << peer->last_error();
    EXPECT_EQ(ack->As<wire::BlockAck>().block_id, id);
  }
  auto barrier = peer->Wait(kControl, PacketType::kBarrierAck);
  ASSERT_TRUE(barrier);
  EXPECT_EQ(barrier->As<wire::BarrierAck>().set_size, 3u) << "INV-24";
  EXPECT_EQ(peer->state(), ConnectionState::kConnected);
}

TEST_F(ScriptedPrimary, K47ADigestThatDoesNotFitEndsTheLinkAndWritesNothing) {
  ClusterOptions options = Options();
  options.net.data_integrity_alg = "crc32c";
  Up(options);
  auto digest = wire::Digest::Create("crc32c");
  ASSERT_TRUE(digest);
  std::vector<std::byte> data(4096, std::byte{0x61});
  std::vector<std::byte> trailing(digest->size());
  digest->Update(data);
  digest->Finish(trailing);
  trailing.insert(trailing.end(), data.begin(), data.end());
  peer->Send(kData, PacketType::kDagtag, wire::kNoVolume, wire::Dagtag{0});
  peer->Send(kData, PacketType::kData, 0, wire::DataHead{0, 7, 1, wire::kDpSendWriteAck}, trailing);
  ASSERT_TRUE(peer->Wait(kControl, PacketType::kWriteAck)) << peer->last_error();
  EXPECT_TRUE(peer->bench->NowIs(0, 0, 4096, 0x61));
  trailing[digest->size() + 100] ^= std::byte{1};  // a bit flips on the way
  peer->Send(kData, PacketType::kData, 0, wire::DataHead{64, 8, 2, wire::kDpSendWriteAck},
             trailing);
  ExpectDropped(*peer, After::kRetry, "digest");
  EXPECT_TRUE(peer->bench->NowIs(0, 64 * 512, 4096, 0));
}

TEST_F(ScriptedPrimary, APartOfAWriteIsNotWritten) {
  Up(Options());
  std::vector<std::byte> whole =
      ScriptedPeer::Encoded(PacketType::kData, 0, wire::DataHead{0, 7, 1, wire::kDpSendWriteAck},
                            std::vector<std::byte>(65536, std::byte{0x44}));
  whole.resize(50000);
  peer->SendRaw(kData, whole);
  peer->bench->RunFor(1s);
  peer->Hangup();
  peer->bench->RunFor(2s);
  EXPECT_TRUE(peer->bench->NowIs(0, 0, 65536, 0)) << "INV-23";
  peer->persona.role = Role::kSecondary;
  peer->ExpectUsable();
}

// Every write that arrived whole is written, though its sender is gone (C.8).
TEST_F(ScriptedPrimary, WhatWasReceivedIsWrittenAfterALoss) {
  Up(Options());
  peer->Send(kData, PacketType::kDagtag, wire::kNoVolume, wire::Dagtag{0});
  for (uint64_t i = 0; i < 16; ++i) {
    peer->Write(i * 16, 8192, static_cast<uint8_t>(i + 1), wire::kDpSendReceiveAck);
    if (i % 4 == 3) {
      peer->Send(kData, PacketType::kBarrier, wire::kNoVolume,
                 wire::Barrier{static_cast<uint32_t>(i)});
    }
  }
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(peer->Wait(kControl, PacketType::kRecvAck));
  peer->Hangup();
  peer->bench->RunFor(3s);
  for (uint64_t i = 0; i < 16; ++i) {
    EXPECT_TRUE(peer->bench->NowIs(0, i * 8192, 8192, static_cast<uint8_t>(i + 1))) << i;
  }
}

// K61: without peer acks the records pile up to a bound and the extents stay in the log.
TEST_F(ScriptedPrimary, K61WithoutPeerAcksItIsNotListenedToForEver) {
  ClusterOptions options = Options();
  options.disk_bytes = uint64_t{640} << 20;
  options.disk.al_extents = 67;
  Up(options);
  peer->Send(kData, PacketType::kDagtag, wire::kNoVolume, wire::Dagtag{0});
  uint64_t extent = (4 << 20) / 512;
  for (uint64_t i = 0; i < 100; ++i) {
    peer->Write(i * extent, 4096, 1);
    peer->Send(kData, PacketType::kBarrier, wire::kNoVolume,
               wire::Barrier{static_cast<uint32_t>(i)});
  }
  peer->bench->RunFor(5s);
  size_t acks = peer->CountReceived(kControl, PacketType::kWriteAck);
  EXPECT_EQ(acks, 67u) << "al-extents";
  EXPECT_EQ(peer->state(), ConnectionState::kConnected);
  // One peer ack for half of them, and it goes on.
  peer->Send(kControl, PacketType::kPeerAck, wire::kNoVolume, wire::PeerAck{3, 8 * 50});
  ASSERT_TRUE(peer->world().RunUntil(
      [&] { return peer->CountReceived(kControl, PacketType::kWriteAck) == 100; }, 20s));
}

TEST_F(ScriptedPrimary, AFloodOfReadsIsBounded) {
  Up(Options());
  size_t most = 0;
  peer->set_reading(false);
  for (int i = 0; i < 4000; ++i) {
    peer->Send(kData, PacketType::kDataRequest, 0,
               wire::BlockRequest{static_cast<uint64_t>(i % 16) * 256, 1, 1 << 17});
  }
  for (int i = 0; i < 100; ++i) {
    peer->bench->RunFor(10ms);
    most = std::max(most, peer->bench->node(0).reactor()->buffers().bytes_out());
  }
  EXPECT_LE(most, size_t{64} << 20);
  EXPECT_EQ(peer->state(), ConnectionState::kConnected);
  peer->Hangup();
  peer->bench->RunFor(2s);
  EXPECT_EQ(peer->bench->node(0).reactor()->buffers().bytes_out(), 0u);
  peer->persona.role = Role::kSecondary;
  peer->ExpectUsable();
}

TEST_F(ScriptedPrimary, AFloodOfResyncRequestsIsBounded) {
  Up(Options());
  peer->set_reading(false);
  for (int i = 0; i < 4000; ++i) {
    peer->Send(kData, PacketType::kRsDagtagReq, 0,
               wire::DagtagRequest{static_cast<uint64_t>(i % 16) * 256,
                                   static_cast<uint64_t>(i + 1), 1 << 17, 0, 0});
  }
  size_t most = 0;
  for (int i = 0; i < 100; ++i) {
    peer->bench->RunFor(10ms);
    most = std::max(most, peer->bench->node(0).reactor()->buffers().bytes_out());
  }
  EXPECT_LE(most, size_t{64} << 20);
  peer->Hangup();
  peer->bench->RunFor(2s);
  EXPECT_EQ(peer->bench->node(0).reactor()->buffers().bytes_out(), 0u);
  peer->persona.role = Role::kSecondary;
  peer->ExpectUsable();
}

TEST_F(ScriptedPrimary, AnOutOfSyncNoteIsKept) {
  Up(Options());
  peer->Send(kData, PacketType::kOutOfSync, 0, wire::BlockDescription{16, 8192});
  ASSERT_TRUE(peer->world().RunUntil([&] { return peer->bench->out_of_sync(0, 1) == 8192; }, 5s));
  peer->bench->RunFor(5s);
  EXPECT_EQ(peer->bench->out_of_sync(0, 1), 8192u) << "INV-26";
}

// --- resync
// -------------------------------------------------------------------------------------

// The peer has newer data: this node becomes the target and the peer answers.
class ScriptedSource : public ::testing::Test {
 protected:
  void Up(uint64_t bits = 64) {
    peer.emplace(Options());
    peer->persona.bitmap_uuid = peer->CurrentUuid();
    peer->persona.current_uuid = 0x1122334455667788;
    peer->persona.dirty_bits = bits;
    peer->StartResource();
    ASSERT_TRUE(peer->Dial());
    ASSERT_TRUE(peer->Negotiate());
    auto prepare = peer->Wait(kData, PacketType::kTwopcPrepare);
    ASSERT_TRUE(prepare);
    peer->SendStates();
    ASSERT_TRUE(peer->Wait(kData, PacketType::kState));
    peer->Vote(PacketType::kTwopcYes, ScriptedPeer::Request(*prepare));
    ASSERT_TRUE(peer->Wait(kData, PacketType::kTwopcCommit)) << peer->last_error();
    peer->SendState(0, ReplicationState::kWFBitMapS);
    ASSERT_TRUE(
        peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kWFBitMapT; }, 10s))
        << ReplicationStateName(peer->repl());
  }
  uint64_t words() { return (peer->bench->volume_status(0).size_bytes / 4096 + 63) / 64; }
  void SendBitmap(uint64_t bits) {
    std::vector<std::byte> raw = ScriptedPeer::Claimed(
        PacketType::kBitmap, 0, static_cast<uint32_t>(words() * 8), words() * 8);
    for (uint64_t bit = 0; bit < bits; ++bit) {
      raw[16 + bit / 8] |= static_cast<std::byte>(1 << (bit % 8));
    }
    peer->SendRaw(kData, raw);
    peer->SendRaw(kData, ScriptedPeer::Claimed(PacketType::kBitmap, 0, 0, 0));  // the end of it
  }
  // The next request of this node.
  std::optional<wire::DagtagRequest> Request() {
    auto request = peer->Wait(kData, PacketType::kRsDagtagReq);
    if (!request) return std::nullopt;
    return request->As<wire::DagtagRequest>();
  }
  void Reply(const wire::DagtagRequest& request, uint8_t fill) {
    std::vector<std::byte> data(request.blksize, static_cast<std::byte>(fill));
    peer->Send(kData, PacketType::kRsDataReply, 0,
               wire::DataHead{request.sector, request.block_id, 0, 0}, data);
  }
  void Begin(uint64_t bits = 64) {
    Up(bits);
    SendBitmap(bits);
    peer->SendState(0, ReplicationState::kSyncSource);
    ASSERT_TRUE(
        peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kSyncTarget; }, 10s))
        << peer->last_error();
  }
  std::optional<ScriptedPeer> peer;
};

TEST_F(ScriptedSource, ARightOneBringsThisNodeUpToDate) {
  Begin(16);
  uint64_t left = 16 * 8;
  while (left > 0) {
    auto request = Request();
    ASSERT_TRUE(request) << peer->last_error();
    Reply(*request, 0x3c);
    auto ack = peer->Wait(kControl, PacketType::kRsWriteAck);
    ASSERT_TRUE(ack);
    EXPECT_EQ(ack->As<wire::BlockAck>().sector, request->sector);
    left -= request->blksize / 512;
  }
  ASSERT_TRUE(
      peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kEstablished; }, 10s))
      << peer->last_error();
  EXPECT_EQ(peer->bench->disk_state(0), DiskState::kUpToDate);
  EXPECT_TRUE(peer->bench->NowIs(0, 0, 16 * 4096, 0x3c));
}

// The front waits while bitmaps are exchanged: a source that answers pings and sends none is given
// up.
TEST_F(ScriptedSource, ABitmapThatDoesNotComeIsNotWaitedForForEver) {
  Up();
  ASSERT_TRUE(peer->WaitClosed(60s)) << "timeout times ko-count";
  EXPECT_NE(peer->last_error().find("no bitmap"), std::string::npos) << peer->last_error();
  peer->ExpectUsable();
}

TEST_F(ScriptedSource, BitmapsThatDoNotFit) {
  struct {
    const char* what;
    PacketType type;
    uint32_t length;
  } cases[] = {{"too long", PacketType::kBitmap, 0},
               {"an empty packet before the end", PacketType::kBitmap, 1},
               {"no code at all", PacketType::kCompressedBitmap, 1},
               {"junk code", PacketType::kCompressedBitmap, 64}};
  for (auto [what, type, length] : cases) {
    SCOPED_TRACE(what);
    Up();
    if (length == 0) {
      SendBitmap(1);
      SendBitmap(1);
    } else if (length == 1 && type == PacketType::kBitmap) {
      peer->SendRaw(kData, ScriptedPeer::Claimed(type, 0, 0, 0));
      peer->bench->RunFor(1s);
      if (!peer->closed()) {
        peer.reset();
        continue;
      }
    } else {
      std::vector<std::byte> raw = ScriptedPeer::Claimed(type, 0, length, length);
      for (size_t i = 16; i < raw.size(); ++i) raw[i] = std::byte{0xff};
      peer->SendRaw(kData, raw);
    }
    ASSERT_TRUE(peer->WaitClosed()) << "the link stays up";
    peer->bench->RunFor(300ms);
    EXPECT_NE(peer->state(), ConnectionState::kStandAlone) << peer->last_error();
    peer.reset();
  }
}

TEST_F(ScriptedSource, ABitmapThatNeverComesLeavesTheNodeUsable) {
  Up();
  peer->bench->RunFor(60s);
  EXPECT_TRUE(peer->bench->Await(0, peer->resource().Disconnect(1, true)));
  EXPECT_EQ(peer->state(), ConnectionState::kStandAlone);
}

TEST_F(ScriptedSource, RepliesThatFitNoRequest) {
  struct {
    const char* what;
    std::function<void(wire::DagtagRequest&)> change;
  } cases[] = {{"another sector", [](wire::DagtagRequest& r) { r.sector += 8; }},
               {"another size", [](wire::DagtagRequest& r) { r.blksize += 4096; }},
               {"another id", [](wire::DagtagRequest& r) { r.block_id ^= 0xff00; }}};
  for (auto& each : cases) {
    SCOPED_TRACE(each.what);
    Begin();
    auto request = Request();
    ASSERT_TRUE(request);
    each.change(*request);
    Reply(*request, 0x3c);
    ASSERT_TRUE(peer->WaitClosed());
    peer->bench->RunFor(300ms);
    EXPECT_NE(peer->last_error().find("answers no request"), std::string::npos)
        << peer->last_error();
    EXPECT_TRUE(peer->bench->NowIs(0, 0, 64 * 4096, 0));
    peer.reset();
  }
}

TEST_F(ScriptedSource, AReplyIsTakenOnce) {
  Begin();
  auto request = Request();
  ASSERT_TRUE(request);
  Reply(*request, 0x3c);
  ASSERT_TRUE(peer->Wait(kControl, PacketType::kRsWriteAck));
  Reply(*request, 0x4d);
  ASSERT_TRUE(peer->WaitClosed());
  EXPECT_FALSE(peer->bench->NowIs(0, request->sector * 512, 4096, 0x4d));
}

TEST_F(ScriptedSource, ASourceThatCannotReadLeavesTheBit) {
  Begin(8);
  uint64_t left = 8 * 8;
  while (left > 0) {
    auto request = Request();
    ASSERT_TRUE(request) << peer->last_error();
    peer->Ack(PacketType::kNegRsDreply, request->sector, request->block_id, request->blksize);
    left -= std::min<uint64_t>(left, request->blksize / 512);
  }
  peer->bench->RunFor(2s);
  EXPECT_EQ(peer->bench->out_of_sync(0, 1), 8 * 4096u);
  EXPECT_EQ(peer->state(), ConnectionState::kConnected);
  EXPECT_NE(peer->bench->disk_state(0), DiskState::kUpToDate);
}

TEST_F(ScriptedSource, ACancelledBlockIsAskedForAgain) {
  Begin(1);
  auto request = Request();
  ASSERT_TRUE(request);
  peer->Ack(PacketType::kRsCancel, request->sector, request->block_id, request->blksize);
  auto again = Request();
  ASSERT_TRUE(again);
  EXPECT_EQ(again->sector, request->sector);
  Reply(*again, 0x3c);
  ASSERT_TRUE(
      peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kEstablished; }, 10s));
}

TEST_F(ScriptedSource, ALinkThatDiesInTheMiddleGoesOnByBitmap) {
  Begin(64);
  auto request = Request();
  ASSERT_TRUE(request);
  Reply(*request, 0x3c);
  ASSERT_TRUE(peer->Wait(kControl, PacketType::kRsWriteAck));
  uint64_t left = peer->bench->out_of_sync(0, 1);
  peer->Hangup();
  peer->bench->RunFor(2s);
  EXPECT_EQ(peer->bench->disk_state(0), DiskState::kInconsistent);
  EXPECT_EQ(peer->bench->out_of_sync(0, 1), left);
}

// K75: the note says the block has changed since the data was read; whichever comes first, the bit
// is set in the end.
TEST_F(ScriptedSource, K75AnOutOfSyncNoteDuringTheResyncIsFetchedAgain) {
  Begin(1);
  auto request = Request();
  ASSERT_TRUE(request);
  Reply(*request, 0x3c);
  peer->Send(kData, PacketType::kOutOfSync, 0, wire::BlockDescription{0, 4096});
  ASSERT_TRUE(peer->Wait(kControl, PacketType::kRsWriteAck));
  auto again = Request();
  ASSERT_TRUE(again) << "INV-26";
  Reply(*again, 0x4d);
  ASSERT_TRUE(
      peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kEstablished; }, 10s));
  EXPECT_TRUE(peer->bench->NowIs(0, 0, 4096, 0x4d));
}

// The peer is Primary and congested (drbd-io-path.md F.6): from Ahead on it sends no data, only
// what is out of sync, and later becomes the source of a resync of just that.
class ScriptedAhead : public ScriptedSource {
 protected:
  void Congest() {
    peer.emplace(Options());
    peer->persona.role = Role::kPrimary;
    peer->StartResource();
    ASSERT_TRUE(peer->Establish()) << peer->last_error();
    ASSERT_EQ(peer->repl(), ReplicationState::kEstablished);
    peer->SendState(0, ReplicationState::kAhead);
    ASSERT_TRUE(
        peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kBehind; }, 5s));
    // The generation that begins there is not this node's.
    before_ = peer->bench->volume_status(0).current_uuid;
    peer->persona.bitmap_uuid = peer->CurrentUuid();
    peer->persona.current_uuid = 0x1122334455667789;
    peer->SendUuids(0, wire::kUuidFlagNewDatagen);
    peer->Send(kData, PacketType::kOutOfSync, 0, wire::BlockDescription{80, 8192});
    ASSERT_TRUE(peer->world().RunUntil([&] { return peer->bench->out_of_sync(0, 1) == 8192; }, 5s));
  }
  // The next state of this node that is in `repl`.
  std::optional<wire::StateWord> StateIn(ReplicationState repl) {
    while (auto packet = peer->Wait(kData, PacketType::kState, 5s)) {
      auto word = wire::DecodeStateWord(packet->As<wire::State>().word);
      if (word && word->replication == repl) return *word;
    }
    return std::nullopt;
  }
  std::string before_;
};

TEST_F(ScriptedAhead, ThisNodeIsOutdatedMeanwhile) {
  Congest();
  auto behind = StateIn(ReplicationState::kBehind);
  ASSERT_TRUE(behind);
  EXPECT_EQ(behind->disk, DiskState::kOutdated);
  EXPECT_EQ(peer->bench->disk_state(0), DiskState::kOutdated);
  EXPECT_EQ(peer->bench->volume_status(0).current_uuid, before_);
  // Nothing is asked for before the peer is ready.
  peer->bench->RunFor(3s);
  EXPECT_EQ(peer->CountReceived(kData, PacketType::kRsDagtagReq), 0u);
  peer->Hangup();
  peer->bench->RunFor(2s);
  EXPECT_EQ(peer->bench->disk_state(0), DiskState::kOutdated);
  EXPECT_EQ(peer->bench->out_of_sync(0, 1), 8192u);
}

TEST_F(ScriptedAhead, WhatIsOutOfSyncIsFetchedWithoutABitmap) {
  Congest();
  // Kernels say it twice.
  peer->SendState(0, ReplicationState::kSyncSource);
  peer->SendState(0, ReplicationState::kSyncSource);
  auto behind = StateIn(ReplicationState::kBehind);
  ASSERT_TRUE(behind);
  auto target = StateIn(ReplicationState::kSyncTarget);
  ASSERT_TRUE(target);
  EXPECT_EQ(target->disk, DiskState::kInconsistent);
  uint64_t left = 16;
  while (left > 0) {
    auto request = Request();
    ASSERT_TRUE(request) << peer->last_error();
    EXPECT_GE(request->sector, 80u);
    Reply(*request, 0x3c);
    left -= std::min<uint64_t>(left, request->blksize / 512);
  }
  ASSERT_TRUE(
      peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kEstablished; }, 10s))
      << peer->last_error();
  EXPECT_EQ(peer->bench->disk_state(0), DiskState::kUpToDate);
  EXPECT_EQ(peer->bench->out_of_sync(0, 1), 0u);
  EXPECT_TRUE(peer->bench->NowIs(0, 80 * 512, 8192, 0x3c));
  EXPECT_EQ(peer->bench->volume_status(0).current_uuid.substr(0, 15), "112233445566778");
}

// It may happen again before the resync is through.
TEST_F(ScriptedAhead, ATargetFallsBehindAndGoesOn) {
  Congest();
  for (int round = 0; round < 3; ++round) {
    peer->SendState(0, ReplicationState::kSyncSource);
    ASSERT_TRUE(
        peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kSyncTarget; }, 5s));
    auto request = Request();
    ASSERT_TRUE(request);
    peer->Ack(PacketType::kRsCancelAhead, request->sector, request->block_id, request->blksize);
    peer->SendState(0, ReplicationState::kAhead);
    ASSERT_TRUE(
        peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kBehind; }, 5s));
    EXPECT_EQ(peer->bench->disk_state(0), DiskState::kInconsistent);
    peer->bench->RunFor(500ms);
    EXPECT_EQ(peer->CountReceived(kData, PacketType::kRsDagtagReq), 0u) << "asked again too early";
    peer->Send(kData, PacketType::kOutOfSync, 0, wire::BlockDescription{80, 8192});
    peer->bench->RunFor(500ms);
  }
  peer->SendState(0, ReplicationState::kSyncSource);
  uint64_t left = 16;
  while (left > 0) {
    auto request = Request();
    ASSERT_TRUE(request) << peer->last_error();
    Reply(*request, 0x3c);
    left -= std::min<uint64_t>(left, request->blksize / 512);
  }
  ASSERT_TRUE(
      peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kEstablished; }, 10s))
      << peer->last_error();
  EXPECT_EQ(peer->bench->disk_state(0), DiskState::kUpToDate);
}

// This node is the source; the peer acks what it was never sent.
TEST(ScriptedTarget, AnAckForWhatWasNotSentClearsNothing) {
  ScriptedPeer peer(Options());
  peer.StartResource();
  ASSERT_TRUE(peer.Establish());
  peer.Send(kData, PacketType::kOutOfSync, 0, wire::BlockDescription{0, 8192});
  ASSERT_TRUE(peer.world().RunUntil([&] { return peer.bench->out_of_sync(0, 1) == 8192; }, 5s));
  peer.bench->disk(0).SetHang(true);
  peer.Send(kData, PacketType::kRsDagtagReq, 0, wire::DagtagRequest{0, 77, 4096, 0, 0});
  peer.bench->RunFor(100ms);
  peer.Ack(PacketType::kRsWriteAck, 0, 77, 4096);
  peer.Ack(PacketType::kRsWriteAck, 8, 78, 4096);
  peer.bench->RunFor(100ms);
  EXPECT_EQ(peer.bench->out_of_sync(0, 1), 8192u) << "INV-4";
  peer.bench->disk(0).SetHang(false);
  ASSERT_TRUE(peer.Wait(kData, PacketType::kRsDataReply));
  peer.Ack(PacketType::kRsWriteAck, 0, 77, 4096);
  ASSERT_TRUE(peer.world().RunUntil([&] { return peer.bench->out_of_sync(0, 1) == 4096; }, 5s));
}

// --- two-phase commit
// -----------------------------------------------------------------------------

class ScriptedTransactions : public ::testing::Test {
 protected:
  void Up() {
    peer.emplace(Options());
    peer->StartResource();
    ASSERT_TRUE(peer->Establish()) << peer->last_error();
  }
  PacketType NextVote() {
    PacketType result = PacketType::kPing;
    peer->world().RunUntil(
        [&] {
          for (PacketType type :
               {PacketType::kTwopcYes, PacketType::kTwopcNo, PacketType::kTwopcRetry}) {
            if (peer->CountReceived(kControl, type) == 0) continue;
            result = type;
            return true;
          }
          return peer->closed();
        },
        15s);
    if (result != PacketType::kPing) (void)peer->Wait(kControl, result, 1s);
    return result;
  }
  Role peer_role() { return peer->bench->status(0).connections.at(0).peer_role; }
  std::optional<ScriptedPeer> peer;
};

TEST_F(ScriptedTransactions, APromotionIsVotedAndCommitted) {
  Up();
  Proposal promote = ProposePromote(false);
  peer->SendTransaction(PacketType::kTwopcPrepare, promote, 100);
  EXPECT_EQ(NextVote(), PacketType::kTwopcYes);
  EXPECT_EQ(peer_role(), Role::kSecondary) << "not before the commit";
  peer->SendTransaction(PacketType::kTwopcCommit, promote, 100);
  ASSERT_TRUE(peer->world().RunUntil([&] { return peer_role() == Role::kPrimary; }, 5s));
}

TEST_F(ScriptedTransactions, ADuplicatePrepareIsAnsweredLikeTheFirst) {
  Up();
  Proposal promote = ProposePromote(false);
  peer->SendTransaction(PacketType::kTwopcPrepare, promote, 100);
  EXPECT_EQ(NextVote(), PacketType::kTwopcYes);
  peer->SendTransaction(PacketType::kTwopcPrepare, promote, 100);
  peer->bench->RunFor(2s);
  EXPECT_EQ(peer->CountReceived(kControl, PacketType::kTwopcNo), 0u);
  EXPECT_EQ(peer->state(), ConnectionState::kConnected) << peer->last_error();
  peer->SendTransaction(PacketType::kTwopcCommit, promote, 100);
  ASSERT_TRUE(peer->world().RunUntil([&] { return peer_role() == Role::kPrimary; }, 5s));
}

TEST_F(ScriptedTransactions, AnAbortUndoesAndALateCommitIsIgnored) {
  Up();
  Proposal promote = ProposePromote(false);
  peer->SendTransaction(PacketType::kTwopcPrepare, promote, 100);
  EXPECT_EQ(NextVote(), PacketType::kTwopcYes);
  peer->SendTransaction(PacketType::kTwopcAbort, promote, 100);
  peer->SendTransaction(PacketType::kTwopcCommit, promote, 100);
  peer->bench->RunFor(2s);
  EXPECT_EQ(peer_role(), Role::kSecondary);
  EXPECT_EQ(peer->state(), ConnectionState::kConnected) << peer->last_error();
  // Free for another one.
  peer->SendTransaction(PacketType::kTwopcPrepare, promote, 101);
  EXPECT_EQ(NextVote(), PacketType::kTwopcYes);
}

TEST_F(ScriptedTransactions, ACommitWithoutAPrepareIsIgnored) {
  Up();
  peer->SendTransaction(PacketType::kTwopcCommit, ProposePromote(false), 55);
  peer->SendTransaction(PacketType::kTwopcAbort, ProposePromote(false), 56);
  peer->bench->RunFor(2s);
  EXPECT_EQ(peer_role(), Role::kSecondary);
  EXPECT_EQ(peer->state(), ConnectionState::kConnected);
}

TEST_F(ScriptedTransactions, AnInitiatorThatGoesQuietIsTimedOut) {
  Up();
  peer->SendTransaction(PacketType::kTwopcPrepare, ProposePromote(false), 100);
  EXPECT_EQ(NextVote(), PacketType::kTwopcYes);
  peer->bench->RunFor(60s);  // twopc-timeout
  peer->SendTransaction(PacketType::kTwopcCommit, ProposePromote(false), 100);
  peer->bench->RunFor(1s);
  EXPECT_EQ(peer_role(), Role::kSecondary) << "a commit after the timeout";
  // And this node can act again.
  auto promoted = peer->bench->Start(0, peer->resource().Promote(false));
  auto prepare = peer->Wait(kData, PacketType::kTwopcPrepare, 40s);
  ASSERT_TRUE(prepare);
  peer->Vote(PacketType::kTwopcYes, ScriptedPeer::Request(*prepare));
  ASSERT_TRUE(peer->world().RunUntil([&] { return promoted->has_value(); }, 40s));
  EXPECT_TRUE(**promoted) << Text(**promoted);
}

TEST_F(ScriptedTransactions, LossBetweenYesAndCommitChangesNothing) {
  Up();
  peer->SendTransaction(PacketType::kTwopcPrepare, ProposePromote(false), 100);
  EXPECT_EQ(NextVote(), PacketType::kTwopcYes);
  peer->Hangup();
  peer->bench->RunFor(2s);
  EXPECT_NE(peer->state(), ConnectionState::kConnected);
  EXPECT_EQ(peer->bench->disk_state(0), DiskState::kUpToDate);
  peer->ExpectUsable();
  EXPECT_EQ(peer_role(), Role::kSecondary);
}

TEST_F(ScriptedTransactions, WhileOneIsUnderWayAnotherIsPutOffOrRefused) {
  Up();
  peer->SendTransaction(PacketType::kTwopcPrepare, ProposePromote(false), 100);
  EXPECT_EQ(NextVote(), PacketType::kTwopcYes);
  // The node's own act waits for the end of it.
  auto promoted = peer->bench->Start(0, peer->resource().Promote(false));
  peer->bench->RunFor(1s);
  EXPECT_FALSE(promoted->has_value());
  EXPECT_EQ(peer->bench->status(0).role, Role::kSecondary);
  peer->SendTransaction(PacketType::kTwopcCommit, ProposePromote(false), 100);
  ASSERT_TRUE(peer->world().RunUntil([&] { return promoted->has_value(); }, 90s));
  EXPECT_FALSE(**promoted) << "a second Primary";
}

// Between YES and the end nothing may make the YES untrue (4.10, 13.4). Here a Secondary cannot be
// opened at all, so an open has nothing to wait for.
TEST_F(ScriptedTransactions, AnOpenDuringAPrepareIsRefusedAndTheYesHolds) {
  Up();
  peer->SendTransaction(PacketType::kTwopcPrepare, ProposePromote(false), 100);
  EXPECT_EQ(NextVote(), PacketType::kTwopcYes);
  BlockDevice& volume = peer->bench->volume(0);
  for (bool write : {false, true}) {
    Result<OpenerId> opened = volume.Open({.description = "test", .write = write});
    ASSERT_FALSE(opened);
    EXPECT_NE(opened.error().message().find("promote it first"), std::string::npos)
        << opened.error().message();
  }
  peer->SendTransaction(PacketType::kTwopcCommit, ProposePromote(false), 100);
  ASSERT_TRUE(peer->world().RunUntil([&] { return peer_role() == Role::kPrimary; }, 10s));
  EXPECT_FALSE(volume.Open({.description = "test", .write = true}));
}

TEST_F(ScriptedTransactions, CompetingInitiatorsTheLowerNodeGoesFirst) {
  Up();
  auto promoted = peer->bench->Start(0, peer->resource().Promote(false));
  auto prepare = peer->Wait(kData, PacketType::kTwopcPrepare);
  ASSERT_TRUE(prepare);
  // Instead of a vote: the same from here.
  peer->SendTransaction(PacketType::kTwopcPrepare, ProposePromote(false), 100);
  EXPECT_EQ(NextVote(), PacketType::kTwopcRetry) << "node 0 goes first";
  peer->Vote(PacketType::kTwopcYes, ScriptedPeer::Request(*prepare));
  ASSERT_TRUE(peer->world().RunUntil([&] { return promoted->has_value(); }, 40s));
  EXPECT_TRUE(**promoted) << Text(**promoted);
  EXPECT_EQ(peer_role(), Role::kSecondary);
}

TEST_F(ScriptedTransactions, APeerThatDoesNotVoteMakesAPromotionFailAndNotHang) {
  Up();
  auto promoted = peer->bench->Start(0, peer->resource().Promote(false));
  ASSERT_TRUE(peer->Wait(kData, PacketType::kTwopcPrepare));
  ASSERT_TRUE(peer->world().RunUntil([&] { return promoted->has_value(); }, 1200s));
  EXPECT_FALSE(**promoted);
  EXPECT_EQ(peer->bench->status(0).role, Role::kSecondary);
}

TEST_F(ScriptedTransactions, AProposalInTheNameOfAnotherNodeIsNotFollowed) {
  for (int initiator : {0, 7, 31}) {
    SCOPED_TRACE(initiator);
    Up();
    for (const Proposal& proposal : {ProposeDisconnect(0, OutdateOnDisconnect::kPeer),
                                     ProposePromote(false), ProposeConnect(0, Role::kPrimary),
                                     ProposeResync(0, 0, ReplicationState::kStartingSyncS)}) {
      peer->SendTransaction(PacketType::kTwopcPrepare, proposal, 100, initiator);
      peer->bench->RunFor(500ms);
      peer->SendTransaction(PacketType::kTwopcCommit, proposal, 100, initiator);
      peer->bench->RunFor(500ms);
      peer->SendTransaction(PacketType::kTwopcAbort, proposal, 100, initiator);
      peer->bench->RunFor(100ms);
    }
    EXPECT_EQ(peer->bench->disk_state(0), DiskState::kUpToDate);
    EXPECT_EQ(peer->bench->status(0).role, Role::kSecondary);
    peer->ExpectUsable();
    peer.reset();
  }
}

TEST_F(ScriptedTransactions, AResizeIsNotSupportedAndSaysNo) {
  Up();
  wire::TwoPcRequest request;
  request.tid = 9;
  request.flags = wire::kTwoPcHasFlags;
  request.initiator_node_id = 1;
  request.nodes_to_reach = 1;
  request.SetResize(1000, 0);
  std::vector<std::byte> raw(wire::kMaxHeaderSize + wire::TwoPcRequest::kSize);
  wire::EncodeHeader(
      {.type = PacketType::kTwopcPrepRsz, .volume = 0, .length = wire::TwoPcRequest::kSize}, raw);
  wire::Encode(request, wire::TwoPcLayout::kV2, MutableBytes(raw).subspan(wire::kMaxHeaderSize));
  peer->SendRaw(kData, raw);
  EXPECT_EQ(NextVote(), PacketType::kTwopcNo);
  EXPECT_EQ(peer->state(), ConnectionState::kConnected);
}

}  // namespace
}  // namespace umblock::drbd
