// The unit in which a thin resync asks (drbd-metadata-resync.md 6.4.3, drbd-io-path.md E.5).
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "engine/block/block_device.h"

namespace umblock::drbd {

inline constexpr uint64_t kMaxThinGranularity = uint64_t{1} << 20;  // one request

// Bytes: a multiple of a bitmap block, and of what `backing` can release at once if a request can
// be that large. `option` is rs-discard-granularity. 0: no thin resync, because it is off or the
// device releases nothing. Zeroes are written, with leave to release: what is smaller than the
// device's unit reads as zeroes all the same.
inline uint64_t ThinGranularity(uint64_t option, const BlockGeometry& backing) {
  constexpr uint64_t kBitBytes = 4096;
  if (option == 0 || !backing.can_discard) return 0;
  uint64_t unit = std::lcm(kBitBytes, std::max<uint64_t>(backing.discard_granularity, 1));
  if (unit > kMaxThinGranularity) unit = kBitBytes;
  uint64_t rounded = (option + unit - 1) / unit * unit;
  return std::min(rounded, kMaxThinGranularity / unit * unit);
}

}  // namespace umblock::drbd
