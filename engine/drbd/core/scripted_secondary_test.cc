// This node is Primary, the peer answers wrongly, late or not at all.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/scripted_fixture.h"

namespace umblock::drbd {
namespace {

using testing::After;
using testing::ClusterOptions;
using testing::ExpectDropped;
using testing::FrontIo;
using testing::kControl;
using testing::kData;
using testing::PacketType;
using testing::ScriptedOptions;
using testing::ScriptedPeer;
using testing::Text;

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
  Up(ScriptedOptions());
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
  Up(ScriptedOptions());
  FrontIo* write = Write(0);
  peer->Ack(PacketType::kWriteAck, head.sector, head.block_id + 1, 4096);
  ExpectLost(write, 4096, "names no write of ours");
  peer->ExpectUsable();
}

TEST_F(ScriptedSecondary, K15AckForAnotherSector) {
  Up(ScriptedOptions());
  FrontIo* write = Write(8192);
  peer->Ack(PacketType::kWriteAck, head.sector + 8, head.block_id, 4096);
  ExpectLost(write, 4096, "names no write of ours");
}

TEST_F(ScriptedSecondary, K15AckAfterTheBarrierAck) {
  Up(ScriptedOptions());
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
  Up(ScriptedOptions());
  FrontIo* write = Write(0);
  peer->Ack(PacketType::kRecvAck, head.sector, head.block_id, 4096);
  ExpectLost(write, 4096, "cannot acknowledge");
}

TEST_F(ScriptedSecondary, TwoAcksForOneWriteCountOnce) {
  Up(ScriptedOptions());
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
    Up(ScriptedOptions());
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
  Up(ScriptedOptions());
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
  Up(ScriptedOptions());
  FrontIo* write = Write(0);
  peer->Send(kControl, PacketType::kBarrierAck, wire::kNoVolume, wire::BarrierAck{0, 1});
  ExpectLost(write, 4096, "not the oldest");
}

TEST_F(ScriptedSecondary, K37BarrierAcksInTheWrongOrder) {
  Up(ScriptedOptions());
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
  Up(ScriptedOptions());
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
  Up(ScriptedOptions());
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
    Up(ScriptedOptions());
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
  Up(ScriptedOptions());
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
  Up(ScriptedOptions());
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
  Up(ScriptedOptions());
  FrontIo* write = Write(0);
  peer->Ack(PacketType::kWriteAck, head.sector, head.block_id, 4096);
  ASSERT_TRUE(peer->world().RunUntil([&] { return write->answered(); }, 5s));
  ASSERT_TRUE(peer->WaitClosed(90s));
  EXPECT_TRUE(peer->bench->SawEvent(0, "connection", "Timeout"));
}

TEST_F(ScriptedSecondary, K43WithoutKoCountItIsWaitedFor) {
  ClusterOptions options = ScriptedOptions();
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
  ClusterOptions options = ScriptedOptions();
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
  Up(ScriptedOptions());
  peer->set_answer_pings(false);
  SimTime since = peer->world().now();
  ASSERT_TRUE(peer->WaitClosed(60s));
  EXPECT_LE(peer->world().now() - since, 13s);
  peer->ExpectUsable();
}

TEST_F(ScriptedSecondary, APeerThatTalksButDoesNotAnswerPingsIsGivenUp) {
  Up(ScriptedOptions());
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
  Up(ScriptedOptions());
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
  Up(ScriptedOptions());
  auto disconnected = peer->bench->Start(0, peer->resource().Disconnect(1, false));
  ASSERT_TRUE(peer->Wait(kData, PacketType::kTwopcPrepare));
  auto forced = peer->bench->Start(0, peer->resource().Disconnect(1, true));
  ASSERT_TRUE(peer->world().RunUntil(
      [&] { return disconnected->has_value() && forced->has_value(); }, 1200s));
  EXPECT_TRUE(**forced);
  EXPECT_EQ(peer->state(), ConnectionState::kStandAlone);
}

}  // namespace
}  // namespace umblock::drbd
