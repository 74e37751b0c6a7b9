// Sense data (SPC-4 §4.5): what a CHECK CONDITION says.
//
// A Sense is a value; EncodeSense writes it in fixed or descriptor format. The named senses below
// are the ones this command set can report.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/base/bytes.h"

namespace umblock::scsi {

struct Sense {
  uint8_t key = 0;
  uint8_t asc = 0;
  uint8_t ascq = 0;
  bool has_information = false;
  bool has_field = false;     // sense key specific: field pointer, ILLEGAL REQUEST only
  bool field_in_cdb = false;  // else in the parameter list
  uint8_t field_bit = 0xff;   // 0 to 7; 0xff: the whole byte
  uint16_t field_byte = 0;
  uint64_t information = 0;  // an LBA, or the offset of the first byte that differed

  constexpr bool Is(const Sense& other) const {
    return key == other.key && asc == other.asc && ascq == other.ascq;
  }
  constexpr Sense WithInformation(uint64_t value) const {
    Sense copy = *this;
    copy.has_information = true;
    copy.information = value;
    return copy;
  }
  constexpr Sense AtCdb(uint16_t byte, uint8_t bit = 0xff) const {
    Sense copy = *this;
    copy.has_field = true;
    copy.field_in_cdb = true;
    copy.field_byte = byte;
    copy.field_bit = bit;
    return copy;
  }
  constexpr Sense AtParameter(uint16_t byte) const {
    Sense copy = *this;
    copy.has_field = true;
    copy.field_byte = byte;
    return copy;
  }
};

inline constexpr size_t kMaxSenseLength = 48;
inline constexpr size_t kFixedSenseLength = 18;

// Writes current sense data, returns its length (at most kMaxSenseLength). In fixed format an
// information value beyond 32 bits is left out (VALID 0), as SPC-4 says.
size_t EncodeSense(const Sense& sense, bool descriptor_format, MutableBytes out);

inline constexpr Sense kNoSense{};
// NOT READY
inline constexpr Sense kNotReadyStandby{0x02, 0x04, 0x0b};
inline constexpr Sense kNotReadyUnavailable{0x02, 0x04, 0x0c};
inline constexpr Sense kNotReadyCause{0x02, 0x04, 0x00};
// MEDIUM ERROR
inline constexpr Sense kReadError{0x03, 0x11, 0x00};
inline constexpr Sense kWriteError{0x03, 0x0c, 0x00};
// HARDWARE ERROR
inline constexpr Sense kInternalTargetFailure{0x04, 0x44, 0x00};
// ILLEGAL REQUEST
inline constexpr Sense kInvalidOpcode{0x05, 0x20, 0x00};
inline constexpr Sense kLbaOutOfRange{0x05, 0x21, 0x00};
inline constexpr Sense kInvalidFieldInCdb{0x05, 0x24, 0x00};
inline constexpr Sense kLunNotSupported{0x05, 0x25, 0x00};
inline constexpr Sense kInvalidFieldInParameterList{0x05, 0x26, 0x00};
inline constexpr Sense kInvalidRelease{0x05, 0x26, 0x04};
inline constexpr Sense kParameterListLengthError{0x05, 0x1a, 0x00};
inline constexpr Sense kSavingNotSupported{0x05, 0x39, 0x00};
inline constexpr Sense kMediumRemovalPrevented{0x05, 0x53, 0x02};
inline constexpr Sense kOutOfRegistrations{0x05, 0x55, 0x04};
inline constexpr Sense kInvalidFieldInInformationUnit{0x05, 0x0e, 0x03};
// UNIT ATTENTION: see UnitAttention in nexus.h
// DATA PROTECT
inline constexpr Sense kWriteProtected{0x07, 0x27, 0x00};
inline constexpr Sense kSpaceAllocationFailed{0x07, 0x27, 0x07};
// ABORTED COMMAND
inline constexpr Sense kNotEnoughUnsolicitedData{0x0b, 0x0c, 0x0d};
inline constexpr Sense kDataPhaseError{0x0b, 0x4b, 0x00};
// MISCOMPARE
inline constexpr Sense kMiscompare{0x0e, 0x1d, 0x00};

// The sense for an errno of a BlockDevice.
Sense SenseFromErrno(int error, bool write);

}  // namespace umblock::scsi
