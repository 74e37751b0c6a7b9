#include "server/convert.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/time_util.h>
#include <gtest/gtest.h>

#include "engine/drbd/wire/state_word.h"
#include "server/names.h"

namespace umblock::server {
namespace {

using ::testing::HasSubstr;

// The API's enumerations are spelled and ordered as the engine's.
template <typename Engine, typename Name, typename ProtoName>
void ExpectSameNames(int first, int last, Name engine_name, ProtoName proto_name) {
  for (int number = first; number <= last; ++number) {
    const auto state = static_cast<Engine>(number);
    EXPECT_EQ(engine_name(state), proto_name(ToProto(state))) << number;
  }
}

TEST(Convert, StatesKeepTheirNames) {
  ExpectSameNames<drbd::Role>(0, 2, &drbd::RoleName,
                              [](auto v) { return v1::Role::Value_Name(v); });
  ExpectSameNames<drbd::DiskState>(0, 9, &drbd::DiskStateName,
                                   [](auto v) { return v1::DiskState::Value_Name(v); });
  ExpectSameNames<drbd::ConnectionState>(0, 9, &drbd::ConnectionStateName,
                                         [](auto v) { return v1::ConnectionState::Value_Name(v); });
  ExpectSameNames<drbd::ReplicationState>(9, 23, &drbd::ReplicationStateName, [](auto v) {
    return v1::ReplicationState::Value_Name(v);
  });
}

TEST(Convert, WhatIsNotSetHasTheEnginesDefaults) {
  auto net = ToNetOptions({}, "");
  ASSERT_TRUE(net);
  EXPECT_EQ(net->protocol, drbd::Protocol::kC);
  EXPECT_EQ(net->timeout, 6s);
  EXPECT_TRUE(net->cram_hmac_alg.empty());
  auto disk = ToDiskOptions({});
  ASSERT_TRUE(disk);
  EXPECT_EQ(disk->al_extents, drbd::DiskOptions().al_extents);
  EXPECT_EQ(disk->on_io_error, drbd::OnIoError::kDetach);
  auto resync = ToResyncOptions({});
  ASSERT_TRUE(resync);
  EXPECT_EQ(resync->c_max_rate, drbd::ResyncOptions().c_max_rate);
}

TEST(Convert, WhatIsSetArrives) {
  v1::NetOptions net;
  net.set_protocol(v1::Protocol::A);
  net.set_ko_count(0);
  net.set_use_rle(false);
  net.set_on_congestion(v1::OnCongestion::PullAhead);
  net.set_congestion_fill(1 << 20);
  net.set_congestion_extents(100);
  net.set_after_sb_0pri(v1::SplitBrainPolicy::DiscardZeroChanges);
  *net.mutable_ping_timeout() = google::protobuf::util::TimeUtil::MillisecondsToDuration(700);
  auto to = ToNetOptions(net, "secret");
  ASSERT_TRUE(to) << to.error().ToString();
  EXPECT_EQ(to->protocol, drbd::Protocol::kA);
  EXPECT_EQ(to->ko_count, 0u);
  EXPECT_FALSE(to->use_rle);
  EXPECT_EQ(to->on_congestion, drbd::OnCongestion::kPullAhead);
  EXPECT_EQ(to->congestion_fill, 1u << 20);
  EXPECT_EQ(to->congestion_extents, 100u);
  EXPECT_EQ(to->after_sb_0pri, drbd::SplitBrainPolicy::kDiscardZeroChanges);
  EXPECT_EQ(to->ping_timeout, 700ms);
  EXPECT_EQ(to->cram_hmac_alg, "sha256");
  EXPECT_EQ(to->shared_secret, "secret");
}

template <typename T>
std::string Refusal(const T& result) {
  EXPECT_FALSE(result);
  if (result) return {};
  EXPECT_TRUE(result.error().code() == ErrorCode::kInvalidArgument ||
              result.error().code() == ErrorCode::kResourceExhausted);
  return result.error().message();
}

TEST(Convert, RefusesWhatIsOutOfRange) {
  v1::ResourceSpec resource;
  resource.set_name("r0");
  resource.set_node_id(32);
  EXPECT_THAT(Refusal(ToResourceConfig(resource)), HasSubstr("node_id is 32: allowed is 0 to 31"));

  v1::VolumeSpec volume;
  volume.set_number(65535);
  EXPECT_THAT(Refusal(ToVolumeConfig(volume)), HasSubstr("allowed is 0 to 65534"));
  volume.set_number(0);
  volume.set_size_bytes(4095);
  EXPECT_THAT(Refusal(ToVolumeConfig(volume)), HasSubstr("multiple of 4096"));
  volume.set_size_bytes(0);
  volume.set_metadata_backend("m");
  EXPECT_THAT(Refusal(ToVolumeConfig(volume)), HasSubstr("backend is not"));
  volume.set_backend("m");
  EXPECT_THAT(Refusal(ToVolumeConfig(volume)), HasSubstr("leave metadata_backend empty"));

  v1::DiskOptions disk;
  disk.set_al_extents(66);
  EXPECT_THAT(Refusal(ToDiskOptions(disk)), HasSubstr("67 to 65534"));
  disk.clear_al_extents();
  disk.set_rs_discard_granularity_bytes((1 << 20) + 1);
  EXPECT_THAT(Refusal(ToDiskOptions(disk)), HasSubstr("rs_discard_granularity"));
  disk.clear_rs_discard_granularity_bytes();
  disk.set_on_io_error(static_cast<v1::OnIoError::Value>(9));
  EXPECT_THAT(Refusal(ToDiskOptions(disk)), HasSubstr("9 is no known value"));

  v1::NetOptions net;
  net.mutable_timeout()->set_seconds(-5);
  EXPECT_THAT(Refusal(ToNetOptions(net, "")), HasSubstr("net.timeout"));
  net.mutable_timeout()->set_seconds(std::numeric_limits<int64_t>::max());
  EXPECT_THAT(Refusal(ToNetOptions(net, "")), HasSubstr("net.timeout"));
  net.clear_timeout();
  EXPECT_THAT(Refusal(ToNetOptions(net, std::string(64, 'x'))), HasSubstr("64 bytes"));
  net.set_on_congestion(v1::OnCongestion::Disconnect);
  EXPECT_THAT(Refusal(ToNetOptions(net, "")), HasSubstr("needs net.protocol A"));
  net.set_protocol(v1::Protocol::A);
  net.set_congestion_fill((uint64_t{10} << 30) + 1);
  EXPECT_THAT(Refusal(ToNetOptions(net, "")), HasSubstr("net.congestion_fill"));
  net.clear_congestion_fill();
  net.set_congestion_extents(66);
  EXPECT_THAT(Refusal(ToNetOptions(net, "")), HasSubstr("67 to 65534"));
  net.clear_congestion_extents();
  net.set_cram_hmac_alg("sha256");
  EXPECT_THAT(Refusal(ToNetOptions(net, "")), HasSubstr("shared_secret is needed"));
  net.set_cram_hmac_alg("SHA 256");
  EXPECT_THAT(Refusal(ToNetOptions(net, "x")), HasSubstr("algorithm"));
}

TEST(Convert, RefusesBadPaths) {
  v1::ConnectionSpec spec;
  spec.set_peer_node_id(1);
  v1::Path* path = spec.add_paths();
  path->set_local("10.0.0.1:7789");
  path->set_remote("n2:7789");
  EXPECT_THAT(Refusal(ToPeerConfig(spec, "")), HasSubstr("path.remote"));
  path->set_remote("[fe80::1]:7789");
  EXPECT_THAT(Refusal(ToPeerConfig(spec, "")), HasSubstr("same address family"));
  path->set_remote("10.0.0.2:7789");
  EXPECT_TRUE(ToPeerConfig(spec, ""));
  for (int i = 0; i < 16; ++i) *spec.add_paths() = spec.paths(0);
  EXPECT_THAT(Refusal(ToPeerConfig(spec, "")), HasSubstr("at most 16"));
}

TEST(Convert, RefusesBadBackends) {
  v1::BackendSpec spec;
  spec.set_name("disk0");
  EXPECT_THAT(Refusal(ToBackendSetup(spec)), HasSubstr("not an absolute path"));
  spec.set_path("relative");
  EXPECT_THAT(Refusal(ToBackendSetup(spec)), HasSubstr("not an absolute path"));
  spec.set_path("/disk");
  spec.set_create(true);
  EXPECT_THAT(Refusal(ToBackendSetup(spec)), HasSubstr("needs its size"));
  spec.set_size_bytes(1000);
  EXPECT_THAT(Refusal(ToBackendSetup(spec)), HasSubstr("multiple of 4096"));
  spec.set_size_bytes(uint64_t{1} << 61);
  EXPECT_THAT(Refusal(ToBackendSetup(spec)), HasSubstr("1 EiB"));
}

TEST(Convert, RefusesBadTargets) {
  v1::TargetSpec spec;
  spec.set_name("disk");
  EXPECT_THAT(Refusal(ToTargetSetup(spec, "", "")), HasSubstr("iqn."));
  spec.set_name("iqn.2026-01.example:Disk");
  EXPECT_THAT(Refusal(ToTargetSetup(spec, "", "")), HasSubstr("lower case"));
  spec.set_name("iqn.2026-01.example:disk");
  EXPECT_TRUE(ToTargetSetup(spec, "", ""));
  spec.mutable_chap()->set_user("u");
  EXPECT_THAT(Refusal(ToTargetSetup(spec, "short", "")), HasSubstr("12 to 255"));
  spec.mutable_mutual_chap()->set_user("u");
  EXPECT_THAT(Refusal(ToTargetSetup(spec, "123456789012", "123456789012")),
              HasSubstr("must differ"));
  spec.clear_chap();
  EXPECT_THAT(Refusal(ToTargetSetup(spec, "", "123456789012")), HasSubstr("needs chap"));
}

TEST(Names, RefusesWhatWouldNotFitAFileNameOrALog) {
  for (const std::string bad : {"", "all", "-x", ".x", "a b", "a/b", "a\nb", "ü"}) {
    EXPECT_FALSE(CheckName("thing", bad)) << bad;
  }
  EXPECT_FALSE(CheckName("thing", std::string(65, 'a')));
  for (const std::string good : {"r0", "0", "a.b_c+d-e"}) EXPECT_TRUE(CheckName("thing", good));
  EXPECT_THAT(CheckName("thing", "a\nb").error().message(), Not(HasSubstr("\n")));
}

TEST(Convert, SyncProgressNeverLeavesItsRange) {
  drbd::ConnectionStatus from;
  from.peer_node_id = 1;
  drbd::PeerVolumeStatus& volume = from.volumes.emplace_back();
  volume.replication = drbd::ReplicationState::kSyncTarget;
  volume.sync = drbd::SyncProgress{.total_bytes = 100, .left_bytes = 250};
  v1::Connection to;
  FillConnectionStatus("r0", from, &to);
  EXPECT_EQ(to.volumes(0).sync().done_percent(), 0);
  EXPECT_EQ(to.volumes(0).sync().left_bytes(), 100u);
}

}  // namespace
}  // namespace umblock::server
