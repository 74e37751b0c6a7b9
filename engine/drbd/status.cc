#include "engine/drbd/status.h"

#include <algorithm>
#include <bit>

#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {

void LatencyHistogram::Add(Duration latency) {
  auto ns = static_cast<uint64_t>(std::max<int64_t>(latency.count(), 0));
  uint64_t us = ns / 1000;
  int bucket = std::min<int>(std::bit_width(us), kBuckets - 1);
  ++counts[static_cast<size_t>(bucket)];
  total_ns += ns;
  ++count;
}

namespace {

std::string Joined(std::initializer_list<std::pair<bool, const char*>> reasons) {
  std::string text;
  for (const auto& [on, word] : reasons) {
    if (!on) continue;
    if (!text.empty()) text += ',';
    text += word;
  }
  return text.empty() ? "no" : text;
}

PeerVolumeStatus StatusOf(PeerDevice& device) {
  const PeerDeviceState& state = device.state();
  PeerVolumeStatus result;
  result.volume = device.volume_number();
  result.replication = state.repl;
  result.peer_disk = state.disk;
  result.resync_suspended =
      Joined({{state.resync_susp_user, "user"},
              {state.resync_susp_peer, "peer"},
              {state.resync_susp_dependency || state.resync_susp_other, "dependency"}});
  result.out_of_sync_bytes = device.out_of_sync_bits() * 4096;
  result.received_bytes = device.received_bytes;
  result.sent_bytes = device.sent_bytes;
  result.equal_bytes = device.equal_bytes;
  result.deallocated_bytes = device.deallocated_bytes;
  result.pending = device.pending;
  result.unacked = device.unacked;
  if (state.repl == ReplicationState::kSyncTarget || state.repl == ReplicationState::kPausedSyncT) {
    result.sync = device.target.progress();
  } else if (state.repl == ReplicationState::kSyncSource ||
             state.repl == ReplicationState::kPausedSyncS) {
    result.sync = device.source.progress();
  } else if (state.repl == ReplicationState::kVerifyS) {
    result.sync = device.verify_source.progress();
  } else if (state.repl == ReplicationState::kVerifyT) {
    result.sync = device.verify_target.progress();
  }
  if (device.verify.begun()) result.verify = device.verify.status();
  result.handshake = device.handshake;
  return result;
}

}  // namespace

ResourceStatus ResourceImpl::status() const {
  ResourceStatus result;
  result.name = name();
  result.node_id = own_node();
  result.role = state_.role;
  bool fencing = false;
  for (const PeerState& peer : state_.peers) fencing = fencing || peer.susp_fen;
  result.suspended = Joined({{state_.susp_user, "user"},
                             {state_.susp_nod, "no-data"},
                             {fencing, "fencing"},
                             {state_.susp_quorum, "quorum"}});
  result.write_ordering = write_ordering();
  for (const auto& [number, of] : volumes_) result.volumes.push_back(of->status());
  for (const auto& [node, link] : connections_) {
    ConnectionStatus connection;
    connection.peer_node_id = node;
    connection.peer_name = link->config().name;
    if (!link->config().paths.empty()) {
      connection.local_address = link->config().paths[0].local.ToString();
      connection.remote_address = link->config().paths[0].remote.ToString();
    }
    connection.state = link->state().connection;
    connection.peer_role = link->state().role;
    connection.agreed_protocol = static_cast<uint32_t>(link->agreed_protocol());
    connection.agreed_features = link->agreed_features();
    connection.ap_in_flight_bytes = link->ap_in_flight();
    connection.copied_bytes = link->copied_bytes();
    connection.last_error = link->state().connected() ? "" : link->last_error();
    for (const auto& [number, of] : volumes_) {
      PeerDevice* device = of->peer(node);
      connection.rs_in_flight_bytes += device->source.outstanding_bytes();
      connection.volumes.push_back(StatusOf(*device));
    }
    result.connections.push_back(std::move(connection));
  }
  return result;
}

}  // namespace umblock::drbd
