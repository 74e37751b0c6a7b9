// Online verify with a scripted peer, in both roles and with both forms of its packets
// (drbd-wire.md 5.13), and with the mistakes that a peer can make.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/scripted_fixture.h"
#include "engine/drbd/state/proposal.h"
#include "engine/drbd/wire/digest.h"

namespace umblock::drbd {
namespace {

using testing::ClusterOptions;
using testing::kControl;
using testing::kData;
using testing::PacketType;
using testing::ScriptedOptions;
using testing::ScriptedPeer;
using testing::Text;

std::vector<std::byte> DigestOf(size_t bytes, uint8_t fill) {
  std::vector<std::byte> data(bytes, static_cast<std::byte>(fill));
  wire::Digest digest = std::move(*wire::Digest::Create("sha1"));
  std::vector<std::byte> result(digest.size());
  digest.Update(Bytes(data));
  digest.Finish(result);
  return result;
}

class ScriptedVerify : public ::testing::Test {
 protected:
  void Up(bool with_algorithm = true, bool old = false) {
    ClusterOptions options = ScriptedOptions();
    if (with_algorithm) options.net.verify_alg = "sha1";
    peer.emplace(options);
    if (old) {
      peer->persona.protocol_max = 121;
      peer->persona.features &= ~wire::kFeatureResyncDagtag;
    }
    peer->StartResource();
    ASSERT_TRUE(peer->Establish()) << peer->last_error();
  }
  uint64_t size() { return peer->bench->volume_status(0).size_bytes; }
  VerifyStatus Found() { return *peer->bench->peer_volume(0).verify; }
  uint64_t out_of_sync() { return peer->bench->out_of_sync(0, 1); }
  bool In(ReplicationState repl) {
    return peer->world().RunUntil([&] { return peer->repl() == repl; }, 10s);
  }
  void ExpectDropped(std::string_view reason) {
    ASSERT_TRUE(peer->WaitClosed());
    peer->bench->RunFor(300ms);
    EXPECT_NE(peer->last_error().find(reason), std::string::npos) << peer->last_error();
    EXPECT_EQ(out_of_sync(), 0u);
  }

  // --- the peer drives ---
  Proposal FromPeer() {
    Proposal proposal = ProposeVerify(0, 0);
    return proposal;
  }
  void PeerBegins() {
    peer->SendTransaction(PacketType::kTwopcPrepare, FromPeer(), 100);
    ASSERT_TRUE(peer->Wait(kControl, PacketType::kTwopcYes));
    peer->SendTransaction(PacketType::kTwopcCommit, FromPeer(), 100);
    ASSERT_TRUE(In(ReplicationState::kVerifyT));
    peer->SendState(0, ReplicationState::kVerifyS);
  }
  void Ask(uint64_t sector, uint64_t id, uint32_t bytes = 4096) {
    peer->Send(kData, PacketType::kOvDagtagReq, 0, wire::DagtagRequest{sector, id, bytes, 0, 0});
  }
  void Result(uint64_t sector, uint64_t id, wire::VerifyResult result, uint32_t bytes = 4096) {
    peer->Send(kControl, PacketType::kOvResultId, 0,
               wire::OvResultId{sector, id, bytes, 1, result});
  }

  // --- this node drives ---
  void WeBegin(VerifyRequest request = {}) {
    auto started =
        peer->bench->Start(0, peer->resource().StartVerify(0, ScriptedPeer::kNode, request));
    auto prepare = peer->Wait(kData, PacketType::kTwopcPrepare);
    ASSERT_TRUE(prepare);
    EXPECT_EQ(prepare->header.volume, 0);
    wire::TwoPcRequest proposal = ScriptedPeer::Request(*prepare);
    EXPECT_EQ(proposal.mask(), 0x1f0u);
    EXPECT_EQ(proposal.val(), 0x120u);
    peer->Vote(PacketType::kTwopcYes, proposal);
    ASSERT_TRUE(peer->Wait(kData, PacketType::kTwopcCommit));
    auto state = peer->Wait(kData, PacketType::kState);
    ASSERT_TRUE(state);
    EXPECT_EQ(wire::DecodeStateWord(state->As<wire::State>().word)->replication,
              ReplicationState::kVerifyS);
    peer->SendState(0, ReplicationState::kVerifyT);
    ASSERT_TRUE(peer->world().RunUntil([&] { return started->has_value(); }, 5s));
    ASSERT_TRUE(**started) << Text(**started);
  }
  std::optional<wire::DagtagRequest> Asked() {
    auto packet = peer->Wait(kData, PacketType::kOvDagtagReq);
    if (!packet) return std::nullopt;
    return packet->As<wire::DagtagRequest>();
  }
  void Answer(const wire::DagtagRequest& request, uint8_t fill) {
    peer->Send(kData, PacketType::kOvDagtagReply, 0,
               wire::DagtagRequest{request.sector, request.block_id, request.blksize, 0, 0},
               DigestOf(request.blksize, fill));
  }
  std::optional<wire::OvResultId> Heard() {
    auto packet = peer->Wait(kControl, PacketType::kOvResultId);
    if (!packet) return std::nullopt;
    return packet->As<wire::OvResultId>();
  }
  std::optional<ScriptedPeer> peer;
};

TEST_F(ScriptedVerify, APeerIsAnsweredAndItsResultsCount) {
  Up();
  PeerBegins();
  for (uint64_t sector : {0, 8, 16}) {
    Ask(sector, 100 + sector);
    auto answer = peer->Wait(kData, PacketType::kOvDagtagReply);
    ASSERT_TRUE(answer) << peer->last_error();
    auto fixed = answer->As<wire::DagtagRequest>();
    EXPECT_EQ(fixed.sector, sector);
    EXPECT_EQ(fixed.block_id, 100 + sector);
    EXPECT_EQ(fixed.blksize, 4096u);
    std::vector<std::byte> digest(answer->payload.begin() + wire::DagtagRequest::kSize,
                                  answer->payload.end());
    EXPECT_EQ(digest, DigestOf(4096, 0));
  }
  Result(0, 100, wire::VerifyResult::kInSync);
  Result(8, 108, wire::VerifyResult::kOutOfSync);
  Result(16, 116, wire::VerifyResult::kSkipped);
  ASSERT_TRUE(peer->world().RunUntil([&] { return out_of_sync() == 4096; }, 5s));
  peer->bench->RunFor(100ms);
  EXPECT_EQ(Found().compared_bytes, 8192u);
  EXPECT_EQ(Found().different_bytes, 4096u);
  EXPECT_EQ(Found().skipped_bytes, 4096u);
  EXPECT_EQ(Found().first_different, 4096u);
  // A stop sector: the peer says that it is over.
  peer->SendState(0, ReplicationState::kEstablished);
  ASSERT_TRUE(In(ReplicationState::kEstablished));
  EXPECT_FALSE(Found().running);
  EXPECT_EQ(out_of_sync(), 4096u);
}

TEST_F(ScriptedVerify, AtTheEndOfTheDeviceItIsOverWithoutAWord) {
  Up();
  PeerBegins();
  uint64_t last = size() / 512 - 8;
  Ask(last, 7);
  ASSERT_TRUE(peer->Wait(kData, PacketType::kOvDagtagReply));
  Result(last, 7, wire::VerifyResult::kInSync);
  ASSERT_TRUE(In(ReplicationState::kEstablished));
  EXPECT_TRUE(Found().complete);
  EXPECT_EQ(Found().start, last * 512);
}

TEST_F(ScriptedVerify, AResultForWhatWasNotAnsweredMarksNothing) {
  Up();
  PeerBegins();
  Result(0, 100, wire::VerifyResult::kOutOfSync);
  peer->bench->disk(0).SetHang(true);
  Ask(8, 108);
  peer->bench->RunFor(100ms);
  Result(8, 108, wire::VerifyResult::kOutOfSync);
  peer->bench->RunFor(100ms);
  EXPECT_EQ(out_of_sync(), 0u);
  peer->bench->disk(0).SetHang(false);
  ASSERT_TRUE(peer->Wait(kData, PacketType::kOvDagtagReply));
  Result(8, 109, wire::VerifyResult::kOutOfSync);
  Result(8, 108, wire::VerifyResult::kOutOfSync, 8192);
  peer->bench->RunFor(100ms);
  EXPECT_EQ(out_of_sync(), 0u);
  Result(8, 108, wire::VerifyResult::kOutOfSync);
  ASSERT_TRUE(peer->world().RunUntil([&] { return out_of_sync() == 4096; }, 5s));
}

TEST_F(ScriptedVerify, ABlockUnderWriteIsCancelled) {
  Up();
  PeerBegins();
  peer->bench->disk(0).SetHang(true);
  peer->Write(0, 4096, 0x31);
  peer->bench->RunFor(100ms);
  Ask(0, 100);
  auto cancel = peer->Wait(kControl, PacketType::kRsCancel);
  ASSERT_TRUE(cancel);
  EXPECT_EQ(cancel->As<wire::BlockAck>().block_id, 100u);
  EXPECT_EQ(Found().skipped_bytes, 4096u);
  // So is one that is written while it is read.
  Ask(64, 164);
  peer->bench->RunFor(50ms);
  peer->Write(64, 4096, 0x32);
  peer->bench->RunFor(50ms);
  peer->bench->disk(0).SetHang(false);
  cancel = peer->Wait(kControl, PacketType::kRsCancel);
  ASSERT_TRUE(cancel);
  EXPECT_EQ(cancel->As<wire::BlockAck>().block_id, 164u);
}

TEST_F(ScriptedVerify, WhatCannotBeReadHasADigestOfZeroes) {
  ClusterOptions options = ScriptedOptions();
  options.net.verify_alg = "sha1";
  options.disk.on_io_error = OnIoError::kPassOn;
  peer.emplace(options);
  peer->StartResource();
  ASSERT_TRUE(peer->Establish());
  PeerBegins();
  peer->bench->disk(0).AddBadRange(0, 4096, EIO);
  Ask(0, 100);
  auto answer = peer->Wait(kData, PacketType::kOvDagtagReply);
  ASSERT_TRUE(answer);
  std::vector<std::byte> digest(answer->payload.begin() + wire::DagtagRequest::kSize,
                                answer->payload.end());
  EXPECT_EQ(digest, std::vector<std::byte>(20));
}

TEST_F(ScriptedVerify, APeersRequestWaitsForTheWritesItHasSeen) {
  Up();
  peer->persona.role = Role::kPrimary;
  peer->SendState(0, ReplicationState::kEstablished);
  peer->Send(kData, PacketType::kDagtag, wire::kNoVolume, wire::Dagtag{800});
  PeerBegins();
  peer->Send(kData, PacketType::kOvDagtagReq, 0,
             wire::DagtagRequest{0, 100, 4096, ScriptedPeer::kNode, 808});
  peer->bench->RunFor(500ms);
  EXPECT_EQ(peer->CountReceived(kData, PacketType::kOvDagtagReply), 0u);
  peer->Write(64, 4096, 0x31);
  ASSERT_TRUE(peer->Wait(kData, PacketType::kOvDagtagReply));
}

TEST_F(ScriptedVerify, WithoutAnAlgorithmTheProposalIsRefused) {
  Up(false);
  peer->SendTransaction(PacketType::kTwopcPrepare, FromPeer(), 100);
  EXPECT_TRUE(peer->Wait(kControl, PacketType::kTwopcNo));
  EXPECT_EQ(peer->repl(), ReplicationState::kEstablished);
}

TEST_F(ScriptedVerify, RequestsOutsideTheDeviceEndTheLink) {
  Up();
  PeerBegins();
  Ask(size() / 512, 100);
  ExpectDropped("P_OV_DAGTAG_REQ");
}

TEST_F(ScriptedVerify, WhatDiffersHereIsToldAndSet) {
  Up();
  WeBegin({.start = 0, .stop = 16384});
  std::vector<wire::DagtagRequest> asked;
  for (int i = 0; i < 4; ++i) {
    auto request = Asked();
    ASSERT_TRUE(request) << peer->last_error();
    EXPECT_EQ(request->sector, static_cast<uint64_t>(8 * i));
    EXPECT_EQ(request->blksize, 4096u);
    asked.push_back(*request);
  }
  Answer(asked[0], 0);
  auto result = Heard();
  ASSERT_TRUE(result);
  EXPECT_EQ(result->block_id, asked[0].block_id);
  EXPECT_EQ(result->result, wire::VerifyResult::kInSync);
  Answer(asked[1], 1);
  result = Heard();
  ASSERT_TRUE(result);
  EXPECT_EQ(result->result, wire::VerifyResult::kOutOfSync);
  EXPECT_EQ(out_of_sync(), 4096u);
  peer->Ack(PacketType::kRsCancel, asked[2].sector, asked[2].block_id, asked[2].blksize);
  peer->Ack(PacketType::kNegRsDreply, asked[3].sector, asked[3].block_id, asked[3].blksize);
  auto state = peer->Wait(kData, PacketType::kState);
  ASSERT_TRUE(state);
  EXPECT_EQ(wire::DecodeStateWord(state->As<wire::State>().word)->replication,
            ReplicationState::kEstablished)
      << "the stop sector is announced";
  EXPECT_EQ(Found().compared_bytes, 8192u);
  EXPECT_EQ(Found().skipped_bytes, 8192u);
  EXPECT_TRUE(Found().complete);
}

TEST_F(ScriptedVerify, ProtocolsBelow122FindBlocksByTheirSector) {
  Up(true, true);
  WeBegin({.start = 0, .stop = 8192});
  for (uint64_t sector : {0, 8}) {
    auto packet = peer->Wait(kData, PacketType::kOvRequest);
    ASSERT_TRUE(packet) << peer->last_error();
    EXPECT_EQ(packet->As<wire::BlockRequest>().sector, sector);
    EXPECT_EQ(packet->As<wire::BlockRequest>().block_id, wire::kIdSyncer);
  }
  for (uint64_t sector : {8, 0}) {
    peer->Send(kData, PacketType::kOvReply, 0, wire::BlockRequest{sector, wire::kIdSyncer, 4096},
               DigestOf(4096, sector == 0 ? 0 : 1));
    auto packet = peer->Wait(kControl, PacketType::kOvResult);
    ASSERT_TRUE(packet);
    EXPECT_EQ(packet->As<wire::BlockAck>().sector, sector);
    EXPECT_EQ(packet->As<wire::BlockAck>().ov_result(),
              sector == 0 ? wire::kOvResultInSync : wire::kOvResultOutOfSync);
  }
  ASSERT_TRUE(In(ReplicationState::kEstablished));
  // The other way round.
  PeerBegins();
  peer->Send(kData, PacketType::kOvRequest, 0, wire::BlockRequest{64, wire::kIdSyncer, 4096});
  auto answer = peer->Wait(kData, PacketType::kOvReply);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->As<wire::BlockRequest>().block_id, wire::kIdSyncer);
  wire::BlockAck result{64, 0, 4096, 1};
  result.set_ov_result(wire::kOvResultOutOfSync);
  peer->Send(kControl, PacketType::kOvResult, 0, result);
  ASSERT_TRUE(peer->world().RunUntil([&] { return out_of_sync() == 8192; }, 5s));
}

TEST_F(ScriptedVerify, AnAnswerThatFitsNoRequestEndsTheLink) {
  Up();
  WeBegin();
  auto request = Asked();
  ASSERT_TRUE(request);
  request->sector += 8 * 100000;
  Answer(*request, 1);
  ExpectDropped("answers no request");
}

TEST_F(ScriptedVerify, AnAnswerIsTakenOnce) {
  Up();
  WeBegin();
  auto request = Asked();
  ASSERT_TRUE(request);
  Answer(*request, 0);
  ASSERT_TRUE(Heard());
  Answer(*request, 1);
  ExpectDropped("answers no request");
}

TEST_F(ScriptedVerify, ADigestOfAnotherSizeEndsTheLink) {
  Up();
  WeBegin();
  auto request = Asked();
  ASSERT_TRUE(request);
  peer->Send(kData, PacketType::kOvDagtagReply, 0, *request, std::vector<std::byte>(4));
  ExpectDropped("verify-alg");
}

TEST_F(ScriptedVerify, APeerThatSaysNoIsNamed) {
  Up();
  auto started = peer->bench->Start(0, peer->resource().StartVerify(0, ScriptedPeer::kNode, {}));
  auto prepare = peer->Wait(kData, PacketType::kTwopcPrepare);
  ASSERT_TRUE(prepare);
  peer->Vote(PacketType::kTwopcNo, ScriptedPeer::Request(*prepare));
  ASSERT_TRUE(peer->world().RunUntil([&] { return started->has_value(); }, 10s));
  EXPECT_FALSE(**started);
  EXPECT_EQ(peer->repl(), ReplicationState::kEstablished);
}

TEST_F(ScriptedVerify, APeerThatNeverAnswersDoesNotHoldTheLink) {
  Up();
  WeBegin();
  ASSERT_TRUE(Asked());
  peer->bench->RunFor(30s);
  Status stopped = peer->bench->Await(0, peer->resource().StopVerify(0, ScriptedPeer::kNode));
  EXPECT_FALSE(stopped) << "it says what is missing";
  ASSERT_TRUE(peer->bench->Await(0, peer->resource().Disconnect(1, true)));
  EXPECT_FALSE(Found().running);
  EXPECT_EQ(Found().position, 0u);
  peer->bench->ExpectIdleCounters();
}

}  // namespace
}  // namespace umblock::drbd
