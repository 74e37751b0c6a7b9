#include "engine/runtime/uring/connect.h"

#include <netinet/in.h>

#include <cerrno>

#include "engine/runtime/uring/op_awaiter.h"
#include "engine/runtime/uring/socket_util.h"
#include "engine/runtime/uring/uring_stream.h"

namespace umblock {
namespace {

Result<OwnedFd> PrepareSocket(const ConnectRequest& request) {
  auto fd = OpenTcpSocket(request.remote.family());
  if (!fd) return fd;
  UMBLOCK_TRY(ApplyBufferSizes(fd->get(), request.options));
  UMBLOCK_TRY(ApplyStreamOptions(fd->get(), request.options));
  if (request.bind_local) {
    if (request.local.port() == 0) {
      // The port is chosen when connecting, so that ports shared by destinations do not run out.
      int on = 1;
      setsockopt(fd->get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    }
    UMBLOCK_TRY(BindSocket(fd->get(), request.local));
  }
  return fd;
}

Error ConnectError(const ConnectRequest& request, int error) {
  std::string what = "connect to " + request.remote.ToString();
  if (request.bind_local) what += " from " + request.local.ToString();
  Error result = Error::FromErrno(error, what);
  switch (error) {
    case ECONNREFUSED:
    case ECONNRESET:
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case ENETUNREACH:
    case ENETDOWN:
    case ETIMEDOUT:
      return Error(ErrorCode::kUnavailable, result.message());
    default:
      return result;
  }
}

}  // namespace

Task<Result<std::unique_ptr<Stream>>> ConnectStream(UringReactor& reactor, ConnectRequest request,
                                                    CancelToken cancel) {
  auto fd = PrepareSocket(request);
  if (!fd) co_return std::unexpected(fd.error());
  reactor.CountSyscall(5);
  sockaddr_storage raw;
  socklen_t length = request.remote.ToSockaddr(&raw);
  OpOutcome outcome = co_await OpAwaiter(
      reactor, cancel, request.timeout, [&raw, length, &fd](io_uring_sqe* entry) {
        io_uring_prep_connect(entry, fd->get(), reinterpret_cast<sockaddr*>(&raw), length);
      });
  if (outcome.reason == WakeReason::kCancelled) {
    co_return MakeError(ErrorCode::kCancelled, "connect to {}: stopped", request.remote.ToString());
  }
  if (outcome.reason == WakeReason::kTimeout) {
    co_return MakeError(
        ErrorCode::kDeadlineExceeded, "connect to {}: no answer within {} ms",
        request.remote.ToString(),
        std::chrono::duration_cast<std::chrono::milliseconds>(request.timeout).count());
  }
  if (outcome.result < 0) co_return std::unexpected(ConnectError(request, -outcome.result));
  auto local = LocalAddressOf(fd->get());
  if (!local) co_return std::unexpected(local.error());
  co_return std::make_unique<UringStream>(reactor, fd->Release(), *local, request.remote);
}

}  // namespace umblock
