// Errors on their way to a client: one canonical code per ErrorCode, and the message as it is.
#pragma once

#include <grpcpp/support/status.h>

#include "engine/base/error.h"

namespace umblock::server {

grpc::StatusCode ToGrpcCode(ErrorCode code);
grpc::Status ToGrpcStatus(const Error& error);

}  // namespace umblock::server
