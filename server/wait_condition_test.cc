#include "server/wait_condition.h"

#include <gtest/gtest.h>

#include "umblock/v1/event.pb.h"

namespace umblock::server {
namespace {

using v1::WaitRequest;

drbd::ResourceStatus Healthy() {
  drbd::ResourceStatus status;
  status.name = "r0";
  status.role = drbd::Role::kSecondary;
  status.volumes.push_back({.number = 0, .disk = drbd::DiskState::kUpToDate});
  drbd::ConnectionStatus& peer = status.connections.emplace_back();
  peer.peer_node_id = 1;
  peer.peer_name = "n2";
  peer.state = drbd::ConnectionState::kConnected;
  peer.peer_role = drbd::Role::kSecondary;
  peer.volumes.push_back({.volume = 0,
                          .replication = drbd::ReplicationState::kEstablished,
                          .peer_disk = drbd::DiskState::kUpToDate});
  return status;
}

std::string Missing(WaitRequest::Condition condition, const drbd::ResourceStatus& status,
                    WaitRequest request = {}) {
  request.set_condition(condition);
  auto missing = MissingFor(request, status);
  return missing ? *missing : missing.error().ToString();
}

TEST(WaitCondition, HoldsWhenAllIsWell) {
  EXPECT_EQ(Missing(WaitRequest::CONNECTED, Healthy()), "");
  EXPECT_EQ(Missing(WaitRequest::SYNCED, Healthy()), "");
  EXPECT_EQ(Missing(WaitRequest::PROMOTABLE, Healthy()), "");
}

TEST(WaitCondition, NamesWhatIsMissing) {
  drbd::ResourceStatus status = Healthy();
  status.connections[0].state = drbd::ConnectionState::kConnecting;
  status.connections[0].last_error = "no route";
  EXPECT_EQ(Missing(WaitRequest::CONNECTED, status), "connection r0/1 is Connecting: no route");
  EXPECT_EQ(Missing(WaitRequest::SYNCED, status), "connection r0/1 is Connecting: no route");
  EXPECT_EQ(Missing(WaitRequest::DISCONNECTED, status), "connection r0/1 is Connecting: no route");
  status = Healthy();
  status.connections[0].volumes[0].replication = drbd::ReplicationState::kSyncSource;
  EXPECT_EQ(Missing(WaitRequest::SYNCED, status),
            "peer-volume r0/1/0 is SyncSource, the peer's disk UpToDate");
  status = Healthy();
  status.volumes[0].disk = drbd::DiskState::kInconsistent;
  EXPECT_EQ(Missing(WaitRequest::SYNCED, status), "volume r0/0 is Inconsistent here");
}

TEST(WaitCondition, AResourceWithoutPeersIsNotConnected) {
  drbd::ResourceStatus status = Healthy();
  status.connections.clear();
  EXPECT_EQ(Missing(WaitRequest::CONNECTED, status), "resource 'r0' has no connections");
  EXPECT_EQ(Missing(WaitRequest::SYNCED, status), "resource 'r0' has no connections");
  EXPECT_EQ(Missing(WaitRequest::DISCONNECTED, status), "");
}

TEST(WaitCondition, RoleAndDisk) {
  WaitRequest request;
  request.set_role(v1::Role::Primary);
  EXPECT_EQ(Missing(WaitRequest::ROLE, Healthy(), request), "resource 'r0' is Secondary");
  request.set_disk(v1::DiskState::Diskless);
  EXPECT_EQ(Missing(WaitRequest::DISK, Healthy(), request), "volume r0/0 is UpToDate here");
  request.set_disk(v1::DiskState::UpToDate);
  EXPECT_EQ(Missing(WaitRequest::DISK, Healthy(), request), "");
}

TEST(WaitCondition, RefusesNonsense) {
  EXPECT_EQ(Missing(WaitRequest::UNSPECIFIED, Healthy()),
            "invalid_argument: a wait needs a condition");
  EXPECT_EQ(Missing(WaitRequest::ROLE, Healthy()),
            "invalid_argument: a wait for ROLE needs the role");
  EXPECT_EQ(Missing(WaitRequest::DISK, Healthy()),
            "invalid_argument: a wait for DISK needs the disk state");
  WaitRequest peer;
  peer.set_peer_node_id(5);
  EXPECT_EQ(Missing(WaitRequest::CONNECTED, Healthy(), peer),
            "not_found: resource 'r0' has no peer with node id 5");
  WaitRequest volume;
  volume.set_volume(3);
  EXPECT_EQ(Missing(WaitRequest::SYNCED, Healthy(), volume),
            "not_found: resource 'r0' has no volume 3");
}

TEST(WaitCondition, PromotionObstacles) {
  drbd::ResourceStatus status = Healthy();
  status.connections[0].peer_role = drbd::Role::kPrimary;
  EXPECT_EQ(PromotionObstacle(status), "n2 is Primary");
  status = Healthy();
  status.volumes[0].disk = drbd::DiskState::kOutdated;
  EXPECT_EQ(PromotionObstacle(status), "");  // the peer has the data
  status.connections[0].state = drbd::ConnectionState::kConnecting;
  EXPECT_EQ(PromotionObstacle(status), "volume 0 is Outdated and no peer has it UpToDate");
  status = Healthy();
  status.volumes[0].quorum = false;
  EXPECT_EQ(PromotionObstacle(status), "volume 0 has no quorum");
  status.volumes.clear();
  EXPECT_EQ(PromotionObstacle(status), "no volumes");
}

}  // namespace
}  // namespace umblock::server
