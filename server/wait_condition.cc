#include "server/wait_condition.h"

#include "server/convert.h"
#include "server/names.h"
#include "umblock/v1/event.pb.h"

namespace umblock::server {
namespace {

using v1::WaitRequest;

const std::string& DiskName(drbd::DiskState state) {
  return v1::DiskState::Value_Name(ToProto(state));
}

bool Selected(const WaitRequest& request, const drbd::ConnectionStatus& connection) {
  return !request.has_peer_node_id() ||
         request.peer_node_id() == static_cast<uint32_t>(connection.peer_node_id);
}

bool SelectedVolume(const WaitRequest& request, int number) {
  return !request.has_volume() || request.volume() == static_cast<uint32_t>(number);
}

Status CheckSelection(const WaitRequest& request, const drbd::ResourceStatus& status) {
  bool peer = !request.has_peer_node_id();
  for (const auto& connection : status.connections) peer = peer || Selected(request, connection);
  if (!peer) {
    return MakeError(ErrorCode::kNotFound, "resource '{}' has no peer with node id {}", status.name,
                     request.peer_node_id());
  }
  bool volume = !request.has_volume();
  for (const auto& v : status.volumes) volume = volume || SelectedVolume(request, v.number);
  if (!volume) {
    return MakeError(ErrorCode::kNotFound, "resource '{}' has no volume {}", status.name,
                     request.volume());
  }
  return Ok();
}

std::string MissingConnection(const WaitRequest& request, const drbd::ResourceStatus& status,
                              drbd::ConnectionState wanted) {
  if (status.connections.empty() && wanted == drbd::ConnectionState::kConnected) {
    return fmt::format("resource '{}' has no connections", status.name);
  }
  for (const auto& connection : status.connections) {
    if (!Selected(request, connection) || connection.state == wanted) continue;
    return fmt::format("{} is {}{}{}",
                       ConnectionName(status.name, static_cast<uint32_t>(connection.peer_node_id)),
                       v1::ConnectionState::Value_Name(ToProto(connection.state)),
                       connection.last_error.empty() ? "" : ": ", connection.last_error);
  }
  return {};
}

std::string MissingDisk(const WaitRequest& request, const drbd::ResourceStatus& status,
                        v1::DiskState::Value wanted) {
  if (status.volumes.empty()) return fmt::format("resource '{}' has no volumes", status.name);
  for (const auto& volume : status.volumes) {
    if (!SelectedVolume(request, volume.number) || ToProto(volume.disk) == wanted) continue;
    return fmt::format("{} is {} here",
                       VolumeName(status.name, static_cast<uint32_t>(volume.number)),
                       DiskName(volume.disk));
  }
  return {};
}

std::string MissingPeerSync(const WaitRequest& request, const drbd::ResourceStatus& status) {
  for (const auto& connection : status.connections) {
    if (!Selected(request, connection)) continue;
    for (const auto& volume : connection.volumes) {
      if (!SelectedVolume(request, volume.volume)) continue;
      if (volume.peer_disk == drbd::DiskState::kUpToDate &&
          volume.replication == drbd::ReplicationState::kEstablished) {
        continue;
      }
      return fmt::format("{} is {}, the peer's disk {}",
                         PeerVolumeName(status.name, static_cast<uint32_t>(connection.peer_node_id),
                                        static_cast<uint32_t>(volume.volume)),
                         v1::ReplicationState::Value_Name(ToProto(volume.replication)),
                         DiskName(volume.peer_disk));
    }
  }
  return {};
}

std::string MissingSync(const WaitRequest& request, const drbd::ResourceStatus& status) {
  std::string missing = MissingConnection(request, status, drbd::ConnectionState::kConnected);
  if (missing.empty()) missing = MissingPeerSync(request, status);
  if (missing.empty()) missing = MissingDisk(request, status, v1::DiskState::UpToDate);
  return missing;
}

std::string MissingRole(const WaitRequest& request, const drbd::ResourceStatus& status) {
  if (ToProto(status.role) == request.role()) return {};
  return fmt::format("resource '{}' is {}", status.name,
                     v1::Role::Value_Name(ToProto(status.role)));
}

}  // namespace

std::string PromotionObstacle(const drbd::ResourceStatus& status) {
  if (status.role == drbd::Role::kPrimary) return {};
  if (status.volumes.empty()) return "no volumes";
  for (const auto& connection : status.connections) {
    if (connection.peer_role == drbd::Role::kPrimary) {
      return fmt::format("{} is Primary",
                         connection.peer_name.empty()
                             ? fmt::format("the peer with node id {}", connection.peer_node_id)
                             : connection.peer_name);
    }
  }
  for (const auto& volume : status.volumes) {
    if (!volume.quorum) return fmt::format("volume {} has no quorum", volume.number);
    bool data = volume.disk == drbd::DiskState::kUpToDate;
    for (const auto& connection : status.connections) {
      for (const auto& peer : connection.volumes) {
        data =
            data || (peer.volume == volume.number && peer.peer_disk == drbd::DiskState::kUpToDate &&
                     connection.state == drbd::ConnectionState::kConnected);
      }
    }
    if (!data) {
      return fmt::format("volume {} is {} and no peer has it UpToDate", volume.number,
                         DiskName(volume.disk));
    }
  }
  return {};
}

Result<std::string> MissingFor(const WaitRequest& request, const drbd::ResourceStatus& status) {
  UMBLOCK_TRY(CheckSelection(request, status));
  switch (request.condition()) {
    case WaitRequest::CONNECTED:
      return MissingConnection(request, status, drbd::ConnectionState::kConnected);
    case WaitRequest::DISCONNECTED:
      return MissingConnection(request, status, drbd::ConnectionState::kStandAlone);
    case WaitRequest::SYNCED:
      return MissingSync(request, status);
    case WaitRequest::ROLE:
      if (request.role() == v1::Role::UNSPECIFIED) {
        return MakeError(ErrorCode::kInvalidArgument, "a wait for ROLE needs the role");
      }
      return MissingRole(request, status);
    case WaitRequest::PROMOTABLE:
      return PromotionObstacle(status);
    case WaitRequest::DISK:
      if (request.disk() == v1::DiskState::UNSPECIFIED) {
        return MakeError(ErrorCode::kInvalidArgument, "a wait for DISK needs the disk state");
      }
      return MissingDisk(request, status, request.disk());
    default:
      return MakeError(ErrorCode::kInvalidArgument, "a wait needs a condition");
  }
}

}  // namespace umblock::server
