// Checksum-based resync with a peer that keeps to no rule, in both directions.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/scripted_source.h"
#include "engine/drbd/wire/digest.h"

namespace umblock::drbd {
namespace {

using testing::ClusterOptions;
using testing::kControl;
using testing::kData;
using testing::PacketType;
using testing::ScriptedOptions;
using testing::ScriptedPeer;
using testing::ScriptedSource;
using testing::Taken;

ClusterOptions WithCsums() {
  ClusterOptions options = ScriptedOptions();
  options.net.csums_alg = "crc32c";
  return options;
}

std::vector<std::byte> DigestOf(size_t bytes, uint8_t fill) {
  std::vector<std::byte> data(bytes, static_cast<std::byte>(fill));
  wire::Digest digest = std::move(*wire::Digest::Create("crc32c"));
  std::vector<std::byte> result(digest.size());
  digest.Update(Bytes(data));
  digest.Finish(result);
  return result;
}

// This node is the target.
class ScriptedCsums : public ScriptedSource {
 protected:
  ClusterOptions PeerOptions() override { return WithCsums(); }
  std::optional<Taken> Ask(PacketType type = PacketType::kRsCsumDagtagReq) {
    return peer->Wait(kData, type);
  }
};

TEST_F(ScriptedCsums, TheDigestIsThatOfTheOwnContentAndEqualBlocksAreDone) {
  Begin(16);
  for (uint64_t left = 16 * 8; left > 0;) {
    auto packet = Ask();
    ASSERT_TRUE(packet) << peer->last_error();
    auto request = packet->As<wire::DagtagRequest>();
    ASSERT_EQ(packet->payload.size(), wire::DagtagRequest::kSize + 4);
    std::vector<std::byte> digest(packet->payload.begin() + wire::DagtagRequest::kSize,
                                  packet->payload.end());
    EXPECT_EQ(digest, DigestOf(request.blksize, 0));
    peer->Ack(PacketType::kRsIsInSync, request.sector, request.block_id, request.blksize);
    left -= request.blksize / 512;
  }
  ASSERT_TRUE(Ends()) << peer->last_error();
  EXPECT_EQ(peer->bench->disk_state(0), DiskState::kUpToDate);
  EXPECT_EQ(peer->bench->peer_volume(0).equal_bytes, 16 * 4096u);
  EXPECT_EQ(peer->bench->peer_volume(0).received_bytes, 0u);
  EXPECT_EQ(peer->CountReceived(kControl, PacketType::kRsWriteAck), 0u);
}

TEST_F(ScriptedCsums, DataIsTakenForADigestToo) {
  Begin(1);
  auto packet = Ask();
  ASSERT_TRUE(packet);
  Reply(packet->As<wire::DagtagRequest>(), 0x3c);
  ASSERT_TRUE(peer->Wait(kControl, PacketType::kRsWriteAck));
  ASSERT_TRUE(Ends());
  EXPECT_TRUE(peer->bench->NowIs(0, 0, 4096, 0x3c));
}

// The note may have been sent after the comparison, on the other socket.
TEST_F(ScriptedCsums, AnOutOfSyncNoteBeforeTheAnswerKeepsTheBit) {
  Begin(1);
  auto packet = Ask();
  ASSERT_TRUE(packet);
  auto request = packet->As<wire::DagtagRequest>();
  peer->Send(kData, PacketType::kOutOfSync, 0, wire::BlockDescription{0, 4096});
  peer->bench->RunFor(100ms);
  peer->Ack(PacketType::kRsIsInSync, request.sector, request.block_id, request.blksize);
  auto again = Ask();
  ASSERT_TRUE(again) << "INV-26";
  auto second = again->As<wire::DagtagRequest>();
  peer->Ack(PacketType::kRsIsInSync, second.sector, second.block_id, second.blksize);
  ASSERT_TRUE(Ends());
}

// Protocol 121: plain requests, and answers that name none (drbd-wire.md 5.12.4).
class ScriptedOldCsums : public ScriptedCsums {
 protected:
  void Prepare(ScriptedPeer& of) override {
    of.persona.protocol_max = 121;
    of.persona.features &= ~wire::kFeatureResyncDagtag;
  }
};

TEST_F(ScriptedOldCsums, AnswersAreFoundByTheirSector) {
  Begin(2);
  std::vector<wire::BlockRequest> requests;
  for (uint64_t left = 16; left > 0; left -= requests.back().blksize / 512) {
    auto packet = Ask(PacketType::kCsumRsRequest);
    ASSERT_TRUE(packet) << peer->last_error();
    requests.push_back(packet->As<wire::BlockRequest>());
    if (left > 8) {
      peer->Ack(PacketType::kRsIsInSync, requests.back().sector, 0x1234, requests.back().blksize);
    } else {
      std::vector<std::byte> data(requests.back().blksize, std::byte{0x3c});
      peer->Send(kData, PacketType::kRsDataReply, 0,
                 wire::DataHead{requests.back().sector, wire::kIdSyncer, 0, 0}, data);
    }
  }
  ASSERT_TRUE(Ends()) << peer->last_error();
  EXPECT_EQ(peer->bench->disk_state(0), DiskState::kUpToDate);
}

TEST_F(ScriptedSource, InSyncForARequestWithoutDigestIsAMistake) {
  Begin(1);
  auto request = Request();
  ASSERT_TRUE(request);
  peer->Ack(PacketType::kRsIsInSync, request->sector, request->block_id, request->blksize);
  ASSERT_TRUE(peer->WaitClosed());
  peer->bench->RunFor(300ms);
  EXPECT_NE(peer->last_error().find("no digest"), std::string::npos) << peer->last_error();
  EXPECT_EQ(peer->bench->out_of_sync(0, 1), 4096u);
}

// This node is the source.
class ScriptedDigests : public ::testing::Test {
 protected:
  ScriptedDigests() : peer(WithCsums()) {
    peer.StartResource();
    EXPECT_TRUE(peer.Establish());
    peer.Send(kData, PacketType::kOutOfSync, 0, wire::BlockDescription{0, 8192});
    EXPECT_TRUE(peer.world().RunUntil([&] { return peer.bench->out_of_sync(0, 1) == 8192; }, 5s));
  }
  void Ask(uint64_t sector, uint64_t id, const std::vector<std::byte>& digest) {
    peer.Send(kData, PacketType::kRsCsumDagtagReq, 0, wire::DagtagRequest{sector, id, 4096, 0, 0},
              digest);
  }
  ScriptedPeer peer;
};

TEST_F(ScriptedDigests, EqualIsSaidAndClearsTheBit) {
  Ask(0, 77, DigestOf(4096, 0));
  auto answer = peer.Wait(kControl, PacketType::kRsIsInSync);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->As<wire::BlockAck>().block_id, 77u);
  EXPECT_EQ(peer.bench->out_of_sync(0, 1), 4096u);
  EXPECT_EQ(peer.bench->peer_volume(0).equal_bytes, 4096u);
}

TEST_F(ScriptedDigests, DifferentIsSent) {
  Ask(8, 78, DigestOf(4096, 1));
  auto answer = peer.Wait(kData, PacketType::kRsDataReply);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->As<wire::DataHead>().block_id, 78u);
  EXPECT_EQ(peer.bench->out_of_sync(0, 1), 8192u);
  peer.Ack(PacketType::kRsWriteAck, 8, 78, 4096);
  ASSERT_TRUE(peer.world().RunUntil([&] { return peer.bench->out_of_sync(0, 1) == 4096; }, 5s));
}

TEST_F(ScriptedDigests, ADigestOfAnotherSizeIsAMistake) {
  Ask(0, 77, std::vector<std::byte>(20));
  ASSERT_TRUE(peer.WaitClosed());
  peer.bench->RunFor(300ms);
  EXPECT_NE(peer.last_error().find("csums-alg"), std::string::npos) << peer.last_error();
  EXPECT_EQ(peer.bench->out_of_sync(0, 1), 8192u);
}

TEST_F(ScriptedDigests, AnAlgorithmThatIsNotKnownHereEndsTheLink) {
  wire::SyncParam89 param = peer.SyncParam();
  param.csums_alg = wire::AlgorithmName("crc64-nvme");
  peer.Send(kData, PacketType::kSyncParam89, 0, param);
  ASSERT_TRUE(peer.WaitClosed());
  peer.bench->RunFor(300ms);
  EXPECT_NE(peer.last_error().find("crc64-nvme"), std::string::npos) << peer.last_error();
}

}  // namespace
}  // namespace umblock::drbd
