#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

#include "umblock/v1/node.pb.h"

namespace umblock::server {
namespace {

using ::testing::HasSubstr;

// One of everything.
v1::NodeStatus FullStatus() {
  v1::NodeStatus status;
  status.mutable_node()->set_version("1.2.3");
  (*status.mutable_node()->mutable_runtime_counters())["turns"] = 12;
  status.add_backends()->mutable_spec()->set_name("disk0");
  v1::Resource* resource = status.add_resources();
  resource->mutable_spec()->set_name("r0");
  resource->mutable_status()->set_role(v1::Role::Primary);
  v1::Volume* volume = resource->add_volumes();
  volume->mutable_spec()->set_resource("r0");
  volume->mutable_status()->set_disk(v1::DiskState::UpToDate);
  v1::VolumeStatistics* statistics = volume->mutable_status()->mutable_statistics();
  statistics->set_write_bytes(4096);
  v1::LatencyHistogram* latency = statistics->mutable_write_latency();
  for (int i = 0; i < 24; ++i) latency->add_bucket_counts(i == 3 ? 2 : i == 23 ? 1 : 0);
  latency->set_count(3);
  latency->mutable_total()->set_nanos(12000);
  v1::Connection* connection = resource->add_connections();
  connection->mutable_spec()->set_resource("r0");
  connection->mutable_spec()->set_peer_node_id(1);
  connection->mutable_spec()->set_peer_name("n\"2\n");
  v1::PeerVolume* peer = connection->add_volumes();
  peer->set_replication(v1::ReplicationState::SyncSource);
  peer->set_out_of_sync_bytes(8192);
  peer->mutable_sync()->set_total_bytes(16384);
  peer->mutable_sync()->set_done_percent(50);
  status.add_portals()->mutable_spec()->set_address("0.0.0.0:3260");
  v1::Target* target = status.add_targets();
  target->mutable_spec()->set_name("iqn.2026-01.example:t");
  target->add_luns()->mutable_spec()->set_target("iqn.2026-01.example:t");
  target->add_sessions()->set_initiator("iqn.2026-01.example:i");
  status.add_exports()->mutable_spec()->set_name("r0-0");
  return status;
}

std::string Text(const v1::NodeStatus& status) {
  return prometheus::TextSerializer().Serialize(NodeMetrics(status));
}

TEST(Metrics, SaysWhatIs) {
  const std::string text = Text(FullStatus());
  EXPECT_THAT(text,
              HasSubstr("umblock_volume_written_bytes_total{resource=\"r0\",volume=\"0\"} 4096"));
  EXPECT_THAT(text, HasSubstr("umblock_resource_role{resource=\"r0\",state=\"Primary\"} 1"));
  EXPECT_THAT(text, HasSubstr("umblock_resource_role{resource=\"r0\",state=\"Secondary\"} 0"));
  EXPECT_THAT(text, HasSubstr("state=\"SyncSource\"} 1"));
  EXPECT_THAT(text, HasSubstr("peer=\"n\\\"2\\n\""));
  EXPECT_THAT(text, HasSubstr("umblock_runtime_turns_total 12"));
}

TEST(Metrics, HistogramsAreCumulativeInSeconds) {
  const std::string text = Text(FullStatus());
  const std::string name = "umblock_volume_write_latency_seconds";
  EXPECT_THAT(text, HasSubstr(name + "_bucket{resource=\"r0\",volume=\"0\",le=\"4e-06\"} 0"));
  EXPECT_THAT(text, HasSubstr(name + "_bucket{resource=\"r0\",volume=\"0\",le=\"8e-06\"} 2"));
  EXPECT_THAT(text, HasSubstr(name + "_bucket{resource=\"r0\",volume=\"0\",le=\"+Inf\"} 3"));
  EXPECT_THAT(text, HasSubstr(name + "_count{resource=\"r0\",volume=\"0\"} 3"));
  EXPECT_THAT(text, HasSubstr(name + "_sum{resource=\"r0\",volume=\"0\"} 1.2"));
}

// What promtool check metrics looks for.
TEST(Metrics, NamesFollowTheConventions) {
  for (const prometheus::MetricFamily& family : NodeMetrics(FullStatus())) {
    SCOPED_TRACE(family.name);
    EXPECT_TRUE(family.name.starts_with("umblock_"));
    EXPECT_TRUE(std::ranges::all_of(family.name, [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
    }));
    EXPECT_FALSE(family.help.empty());
    EXPECT_EQ(family.name.ends_with("_total"), family.type == prometheus::MetricType::Counter);
    EXPECT_FALSE(family.metric.empty());
    for (const char* bad : {"_kb", "_mb", "_milliseconds", "_ms_", "_percent"}) {
      EXPECT_EQ(family.name.find(bad), std::string::npos);
    }
    std::set<std::string> seen;
    for (const prometheus::ClientMetric& metric : family.metric) {
      std::string key;
      std::set<std::string> labels;
      for (const auto& label : metric.label) {
        EXPECT_TRUE(labels.insert(label.name).second) << label.name;
        EXPECT_NE(label.name, "le");
        key += label.name + "=" + label.value + ",";
      }
      EXPECT_TRUE(seen.insert(key).second) << "twice: " << key;
    }
  }
}

TEST(Metrics, OneHelpAndOneTypePerName) {
  std::istringstream text(Text(FullStatus()));
  std::set<std::string> help;
  std::set<std::string> type;
  for (std::string line; std::getline(text, line);) {
    std::istringstream words(line);
    std::string hash, kind, name;
    words >> hash >> kind >> name;
    if (hash != "#") continue;
    EXPECT_TRUE((kind == "HELP" ? help : type).insert(name).second) << line;
  }
  EXPECT_EQ(help, type);
}

TEST(Metrics, EachIsDocumented) {
  std::ifstream file(std::string(UMBLOCK_SOURCE_DIR) + "/docs/metrics.md");
  ASSERT_TRUE(file);
  std::stringstream page;
  page << file.rdbuf();
  for (const prometheus::MetricFamily& family : NodeMetrics(FullStatus())) {
    if (family.name.starts_with("umblock_runtime_")) continue;  // documented as a group
    EXPECT_THAT(page.str(), HasSubstr("`" + family.name + "`"));
  }
}

}  // namespace
}  // namespace umblock::server
