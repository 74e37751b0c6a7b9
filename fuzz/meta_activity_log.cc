// Any bytes as the ring of an activity log. With the first input byte's low bit set, the blocks get
// a right magic and checksum, so that the fuzzer reaches what lies behind them.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "engine/base/assert.h"
#include "engine/drbd/meta/al_transaction.h"

namespace {

using namespace umblock;              // NOLINT
using namespace umblock::drbd::meta;  // NOLINT

void RoundTrip(const AlTransaction& decoded) {
  AlTransaction expected = decoded;
  std::fill(expected.updates.begin() + expected.update_count, expected.updates.end(), AlUpdate{});
  std::vector<std::byte> block(kBlockBytes);
  EncodeAlTransaction(decoded, MutableAlBlockBytes(block));
  AlTransaction again;
  UMBLOCK_ASSERT(DecodeAlBlock(AlBlockBytes(block), &again) == AlBlockKind::kUpdate, "valid");
  UMBLOCK_ASSERT(again == expected, "round trip");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 4) return 0;
  const bool sign = (data[0] & 1) != 0;
  const uint32_t stripes = 1 + data[1] % 4;
  const uint32_t stripe_size = 8;
  const uint32_t chunk = 64U << (data[2] % 7);  // input bytes per block; the rest of it is zero
  data += 4;
  size -= 4;
  std::vector<std::byte> ring(uint64_t{stripes} * stripe_size * kBlockBytes);
  for (size_t i = 0; i < ring.size() / kBlockBytes && size > 0; ++i) {
    std::byte* block = ring.data() + i * kBlockBytes;
    const size_t n = std::min<size_t>({size, chunk, kBlockBytes});
    std::memcpy(block, data, n);
    data += n;
    size -= n;
    if (!sign) continue;
    StoreBe<uint32_t>(block, kAlMagic);
    StoreBe<uint32_t>(block + 8, 0);
    StoreBe<uint32_t>(block + 8, AlChecksum({block, kBlockBytes}));
    AlTransaction decoded;
    if (DecodeAlBlock(AlBlockBytes(block, kBlockBytes), &decoded) == AlBlockKind::kUpdate) {
      RoundTrip(decoded);
    }
  }
  const auto replay = ReplayAl(ring, stripes, stripe_size);
  if (!replay) return 0;
  const auto& hot = replay->hot_extents;
  UMBLOCK_ASSERT(std::ranges::is_sorted(hot), "ascending");
  UMBLOCK_ASSERT(std::ranges::adjacent_find(hot) == hot.end(), "distinct");
  UMBLOCK_ASSERT(!std::ranges::binary_search(hot, kAlNoExtent), "only extents");
  UMBLOCK_ASSERT(replay->update_blocks + replay->initialised_blocks + replay->corrupt_blocks ==
                     ring.size() / kBlockBytes,
                 "every block counted");
  return 0;
}
