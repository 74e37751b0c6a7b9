// Any 4096 bytes as a superblock: decoding either fails or gives a value that is encoded and
// decoded without change, whose layout lies within the device, and that can be printed.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "engine/base/assert.h"
#include "engine/drbd/meta/dump_md.h"
#include "engine/drbd/meta/geometry.h"
#include "engine/drbd/meta/signatures.h"
#include "engine/drbd/meta/superblock.h"

namespace {

using namespace umblock;              // NOLINT
using namespace umblock::drbd::meta;  // NOLINT

void CheckLayout(const Superblock& sb, Placement placement, uint64_t device_bytes) {
  const auto geometry = GeometryOf(sb, placement, device_bytes);
  if (!geometry) return;
  UMBLOCK_ASSERT(geometry->superblock_offset + kSuperblockBytes <= device_bytes, "within");
  UMBLOCK_ASSERT(geometry->al_offset + geometry->al_bytes() <= device_bytes, "within");
  UMBLOCK_ASSERT(geometry->bm_offset + geometry->bm_bytes <= device_bytes, "within");
  UMBLOCK_ASSERT(UsableSectors(*geometry, device_bytes / 512) <= kMaxDeviceSectors, "limited");
  const auto bitmap =
      Bitmap::Create({sb.max_peers, sb.effective_sectors * kSectorBytes, sb.bytes_per_bit});
  UMBLOCK_ASSERT(bitmap.has_value(), "a checked superblock has a bitmap");
  UMBLOCK_ASSERT(bitmap->page_count() * kBlockBytes <= geometry->bm_bytes, "fits its area");
  if (bitmap->page_count() < 8) {
    UMBLOCK_ASSERT(!DumpMd(sb, *geometry, *bitmap).empty(), "printable");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::array<std::byte, kSuperblockBytes> block{};
  if (size < 8) return 0;
  uint64_t device_bytes;
  std::memcpy(&device_bytes, data, 8);
  device_bytes =
      std::clamp<uint64_t>(device_bytes % (kMaxDeviceBytes + 1), 1 << 20, kMaxDeviceBytes);
  std::memcpy(block.data(), data + 8, std::min(size - 8, block.size()));
  (void)FindSignature(block);
  for (const uint32_t magic : {0U, kMagicV08, kMagicV09}) {
    if (magic != 0) StoreBe<uint32_t>(block.data() + 60, magic);
    const auto sb = DecodeSuperblock(block);
    if (!sb) continue;
    CheckLayout(*sb, Placement::kInternal, device_bytes);
    CheckLayout(*sb, Placement::kFlexExternal, device_bytes);
    (void)CheckSuperblock(*sb, {true, device_bytes / 512, 3, true});
    if (sb->format != Format::kV09) continue;
    std::array<std::byte, kSuperblockBytes> written;
    EncodeSuperblock(*sb, written);
    Superblock expected = *sb;
    for (PeerEntry& peer : expected.peers) peer.flags &= ~kPeerHaveBitmap;
    UMBLOCK_ASSERT(*DecodeSuperblock(written) == expected, "round trip");
  }
  return 0;
}
