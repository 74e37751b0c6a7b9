#include "server/grpc_services.h"

#include "server/api_context.h"
#include "server/grpc_status.h"
#include "server/node.h"
#include "umblock/v1/backend.grpc.pb.h"
#include "umblock/v1/connection.grpc.pb.h"
#include "umblock/v1/export.grpc.pb.h"
#include "umblock/v1/node.grpc.pb.h"
#include "umblock/v1/resource.grpc.pb.h"
#include "umblock/v1/target.grpc.pb.h"
#include "umblock/v1/volume.grpc.pb.h"

namespace umblock::server {
namespace {

using Reply = grpc::ServerUnaryReactor;
using Context = grpc::CallbackServerContext;

class UnaryCall final : public Reply {
 public:
  explicit UnaryCall(ApiContext* api) : slot_(&api->calls) {}
  bool admitted() const { return slot_.admitted(); }
  void OnDone() override { delete this; }

 private:
  CallSlot slot_;
};

template <typename Manager, typename Request, typename Response>
Reply* Forward(ApiContext* api, Manager& (Node::*manager)(),
               Task<Result<Response>> (Manager::*act)(Request), const Request* request,
               Response* response) {
  auto* call = new UnaryCall(api);
  if (!call->admitted()) {
    call->Finish(
        grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                     fmt::format("more than {} calls at a time (--max-calls)", api->calls.limit)));
    return call;
  }
  Node* node = api->node;
  node->Call<Response>(
      [node, manager, act, copy = *request]() mutable {
        return ((node->*manager)().*act)(std::move(copy));
      },
      [call, response](Result<Response> result) {
        if (!result) return call->Finish(ToGrpcStatus(result.error()));
        *response = std::move(*result);
        call->Finish(grpc::Status::OK);
      });
  return call;
}

// One rpc: its name, its messages, and the manager's function that answers it. Types and names of
// functions cannot stand in parentheses.
// NOLINTBEGIN(bugprone-macro-parentheses)
#define UMBLOCK_RPC(rpc, RequestType, ResponseType, manager, function)                        \
  Reply* rpc(Context*, const v1::RequestType* request, v1::ResponseType* response) override { \
    return Forward(api_, &Node::manager, &function, request, response);                       \
  }

// NOLINTEND(bugprone-macro-parentheses)

#define UMBLOCK_SERVICE(name)                         \
 public:                                              \
  explicit name##Impl(ApiContext* api) : api_(api) {} \
                                                      \
 private:                                             \
  ApiContext* api_;                                   \
                                                      \
 public:

class BackendServiceImpl final : public v1::BackendService::CallbackService {
  UMBLOCK_SERVICE(BackendService)
  using M = BackendManager;
  UMBLOCK_RPC(CreateBackend, CreateBackendRequest, Backend, backends, M::Create)
  UMBLOCK_RPC(GetBackend, GetBackendRequest, Backend, backends, M::Get)
  UMBLOCK_RPC(ListBackends, ListBackendsRequest, ListBackendsResponse, backends, M::List)
  UMBLOCK_RPC(ResizeBackend, ResizeBackendRequest, Backend, backends, M::Resize)
  UMBLOCK_RPC(DeleteBackend, DeleteBackendRequest, DeleteBackendResponse, backends, M::Delete)
};

class ResourceServiceImpl final : public v1::ResourceService::CallbackService {
  UMBLOCK_SERVICE(ResourceService)
  using M = ResourceManager;
  UMBLOCK_RPC(CreateResource, CreateResourceRequest, Resource, resources, M::Create)
  UMBLOCK_RPC(GetResource, GetResourceRequest, Resource, resources, M::Get)
  UMBLOCK_RPC(ListResources, ListResourcesRequest, ListResourcesResponse, resources, M::List)
  UMBLOCK_RPC(UpdateResource, UpdateResourceRequest, Resource, resources, M::Update)
  UMBLOCK_RPC(DeleteResource, DeleteResourceRequest, DeleteResourceResponse, resources, M::Delete)
  UMBLOCK_RPC(Promote, PromoteRequest, Resource, resources, M::Promote)
  UMBLOCK_RPC(Demote, DemoteRequest, Resource, resources, M::Demote)
  UMBLOCK_RPC(SuspendIo, SuspendIoRequest, Resource, resources, M::SuspendIo)
  UMBLOCK_RPC(ResumeIo, ResumeIoRequest, Resource, resources, M::ResumeIo)
  UMBLOCK_RPC(SetHandlers, SetHandlersRequest, Resource, resources, M::SetHandlers)
};

class VolumeServiceImpl final : public v1::VolumeService::CallbackService {
  UMBLOCK_SERVICE(VolumeService)
  using M = ResourceManager;
  UMBLOCK_RPC(CreateVolume, CreateVolumeRequest, Volume, resources, M::CreateVolume)
  UMBLOCK_RPC(GetVolume, GetVolumeRequest, Volume, resources, M::GetVolume)
  UMBLOCK_RPC(ListVolumes, ListVolumesRequest, ListVolumesResponse, resources, M::ListVolumes)
  UMBLOCK_RPC(UpdateVolume, UpdateVolumeRequest, Volume, resources, M::UpdateVolume)
  UMBLOCK_RPC(DeleteVolume, DeleteVolumeRequest, DeleteVolumeResponse, resources, M::DeleteVolume)
  UMBLOCK_RPC(CreateMetadata, CreateMetadataRequest, CreateMetadataResponse, resources,
              M::CreateMetadata)
  UMBLOCK_RPC(Attach, AttachRequest, Volume, resources, M::Attach)
  UMBLOCK_RPC(Detach, DetachRequest, Volume, resources, M::Detach)
  UMBLOCK_RPC(Invalidate, InvalidateRequest, Volume, resources, M::Invalidate)
  UMBLOCK_RPC(Outdate, OutdateRequest, Volume, resources, M::Outdate)
  UMBLOCK_RPC(ResizeVolume, ResizeVolumeRequest, Volume, resources, M::ResizeVolume)
  UMBLOCK_RPC(ForgetPeer, ForgetPeerRequest, Volume, resources, M::ForgetPeer)
  UMBLOCK_RPC(NewCurrentUuid, NewCurrentUuidRequest, Volume, resources, M::NewCurrentUuid)
};

class ConnectionServiceImpl final : public v1::ConnectionService::CallbackService {
  UMBLOCK_SERVICE(ConnectionService)
  using M = ResourceManager;
  UMBLOCK_RPC(CreateConnection, CreateConnectionRequest, Connection, resources, M::CreateConnection)
  UMBLOCK_RPC(GetConnection, GetConnectionRequest, Connection, resources, M::GetConnection)
  UMBLOCK_RPC(ListConnections, ListConnectionsRequest, ListConnectionsResponse, resources,
              M::ListConnections)
  UMBLOCK_RPC(UpdateConnection, UpdateConnectionRequest, Connection, resources, M::UpdateConnection)
  UMBLOCK_RPC(DeleteConnection, DeleteConnectionRequest, DeleteConnectionResponse, resources,
              M::DeleteConnection)
  UMBLOCK_RPC(Connect, ConnectRequest, Connection, resources, M::Connect)
  UMBLOCK_RPC(Disconnect, DisconnectRequest, Connection, resources, M::Disconnect)
  UMBLOCK_RPC(InvalidateRemote, InvalidateRemoteRequest, Connection, resources, M::InvalidateRemote)
  UMBLOCK_RPC(PauseSync, PauseSyncRequest, Connection, resources, M::PauseSync)
  UMBLOCK_RPC(StartVerify, StartVerifyRequest, Connection, resources, M::StartVerify)
  UMBLOCK_RPC(StopVerify, StopVerifyRequest, Connection, resources, M::StopVerify)
  UMBLOCK_RPC(ResumeSync, ResumeSyncRequest, Connection, resources, M::ResumeSync)
};

class TargetServiceImpl final : public v1::TargetService::CallbackService {
  UMBLOCK_SERVICE(TargetService)
  using M = TargetManager;
  UMBLOCK_RPC(CreatePortal, CreatePortalRequest, Portal, targets, M::CreatePortal)
  UMBLOCK_RPC(ListPortals, ListPortalsRequest, ListPortalsResponse, targets, M::ListPortals)
  UMBLOCK_RPC(DeletePortal, DeletePortalRequest, DeletePortalResponse, targets, M::DeletePortal)
  UMBLOCK_RPC(CreateTarget, CreateTargetRequest, Target, targets, M::CreateTarget)
  UMBLOCK_RPC(GetTarget, GetTargetRequest, Target, targets, M::GetTarget)
  UMBLOCK_RPC(ListTargets, ListTargetsRequest, ListTargetsResponse, targets, M::ListTargets)
  UMBLOCK_RPC(UpdateTarget, UpdateTargetRequest, Target, targets, M::UpdateTarget)
  UMBLOCK_RPC(DeleteTarget, DeleteTargetRequest, DeleteTargetResponse, targets, M::DeleteTarget)
  UMBLOCK_RPC(CreateLun, CreateLunRequest, Lun, targets, M::CreateLun)
  UMBLOCK_RPC(DeleteLun, DeleteLunRequest, DeleteLunResponse, targets, M::DeleteLun)
};

class ExportServiceImpl final : public v1::ExportService::CallbackService {
  UMBLOCK_SERVICE(ExportService)
  using M = ExportManager;
  UMBLOCK_RPC(CreateExport, CreateExportRequest, Export, exports, M::Create)
  UMBLOCK_RPC(GetExport, GetExportRequest, Export, exports, M::Get)
  UMBLOCK_RPC(ListExports, ListExportsRequest, ListExportsResponse, exports, M::List)
  UMBLOCK_RPC(DeleteExport, DeleteExportRequest, DeleteExportResponse, exports, M::Delete)
};

class NodeServiceImpl final : public v1::NodeService::CallbackService {
  UMBLOCK_SERVICE(NodeService)
  UMBLOCK_RPC(GetNode, GetNodeRequest, Node, self, Node::GetNode)
  UMBLOCK_RPC(GetStatus, GetStatusRequest, NodeStatus, self, Node::GetStatus)
};

#undef UMBLOCK_RPC
#undef UMBLOCK_SERVICE

}  // namespace

std::vector<std::unique_ptr<grpc::Service>> MakeUnaryServices(ApiContext* api) {
  std::vector<std::unique_ptr<grpc::Service>> services;
  services.push_back(std::make_unique<NodeServiceImpl>(api));
  services.push_back(std::make_unique<BackendServiceImpl>(api));
  services.push_back(std::make_unique<ResourceServiceImpl>(api));
  services.push_back(std::make_unique<VolumeServiceImpl>(api));
  services.push_back(std::make_unique<ConnectionServiceImpl>(api));
  services.push_back(std::make_unique<TargetServiceImpl>(api));
  services.push_back(std::make_unique<ExportServiceImpl>(api));
  return services;
}

}  // namespace umblock::server
