// Numbers of SAM-5, SPC-4 and SBC-3 that the command set uses.
#pragma once

#include <cstdint>

namespace umblock::scsi {

// Operation codes (SPC-4 annex F, SBC-3 §5).
enum Opcode : uint8_t {
  kTestUnitReady = 0x00,
  kRequestSense = 0x03,
  kRead6 = 0x08,
  kWrite6 = 0x0a,
  kInquiry = 0x12,
  kModeSelect6 = 0x15,
  kReserve6 = 0x16,
  kRelease6 = 0x17,
  kModeSense6 = 0x1a,
  kStartStopUnit = 0x1b,
  kPreventAllowMediumRemoval = 0x1e,
  kReadCapacity10 = 0x25,
  kRead10 = 0x28,
  kWrite10 = 0x2a,
  kWriteAndVerify10 = 0x2e,
  kVerify10 = 0x2f,
  kPreFetch10 = 0x34,
  kSynchronizeCache10 = 0x35,
  kReadDefectData10 = 0x37,
  kWriteSame10 = 0x41,
  kUnmap = 0x42,
  kModeSelect10 = 0x55,
  kModeSense10 = 0x5a,
  kPersistentReserveIn = 0x5e,
  kPersistentReserveOut = 0x5f,
  kRead16 = 0x88,
  kCompareAndWrite = 0x89,
  kWrite16 = 0x8a,
  kOrWrite16 = 0x8b,
  kWriteAndVerify16 = 0x8e,
  kVerify16 = 0x8f,
  kPreFetch16 = 0x90,
  kSynchronizeCache16 = 0x91,
  kWriteSame16 = 0x93,
  kServiceActionIn16 = 0x9e,
  kReportLuns = 0xa0,
  kMaintenanceIn = 0xa3,
  kRead12 = 0xa8,
  kWrite12 = 0xaa,
  kWriteAndVerify12 = 0xae,
  kVerify12 = 0xaf,
  kReadDefectData12 = 0xb7,
};

// Service actions.
inline constexpr uint8_t kReadCapacity16 = 0x10;          // of kServiceActionIn16
inline constexpr uint8_t kGetLbaStatus = 0x12;            // of kServiceActionIn16
inline constexpr uint8_t kReportSupportedOpcodes = 0x0c;  // of kMaintenanceIn
inline constexpr uint8_t kReportSupportedTmf = 0x0d;      // of kMaintenanceIn
enum class PrIn : uint8_t { kReadKeys, kReadReservation, kReportCapabilities, kReadFullStatus };
enum class PrOut : uint8_t {
  kRegister,
  kReserve,
  kRelease,
  kClear,
  kPreempt,
  kPreemptAndAbort,
  kRegisterAndIgnore,
  kRegisterAndMove,
};

// Status codes (SAM-5 §5.3).
enum class ScsiStatus : uint8_t {
  kGood = 0x00,
  kCheckCondition = 0x02,
  kBusy = 0x08,
  kReservationConflict = 0x18,
  kTaskSetFull = 0x28,
  kTaskAborted = 0x40,
};

enum class TaskAttribute : uint8_t { kUntagged, kSimple, kOrdered, kHeadOfQueue, kAca };

// The block sizes that are offered; every power of two between would do, these two are used.
inline constexpr uint32_t kBlockSizes[] = {512, 4096};

// Longest transfer of one READ or WRITE, bytes: one pooled buffer, one BlockIo.
inline constexpr uint32_t kMaxTransferLength = uint32_t{1} << 20;
// Longest parameter list that is taken (MODE SELECT, UNMAP, PERSISTENT RESERVE OUT), bytes.
inline constexpr uint32_t kMaxParameterList = 8192;
// Longest parameter data that is given (INQUIRY, REPORT LUNS, …), bytes; it fits in one buffer.
inline constexpr uint32_t kMaxParameterData = 64 * 1024;
// Longest range of one UNMAP descriptor or WRITE SAME, bytes.
inline constexpr uint64_t kMaxUnmapLength = uint64_t{512} << 20;
inline constexpr uint64_t kMaxWriteSameLength = uint64_t{16} << 20;
inline constexpr uint32_t kMaxUnmapDescriptors = 256;
inline constexpr uint32_t kMaxCompareAndWriteBlocks = 128;
// LUNs are 0 to 255: peripheral device addressing on bus 0 (SAM-5 §4.7.7.4).
inline constexpr uint32_t kMaxLun = 255;

}  // namespace umblock::scsi
