// Reservations of one logical unit: RESERVE/RELEASE(6) (SPC-2 §5.5.1) and persistent reservations
// (SPC-4 §5.12, §6.15, §6.16). Pure state: what has to be told to whom comes back as a list.
//
// Persistent registrations belong to an I_T nexus, named by the initiator port's name, and survive
// its logout. They live in memory: APTPL is refused. RESERVE(6) belongs to a session and ends with
// it.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/scsi/cdb.h"
#include "engine/scsi/constants.h"
#include "engine/scsi/parameter_data.h"
#include "engine/scsi/sense.h"

namespace umblock::scsi {

enum class ReservationType : uint8_t {
  kNone = 0,
  kWriteExclusive = 1,
  kExclusiveAccess = 3,
  kWriteExclusiveRegistrantsOnly = 5,
  kExclusiveAccessRegistrantsOnly = 6,
  kWriteExclusiveAllRegistrants = 7,
  kExclusiveAccessAllRegistrants = 8,
};

// What an other initiator port is to be told (as unit attention).
enum class ReservationNotice : uint8_t {
  kReleased,
  kReservationsPreempted,
  kRegistrationsPreempted
};

class Reservations {
 public:
  static constexpr size_t kMaxRegistrations = 128;

  // The initiator port: "iqn.…,i,0x00023d000000" (SPC-4 §7.6.4.6, RFC 7143 §4.4.5).
  using Port = std::string_view;

  struct Notice {
    std::string port;
    ReservationNotice what;
  };
  struct Outcome {
    ScsiStatus status = ScsiStatus::kGood;
    Sense sense;
    std::vector<Notice> notices;
    std::vector<std::string> abort;  // PREEMPT AND ABORT: the ports whose tasks are to end
  };

  // True if a command of this nexus has to be checked with Permits at all.
  bool active() const { return session_holder_ != 0 || type_ != ReservationType::kNone; }
  // `session` names the session for RESERVE(6): any value that is unique and not 0.
  bool Permits(Port port, uint64_t session, const CommandInfo& info) const;

  // RESERVE(6), RELEASE(6). False: RESERVATION CONFLICT.
  bool Reserve(uint64_t session);
  void Release(uint64_t session);
  // The session ended, or the logical unit was reset.
  void EndSession(uint64_t session);
  void ReleaseAllSessions() { session_holder_ = 0; }

  ParameterData In(PrIn action) const;
  Outcome Out(Port port, Bytes cdb, Bytes list);

  ReservationType type() const { return type_; }
  size_t registrations() const { return registrations_.size(); }

 private:
  struct Registration {
    std::string port;
    uint64_t key;
  };

  Registration* Find(Port port);
  const Registration* Find(Port port) const;
  bool all_registrants() const;
  bool registrants_only() const;
  bool IsHolder(Port port) const;
  void NotifyOthers(Port port, ReservationNotice what, Outcome* outcome) const;
  Outcome Register(Port port, uint64_t key, uint64_t new_key, bool ignore_key);
  Outcome Unregister(Port port);
  Outcome Take(Port port, ReservationType type);
  Outcome GiveUp(Port port, ReservationType type);
  Outcome Clear(Port port);
  Outcome Preempt(Port port, uint64_t victim_key, ReservationType type, bool abort);
  bool RemoveByKey(Port except, uint64_t key, bool any_key, bool abort, Outcome* outcome);
  void DropReservation();

  uint64_t session_holder_ = 0;
  std::vector<Registration> registrations_;
  ReservationType type_ = ReservationType::kNone;
  std::string holder_;  // a port; empty for all-registrants types
  uint32_t generation_ = 0;
};

}  // namespace umblock::scsi
