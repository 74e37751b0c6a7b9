// LogicalUnit: the commands that are answered at once.
#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/scsi/logical_unit.h"

namespace umblock::scsi {
namespace {

uint8_t At(const Request& request, size_t i) { return std::to_integer<uint8_t>(request.cdb[i]); }

Bytes ParameterList(const Request& request) {
  return Bytes(request.buffer.data(), request.data_out_received);
}

template <typename Data>
void Give(Request* request, const Data& data) {
  data ? GiveParameterData(request, *data) : request->Fail(data.error());
}

UnitAttention AttentionFor(ReservationNotice notice) {
  switch (notice) {
    case ReservationNotice::kReleased:
      return UnitAttention::kReservationsReleased;
    case ReservationNotice::kReservationsPreempted:
      return UnitAttention::kReservationsPreempted;
    default:
      return UnitAttention::kRegistrationsPreempted;
  }
}

}  // namespace

void LogicalUnit::RunControl(Request* request) {
  const BlockGeometry& geometry = device_.geometry();
  switch (request->command.kind()) {
    case CommandKind::kTestUnitReady:
    case CommandKind::kPreFetch:  // there is no cache of ours to fill
      return;
    case CommandKind::kRequestSense:
      return RequestSenseCommand(request);
    case CommandKind::kInquiry:
      return Give(request, InquiryData(request->cdb, options_, geometry));
    case CommandKind::kReadCapacity10:
      return GiveParameterData(request, ReadCapacity10Data(blocks_, options_.block_size));
    case CommandKind::kReadCapacity16:
      return GiveParameterData(request, ReadCapacity16Data(blocks_, options_.block_size, geometry));
    case CommandKind::kGetLbaStatus:
      return LbaStatus(request);
    case CommandKind::kReportLuns:
      request->nexus->Clear(UnitAttention::kLunsChanged);
      return Give(request, ReportLunsData(request->cdb, request->nexus->nexus().device().luns()));
    case CommandKind::kReportSupportedOpcodes:
      return Give(request, ReportOpcodesData(request->cdb, geometry.can_discard));
    case CommandKind::kReportSupportedTmf:
      return GiveParameterData(request, ReportTmfData(request->cdb));
    case CommandKind::kReadDefectData:
      return ReadDefects(request);
    case CommandKind::kModeSense:
      return ModeSense(request);
    case CommandKind::kModeSelect:
      return ModeSelect(request);
    case CommandKind::kReserve:
      return Reserve(request);
    case CommandKind::kRelease:
      return reservations_.Release(request->nexus->nexus().identity().session);
    case CommandKind::kPersistentReserveIn:
      return PersistentReserveIn(request);
    case CommandKind::kStartStopUnit:
      return StartStop(request);
    case CommandKind::kPreventAllow:
      // The medium cannot be removed; the wish is kept so that a START STOP UNIT is answered right.
      request->nexus->prevents_removal = (At(*request, 4) & 1) != 0;
      return;
    default:
      return request->Fail(kInvalidOpcode);
  }
}

void LogicalUnit::RequestSenseCommand(Request* request) {
  bool descriptor = (At(*request, 1) & 1) != 0;
  Sense sense = request->nexus->TakeAttention();
  if (sense.key == 0 && !MediumReady(request->nexus)) sense = NotReadySense();
  GiveParameterData(request, SenseAsData(sense, descriptor));
}

ModeContext LogicalUnit::Modes() const {
  return {.current = modes_,
          .defaults = {.write_cache = device_.geometry().volatile_cache},
          .read_only = options_.read_only,
          .blocks = blocks_,
          .block_size = options_.block_size};
}

void LogicalUnit::ModeSense(Request* request) {
  Give(request, ModeSenseData(request->cdb, Modes()));
}

void LogicalUnit::ModeSelect(Request* request) {
  auto values = ParseModeSelect(request->cdb, ParameterList(*request), Modes());
  if (!values) return request->Fail(values.error());
  if (*values == modes_) return;
  modes_ = *values;
  RaiseOthers(request->nexus, UnitAttention::kModeChanged);
}

void LogicalUnit::Reserve(Request* request) {
  if (!reservations_.Reserve(request->nexus->nexus().identity().session)) {
    request->status = ScsiStatus::kReservationConflict;
    ++counters_.conflicts;
  }
}

void LogicalUnit::PersistentReserveIn(Request* request) {
  auto action = static_cast<PrIn>(At(*request, 1) & 0x1f);
  GiveParameterData(request, reservations_.In(action));
}

std::vector<std::string> LogicalUnit::PersistentReserveOut(Request* request) {
  const std::string& port = request->nexus->nexus().identity().initiator_port;
  Reservations::Outcome outcome = reservations_.Out(port, request->cdb, ParameterList(*request));
  request->status = outcome.status;
  request->sense = outcome.sense;
  if (outcome.status == ScsiStatus::kReservationConflict) ++counters_.conflicts;
  for (const Reservations::Notice& notice : outcome.notices) {
    RaiseByPort(notice.port, AttentionFor(notice.what));
  }
  for (const std::string& victim : outcome.abort) AbortPort(victim);
  return std::move(outcome.abort);
}

void LogicalUnit::RaiseByPort(const std::string& port, UnitAttention attention) {
  for (LuNexus* nexus : attached_) {
    if (nexus->nexus().identity().initiator_port == port) nexus->Raise(attention);
  }
}

void LogicalUnit::StartStop(Request* request) {
  uint8_t flags = At(*request, 4);
  // Power conditions, loading and ejecting need hardware that is not there. START and STOP change
  // nothing: a unit that others use is not stopped by one of them.
  if ((flags & 0xf0) != 0) return request->Fail(kInvalidFieldInCdb.AtCdb(4, 7));
  if ((flags & 0x02) != 0) return request->Fail(kInvalidFieldInCdb.AtCdb(4, 1));
}

// There are no defects, in whatever list and format (SBC-3 §5.17).
void LogicalUnit::ReadDefects(Request* request) {
  ParameterData data;
  bool ten = request->command.info->cdb_length == 10;
  data.U8(0).U8(At(*request, ten ? 2 : 1) & 0x1f);
  ten ? data.U16(0) : data.U16(0).U32(0);
  GiveParameterData(request, data);
}

// The device does not say which blocks are allocated: all count as mapped (SBC-3 §5.7).
void LogicalUnit::LbaStatus(Request* request) {
  uint64_t lba = request->command.lba;
  if (lba >= blocks_) return request->Fail(kLbaOutOfRange.WithInformation(lba));
  ParameterData data;
  data.U32(20).U32(0);
  data.U64(lba).U32(static_cast<uint32_t>(std::min<uint64_t>(blocks_ - lba, UINT32_MAX)));
  data.U8(0).Zero(3);
  GiveParameterData(request, data);
}

}  // namespace umblock::scsi
