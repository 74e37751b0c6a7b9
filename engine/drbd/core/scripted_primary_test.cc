// The peer is Primary and writes.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/scripted_fixture.h"
#include "engine/drbd/wire/digest.h"

namespace umblock::drbd {
namespace {

using testing::After;
using testing::ClusterOptions;
using testing::ExpectDropped;
using testing::kControl;
using testing::kData;
using testing::PacketType;
using testing::ScriptedOptions;
using testing::ScriptedPeer;

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
  Up(ScriptedOptions());
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
  Up(ScriptedOptions());
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
  Up(ScriptedOptions());
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
  ClusterOptions options = ScriptedOptions();
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
  Up(ScriptedOptions());
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
  Up(ScriptedOptions());
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
  ClusterOptions options = ScriptedOptions();
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
  Up(ScriptedOptions());
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
  Up(ScriptedOptions());
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
  Up(ScriptedOptions());
  peer->Send(kData, PacketType::kOutOfSync, 0, wire::BlockDescription{16, 8192});
  ASSERT_TRUE(peer->world().RunUntil([&] { return peer->bench->out_of_sync(0, 1) == 8192; }, 5s));
  peer->bench->RunFor(5s);
  EXPECT_EQ(peer->bench->out_of_sync(0, 1), 8192u) << "INV-26";
}

// C.3: what P_CONFIRM_STABLE names must be stable. A write of the same epoch that gets its extent
// and completes while the flush of the confirmation is under way is not covered by that flush.
TEST_F(ScriptedPrimary, OnlyWhatWasFlushedIsConfirmedStable) {
  constexpr uint64_t kExtentSectors = (uint64_t{4} << 20) / 512;
  ClusterOptions options = ScriptedOptions();
  options.disk_bytes = uint64_t{640} << 20;
  options.volumes = 2;
  options.disk.al_extents = 67;
  Up(options);
  peer->Send(kData, PacketType::kDagtag, wire::kNoVolume, wire::Dagtag{0});
  // Epoch 1: 66 extents, held until the peer ack.
  for (uint64_t i = 0; i < 66; ++i) {
    peer->Write(i * kExtentSectors, 4096, 1);
    ASSERT_TRUE(peer->Wait(kControl, PacketType::kWriteAck)) << peer->last_error();
  }
  peer->Send(kData, PacketType::kBarrier, wire::kNoVolume, wire::Barrier{1});
  ASSERT_TRUE(peer->Wait(kControl, PacketType::kBarrierAck));
  // Epoch 2: the last slot; acknowledged, not flushed.
  peer->Write(66 * kExtentSectors, 4096, 2);
  ASSERT_TRUE(peer->Wait(kControl, PacketType::kWriteAck));
  // The next one starves: the confirmation flushes volume 0, then volume 1, which is slow.
  peer->bench->disk(0, 1).SetHang(true);
  uint64_t late = peer->Write(67 * kExtentSectors, 4096, 3);
  peer->bench->RunFor(50ms);
  ASSERT_EQ(peer->CountReceived(kControl, PacketType::kWriteAck), 0u) << "it waits for a slot";
  // The peer ack of epoch 1 frees slots; the write goes on, completes and is acknowledged.
  peer->Send(kControl, PacketType::kPeerAck, wire::kNoVolume, wire::PeerAck{3, 66 * 8});
  auto ack = peer->Wait(kControl, PacketType::kWriteAck);
  ASSERT_TRUE(ack);
  ASSERT_EQ(ack->As<wire::BlockAck>().block_id, late);
  EXPECT_FALSE(peer->bench->StableIs(0, 67 * kExtentSectors * 512, 4096, 3)) << "in the cache";
  peer->bench->disk(0, 1).SetHang(false);
  auto confirm = peer->Wait(kControl, PacketType::kConfirmStable);
  ASSERT_TRUE(confirm);
  EXPECT_TRUE(peer->bench->StableIs(0, 66 * kExtentSectors * 512, 4096, 2));
  auto youngest = confirm->As<wire::ConfirmStable>().youngest_block_id;
  if (youngest == late) {
    EXPECT_TRUE(peer->bench->StableIs(0, 67 * kExtentSectors * 512, 4096, 3))
        << "confirmed as stable, and lost with the power";
  }
}

}  // namespace
}  // namespace umblock::drbd
