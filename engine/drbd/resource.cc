#include "engine/drbd/resource.h"

#include "engine/drbd/core/resource_impl.h"
#include "engine/drbd/meta/meta_store.h"

namespace umblock::drbd {

Task<Status> CreateMetadata(CreateMetadataRequest request) {
  if (request.backing == nullptr) {
    co_return MakeError(ErrorCode::kInvalidArgument,
                        "create metadata: no backing device was named");
  }
  meta::MetaCreateOptions options;
  options.layout.placement =
      request.metadata != nullptr ? meta::Placement::kFlexExternal : meta::Placement::kInternal;
  options.layout.max_peers = static_cast<uint32_t>(request.max_peers);
  options.force = request.force;
  options.device_uuid = request.device_uuid;
  BlockDevice& device = request.metadata != nullptr ? *request.metadata : *request.backing;
  Result<meta::Geometry> geometry = co_await meta::MetaStore::Create(device, options);
  if (!geometry) {
    co_return std::unexpected(
        geometry.error().Within(fmt::format("create metadata on {}", device.name())));
  }
  co_return Ok();
}

Resource::Resource(Reactor& reactor, ResourceConfig config, ResourceObserver* observer,
                   ProcessRunner* programs)
    : impl_(std::make_unique<ResourceImpl>(reactor, std::move(config), observer, programs)) {}
Resource::~Resource() = default;

Task<void> Resource::Stop() { return impl_->Stop(); }
const std::string& Resource::name() const { return impl_->name(); }
ResourceStatus Resource::status() const { return impl_->status(); }

Status Resource::AddVolume(const VolumeConfig& config) { return impl_->AddVolume(config); }
Task<Status> Resource::RemoveVolume(int volume) { return impl_->RemoveVolume(volume); }
BlockDevice* Resource::volume(int number) { return impl_->volume(number); }
Task<Status> Resource::Attach(AttachRequest request) { return impl_->Attach(request); }
Task<Status> Resource::Detach(int volume, bool force) { return impl_->Detach(volume, force); }

Status Resource::AddPeer(const PeerConfig& config) { return impl_->AddPeer(config); }
Task<Status> Resource::RemovePeer(int node_id, bool force) {
  return impl_->RemovePeer(node_id, force);
}
Task<Status> Resource::ForgetPeer(int volume, int node_id) {
  return impl_->ForgetPeer(volume, node_id);
}
Task<Status> Resource::Connect(int node_id, ConnectOptions options) {
  return impl_->Connect(node_id, options);
}
Task<Status> Resource::Disconnect(int node_id, bool force) {
  return impl_->Disconnect(node_id, force);
}

Task<Status> Resource::Promote(bool force) { return impl_->Promote(force); }
Task<Status> Resource::Demote(bool force) { return impl_->Demote(force); }
Task<Status> Resource::Invalidate(int volume, int peer_node_id, bool only_marked) {
  return impl_->Invalidate(volume, peer_node_id, false, only_marked);
}
Task<Status> Resource::InvalidateRemote(int volume, int peer_node_id, bool only_marked) {
  return impl_->Invalidate(volume, peer_node_id, true, only_marked);
}
Task<Status> Resource::PauseSync(int volume, int peer_node_id) {
  return impl_->SetPause(volume, peer_node_id, true);
}
Task<Status> Resource::ResumeSync(int volume, int peer_node_id) {
  return impl_->SetPause(volume, peer_node_id, false);
}
Task<Status> Resource::StartVerify(int volume, int peer_node_id, VerifyRequest request) {
  return impl_->StartVerify(volume, peer_node_id, request);
}
Task<Status> Resource::StopVerify(int volume, int peer_node_id) {
  return impl_->StopVerify(volume, peer_node_id);
}
Task<Status> Resource::Outdate(int volume) { return impl_->Outdate(volume); }
Task<Status> Resource::Resize(int volume, ResizeRequest request) {
  return impl_->Resize(volume, request);
}
Task<Status> Resource::NewCurrentUuid(int volume, bool clear_bitmap, bool force) {
  return impl_->NewCurrentUuid(volume, clear_bitmap, force);
}
Task<Status> Resource::SuspendIo() { return impl_->SetSuspended(true); }
Task<Status> Resource::ResumeIo() { return impl_->SetSuspended(false); }
void Resource::FailHeldIo() { impl_->FailHeldIo(); }

Status Resource::UpdateOptions(const ResourceOptions& options) {
  return impl_->UpdateOptions(options);
}
Status Resource::UpdateHandlers(const HandlerConfig& handlers) {
  UMBLOCK_TRY(Validate(handlers));
  impl_->handlers().Configure(handlers);
  return Ok();
}
Task<Status> Resource::UpdateNetOptions(int node_id, const NetOptions& options) {
  Connection* link = impl_->connection(node_id);
  if (link == nullptr) {
    co_return MakeError(ErrorCode::kNotFound, "resource {} has no peer with node id {}", name(),
                        node_id);
  }
  co_return link->UpdateNet(options);
}
Status Resource::UpdateResyncOptions(int node_id, const ResyncOptions& options) {
  Connection* link = impl_->connection(node_id);
  if (link == nullptr) {
    return MakeError(ErrorCode::kNotFound, "resource {} has no peer with node id {}", name(),
                     node_id);
  }
  link->UpdateResync(options);
  return Ok();
}
Status Resource::UpdateDiskOptions(int volume, const DiskOptions& options) {
  Volume* of = impl_->volume(volume);
  if (of == nullptr) {
    return MakeError(ErrorCode::kNotFound, "resource {} has no volume {}", name(), volume);
  }
  return of->UpdateDiskOptions(options);
}

}  // namespace umblock::drbd
