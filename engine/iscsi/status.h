// What the iSCSI target shows: one snapshot, as values that may cross threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/scsi/logical_unit.h"

namespace umblock::iscsi {

struct SessionCounters {
  uint64_t pdus_in = 0, pdus_out = 0;
  uint64_t bytes_in = 0, bytes_out = 0;  // on the TCP connection
  uint64_t receives = 0, sends = 0;      // socket operations
  uint64_t commands = 0;                 // SCSI commands
  uint64_t copied_bytes = 0;             // payload that was copied once, out of the read-ahead
  uint64_t rejects = 0;
  uint64_t task_management = 0;
  uint64_t task_set_full = 0;  // commands turned away for want of memory
};

struct SessionStatus {
  std::string initiator, alias;
  std::string target;  // empty: a discovery session
  std::string isid;    // "0x00023d000000"
  uint16_t tsih = 0;
  std::string local_address, remote_address;
  uint32_t commands_in_flight = 0;
  uint64_t buffer_bytes = 0;  // payload memory held
  bool header_digest = false, data_digest = false;
  SessionCounters counters;
};

struct LunStatus {
  uint32_t lun = 0;
  std::string device;
  std::string serial;
  uint32_t block_size = 0;
  uint64_t blocks = 0;
  bool read_only = false;
  bool accessible = false;
  std::string access_reason;  // why not, empty if it is
  uint32_t requests = 0;      // in flight
  std::string reservation;    // "none" or the type of the persistent reservation
  scsi::UnitCounters counters;
};

struct TargetStatus {
  std::string name, alias;
  std::vector<std::string> initiators;  // who may log in; empty: everybody
  bool chap = false;
  std::vector<LunStatus> luns;  // by number
};

struct ServerStatus {
  std::vector<std::string> portals;   // listening addresses
  std::vector<TargetStatus> targets;  // by name
  std::vector<SessionStatus> sessions;
  uint32_t logins_in_progress = 0;
  uint64_t logins = 0, failed_logins = 0;
};

}  // namespace umblock::iscsi
