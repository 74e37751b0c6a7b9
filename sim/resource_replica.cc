#include "sim/resource_replica.h"

#include <fmt/core.h>

namespace umblock::sim {
namespace {

constexpr Duration kFenceTimeout = 5s;

}  // namespace

ResourceReplica::ResourceReplica(SimNode& node, const ReplicaSetup& setup,
                                 std::function<void()> on_change)
    : reactor_(*node.reactor()),
      setup_(setup),
      peer_(1 - setup.node),
      on_change_(std::move(on_change)) {
  drbd::ResourceConfig config{.name = "r0", .node_id = setup.node, .options = setup.resource};
  if (setup.fence != nullptr) {
    programs_ = std::make_unique<FenceRunner>(reactor_, setup.fence);
    config.handlers.path(drbd::Handler::kFencePeer) = kFencePath;
    config.handlers.timeout = kFenceTimeout;
  }
  resource_ = std::make_unique<drbd::Resource>(reactor_, std::move(config), this, programs_.get());
}

ReplicaFactory ResourceReplica::Factory() {
  return [](SimNode& node, const ReplicaSetup& setup, std::function<void()> on_change) {
    return node.Make<ResourceReplica>(node, setup, std::move(on_change));
  };
}

Task<Status> ResourceReplica::OpenDisks() {
  if (data_ != nullptr) co_return Ok();
  auto data = co_await OpenBackend(reactor_, {.name = "data", .path = kDataPath});
  if (!data) co_return std::unexpected(data.error());
  data_ = std::move(*data);
  if (!setup_.external_metadata) co_return Ok();
  auto metadata = co_await OpenBackend(reactor_, {.name = "metadata", .path = kMetaPath});
  if (!metadata) co_return std::unexpected(metadata.error());
  metadata_ = std::move(*metadata);
  co_return Ok();
}

Task<Status> ResourceReplica::Format() {
  UMBLOCK_CO_TRY(co_await OpenDisks());
  co_return co_await drbd::CreateMetadata(
      {.backing = data_.get(), .metadata = metadata_.get(), .max_peers = 1, .force = true});
}

Task<Status> ResourceReplica::Start() {
  UMBLOCK_CO_TRY(co_await OpenDisks());
  drbd::VolumeConfig volume{.number = kVolume, .size = setup_.volume_bytes};
  volume.disk = setup_.disk;
  volume.disk.al_extents = setup_.al_extents;
  UMBLOCK_CO_TRY(resource_->AddVolume(volume));
  drbd::PeerConfig peer{.node_id = peer_, .name = peer_ == 0 ? "alfa" : "bravo"};
  peer.paths.push_back({setup_.local, setup_.remote});
  peer.net = setup_.net;
  peer.resync = setup_.resync;
  UMBLOCK_CO_TRY(resource_->AddPeer(peer));
  co_return Ok();
}

Task<Status> ResourceReplica::Attach() {
  return resource_->Attach(
      {.volume = kVolume,
       .backing = data_.get(),
       .metadata = metadata_.get(),
       .last_known_size = setup_.external_metadata ? 0 : setup_.last_known_size});
}

Task<void> ResourceReplica::Stop() {
  co_await resource_->Stop();
  if (metadata_ != nullptr) co_await metadata_->Stop();
  co_await data_->Stop();
}

void ResourceReplica::OnStateChange(const std::vector<drbd::StateEvent>&) { on_change_(); }

ReplicaState ResourceReplica::state() {
  const drbd::ResourceStatus status = resource_->status();
  ReplicaState state;
  state.primary = status.role == drbd::Role::kPrimary;
  state.drain_ordering = status.write_ordering == "drain";
  state.text = fmt::format("{}", drbd::RoleName(status.role));
  for (const drbd::VolumeStatus& volume : status.volumes) {
    state.disk = volume.disk;
    state.size = volume.size_bytes;
    state.backing_bytes = volume.backing_bytes;
    state.disk_timeouts = volume.counters.disk_timeouts;
    state.pending += volume.counters.upper_pending + volume.counters.lower_pending;
    // A write that every node has holds no extent, also where it came from a peer (INV-25).
    state.pending += volume.counters.al_in_use;
    state.text += fmt::format(" {} extents in use {}", drbd::DiskStateName(volume.disk),
                              volume.counters.al_in_use);
  }
  for (const drbd::ConnectionStatus& connection : status.connections) {
    state.connection = connection.state;
    state.peer_primary = connection.peer_role == drbd::Role::kPrimary;
    state.pending += connection.ap_in_flight_bytes + connection.rs_in_flight_bytes;
    state.text += fmt::format(" {}", drbd::ConnectionStateName(connection.state));
    if (!connection.last_error.empty()) state.text += fmt::format("({})", connection.last_error);
    for (const drbd::PeerVolumeStatus& peer : connection.volumes) {
      state.replication = peer.replication;
      state.peer_disk = peer.peer_disk;
      state.out_of_sync = peer.out_of_sync_bytes;
      state.verify = peer.verify;
      state.pending += peer.pending + peer.unacked;
      state.text += fmt::format(" {} peer {} out-of-sync {} pending {} unacked {}",
                                drbd::ReplicationStateName(peer.replication),
                                drbd::DiskStateName(peer.peer_disk), peer.out_of_sync_bytes,
                                peer.pending, peer.unacked);
    }
  }
  state.suspended = status.suspended != "no";
  if (state.suspended) state.text += " suspended: " + status.suspended;
  return state;
}

}  // namespace umblock::sim
