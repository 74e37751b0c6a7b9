// Byte order and bounds-checked cursors over byte spans.
//
// Load*/Store* work on unaligned addresses. ByteReader and ByteWriter never leave their span: a
// read past the end makes the reader fail (ok() is false, values are 0), a write past the end is
// the caller's mistake and asserts.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "engine/base/assert.h"

namespace umblock {

using Bytes = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;

template <typename T>
constexpr T ByteSwap(T value) {
  if constexpr (sizeof(T) == 1) {
    return value;
  } else if constexpr (sizeof(T) == 2) {
    return static_cast<T>(__builtin_bswap16(static_cast<uint16_t>(value)));
  } else if constexpr (sizeof(T) == 4) {
    return static_cast<T>(__builtin_bswap32(static_cast<uint32_t>(value)));
  } else {
    static_assert(sizeof(T) == 8);
    return static_cast<T>(__builtin_bswap64(static_cast<uint64_t>(value)));
  }
}

template <typename T>
T LoadBe(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return std::endian::native == std::endian::little ? ByteSwap(value) : value;
}

template <typename T>
T LoadLe(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return std::endian::native == std::endian::little ? value : ByteSwap(value);
}

template <typename T>
void StoreBe(void* to, T value) {
  if constexpr (std::endian::native == std::endian::little) value = ByteSwap(value);
  std::memcpy(to, &value, sizeof value);
}

template <typename T>
void StoreLe(void* to, T value) {
  if constexpr (std::endian::native == std::endian::big) value = ByteSwap(value);
  std::memcpy(to, &value, sizeof value);
}

class ByteReader {
 public:
  explicit ByteReader(Bytes bytes) : bytes_(bytes) {}

  template <typename T>
  T Be() {
    if (!Take(sizeof(T))) return T{};
    return LoadBe<T>(bytes_.data() + at_ - sizeof(T));
  }
  template <typename T>
  T Le() {
    if (!Take(sizeof(T))) return T{};
    return LoadLe<T>(bytes_.data() + at_ - sizeof(T));
  }
  // The next `n` bytes; empty and not ok() if there are fewer.
  Bytes Raw(size_t n) {
    if (!Take(n)) return {};
    return bytes_.subspan(at_ - n, n);
  }
  void Skip(size_t n) { Take(n); }

  Bytes rest() const { return ok_ ? bytes_.subspan(at_) : Bytes{}; }
  size_t left() const { return ok_ ? bytes_.size() - at_ : 0; }
  size_t position() const { return at_; }
  bool ok() const { return ok_; }

 private:
  bool Take(size_t n) {
    if (!ok_ || bytes_.size() - at_ < n) {
      ok_ = false;
      return false;
    }
    at_ += n;
    return true;
  }

  Bytes bytes_;
  size_t at_ = 0;
  bool ok_ = true;
};

class ByteWriter {
 public:
  explicit ByteWriter(MutableBytes bytes) : bytes_(bytes) {}

  template <typename T>
  void Be(T value) {
    StoreBe<T>(Take(sizeof(T)), value);
  }
  template <typename T>
  void Le(T value) {
    StoreLe<T>(Take(sizeof(T)), value);
  }
  void Raw(Bytes data) {
    if (!data.empty()) std::memcpy(Take(data.size()), data.data(), data.size());
  }
  void Zero(size_t n) {
    if (n != 0) std::memset(Take(n), 0, n);
  }

  size_t position() const { return at_; }
  size_t left() const { return bytes_.size() - at_; }

 private:
  std::byte* Take(size_t n) {
    UMBLOCK_ASSERT(bytes_.size() - at_ >= n, "ByteWriter stays within its span");
    at_ += n;
    return bytes_.data() + at_ - n;
  }

  MutableBytes bytes_;
  size_t at_ = 0;
};

template <typename T>
constexpr T AlignUp(T value, T alignment) {
  return (value + alignment - 1) / alignment * alignment;
}
template <typename T>
constexpr T AlignDown(T value, T alignment) {
  return value / alignment * alignment;
}

}  // namespace umblock
