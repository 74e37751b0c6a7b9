// ExportedFile: one BlockDevice seen as a regular file: openers, alignment, ranges, removal.
//
// A file takes any byte offset and length. Reads and writes that are multiples of 512 bytes go to
// the device as they are, with the request's own memory, and so do reads that begin on such a
// multiple; of writes that begin there what they cover of whole sectors. The rest is done in a
// bounce buffer, writes by read-modify-write and alone: while one runs no other write of this file
// is in flight, and those that came later wait behind it in order. Writes that arrive together may
// otherwise complete in any order, as on any block device.
//
// The device is given max_requests at a time; the others wait here, in order. Opening and closing
// need no device's answer and wait for none.
//
// Errors as errno towards the kernel: those of BlockDevice, EROFS (open for writing on a device
// that takes no writes now), EAGAIN (open for reading on a standby), ENODEV (file removed or device
// gone), ENOSPC (write at or beyond the end), ENOMEM (no memory for a large read).
// Threading: everything on the device's reactor, except name(), device_name(), inode(),
// read_only(), size(), counters() and memory().
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/block/block_device.h"
#include "engine/fuse/file_memory.h"
#include "engine/fuse/fuse_mount.h"
#include "engine/fuse/request_slot.h"
#include "engine/fuse/slot_queue.h"
#include "engine/runtime/sync.h"
#include "engine/runtime/task.h"

namespace umblock {

// One open(2) of a file; its address is the handle that the kernel keeps. Made by the session
// thread, which reads `file` and nothing else later; the rest belongs to the device's reactor.
struct FileHandle {
  ExportedFile* const file;
  const std::string description;
  OpenerId opener = 0;
  bool closed = false;  // the file was removed by force: the device is closed already
};

struct FileCounters {
  std::atomic<uint64_t> reads{0}, read_bytes{0};
  std::atomic<uint64_t> writes{0}, write_bytes{0};
  std::atomic<uint64_t> flushes{0};
  std::atomic<uint64_t> unaligned{0};     // requests that went through a bounce buffer
  std::atomic<uint64_t> copied_bytes{0};  // payload moved by the CPU after it was received
  std::atomic<uint64_t> errors{0};
};

class ExportedFile final : private BlockDeviceObserver {
 public:
  static constexpr uint64_t kSector = 512;  // bytes

  // `device` outlives the file's Remove().
  ExportedFile(std::string name, uint64_t inode, BlockDevice* device, FuseFileOptions options,
               const FuseOptions& limits, SlotPool* slots);
  ~ExportedFile() override;

  // Starts watching the device.
  void Attach();
  // Without `force` refused while the file is open, naming who has it open. With it, handles that
  // are left answer ENODEV. Ends when no request of this file is in flight; the device is not
  // touched afterwards.
  Task<Status> Remove(bool force);

  // A request from the session thread has arrived on the device's reactor.
  void Start(RequestSlot* slot) noexcept;
  static void OnPosted(Completion* posted, int32_t result) noexcept;
  static void OnDeviceDone(BlockIo* io, int error) noexcept;

  std::vector<std::string> Openers() const;
  bool idle() const { return handles_.empty() && in_flight_ == 0; }

  const std::string& name() const { return name_; }
  const std::string& device_name() const { return device_name_; }
  uint64_t inode() const { return inode_; }
  bool read_only() const { return options_.read_only; }
  uint64_t size() const { return size_.load(std::memory_order_relaxed); }
  Reactor& reactor() const { return *reactor_; }
  const FileCounters& counters() const { return counters_; }
  FileMemory& memory() { return memory_; }

 private:
  void OnDeviceChanged() override;

  void StartOpen(RequestSlot* slot);
  void StartRelease(RequestSlot* slot);
  // Hands what waits to the device, as far as its bound allows.
  void Admit();
  void StartOnDevice(RequestSlot* slot);
  void StartRead(RequestSlot* slot);
  bool TakeReadBuffer(RequestSlot* slot);
  void SubmitRead(RequestSlot* slot);
  Task<void> ReadUnaligned(RequestSlot* slot);
  // Writes and ranges pass the gate.
  void Enqueue(RequestSlot* slot);
  void OpenGate();
  void SubmitWrite(RequestSlot* slot);
  Task<void> RunAlone(RequestSlot* slot);
  Task<int> WriteUnaligned(RequestSlot* slot);
  Task<void> RunRange(RequestSlot* slot);
  Task<int> ChangeRange(RequestSlot* slot);
  Task<int> ZeroWhole(uint64_t offset, uint64_t length, bool unmap);
  // Puts `length` bytes (of a write's payload, zeroes of a range) at `offset`, keeping what is
  // around them.
  Task<int> Overlay(RequestSlot* slot, uint64_t offset, uint64_t length);

  void FinishWrite(RequestSlot* slot, int error);
  void Finish(RequestSlot* slot, int error);
  void Answer(RequestSlot* slot, int error);

  const std::string name_;
  const std::string device_name_;
  const uint64_t inode_;
  const FuseFileOptions options_;
  BlockDevice* device_;
  Reactor* reactor_;
  SlotPool* slots_;
  const uint32_t max_on_device_;
  const uint64_t pool_share_;  // bytes of the reactor's buffers that reads here may use
  std::atomic<uint64_t> size_;
  FileMemory memory_;

  bool removed_ = false;
  std::map<FileHandle*, std::unique_ptr<FileHandle>> handles_;
  uint32_t in_flight_ = 0;
  uint32_t on_device_ = 0;
  bool admitting_ = false;
  SlotQueue waiting_;  // for on_device_ < max_on_device_
  uint64_t pool_bytes_ = 0;
  uint32_t writes_in_flight_ = 0;
  bool alone_ = false;  // a read-modify-write runs
  SlotQueue gate_;      // writes and ranges that wait for it, or for others to end
  WaitQueue changed_;
  TaskGroup tasks_;
  FileCounters counters_;
};

}  // namespace umblock
