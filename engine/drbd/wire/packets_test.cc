// The byte rows of drbd-wire.md 8, which are recorded traffic, in both directions; and what the
// recordings do not contain, built from 5.2 to 5.13.
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "engine/drbd/wire/config_packets.h"
#include "engine/drbd/wire/constants.h"
#include "engine/drbd/wire/data_packets.h"
#include "engine/drbd/wire/packet.h"
#include "engine/drbd/wire/state_word.h"
#include "engine/drbd/wire/testing/hex.h"
#include "engine/drbd/wire/testing/reencode.h"
#include "engine/drbd/wire/twopc_packets.h"

namespace umblock::drbd::wire {
namespace {

using testing::Hex;
using testing::MaskIgnored;
using testing::ReencodePayload;
using testing::ToHex;
using enum PacketType;

// A two-phase commit request in the V2 layout as a packet for EncodePacket.
struct V2 {
  static constexpr size_t kSize = TwoPcRequest::kSize;
  TwoPcRequest request;
};
void Encode(const V2& x, MutableBytes to) { Encode(x.request, TwoPcLayout::kV2, to); }

uint64_t Opaque64(const char* hex) { return internal::LoadOpaque<uint64_t>(Hex(hex).data()); }
uint32_t Opaque32(const char* hex) { return internal::LoadOpaque<uint32_t>(Hex(hex).data()); }

template <typename T>
std::string Row(PacketType type, int32_t volume, const T& packet, uint32_t trailing = 0) {
  std::array<std::byte, 2048> buffer;
  return ToHex(Bytes(buffer).first(EncodePacket(type, volume, packet, buffer, trailing)));
}
std::string Bytes8(const char* spaced) { return ToHex(Hex(spaced)); }

// `row` is what `packet` encodes to, and decodes to `packet`.
template <typename T>
void ExpectRow(const char* row, PacketType type, int32_t volume, const T& packet,
               uint32_t trailing = 0) {
  EXPECT_EQ(Row(type, volume, packet, trailing), Bytes8(row)) << PacketName(type);
  const auto bytes = Hex(row);
  const auto header = DecodeHeader(bytes);
  ASSERT_TRUE(header.has_value());
  EXPECT_EQ(header->type, type);
  EXPECT_EQ(header->volume, volume);
  EXPECT_EQ(header->length, bytes.size() - header->size() + trailing);
  const Bytes payload = Bytes(bytes).subspan(header->size());
  if constexpr (std::is_same_v<T, V2>) {
    const auto decoded = TwoPcRequest::Decode(payload, TwoPcLayout::kV2);
    ASSERT_TRUE(decoded.has_value());
    EXPECT_EQ(*decoded, packet.request);
  } else {
    const auto decoded = T::Decode(payload);
    ASSERT_TRUE(decoded.has_value());
    EXPECT_EQ(*decoded, packet) << row;
  }
}

TEST(PacketRows, FeaturesOfAllReleases) {
  struct Case {
    const char* payload;
    ConnectionFeatures features;
  };
  const Case kCases[] = {
      {"00000056 0000000f 00000065 00000000 00000000 00000000 (48 x 00)", {86, 0x00f, 101, 0, 0}},
      {"00000056 000003ff 0000007c 00000000 00000001 00000000 (48 x 00)", {86, 0x3ff, 124, 0, 1}},
      {"00000056 0000007f 0000007b 00000001 00000000 00000000 (48 x 00)", {86, 0x07f, 123, 1, 0}},
  };
  for (const Case& c : kCases) {
    std::array<std::byte, 80> buffer;
    const size_t header = EncodeHeader({kConnectionFeatures, 0, 72, HeaderKind::kH80}, buffer);
    Encode(c.features, MutableBytes(buffer).subspan(header));
    EXPECT_EQ(ToHex(buffer), "83740267fffe0048" + Bytes8(c.payload));
    EXPECT_EQ(ConnectionFeatures::Decode(Hex(c.payload)), c.features);
  }
  // 3.2: a maximum of 0 means the minimum.
  EXPECT_EQ(ConnectionFeatures::Decode(Hex("00000056 (68 x 00)"))->protocol_max, 86u);
  EXPECT_EQ(ConnectionFeatures::Decode(Hex("(71 x 00)")), std::nullopt);
  EXPECT_EQ(ConnectionFeatures::Decode(Hex("(73 x 00)")), std::nullopt);
}

TEST(PacketRows, Handshake) {
  ExpectRow("8620ec20 ffff 000b 00000019 00000000 00000003 (20 x 00) 00", kProtocol, -1,
            Protocol{});
  ExpectRow(
      "8620ec20 0000 0023 00000094 00000000 000000fa (64 x 00) (64 x 00) 00000014 0000000a "
      "00000064 00019000",
      kSyncParam89, 0, SyncParam89{});
  Sizes sizes{.d_size = 0x3fb0, .c_size = 0x3fb0, .max_bio_size = kMaxRequestBytes};
  sizes.limits = QueueLimits{
      .physical_block_size = 512, .logical_block_size = 512, .io_min = 512, .discard_enabled = 1};
  ExpectRow(
      "8620ec20 0000 000d 00000038 00000000 0000000000003fb0 0000000000000000 0000000000003fb0 "
      "00100000 0000 0000 00000200 00000200 00000000 00000200 00000000 01 00 00 00",
      kSizes, 0, sizes);
  sizes.limits.reset();
  ExpectRow(
      "8620ec20 0000 000d 00000020 00000000 0000000000003fb0 0000000000000000 0000000000003fb0 "
      "00100000 0000 0000",
      kSizes, 0, sizes);
  ExpectRow("8620ec20 0000 0058 00000004 00000000 00 000000", kEnableReplicationNext, 0,
            EnableReplication{false});
  ExpectRow("8620ec20 0000 0059 00000004 00000000 01 000000", kEnableReplication, 0,
            EnableReplication{true});
  ExpectRow("8620ec20 0000 000e 00000004 00000000 0080ea82", kState, 0, State{0x0080ea82});
  ExpectRow(
      "8620ec20 0000 000c 00000030 00000000 0000000000000004 0000000000000000 0000000000000000 "
      "0000000000000000 00000000000007f6 0000000000000000",
      kUuids, 0, Uuids{.current = kUuidJustCreated, .dirty_bits = 0x7f6});
  ExpectRow("8620ec20 0000 000f 00000008 00000000 04d558675cc84c2e", kSyncUuid, 0,
            SyncUuid{0x04d558675cc84c2e});
  ExpectRow("8620ec20 0000 0044 00000010 00000000 40ce1199cacc7f9a fffffffffffffffd", kCurrentUuid,
            0, CurrentUuid{0x40ce1199cacc7f9a, 0xfffffffffffffffd});
}

TEST(PacketRows, Uuids110) {
  Uuids110 fresh{.current = kUuidJustCreated,
                 .dirty_bits = 0x7f6,
                 .uuid_flags = kUuidFlagInconsistent | kUuidFlagStable};
  fresh.SetBitmapUuid(1, 0);
  ExpectRow(
      "8620ec20 0000 0042 00000130 00000000 0000000000000004 00000000000007f6 0000000000000024 "
      "0000000000000000 0000000000000002 0000000000000000 (256 x 00)",
      kUuids110, 0, fresh);
  EXPECT_EQ(fresh.BitmapUuid(0), kUuidUnknown);

  Uuids110 target{.current = 0x2c21bc0a3bfb5584,
                  .dirty_bits = 4,
                  .uuid_flags = kUuidFlagReconnect,
                  .node_mask = 1};
  target.SetBitmapUuid(1, 0);  // in any order
  target.SetBitmapUuid(0, 0xb968eb459370754e);
  target.history[0] = 0xb968eb459370754e;
  ExpectRow(
      "8620ec20 0000 0042 00000138 00000000 2c21bc0a3bfb5584 0000000000000004 0000000000000100 "
      "0000000000000001 0000000000000003 b968eb459370754e 0000000000000000 b968eb459370754e "
      "(248 x 00)",
      kUuids110, 0, target);

  // Short and long history (5.4.2).
  const auto two = Uuids110::Decode(
      Hex("(39 x 00) 05 0000000000000001 0000000000000002 0000000000000003 0000000000000004"));
  ASSERT_TRUE(two.has_value());
  EXPECT_EQ(two->bitmap_uuids_mask, 5u);
  EXPECT_EQ(two->BitmapUuid(0), 1u);
  EXPECT_EQ(two->BitmapUuid(1), kUuidUnknown);
  EXPECT_EQ(two->BitmapUuid(2), 2u);
  EXPECT_EQ(two->history_count, 2);
  EXPECT_EQ(two->history[1], 4u);
  EXPECT_EQ(two->history[2], 0u);
  const auto many = Uuids110::Decode(Hex("(40 x 00) (320 x 11)"));
  ASSERT_TRUE(many.has_value());
  EXPECT_EQ(many->history_count, 32);
}

TEST(PacketRows, Uuids110BadInput) {
  for (const char* payload : {"(39 x 00)", "(44 x 00)", "",
                              // node 32
                              "(32 x 00) 0000000100000000 (256 x 00)",
                              // bit 63
                              "(32 x 00) 8000000000000000 (256 x 00)",
                              // two bitmap UUIDs announced, one there
                              "(32 x 00) 0000000000000003 (8 x 00)"}) {
    const auto decoded = Uuids110::Decode(Hex(payload));
    ASSERT_FALSE(decoded.has_value()) << payload;
    EXPECT_EQ(decoded.error().code(), ErrorCode::kInvalidArgument);
  }
}

TEST(PacketRows, ProtocolUpdateAndSyncParamOfAnOnlineChange) {
  ExpectRow("8620ec20 ffff 002d 00000019 00000000 00000001 (20 x 00) 00", kProtocolUpdate, -1,
            Protocol{.protocol = static_cast<uint32_t>(ReplicationProtocol::kA)});
  ExpectRow(
      "8620ec20 0000 0023 00000094 00000000 0000012c 6d6435 (61 x 00) 637263333263 (58 x 00) "
      "00000000 0000000a 00000064 00019000",
      kSyncParam89, 0,
      SyncParam89{.resync_rate = 300,
                  .verify_alg = AlgorithmName("md5"),
                  .csums_alg = AlgorithmName("crc32c"),
                  .c_plan_ahead = 0});
  ExpectRow("8620ec20 ffff 000b 0000001f 00000000 00000003 (20 x 00) 63726333326300", kProtocol, -1,
            Protocol{.integrity_alg = AlgorithmName("crc32c")});
}

TEST(PacketRows, NamesWithoutEnd) {
  EXPECT_FALSE(Protocol::Decode(Hex("00000003 (20 x 00) 637263333263")).has_value());
  EXPECT_FALSE(Protocol::Decode(Hex("(24 x 00)")).has_value());
  EXPECT_FALSE(Protocol::Decode(Hex("(24 x 00) (64 x 61) 00")).has_value()) << "65 bytes";
  EXPECT_FALSE(Protocol::Decode(Hex("(24 x 00) (64 x 61)")).has_value());
  const auto longest = Protocol::Decode(Hex("(24 x 00) (63 x 61) 00"));
  ASSERT_TRUE(longest.has_value());
  EXPECT_EQ(longest->integrity_alg.view(), std::string(63, 'a'));
  EXPECT_FALSE(SyncParam89::Decode(Hex("(4 x 00) (64 x 61) (80 x 00)")).has_value());
  EXPECT_FALSE(SyncParam89::Decode(Hex("(68 x 00) (64 x 61) (16 x 00)")).has_value());
  EXPECT_FALSE(SyncParam89::Decode(Hex("(147 x 00)")).has_value());
}

TEST(PacketRows, TwoPhaseCommit) {
  TwoPcRequest connect{.tid = 0xc197024b,
                       .flags = kTwoPcHasFlags | kTwoPcHasReachable,
                       .initiator_node_id = 0,
                       .target_node_id = 1,
                       .nodes_to_reach = 0xfffffffffffffffc};
  connect.SetStateChange(0x000001f3, 0x00000092);
  ExpectRow(
      "8620ec20 ffff 002e 00000024 00000000 c197024b c0000000 0000 00 01 fffffffffffffffc "
      "0000000000000000 000001f3 00000092",
      kTwopcPrepare, -1, V2{connect});
  EXPECT_EQ(connect.mask(), 0x1f3u);
  EXPECT_EQ(connect.val(), 0x92u);

  ExpectRow(
      "8620ec20 ffff 0045 00000020 00000000 c197024b 00000000 0000000000000003 0000000000000000 "
      "0000000000000000",
      kTwopcYes, -1, TwoPcReply{.tid = 0xc197024b, .reachable_nodes = 3});

  TwoPcRequest promoted{.tid = 0xb1648b12,
                        .flags = kTwoPcHasFlags | kTwoPcHasReachable,
                        .initiator_node_id = 1,
                        .target_node_id = -1,
                        .nodes_to_reach = 0xfffffffffffffffc};
  promoted.SetCommit(2, 3);
  ExpectRow(
      "8620ec20 ffff 0047 00000024 00000000 b1648b12 c0000000 0000 01 ff fffffffffffffffc "
      "0000000000000002 0000000000000003",
      kTwopcCommit, -1, V2{promoted});
  EXPECT_TRUE(promoted.has_reachable());
  EXPECT_EQ(promoted.primary_nodes(), 2u);
  EXPECT_EQ(promoted.reachable_nodes(), 3u);

  ExpectRow(
      "8620ec20 ffff 002f 00000024 00000000 32d404cb c0000000 0000 02 ff fffffffffffffff9 "
      "0000000000000000 0000000000000000",
      kTwopcAbort, -1,
      V2{{.tid = 0x32d404cb,
          .flags = kTwoPcHasFlags | kTwoPcHasReachable,
          .initiator_node_id = 2,
          .target_node_id = -1,
          .nodes_to_reach = 0xfffffffffffffff9}});
  ExpectRow(
      "8620ec20 ffff 0048 00000020 00000000 32d404cb 00000002 0000000000000007 0000000000000000 "
      "0000000000000000",
      kTwopcRetry, -1, TwoPcReply{.tid = 0x32d404cb, .initiator_node_id = 2, .reachable_nodes = 7});
  ExpectRow(
      "8620ec20 ffff 0046 00000020 00000000 00000001 00000000 0000000000000001 0000000000000001 "
      "fffffffffffffffe",
      kTwopcNo, -1,
      TwoPcReply{
          .tid = 1, .reachable_nodes = 1, .primary_nodes = 1, .weak_nodes = 0xfffffffffffffffe});
}

TEST(PacketRows, TwoPhaseCommitOfAResize) {
  TwoPcRequest prepare{.tid = 0x370c4778,
                       .flags = kTwoPcHasFlags,
                       .initiator_node_id = 0,
                       .target_node_id = -1,
                       .nodes_to_reach = 0xfffffffffffffffc};
  prepare.SetResize(0x8400, 0);
  ExpectRow(
      "8620ec20 0000 0035 00000024 00000000 370c4778 80000000 0000 00 ff fffffffffffffffc "
      "0000000000008400 0000 000000000000",
      kTwopcPrepRsz, 0, V2{prepare});
  EXPECT_EQ(prepare.user_size(), 0x8400u);
  prepare.SetResize(0x8400, kDdsNoResync);
  EXPECT_EQ(prepare.dds_flags(), kDdsNoResync);

  const TwoPcReply reply{
      .tid = 0x370c4778, .reachable_nodes = 3, .primary_nodes = 0, .weak_nodes = 0x1ffb0};
  ExpectRow(
      "8620ec20 0000 0045 00000020 00000000 370c4778 00000000 0000000000000003 0000000000000000 "
      "000000000001ffb0",
      kTwopcYes, 0, reply);
  EXPECT_EQ(reply.max_possible_size(), 0x1ffb0u);

  TwoPcRequest commit = prepare;
  commit.SetResizeCommit(1, 0x8400);
  ExpectRow(
      "8620ec20 0000 0047 00000024 00000000 370c4778 80000000 0000 00 ff fffffffffffffffc "
      "0000000000000001 0000000000008400",
      kTwopcCommit, 0, V2{commit});
  EXPECT_FALSE(commit.has_reachable());
  EXPECT_EQ(commit.diskful_primary_nodes(), 1u);
  EXPECT_EQ(commit.exposed_size(), 0x8400u);
}

TEST(PacketRows, TwoPhaseCommitInTheFirstLayout) {
  const auto payload =
      Hex("00000007 00000001 ffffffff fffffffffffffffc 0000000000000000 00000003 00000001");
  const auto decoded = TwoPcRequest::Decode(payload, TwoPcLayout::kV1);
  ASSERT_TRUE(decoded.has_value());
  EXPECT_EQ(decoded->tid, 7u);
  EXPECT_EQ(decoded->flags, 0u);
  EXPECT_EQ(decoded->initiator_node_id, 1);
  EXPECT_EQ(decoded->target_node_id, -1);
  EXPECT_EQ(decoded->nodes_to_reach, 0xfffffffffffffffcu);
  EXPECT_EQ(decoded->val(), 1u);
  std::vector<std::byte> again(TwoPcRequest::kSize);
  Encode(*decoded, TwoPcLayout::kV1, again);
  EXPECT_EQ(ToHex(again), ToHex(payload));
  EXPECT_EQ(TwoPcLayoutFor(0x0f), TwoPcLayout::kV1);
  EXPECT_EQ(TwoPcLayoutFor(0x6f), TwoPcLayout::kV2);
  EXPECT_FALSE(TwoPcRequest::Decode(Hex("(35 x 00)"), TwoPcLayout::kV2).has_value());
  EXPECT_FALSE(TwoPcReply::Decode(Hex("(36 x 00)")).has_value());
}

TEST(PacketRows, StateChangeRequestsOf84) {
  ExpectRow("8620ec20 0000 0012 00000008 00000000 00000003 00000001", kStateChgReq, 0,
            StateChangeRequest{3, 1});
  ExpectRow("8620ec20 0000 001d 00000004 00000000 00000001", kStateChgReply, 0,
            StateChangeReply{kStateChangeSuccess});
  ExpectRow("8620ec20 0000 002a 00000008 00000000 000001f0 00000010", kConnStChgReq, 0,
            StateChangeRequest{0x1f0, 0x10});
  ExpectRow("8620ec20 0000 002b 00000004 00000000 ffffffed", kConnStChgReply, 0,
            StateChangeReply{-19});
}

TEST(PacketRows, WritesAndTheirAcks) {
  ExpectRow(
      "8620ec20 0000 0000 00001018 00000000 0000000000000000 f00ca64565363bff 00000001 00000102",
      kData, 0,
      DataHead{.block_id = Opaque64("f00ca64565363bff"),
               .seq_num = 1,
               .dp_flags = kDpRwSync | kDpSendWriteAck},
      4096);
  ExpectRow(
      "8620ec20 0000 0016 00000018 00000000 0000000000000000 f00ca64565363bff 00001000 00000001",
      kWriteAck, 0,
      BlockAck{.block_id = Opaque64("f00ca64565363bff"), .blksize = 4096, .seq_num = 1});
  ExpectRow(
      "8620ec20 0000 0015 00000018 00000000 0000000000000000 9015a64565363bff 00001000 00000001",
      kRecvAck, 0,
      BlockAck{.block_id = Opaque64("9015a64565363bff"), .blksize = 4096, .seq_num = 1});
  ExpectRow("8620ec20 ffff 0003 00000008 00000000 03000000 00000000", kBarrier, -1,
            Barrier{Opaque32("03000000")});
  ExpectRow("8620ec20 ffff 001c 00000008 00000000 03000000 00000001", kBarrierAck, -1,
            BarrierAck{Opaque32("03000000"), 1});
  ExpectRow("8620ec20 ffff 0040 00000010 00000000 0000000000000003 0000000000000098", kPeerAck, -1,
            PeerAck{3, 0x98});
  ExpectRow("8620ec20 ffff 0030 00000008 00000000 0000000000000020", kDagtag, -1, Dagtag{0x20});
  ExpectRow("8620ec20 ffff 0043 0000000c 00000000 0000000000000060 00000000", kPeerDagtag, -1,
            PeerDagtag{0x60, 0});
  ExpectRow(
      "8620ec20 0000 0031 0000001c 00000000 0000000000003000 0102030405060708 00000002 00000142 "
      "00100000",
      kTrim, 0,
      TrimRequest{.head = {.sector = 0x3000,
                           .block_id = Opaque64("0102030405060708"),
                           .seq_num = 2,
                           .dp_flags = kDpRwSync | kDpDiscard | kDpSendWriteAck},
                  .size = 1 << 20});
  ExpectRow("8620ec20 0000 0028 00000010 00000000 0000000000000008 00001000 00000000", kOutOfSync,
            0, BlockDescription{8, 4096});
  ExpectRow(
      "8620ec20 ffff 0049 00000018 00000000 0102030405060708 1112131415161718 00000009 00000000",
      kConfirmStable, -1,
      ConfirmStable{Opaque64("0102030405060708"), Opaque64("1112131415161718"), 9});
}

TEST(PacketRows, ReadsAndResync) {
  ExpectRow(
      "8620ec20 0000 0008 00000018 00000000 0000000000000000 28e20f4665363bff 00001000 00000000",
      kDataRequest, 0, BlockRequest{.block_id = Opaque64("28e20f4665363bff"), .blksize = 4096});
  ExpectRow(
      "8620ec20 0000 0001 00001018 00000000 0000000000000000 28e20f4665363bff 00000000 00000000",
      kDataReply, 0, DataHead{.block_id = Opaque64("28e20f4665363bff")}, 4096);
  ExpectRow(
      "8620ec20 0000 004c 00000020 00000000 0000000000000050 2043fac75c1d49ff 00002000 00000000 "
      "0000000000000000",
      kRsDagtagReq, 0,
      DagtagRequest{.sector = 0x50, .block_id = Opaque64("2043fac75c1d49ff"), .blksize = 0x2000});
  ExpectRow(
      "8620ec20 0000 0009 00000018 00000000 0000000000000050 ffffffffffffffff 00002000 00000000",
      kRsDataRequest, 0, BlockRequest{.sector = 0x50, .block_id = kIdSyncer, .blksize = 0x2000});
  ExpectRow(
      "8620ec20 0000 0002 00002018 00000000 0000000000000050 2043fac75c1d49ff 00000000 00000000",
      kRsDataReply, 0, DataHead{.sector = 0x50, .block_id = Opaque64("2043fac75c1d49ff")}, 8192);
  ExpectRow(
      "8620ec20 0000 0017 00000018 00000000 0000000000000050 2043fac75c1d49ff 00002000 00000001",
      kRsWriteAck, 0,
      BlockAck{.sector = 0x50,
               .block_id = Opaque64("2043fac75c1d49ff"),
               .blksize = 0x2000,
               .seq_num = 1});
  ExpectRow(
      "8620ec20 0000 0041 00000018 00000000 0000000000000000 0000000000000001 00400000 00000000",
      kPeersInSync, 0, PeersInSync{0, 1, 4 << 20});
  ExpectRow("8620ec20 ffff 0055 00000008 00000000 0000000000000001", kFlushRequests, -1,
            FlushRequests{1});
  ExpectRow("8620ec20 ffff 0056 0000000c 00000000 0000000000000001 00000002", kFlushForward, -1,
            FlushForward{1, 2});
  ExpectRow("8620ec20 ffff 0057 0000000c 00000000 0000000000000001 00000000", kFlushRequestsAck, -1,
            FlushRequestsAck{1, 0});
  ExpectRow(
      "8620ec20 0000 0053 00000020 00000000 0000000000000008 0102030405060708 00001000 00000004 "
      "00000002 00000000",
      kOvResultId, 0,
      OvResultId{8, Opaque64("0102030405060708"), 4096, 4, VerifyResult::kOutOfSync});
}

TEST(PacketRows, EmptyPackets) {
  std::array<std::byte, 16> buffer;
  EXPECT_EQ(EncodeEmptyPacket(kPing, kNoVolume, buffer), 16u);
  EXPECT_EQ(ToHex(buffer), "8620ec20ffff00130000000000000000");
  EXPECT_EQ(EncodeEmptyPacket(kBitmap, 0, buffer), 16u);
  EXPECT_EQ(ToHex(buffer), "8620ec20000000040000000000000000");
}

TEST(PacketRows, VerifyResultIsABigEndianNumberInPlaceOfTheBlockId) {
  const auto ack = BlockAck::Decode(Hex("0000000000000000 0000000000001268 00001000 00000001"));
  ASSERT_TRUE(ack.has_value());
  EXPECT_EQ(ack->ov_result(), kOvResultOutOfSync);
  BlockAck again;
  again.set_ov_result(kOvResultInSync);
  std::array<std::byte, 24> out;
  Encode(again, out);
  EXPECT_EQ(ToHex(Bytes(out).subspan(8, 8)), "0000000000001267");
  EXPECT_FALSE(OvResultId::Decode(Hex("(27 x 00) 03 (4 x 00)")).has_value()) << "result 3";
}

// Every length but the right one is refused; behind a head that data may follow, a longer one is
// not.
TEST(PacketRows, LengthsOfFixedPackets) {
  for (unsigned number = 0; number <= 0x59; ++number) {
    const auto* info = Describe(static_cast<PacketType>(number));
    if (info == nullptr || !info->fixed_length() || info->type == kDelayProbe) continue;
    const bool head = info->type == kDataRequest || info->type == kRsDataRequest ||
                      info->type == kOvRequest || info->type == kRsThinReq ||
                      info->type == kRsDagtagReq || info->type == kRsThinDagtagReq ||
                      info->type == kOvDagtagReq;
    const Header header{info->type, 0, info->min_length, HeaderKind::kH100};
    std::vector<std::byte> payload(info->min_length);
    EXPECT_TRUE(ReencodePayload(header, payload, TwoPcLayout::kV2).has_value()) << info->name;
    payload.resize(info->min_length + 1);
    EXPECT_EQ(ReencodePayload(header, payload, TwoPcLayout::kV2).has_value(), head) << info->name;
    if (info->min_length == 0) continue;
    payload.resize(info->min_length - 1);
    EXPECT_FALSE(ReencodePayload(header, payload, TwoPcLayout::kV2).has_value()) << info->name;
  }
}

TEST(PacketRows, GarbageInPadsIsIgnored) {
  // 8.4 leaves old buffer contents there (5.2).
  const auto request = Hex("0000000000000050 ffffffffffffffff 00002000 deadbeef");
  const Header header{kRsDataRequest, 0, 24, HeaderKind::kH100};
  EXPECT_EQ(BlockRequest::Decode(request)->blksize, 0x2000u);
  EXPECT_EQ(ToHex(*ReencodePayload(header, request, TwoPcLayout::kV1)),
            ToHex(MaskIgnored(header, request, TwoPcLayout::kV1)));
  EXPECT_EQ(BlockDescription::Decode(Hex("0000000000000050 00001000 deadbeef")),
            (BlockDescription{0x50, 4096}));
  EXPECT_EQ(Barrier::Decode(Hex("01000000 deadbeef")), Barrier{Opaque32("01000000")});
}

}  // namespace
}  // namespace umblock::drbd::wire
