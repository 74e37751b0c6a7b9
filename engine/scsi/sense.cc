#include "engine/scsi/sense.h"

#include <cerrno>
#include <cstring>

namespace umblock::scsi {
namespace {

constexpr uint8_t kFixedCurrent = 0x70;
constexpr uint8_t kDescriptorCurrent = 0x72;

// Sense key specific bytes of a field pointer (SPC-4 §4.5.2.4.2).
void PutFieldPointer(const Sense& sense, std::byte* to) {
  uint8_t flags = 0x80;                                      // SKSV
  if (sense.field_in_cdb) flags |= 0x40;                     // C/D
  if (sense.field_bit < 8) flags |= 0x08 | sense.field_bit;  // BPV
  to[0] = std::byte{flags};
  StoreBe<uint16_t>(to + 1, sense.field_byte);
}

size_t EncodeFixed(const Sense& sense, MutableBytes out) {
  std::memset(out.data(), 0, kFixedSenseLength);
  bool fits = sense.has_information && sense.information <= UINT32_MAX;
  out[0] = std::byte(kFixedCurrent | (fits ? 0x80 : 0));
  out[2] = std::byte{sense.key};
  if (fits) StoreBe<uint32_t>(&out[3], static_cast<uint32_t>(sense.information));
  out[7] = std::byte{kFixedSenseLength - 8};
  out[12] = std::byte{sense.asc};
  out[13] = std::byte{sense.ascq};
  if (sense.has_field) PutFieldPointer(sense, &out[15]);
  return kFixedSenseLength;
}

size_t EncodeDescriptor(const Sense& sense, MutableBytes out) {
  std::memset(out.data(), 0, kMaxSenseLength);
  out[0] = std::byte{kDescriptorCurrent};
  out[1] = std::byte{sense.key};
  out[2] = std::byte{sense.asc};
  out[3] = std::byte{sense.ascq};
  size_t at = 8;
  if (sense.has_information) {
    out[at] = std::byte{0x00};
    out[at + 1] = std::byte{0x0a};
    out[at + 2] = std::byte{0x80};  // VALID
    StoreBe<uint64_t>(&out[at + 4], sense.information);
    at += 12;
  }
  if (sense.has_field) {
    out[at] = std::byte{0x02};
    out[at + 1] = std::byte{0x06};
    PutFieldPointer(sense, &out[at + 4]);
    at += 8;
  }
  out[7] = std::byte(at - 8);
  return at;
}

}  // namespace

size_t EncodeSense(const Sense& sense, bool descriptor_format, MutableBytes out) {
  UMBLOCK_ASSERT(out.size() >= kMaxSenseLength, "room for the longest sense data");
  return descriptor_format ? EncodeDescriptor(sense, out) : EncodeFixed(sense, out);
}

Sense SenseFromErrno(int error, bool write) {
  switch (error) {
    case ENOSPC:
      return kSpaceAllocationFailed;
    case EROFS:
      return kNotReadyStandby;
    case ENODEV:
    case ENXIO:
      return kNotReadyUnavailable;
    case EINVAL:
      return kLbaOutOfRange;
    case EOPNOTSUPP:
      return kInvalidFieldInCdb;
    default:
      return write ? kWriteError : kReadError;
  }
}

}  // namespace umblock::scsi
