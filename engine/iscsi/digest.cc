#include "engine/iscsi/digest.h"

#include <isa-l/crc.h>

namespace umblock::iscsi {

void Crc32c::Add(Bytes data) {
  // ISA-L takes a non-const pointer and reads only.
  auto* bytes = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(data.data()));
  state_ = crc32_iscsi(bytes, static_cast<int>(data.size()), state_);
}

}  // namespace umblock::iscsi
