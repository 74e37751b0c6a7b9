#include "sim/stamp.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/runtime/sim/random.h"

namespace umblock::sim {
namespace {

constexpr uint64_t kMagic = 0x504d4154534b4255;
constexpr size_t kWords = kSectorBytes / 8;

uint64_t WordAt(const Stamp& stamp, size_t index) {
  switch (index) {
    case 0:
      return kMagic;
    case 1:
      return (uint64_t{stamp.writer} << 32) | stamp.sequence;
    case 2:
      return stamp.sector;
    default:
      return SimMix(stamp.sequence * 0x10001 + stamp.sector, index + stamp.writer);
  }
}

}  // namespace

void WriteStamp(const Stamp& stamp, MutableBytes sector) {
  for (size_t i = 0; i < kWords; ++i) StoreLe<uint64_t>(sector.data() + 8 * i, WordAt(stamp, i));
}

SectorContent ReadStamp(Bytes sector) {
  SectorContent content;
  if (LoadLe<uint64_t>(sector.data()) != kMagic) {
    const bool zero =
        std::all_of(sector.begin(), sector.end(), [](std::byte b) { return b == std::byte{0}; });
    content.kind = zero ? SectorContent::Kind::kZero : SectorContent::Kind::kGarbage;
    return content;
  }
  const uint64_t who = LoadLe<uint64_t>(sector.data() + 8);
  content.stamp.writer = static_cast<uint32_t>(who >> 32);
  content.stamp.sequence = static_cast<uint32_t>(who);
  content.stamp.sector = LoadLe<uint64_t>(sector.data() + 16);
  content.kind = SectorContent::Kind::kStamp;
  for (size_t i = 3; i < kWords; ++i) {
    if (LoadLe<uint64_t>(sector.data() + 8 * i) != WordAt(content.stamp, i)) {
      content.kind = SectorContent::Kind::kGarbage;
    }
  }
  return content;
}

std::string Describe(const SectorContent& content) {
  switch (content.kind) {
    case SectorContent::Kind::kZero:
      return "zeroes";
    case SectorContent::Kind::kStamp:
      return fmt::format("write {} of node {} for sector {}", content.stamp.sequence,
                         content.stamp.writer, content.stamp.sector);
    case SectorContent::Kind::kGarbage:
      break;
  }
  return "garbage";
}

}  // namespace umblock::sim
