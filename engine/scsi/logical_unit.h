// LogicalUnit: a direct access block device (SBC-3) on a BlockDevice.
//
// READ, WRITE and SYNCHRONIZE CACHE are one BlockIo, embedded in the Request; what takes several
// steps (COMPARE AND WRITE, VERIFY, WRITE SAME, UNMAP …) runs as a task of this unit. Everything
// else is answered at once.
//
// The unit follows its device: while access() is not kReadWrite, commands that need the medium end
// with NOT READY, 04/0B on a replica that is not Primary and 04/0C where there is no usable data,
// and each session hears of every change by a unit attention.
//
// Order: SIMPLE tasks run as they come, ORDERED ones wait for all older and hold back all younger
// ones (SAM-5 §8.6). COMPARE AND WRITE and ORWRITE exclude every other write to their blocks
// through this unit while they run. Writes through another front (FUSE) are not excluded.
//
// Threading: the device's reactor. Stop() is awaited before the destructor.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/block/block_device.h"
#include "engine/runtime/sync.h"
#include "engine/scsi/inquiry.h"
#include "engine/scsi/mode_pages.h"
#include "engine/scsi/nexus.h"
#include "engine/scsi/request.h"
#include "engine/scsi/reservations.h"

namespace umblock::scsi {

struct UnitCounters {
  uint64_t reads = 0, read_bytes = 0;
  uint64_t writes = 0, write_bytes = 0;  // also write same and unmap, which carry no bytes
  uint64_t flushes = 0;
  uint64_t others = 0;
  uint64_t check_conditions = 0;
  uint64_t conflicts = 0;  // RESERVATION CONFLICT
};

class LogicalUnit final : private BlockDeviceObserver {
 public:
  // kInvalidArgument if the options or the device do not fit (block size, serial number).
  static Status Validate(BlockDevice& device, const UnitOptions& options);

  LogicalUnit(BlockDevice& device, UnitOptions options);
  LogicalUnit(const LogicalUnit&) = delete;
  LogicalUnit& operator=(const LogicalUnit&) = delete;
  ~LogicalUnit() override;

  // Ends what waits, refuses what comes, awaits what runs.
  Task<void> Stop();

  BlockDevice& device() { return device_; }
  const UnitOptions& options() const { return options_; }
  const UnitCounters& counters() const { return counters_; }
  uint64_t blocks() const { return blocks_; }
  bool descriptor_sense() const { return modes_.descriptor_sense; }
  const Reservations& reservations() const { return reservations_; }
  uint32_t requests() const { return static_cast<uint32_t>(requests_.size()); }
  uint32_t sessions() const { return static_cast<uint32_t>(attached_.size()); }
  // Has any session this unit open? What RemoveLun asks.
  std::vector<std::string> session_names() const;

  // Called by LuNexus.
  void Attach(LuNexus* nexus) { attached_.push_back(nexus); }
  void Detach(LuNexus* nexus);

  // Called by Nexus. True: the request is in this unit's list and awaits Execute or Abandon.
  bool Prepare(Request* request);
  void Execute(Request* request) noexcept;
  void Abandon(Request* request) noexcept;

  // Task management. Requests that wait end inside; those that run end without an answer when their
  // I/O is done: co_await WaitAborted() before the function is reported complete.
  bool AbortTask(Request* request);
  void AbortTasks(LuNexus* nexus);  // ABORT TASK SET
  void ClearTasks(LuNexus* cause);  // CLEAR TASK SET; other sessions hear of it
  void Reset();                     // LOGICAL UNIT RESET
  Task<void> WaitAborted();
  // Ends when some request has ended since, or the unit is going away.
  Task<void> WaitRequestEnd();

 private:
  void OnDeviceChanged() override;
  // The device's, and kUnavailable while its blocks are larger than this unit's: a replica may get
  // another disk at run time.
  Access access() const;

  bool CheckState(Request* request);
  bool CheckRange(Request* request);
  bool Size(Request* request);
  bool Refuse(Request* request, const Sense& sense);
  bool MediumReady(LuNexus* nexus);
  Sense NotReadySense() const;
  Sense SenseFor(int error, bool write) const;

  // Order.
  bool CanStart(const Request& request) const;
  bool Gates(const Request& request) const;
  void ResumeBlocked() noexcept;
  void Remove(Request* request) noexcept;
  void Start(Request* request) noexcept;
  void Finish(Request* request) noexcept;
  void EndAborted(Request* request) noexcept;
  template <typename Match>
  void AbortMatching(Match match);
  void AbortPort(const std::string& port);

  // Hot path.
  void StartTransfer(Request* request, IoOp op, bool fua) noexcept;
  static void TransferDone(BlockIo* io, int error) noexcept;
  bool AdjustTruncated(Request* request);

  // Answered at once (control_commands.cc).
  void RunControl(Request* request);
  void RequestSenseCommand(Request* request);
  void ModeSense(Request* request);
  void ModeSelect(Request* request);
  void Reserve(Request* request);
  void PersistentReserveIn(Request* request);
  // The ports whose tasks PREEMPT AND ABORT has ended; they may still run.
  std::vector<std::string> PersistentReserveOut(Request* request);
  void StartStop(Request* request);
  void ReadDefects(Request* request);
  void LbaStatus(Request* request);
  ModeContext Modes() const;
  void RaiseOthers(const LuNexus* cause, UnitAttention attention);
  void RaiseByPort(const std::string& port, UnitAttention attention);

  // In several steps (medium_commands.cc). Each returns 0 or an errno, or fails the request itself
  // and returns 0.
  Task<void> RunSteps(Request* request);
  Task<int> Verify(Request* request, Buffer& scratch);
  Task<int> Compare(Request* request, Buffer& scratch, uint64_t offset, Bytes expected);
  Task<int> WriteAndVerify(Request* request, Buffer& scratch);
  Task<int> CompareAndWrite(Request* request, Buffer& scratch);
  Task<int> OrWrite(Request* request, Buffer& scratch);
  Task<int> WriteSame(Request* request, Buffer& scratch);
  Task<int> Unmap(Request* request);
  Task<void> ReserveOutSteps(Request* request);
  bool AnyRunningOf(const std::vector<std::string>& ports) const;

  BlockDevice& device_;
  UnitOptions options_;
  uint64_t blocks_ = 0;
  Access access_;
  ModeValues modes_;
  Reservations reservations_;
  UnitCounters counters_;
  std::vector<LuNexus*> attached_;
  RequestList requests_;
  uint32_t gates_ = 0;    // requests that hold others back, or wait to
  uint32_t blocked_ = 0;  // requests in State::kBlocked
  uint32_t aborted_running_ = 0;
  bool resuming_ = false;
  bool resume_again_ = false;
  bool stopping_ = false;
  uint32_t waiting_ = 0;  // tasks inside one of the waits: the unit stays until they left
  WaitQueue changed_;
  TaskGroup steps_;
};

}  // namespace umblock::scsi
