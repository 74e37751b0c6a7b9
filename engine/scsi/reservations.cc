#include "engine/scsi/reservations.h"

#include <algorithm>
#include <utility>

namespace umblock::scsi {
namespace {

constexpr size_t kOutListLength = 24;

bool ValidType(uint8_t type) { return type == 1 || type == 3 || (type >= 5 && type <= 8); }

bool WriteExclusive(ReservationType type) {
  return type == ReservationType::kWriteExclusive ||
         type == ReservationType::kWriteExclusiveRegistrantsOnly ||
         type == ReservationType::kWriteExclusiveAllRegistrants;
}

Reservations::Outcome Conflict() { return {.status = ScsiStatus::kReservationConflict}; }

Reservations::Outcome Refused(const Sense& sense) {
  return {.status = ScsiStatus::kCheckCondition, .sense = sense};
}

// TransportID of an iSCSI initiator port, format 01b (SPC-4 §7.6.4.6).
void AppendTransportId(std::string_view port, ParameterData* data) {
  size_t length = AlignUp<size_t>(port.size() + 1, 4);
  data->U8(0x45).U8(0).U16(static_cast<uint16_t>(length)).Text(port).Zero(length - port.size());
}

}  // namespace

Reservations::Registration* Reservations::Find(Port port) {
  auto at = std::ranges::find(registrations_, port, &Registration::port);
  return at == registrations_.end() ? nullptr : &*at;
}

const Reservations::Registration* Reservations::Find(Port port) const {
  return const_cast<Reservations*>(this)->Find(port);
}

bool Reservations::all_registrants() const {
  return type_ == ReservationType::kWriteExclusiveAllRegistrants ||
         type_ == ReservationType::kExclusiveAccessAllRegistrants;
}

bool Reservations::registrants_only() const {
  return type_ == ReservationType::kWriteExclusiveRegistrantsOnly ||
         type_ == ReservationType::kExclusiveAccessRegistrantsOnly;
}

bool Reservations::IsHolder(Port port) const {
  if (type_ == ReservationType::kNone) return false;
  return all_registrants() ? Find(port) != nullptr : holder_ == port;
}

bool Reservations::Permits(Port port, uint64_t session, const CommandInfo& info) const {
  if (session_holder_ != 0 && session_holder_ != session) {
    // SPC-2 §5.5.1: only what has to work always, and RELEASE, which then does nothing.
    return !info.reports_attention || info.kind == CommandKind::kRelease;
  }
  if (type_ == ReservationType::kNone || IsHolder(port)) return true;
  if (registrants_only() && Find(port) != nullptr) return true;
  if (info.passes_reservations) return true;
  if (!WriteExclusive(type_)) return false;
  return (info.reads && !info.writes) || info.kind == CommandKind::kModeSense;
}

bool Reservations::Reserve(uint64_t session) {
  // SPC-4 §5.12.2: with CRH 0, RESERVE conflicts as soon as there are persistent registrations.
  if (!registrations_.empty()) return false;
  if (session_holder_ != 0 && session_holder_ != session) return false;
  session_holder_ = session;
  return true;
}

void Reservations::Release(uint64_t session) { EndSession(session); }

void Reservations::EndSession(uint64_t session) {
  if (session_holder_ == session) session_holder_ = 0;
}

void Reservations::DropReservation() {
  type_ = ReservationType::kNone;
  holder_.clear();
}

void Reservations::NotifyOthers(Port port, ReservationNotice what, Outcome* outcome) const {
  for (const Registration& other : registrations_) {
    if (other.port != port) outcome->notices.push_back({other.port, what});
  }
}

Reservations::Outcome Reservations::Register(Port port, uint64_t key, uint64_t new_key,
                                             bool ignore_key) {
  Registration* mine = Find(port);
  if (mine == nullptr) {
    if (!ignore_key && key != 0) return Conflict();
    if (new_key == 0) return {};
    if (registrations_.size() >= kMaxRegistrations) return Refused(kOutOfRegistrations);
    registrations_.push_back({std::string(port), new_key});
    ++generation_;
    return {};
  }
  if (!ignore_key && mine->key != key) return Conflict();
  ++generation_;
  if (new_key == 0) return Unregister(port);
  mine->key = new_key;
  return {};
}

Reservations::Outcome Reservations::Unregister(Port port) {
  Outcome outcome;
  bool was_holder = IsHolder(port);
  std::erase_if(registrations_, [port](const Registration& r) { return r.port == port; });
  if (was_holder && (!all_registrants() || registrations_.empty())) {
    if (registrants_only()) NotifyOthers(port, ReservationNotice::kReleased, &outcome);
    DropReservation();
  }
  return outcome;
}

Reservations::Outcome Reservations::Take(Port port, ReservationType type) {
  if (type_ != ReservationType::kNone) {
    return IsHolder(port) && type_ == type ? Outcome{} : Conflict();
  }
  type_ = type;
  if (!all_registrants()) holder_ = port;
  return {};
}

Reservations::Outcome Reservations::GiveUp(Port port, ReservationType type) {
  if (!IsHolder(port)) return {};
  if (type != type_) return Refused(kInvalidRelease);
  Outcome outcome;
  if (registrants_only() || all_registrants()) {
    NotifyOthers(port, ReservationNotice::kReleased, &outcome);
  }
  DropReservation();
  return outcome;
}

Reservations::Outcome Reservations::Clear(Port port) {
  Outcome outcome;
  NotifyOthers(port, ReservationNotice::kReservationsPreempted, &outcome);
  registrations_.clear();
  DropReservation();
  ++generation_;
  return outcome;
}

bool Reservations::RemoveByKey(Port except, uint64_t key, bool any_key, bool abort,
                               Outcome* outcome) {
  bool found = false;
  std::erase_if(registrations_, [&](const Registration& r) {
    if (!any_key && r.key != key) return false;
    found = true;
    if (r.port == except) return false;
    outcome->notices.push_back({r.port, ReservationNotice::kRegistrationsPreempted});
    if (abort) outcome->abort.push_back(r.port);
    return true;
  });
  return found;
}

Reservations::Outcome Reservations::Preempt(Port port, uint64_t victim_key, ReservationType type,
                                            bool abort) {
  Outcome outcome;
  bool held = type_ != ReservationType::kNone;
  const Registration* holder = held && !all_registrants() ? Find(holder_) : nullptr;
  bool takes_over = (held && all_registrants() && victim_key == 0) ||
                    (holder != nullptr && holder->key == victim_key);
  if (!takes_over) {
    if (victim_key == 0) return Refused(kInvalidFieldInParameterList.AtParameter(8));
    if (!RemoveByKey(port, victim_key, false, abort, &outcome)) return Conflict();
    // Removing the last other registrant cannot empty an all-registrants reservation: this
    // port is registered, too.
    ++generation_;
    return outcome;
  }
  RemoveByKey(port, victim_key, all_registrants(), abort, &outcome);
  bool tell_rest = type_ != type && (registrants_only() || all_registrants());
  if (tell_rest) NotifyOthers(port, ReservationNotice::kReleased, &outcome);
  type_ = type;
  holder_ = all_registrants() ? std::string() : std::string(port);
  ++generation_;
  return outcome;
}

Reservations::Outcome Reservations::Out(Port port, Bytes cdb, Bytes list) {
  if (list.size() != kOutListLength) return Refused(kParameterListLengthError);
  auto action = static_cast<PrOut>(std::to_integer<uint8_t>(cdb[1]) & 0x1f);
  uint8_t scope = std::to_integer<uint8_t>(cdb[2]) >> 4;
  uint8_t type = std::to_integer<uint8_t>(cdb[2]) & 0x0f;
  auto key = LoadBe<uint64_t>(list.data());
  auto action_key = LoadBe<uint64_t>(&list[8]);
  uint8_t flags = std::to_integer<uint8_t>(list[20]);
  if (session_holder_ != 0) return Conflict();  // SPC-2 reservations exclude persistent ones

  if (action == PrOut::kRegister || action == PrOut::kRegisterAndIgnore) {
    // SPEC_I_PT and APTPL are not offered; ALL_TG_PT says what is so: there is one target port.
    if ((flags & 0x08) != 0) return Refused(kInvalidFieldInParameterList.AtParameter(20));
    if ((flags & 0x01) != 0) return Refused(kInvalidFieldInParameterList.AtParameter(20));
    return Register(port, key, action_key, action == PrOut::kRegisterAndIgnore);
  }
  const Registration* mine = Find(port);
  if (mine == nullptr || mine->key != key) return Conflict();
  if (action == PrOut::kClear) return Clear(port);
  // SPC-4 §6.16.2: a preemption that takes no reservation over does not look at scope and type.
  bool needs_type = action != PrOut::kPreempt && action != PrOut::kPreemptAndAbort;
  if (needs_type || type_ != ReservationType::kNone) {
    if (scope != 0 || !ValidType(type)) return Refused(kInvalidFieldInCdb.AtCdb(2));
  }
  switch (action) {
    case PrOut::kReserve:
      return Take(port, static_cast<ReservationType>(type));
    case PrOut::kRelease:
      return GiveUp(port, static_cast<ReservationType>(type));
    case PrOut::kPreempt:
    case PrOut::kPreemptAndAbort:
      return Preempt(port, action_key, static_cast<ReservationType>(type),
                     action == PrOut::kPreemptAndAbort);
    default:
      return Refused(kInvalidFieldInCdb.AtCdb(1));
  }
}

ParameterData Reservations::In(PrIn action) const {
  ParameterData data;
  switch (action) {
    case PrIn::kReadKeys:
      data.U32(generation_).U32(static_cast<uint32_t>(registrations_.size() * 8));
      for (const Registration& r : registrations_) data.U64(r.key);
      break;
    case PrIn::kReadReservation: {
      data.U32(generation_);
      if (type_ == ReservationType::kNone) {
        data.U32(0);
        break;
      }
      const Registration* holder = Find(holder_);
      data.U32(16).U64(holder == nullptr ? 0 : holder->key).U32(0).U8(0);
      data.U8(std::to_underlying(type_)).U16(0);
      break;
    }
    case PrIn::kReportCapabilities:
      // ATP_C; TMV; no persistence through power loss; all six types.
      data.U16(8).U8(0x04).U8(0x80).U8(0xea).U8(0x01).U16(0);
      break;
    case PrIn::kReadFullStatus:
      data.U32(generation_).U32(0);
      for (const Registration& r : registrations_) {
        bool holds = IsHolder(r.port);
        data.U64(r.key).U32(0).U8(holds ? 1 : 0);
        data.U8(holds ? std::to_underlying(type_) : 0).U32(0).U16(1);
        size_t length_at = data.size();
        data.U32(0);
        AppendTransportId(r.port, &data);
        data.Patch<uint32_t>(length_at, static_cast<uint32_t>(data.size() - length_at - 4));
      }
      data.Patch<uint32_t>(4, static_cast<uint32_t>(data.size() - 8));
      break;
  }
  return data;
}

}  // namespace umblock::scsi
