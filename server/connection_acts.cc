// ResourceManager's part for connections.
#include <algorithm>

#include "server/convert.h"
#include "server/names.h"
#include "server/resource_entry.h"
#include "server/resource_manager.h"

namespace umblock::server {
namespace {

bool IsStandAlone(const ResourceEntry& entry, uint32_t peer) {
  for (const drbd::ConnectionStatus& connection : entry.resource->status().connections) {
    if (connection.peer_node_id == static_cast<int>(peer)) {
      return connection.state == drbd::ConnectionState::kStandAlone;
    }
  }
  return true;
}

// The spec as it is shown and stored, apart from its secret.
std::string TakeSecret(v1::ConnectionSpec* spec) {
  std::string secret = spec->net().shared_secret();
  if (spec->has_net()) spec->mutable_net()->clear_shared_secret();
  return secret;
}

Status CheckNewPeer(const ResourceEntry& entry, const v1::ConnectionSpec& spec) {
  if (spec.peer_node_id() == entry.spec.node_id()) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "peer_node_id {} is this node's own: each node needs an id of its own",
                     spec.peer_node_id());
  }
  for (const auto& [peer, other] : entry.connections) {
    if (peer == spec.peer_node_id()) {
      return MakeError(ErrorCode::kAlreadyExists,
                       "resource '{}' has a peer with node id {} already", entry.name(), peer);
    }
    if (!spec.peer_name().empty() && other.spec.peer_name() == spec.peer_name()) {
      return MakeError(ErrorCode::kAlreadyExists, "resource '{}' has a peer called '{}' already",
                       entry.name(), spec.peer_name());
    }
  }
  return Ok();
}

// A peer is recognised by the address that it connects from: no two connections of the node may
// expect the same host at the same address and port, nor one connection twice.
Status CheckPaths(const std::map<std::string, ResourceEntryPtr>& entries, const std::string& name,
                  const std::vector<drbd::PathConfig>& paths) {
  const auto alike = [](const drbd::PathConfig& a, const drbd::PathConfig& b) {
    return a.local == b.local && a.remote.SameHost(b.remote);
  };
  const auto taken = [&name](const drbd::PathConfig& path, const std::string& by) {
    return MakeError(
        ErrorCode::kAlreadyExists,
        "{}: path {} to {}: {} expects the same host at the same address; take another "
        "port for one of them, here and on the peer",
        name, path.local.ToString(), path.remote.ToString(), by);
  };
  for (size_t i = 0; i < paths.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (alike(paths[i], paths[j])) return taken(paths[i], "another of its paths");
    }
    for (const auto& [resource, entry] : entries) {
      for (const auto& [peer, other] : entry->connections) {
        const std::string by = ConnectionName(resource, peer);
        if (by == name) continue;
        auto config = ToPeerConfig(other.spec, other.secret);
        if (!config) continue;
        for (const drbd::PathConfig& theirs : config->paths) {
          if (alike(paths[i], theirs)) return taken(paths[i], by);
        }
      }
    }
  }
  return Ok();
}

// Force does not stand in line behind a change that waits for this very peer (an attach that asks
// it, while it hangs): the engine takes the link down at once, and that change ends.
Task<Status> TakeDown(ResourceEntryPtr entry, uint32_t peer) {
  if (entry->Connection(peer) == nullptr || IsStandAlone(*entry, peer)) co_return Ok();
  ActGuard guard(entry);
  co_return co_await entry->resource->Disconnect(static_cast<int>(peer), true);
}

// The options that both nodes must have alike are compared in the handshake only: changed on a link
// that stands they would break it at its next interruption, when nobody is looking.
Status CheckAgreedOptions(const std::string& name, const drbd::NetOptions& before,
                          const drbd::NetOptions& after) {
  const char* changed =
      before.protocol != after.protocol                         ? "protocol"
      : before.data_integrity_alg != after.data_integrity_alg   ? "data_integrity_alg"
      : before.verify_alg != after.verify_alg                   ? "verify_alg"
      : before.csums_alg != after.csums_alg                     ? "csums_alg"
      : before.allow_two_primaries != after.allow_two_primaries ? "allow_two_primaries"
      : before.after_sb_0pri != after.after_sb_0pri             ? "after_sb_0pri"
      : before.after_sb_1pri != after.after_sb_1pri             ? "after_sb_1pri"
      : before.after_sb_2pri != after.after_sb_2pri             ? "after_sb_2pri"
                                                                : nullptr;
  if (changed == nullptr) return Ok();
  return MakeError(ErrorCode::kFailedPrecondition,
                   "{} is not StandAlone, and {} must be the same on both nodes: disconnect on "
                   "both nodes, update both, then connect",
                   name, changed);
}

// Every metadata that remembers the peer can be written.
Status CheckForgettable(const ResourceEntry& entry) {
  for (const drbd::VolumeStatus& volume : entry.resource->status().volumes) {
    const auto declared = entry.volumes.find(static_cast<uint32_t>(volume.number));
    if (declared == entry.volumes.end() || declared->second.spec.backend().empty()) continue;
    if (volume.disk >= drbd::DiskState::kInconsistent) continue;
    return MakeError(ErrorCode::kFailedPrecondition,
                     "volume {}/{} has no disk: attach it first, so that its metadata forgets the "
                     "peer, or delete the connection without forget",
                     entry.name(), volume.number);
  }
  return Ok();
}

Task<Status> ForgetEverywhere(const ResourceEntry& entry, uint32_t peer) {
  for (const drbd::VolumeStatus& volume : entry.resource->status().volumes) {
    if (volume.disk < drbd::DiskState::kInconsistent) continue;
    Status done = co_await entry.resource->ForgetPeer(volume.number, static_cast<int>(peer));
    if (!done && done.error().code() != ErrorCode::kNotFound) co_return done;
  }
  co_return Ok();
}

Status CheckConnectable(const ResourceEntry& entry, const v1::ConnectionSpec& spec) {
  if (spec.paths_size() > 0) return Ok();
  return MakeError(ErrorCode::kFailedPrecondition, "{} has no path: add one before connecting",
                   ConnectionName(entry.name(), spec.peer_node_id()));
}

}  // namespace

Task<Result<v1::Connection>> ResourceManager::CreateConnection(
    v1::CreateConnectionRequest request) {
  v1::ConnectionSpec spec = request.spec();
  const std::string secret = TakeSecret(&spec);
  const uint32_t peer = spec.peer_node_id();
  const std::string name = ConnectionName(spec.resource(), peer);
  auto found = Find(spec.resource());
  if (!found) co_return std::unexpected(found.error());
  ResourceEntryPtr entry = *found;
  auto config = ToPeerConfig(spec, secret);
  if (!config) co_return std::unexpected(config.error().Within(name));
  auto lock = co_await entry->lifecycle.Acquire();
  if (entry->gone) co_return NoSuchResource(spec.resource());
  if (entry->stopped) co_return IsStopping();
  Status made = CheckNewPeer(*entry, spec);
  if (made) made = CheckPaths(entries_, name, config->paths);
  if (made && request.connect()) made = CheckConnectable(*entry, spec);
  if (made) made = entry->resource->AddPeer(*config);
  if (!made) co_return std::unexpected(made.error());

  if (request.connect()) made = co_await entry->resource->Connect(static_cast<int>(peer), {});
  if (made) {
    const bool connect = request.connect();
    made = co_await parts_.config.Commit([&spec, &secret, &name, connect](StoredState& state) {
      auto* stored = FindResource(state, spec.resource())->add_connections();
      *stored->mutable_spec() = spec;
      stored->set_connect(connect);
      stored->set_shared_secret_key(PutSecret(state, name, secret));
    });
  }
  if (!made) {
    (void)co_await entry->resource->RemovePeer(static_cast<int>(peer), true);
    co_return std::unexpected(made.error().Within(name));
  }
  ConnectionEntry& connection = entry->connections[peer];
  connection.spec = spec;
  connection.secret = secret;
  connection.connect = request.connect();
  Show(*entry, "CreateConnection");
  co_return DescribeConnection(*entry, peer);
}

Task<Result<v1::Connection>> ResourceManager::GetConnection(v1::GetConnectionRequest request) {
  auto entry = Find(request.resource());
  if (!entry) co_return std::unexpected(entry.error());
  if ((*entry)->Connection(request.peer_node_id()) == nullptr) {
    co_return NoSuchPeer(request.resource(), request.peer_node_id());
  }
  co_return DescribeConnection(**entry, request.peer_node_id());
}

Task<Result<v1::ListConnectionsResponse>> ResourceManager::ListConnections(
    v1::ListConnectionsRequest request) {
  v1::ListConnectionsResponse response;
  if (!request.resource().empty()) {
    auto entry = Find(request.resource());
    if (!entry) co_return std::unexpected(entry.error());
    *response.mutable_connections() = Describe(**entry).connections();
    co_return response;
  }
  for (const v1::Resource& resource : All()) {
    response.mutable_connections()->MergeFrom(resource.connections());
  }
  co_return response;
}

Task<Result<v1::Connection>> ResourceManager::UpdateConnection(
    v1::UpdateConnectionRequest request) {
  auto found = Find(request.resource());
  if (!found) co_return std::unexpected(found.error());
  ResourceEntryPtr entry = *found;
  const uint32_t peer = request.peer_node_id();
  const int id = static_cast<int>(peer);
  auto lock = co_await entry->lifecycle.Acquire();
  ConnectionEntry* connection = entry->gone ? nullptr : entry->Connection(peer);
  if (connection == nullptr) co_return NoSuchPeer(request.resource(), peer);
  const std::string name = ConnectionName(request.resource(), peer);

  v1::ConnectionSpec spec = connection->spec;
  std::string secret = connection->secret;
  if (request.has_net()) {
    *spec.mutable_net() = request.net();
    if (request.net().has_shared_secret()) secret = request.net().shared_secret();
    TakeSecret(&spec);
  }
  if (request.has_resync()) *spec.mutable_resync() = request.resync();
  if (request.paths_size() > 0) {
    if (!IsStandAlone(*entry, peer)) {
      co_return MakeError(ErrorCode::kFailedPrecondition,
                          "{} is not StandAlone: disconnect it before its paths change", name);
    }
    *spec.mutable_paths() = request.paths();
  }
  auto config = ToPeerConfig(spec, secret);
  if (!config) co_return std::unexpected(config.error().Within(name));
  auto before = ToPeerConfig(connection->spec, connection->secret);
  if (!before) co_return std::unexpected(before.error());
  if (entry->stopped) co_return IsStopping();
  if (request.paths_size() > 0) {
    if (Status free = CheckPaths(entries_, name, config->paths); !free) {
      co_return std::unexpected(free.error());
    }
  }
  if (!IsStandAlone(*entry, peer)) {
    Status allowed = CheckAgreedOptions(name, before->net, config->net);
    if (!allowed) co_return std::unexpected(allowed.error());
  }

  // The engine first, since it may refuse; the stored state decides.
  const auto apply = [](ResourceEntryPtr to, int node_id, drbd::PeerConfig config,
                        v1::UpdateConnectionRequest what) -> Task<Status> {
    if (what.paths_size() > 0) {
      UMBLOCK_CO_TRY(co_await to->resource->RemovePeer(node_id, false));
      co_return to->resource->AddPeer(config);
    }
    if (what.has_net()) {
      UMBLOCK_CO_TRY(co_await to->resource->UpdateNetOptions(node_id, config.net));
    }
    if (what.has_resync()) {
      UMBLOCK_CO_TRY(to->resource->UpdateResyncOptions(node_id, config.resync));
    }
    co_return Ok();
  };
  Status updated = co_await apply(entry, id, *config, request);
  if (updated) {
    const bool new_secret = secret != connection->secret;
    updated = co_await parts_.config.Commit([&](StoredState& state) {
      auto* stored = FindConnection(state, request.resource(), peer);
      *stored->mutable_spec() = spec;
      if (new_secret) stored->set_shared_secret_key(PutSecret(state, name, secret));
    });
  }
  if (!updated) {
    (void)co_await apply(entry, id, *before, request);
    co_return std::unexpected(updated.error().Within(name));
  }
  connection->spec = spec;
  connection->secret = secret;
  Show(*entry, "UpdateConnection");
  co_return DescribeConnection(*entry, peer);
}

Task<Result<v1::DeleteConnectionResponse>> ResourceManager::DeleteConnection(
    v1::DeleteConnectionRequest request) {
  auto found = Find(request.resource());
  if (!found) co_return std::unexpected(found.error());
  ResourceEntryPtr entry = *found;
  const uint32_t peer = request.peer_node_id();
  if (request.force()) {
    Status down = co_await TakeDown(entry, peer);
    if (!down) co_return std::unexpected(down.error());
  }
  auto lock = co_await entry->lifecycle.Acquire();
  ConnectionEntry* connection = entry->gone ? nullptr : entry->Connection(peer);
  if (connection == nullptr) co_return NoSuchPeer(request.resource(), peer);
  if (!request.force() && !IsStandAlone(*entry, peer)) {
    co_return MakeError(ErrorCode::kFailedPrecondition, "{} is not StandAlone: disconnect it first",
                        ConnectionName(request.resource(), peer));
  }
  if (request.forget()) {
    Status forgettable = CheckForgettable(*entry);
    if (!forgettable) co_return std::unexpected(forgettable.error());
  }
  Status removed = co_await entry->resource->RemovePeer(static_cast<int>(peer), request.force());
  if (!removed) co_return std::unexpected(removed.error());
  Status stored = request.forget() ? co_await ForgetEverywhere(*entry, peer) : Ok();
  if (stored) {
    stored = co_await parts_.config.Commit([&request, peer](StoredState& state) {
      EraseFrom(FindResource(state, request.resource())->mutable_connections(),
                [peer](const auto& c) { return c.spec().peer_node_id() == peer; });
    });
  }
  if (!stored) {
    auto config = ToPeerConfig(connection->spec, connection->secret);
    if (config) (void)entry->resource->AddPeer(*config);
    connection->connect_pending = connection->connect;
    co_return std::unexpected(stored.error());
  }
  entry->connections.erase(peer);
  Show(*entry, "DeleteConnection");
  co_return v1::DeleteConnectionResponse();
}

Task<Result<v1::Connection>> ResourceManager::Connect(v1::ConnectRequest request) {
  auto found = Find(request.resource());
  if (!found) co_return std::unexpected(found.error());
  ResourceEntryPtr entry = *found;
  const uint32_t peer = request.peer_node_id();
  auto lock = co_await entry->lifecycle.Acquire();
  ConnectionEntry* connection = entry->gone ? nullptr : entry->Connection(peer);
  if (connection == nullptr) co_return NoSuchPeer(request.resource(), peer);
  Status done = CheckConnectable(*entry, connection->spec);
  if (done && !IsStandAlone(*entry, peer)) {
    if (request.discard_my_data()) {
      co_return MakeError(ErrorCode::kFailedPrecondition,
                          "{} is not StandAlone: disconnect it before discarding this node's data",
                          ConnectionName(request.resource(), peer));
    }
  } else if (done) {
    drbd::ConnectOptions options;
    options.discard_my_data = request.discard_my_data();
    done = co_await entry->resource->Connect(static_cast<int>(peer), options);
  }
  if (done && !connection->connect) {
    done = co_await parts_.config.Commit([&request, peer](StoredState& state) {
      FindConnection(state, request.resource(), peer)->set_connect(true);
    });
  }
  if (!done) co_return std::unexpected(done.error());
  connection->connect = true;
  connection->connect_pending = false;
  connection->problem.clear();
  Show(*entry, "Connect");
  co_return DescribeConnection(*entry, peer);
}

Task<Result<v1::Connection>> ResourceManager::Disconnect(v1::DisconnectRequest request) {
  auto found = Find(request.resource());
  if (!found) co_return std::unexpected(found.error());
  ResourceEntryPtr entry = *found;
  const uint32_t peer = request.peer_node_id();
  if (request.force()) {
    Status down = co_await TakeDown(entry, peer);
    if (!down) co_return std::unexpected(down.error());
  }
  auto lock = co_await entry->lifecycle.Acquire();
  ConnectionEntry* connection = entry->gone ? nullptr : entry->Connection(peer);
  if (connection == nullptr) co_return NoSuchPeer(request.resource(), peer);
  if (!IsStandAlone(*entry, peer)) {
    Status done = co_await entry->resource->Disconnect(static_cast<int>(peer), request.force());
    if (!done) co_return std::unexpected(done.error());
  }
  if (connection->connect) {
    Status stored = co_await parts_.config.Commit([&request, peer](StoredState& state) {
      FindConnection(state, request.resource(), peer)->set_connect(false);
    });
    if (!stored) {
      Show(*entry, "Disconnect");
      co_return std::unexpected(
          stored.error().Within("it is disconnected now, and will connect again after a restart"));
    }
  }
  connection->connect = false;
  connection->connect_pending = false;
  connection->problem.clear();
  Show(*entry, "Disconnect");
  co_return DescribeConnection(*entry, peer);
}

namespace {

// The peer and the volume that an act on a peer's volume names.
Status CheckPeerVolume(ResourceEntry& entry, uint32_t peer, uint32_t number) {
  if (entry.Connection(peer) == nullptr) return NoSuchPeer(entry.name(), peer);
  if (entry.Volume(number) == nullptr) return NoSuchVolume(entry.name(), number);
  return Ok();
}

}  // namespace

Task<Result<v1::Connection>> ResourceManager::InvalidateRemote(
    v1::InvalidateRemoteRequest request) {
  auto entry = Find(request.resource());
  if (!entry) co_return std::unexpected(entry.error());
  Status done = CheckPeerVolume(**entry, request.peer_node_id(), request.number());
  ActGuard guard(*entry);
  if (done) {
    done = co_await (*entry)->resource->InvalidateRemote(static_cast<int>(request.number()),
                                                         static_cast<int>(request.peer_node_id()),
                                                         request.only_marked());
  }
  if (!done) co_return std::unexpected(done.error());
  co_return DescribeConnection(**entry, request.peer_node_id());
}

Task<Result<v1::Connection>> ResourceManager::PauseSync(v1::PauseSyncRequest request) {
  auto entry = Find(request.resource());
  if (!entry) co_return std::unexpected(entry.error());
  Status done = CheckPeerVolume(**entry, request.peer_node_id(), request.number());
  ActGuard guard(*entry);
  if (done) {
    done = co_await (*entry)->resource->PauseSync(static_cast<int>(request.number()),
                                                  static_cast<int>(request.peer_node_id()));
  }
  if (!done) co_return std::unexpected(done.error());
  co_return DescribeConnection(**entry, request.peer_node_id());
}

Task<Result<v1::Connection>> ResourceManager::ResumeSync(v1::ResumeSyncRequest request) {
  auto entry = Find(request.resource());
  if (!entry) co_return std::unexpected(entry.error());
  Status done = CheckPeerVolume(**entry, request.peer_node_id(), request.number());
  ActGuard guard(*entry);
  if (done) {
    done = co_await (*entry)->resource->ResumeSync(static_cast<int>(request.number()),
                                                   static_cast<int>(request.peer_node_id()));
  }
  if (!done) co_return std::unexpected(done.error());
  co_return DescribeConnection(**entry, request.peer_node_id());
}

Task<Result<v1::Connection>> ResourceManager::StartVerify(v1::StartVerifyRequest request) {
  auto entry = Find(request.resource());
  if (!entry) co_return std::unexpected(entry.error());
  Status done = CheckPeerVolume(**entry, request.peer_node_id(), request.number());
  ActGuard guard(*entry);
  if (done) {
    drbd::VerifyRequest range;
    if (request.has_start_bytes()) range.start = request.start_bytes();
    if (request.has_stop_bytes()) range.stop = request.stop_bytes();
    done = co_await (*entry)->resource->StartVerify(
        static_cast<int>(request.number()), static_cast<int>(request.peer_node_id()), range);
  }
  if (!done) co_return std::unexpected(done.error());
  co_return DescribeConnection(**entry, request.peer_node_id());
}

Task<Result<v1::Connection>> ResourceManager::StopVerify(v1::StopVerifyRequest request) {
  auto entry = Find(request.resource());
  if (!entry) co_return std::unexpected(entry.error());
  Status done = CheckPeerVolume(**entry, request.peer_node_id(), request.number());
  ActGuard guard(*entry);
  if (done) {
    done = co_await (*entry)->resource->StopVerify(static_cast<int>(request.number()),
                                                   static_cast<int>(request.peer_node_id()));
  }
  if (!done) co_return std::unexpected(done.error());
  co_return DescribeConnection(**entry, request.peer_node_id());
}

}  // namespace umblock::server
