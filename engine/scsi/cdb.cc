#include "engine/scsi/cdb.h"

namespace umblock::scsi {
namespace {

using enum CommandKind;

constexpr int16_t kNone = -1;
constexpr uint8_t kAll = 0xff;

struct Traits {
  bool writes = false, reads = false, needs_ready = true, reports_attention = true;
  bool passes_reservations = false;
};
constexpr Traits kMediumRead{.reads = true};
constexpr Traits kMediumWrite{.writes = true};
constexpr Traits kMediumReadWrite{.writes = true, .reads = true};
// Answered in every state, also to an initiator that others have locked out.
constexpr Traits kAlways{
    .needs_ready = false, .reports_attention = false, .passes_reservations = true};
constexpr Traits kControl{.needs_ready = false};
constexpr Traits kControlPasses{.needs_ready = false, .passes_reservations = true};

constexpr CommandInfo Line(CommandKind kind, uint8_t opcode, int16_t action, uint8_t length,
                           Traits traits, std::array<uint8_t, kMaxCdbLength> usage) {
  usage[0] = opcode;
  if (action != kNone) usage[1] = static_cast<uint8_t>(usage[1] | action);
  return {kind,
          opcode,
          action,
          length,
          traits.writes,
          traits.reads,
          traits.needs_ready,
          traits.reports_attention,
          traits.passes_reservations,
          usage};
}

// Byte 0 (and the service action in byte 1) are filled in by Line.
constexpr CommandInfo kCommands[] = {
    Line(kTestUnitReady, Opcode::kTestUnitReady, kNone, 6, {.passes_reservations = true}, {}),
    Line(kRequestSense, Opcode::kRequestSense, kNone, 6, kAlways, {0, 1, 0, 0, kAll}),
    Line(kRead, kRead6, kNone, 6, kMediumRead, {0, 0x1f, kAll, kAll, kAll}),
    Line(kWrite, kWrite6, kNone, 6, kMediumWrite, {0, 0x1f, kAll, kAll, kAll}),
    Line(kInquiry, Opcode::kInquiry, kNone, 6, kAlways, {0, 1, kAll, kAll, kAll}),
    Line(kModeSelect, kModeSelect6, kNone, 6, kControl, {0, 0x11, 0, 0, kAll}),
    Line(kReserve, kReserve6, kNone, 6, kControl, {}),
    Line(kRelease, kRelease6, kNone, 6, kControlPasses, {}),
    Line(kModeSense, kModeSense6, kNone, 6, kControl, {0, 0x08, kAll, kAll, kAll}),
    Line(kStartStopUnit, Opcode::kStartStopUnit, kNone, 6, {}, {0, 1, 0, 0, 0xf3}),
    Line(kPreventAllow, kPreventAllowMediumRemoval, kNone, 6, {}, {0, 0, 0, 0, 3}),
    Line(kReadCapacity10, Opcode::kReadCapacity10, kNone, 10, {.passes_reservations = true}, {}),
    Line(kRead, kRead10, kNone, 10, kMediumRead, {0, 0x18, kAll, kAll, kAll, kAll, 0, kAll, kAll}),
    Line(kWrite, kWrite10, kNone, 10, kMediumWrite,
         {0, 0x18, kAll, kAll, kAll, kAll, 0, kAll, kAll}),
    Line(kWriteAndVerify, kWriteAndVerify10, kNone, 10, kMediumWrite,
         {0, 0x12, kAll, kAll, kAll, kAll, 0, kAll, kAll}),
    Line(kVerify, kVerify10, kNone, 10, kMediumRead,
         {0, 0x12, kAll, kAll, kAll, kAll, 0, kAll, kAll}),
    Line(kPreFetch, kPreFetch10, kNone, 10, kMediumRead,
         {0, 0x02, kAll, kAll, kAll, kAll, 0, kAll, kAll}),
    Line(kSynchronizeCache, kSynchronizeCache10, kNone, 10, kMediumWrite,
         {0, 0x02, kAll, kAll, kAll, kAll, 0, kAll, kAll}),
    Line(kReadDefectData, kReadDefectData10, kNone, 10, {}, {0, 0, 0x1f, 0, 0, 0, 0, kAll, kAll}),
    Line(kWriteSame, kWriteSame10, kNone, 10, kMediumWrite,
         {0, 0x08, kAll, kAll, kAll, kAll, 0, kAll, kAll}),
    Line(kUnmap, Opcode::kUnmap, kNone, 10, kMediumWrite, {0, 0, 0, 0, 0, 0, 0, kAll, kAll}),
    Line(kModeSelect, kModeSelect10, kNone, 10, kControl, {0, 0x11, 0, 0, 0, 0, 0, kAll, kAll}),
    Line(kModeSense, kModeSense10, kNone, 10, kControl, {0, 0x18, kAll, kAll, 0, 0, 0, kAll, kAll}),
    Line(kPersistentReserveIn, Opcode::kPersistentReserveIn, 0, 10, kControlPasses,
         {0, 0, 0, 0, 0, 0, 0, kAll, kAll}),
    Line(kPersistentReserveIn, Opcode::kPersistentReserveIn, 1, 10, kControlPasses,
         {0, 0, 0, 0, 0, 0, 0, kAll, kAll}),
    Line(kPersistentReserveIn, Opcode::kPersistentReserveIn, 2, 10, kControlPasses,
         {0, 0, 0, 0, 0, 0, 0, kAll, kAll}),
    Line(kPersistentReserveIn, Opcode::kPersistentReserveIn, 3, 10, kControlPasses,
         {0, 0, 0, 0, 0, 0, 0, kAll, kAll}),
    Line(kPersistentReserveOut, Opcode::kPersistentReserveOut, 0, 10, kControlPasses,
         {0, 0, kAll, 0, 0, kAll, kAll, kAll, kAll}),
    Line(kPersistentReserveOut, Opcode::kPersistentReserveOut, 1, 10, kControlPasses,
         {0, 0, kAll, 0, 0, kAll, kAll, kAll, kAll}),
    Line(kPersistentReserveOut, Opcode::kPersistentReserveOut, 2, 10, kControlPasses,
         {0, 0, kAll, 0, 0, kAll, kAll, kAll, kAll}),
    Line(kPersistentReserveOut, Opcode::kPersistentReserveOut, 3, 10, kControlPasses,
         {0, 0, kAll, 0, 0, kAll, kAll, kAll, kAll}),
    Line(kPersistentReserveOut, Opcode::kPersistentReserveOut, 4, 10, kControlPasses,
         {0, 0, kAll, 0, 0, kAll, kAll, kAll, kAll}),
    Line(kPersistentReserveOut, Opcode::kPersistentReserveOut, 5, 10, kControlPasses,
         {0, 0, kAll, 0, 0, kAll, kAll, kAll, kAll}),
    Line(kPersistentReserveOut, Opcode::kPersistentReserveOut, 6, 10, kControlPasses,
         {0, 0, kAll, 0, 0, kAll, kAll, kAll, kAll}),
    Line(kRead, kRead16, kNone, 16, kMediumRead,
         {0, 0x18, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll}),
    Line(CommandKind::kCompareAndWrite, Opcode::kCompareAndWrite, kNone, 16, kMediumReadWrite,
         {0, 0x18, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, 0, 0, 0, kAll}),
    Line(kWrite, kWrite16, kNone, 16, kMediumWrite,
         {0, 0x18, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll}),
    Line(kOrWrite, kOrWrite16, kNone, 16, kMediumReadWrite,
         {0, 0x18, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll}),
    Line(kWriteAndVerify, kWriteAndVerify16, kNone, 16, kMediumWrite,
         {0, 0x12, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll}),
    Line(kVerify, kVerify16, kNone, 16, kMediumRead,
         {0, 0x12, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll}),
    Line(kPreFetch, kPreFetch16, kNone, 16, kMediumRead,
         {0, 0x02, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll}),
    Line(kSynchronizeCache, kSynchronizeCache16, kNone, 16, kMediumWrite,
         {0, 0x02, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll}),
    Line(kWriteSame, kWriteSame16, kNone, 16, kMediumWrite,
         {0, 0x09, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll}),
    Line(CommandKind::kReadCapacity16, kServiceActionIn16, scsi::kReadCapacity16, 16,
         {.passes_reservations = true}, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, kAll, kAll, kAll, kAll}),
    Line(CommandKind::kGetLbaStatus, kServiceActionIn16, scsi::kGetLbaStatus, 16, kMediumRead,
         {0, 0, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll}),
    Line(kReportLuns, Opcode::kReportLuns, kNone, 12, kAlways,
         {0, 0, kAll, 0, 0, 0, kAll, kAll, kAll, kAll}),
    Line(CommandKind::kReportSupportedOpcodes, kMaintenanceIn, scsi::kReportSupportedOpcodes, 12,
         kControlPasses, {0, 0, 0x87, kAll, kAll, kAll, kAll, kAll, kAll, kAll}),
    Line(CommandKind::kReportSupportedTmf, kMaintenanceIn, scsi::kReportSupportedTmf, 12,
         kControlPasses, {0, 0, 0x80, 0, 0, 0, kAll, kAll, kAll, kAll}),
    Line(kRead, kRead12, kNone, 12, kMediumRead,
         {0, 0x18, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll}),
    Line(kWrite, kWrite12, kNone, 12, kMediumWrite,
         {0, 0x18, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll}),
    Line(kWriteAndVerify, kWriteAndVerify12, kNone, 12, kMediumWrite,
         {0, 0x12, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll}),
    Line(kVerify, kVerify12, kNone, 12, kMediumRead,
         {0, 0x12, kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll}),
    Line(kReadDefectData, kReadDefectData12, kNone, 12, {},
         {0, 0x1f, 0, 0, 0, 0, kAll, kAll, kAll, kAll}),
};

constexpr uint8_t kNoLine = 0xff;

// opcode -> the first line for it.
constexpr std::array<uint8_t, 256> MakeIndex() {
  std::array<uint8_t, 256> index{};
  index.fill(kNoLine);
  for (size_t i = std::size(kCommands); i-- > 0;) {
    index[kCommands[i].opcode] = static_cast<uint8_t>(i);
  }
  return index;
}
constexpr std::array<uint8_t, 256> kIndex = MakeIndex();
static_assert(std::size(kCommands) < kNoLine);

uint8_t At(Bytes cdb, size_t i) { return std::to_integer<uint8_t>(cdb[i]); }

// LBA and length of the commands that address blocks, by the length of their CDB (SPC-4 §4.3.4).
void ParseRange(Bytes cdb, const CommandInfo& info, Command* command) {
  switch (info.cdb_length) {
    case 6:
      command->lba = LoadBe<uint32_t>(cdb.data()) & 0x1fffff;
      command->blocks = At(cdb, 4) == 0 ? 256 : At(cdb, 4);
      break;
    case 10:
      command->lba = LoadBe<uint32_t>(&cdb[2]);
      command->blocks = LoadBe<uint16_t>(&cdb[7]);
      break;
    case 12:
      command->lba = LoadBe<uint32_t>(&cdb[2]);
      command->blocks = LoadBe<uint32_t>(&cdb[6]);
      break;
    default:
      command->lba = LoadBe<uint64_t>(&cdb[2]);
      command->blocks = LoadBe<uint32_t>(&cdb[10]);
      break;
  }
}

std::expected<Command, Sense> ParseMedium(Bytes cdb, Command command) {
  const CommandInfo& info = *command.info;
  ParseRange(cdb, info, &command);
  if (info.cdb_length == 6) return command;
  uint8_t flags = At(cdb, 1);
  // Protection information is not offered: only RDPROTECT/WRPROTECT/VRPROTECT 0 (SBC-3 §4.22).
  bool has_protect = info.kind != kPreFetch && info.kind != kSynchronizeCache;
  if (has_protect && (flags & 0xe0) != 0) {
    return std::unexpected(kInvalidFieldInCdb.AtCdb(1, 7));
  }
  switch (info.kind) {
    case CommandKind::kCompareAndWrite:
      command.blocks = At(cdb, 13);
      [[fallthrough]];
    case kRead:
    case kWrite:
    case kOrWrite:
      command.fua = (flags & 0x08) != 0;
      break;
    case kVerify:
    case kWriteAndVerify:
      command.bytchk = (flags >> 1) & 3;
      if (command.bytchk > 1) return std::unexpected(kInvalidFieldInCdb.AtCdb(1, 2));
      break;
    case kWriteSame:
      command.anchor = (flags & 0x10) != 0;
      command.unmap = (flags & 0x08) != 0;
      command.no_data_out = info.cdb_length == 16 && (flags & 0x01) != 0;
      // Anchored blocks are not offered (ANC_SUP 0 in VPD page B2h).
      if (command.anchor) return std::unexpected(kInvalidFieldInCdb.AtCdb(1, 4));
      break;
    default:
      break;
  }
  return command;
}

// Allocation length or parameter list length of everything else.
std::expected<Command, Sense> ParseLengths(Bytes cdb, Command command) {
  switch (command.info->kind) {
    case kRequestSense:
      command.allocation_length = At(cdb, 4);
      break;
    case kInquiry:
      command.allocation_length = LoadBe<uint16_t>(&cdb[3]);
      break;
    case kModeSelect:
      command.parameter_length =
          command.info->cdb_length == 6 ? At(cdb, 4) : LoadBe<uint16_t>(&cdb[7]);
      break;
    case kModeSense:
      command.allocation_length =
          command.info->cdb_length == 6 ? At(cdb, 4) : LoadBe<uint16_t>(&cdb[7]);
      break;
    case kUnmap:
      command.parameter_length = LoadBe<uint16_t>(&cdb[7]);
      if ((At(cdb, 1) & 1) != 0) return std::unexpected(kInvalidFieldInCdb.AtCdb(1, 0));
      break;
    case kReadCapacity10:
      command.allocation_length = 8;
      break;
    case kReadDefectData:
      command.allocation_length =
          command.info->cdb_length == 10 ? LoadBe<uint16_t>(&cdb[7]) : LoadBe<uint32_t>(&cdb[6]);
      break;
    case kPersistentReserveIn:
      command.allocation_length = LoadBe<uint16_t>(&cdb[7]);
      break;
    case kPersistentReserveOut:
      command.parameter_length = LoadBe<uint32_t>(&cdb[5]);
      break;
    case CommandKind::kReadCapacity16:
    case CommandKind::kGetLbaStatus:
      command.lba = LoadBe<uint64_t>(&cdb[2]);
      command.allocation_length = LoadBe<uint32_t>(&cdb[10]);
      break;
    case kReportLuns:
    case CommandKind::kReportSupportedOpcodes:
    case CommandKind::kReportSupportedTmf:
      command.allocation_length = LoadBe<uint32_t>(&cdb[6]);
      break;
    default:
      break;
  }
  if (command.parameter_length > kMaxParameterList) {
    return std::unexpected(kParameterListLengthError);
  }
  return command;
}

}  // namespace

std::span<const CommandInfo> SupportedCommands() { return kCommands; }

const CommandInfo* FindCommand(uint8_t opcode) {
  uint8_t line = kIndex[opcode];
  return line == kNoLine ? nullptr : &kCommands[line];
}

const CommandInfo* FindCommand(uint8_t opcode, uint8_t service_action) {
  for (size_t i = kIndex[opcode]; i < std::size(kCommands) && kCommands[i].opcode == opcode; ++i) {
    if (kCommands[i].service_action == service_action) return &kCommands[i];
  }
  return nullptr;
}

std::expected<Command, Sense> ParseCdb(Bytes cdb) {
  if (cdb.empty()) return std::unexpected(kInvalidOpcode);
  uint8_t opcode = At(cdb, 0);
  const CommandInfo* info = FindCommand(opcode);
  if (info == nullptr) return std::unexpected(kInvalidOpcode);
  if (cdb.size() < info->cdb_length) return std::unexpected(kInvalidFieldInCdb);
  if (info->service_action >= 0) {
    info = FindCommand(opcode, At(cdb, 1) & 0x1f);
    if (info == nullptr) return std::unexpected(kInvalidFieldInCdb.AtCdb(1, 4));
  }
  // NACA in the CONTROL byte: auto contingent allegiance is not offered (NORMACA 0).
  if ((At(cdb, info->cdb_length - 1) & 0x04) != 0) {
    return std::unexpected(kInvalidFieldInCdb.AtCdb(info->cdb_length - 1u, 2));
  }
  Command command;
  command.info = info;
  switch (info->kind) {
    case kRead:
    case kWrite:
    case kWriteAndVerify:
    case kVerify:
    case kPreFetch:
    case kSynchronizeCache:
    case kWriteSame:
    case CommandKind::kCompareAndWrite:
    case kOrWrite:
      return ParseMedium(cdb, command);
    default:
      return ParseLengths(cdb, command);
  }
}

}  // namespace umblock::scsi
