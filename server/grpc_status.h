// Errors on their way to a client: one canonical code per ErrorCode, and the message as it is.
#pragma once

#include <grpcpp/support/status.h>

#include "engine/base/error.h"

namespace umblock::server {

// The error_details of all that the daemon says: a client tells it by them from what gRPC says of a
// daemon that does not answer, which has the same UNAVAILABLE.
inline constexpr char kSaidByDaemon[] = "umblockd";

grpc::StatusCode ToGrpcCode(ErrorCode code);
grpc::Status ToGrpcStatus(const Error& error);

}  // namespace umblock::server
