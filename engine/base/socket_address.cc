#include "engine/base/socket_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <charconv>
#include <cstring>

namespace umblock {

SocketAddress SocketAddress::Ipv4(std::array<uint8_t, 4> address, uint16_t port) {
  SocketAddress result;
  result.port_ = port;
  std::memcpy(result.address_.data(), address.data(), address.size());
  return result;
}

SocketAddress SocketAddress::Ipv6(std::array<uint8_t, 16> address, uint16_t port,
                                  uint32_t scope_id) {
  SocketAddress result;
  result.family_ = Family::kIpv6;
  result.port_ = port;
  result.address_ = address;
  result.scope_id_ = scope_id;
  return result;
}

namespace {

template <typename T>
bool ParseNumber(std::string_view text, T* value) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

std::unexpected<Error> BadAddress(std::string_view text) {
  return MakeError(ErrorCode::kInvalidArgument,
                   "'{}' is not a numeric address with a port; write 192.0.2.1:7789 or "
                   "[2001:db8::1]:7789",
                   text);
}

}  // namespace

Result<SocketAddress> SocketAddress::Parse(std::string_view text) {
  size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return BadAddress(text);
  uint16_t port = 0;
  if (!ParseNumber(text.substr(colon + 1), &port)) return BadAddress(text);
  std::string_view host = text.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
    uint32_t scope = 0;
    if (size_t percent = host.find('%'); percent != std::string_view::npos) {
      if (!ParseNumber(host.substr(percent + 1), &scope)) return BadAddress(text);
      host = host.substr(0, percent);
    }
    std::array<uint8_t, 16> raw{};
    if (inet_pton(AF_INET6, std::string(host).c_str(), raw.data()) != 1) return BadAddress(text);
    return Ipv6(raw, port, scope);
  }
  std::array<uint8_t, 4> raw{};
  if (inet_pton(AF_INET, std::string(host).c_str(), raw.data()) != 1) return BadAddress(text);
  return Ipv4(raw, port);
}

Result<SocketAddress> SocketAddress::FromSockaddr(const sockaddr* address, socklen_t length) {
  if (address->sa_family == AF_INET && length >= sizeof(sockaddr_in)) {
    sockaddr_in in;
    std::memcpy(&in, address, sizeof in);
    std::array<uint8_t, 4> raw{};
    std::memcpy(raw.data(), &in.sin_addr, raw.size());
    return Ipv4(raw, ntohs(in.sin_port));
  }
  if (address->sa_family == AF_INET6 && length >= sizeof(sockaddr_in6)) {
    sockaddr_in6 in6;
    std::memcpy(&in6, address, sizeof in6);
    std::array<uint8_t, 16> raw{};
    std::memcpy(raw.data(), &in6.sin6_addr, raw.size());
    return Ipv6(raw, ntohs(in6.sin6_port), in6.sin6_scope_id);
  }
  return MakeError(ErrorCode::kInvalidArgument, "address family {} is neither IPv4 nor IPv6",
                   static_cast<int>(address->sa_family));
}

socklen_t SocketAddress::ToSockaddr(sockaddr_storage* storage) const {
  std::memset(storage, 0, sizeof *storage);
  if (family_ == Family::kIpv4) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(port_);
    std::memcpy(&in.sin_addr, address_.data(), 4);
    std::memcpy(storage, &in, sizeof in);
    return sizeof in;
  }
  sockaddr_in6 in6{};
  in6.sin6_family = AF_INET6;
  in6.sin6_port = htons(port_);
  std::memcpy(&in6.sin6_addr, address_.data(), 16);
  in6.sin6_scope_id = scope_id_;
  std::memcpy(storage, &in6, sizeof in6);
  return sizeof in6;
}

std::string SocketAddress::ToString() const {
  char text[INET6_ADDRSTRLEN] = {};
  if (family_ == Family::kIpv4) {
    inet_ntop(AF_INET, address_.data(), text, sizeof text);
    return fmt::format("{}:{}", text, port_);
  }
  inet_ntop(AF_INET6, address_.data(), text, sizeof text);
  if (scope_id_ != 0) return fmt::format("[{}%{}]:{}", text, scope_id_, port_);
  return fmt::format("[{}]:{}", text, port_);
}

SocketAddress SocketAddress::WithPort(uint16_t port) const {
  SocketAddress result = *this;
  result.port_ = port;
  return result;
}

bool SocketAddress::SameHost(const SocketAddress& other) const {
  return family_ == other.family_ && address_ == other.address_ && scope_id_ == other.scope_id_;
}

}  // namespace umblock
