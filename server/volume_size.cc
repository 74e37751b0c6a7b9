// ResourceManager's part for the sizes of volumes.
#include "server/convert.h"
#include "server/names.h"
#include "server/resource_entry.h"
#include "server/resource_manager.h"

namespace umblock::server {

Task<Status> ResourceManager::RememberSizes(ResourceEntryPtr entry) {
  struct Sizes {
    uint32_t number;
    uint64_t wanted;
    uint64_t backend;
    uint64_t device_uuid;
  };
  std::vector<Sizes> changed;
  for (const drbd::VolumeStatus& status : entry->resource->status().volumes) {
    const auto number = static_cast<uint32_t>(status.number);
    VolumeEntry* volume = entry->Volume(number);
    if (volume == nullptr || volume->going) continue;
    if (status.backing_bytes == 0) continue;
    // Kept while there is no disk, as is that of one without such a tag.
    const uint64_t device_uuid = status.device_uuid != 0 ? status.device_uuid : volume->device_uuid;
    if (volume->backend_bytes == status.backing_bytes &&
        volume->spec.size_bytes() == status.wanted_bytes && volume->device_uuid == device_uuid) {
      continue;
    }
    changed.push_back({number, status.wanted_bytes, status.backing_bytes, device_uuid});
  }
  if (changed.empty()) co_return Ok();
  Status stored = co_await parts_.config.Commit([&](StoredState& state) {
    for (const Sizes& sizes : changed) {
      auto* volume = FindVolume(state, entry->name(), sizes.number);
      volume->mutable_spec()->set_size_bytes(sizes.wanted);
      volume->set_backend_bytes(sizes.backend);
      volume->set_device_uuid(sizes.device_uuid);
    }
  });
  if (!stored) co_return stored;
  for (const Sizes& sizes : changed) {
    VolumeEntry* volume = entry->Volume(sizes.number);
    volume->spec.set_size_bytes(sizes.wanted);
    volume->backend_bytes = sizes.backend;
    volume->device_uuid = sizes.device_uuid;
  }
  Show(*entry, "sizes");
  co_return Ok();
}

Task<Result<v1::Volume>> ResourceManager::ResizeVolume(v1::ResizeVolumeRequest request) {
  auto found = Find(request.resource());
  if (!found) co_return std::unexpected(found.error());
  ResourceEntryPtr entry = *found;
  auto lock = co_await entry->lifecycle.Acquire();
  VolumeEntry* volume = entry->gone ? nullptr : entry->Volume(request.number());
  if (volume == nullptr) co_return NoSuchVolume(request.resource(), request.number());
  const std::string name = VolumeName(request.resource(), request.number());
  if (!volume->spec.backend().empty() && volume->attach) {
    // It may have been made larger behind our back.
    if (Status looked = co_await backends_->LookAgain(volume->spec.backend()); !looked) {
      co_return std::unexpected(looked.error().Within(name));
    }
  }
  Status resized = co_await entry->resource->Resize(
      static_cast<int>(request.number()), {.size = request.size_bytes(),
                                           .assume_clean = request.assume_clean(),
                                           .assume_peer_has_space = request.assume_peer_has_space(),
                                           .shrink = request.shrink()});
  Status stored = co_await RememberSizes(entry);
  if (!resized) co_return std::unexpected(resized.error());
  if (!stored) {
    co_return std::unexpected(stored.error().Within(
        fmt::format("{} has its new size, but the configuration could not be stored", name)));
  }
  Show(*entry, "ResizeVolume");
  co_return DescribeVolume(*entry, request.number());
}

}  // namespace umblock::server
