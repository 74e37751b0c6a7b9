#include "engine/drbd/wire/header.h"

#include "engine/base/assert.h"

namespace umblock::drbd::wire {
namespace {

constexpr uint16_t kNoVolumeOnWire = 0xffff;
constexpr uint32_t kH95Threshold = 32768;  // packets larger than that, header included (2.2)

}  // namespace

std::string_view HeaderErrorText(HeaderError error) {
  switch (error) {
    case HeaderError::kIncomplete:
      return "the packet header is not complete";
    case HeaderError::kBadMagic:
      return "the packet header has none of the three known magic numbers";
    case HeaderError::kBadPadding:
      return "the packet header's padding is not zero";
  }
  return "?";
}

std::expected<Header, HeaderError> DecodeHeader(Bytes bytes) {
  if (bytes.size() < kMinHeaderSize) return std::unexpected(HeaderError::kIncomplete);
  const std::optional<HeaderKind> kind = IdentifyHeader(bytes);
  if (!kind) return std::unexpected(HeaderError::kBadMagic);
  if (bytes.size() < HeaderSize(*kind)) return std::unexpected(HeaderError::kIncomplete);
  const std::byte* p = bytes.data();
  switch (*kind) {
    case HeaderKind::kH80:
      return Header{static_cast<PacketType>(LoadBe<uint16_t>(p + 4)), 0, LoadBe<uint16_t>(p + 6),
                    *kind};
    case HeaderKind::kH95:
      return Header{static_cast<PacketType>(LoadBe<uint16_t>(p + 2)), 0, LoadBe<uint32_t>(p + 4),
                    *kind};
    case HeaderKind::kH100:
      break;
  }
  if (LoadBe<uint32_t>(p + 12) != 0) return std::unexpected(HeaderError::kBadPadding);
  const uint16_t volume = LoadBe<uint16_t>(p + 4);
  return Header{static_cast<PacketType>(LoadBe<uint16_t>(p + 6)),
                volume == kNoVolumeOnWire ? kNoVolume : volume, LoadBe<uint32_t>(p + 8), *kind};
}

size_t EncodeHeader(const Header& header, MutableBytes to) {
  UMBLOCK_ASSERT(to.size() >= header.size(), "a header is encoded into a buffer that holds it");
  std::byte* p = to.data();
  switch (header.kind) {
    case HeaderKind::kH80:
      UMBLOCK_ASSERT(header.length <= 0xffff, "an h80 header has a 16-bit length");
      StoreBe(p, kMagic80);
      StoreBe(p + 4, static_cast<uint16_t>(header.type));
      StoreBe(p + 6, static_cast<uint16_t>(header.length));
      break;
    case HeaderKind::kH95:
      StoreBe(p, kMagic95);
      StoreBe(p + 2, static_cast<uint16_t>(header.type));
      StoreBe(p + 4, header.length);
      break;
    case HeaderKind::kH100:
      UMBLOCK_ASSERT(header.volume >= kNoVolume && header.volume <= kMaxVolume,
                     "a volume number has 16 bits");
      StoreBe(p, kMagic100);
      StoreBe(p + 4, static_cast<uint16_t>(header.volume));
      StoreBe(p + 6, static_cast<uint16_t>(header.type));
      StoreBe(p + 8, header.length);
      StoreBe<uint32_t>(p + 12, 0);
      break;
  }
  return header.size();
}

HeaderKind HeaderKindFor(int agreed_protocol, PacketType type, uint32_t length) {
  switch (type) {
    case PacketType::kInitialData:
    case PacketType::kInitialMeta:
    case PacketType::kConnectionFeatures:
      return HeaderKind::kH80;
    default:
      break;
  }
  if (agreed_protocol >= 100) return HeaderKind::kH100;
  if (agreed_protocol >= 95 && length + uint64_t{kMinHeaderSize} > kH95Threshold) {
    return HeaderKind::kH95;
  }
  return HeaderKind::kH80;
}

}  // namespace umblock::drbd::wire
