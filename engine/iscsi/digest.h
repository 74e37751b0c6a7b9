// Header and data digests: CRC32C (RFC 7143 §13.1), by ISA-L.
#pragma once

#include <cstdint>

#include "engine/base/bytes.h"

namespace umblock::iscsi {

class Crc32c {
 public:
  void Add(Bytes data);
  // The digest as it stands on the wire, read as a little-endian number.
  uint32_t value() const { return ~state_; }

 private:
  uint32_t state_ = 0xffffffff;
};

inline uint32_t Digest(Bytes data) {
  Crc32c crc;
  crc.Add(data);
  return crc.value();
}

}  // namespace umblock::iscsi
