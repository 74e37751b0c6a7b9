#include "engine/drbd/wire/bitmap_code.h"

#include <algorithm>
#include <array>
#include <bit>

#include "engine/base/assert.h"

namespace umblock::drbd::wire {
namespace {

struct Level {
  int prefix_bits;
  uint64_t prefix;
  int data_bits;
  uint64_t min;

  constexpr int total_bits() const { return prefix_bits + data_bits; }
};

// Each level begins where the one before ends.
constexpr auto kLevels = [] {
  std::array<Level, 10> levels{{{1, 0x00, 1, 0},
                                {2, 0x01, 1, 0},
                                {3, 0x03, 2, 0},
                                {4, 0x07, 3, 0},
                                {5, 0x0f, 5, 0},
                                {6, 0x1f, 8, 0},
                                {8, 0x3f, 13, 0},
                                {8, 0x7f, 21, 0},
                                {8, 0xbf, 34, 0},
                                {8, 0xff, 56, 0}}};
  uint64_t min = 1;
  for (Level& level : levels) {
    level.min = min;
    min += uint64_t{1} << level.data_bits;
  }
  return levels;
}();
constexpr uint64_t LastOf(const Level& level) {
  return level.min + (uint64_t{1} << level.data_bits) - 1;
}
static_assert(kLevels[7].min == 8497 && kLevels[9].min == 17181974833);
static_assert(LastOf(kLevels[9]) == kMaxCodedRun);

// Zero to five ones and a zero select levels 0 to 5; behind six ones the next two bits do.
const Level& LevelOf(uint64_t bits) {
  const int ones = std::countr_one(bits);
  if (ones < 6) return kLevels[static_cast<size_t>(ones)];
  switch (bits >> 6 & 3) {
    case 0:
      return kLevels[6];
    case 1:
      return kLevels[7];
    case 2:
      return kLevels[8];
    default:
      return kLevels[9];
  }
}

constexpr uint64_t LowBits(int count) {
  return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

}  // namespace

RunCode CodeOfRun(uint64_t run) {
  UMBLOCK_ASSERT(run >= 1 && run <= kMaxCodedRun, "the code knows runs of 1 to 2^56 and some");
  const Level& level = *std::ranges::find_if(
      kLevels, [run](const Level& candidate) { return run <= LastOf(candidate); });
  return {(run - level.min) << level.prefix_bits | level.prefix, level.total_bits()};
}

bool RunWriter::Append(RunCode code) {
  if (to_.size() * 8 - at_ < static_cast<size_t>(code.count)) return false;
  while (code.count > 0) {
    const size_t byte = at_ / 8;
    const int used = static_cast<int>(at_ % 8);
    if (used == 0) to_[byte] = std::byte{0};
    const int taken = std::min(8 - used, code.count);
    to_[byte] |= static_cast<std::byte>((code.bits & LowBits(taken)) << used);
    code.bits >>= taken;
    code.count -= taken;
    at_ += static_cast<size_t>(taken);
  }
  return true;
}

RunReader::RunReader(Bytes code, int pad_bits) : code_(code), end_(code.size() * 8) {
  UMBLOCK_ASSERT(pad_bits >= 0 && static_cast<size_t>(pad_bits) <= end_,
                 "padding is part of the code bytes");
  end_ -= static_cast<size_t>(pad_bits);
}

uint64_t RunReader::Peek() const {
  const size_t byte = at_ / 8;
  const int shift = static_cast<int>(at_ % 8);
  std::array<std::byte, 9> window{};
  std::ranges::copy(code_.subspan(byte, std::min(code_.size() - byte, window.size())),
                    window.begin());
  uint64_t bits = LoadLe<uint64_t>(window.data()) >> shift;
  if (shift != 0) bits |= static_cast<uint64_t>(window[8]) << (64 - shift);
  return bits & LowBits(static_cast<int>(std::min<size_t>(end_ - at_, 64)));
}

std::optional<uint64_t> RunReader::Next() {
  const uint64_t bits = Peek();
  const Level& level = LevelOf(bits);
  if (static_cast<size_t>(level.total_bits()) > end_ - at_) return std::nullopt;
  at_ += static_cast<size_t>(level.total_bits());
  return level.min + (bits >> level.prefix_bits & LowBits(level.data_bits));
}

}  // namespace umblock::drbd::wire
