#include "engine/drbd/wire/packet_type.h"

#include <gtest/gtest.h>

#include <set>
#include <string_view>

#include "engine/drbd/wire/constants.h"

namespace umblock::drbd::wire {
namespace {

TEST(PacketType, EveryNumberOfTheMasterTable) {
  // Numbers without a handler in current versions (drbd-wire.md 5.1).
  const std::set<unsigned> kNone = {0x05, 0x06, 0x25, 0x26, 0x34, 0x37, 0x38,
                                    0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f};
  std::set<std::string_view> names;
  for (unsigned number = 0; number <= 0x59; ++number) {
    const PacketInfo* info = Describe(static_cast<PacketType>(number));
    ASSERT_EQ(info == nullptr, kNone.contains(number)) << number;
    if (info == nullptr) continue;
    EXPECT_EQ(static_cast<unsigned>(info->type), number);
    EXPECT_TRUE(info->name.starts_with("P_")) << number;
    EXPECT_TRUE(names.insert(info->name).second) << info->name;
    EXPECT_TRUE(info->on_data || info->on_control) << info->name;
    EXPECT_LE(info->min_length, info->max_length) << info->name;
    EXPECT_LE(info->first_protocol, info->last_protocol) << info->name;
  }
  for (const unsigned number : {0x5au, 0x100u, 0xfff0u, 0xfff3u, 0xffffu}) {
    EXPECT_EQ(Describe(static_cast<PacketType>(number)), nullptr) << number;
    EXPECT_EQ(PacketName(static_cast<PacketType>(number)), "unknown");
  }
  EXPECT_EQ(PacketName(PacketType::kInitialMeta), "P_INITIAL_META");
  EXPECT_EQ(PacketName(PacketType::kInitialData), "P_INITIAL_DATA");
  EXPECT_EQ(PacketName(PacketType::kConnectionFeatures), "P_CONNECTION_FEATURES");
}

TEST(PacketType, SomeRows) {
  const PacketInfo& in_sync = *Describe(PacketType::kPeersInSync);
  EXPECT_TRUE(in_sync.allowed_on(SocketKind::kControl));
  EXPECT_FALSE(in_sync.allowed_on(SocketKind::kData)) << "control, whatever a header says (5.1)";
  const PacketInfo& flush_ack = *Describe(PacketType::kFlushRequestsAck);
  EXPECT_TRUE(flush_ack.on_data && !flush_ack.on_control && flush_ack.fixed_length());
  EXPECT_EQ(flush_ack.first_protocol, 123);
  EXPECT_EQ(flush_ack.scope, PacketScope::kConnection);
  const PacketInfo& thin = *Describe(PacketType::kRsThinDagtagReq);
  EXPECT_EQ(thin.features_needed, kFeatureThinResync | kFeatureResyncDagtag);
  const PacketInfo& data = *Describe(PacketType::kData);
  EXPECT_EQ(data.max_length, 24u + 64 + (1 << 20));
  EXPECT_FALSE(data.fixed_length());
  EXPECT_EQ(Describe(PacketType::kOvResult)->last_protocol, 121);
  EXPECT_EQ(Describe(PacketType::kUuids)->last_protocol, 109);
  EXPECT_EQ(PacketName(PacketType::kTwopcPrepRsz), "P_TWOPC_PREP_RSZ");
}

}  // namespace
}  // namespace umblock::drbd::wire
