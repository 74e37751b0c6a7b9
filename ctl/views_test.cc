#include "ctl/views.h"

#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include "ctl/status_command.h"
#include "umblock/v1/event.pb.h"
#include "umblock/v1/node.pb.h"

namespace umblock::ctl {
namespace {

template <typename T>
T FromText(const std::string& text) {
  T message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message));
  return message;
}

// What was lost is in the snapshot that follows: a follower that hides it shows stale states.
TEST(FollowFilter, ShowsTheSnapshotAfterEventsWereLost) {
  FollowFilter filter("volume ");
  const auto event = [](v1::Event::Type type, const std::string& object) {
    v1::Event made;
    made.set_type(type);
    made.set_object(object);
    return made;
  };
  EXPECT_FALSE(filter.Wants(event(v1::Event::EXISTS, "volume r0/0")));
  EXPECT_FALSE(filter.Wants(event(v1::Event::BOOKMARK, "")));
  EXPECT_TRUE(filter.Wants(event(v1::Event::CHANGED, "volume r0/0")));
  EXPECT_FALSE(filter.Wants(event(v1::Event::CHANGED, "resource r0")));
  EXPECT_TRUE(filter.Wants(event(v1::Event::START_OVER, "")));
  EXPECT_TRUE(filter.Wants(event(v1::Event::EXISTS, "volume r0/0")));
  EXPECT_FALSE(filter.Wants(event(v1::Event::EXISTS, "resource r0")));
  EXPECT_FALSE(filter.Wants(event(v1::Event::BOOKMARK, "")));
  EXPECT_FALSE(filter.Wants(event(v1::Event::EXISTS, "volume r0/0")));
}

v1::NodeStatus TwoNodes() {
  return FromText<v1::NodeStatus>(R"(
    resources {
      spec { name: "r0" node_id: 0 }
      status { role: Primary suspended: "no" write_ordering: "flush" }
      volumes {
        spec { resource: "r0" number: 0 backend: "disk0" }
        status {
          disk: UpToDate attached_backend: "backend disk0" size_bytes: 1048576 quorum: true
          openers: "fuse r0-0 pid 7"
          statistics { read_bytes: 4096 write_bytes: 8192 al_writes: 1 }
        }
      }
      volumes {
        spec { resource: "r0" number: 1 }
        status { disk: Diskless disk_reason: "backend 'disk1' is not ready: no such file" quorum: true }
      }
      connections {
        spec { resource: "r0" peer_node_id: 1 peer_name: "n2" }
        status { state: Connected peer_role: Secondary agreed_protocol: 122 }
        volumes {
          resource: "r0" peer_node_id: 1 number: 0 replication: SyncSource peer_disk: Inconsistent
          resync_suspended: "no" out_of_sync_bytes: 786432 sent_bytes: 262144
          sync {
            total_bytes: 1048576 left_bytes: 786432 done_percent: 25 rate_bytes_per_second: 12582912
            eta { seconds: 30 }
          }
        }
        volumes {
          resource: "r0" peer_node_id: 1 number: 1 replication: Established peer_disk: UpToDate
          resync_suspended: "no"
        }
      }
      connections {
        spec { resource: "r0" peer_node_id: 2 }
        status { state: Connecting peer_role: Unknown last_error: "connection refused" }
      }
    }
    node { problems { object: "backend disk1" reason: "no such file" } })");
}

TEST(Views, Status) {
  EXPECT_EQ(RenderStatus(TwoNodes(), {}),
            "r0 role:Primary\n"
            "  volume:0 disk:UpToDate open:yes\n"
            "  volume:1 disk:Diskless open:no\n"
            "      reason: backend 'disk1' is not ready: no such file\n"
            "  n2 role:Secondary\n"
            "    volume:0 replication:SyncSource peer-disk:Inconsistent done:25.00\n"
            "    volume:1 peer-disk:UpToDate\n"
            "  node 2 connection:Connecting\n"
            "      reason: connection refused\n"
            "\n"
            "problem: backend disk1: no such file\n");
}

TEST(Views, StatusInDetail) {
  v1::NodeStatus status = TwoNodes();
  status.mutable_resources(0)->mutable_volumes()->RemoveLast();
  status.mutable_resources(0)->mutable_connections()->RemoveLast();
  status.mutable_resources(0)->mutable_connections(0)->mutable_volumes()->RemoveLast();
  status.clear_node();
  EXPECT_EQ(RenderStatus(status, {.verbose = true, .statistics = true}),
            "r0 node-id:0 role:Primary suspended:no write-ordering:flush\n"
            "  volume:0 disk:UpToDate backend:disk0 size:1048576 quorum:yes open:yes\n"
            "      open by: fuse r0-0 pid 7\n"
            "      read:4096 written:8192 al-writes:1 al-in-use:0 bm-writes:0 upper-pending:0 "
            "lower-pending:0\n"
            "  n2 node-id:1 connection:Connected role:Secondary protocol:122\n"
            "    volume:0 replication:SyncSource peer-disk:Inconsistent done:25.00 "
            "resync-suspended:no\n"
            "        received:0 sent:262144 out-of-sync:786432 pending:0 unacked:0\n"
            "\n");
  // A single volume 0 goes without its number.
  EXPECT_EQ(RenderStatus(status, {}),
            "r0 role:Primary\n"
            "  disk:UpToDate open:yes\n"
            "  n2 role:Secondary\n"
            "    replication:SyncSource peer-disk:Inconsistent done:25.00\n"
            "\n");
}

TEST(Views, EmptyStatus) {
  EXPECT_EQ(RenderStatus({}, {}), "# No resources are configured here.\n");
}

TEST(Views, Tables) {
  v1::ListBackendsResponse backends = FromText<v1::ListBackendsResponse>(R"(
    backends {
      spec { name: "disk0" kind: File path: "/disks/disk0.img" }
      status { ready: true size_bytes: 1073741824 used_by: "volume r0/0" }
    }
    backends {
      spec { name: "b" kind: Ram path: "/dev/shm/b" }
      status { reason: "no such file" }
    })");
  EXPECT_EQ(RenderMessage(backends),
            "NAME   KIND  READY  SIZE     PATH              USED-BY      REASON\n"
            "disk0  File  yes    1.0 GiB  /disks/disk0.img  volume r0/0  -\n"
            "b      Ram   no     0 B      /dev/shm/b        -            no such file\n");
  EXPECT_EQ(RenderMessage(v1::ListResourcesResponse()),
            "NAME  NODE-ID  ROLE  VOLUMES  CONNECTIONS  PROMOTABLE\n");
  EXPECT_EQ(RenderMessage(v1::DeleteBackendResponse()), "");
}

TEST(Views, Progress) {
  const auto lines = RenderProgress(TwoNodes().resources(0), 20);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0], "r0/0 with n2: [#####               ] 25.0% 12.0 MiB/s eta 30s");
}

TEST(Views, Events) {
  EXPECT_EQ(RenderEvent(FromText<v1::Event>(R"(
              type: CHANGED object: "peer-volume r0/1/0"
              changes { attribute: "replication" old_value: "Off" new_value: "Established"
                        reason: "handshake" }
              changes { attribute: "peer-disk" new_value: "UpToDate" })")),
            "change peer-volume r0/1/0 replication: Off -> Established (handshake), "
            "peer-disk: - -> UpToDate");
  EXPECT_EQ(RenderEvent(FromText<v1::Event>(
                R"(type: EXISTS object: "volume r0/0" volume { status { disk: UpToDate } })")),
            "exists volume r0/0 disk:UpToDate");
  EXPECT_EQ(RenderEvent(FromText<v1::Event>("type: BOOKMARK")), "exists -");
  EXPECT_EQ(RenderEvent(FromText<v1::Event>(R"(type: DELETED object: "backend b")")),
            "destroy backend b");
}

TEST(Views, Bytes) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(UINT64_MAX), "16.0 EiB");
}

}  // namespace
}  // namespace umblock::ctl
