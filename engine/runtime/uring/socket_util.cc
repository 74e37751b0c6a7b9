#include "engine/runtime/uring/socket_util.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace umblock {
namespace {

Status SetOption(int fd, int level, int option, int value, const char* what) {
  if (setsockopt(fd, level, option, &value, sizeof value) == 0) return Ok();
  return std::unexpected(Error::FromErrno(errno, what));
}

}  // namespace

OwnedFd& OwnedFd::operator=(OwnedFd&& other) noexcept {
  if (this != &other) {
    Reset();
    fd_ = other.Release();
  }
  return *this;
}

void OwnedFd::Reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

Result<OwnedFd> OpenTcpSocket(SocketAddress::Family family) {
  int domain = family == SocketAddress::Family::kIpv4 ? AF_INET : AF_INET6;
  OwnedFd fd(socket(domain, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP));
  if (!fd.valid()) return std::unexpected(Error::FromErrno(errno, "socket"));
  if (domain == AF_INET6) {
    UMBLOCK_TRY(SetOption(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, 1, "IPV6_V6ONLY"));
  }
  return fd;
}

Status ApplyBufferSizes(int fd, const StreamOptions& options) {
  constexpr uint32_t kLargest = 1u << 30;
  if (options.send_buffer_bytes != 0) {
    int bytes = static_cast<int>(std::min(options.send_buffer_bytes, kLargest));
    UMBLOCK_TRY(SetOption(fd, SOL_SOCKET, SO_SNDBUF, bytes, "SO_SNDBUF"));
  }
  if (options.receive_buffer_bytes != 0) {
    int bytes = static_cast<int>(std::min(options.receive_buffer_bytes, kLargest));
    UMBLOCK_TRY(SetOption(fd, SOL_SOCKET, SO_RCVBUF, bytes, "SO_RCVBUF"));
  }
  return Ok();
}

Status ApplyStreamOptions(int fd, const StreamOptions& options) {
  UMBLOCK_TRY(SetOption(fd, IPPROTO_TCP, TCP_NODELAY, options.no_delay ? 1 : 0, "TCP_NODELAY"));
  return SetOption(fd, SOL_SOCKET, SO_KEEPALIVE, options.keepalive ? 1 : 0, "SO_KEEPALIVE");
}

Status BindSocket(int fd, const SocketAddress& address) {
  UMBLOCK_TRY(SetOption(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR"));
  sockaddr_storage raw;
  socklen_t length = address.ToSockaddr(&raw);
  if (bind(fd, reinterpret_cast<sockaddr*>(&raw), length) == 0) return Ok();
  return std::unexpected(Error::FromErrno(errno, "bind to " + address.ToString()));
}

Result<SocketAddress> LocalAddressOf(int fd) {
  sockaddr_storage raw{};
  socklen_t length = sizeof raw;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&raw), &length) != 0) {
    return std::unexpected(Error::FromErrno(errno, "getsockname"));
  }
  return SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&raw), length);
}

}  // namespace umblock
