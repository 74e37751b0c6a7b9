// Malformed packets on an established link.
#include <gtest/gtest.h>

#include "engine/drbd/core/testing/scripted_fixture.h"

namespace umblock::drbd {
namespace {

using testing::After;
using testing::kControl;
using testing::kData;
using testing::PacketType;
using testing::ScriptedOptions;
using testing::ScriptedPeer;
using testing::SocketKind;

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
  ScriptedPeer peer(ScriptedOptions(GetParam() + 1));
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
  ScriptedPeer peer(ScriptedOptions());
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

}  // namespace
}  // namespace umblock::drbd
