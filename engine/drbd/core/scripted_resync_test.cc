// Resyncs with a peer that keeps to no rule, in both directions; Ahead and Behind.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/scripted_source.h"

namespace umblock::drbd {
namespace {

using testing::kControl;
using testing::kData;
using testing::PacketType;
using testing::ScriptedOptions;
using testing::ScriptedPeer;
using testing::ScriptedSource;

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
    peer.emplace(ScriptedOptions());
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
  ScriptedPeer peer(ScriptedOptions());
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

}  // namespace
}  // namespace umblock::drbd
