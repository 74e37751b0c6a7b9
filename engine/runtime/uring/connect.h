// UringReactor::Connect: one attempt to connect, with its time limit.
#pragma once

#include <memory>

#include "engine/runtime/stream.h"

namespace umblock {

class UringReactor;

// kUnavailable: refused, unreachable. kDeadlineExceeded: the timeout. kCancelled: the token.
Task<Result<std::unique_ptr<Stream>>> ConnectStream(UringReactor& reactor, ConnectRequest request,
                                                    CancelToken cancel);

}  // namespace umblock
