#include "engine/drbd/wire/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace umblock::drbd::wire {
namespace {

using ::testing::HasSubstr;
using enum PacketType;

constexpr auto kD = SocketKind::kData;
constexpr auto kC = SocketKind::kControl;

Agreement Agreed(int protocol, uint32_t features, uint32_t digest = 0) {
  return {ConnectPhase::kConnected, protocol, features, digest};
}
const Agreement k124 = Agreed(124, 0x3ff);
const Agreement k101 = Agreed(101, 0x00f);

Header H(PacketType type, int32_t volume, uint32_t length) {
  return {type, volume, length, HeaderKind::kH100};
}

void ExpectError(const Status& status, const char* text) {
  ASSERT_FALSE(status.has_value()) << "should be refused: " << text;
  EXPECT_EQ(status.error().code(), ErrorCode::kInvalidArgument);
  EXPECT_THAT(status.error().message(), HasSubstr(text));
}

TEST(CheckHeader, TypesAndSockets) {
  EXPECT_TRUE(CheckHeader(H(kData, 0, 24 + 4096), kD, k124));
  EXPECT_TRUE(CheckHeader(H(kWriteAck, 0, 24), kC, k124));
  ExpectError(CheckHeader(H(static_cast<PacketType>(0x100), 0, 0), kD, k124),
              "packet type 0x0100 on the data socket is unknown");
  ExpectError(CheckHeader(H(kWsame, 0, 28 + 512), kD, k124), "unknown");
  ExpectError(CheckHeader(H(kData, 0, 24 + 4096), kC, k124),
              "P_DATA does not belong on the control");
  ExpectError(CheckHeader(H(kWriteAck, 0, 24), kD, k124), "does not belong on the data");
  ExpectError(CheckHeader(H(kPeersInSync, 0, 24), kD, k124), "does not belong on the data");
}

TEST(CheckHeader, PhasesOfTheHandshake) {
  Agreement agreed;  // the initial packet decides about the socket
  const Header initial_data{kInitialData, 0, 0, HeaderKind::kH80};
  const Header initial_meta{kInitialMeta, 0, 0, HeaderKind::kH80};
  EXPECT_TRUE(CheckHeader(initial_data, kD, agreed));
  EXPECT_TRUE(CheckHeader(initial_meta, kD, agreed));
  ExpectError(CheckHeader(H(kInitialData, -1, 0), kD, agreed), "wrong header form");
  ExpectError(CheckHeader({kConnectionFeatures, 0, 72, HeaderKind::kH80}, kD, agreed),
              "does not belong to the initial packet");

  agreed.phase = ConnectPhase::kFeatures;
  EXPECT_TRUE(CheckHeader({kConnectionFeatures, 0, 72, HeaderKind::kH80}, kD, agreed));
  EXPECT_TRUE(CheckHeader(H(kConnectionFeatures, -1, 72), kD, agreed)) << "2.2, first quirk";
  ExpectError(CheckHeader({kConnectionFeatures, 0, 71, HeaderKind::kH80}, kD, agreed), "71 bytes");
  ExpectError(CheckHeader(initial_data, kD, agreed), "feature exchange");
  ExpectError(CheckHeader(H(kProtocol, -1, 25), kD, agreed), "feature exchange");
  EXPECT_TRUE(CheckHeader({kPing, 0, 0, HeaderKind::kH80}, kC, agreed));
  EXPECT_TRUE(CheckHeader(H(kPingAck, -1, 0), kC, agreed));
  ExpectError(CheckHeader(H(kWriteAck, 0, 24), kC, agreed), "feature exchange");

  agreed = {ConnectPhase::kAuthentication, 124, 0x3ff, 0};
  EXPECT_TRUE(CheckHeader(H(kAuthChallenge, -1, 64), kD, agreed));
  EXPECT_TRUE(CheckHeader(H(kAuthChallenge, 0, 64), kD, agreed)) << "8.4 sends volume 0";
  EXPECT_TRUE(CheckHeader(H(kAuthResponse, -1, 20), kD, agreed));
  ExpectError(CheckHeader(H(kAuthChallenge, -1, 65), kD, agreed), "65 bytes");
  ExpectError(CheckHeader(H(kAuthResponse, -1, 65), kD, agreed), "65 bytes");
  ExpectError(CheckHeader(H(kProtocol, -1, 25), kD, agreed), "authentication");

  for (const auto type : {kAuthChallenge, kInitialData, kConnectionFeatures}) {
    ExpectError(CheckHeader(H(type, -1, Describe(type)->min_length), kD, k124), "connected phase");
  }
}

TEST(CheckHeader, HeaderForms) {
  ExpectError(CheckHeader({kData, 0, 24 + 512, HeaderKind::kH80}, kD, k124), "wrong header form");
  ExpectError(CheckHeader({kData, 0, 24 + 512, HeaderKind::kH95}, kD, k124), "wrong header form");
  EXPECT_TRUE(CheckHeader({kPingAck, 0, 0, HeaderKind::kH80}, kC, k124)) << "1.11";
  ExpectError(CheckHeader({kWriteAck, 0, 24, HeaderKind::kH80}, kC, k124), "wrong header form");
  EXPECT_TRUE(CheckHeader({kData, 0, 24 + 512, HeaderKind::kH95}, kD, Agreed(96, 0)));
  ExpectError(CheckHeader(H(kData, 0, 24 + 512), kD, Agreed(96, 0)), "wrong header form");
}

TEST(CheckHeader, ProtocolsAndFeatures) {
  ExpectError(CheckHeader(H(kUuids, 0, 48), kD, k124), "P_UUIDS does not exist in protocol 124");
  EXPECT_TRUE(CheckHeader(H(kUuids, 0, 48), kD, k101));
  ExpectError(CheckHeader(H(kUuids110, 0, 48), kD, k101), "does not exist in protocol 101");
  ExpectError(CheckHeader(H(kFlushRequests, -1, 8), kD, Agreed(122, 0x7f)), "protocol 122");
  EXPECT_TRUE(CheckHeader(H(kFlushRequests, -1, 8), kD, Agreed(123, 0x7f)));
  ExpectError(CheckHeader(H(kOvResult, 0, 24), kC, k124), "protocol 124");
  EXPECT_TRUE(CheckHeader(H(kOvResult, 0, 24), kC, Agreed(121, 0x6f)));
  ExpectError(CheckHeader(H(kTrim, 0, 28), kD, Agreed(124, 0)), "features 0x1");
  ExpectError(CheckHeader(H(kZeroes, 0, 28), kD, Agreed(124, 0x7)), "features 0x8");
  ExpectError(CheckHeader(H(kRsThinDagtagReq, 0, 32), kD, Agreed(124, 0x1)), "features 0x12");
  ExpectError(CheckHeader(H(kEnableReplicationNext, 0, 4), kD, Agreed(124, 0x7f)), "features 0x80");
  EXPECT_TRUE(CheckHeader(H(kEnableReplication, 0, 4), kD, k101)) << "to be ignored, 3.5";
}

TEST(CheckHeader, Volumes) {
  ExpectError(CheckHeader(H(kData, -1, 24 + 512), kD, k124), "names no volume");
  ExpectError(CheckHeader(H(kBarrier, 3, 8), kD, k124), "names volume 3");
  EXPECT_TRUE(CheckHeader(H(kBarrier, 0, 8), kD, k101));
  EXPECT_TRUE(CheckHeader(H(kState, -1, 4), kD, k124)) << "role notice";
  EXPECT_TRUE(CheckHeader(H(kTwopcPrepare, 2, 36), kD, k124));
  EXPECT_TRUE(CheckHeader(H(kTwopcYes, -1, 32), kC, k124));
  EXPECT_TRUE(CheckHeader(H(kUnplugRemote, 5, 0), kD, k101)) << "8.4 names a volume";
}

TEST(CheckHeader, FixedLengths) {
  for (unsigned number = 0; number <= 0x59; ++number) {
    const PacketInfo* info = Describe(static_cast<PacketType>(number));
    if (info == nullptr || !info->fixed_length()) continue;
    const int protocol = std::min<int>(info->last_protocol, 124);
    const Agreement agreed = Agreed(protocol, 0x3ff);
    const SocketKind socket = info->on_data ? kD : kC;
    if (info->type == kAuthChallenge) continue;
    EXPECT_TRUE(CheckHeader(H(info->type, 0, info->min_length), socket, agreed)) << info->name;
    EXPECT_FALSE(CheckHeader(H(info->type, 0, info->min_length + 1), socket, agreed));
    EXPECT_FALSE(CheckHeader(H(info->type, 0, 0xffffffff), socket, agreed)) << info->name;
    if (info->min_length > 0) {
      EXPECT_FALSE(CheckHeader(H(info->type, 0, info->min_length - 1), socket, agreed));
    }
  }
}

TEST(CheckHeader, BulkLengths) {
  constexpr uint32_t kMiB = 1 << 20;
  for (const auto type : {kData, kDataReply, kRsDataReply}) {
    EXPECT_TRUE(CheckHeader(H(type, 0, 24 + kMiB), kD, k124));
    ExpectError(CheckHeader(H(type, 0, 24 + kMiB + 512), kD, k124), "1049112 bytes");
    ExpectError(CheckHeader(H(type, 0, 24 + 100), kD, k124), "100 bytes of data");
    ExpectError(CheckHeader(H(type, 0, 24), kD, k124), "0 bytes of data");
    ExpectError(CheckHeader(H(type, 0, 23), kD, k124), "23 bytes");
    ExpectError(CheckHeader(H(type, 0, 0xffffffff), kD, k124), "4294967295");
    const Agreement with_digest = Agreed(124, 0x3ff, 20);
    EXPECT_TRUE(CheckHeader(H(type, 0, 24 + 20 + 4096), kD, with_digest));
    ExpectError(CheckHeader(H(type, 0, 24 + 4096), kD, with_digest), "4076 bytes of data");
    ExpectError(CheckHeader(H(type, 0, 43), kD, with_digest), "a digest of 20");
  }
  EXPECT_TRUE(CheckHeader(H(kData, 0, 24), kD, k101)) << "8.4's empty flush";
  const Header in_94{kData, 0, 24 + 32768, HeaderKind::kH80};
  EXPECT_TRUE(CheckHeader(in_94, kD, Agreed(94, 0)));
  ExpectError(CheckHeader({kData, 0, 24 + 33280, HeaderKind::kH80}, kD, Agreed(94, 0)),
              "up to 32768");
}

TEST(CheckHeader, OtherVariableLengths) {
  EXPECT_TRUE(CheckHeader(H(kSizes, 0, 56), kD, k124));
  ExpectError(CheckHeader(H(kSizes, 0, 32), kD, k124), "56");
  EXPECT_TRUE(CheckHeader(H(kSizes, 0, 32), kD, Agreed(124, 0)));
  ExpectError(CheckHeader(H(kSizes, 0, 56), kD, Agreed(124, 0)), "32");
  ExpectError(CheckHeader(H(kSizes, 0, 40), kD, k124), "56");
  EXPECT_TRUE(CheckHeader(H(kSyncParam89, 0, 148), kD, k124));
  ExpectError(CheckHeader(H(kSyncParam89, 0, 132), kD, k124), "148");
  ExpectError(CheckHeader(H(kSyncParam89, 0, 149), kD, k124), "149");
  EXPECT_TRUE(CheckHeader({kSyncParam89, 0, 132, HeaderKind::kH80}, kD, Agreed(90, 0)));
  EXPECT_TRUE(CheckHeader(H(kUuids110, 0, 40 + 8 * 64), kD, k124));
  ExpectError(CheckHeader(H(kUuids110, 0, 44), kD, k124), "multiple of 8");
  ExpectError(CheckHeader(H(kUuids110, 0, 32), kD, k124), "32 bytes");
  ExpectError(CheckHeader(H(kUuids110, 0, 40 + 8 * 200), kD, k124), "1640 bytes");
  EXPECT_TRUE(CheckHeader(H(kBitmap, 0, 0), kD, k124));
  EXPECT_TRUE(CheckHeader(H(kBitmap, 0, 4080), kD, k124));
  ExpectError(CheckHeader(H(kBitmap, 0, 4088), kD, k124), "4096");
  ExpectError(CheckHeader(H(kBitmap, 0, 12), kD, k124), "whole words");
  EXPECT_TRUE(CheckHeader(H(kCompressedBitmap, 0, 2), kD, k124));
  EXPECT_TRUE(CheckHeader(H(kCompressedBitmap, 0, 4080), kD, k124));
  ExpectError(CheckHeader(H(kCompressedBitmap, 0, 4081), kD, k124), "4096");
  ExpectError(CheckHeader(H(kCompressedBitmap, 0, 1), kD, k124), "1 bytes");
  ExpectError(CheckHeader(H(kProtocol, -1, 24), kD, k124), "24 bytes");
  EXPECT_TRUE(CheckHeader(H(kProtocol, -1, 88), kD, k124));
  ExpectError(CheckHeader(H(kProtocol, -1, 89), kD, k124), "89 bytes");
  ExpectError(CheckHeader(H(kOvDagtagReply, 0, 32), kD, k124), "32 bytes");
  EXPECT_TRUE(CheckHeader(H(kOvDagtagReply, 0, 32 + 64), kD, k124));
  ExpectError(CheckHeader(H(kRsCsumDagtagReq, 0, 32 + 65), kD, k124), "97 bytes");
}

TEST(CheckRange, Bounds) {
  constexpr uint64_t kCapacity = 0x3fb0;
  EXPECT_TRUE(CheckRange(kData, 0, 512, kMaxRequestBytes, kCapacity));
  EXPECT_TRUE(CheckRange(kData, kCapacity - 8, 4096, kMaxRequestBytes, kCapacity));
  ExpectError(CheckRange(kData, kCapacity - 7, 4096, kMaxRequestBytes, kCapacity), "ends behind");
  ExpectError(CheckRange(kData, kCapacity, 512, kMaxRequestBytes, kCapacity), "ends behind");
  ExpectError(CheckRange(kData, ~uint64_t{0}, 512, kMaxRequestBytes, kCapacity), "ends behind");
  ExpectError(CheckRange(kData, ~uint64_t{0} - 1, 4096, kMaxRequestBytes, ~uint64_t{0}),
              "ends behind");
  ExpectError(CheckRange(kData, 0, 0, kMaxRequestBytes, kCapacity), "size of 0");
  ExpectError(CheckRange(kData, 0, 513, kMaxRequestBytes, kCapacity), "size of 513");
  ExpectError(CheckRange(kData, 0, kMaxRequestBytes + 512, kMaxRequestBytes, kCapacity),
              "up to 1048576");
  ExpectError(CheckRange(kTrim, 0, 8 << 20, MaxTrimBytes(kFeatureTrim), 1 << 20), "up to 4194304");
  EXPECT_TRUE(CheckRange(kTrim, 0, 128 << 20, MaxTrimBytes(kFeatureWsame), 1 << 20));
}

TEST(CheckNodeId, Bounds) {
  EXPECT_TRUE(CheckNodeId(kPeerDagtag, 0));
  EXPECT_TRUE(CheckNodeId(kPeerDagtag, 31));
  ExpectError(CheckNodeId(kPeerDagtag, 32), "node id 32");
  ExpectError(CheckNodeId(kTwopcPrepare, -1), "node id -1");
}

}  // namespace
}  // namespace umblock::drbd::wire
