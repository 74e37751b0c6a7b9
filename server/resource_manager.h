// ResourceManager: the node's resources with their volumes and connections, as the API sees them.
//
// Declared state (what exists, attach, connect) is stored before a call returns and is brought back
// by Restore and Retry; the role is not part of it. Life-cycle changes of one resource are made one
// at a time; acts (promote, demote, invalidate …) run beside them and keep the resource from being
// deleted. Threading: the node's reactor.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/runtime/sync.h"
#include "server/backend_manager.h"
#include "server/node_parts.h"
#include "server/patient_group.h"
#include "umblock/v1/connection.pb.h"
#include "umblock/v1/event.pb.h"
#include "umblock/v1/resource.pb.h"
#include "umblock/v1/volume.pb.h"

namespace umblock::server {

struct ResourceEntry;
using ResourceEntryPtr = std::shared_ptr<ResourceEntry>;

class ResourceManager {
 public:
  ResourceManager(NodeParts parts, BackendManager* backends);
  ~ResourceManager();

  // ResourceService (resource_manager.cc).
  Task<Result<v1::Resource>> Create(v1::CreateResourceRequest request);
  Task<Result<v1::Resource>> Get(v1::GetResourceRequest request);
  Task<Result<v1::ListResourcesResponse>> List(v1::ListResourcesRequest request);
  Task<Result<v1::Resource>> Update(v1::UpdateResourceRequest request);
  Task<Result<v1::DeleteResourceResponse>> Delete(v1::DeleteResourceRequest request);
  Task<Result<v1::Resource>> Promote(v1::PromoteRequest request);
  Task<Result<v1::Resource>> Demote(v1::DemoteRequest request);
  Task<Result<v1::Resource>> SuspendIo(v1::SuspendIoRequest request);
  Task<Result<v1::Resource>> ResumeIo(v1::ResumeIoRequest request);
  Task<Result<v1::Resource>> SetHandlers(v1::SetHandlersRequest request);
  // Before the fronts stop, which wait for their I/O.
  void FailHeldIo();

  // VolumeService (volume_acts.cc).
  Task<Result<v1::Volume>> CreateVolume(v1::CreateVolumeRequest request);
  Task<Result<v1::Volume>> GetVolume(v1::GetVolumeRequest request);
  Task<Result<v1::ListVolumesResponse>> ListVolumes(v1::ListVolumesRequest request);
  Task<Result<v1::Volume>> UpdateVolume(v1::UpdateVolumeRequest request);
  Task<Result<v1::DeleteVolumeResponse>> DeleteVolume(v1::DeleteVolumeRequest request);
  Task<Result<v1::CreateMetadataResponse>> CreateMetadata(v1::CreateMetadataRequest request);
  Task<Result<v1::Volume>> Attach(v1::AttachRequest request);
  Task<Result<v1::Volume>> Detach(v1::DetachRequest request);
  Task<Result<v1::Volume>> Invalidate(v1::InvalidateRequest request);
  Task<Result<v1::Volume>> Outdate(v1::OutdateRequest request);
  Task<Result<v1::Volume>> ResizeVolume(v1::ResizeVolumeRequest request);  // volume_size.cc
  Task<Result<v1::Volume>> ForgetPeer(v1::ForgetPeerRequest request);
  Task<Result<v1::Volume>> NewCurrentUuid(v1::NewCurrentUuidRequest request);

  // ConnectionService (connection_acts.cc).
  Task<Result<v1::Connection>> CreateConnection(v1::CreateConnectionRequest request);
  Task<Result<v1::Connection>> GetConnection(v1::GetConnectionRequest request);
  Task<Result<v1::ListConnectionsResponse>> ListConnections(v1::ListConnectionsRequest request);
  Task<Result<v1::Connection>> UpdateConnection(v1::UpdateConnectionRequest request);
  Task<Result<v1::DeleteConnectionResponse>> DeleteConnection(v1::DeleteConnectionRequest request);
  Task<Result<v1::Connection>> Connect(v1::ConnectRequest request);
  Task<Result<v1::Connection>> Disconnect(v1::DisconnectRequest request);
  Task<Result<v1::Connection>> InvalidateRemote(v1::InvalidateRemoteRequest request);
  Task<Result<v1::Connection>> PauseSync(v1::PauseSyncRequest request);
  Task<Result<v1::Connection>> StartVerify(v1::StartVerifyRequest request);
  Task<Result<v1::Connection>> StopVerify(v1::StopVerifyRequest request);
  Task<Result<v1::Connection>> ResumeSync(v1::ResumeSyncRequest request);

  // Until the condition holds, the time is over (kDeadlineExceeded) or `cancel` asks (kCancelled).
  Task<Result<v1::WaitResponse>> Wait(v1::WaitRequest request, CancelToken cancel);

  // For fronts: a volume that is presented cannot be deleted.
  Status ClaimVolume(const v1::VolumeRef& volume, const std::string& user);
  void ReleaseVolume(const v1::VolumeRef& volume, const std::string& user);
  Result<BlockDevice*> VolumeDevice(const v1::VolumeRef& volume) const;

  // A backend went away: volumes that were detached from it no longer name it.
  static void ForgetBackendStored(StoredState& state, const std::string& backend);
  void ForgetBackend(const std::string& backend);

  // Makes what is configured, without disks; Retry attaches and connects what should be. A disk
  // that does not answer holds up its own resource only.
  Status Restore();
  Task<void> Retry();
  // Publishes what changed since the last look, and lets waits look again.
  void Look();
  // Ends connections and detaches, without a word to the configuration. Acts that run end.
  Task<void> StopAll();
  // Destroys what StopAll ended, once nobody waits in it.
  void Clear();

  v1::Resource Describe(const ResourceEntry& entry) const;
  std::vector<v1::Resource> All() const;
  void AddProblems(std::vector<NodeProblem>* problems) const;

 private:
  // Handlers are allowed, and what they name can be executed.
  Task<Status> CheckHandlers(drbd::HandlerConfig handlers);
  std::string HandlerProblem(const ResourceEntry& entry) const;
  friend struct ResourceEntry;

  Result<ResourceEntryPtr> Find(const std::string& name) const;
  v1::Volume DescribeVolume(const ResourceEntry& entry, uint32_t number) const;
  v1::Connection DescribeConnection(const ResourceEntry& entry, uint32_t peer) const;
  void Show(const ResourceEntry& entry, const std::string& reason = {});
  void OnEngineEvents(ResourceEntry& entry);

  Task<void> RetryOne(ResourceEntryPtr entry);
  Status RestoreResource(const config::v1::StoredResource& stored);
  Status RefuseCopy(const std::string& volume, const std::string& backend,
                    uint64_t device_uuid) const;
  Status RefuseOther(const std::string& volume, const std::string& backend, uint64_t expected,
                     uint64_t device_uuid) const;
  Task<Status> AttachNow(ResourceEntryPtr entry, uint32_t number, bool other_disk = false);
  Task<Status> MakeMetadata(std::string backend, std::string metadata_backend, uint32_t max_peers,
                            bool force);
  Task<Status> AttachFresh(ResourceEntryPtr entry, uint32_t number, bool create_metadata,
                           uint32_t max_peers);
  Status ClaimBackends(const v1::VolumeSpec& spec);
  void ReleaseBackends(const v1::VolumeSpec& spec);
  // With the lifecycle lock held: stores what has become of sizes, here or by a peer.
  Task<Status> RememberSizes(ResourceEntryPtr entry);
  Task<Status> MakeVolume(ResourceEntryPtr entry, v1::CreateVolumeRequest request);

  NodeParts parts_;
  BackendManager* backends_;
  WaitQueue changed_;
  std::map<std::string, ResourceEntryPtr> entries_;
  PatientGroup retries_;
};

}  // namespace umblock::server
