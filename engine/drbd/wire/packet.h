// One packet, header and payload, into a buffer.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "engine/base/bytes.h"
#include "engine/drbd/wire/header.h"

namespace umblock::drbd::wire {

template <typename T>
concept FixedPacket = requires(const T& packet, MutableBytes to) {
  { T::kSize } -> std::convertible_to<size_t>;
  Encode(packet, to);
};
template <typename T>
concept VariablePacket = requires(const T& packet, MutableBytes to) {
  { packet.EncodedSize() } -> std::convertible_to<size_t>;
  Encode(packet, to);
};

// Writes an h100 header and `packet`, and returns the bytes written. `trailing` bytes (digest, bulk
// data) that the caller sends behind it are counted in the header's length. `volume` is kNoVolume
// for the whole connection. Does not allocate.
template <typename T>
  requires FixedPacket<T> || VariablePacket<T>
size_t EncodePacket(PacketType type, int32_t volume, const T& packet, MutableBytes to,
                    uint32_t trailing = 0) {
  size_t size;
  if constexpr (VariablePacket<T>) {
    size = packet.EncodedSize();
  } else {
    size = T::kSize;
  }
  const size_t header = EncodeHeader(
      {.type = type, .volume = volume, .length = static_cast<uint32_t>(size) + trailing}, to);
  Encode(packet, to.subspan(header));
  return header + size;
}

// P_PING, P_PING_ACK, P_UNPLUG_REMOTE, P_DISCONNECT and the empty P_BITMAP.
inline size_t EncodeEmptyPacket(PacketType type, int32_t volume, MutableBytes to) {
  return EncodeHeader({.type = type, .volume = volume}, to);
}

}  // namespace umblock::drbd::wire
