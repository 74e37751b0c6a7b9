// The run-length code of P_COMPRESSED_BITMAP (drbd-wire.md 5.9.5) and its bit string.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "engine/base/bytes.h"

namespace umblock::drbd::wire {

inline constexpr uint64_t kMaxCodedRun = 72057611219902768;

struct RunCode {
  uint64_t bits = 0;  // to be written least significant bit first
  int count = 0;      // 2..64
};
// The shortest code of `run`, 1..kMaxCodedRun (asserted).
RunCode CodeOfRun(uint64_t run);

// Appends codes to a byte buffer, filling each byte from its least significant bit.
class RunWriter {
 public:
  explicit RunWriter(MutableBytes to) : to_(to) {}

  // False, and nothing written, if the code does not fit any more.
  bool Append(RunCode code);

  size_t bits() const { return at_; }
  size_t bytes() const { return (at_ + 7) / 8; }
  int pad_bits() const { return static_cast<int>(bytes() * 8 - at_); }

 private:
  MutableBytes to_;
  size_t at_ = 0;  // in bits
};

// Reads codes from a bit string of `code.size()` bytes without its last `pad_bits` bits.
class RunReader {
 public:
  RunReader(Bytes code, int pad_bits);

  bool AtEnd() const { return at_ == end_; }
  // The next run; nullopt if the code is cut off. Not to be called at the end.
  std::optional<uint64_t> Next();

 private:
  uint64_t Peek() const;  // the next 64 bits, zeroes behind the end

  Bytes code_;
  size_t at_ = 0;  // in bits
  size_t end_;
};

}  // namespace umblock::drbd::wire
