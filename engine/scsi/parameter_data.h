// Builder for parameter data (INQUIRY, MODE SENSE, REPORT LUNS, …): big-endian fields appended in
// order. Off the data path, so it may allocate.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/base/bytes.h"

namespace umblock::scsi {

class ParameterData {
 public:
  template <typename T>
  ParameterData& Be(T value) {
    size_t at = bytes_.size();
    bytes_.resize(at + sizeof(T));
    StoreBe<T>(&bytes_[at], value);
    return *this;
  }
  ParameterData& U8(uint8_t value) { return Be<uint8_t>(value); }
  ParameterData& U16(uint16_t value) { return Be<uint16_t>(value); }
  ParameterData& U32(uint32_t value) { return Be<uint32_t>(value); }
  ParameterData& U64(uint64_t value) { return Be<uint64_t>(value); }
  ParameterData& Zero(size_t n) {
    bytes_.resize(bytes_.size() + n);
    return *this;
  }
  ParameterData& Raw(Bytes data) {
    bytes_.insert(bytes_.end(), data.begin(), data.end());
    return *this;
  }
  ParameterData& Text(std::string_view text) {
    return Raw(std::as_bytes(std::span(text.data(), text.size())));
  }
  // Left-aligned ASCII in a field of `width` bytes, padded with spaces (SPC-4 §4.4.1).
  ParameterData& Ascii(std::string_view text, size_t width) {
    for (size_t i = 0; i < width; ++i) U8(i < text.size() ? static_cast<uint8_t>(text[i]) : ' ');
    return *this;
  }
  // Overwrites a length field, once it is known.
  template <typename T>
  void Patch(size_t at, T value) {
    UMBLOCK_ASSERT(at + sizeof(T) <= bytes_.size(), "a patched field exists");
    StoreBe<T>(&bytes_[at], value);
  }

  size_t size() const { return bytes_.size(); }
  Bytes bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace umblock::scsi
