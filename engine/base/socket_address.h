// An IPv4 or IPv6 address with a port: a value, comparable, printable, parsable.
#pragma once

#include <sys/socket.h>

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/error.h"

namespace umblock {

class SocketAddress {
 public:
  enum class Family : uint8_t { kIpv4, kIpv6 };

  SocketAddress() = default;
  static SocketAddress Ipv4(std::array<uint8_t, 4> address, uint16_t port);
  static SocketAddress Ipv6(std::array<uint8_t, 16> address, uint16_t port, uint32_t scope_id = 0);

  // "192.0.2.1:7789" or "[2001:db8::1]:7789" ("[fe80::1%3]:7789" with a numeric scope). No names:
  // resolving blocks, and is the caller's business.
  static Result<SocketAddress> Parse(std::string_view text);
  static Result<SocketAddress> FromSockaddr(const sockaddr* address, socklen_t length);

  // Fills `storage` and returns the length used.
  socklen_t ToSockaddr(sockaddr_storage* storage) const;
  // The form Parse accepts.
  std::string ToString() const;

  Family family() const { return family_; }
  uint16_t port() const { return port_; }
  SocketAddress WithPort(uint16_t port) const;
  // True if both name the same host, whatever the port.
  bool SameHost(const SocketAddress& other) const;

  // The order in which DRBD 9 compares two ends of a connection (memcmp over the sockaddr: family,
  // port in network order, address; drbd-wire.md 1.3).
  friend std::strong_ordering operator<=>(const SocketAddress&, const SocketAddress&) = default;

 private:
  Family family_ = Family::kIpv4;
  uint16_t port_ = 0;
  std::array<uint8_t, 16> address_{};  // IPv4 uses the first four bytes
  uint32_t scope_id_ = 0;
};

}  // namespace umblock
