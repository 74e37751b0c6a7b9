// The gRPC services of umblock.v1, as a list that a server can register. Each only hands its
// request to the node's reactor and finishes the RPC with what comes back.
#pragma once

#include <memory>
#include <vector>

namespace grpc {
class Service;
}

namespace umblock::server {

struct ApiContext;

// `api` outlives the services.
std::vector<std::unique_ptr<grpc::Service>> MakeUnaryServices(ApiContext* api);
std::unique_ptr<grpc::Service> MakeEventService(ApiContext* api);

}  // namespace umblock::server
