// ResourceManager's part for volumes and the disks below them.
#include <algorithm>
#include <span>
#include <vector>

#include "server/convert.h"
#include "server/names.h"
#include "server/resource_entry.h"
#include "server/resource_manager.h"

namespace umblock::server {
namespace {

constexpr uint32_t kMaxPeerSlots = 31;

bool IsAttached(const ResourceEntry& entry, uint32_t number) {
  for (const drbd::VolumeStatus& volume : entry.resource->status().volumes) {
    if (volume.number == static_cast<int>(number)) {
      return volume.disk != drbd::DiskState::kDiskless;
    }
  }
  return false;
}

bool IsConnected(const ResourceEntry& entry, uint32_t peer) {
  const drbd::ResourceStatus status = entry.resource->status();
  return std::ranges::any_of(status.connections, [peer](const drbd::ConnectionStatus& connection) {
    return connection.peer_node_id == static_cast<int>(peer) &&
           connection.state == drbd::ConnectionState::kConnected;
  });
}

// A connected peer that has current data of a volume: the one with the lowest node id.
Result<int> PeerWithData(const ResourceEntry& entry, uint32_t number) {
  const drbd::ResourceStatus status = entry.resource->status();
  for (const drbd::ConnectionStatus& connection : status.connections) {
    for (const drbd::PeerVolumeStatus& volume : connection.volumes) {
      if (volume.volume == static_cast<int>(number) &&
          volume.peer_disk == drbd::DiskState::kUpToDate) {
        return connection.peer_node_id;
      }
    }
  }
  return MakeError(ErrorCode::kFailedPrecondition,
                   "no connected peer has UpToDate data of {}: connect one that has first",
                   VolumeName(entry.name(), number));
}

// What the caller asked for, or what the volume names already.
v1::VolumeSpec WithBackends(v1::VolumeSpec spec, const std::string& backend,
                            const std::string& metadata_backend) {
  if (backend.empty()) return spec;
  spec.set_backend(backend);
  spec.set_metadata_backend(metadata_backend);
  return spec;
}

}  // namespace

Status ResourceManager::ClaimBackends(const v1::VolumeSpec& spec) {
  const std::string user = VolumeName(spec.resource(), spec.number());
  if (spec.backend().empty()) return Ok();
  UMBLOCK_TRY(backends_->Claim(spec.backend(), user, true));
  if (spec.metadata_backend().empty()) return Ok();
  Status claimed = backends_->Claim(spec.metadata_backend(), user, true);
  if (!claimed) backends_->Release(spec.backend(), user);
  return claimed;
}

void ResourceManager::ReleaseBackends(const v1::VolumeSpec& spec) {
  const std::string user = VolumeName(spec.resource(), spec.number());
  if (!spec.backend().empty()) backends_->Release(spec.backend(), user);
  if (!spec.metadata_backend().empty()) backends_->Release(spec.metadata_backend(), user);
}

// Two disks with one device UUID are copies of each other (dd, a snapshot). Both in use would look
// like one disk that goes back in time to the peers of both. Disks whose metadata has no such UUID
// are told apart by nothing, so nothing is said of them.
Status ResourceManager::RefuseCopy(const std::string& volume, const std::string& backend,
                                   uint64_t device_uuid) const {
  if (device_uuid == 0) return Ok();
  for (const auto& [name, entry] : entries_) {
    for (const drbd::VolumeStatus& other : entry->resource->status().volumes) {
      const std::string other_name = VolumeName(name, static_cast<uint32_t>(other.number));
      if (other.device_uuid != device_uuid || other_name == volume) continue;
      return MakeError(
          ErrorCode::kFailedPrecondition,
          "backend '{}' is a copy of the disk of {} ({}), which is attached: both have the device "
          "UUID {:016X}; detach that one first, or create the metadata of this one anew",
          backend, other_name, other.backend, device_uuid);
    }
  }
  return Ok();
}

// A wrong disk would be taken for the volume's data, and the nodes would agree on it.
Status ResourceManager::RefuseOther(const std::string& volume, const std::string& backend,
                                    uint64_t expected, uint64_t device_uuid) const {
  if (device_uuid == 0 || expected == 0 || device_uuid == expected) return Ok();
  return MakeError(
      ErrorCode::kFailedPrecondition,
      "backend '{}' has the metadata of another disk (device UUID {:016X}) than the one that was "
      "attached to {} last ({:016X}); attach that one, or create the metadata of this one anew, or "
      "attach it by force if it is known to be the right one",
      backend, device_uuid, volume, expected);
}

// With the lifecycle lock held. The backends are claimed here if they are not yet.
Task<Status> ResourceManager::AttachNow(ResourceEntryPtr entry, uint32_t number, bool other_disk) {
  VolumeEntry* volume = entry->Volume(number);
  const v1::VolumeSpec& spec = volume->spec;
  UMBLOCK_CO_TRY(ClaimBackends(spec));
  auto backing = backends_->Device(spec.backend());
  if (!backing) co_return std::unexpected(backing.error());
  drbd::AttachRequest request;
  request.volume = static_cast<int>(number);
  request.backing = *backing;
  request.last_known_size = volume->backend_bytes;
  if (!spec.metadata_backend().empty()) {
    auto metadata = backends_->Device(spec.metadata_backend());
    if (!metadata) co_return std::unexpected(metadata.error());
    request.metadata = *metadata;
  }
  request.may_attach = [this, name = VolumeName(entry->name(), number), backend = spec.backend(),
                        expected = other_disk ? 0 : volume->device_uuid](uint64_t device_uuid) {
    Status copy = RefuseCopy(name, backend, device_uuid);
    return copy ? RefuseOther(name, backend, expected, device_uuid) : copy;
  };
  Status attached = co_await entry->resource->Attach(request);
  // kNotFound is 'no metadata here', for which there is a remedy.
  if (!attached && attached.error().code() == ErrorCode::kNotFound) {
    co_return MakeError(ErrorCode::kNotFound, "{}; create metadata first",
                        attached.error().message());
  }
  co_return attached;
}

Task<Status> ResourceManager::MakeMetadata(std::string backend, std::string metadata_backend,
                                           uint32_t max_peers, bool force) {
  if (max_peers > kMaxPeerSlots) {
    co_return MakeError(ErrorCode::kInvalidArgument, "max_peers is {}: allowed is 1 to {}",
                        max_peers, kMaxPeerSlots);
  }
  auto backing = backends_->Device(backend);
  if (!backing) co_return std::unexpected(backing.error());
  drbd::CreateMetadataRequest request;
  request.backing = *backing;
  request.max_peers = max_peers == 0 ? 1 : static_cast<int>(max_peers);
  request.force = force;
  parts_.reactor.FillRandom(std::as_writable_bytes(std::span(&request.device_uuid, 1)));
  if (!metadata_backend.empty()) {
    auto metadata = backends_->Device(metadata_backend);
    if (!metadata) co_return std::unexpected(metadata.error());
    request.metadata = *metadata;
  }
  co_return co_await parts_.engine.CreateMetadata(request);
}

Task<Status> ResourceManager::AttachFresh(ResourceEntryPtr entry, uint32_t number,
                                          bool create_metadata, uint32_t max_peers) {
  Status attached = co_await AttachNow(entry, number);
  // kNotFound is 'no metadata here'; every other failure is not for us to overwrite.
  if (attached || !create_metadata || attached.error().code() != ErrorCode::kNotFound) {
    co_return attached;
  }
  const v1::VolumeSpec spec = entry->Volume(number)->spec;
  UMBLOCK_CO_TRY(co_await MakeMetadata(spec.backend(), spec.metadata_backend(), max_peers, false));
  co_return co_await AttachNow(entry, number);
}

// With the lifecycle lock held: the engine's volume, its disk, and the stored state, or nothing.
Task<Status> ResourceManager::MakeVolume(ResourceEntryPtr entry, v1::CreateVolumeRequest request) {
  const v1::VolumeSpec& spec = request.spec();
  const uint32_t number = spec.number();
  auto config = ToVolumeConfig(spec);
  if (!config) co_return std::unexpected(config.error());
  UMBLOCK_CO_TRY(entry->resource->AddVolume(*config));
  VolumeEntry& volume = entry->volumes[number];
  volume.spec = spec;
  volume.attach = !spec.backend().empty();
  volume.going = true;
  Status made = Ok();
  if (volume.attach) {
    made = co_await AttachFresh(entry, number, request.create_metadata_if_blank(),
                                request.max_peers());
  }
  if (made) {
    made = co_await parts_.config.Commit([&spec](StoredState& state) {
      auto* stored = FindResource(state, spec.resource())->add_volumes();
      *stored->mutable_spec() = spec;
      stored->set_attach(!spec.backend().empty());
    });
  }
  if (made) {
    volume.going = false;
    (void)co_await RememberSizes(entry);  // Retry does it again
    co_return Ok();
  }
  if (IsAttached(*entry, number)) {
    (void)co_await entry->resource->Detach(static_cast<int>(number), true);
  }
  (void)co_await entry->resource->RemoveVolume(static_cast<int>(number));
  ReleaseBackends(spec);
  entry->volumes.erase(number);
  co_return made;
}

Task<Result<v1::Volume>> ResourceManager::CreateVolume(v1::CreateVolumeRequest request) {
  const std::string resource = request.spec().resource();
  const uint32_t number = request.spec().number();
  auto entry = Find(resource);
  if (!entry) co_return std::unexpected(entry.error());
  auto lock = co_await (*entry)->lifecycle.Acquire();
  if ((*entry)->gone) co_return NoSuchResource(resource);
  if ((*entry)->stopped) co_return IsStopping();
  if ((*entry)->Volume(number) != nullptr) {
    co_return MakeError(ErrorCode::kAlreadyExists, "resource '{}' has a volume {} already",
                        resource, number);
  }
  if (Status made = co_await MakeVolume(*entry, request); !made) {
    co_return std::unexpected(made.error().Within(VolumeName(resource, number)));
  }
  Show(**entry, "CreateVolume");
  co_return DescribeVolume(**entry, number);
}

Task<Result<v1::Volume>> ResourceManager::GetVolume(v1::GetVolumeRequest request) {
  auto entry = Find(request.resource());
  if (!entry) co_return std::unexpected(entry.error());
  if ((*entry)->Volume(request.number()) == nullptr) {
    co_return NoSuchVolume(request.resource(), request.number());
  }
  co_return DescribeVolume(**entry, request.number());
}

Task<Result<v1::ListVolumesResponse>> ResourceManager::ListVolumes(v1::ListVolumesRequest request) {
  v1::ListVolumesResponse response;
  if (!request.resource().empty()) {
    auto entry = Find(request.resource());
    if (!entry) co_return std::unexpected(entry.error());
    *response.mutable_volumes() = Describe(**entry).volumes();
    co_return response;
  }
  for (const v1::Resource& resource : All())
    response.mutable_volumes()->MergeFrom(resource.volumes());
  co_return response;
}

Task<Result<v1::Volume>> ResourceManager::UpdateVolume(v1::UpdateVolumeRequest request) {
  auto entry = Find(request.resource());
  if (!entry) co_return std::unexpected(entry.error());
  auto options = ToDiskOptions(request.disk());
  if (!options) co_return std::unexpected(options.error());
  auto lock = co_await (*entry)->lifecycle.Acquire();
  VolumeEntry* volume = (*entry)->gone ? nullptr : (*entry)->Volume(request.number());
  if (volume == nullptr) co_return NoSuchVolume(request.resource(), request.number());
  const int number = static_cast<int>(request.number());
  if (Status updated = (*entry)->resource->UpdateDiskOptions(number, *options); !updated) {
    co_return std::unexpected(updated.error());
  }
  Status stored = co_await parts_.config.Commit([&request](StoredState& state) {
    *FindVolume(state, request.resource(), request.number())->mutable_spec()->mutable_disk() =
        request.disk();
  });
  if (!stored) {
    if (auto old = ToDiskOptions(volume->spec.disk())) {
      (void)(*entry)->resource->UpdateDiskOptions(number, *old);
    }
    co_return std::unexpected(stored.error());
  }
  *volume->spec.mutable_disk() = request.disk();
  Show(**entry, "UpdateVolume");
  co_return DescribeVolume(**entry, request.number());
}

Task<Result<v1::DeleteVolumeResponse>> ResourceManager::DeleteVolume(
    v1::DeleteVolumeRequest request) {
  auto found = Find(request.resource());
  if (!found) co_return std::unexpected(found.error());
  ResourceEntryPtr entry = *found;
  auto lock = co_await entry->lifecycle.Acquire();
  VolumeEntry* volume = entry->gone ? nullptr : entry->Volume(request.number());
  if (volume == nullptr) co_return NoSuchVolume(request.resource(), request.number());
  const std::string name = VolumeName(request.resource(), request.number());
  if (!volume->fronts.empty()) {
    co_return MakeError(ErrorCode::kFailedPrecondition, "{} is presented by {}: delete that first",
                        name, *volume->fronts.begin());
  }
  if (IsAttached(*entry, request.number())) {
    co_return MakeError(ErrorCode::kFailedPrecondition, "{} is attached: detach it first", name);
  }
  if (entry->acts > 0) {
    co_return MakeError(ErrorCode::kAborted,
                        "an act is still running on resource '{}': try again when it has ended",
                        request.resource());
  }
  const int number = static_cast<int>(request.number());
  volume->going = true;
  if (Status removed = co_await entry->resource->RemoveVolume(number); !removed) {
    volume->going = false;
    co_return std::unexpected(removed.error());
  }
  Status stored = co_await parts_.config.Commit([&request](StoredState& state) {
    EraseFrom(FindResource(state, request.resource())->mutable_volumes(),
              [&request](const auto& v) { return v.spec().number() == request.number(); });
  });
  if (!stored) {
    if (auto config = ToVolumeConfig(volume->spec)) (void)entry->resource->AddVolume(*config);
    volume->going = false;
    co_return std::unexpected(stored.error());
  }
  ReleaseBackends(volume->spec);
  entry->volumes.erase(request.number());
  Show(*entry, "DeleteVolume");
  co_return v1::DeleteVolumeResponse();
}

Task<Result<v1::CreateMetadataResponse>> ResourceManager::CreateMetadata(
    v1::CreateMetadataRequest request) {
  auto entry = Find(request.resource());
  if (!entry) co_return std::unexpected(entry.error());
  auto lock = co_await (*entry)->lifecycle.Acquire();
  VolumeEntry* volume = (*entry)->gone ? nullptr : (*entry)->Volume(request.number());
  if (volume == nullptr) co_return NoSuchVolume(request.resource(), request.number());
  const std::string name = VolumeName(request.resource(), request.number());
  if (IsAttached(**entry, request.number())) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "{} is attached: detach it before its metadata is replaced", name);
  }
  const v1::VolumeSpec spec =
      WithBackends(volume->spec, request.backend(), request.metadata_backend());
  if (spec.backend().empty()) {
    co_return MakeError(ErrorCode::kInvalidArgument, "{} names no backend: say which", name);
  }
  // What the volume holds already stays its own; the rest is held for this act only.
  const std::string user = "metadata of " + name;
  std::vector<std::string> claimed;
  Status made = Ok();
  for (const std::string& backend : {spec.backend(), spec.metadata_backend()}) {
    if (!made || backend.empty() || backends_->IsClaimedBy(backend, name)) continue;
    made = backends_->Claim(backend, user, true);
    if (made) claimed.push_back(backend);
  }
  if (made) {
    made = co_await MakeMetadata(spec.backend(), spec.metadata_backend(), request.max_peers(),
                                 request.force());
  }
  if (made && volume->device_uuid != 0) {
    made = co_await parts_.config.Commit([&request](StoredState& state) {
      FindVolume(state, request.resource(), request.number())->set_device_uuid(0);
    });
    if (made) volume->device_uuid = 0;
  }
  for (const std::string& backend : claimed) backends_->Release(backend, user);
  if (!made) co_return std::unexpected(made.error().Within(name));
  parts_.logger.Info("{}: metadata created backend=\"{}\" max_peers={} force={}", name,
                     spec.backend(), request.max_peers() == 0 ? 1 : request.max_peers(),
                     request.force());
  co_return v1::CreateMetadataResponse();
}

Task<Result<v1::Volume>> ResourceManager::Attach(v1::AttachRequest request) {
  auto found = Find(request.resource());
  if (!found) co_return std::unexpected(found.error());
  ResourceEntryPtr entry = *found;
  auto lock = co_await entry->lifecycle.Acquire();
  VolumeEntry* volume = entry->gone ? nullptr : entry->Volume(request.number());
  if (volume == nullptr) co_return NoSuchVolume(request.resource(), request.number());
  const std::string name = VolumeName(request.resource(), request.number());
  const v1::VolumeSpec before = volume->spec;
  const v1::VolumeSpec spec = WithBackends(before, request.backend(), request.metadata_backend());
  if (spec.backend().empty()) {
    co_return MakeError(ErrorCode::kInvalidArgument, "{} names no backend: say which", name);
  }
  if (auto config = ToVolumeConfig(spec); !config) co_return std::unexpected(config.error());
  const bool same =
      spec.backend() == before.backend() && spec.metadata_backend() == before.metadata_backend();
  if (IsAttached(*entry, request.number())) {
    if (same) co_return DescribeVolume(*entry, request.number());
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "{} is attached to backend '{}': detach it first", name, before.backend());
  }
  const uint64_t backend_bytes_before = volume->backend_bytes;
  if (!same) ReleaseBackends(before);
  if (!same) volume->backend_bytes = 0;
  volume->spec = spec;
  Status attached = co_await AttachNow(entry, request.number(), request.force());
  if (attached) {
    attached = co_await parts_.config.Commit([&spec, same](StoredState& state) {
      auto* stored = FindVolume(state, spec.resource(), spec.number());
      *stored->mutable_spec() = spec;
      stored->set_attach(true);
      if (!same) stored->set_backend_bytes(0);
    });
    if (!attached) {
      (void)co_await entry->resource->Detach(static_cast<int>(request.number()), false);
    }
  }
  if (!attached) {
    const bool keep_claim = same && volume->attach;  // still declared, still tried
    if (!keep_claim) ReleaseBackends(spec);
    volume->spec = before;
    volume->backend_bytes = backend_bytes_before;
    if (!same && volume->attach) (void)ClaimBackends(before);
    co_return std::unexpected(attached.error());
  }
  volume->attach = true;
  volume->attach_pending = false;
  volume->problem.clear();
  (void)co_await RememberSizes(entry);  // Retry does it again
  Show(*entry, "Attach");
  co_return DescribeVolume(*entry, request.number());
}

Task<Result<v1::Volume>> ResourceManager::Detach(v1::DetachRequest request) {
  auto found = Find(request.resource());
  if (!found) co_return std::unexpected(found.error());
  ResourceEntryPtr entry = *found;
  const int number = static_cast<int>(request.number());
  // Force does not stand in line behind a change that waits for this very disk or for a peer that
  // hangs: the engine ends it, and the bookkeeping follows once that change has ended.
  if (request.force() && IsAttached(*entry, request.number())) {
    ActGuard guard(entry);
    if (Status done = co_await entry->resource->Detach(number, true); !done) {
      co_return std::unexpected(done.error());
    }
  }
  auto lock = co_await entry->lifecycle.Acquire();
  VolumeEntry* volume = entry->gone ? nullptr : entry->Volume(request.number());
  if (volume == nullptr) co_return NoSuchVolume(request.resource(), request.number());
  if (IsAttached(*entry, request.number())) {
    if (Status done = co_await entry->resource->Detach(number, request.force()); !done) {
      co_return std::unexpected(done.error());
    }
  }
  if (volume->attach) {
    Status stored = co_await parts_.config.Commit([&request](StoredState& state) {
      FindVolume(state, request.resource(), request.number())->set_attach(false);
    });
    if (!stored) {
      Show(*entry, "Detach");
      co_return std::unexpected(stored.error().Within(
          "the volume is detached now, and will be attached again after a restart"));
    }
  }
  ReleaseBackends(volume->spec);
  volume->attach = false;
  volume->attach_pending = false;
  volume->problem.clear();
  Show(*entry, "Detach");
  co_return DescribeVolume(*entry, request.number());
}

Task<Result<v1::Volume>> ResourceManager::Invalidate(v1::InvalidateRequest request) {
  auto entry = Find(request.resource());
  if (!entry) co_return std::unexpected(entry.error());
  if ((*entry)->Volume(request.number()) == nullptr) {
    co_return NoSuchVolume(request.resource(), request.number());
  }
  auto peer = PeerWithData(**entry, request.number());
  if (request.has_peer_node_id()) {
    if ((*entry)->Connection(request.peer_node_id()) == nullptr) {
      co_return NoSuchPeer(request.resource(), request.peer_node_id());
    }
    peer = static_cast<int>(request.peer_node_id());
  }
  if (!peer) co_return std::unexpected(peer.error());
  ActGuard guard(*entry);
  const int number = static_cast<int>(request.number());
  Status done = co_await (*entry)->resource->Invalidate(number, *peer, request.only_marked());
  if (!done) co_return std::unexpected(done.error());
  co_return DescribeVolume(**entry, request.number());
}

Task<Result<v1::Volume>> ResourceManager::Outdate(v1::OutdateRequest request) {
  auto entry = Find(request.resource());
  if (!entry) co_return std::unexpected(entry.error());
  if ((*entry)->Volume(request.number()) == nullptr) {
    co_return NoSuchVolume(request.resource(), request.number());
  }
  ActGuard guard(*entry);
  const int number = static_cast<int>(request.number());
  if (Status done = co_await (*entry)->resource->Outdate(number); !done) {
    co_return std::unexpected(done.error());
  }
  co_return DescribeVolume(**entry, request.number());
}

Task<Result<v1::Volume>> ResourceManager::ForgetPeer(v1::ForgetPeerRequest request) {
  auto found = Find(request.resource());
  if (!found) co_return std::unexpected(found.error());
  ResourceEntryPtr entry = *found;
  auto lock = co_await entry->lifecycle.Acquire();
  if (entry->gone || entry->Volume(request.number()) == nullptr) {
    co_return NoSuchVolume(request.resource(), request.number());
  }
  Status done = co_await entry->resource->ForgetPeer(static_cast<int>(request.number()),
                                                     static_cast<int>(request.peer_node_id()));
  if (!done) co_return std::unexpected(done.error());
  co_return DescribeVolume(*entry, request.number());
}

Task<Result<v1::Volume>> ResourceManager::NewCurrentUuid(v1::NewCurrentUuidRequest request) {
  auto entry = Find(request.resource());
  if (!entry) co_return std::unexpected(entry.error());
  if ((*entry)->Volume(request.number()) == nullptr) {
    co_return NoSuchVolume(request.resource(), request.number());
  }
  // A peer that does not hear of it keeps its old generation, and is synchronised in full later.
  for (const auto& [peer, connection] : (*entry)->connections) {
    if (!request.clear_bitmap() || !connection.connect || IsConnected(**entry, peer)) continue;
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "{} is not connected: wait until it is, or disconnect it to do without it",
                        ConnectionName(request.resource(), peer));
  }
  ActGuard guard(*entry);
  const int number = static_cast<int>(request.number());
  Status done =
      co_await (*entry)->resource->NewCurrentUuid(number, request.clear_bitmap(), request.force());
  if (!done) co_return std::unexpected(done.error());
  co_return DescribeVolume(**entry, request.number());
}

void ResourceManager::ForgetBackendStored(StoredState& state, const std::string& backend) {
  for (auto& resource : *state.config.mutable_resources()) {
    for (auto& volume : *resource.mutable_volumes()) {
      if (volume.spec().backend() == backend || volume.spec().metadata_backend() == backend) {
        volume.mutable_spec()->clear_backend();
        volume.mutable_spec()->clear_metadata_backend();
        volume.set_attach(false);
      }
    }
  }
}

void ResourceManager::ForgetBackend(const std::string& backend) {
  for (const auto& [name, entry] : entries_) {
    for (auto& [number, volume] : entry->volumes) {
      if (volume.spec.backend() == backend || volume.spec.metadata_backend() == backend) {
        ReleaseBackends(volume.spec);  // the other one of the two
        volume.spec.clear_backend();
        volume.spec.clear_metadata_backend();
        volume.attach = volume.attach_pending = false;
        volume.problem.clear();
      }
    }
    if (!entry->gone) Show(*entry, "DeleteBackend");
  }
}

}  // namespace umblock::server
