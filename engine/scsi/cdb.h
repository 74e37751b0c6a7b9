// Command descriptor blocks: bytes -> a checked Command.
//
// ParseCdb knows which commands exist, where their fields stand (SBC-3 §5, SPC-4 §6) and which
// values can never be right; what depends on the logical unit (its size, its state, who reserved
// it) is checked by LogicalUnit. Pure; called for every command, so it allocates nothing.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <span>

#include "engine/base/bytes.h"
#include "engine/scsi/constants.h"
#include "engine/scsi/sense.h"

namespace umblock::scsi {

inline constexpr size_t kMaxCdbLength = 16;

// What is to be done, whatever the length of the CDB.
enum class CommandKind : uint8_t {
  kTestUnitReady,
  kRequestSense,
  kInquiry,
  kModeSelect,
  kModeSense,
  kReserve,
  kRelease,
  kStartStopUnit,
  kPreventAllow,
  kReadCapacity10,
  kReadCapacity16,
  kGetLbaStatus,
  kReportLuns,
  kReportSupportedOpcodes,
  kReportSupportedTmf,
  kReadDefectData,
  kPersistentReserveIn,
  kPersistentReserveOut,
  kRead,
  kWrite,
  kWriteAndVerify,
  kVerify,
  kPreFetch,
  kSynchronizeCache,
  kWriteSame,
  kUnmap,
  kCompareAndWrite,
  kOrWrite,
};

// One line of the command table.
struct CommandInfo {
  CommandKind kind;
  uint8_t opcode;
  int16_t service_action;  // -1: the command has none
  uint8_t cdb_length;
  bool writes;                               // may change the medium
  bool reads;                                // gives or depends on medium data
  bool needs_ready;                          // NOT READY while the device is not accessible
  bool reports_attention;                    // CHECK CONDITION if a unit attention is pending
  bool passes_reservations;                  // allowed whoever holds a reservation
  std::array<uint8_t, kMaxCdbLength> usage;  // CDB usage map (SPC-4 §6.35.3)
};

struct Command {
  const CommandInfo* info = nullptr;
  uint64_t lba = 0;
  uint32_t blocks = 0;             // of the medium
  uint32_t allocation_length = 0;  // bytes of parameter data the initiator has room for
  uint32_t parameter_length = 0;   // bytes of parameter list it sends
  bool fua = false;
  uint8_t bytchk = 0;
  bool unmap = false;
  bool anchor = false;
  bool no_data_out = false;  // NDOB of WRITE SAME(16)

  CommandKind kind() const { return info->kind; }
};

// The command, or the sense of the CHECK CONDITION that answers it. `cdb` is what the transport
// carried: iSCSI pads to 16 bytes.
std::expected<Command, Sense> ParseCdb(Bytes cdb);

std::span<const CommandInfo> SupportedCommands();
// The first entry for an opcode; nullptr if it is not supported.
const CommandInfo* FindCommand(uint8_t opcode);
// The entry for an opcode with a service action; nullptr if there is none.
const CommandInfo* FindCommand(uint8_t opcode, uint8_t service_action);

}  // namespace umblock::scsi
