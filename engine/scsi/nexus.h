// TargetDevice: a SCSI target device, that is its logical units by number. Nexus: one I_T nexus, an
// initiator port's session with that device. LuNexus: the nexus seen by one of its logical units
// (SAM-5 §4.6): pending unit attentions, and the session's entry in the owner table of the volume.
//
// Ownership: the iSCSI target owns its TargetDevice and the LogicalUnits in it; a session owns its
// Nexus. Threading: the reactor of the devices.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/block/block_device.h"
#include "engine/scsi/constants.h"
#include "engine/scsi/request.h"

namespace umblock::scsi {

class LogicalUnit;
class Nexus;

// Reported in the order of their bits, one per command (SAM-5 §5.14).
enum class UnitAttention : uint32_t {
  kPowerOn = 1u << 0,                 // 29/00
  kReset = 1u << 1,                   // 29/03
  kCommandsCleared = 1u << 2,         // 2F/00
  kReservationsPreempted = 1u << 3,   // 2A/03
  kReservationsReleased = 1u << 4,    // 2A/04
  kRegistrationsPreempted = 1u << 5,  // 2A/05
  kModeChanged = 1u << 6,             // 2A/01
  kCapacityChanged = 1u << 7,         // 2A/09
  kAccessChanged = 1u << 8,           // 2A/06
  kLunsChanged = 1u << 9,             // 3F/0E
};

struct NexusIdentity {
  std::string initiator_name;  // "iqn.…"
  std::string initiator_port;  // "iqn.…,i,0x00023d000000"
  std::string opener;          // for the owner table: "iscsi <target> from <initiator>"
  uint64_t session = 0;        // unique in this process, not 0
};

class LuNexus {
 public:
  LuNexus(Nexus& owner, LogicalUnit& logical_unit);
  LuNexus(const LuNexus&) = delete;
  LuNexus& operator=(const LuNexus&) = delete;
  ~LuNexus();

  LogicalUnit& unit() { return unit_; }
  Nexus& nexus() { return nexus_; }
  void Raise(UnitAttention attention) { attentions_ |= static_cast<uint32_t>(attention); }
  void Clear(UnitAttention attention) { attentions_ &= ~static_cast<uint32_t>(attention); }
  bool attention_pending() const { return attentions_ != 0; }
  // The most important pending one, which is cleared; nothing pending: NO SENSE.
  Sense TakeAttention();

  // The entry in the volume's owner table: held while the device is accessible.
  bool open() const { return opener_.has_value(); }
  bool TryOpen();
  void Close();

  uint32_t requests = 0;  // prepared and not finished
  bool prevents_removal = false;

 private:
  Nexus& nexus_;
  LogicalUnit& unit_;
  uint32_t attentions_ = 0;
  std::optional<OpenerId> opener_;
};

class TargetDevice {
 public:
  explicit TargetDevice(std::string name) : name_(std::move(name)) {}
  ~TargetDevice();

  const std::string& name() const { return name_; }
  // nullptr if there is none.
  LogicalUnit* unit(uint32_t lun) const { return lun <= kMaxLun ? units_[lun] : nullptr; }
  std::vector<uint32_t> luns() const;
  // Every session is told that the LUNs changed (3F/0E) and gets its nexus with the new one.
  void AddUnit(uint32_t lun, LogicalUnit* unit);
  // The unit must have no request left; sessions are told.
  void RemoveUnit(uint32_t lun);
  // All logical units: their tasks end, everybody is told (a target reset).
  void Reset();
  Task<void> WaitAborted();

 private:
  friend class Nexus;

  std::string name_;
  std::array<LogicalUnit*, kMaxLun + 1> units_{};
  std::vector<Nexus*> nexuses_;
};

class Nexus {
 public:
  // `device` may be nullptr: a discovery session has no logical units.
  Nexus(TargetDevice& device, NexusIdentity identity);
  Nexus(const Nexus&) = delete;
  Nexus& operator=(const Nexus&) = delete;
  ~Nexus();

  const NexusIdentity& identity() const { return identity_; }
  TargetDevice& device() { return device_; }
  LuNexus* Find(uint64_t lun_field);

  enum class Stage {
    kReady,     // provide buffer and data, then Execute (or Abandon)
    kFinished,  // request->status says it all
  };
  // `lun_field`: the eight bytes of the LUN as a big-endian number.
  Stage Prepare(uint64_t lun_field, Request* request);
  void Execute(Request* request) noexcept;
  static void Abandon(Request* request) noexcept;

  // D_SENSE of the logical unit that answered.
  static bool DescriptorSense(const Request& request);

  // Ends every request of this nexus without an answer. Then co_await WaitIdle().
  void AbortAll();
  Task<void> WaitIdle();

 private:
  friend class TargetDevice;

  Stage PrepareWithoutUnit(Request* request);
  void ExecuteWithoutUnit(Request* request);

  TargetDevice& device_;
  NexusIdentity identity_;
  std::array<std::unique_ptr<LuNexus>, kMaxLun + 1> units_;
};

// The LUN in a LUN field: peripheral addressing on bus 0, or flat space addressing (SAM-5 §4.7.7);
// nullopt for anything else.
std::optional<uint32_t> DecodeLun(uint64_t lun_field);
uint64_t EncodeLun(uint32_t lun);

}  // namespace umblock::scsi
