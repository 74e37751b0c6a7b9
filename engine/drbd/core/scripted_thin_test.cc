// Thin resync with a peer that keeps to no rule, in both directions (drbd-wire.md 5.12.2, 5.12.3).
#include <gtest/gtest.h>

#include "engine/drbd/core/resync_source.h"
#include "engine/drbd/core/testing/scripted_source.h"

namespace umblock::drbd {
namespace {

using testing::ClusterOptions;
using testing::kControl;
using testing::kData;
using testing::PacketType;
using testing::ScriptedOptions;
using testing::ScriptedPeer;
using testing::ScriptedSource;

constexpr uint64_t kUnit = 65536;
constexpr uint64_t kUnitSectors = kUnit / 512;

ClusterOptions Thin() {
  ClusterOptions options = ScriptedOptions();
  options.disk.rs_discard_granularity = kUnit;
  return options;
}

// This node is the target. Its disk is full of something before the resync.
class ScriptedThin : public ScriptedSource {
 protected:
  ClusterOptions PeerOptions() override { return Thin(); }
  void Prepare(ScriptedPeer& of) override { of.persona.features |= wire::kFeatureThinResync; }
  void BeginFull(uint64_t bits) {
    Up(bits);
    Fill(bits);
    Sync(bits);
  }
  void Fill(uint64_t bits) {
    std::vector<std::byte> old(bits * 4096, std::byte{0x5a});
    peer->bench->disk(0).WriteNow(0, old);
  }
  void Sync(uint64_t bits) {
    SendBitmap(bits);
    peer->SendState(0, ReplicationState::kSyncSource);
    ASSERT_TRUE(
        peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kSyncTarget; }, 10s))
        << peer->last_error();
  }
  std::optional<wire::DagtagRequest> AskThin() {
    auto packet = peer->Wait(kData, PacketType::kRsThinDagtagReq);
    if (!packet) return std::nullopt;
    return packet->As<wire::DagtagRequest>();
  }
  void Deallocated(const wire::DagtagRequest& request) {
    peer->Send(kData, PacketType::kRsDeallocatedId, 0,
               wire::BlockAck{request.sector, request.block_id, request.blksize, 0});
  }
  void ExpectDropped(std::string_view reason) {
    ASSERT_TRUE(peer->WaitClosed());
    peer->bench->RunFor(300ms);
    EXPECT_NE(peer->last_error().find(reason), std::string::npos) << peer->last_error();
  }
};

TEST_F(ScriptedThin, WholeUnitsAreAskedForAndZeroedAndAcknowledged) {
  BeginFull(40);  // two units and a half
  for (uint64_t unit = 0; unit < 2; ++unit) {
    auto request = AskThin();
    ASSERT_TRUE(request) << peer->last_error();
    EXPECT_EQ(request->sector, unit * kUnitSectors);
    EXPECT_EQ(request->blksize, kUnit);
    Deallocated(*request);
    auto ack = peer->Wait(kControl, PacketType::kRsWriteAck);
    ASSERT_TRUE(ack);
    EXPECT_EQ(ack->As<wire::BlockAck>().block_id, request->block_id);
    EXPECT_EQ(ack->As<wire::BlockAck>().blksize, kUnit);
  }
  for (uint64_t left = 8 * 8; left > 0;) {
    auto rest = Request();
    ASSERT_TRUE(rest) << "what is no whole unit is fetched";
    Reply(*rest, 0x3c);
    left -= rest->blksize / 512;
  }
  ASSERT_TRUE(Ends()) << peer->last_error();
  EXPECT_EQ(peer->bench->disk_state(0), DiskState::kUpToDate);
  EXPECT_TRUE(peer->bench->NowIs(0, 0, 2 * kUnit, 0));
  EXPECT_TRUE(peer->bench->NowIs(0, 2 * kUnit, 8 * 4096, 0x3c));
  EXPECT_EQ(peer->bench->peer_volume(0).deallocated_bytes, 2 * kUnit);
  EXPECT_EQ(peer->bench->peer_volume(0).received_bytes, 8 * 4096u);
}

TEST_F(ScriptedThin, DataIsTakenToo) {
  BeginFull(16);
  auto request = AskThin();
  ASSERT_TRUE(request);
  Reply(*request, 0x3c);
  ASSERT_TRUE(peer->Wait(kControl, PacketType::kRsWriteAck));
  ASSERT_TRUE(Ends());
  EXPECT_TRUE(peer->bench->NowIs(0, 0, kUnit, 0x3c));
  EXPECT_EQ(peer->bench->peer_volume(0).deallocated_bytes, 0u);
}

TEST_F(ScriptedThin, ABlockIsZeroedOnlyWhereItWasAskedSo) {
  Up(8);
  Fill(8);
  Sync(8);
  auto request = Request();
  ASSERT_TRUE(request) << "less than a unit";
  Deallocated(*request);
  ExpectDropped("answers no thin request");
  EXPECT_TRUE(peer->bench->NowIs(0, 0, 8 * 4096, 0x5a));
  EXPECT_EQ(peer->bench->out_of_sync(0, 1), 8 * 4096u);
}

TEST_F(ScriptedThin, AnswersThatFitNoRequest) {
  struct {
    const char* what;
    std::function<void(wire::DagtagRequest&)> change;
  } cases[] = {{"another sector", [](wire::DagtagRequest& r) { r.sector += 8; }},
               {"another size", [](wire::DagtagRequest& r) { r.blksize += 4096; }},
               {"another id", [](wire::DagtagRequest& r) { r.block_id ^= 0xff00; }}};
  for (auto& each : cases) {
    SCOPED_TRACE(each.what);
    BeginFull(16);
    auto request = AskThin();
    ASSERT_TRUE(request);
    each.change(*request);
    Deallocated(*request);
    ExpectDropped("answers no thin request");
    EXPECT_TRUE(peer->bench->NowIs(0, 0, kUnit, 0x5a));
    peer.reset();
  }
}

TEST_F(ScriptedThin, AnAnswerIsTakenOnce) {
  BeginFull(16);
  auto request = AskThin();
  ASSERT_TRUE(request);
  peer->bench->disk(0).SetHang(true);
  Deallocated(*request);
  Deallocated(*request);
  ASSERT_TRUE(peer->WaitClosed());
  peer->bench->disk(0).SetHang(false);
  peer->bench->RunFor(300ms);
  EXPECT_NE(peer->last_error().find("answers no thin request"), std::string::npos);
}

TEST_F(ScriptedThin, AnOutOfSyncNoteAfterTheAnswerIsFetchedAgain) {
  BeginFull(16);
  auto request = AskThin();
  ASSERT_TRUE(request);
  Deallocated(*request);
  peer->Send(kData, PacketType::kOutOfSync, 0, wire::BlockDescription{0, 4096});
  ASSERT_TRUE(peer->Wait(kControl, PacketType::kRsWriteAck));
  auto again = AskThin();
  ASSERT_TRUE(again) << "INV-26";
  Reply(*again, 0x4d);
  ASSERT_TRUE(Ends());
  EXPECT_TRUE(peer->bench->NowIs(0, 0, kUnit, 0x4d));
}

// The data stream has the answer first and the write behind it: the write is what stays, however
// long the zeroes take.
TEST_F(ScriptedThin, AWriteBehindTheAnswerIsWhatStays) {
  BeginFull(16);
  auto request = AskThin();
  ASSERT_TRUE(request);
  peer->bench->disk(0).SetHang(true);
  Deallocated(*request);
  std::vector<std::byte> data(4096, std::byte{0x77});
  peer->Send(kData, PacketType::kData, 0,
             wire::DataHead{16, 0xabc, 1, wire::kDpSendWriteAck | wire::kDpMaySetInSync}, data);
  peer->bench->RunFor(500ms);
  peer->bench->disk(0).SetHang(false);
  ASSERT_TRUE(Ends()) << peer->last_error();
  EXPECT_TRUE(peer->bench->NowIs(0, 0, 16 * 512, 0));
  EXPECT_TRUE(peer->bench->NowIs(0, 16 * 512, 4096, 0x77));
  EXPECT_TRUE(peer->bench->NowIs(0, 24 * 512, kUnit - 24 * 512, 0));
}

TEST_F(ScriptedThin, ZeroesThatCannotBeWrittenAreRefused) {
  BeginFull(16);
  auto request = AskThin();
  ASSERT_TRUE(request);
  peer->bench->disk(0).FailNext(SimDiskOp::kWriteZeroes, EIO);
  Deallocated(*request);
  auto ack = peer->Wait(kControl, PacketType::kRsNegAck);
  ASSERT_TRUE(ack);
  EXPECT_EQ(ack->As<wire::BlockAck>().block_id, request->block_id);
  EXPECT_EQ(peer->bench->peer_volume(0).deallocated_bytes, 0u);
}

// A peer that does not offer it is asked for data.
TEST_F(ScriptedSource, WithoutTheFeatureNothingIsAskedThin) {
  Begin(16);
  auto request = Request();
  ASSERT_TRUE(request);
  EXPECT_EQ(peer->CountReceived(kData, PacketType::kRsThinDagtagReq), 0u);
}

class ScriptedFat : public ScriptedThin {
 protected:
  ClusterOptions PeerOptions() override { return ScriptedOptions(); }
};

TEST_F(ScriptedFat, WithoutTheOptionNothingIsAskedThin) {
  Begin(16);
  ASSERT_TRUE(Request());
  EXPECT_EQ(peer->CountReceived(kData, PacketType::kRsThinDagtagReq), 0u);
}

// Protocol 121: plain requests, answers that name none, acks with the id of the syncer.
class ScriptedOldThin : public ScriptedThin {
 protected:
  void Prepare(ScriptedPeer& of) override {
    of.persona.protocol_max = 121;
    of.persona.features |= wire::kFeatureThinResync;
    of.persona.features &= ~wire::kFeatureResyncDagtag;
  }
};

TEST_F(ScriptedOldThin, AnswersAreFoundByTheirSector) {
  BeginFull(32);
  for (int unit = 0; unit < 2; ++unit) {
    auto packet = peer->Wait(kData, PacketType::kRsThinReq);
    ASSERT_TRUE(packet) << peer->last_error();
    auto request = packet->As<wire::BlockRequest>();
    peer->Send(kData, PacketType::kRsDeallocated, 0,
               wire::BlockDescription{request.sector, request.blksize});
    auto ack = peer->Wait(kControl, PacketType::kRsWriteAck);
    ASSERT_TRUE(ack);
    EXPECT_EQ(ack->As<wire::BlockAck>().block_id, wire::kIdSyncer);
  }
  ASSERT_TRUE(Ends()) << peer->last_error();
  EXPECT_TRUE(peer->bench->NowIs(0, 0, 2 * kUnit, 0));
}

// This node is the source; two units are out of sync, the second is not all zeroes.
class ScriptedThinSource : public ::testing::Test {
 protected:
  void Up(std::function<void(ScriptedPeer&)> prepare = {}) {
    peer.emplace(ScriptedOptions());
    peer->persona.features |= wire::kFeatureThinResync;
    if (prepare) prepare(*peer);
    peer->StartResource();
    ASSERT_TRUE(peer->Establish());
    std::array<std::byte, 512> last{};
    last.back() = std::byte{1};
    peer->bench->disk(0).WriteNow(2 * kUnit - last.size(), last);
    peer->Send(kData, PacketType::kOutOfSync, 0, wire::BlockDescription{0, 2 * kUnit});
    ASSERT_TRUE(OutOfSync(2 * kUnit));
  }
  bool OutOfSync(uint64_t bytes) {
    return peer->world().RunUntil([&] { return peer->bench->out_of_sync(0, 1) == bytes; }, 5s);
  }
  void Ask(uint64_t sector, uint64_t id, PacketType type = PacketType::kRsThinDagtagReq) {
    peer->Send(kData, type, 0, wire::DagtagRequest{sector, id, kUnit, 0, 0});
  }
  std::optional<ScriptedPeer> peer;
};

TEST_F(ScriptedThinSource, ZeroesAreSaidWithoutDataAndInSyncWhenAcknowledged) {
  Up();
  Ask(0, 77);
  auto answer = peer->Wait(kData, PacketType::kRsDeallocatedId);
  ASSERT_TRUE(answer) << peer->last_error();
  auto said = answer->As<wire::BlockAck>();
  EXPECT_EQ(said.sector, 0u);
  EXPECT_EQ(said.block_id, 77u);
  EXPECT_EQ(said.blksize, kUnit);
  EXPECT_EQ(said.seq_num, 0u);
  EXPECT_EQ(peer->bench->out_of_sync(0, 1), 2 * kUnit) << "not there yet";
  EXPECT_EQ(peer->bench->peer_volume(0).deallocated_bytes, kUnit);
  EXPECT_EQ(peer->bench->peer_volume(0).sent_bytes, 0u);
  peer->Ack(PacketType::kRsWriteAck, 0, 77, kUnit);
  EXPECT_TRUE(OutOfSync(kUnit));
}

// A kernel gathers what is deallocated before it discards and acknowledges any.
TEST_F(ScriptedThinSource, ManyAnswersMayWaitForTheirAcknowledgements) {
  Up();
  constexpr uint64_t kBlocks = ResyncSource::kMaxOutstanding + 200;
  constexpr uint64_t kFirst = 2 * kUnit;
  peer->Send(kData, PacketType::kOutOfSync, 0,
             wire::BlockDescription{kFirst / 512, kBlocks * 4096});
  ASSERT_TRUE(OutOfSync(kFirst + kBlocks * 4096));
  for (uint64_t i = 0; i < kBlocks; ++i) {
    peer->Send(kData, PacketType::kRsThinDagtagReq, 0,
               wire::DagtagRequest{(kFirst + i * 4096) / 512, 1000 + i, 4096, 0, 0});
    ASSERT_TRUE(peer->Wait(kData, PacketType::kRsDeallocatedId)) << i << " " << peer->last_error();
  }
  for (uint64_t i = 0; i < kBlocks; ++i) {
    peer->Ack(PacketType::kRsWriteAck, (kFirst + i * 4096) / 512, 1000 + i, 4096);
  }
  EXPECT_TRUE(OutOfSync(kFirst));
}

TEST_F(ScriptedThinSource, OneByteIsEnoughToSendTheData) {
  Up();
  Ask(kUnitSectors, 78);
  auto answer = peer->Wait(kData, PacketType::kRsDataReply);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->payload.size(), wire::DataHead::kSize + kUnit);
  EXPECT_EQ(answer->payload.back(), std::byte{1});
  EXPECT_EQ(peer->bench->peer_volume(0).deallocated_bytes, 0u);
}

TEST_F(ScriptedThinSource, APlainRequestForZeroesIsAnsweredWithThem) {
  Up();
  Ask(0, 77, PacketType::kRsDagtagReq);
  ASSERT_TRUE(peer->Wait(kData, PacketType::kRsDataReply));
}

TEST_F(ScriptedThinSource, ARefusedAnswerKeepsTheBits) {
  Up();
  Ask(0, 77);
  ASSERT_TRUE(peer->Wait(kData, PacketType::kRsDeallocatedId));
  peer->Ack(PacketType::kRsNegAck, 0, 77, kUnit);
  peer->bench->RunFor(200ms);
  EXPECT_EQ(peer->bench->out_of_sync(0, 1), 2 * kUnit);
}

// The zeroes that were promised must not overwrite it at the peer.
TEST_F(ScriptedThinSource, AWriteWaitsUntilThePeerHasTheZeroes) {
  Up();
  auto promotion = peer->bench->Start(0, peer->resource().Promote(false));
  auto prepare = peer->Wait(kData, PacketType::kTwopcPrepare);
  ASSERT_TRUE(prepare);
  peer->Vote(PacketType::kTwopcYes, ScriptedPeer::Request(*prepare));
  ASSERT_TRUE(peer->world().RunUntil([&] { return promotion->has_value(); }, 20s));
  ASSERT_TRUE(**promotion);
  Ask(0, 77);
  ASSERT_TRUE(peer->Wait(kData, PacketType::kRsDeallocatedId));
  auto write = peer->bench->StartWrite(0, 4096, 4096, 0x66);
  peer->bench->RunFor(500ms);
  EXPECT_EQ(peer->CountReceived(kData, PacketType::kData), 0u);
  EXPECT_FALSE(write->answered());
  peer->Ack(PacketType::kRsWriteAck, 0, 77, kUnit);
  EXPECT_TRUE(peer->Wait(kData, PacketType::kData));
}

TEST_F(ScriptedThinSource, BelowProtocol122TheAnswerNamesNoRequest) {
  Up([](ScriptedPeer& of) {
    of.persona.protocol_max = 121;
    of.persona.features &= ~wire::kFeatureResyncDagtag;
  });
  peer->Send(kData, PacketType::kRsThinReq, 0, wire::BlockRequest{0, 77, kUnit});
  auto answer = peer->Wait(kData, PacketType::kRsDeallocated);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->As<wire::BlockDescription>().sector, 0u);
  EXPECT_EQ(answer->As<wire::BlockDescription>().blksize, kUnit);
  peer->Ack(PacketType::kRsWriteAck, 0, wire::kIdSyncer, kUnit);
  EXPECT_TRUE(OutOfSync(kUnit));
}

TEST_F(ScriptedThinSource, AThinRequestThatWasNotAgreedEndsTheLink) {
  Up([](ScriptedPeer& of) { of.persona.features &= ~wire::kFeatureThinResync; });
  Ask(0, 77);
  ASSERT_TRUE(peer->WaitClosed());
  peer->bench->RunFor(300ms);
  EXPECT_NE(peer->last_error().find("P_RS_THIN_DAGTAG_REQ"), std::string::npos)
      << peer->last_error();
}

}  // namespace
}  // namespace umblock::drbd
