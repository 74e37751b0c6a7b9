#include "ctl/fields.h"

#include <gtest/gtest.h>

#include "ctl/one_shot.h"
#include "umblock/v1/connection.pb.h"
#include "umblock/v1/resource.pb.h"

namespace umblock::ctl {
namespace {

TEST(Fields, SetsWhatIsNamed) {
  v1::CreateConnectionRequest r;
  EXPECT_TRUE(SetField(&r, "spec.resource", "r0"));
  EXPECT_TRUE(SetField(&r, "spec.peer_node_id", "1"));
  EXPECT_TRUE(SetField(&r, "spec.net.protocol", "a"));
  EXPECT_TRUE(SetField(&r, "spec.net.use_rle", "No"));
  EXPECT_TRUE(SetField(&r, "spec.net.ping_timeout", "700ms"));
  EXPECT_TRUE(SetField(&r, "spec.net.sndbuf_size", "1MiB"));
  EXPECT_TRUE(SetField(&r, "spec.net.after_sb_0pri", "discardzerochanges"));
  EXPECT_EQ(r.spec().resource(), "r0");
  EXPECT_EQ(r.spec().peer_node_id(), 1u);
  EXPECT_EQ(r.spec().net().protocol(), v1::Protocol::A);
  EXPECT_TRUE(r.spec().net().has_use_rle());
  EXPECT_FALSE(r.spec().net().use_rle());
  EXPECT_EQ(r.spec().net().ping_timeout().nanos(), 700000000);
  EXPECT_EQ(r.spec().net().sndbuf_size(), 1u << 20);
  EXPECT_EQ(r.spec().net().after_sb_0pri(), v1::SplitBrainPolicy::DiscardZeroChanges);
}

TEST(Fields, RefusesWhatDoesNotFit) {
  v1::CreateConnectionRequest r;
  const auto refused = [&r](const char* path, const char* text) {
    Status set = SetField(&r, path, text);
    EXPECT_FALSE(set) << text;
    return set ? std::string() : set.error().message();
  };
  EXPECT_EQ(refused("spec.peer_node_id", "x"), "'x' is not a number");
  EXPECT_EQ(refused("spec.peer_node_id", "-1"), "'-1' is not a number");
  EXPECT_EQ(refused("spec.peer_node_id", "4294967296"), "4294967296 is too large");
  EXPECT_EQ(refused("spec.net.protocol", "D"), "'D' is none of A, B, C");
  EXPECT_EQ(refused("spec.net.protocol", "UNSPECIFIED"), "'UNSPECIFIED' is none of A, B, C");
  EXPECT_EQ(refused("spec.net.use_rle", "maybe"), "'maybe' is neither yes nor no");
  EXPECT_NE(refused("spec.net.timeout", "six"), "");
  EXPECT_NE(refused("spec.no_such_field", "x"), "");
}

TEST(Fields, Sizes) {
  EXPECT_EQ(ParseSize("4096"), 4096u);
  EXPECT_EQ(ParseSize("64MiB"), uint64_t{64} << 20);
  EXPECT_EQ(ParseSize("2T"), uint64_t{2} << 40);
  for (const char* bad :
       {"", "MiB", "1.5G", "-1", "1 MiB", "99999999999999999999", "16777216TiB"}) {
    EXPECT_FALSE(ParseSize(bad)) << bad;
  }
}

TEST(Fields, Durations) {
  google::protobuf::Duration d;
  EXPECT_TRUE(ParseDuration("1.5s", &d));
  EXPECT_EQ(d.seconds(), 1);
  EXPECT_EQ(d.nanos(), 500000000);
  EXPECT_TRUE(ParseDuration("2m", &d));
  EXPECT_EQ(d.seconds(), 120);
  EXPECT_TRUE(ParseDuration("7", &d));
  EXPECT_EQ(d.seconds(), 7);
  for (const char* bad : {"", "s", "-1s", "nan", "inf", "1d", "1e300"}) {
    EXPECT_FALSE(ParseDuration(bad, &d)) << bad;
  }
}

TEST(Fields, SlashNames) {
  auto name = ParseSlashName("r0/7", "volume");
  ASSERT_TRUE(name);
  EXPECT_EQ(name->name, "r0");
  EXPECT_EQ(name->number, 7u);
  for (const char* bad : {"", "r0", "/0", "r0/", "r0/x", "r0/-1"}) {
    EXPECT_FALSE(ParseSlashName(bad, "volume")) << bad;
  }
}

TEST(OneShot, Volumes) {
  auto volume = ParseVolumeArgument("3:backend=disk0,metadata=m,size=1GiB");
  ASSERT_TRUE(volume);
  EXPECT_EQ(volume->number(), 3u);
  EXPECT_EQ(volume->backend(), "disk0");
  EXPECT_EQ(volume->metadata_backend(), "m");
  EXPECT_EQ(volume->size_bytes(), uint64_t{1} << 30);
  EXPECT_TRUE(ParseVolumeArgument("0"));
  EXPECT_FALSE(ParseVolumeArgument("x"));
  EXPECT_FALSE(ParseVolumeArgument("0:disk0"));
  EXPECT_FALSE(ParseVolumeArgument("0:colour=red"));
}

TEST(OneShot, Peers) {
  auto peer = ParsePeerArgument(
      "1,name=n2,local=10.0.0.1:7789,remote=10.0.0.2:7789,local=10.1.0.1:7789,remote=10.1.0.2:"
      "7789");
  ASSERT_TRUE(peer);
  EXPECT_EQ(peer->peer_node_id(), 1u);
  EXPECT_EQ(peer->peer_name(), "n2");
  ASSERT_EQ(peer->paths_size(), 2);
  EXPECT_EQ(peer->paths(1).remote(), "10.1.0.2:7789");
  EXPECT_FALSE(ParsePeerArgument("1,local=10.0.0.1:7789"));
  EXPECT_FALSE(ParsePeerArgument("1,name"));
  EXPECT_FALSE(ParsePeerArgument("one"));
}

}  // namespace
}  // namespace umblock::ctl
