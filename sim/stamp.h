// What the workload writes into each sector of 512 bytes: who wrote it, as which write, for which
// sector, and filler that follows from these, so that a torn, misplaced or mixed sector shows.
#pragma once

#include <cstdint>
#include <string>

#include "engine/base/bytes.h"

namespace umblock::sim {

inline constexpr size_t kSectorBytes = 512;

struct Stamp {
  uint32_t writer = 0;  // node index
  uint32_t sequence = 0;
  uint64_t sector = 0;

  friend bool operator==(const Stamp&, const Stamp&) = default;
};

void WriteStamp(const Stamp& stamp, MutableBytes sector);

struct SectorContent {
  enum class Kind : uint8_t { kZero, kStamp, kGarbage };
  Kind kind = Kind::kZero;
  Stamp stamp;
};
SectorContent ReadStamp(Bytes sector);

// "zeroes", "write 17 of node 0 for sector 8", "garbage".
std::string Describe(const SectorContent& content);

}  // namespace umblock::sim
