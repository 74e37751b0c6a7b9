// Packet headers (drbd-wire.md 2): the three forms h80, h95 and h100.
//
// A receiver looks at the first kMinHeaderSize bytes, learns from the magic which form it is, gets
// the rest of the header if there is one, and decodes. Whether that form, type and length are
// acceptable at this point of the conversation is CheckHeader's business (validate.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <string_view>

#include "engine/base/bytes.h"
#include "engine/drbd/wire/packet_type.h"

namespace umblock::drbd::wire {

enum class HeaderKind : uint8_t { kH80, kH95, kH100 };

inline constexpr size_t kMinHeaderSize = 8;
inline constexpr size_t kMaxHeaderSize = 16;
constexpr size_t HeaderSize(HeaderKind kind) {
  return kind == HeaderKind::kH100 ? kMaxHeaderSize : kMinHeaderSize;
}

inline constexpr uint32_t kMagic80 = 0x83740267;
inline constexpr uint16_t kMagic95 = 0x835a;
inline constexpr uint32_t kMagic100 = 0x8620ec20;

inline constexpr int32_t kNoVolume = -1;  // connection level; 0xffff on the wire
inline constexpr int32_t kMaxVolume = 0xfffe;

struct Header {
  PacketType type = PacketType::kPing;
  int32_t volume = kNoVolume;  // h80 and h95 have none: decoded as 0
  uint32_t length = 0;         // bytes of payload after the header
  HeaderKind kind = HeaderKind::kH100;

  size_t size() const { return HeaderSize(kind); }
  friend bool operator==(const Header&, const Header&) = default;
};

enum class HeaderError : uint8_t {
  kIncomplete,  // more bytes are needed; not a mistake of the peer
  kBadMagic,
  kBadPadding,  // h100 with a pad that is not 0
};
std::string_view HeaderErrorText(HeaderError error);

// Which form begins here. Needs kMinHeaderSize bytes; nullopt for fewer and for a bad magic.
inline std::optional<HeaderKind> IdentifyHeader(Bytes bytes) {
  if (bytes.size() < kMinHeaderSize) return std::nullopt;
  const uint32_t magic = LoadBe<uint32_t>(bytes.data());
  if (magic == kMagic100) return HeaderKind::kH100;
  if (magic == kMagic80) return HeaderKind::kH80;
  if (magic >> 16 == kMagic95) return HeaderKind::kH95;
  return std::nullopt;
}

// Decodes the header at the start of `bytes`, which may be longer. Does not allocate.
std::expected<Header, HeaderError> DecodeHeader(Bytes bytes);

// Writes header.size() bytes and returns that number. `to` must have room; h80 needs
// length <= 0xffff. Both are the caller's duty (asserted).
size_t EncodeHeader(const Header& header, MutableBytes to);

// The form that a sender uses for a packet of `length` payload bytes (2.2). `agreed_protocol` 0:
// before the features were exchanged.
HeaderKind HeaderKindFor(int agreed_protocol, PacketType type, uint32_t length);

}  // namespace umblock::drbd::wire
