#include "engine/scsi/nexus.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/scsi/inquiry.h"
#include "engine/scsi/logical_unit.h"

namespace umblock::scsi {
namespace {

Sense SenseOf(UnitAttention attention) {
  switch (attention) {
    case UnitAttention::kPowerOn:
      return {0x06, 0x29, 0x00};
    case UnitAttention::kReset:
      return {0x06, 0x29, 0x03};
    case UnitAttention::kCommandsCleared:
      return {0x06, 0x2f, 0x00};
    case UnitAttention::kReservationsPreempted:
      return {0x06, 0x2a, 0x03};
    case UnitAttention::kReservationsReleased:
      return {0x06, 0x2a, 0x04};
    case UnitAttention::kRegistrationsPreempted:
      return {0x06, 0x2a, 0x05};
    case UnitAttention::kModeChanged:
      return {0x06, 0x2a, 0x01};
    case UnitAttention::kCapacityChanged:
      return {0x06, 0x2a, 0x09};
    case UnitAttention::kAccessChanged:
      return {0x06, 0x2a, 0x06};
    case UnitAttention::kLunsChanged:
      return {0x06, 0x3f, 0x0e};
  }
  return kNoSense;
}

}  // namespace

std::optional<uint32_t> DecodeLun(uint64_t lun_field) {
  auto first = static_cast<uint16_t>(lun_field >> 48);
  if ((lun_field & 0xffffffffffff) != 0) return std::nullopt;
  if ((first >> 14) == 0 && (first & 0x3f00) == 0) return first & 0xff;
  if ((first >> 14) == 1) return first & 0x3fff;
  return std::nullopt;
}

uint64_t EncodeLun(uint32_t lun) { return uint64_t{lun} << 48; }

LuNexus::LuNexus(Nexus& owner, LogicalUnit& logical_unit) : nexus_(owner), unit_(logical_unit) {
  unit_.Attach(this);
  TryOpen();
}

LuNexus::~LuNexus() {
  UMBLOCK_ASSERT(requests == 0, "a nexus ends after its requests");
  Close();
  unit_.Detach(this);
}

Sense LuNexus::TakeAttention() {
  if (attentions_ == 0) return kNoSense;
  uint32_t lowest = attentions_ & (~attentions_ + 1);
  attentions_ &= ~lowest;
  return SenseOf(static_cast<UnitAttention>(lowest));
}

bool LuNexus::TryOpen() {
  if (opener_) return true;
  auto opened = unit_.device().Open(
      {.description = nexus_.identity().opener, .write = !unit_.options().read_only});
  if (!opened) return false;
  opener_ = *opened;
  return true;
}

void LuNexus::Close() {
  if (!opener_) return;
  unit_.device().Close(*opener_);
  opener_.reset();
}

TargetDevice::~TargetDevice() {
  UMBLOCK_ASSERT(nexuses_.empty(), "sessions end before their target");
}

std::vector<uint32_t> TargetDevice::luns() const {
  std::vector<uint32_t> result;
  for (uint32_t lun = 0; lun <= kMaxLun; ++lun) {
    if (units_[lun] != nullptr) result.push_back(lun);
  }
  return result;
}

void TargetDevice::AddUnit(uint32_t lun, LogicalUnit* unit) {
  UMBLOCK_ASSERT(lun <= kMaxLun && units_[lun] == nullptr, "a LUN is free when it is given");
  units_[lun] = unit;
  for (Nexus* nexus : nexuses_) {
    nexus->units_[lun] = std::make_unique<LuNexus>(*nexus, *unit);
    nexus->units_[lun]->Raise(UnitAttention::kPowerOn);
    for (auto& other : nexus->units_) {
      if (other) other->Raise(UnitAttention::kLunsChanged);
    }
  }
}

void TargetDevice::RemoveUnit(uint32_t lun) {
  units_[lun] = nullptr;
  for (Nexus* nexus : nexuses_) {
    nexus->units_[lun].reset();
    for (auto& other : nexus->units_) {
      if (other) other->Raise(UnitAttention::kLunsChanged);
    }
  }
}

void TargetDevice::Reset() {
  for (LogicalUnit* unit : units_) {
    if (unit != nullptr) unit->Reset();
  }
}

Task<void> TargetDevice::WaitAborted() {
  for (uint32_t lun = 0; lun <= kMaxLun; ++lun) {
    if (units_[lun] != nullptr) co_await units_[lun]->WaitAborted();
  }
}

Nexus::Nexus(TargetDevice& device, NexusIdentity identity)
    : device_(device), identity_(std::move(identity)) {
  device_.nexuses_.push_back(this);
  for (uint32_t lun = 0; lun <= kMaxLun; ++lun) {
    LogicalUnit* unit = device_.unit(lun);
    if (unit == nullptr) continue;
    units_[lun] = std::make_unique<LuNexus>(*this, *unit);
    units_[lun]->Raise(UnitAttention::kPowerOn);
  }
}

Nexus::~Nexus() {
  for (auto& unit : units_) unit.reset();
  std::erase(device_.nexuses_, this);
}

LuNexus* Nexus::Find(uint64_t lun_field) {
  std::optional<uint32_t> lun = DecodeLun(lun_field);
  return lun && *lun <= kMaxLun ? units_[*lun].get() : nullptr;
}

Nexus::Stage Nexus::Prepare(uint64_t lun_field, Request* request) {
  request->status = ScsiStatus::kGood;
  request->data_out_bytes = 0;
  request->buffer_bytes = 0;
  request->data_out_received = 0;
  request->data_out_truncated = false;
  request->data_out_excess = false;
  request->data_in_bytes = 0;
  request->aborted = false;
  request->nexus = Find(lun_field);
  if (request->nexus == nullptr) return PrepareWithoutUnit(request);
  return request->nexus->unit().Prepare(request) ? Stage::kReady : Stage::kFinished;
}

Nexus::Stage Nexus::PrepareWithoutUnit(Request* request) {
  auto command = ParseCdb(request->cdb);
  if (!command) {
    request->Fail(command.error().Is(kInvalidOpcode) ? kLunNotSupported : command.error());
    return Stage::kFinished;
  }
  CommandKind kind = command->kind();
  if (kind != CommandKind::kInquiry && kind != CommandKind::kReportLuns &&
      kind != CommandKind::kRequestSense) {
    request->Fail(kLunNotSupported);
    return Stage::kFinished;
  }
  request->command = *command;
  request->buffer_bytes = std::min(command->allocation_length, kMaxParameterData);
  return Stage::kReady;
}

void Nexus::ExecuteWithoutUnit(Request* request) {
  switch (request->command.kind()) {
    case CommandKind::kInquiry:
      if ((request->cdb[1] & std::byte{1}) != std::byte{0}) {
        request->Fail(kLunNotSupported);
      } else {
        GiveParameterData(request, AbsentUnitInquiry());
      }
      break;
    case CommandKind::kReportLuns: {
      auto data = ReportLunsData(request->cdb, device_.luns());
      data ? GiveParameterData(request, *data) : request->Fail(data.error());
      break;
    }
    default:
      GiveParameterData(request, SenseAsData(kLunNotSupported, false));
      break;
  }
  request->owner->OnRequestDone(request);
}

void Nexus::Execute(Request* request) noexcept {
  if (request->nexus == nullptr) return ExecuteWithoutUnit(request);
  request->nexus->unit().Execute(request);
}

void Nexus::Abandon(Request* request) noexcept {
  if (request->nexus != nullptr) request->nexus->unit().Abandon(request);
}

bool Nexus::DescriptorSense(const Request& request) {
  return request.nexus != nullptr && request.nexus->unit().descriptor_sense();
}

void Nexus::AbortAll() {
  for (auto& unit : units_) {
    if (unit && unit->requests != 0) unit->unit().AbortTasks(unit.get());
  }
}

Task<void> Nexus::WaitIdle() {
  for (uint32_t lun = 0; lun <= kMaxLun; ++lun) {
    while (units_[lun] && units_[lun]->requests != 0) {
      co_await units_[lun]->unit().WaitRequestEnd();
    }
  }
}

}  // namespace umblock::scsi
