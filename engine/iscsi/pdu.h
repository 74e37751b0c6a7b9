// iSCSI PDUs (RFC 7143 §11): the 48 byte basic header segment, its fields, and what can be wrong
// with one before its contents are looked at. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>

#include "engine/base/bytes.h"

namespace umblock::iscsi {

inline constexpr size_t kBhsLength = 48;
inline constexpr size_t kDigestLength = 4;
inline constexpr uint32_t kReservedTag = 0xffffffff;

enum class Op : uint8_t {
  // From the initiator.
  kNopOut = 0x00,
  kScsiCommand = 0x01,
  kTaskManagement = 0x02,
  kLogin = 0x03,
  kText = 0x04,
  kDataOut = 0x05,
  kLogout = 0x06,
  kSnack = 0x10,
  // From the target.
  kNopIn = 0x20,
  kScsiResponse = 0x21,
  kTaskManagementResponse = 0x22,
  kLoginResponse = 0x23,
  kTextResponse = 0x24,
  kDataIn = 0x25,
  kLogoutResponse = 0x26,
  kR2t = 0x31,
  kAsync = 0x32,
  kReject = 0x3f,
};

// Byte 1.
inline constexpr uint8_t kFinal = 0x80;
inline constexpr uint8_t kContinue = 0x40;  // Text and Login
inline constexpr uint8_t kTransit = 0x80;   // Login
inline constexpr uint8_t kRead = 0x40;      // SCSI Command
inline constexpr uint8_t kWrite = 0x20;     // SCSI Command
inline constexpr uint8_t kOverflow = 0x04;  // SCSI Response, Data-In
inline constexpr uint8_t kUnderflow = 0x02;
inline constexpr uint8_t kStatusPresent = 0x01;  // Data-In

enum class RejectReason : uint8_t {
  kDataDigestError = 0x02,
  kSnackReject = 0x03,
  kProtocolError = 0x04,
  kCommandNotSupported = 0x05,
  kTooManyImmediate = 0x06,
  kTaskInProgress = 0x07,
  kInvalidPduField = 0x09,
};

enum class TmFunction : uint8_t {
  kAbortTask = 1,
  kAbortTaskSet = 2,
  kClearAca = 3,
  kClearTaskSet = 4,
  kLogicalUnitReset = 5,
  kTargetWarmReset = 6,
  kTargetColdReset = 7,
  kTaskReassign = 8,
};

enum class TmResponse : uint8_t {
  kComplete = 0,
  kTaskDoesNotExist = 1,
  kLunDoesNotExist = 2,
  kTaskStillAllegiant = 3,
  kReassignmentNotSupported = 4,
  kNotSupported = 5,
  kAuthorizationFailed = 6,
  kRejected = 255,
};

enum class AsyncEvent : uint8_t {
  kScsi = 0,
  kLogoutRequest = 1,
  kConnectionDrop = 2,
  kSessionDrop = 3,
};

// A basic header segment. Fields that all PDUs share have names, others are reached by offset with
// the names of §11 beside the call.
class Bhs {
 public:
  Bhs() = default;
  explicit Bhs(Bytes bytes) { std::memcpy(raw_.data(), bytes.data(), kBhsLength); }
  Bhs(Op op, uint8_t byte1) {
    raw_[0] = static_cast<std::byte>(op);
    raw_[1] = std::byte{byte1};
  }

  Op op() const { return static_cast<Op>(U8(0) & 0x3f); }
  bool immediate() const { return (U8(0) & 0x40) != 0; }
  uint8_t flags() const { return U8(1); }
  bool final() const { return (U8(1) & kFinal) != 0; }
  size_t ahs_length() const { return size_t{U8(4)} * 4; }
  uint32_t data_length() const { return Be<uint32_t>(4) & 0xffffff; }
  uint32_t padded_data_length() const { return AlignUp<uint32_t>(data_length(), 4); }
  uint64_t lun() const { return Be<uint64_t>(8); }
  uint32_t task_tag() const { return Be<uint32_t>(16); }
  uint32_t transfer_tag() const { return Be<uint32_t>(20); }  // not in SCSI Command, Login, Logout
  uint32_t cmd_sn() const { return Be<uint32_t>(24); }
  uint32_t exp_stat_sn() const { return Be<uint32_t>(28); }

  uint8_t U8(size_t at) const { return std::to_integer<uint8_t>(raw_[at]); }
  template <typename T>
  T Be(size_t at) const {
    return LoadBe<T>(&raw_[at]);
  }
  Bhs& Put8(size_t at, uint8_t value) {
    raw_[at] = std::byte{value};
    return *this;
  }
  template <typename T>
  Bhs& Put(size_t at, T value) {
    StoreBe<T>(&raw_[at], value);
    return *this;
  }
  Bhs& PutDataLength(uint32_t length) {
    raw_[5] = std::byte(length >> 16);
    raw_[6] = std::byte(length >> 8);
    raw_[7] = std::byte(length);
    return *this;
  }
  Bytes bytes() const { return raw_; }
  std::byte* data() { return raw_.data(); }

 private:
  std::array<std::byte, kBhsLength> raw_{};
};

// Why a request of an initiator in full feature phase cannot be right, whatever it is about; its
// data segment is at most `max_data` bytes. nullopt: look further.
std::optional<RejectReason> CheckRequest(const Bhs& header, uint32_t max_data);

// Serial number arithmetic (RFC 1982, RFC 7143 §4.2.2.1).
inline bool SerialLess(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) < 0; }

}  // namespace umblock::iscsi
