// UringStream: a TCP socket on a ring. See Stream for the contract.
#pragma once

#include <sys/socket.h>

#include <vector>

#include "engine/runtime/stream.h"
#include "engine/runtime/sync.h"
#include "engine/runtime/uring/uring_op.h"

namespace umblock {

class UringReactor;

class UringStream final : public Stream {
 public:
  // Takes the descriptor over.
  UringStream(UringReactor& reactor, int fd, SocketAddress local, SocketAddress remote);
  ~UringStream() override;

  void StartReceive(std::span<const iovec> buffers, Completion* completion) override;
  void StartSend(std::span<const iovec> buffers, Completion* completion) override;
  void Abort() noexcept override;
  void ShutdownSend() noexcept override;
  Task<void> Close() override;
  bool IsEstablished() const override;
  const SocketAddress& local_address() const override { return local_; }
  const SocketAddress& remote_address() const override { return remote_; }

 private:
  // One direction. Its iovecs are a copy, so that the caller's array need not outlive the call and
  // a partial transfer can move on in it; the vector keeps its memory between operations.
  struct Direction : UringOp {
    Direction(Fn function, UringStream* s) : UringOp(function), stream(s) {}
    bool busy() const { return completion != nullptr; }

    UringStream* stream;
    Completion* completion = nullptr;
    std::vector<iovec> iov;
    size_t first = 0;  // in iov: where the rest begins
    size_t total = 0;  // bytes
    size_t moved = 0;  // bytes
    msghdr message{};
  };

  static size_t Load(Direction* direction, std::span<const iovec> buffers, Completion* completion);
  static void OnReceived(UringOp* op, int32_t result, uint32_t flags) noexcept;
  static void OnSent(UringOp* op, int32_t result, uint32_t flags) noexcept;
  void SubmitReceive();
  void SubmitSend();
  void Finish(Direction* direction, int32_t result) noexcept;

  UringReactor& reactor_;
  int fd_;
  SocketAddress local_;
  SocketAddress remote_;
  Direction receive_;
  Direction send_;
  bool more_to_receive_ = false;  // the kernel said so with the last receive
  bool aborted_ = false;
  WaitQueue idle_;
};

}  // namespace umblock
