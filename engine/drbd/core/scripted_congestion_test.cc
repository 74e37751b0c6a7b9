// What a peer sees of a Primary that pulls ahead of it (drbd-io-path.md F.6), packet by packet.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/scripted_fixture.h"
#include "engine/drbd/core/testing/scripted_source.h"

namespace umblock::drbd {
namespace {

using testing::ClusterOptions;
using testing::FrontIo;
using testing::kControl;
using testing::kData;
using testing::PacketType;
using testing::ScriptedOptions;
using testing::ScriptedPeer;
using testing::Text;

class ScriptedCongestion : public ::testing::Test {
 protected:
  void Up() {
    ClusterOptions options = ScriptedOptions();
    options.net.protocol = Protocol::kA;
    options.net.on_congestion = OnCongestion::kPullAhead;
    options.net.congestion_fill = 65536;
    peer.emplace(options);
    peer->StartResource();
    ASSERT_TRUE(peer->Establish()) << peer->last_error();
    auto promotion = peer->bench->Start(0, peer->resource().Promote(false));
    auto prepare = peer->Wait(kData, PacketType::kTwopcPrepare);
    ASSERT_TRUE(prepare);
    peer->Vote(PacketType::kTwopcYes, ScriptedPeer::Request(*prepare));
    ASSERT_TRUE(peer->world().RunUntil([&] { return promotion->has_value(); }, 20s));
    ASSERT_TRUE(**promotion) << Text(**promotion);
  }
  int Write(uint64_t offset, uint64_t bytes, uint8_t fill) {
    return peer->bench->Do(0, IoOp::kWrite, offset, bytes, fill);
  }
  // A write of all that is allowed: its data, its barrier, and that this node is Ahead, in this
  // order.
  void Congest() {
    ASSERT_EQ(Write(0, 65536, 1), 0);
    ASSERT_TRUE(peer->Wait(kData, PacketType::kData, 5s));
    auto closing = peer->Wait(kData, PacketType::kBarrier, 5s);
    ASSERT_TRUE(closing);
    barrier = closing->As<wire::Barrier>().barrier;
    ASSERT_TRUE(StateIn(ReplicationState::kAhead));
    EXPECT_EQ(peer->repl(), ReplicationState::kAhead);
    auto uuids = peer->Wait(kData, PacketType::kUuids110, 5s);
    ASSERT_TRUE(uuids);
    EXPECT_NE(wire::Uuids110::Decode(uuids->payload)->uuid_flags & wire::kUuidFlagNewDatagen, 0U);
  }
  std::optional<wire::StateWord> StateIn(ReplicationState repl) {
    while (auto packet = peer->Wait(kData, PacketType::kState, 5s)) {
      auto word = wire::DecodeStateWord(packet->As<wire::State>().word);
      if (word && word->replication == repl) return *word;
    }
    return std::nullopt;
  }
  void AckBarrier() {
    peer->Send(kControl, PacketType::kBarrierAck, wire::kNoVolume, wire::BarrierAck{barrier, 1});
  }
  void Ask(uint64_t sector, uint64_t id) {
    peer->Send(kData, PacketType::kRsDagtagReq, 0, wire::DagtagRequest{sector, id, 4096, 0, 0});
  }

  std::optional<ScriptedPeer> peer;
  uint32_t barrier = 0;
};

TEST_F(ScriptedCongestion, AheadNothingIsSentButWhatIsOutOfSync) {
  Up();
  Congest();
  ASSERT_EQ(Write(1 << 20, 8192, 2), 0);
  auto note = peer->Wait(kData, PacketType::kOutOfSync, 5s);
  ASSERT_FALSE(note) << "not before what was sent is done";
  AckBarrier();
  note = peer->Wait(kData, PacketType::kOutOfSync, 5s);
  ASSERT_TRUE(note);
  EXPECT_EQ(note->As<wire::BlockDescription>().sector, uint64_t{1 << 20} / 512);
  EXPECT_EQ(note->As<wire::BlockDescription>().blksize, 8192U);
  EXPECT_EQ(peer->bench->out_of_sync(0, 1), 8192U);
}

TEST_F(ScriptedCongestion, ResyncRequestsArePutOff) {
  Up();
  Congest();
  Ask(8, 77);
  auto cancel = peer->Wait(kControl, PacketType::kRsCancelAhead, 5s);
  ASSERT_TRUE(cancel);
  EXPECT_EQ(cancel->As<wire::BlockAck>().block_id, 77U);
  EXPECT_EQ(peer->state(), ConnectionState::kConnected) << peer->last_error();
}

TEST_F(ScriptedCongestion, OneSecondAfterTheLastAckItBecomesTheSource) {
  Up();
  Congest();
  ASSERT_EQ(Write(1 << 20, 4096, 2), 0);
  peer->SendState(0, ReplicationState::kBehind);
  peer->bench->RunFor(3s);
  EXPECT_EQ(peer->repl(), ReplicationState::kAhead) << "as long as anything is in flight";
  AckBarrier();
  peer->bench->RunFor(900ms);
  EXPECT_EQ(peer->repl(), ReplicationState::kAhead);
  ASSERT_TRUE(peer->Wait(kData, PacketType::kOutOfSync, 5s));
  ASSERT_TRUE(StateIn(ReplicationState::kSyncSource));
  EXPECT_EQ(peer->CountReceived(kData, PacketType::kCompressedBitmap), 0U);
  peer->persona.disk = DiskState::kInconsistent;
  peer->SendState(0, ReplicationState::kSyncTarget);
  Ask((1 << 20) / 512, 78);
  auto reply = peer->Wait(kData, PacketType::kRsDataReply, 5s);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->payload.back(), std::byte{2});
  // Writes are sent again.
  ASSERT_EQ(Write(2 << 20, 4096, 3), 0);
  EXPECT_TRUE(peer->Wait(kData, PacketType::kData, 5s));
}

// What was asked for and not answered when it happens is put off, not forgotten.
TEST_F(ScriptedCongestion, ASourceThatPullsAheadCancelsWhatItWasAsked) {
  Up();
  Congest();
  ASSERT_EQ(Write(1 << 20, 65536, 2), 0);
  AckBarrier();
  ASSERT_TRUE(StateIn(ReplicationState::kSyncSource));
  peer->persona.disk = DiskState::kInconsistent;
  peer->SendState(0, ReplicationState::kSyncTarget);
  peer->bench->RunFor(100ms);
  peer->bench->disk(0).SetHang(true);
  Ask((1 << 20) / 512, 79);
  peer->bench->RunFor(100ms);
  FrontIo* write = peer->bench->StartWrite(0, 3 << 20, 65536, 4);
  auto cancel = peer->Wait(kControl, PacketType::kRsCancelAhead, 5s);
  ASSERT_TRUE(cancel);
  EXPECT_EQ(cancel->As<wire::BlockAck>().block_id, 79U);
  EXPECT_EQ(peer->repl(), ReplicationState::kAhead);
  peer->bench->disk(0).SetHang(false);
  ASSERT_TRUE(peer->world().RunUntil([&] { return write->answered(); }, 10s));
  EXPECT_EQ(peer->state(), ConnectionState::kConnected) << peer->last_error();
}

// The answer was sent before it happened, so the target may have cleared its bit already; what is
// written from then on must not depend on whether this node still has its own.
TEST_F(ScriptedCongestion, ABlockThatWasAnsweredAndIsWrittenAfterwardsIsOutOfSyncAgain) {
  Up();
  Congest();
  ASSERT_EQ(Write(1 << 20, 4096, 2), 0);
  AckBarrier();
  ASSERT_TRUE(StateIn(ReplicationState::kSyncSource));
  peer->persona.disk = DiskState::kInconsistent;
  peer->SendState(0, ReplicationState::kSyncTarget);
  peer->bench->RunFor(100ms);
  Ask((1 << 20) / 512, 80);
  ASSERT_TRUE(peer->Wait(kData, PacketType::kRsDataReply, 5s));
  ASSERT_EQ(Write(3 << 20, 65536, 4), 0);
  ASSERT_TRUE(peer->Wait(kData, PacketType::kBarrier, 5s));
  ASSERT_TRUE(StateIn(ReplicationState::kAhead));
  // The target's note of what it did with the answer crosses that.
  peer->Send(kControl, PacketType::kRsWriteAck, 0, wire::BlockAck{(1 << 20) / 512, 80, 4096, 1});
  ASSERT_EQ(Write(1 << 20, 4096, 5), 0);
  auto note = peer->Wait(kData, PacketType::kOutOfSync, 5s);
  ASSERT_TRUE(note) << "the target was not told of what it misses";
  EXPECT_EQ(note->As<wire::BlockDescription>().sector, uint64_t{1 << 20} / 512);
  EXPECT_EQ(peer->state(), ConnectionState::kConnected) << peer->last_error();
}

using CongestedSource = testing::ScriptedSource;

// The bitmaps are exchanged, and the source has no time for a resync before this node begins it.
TEST_F(CongestedSource, PullsAheadBeforeTheTargetHasBegun) {
  Up();
  SendBitmap(64);
  peer->SendState(0, ReplicationState::kSyncSource);
  peer->SendState(0, ReplicationState::kAhead);
  ASSERT_TRUE(peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kBehind; }, 5s))
      << ReplicationStateName(peer->repl());
  peer->SendState(0, ReplicationState::kSyncSource);
  ASSERT_TRUE(
      peer->world().RunUntil([&] { return peer->repl() == ReplicationState::kSyncTarget; }, 5s))
      << ReplicationStateName(peer->repl());
  EXPECT_TRUE(Request());
}

}  // namespace
}  // namespace umblock::drbd
