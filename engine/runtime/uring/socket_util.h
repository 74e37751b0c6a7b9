// The system calls around a TCP socket that never block: made directly, not through the ring.
#pragma once

#include "engine/base/error.h"
#include "engine/base/socket_address.h"
#include "engine/runtime/stream.h"

namespace umblock {

// A file descriptor that is closed unless it is released.
class OwnedFd {
 public:
  explicit OwnedFd(int fd = -1) : fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : fd_(other.Release()) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept;
  ~OwnedFd() { Reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int Release() {
    int fd = fd_;
    fd_ = -1;
    return fd;
  }
  void Reset();

 private:
  int fd_;
};

Result<OwnedFd> OpenTcpSocket(SocketAddress::Family family);
// Buffer sizes are set before connecting or listening, so that they count for the window scale.
Status ApplyBufferSizes(int fd, const StreamOptions& options);
Status ApplyStreamOptions(int fd, const StreamOptions& options);
Status BindSocket(int fd, const SocketAddress& address);
Result<SocketAddress> LocalAddressOf(int fd);

}  // namespace umblock
