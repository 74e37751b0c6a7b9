// UringListener: a listening TCP socket on a ring. See Listener for the contract.
#pragma once

#include <sys/socket.h>

#include "engine/runtime/stream.h"
#include "engine/runtime/sync.h"
#include "engine/runtime/uring/socket_util.h"

namespace umblock {

class OpAwaiterBase;
class UringReactor;

class UringListener final : public Listener {
 public:
  static Result<std::unique_ptr<Listener>> Open(UringReactor& reactor,
                                                const ListenRequest& request);
  UringListener(UringReactor& reactor, OwnedFd fd, SocketAddress local, StreamOptions options);
  ~UringListener() override;

  Task<Result<std::unique_ptr<Stream>>> Accept(CancelToken cancel) override;
  const SocketAddress& local_address() const override { return local_; }
  Task<void> Close() override;

 private:
  // Of the connection in accepted_, whose peer is in peer_.
  Result<std::unique_ptr<Stream>> TakeAccepted();

  UringReactor& reactor_;
  OwnedFd fd_;
  OwnedFd accepted_;  // stays for the next call if the accept was being cancelled
  sockaddr_storage peer_{};
  socklen_t peer_length_ = 0;
  SocketAddress local_;
  StreamOptions options_;
  OpAwaiterBase* accepting_ = nullptr;
  bool busy_ = false;
  bool closed_ = false;
  WaitQueue idle_;
};

}  // namespace umblock
