#include "engine/runtime/uring/uring_listener.h"

#include <sys/socket.h>

#include <cerrno>

#include "engine/base/assert.h"
#include "engine/runtime/uring/op_awaiter.h"
#include "engine/runtime/uring/uring_stream.h"

namespace umblock {

Result<std::unique_ptr<Listener>> UringListener::Open(UringReactor& reactor,
                                                      const ListenRequest& request) {
  auto fd = OpenTcpSocket(request.local.family());
  if (!fd) return std::unexpected(fd.error());
  UMBLOCK_TRY(ApplyBufferSizes(fd->get(), request.options));
  UMBLOCK_TRY(BindSocket(fd->get(), request.local));
  if (listen(fd->get(), request.backlog) != 0) {
    return std::unexpected(Error::FromErrno(errno, "listen on " + request.local.ToString()));
  }
  auto local = LocalAddressOf(fd->get());
  if (!local) return std::unexpected(local.error());
  return std::make_unique<UringListener>(reactor, std::move(*fd), *local, request.options);
}

UringListener::UringListener(UringReactor& reactor, OwnedFd fd, SocketAddress local,
                             StreamOptions options)
    : reactor_(reactor), fd_(std::move(fd)), local_(local), options_(options), idle_(reactor) {}

UringListener::~UringListener() { UMBLOCK_ASSERT(!busy_, "a listener is closed before it goes"); }

Task<Result<std::unique_ptr<Stream>>> UringListener::Accept(CancelToken cancel) {
  UMBLOCK_ASSERT(!busy_, "one accept at a time");
  while (true) {
    if (closed_ || cancel.requested()) {
      co_return MakeError(ErrorCode::kCancelled, "accept on {}: stopped", local_.ToString());
    }
    if (accepted_.valid()) co_return TakeAccepted();
    peer_length_ = sizeof peer_;
    OpAwaiter accept(reactor_, cancel, std::nullopt, [this](io_uring_sqe* entry) {
      io_uring_prep_accept(entry, fd_.get(), reinterpret_cast<sockaddr*>(&peer_), &peer_length_,
                           SOCK_CLOEXEC);
    });
    busy_ = true;
    accepting_ = &accept;
    OpOutcome outcome = co_await accept;
    accepting_ = nullptr;
    busy_ = false;
    idle_.NotifyAll();
    if (outcome.result >= 0) {
      accepted_ = OwnedFd(outcome.result);
      continue;
    }
    int error = -outcome.result;
    bool again = error == EINTR || error == EAGAIN || error == ECONNABORTED || error == EPROTO;
    if (outcome.reason == WakeReason::kNotified && !again) {
      co_return std::unexpected(Error::FromErrno(error, "accept on " + local_.ToString()));
    }
  }
}

Result<std::unique_ptr<Stream>> UringListener::TakeAccepted() {
  OwnedFd fd = std::move(accepted_);
  reactor_.CountSyscall(3);
  UMBLOCK_TRY(ApplyStreamOptions(fd.get(), options_));
  auto remote = SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&peer_), peer_length_);
  if (!remote) return std::unexpected(remote.error());
  auto local = LocalAddressOf(fd.get());
  if (!local) return std::unexpected(local.error());
  return std::make_unique<UringStream>(reactor_, fd.Release(), *local, *remote);
}

Task<void> UringListener::Close() {
  closed_ = true;
  if (accepting_ != nullptr) accepting_->EndEarly(WakeReason::kCancelled);
  while (busy_) co_await idle_.Wait();
  accepted_.Reset();
  fd_.Reset();
}

}  // namespace umblock
