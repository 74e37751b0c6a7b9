// BlockDevice: the one interface between fronts (iSCSI, FUSE), replicated volumes and backends.
//
// Data path: whoever wants I/O owns a BlockIo, fills it and calls Submit; the device calls io->done
// once, later, on its own reactor, with 0 or a positive errno. The BlockIo and the memory its iov
// names are pinned from Submit to done: nothing in a device copies a payload it can pass on, and
// the memory must not change meanwhile. I/O is never cancelled. Requests in flight at the same time
// may complete in any order; a device does not order overlapping ones, except a replicated volume,
// which applies overlapping writes in the order of their submission on every copy.
//
// Errnos: EIO (medium or replication error), ENOSPC (thin backing is full), EROFS (the device takes
// no writes now: not Primary), ENODEV (no longer there), EINVAL (misaligned, beyond the end, too
// long), EOPNOTSUPP (discard or write zeroes not offered).
//
// Units: offsets and lengths are bytes and multiples of 512; geometry().logical_block_size is what
// is advertised to initiators, a device takes any multiple of 512 and does read-modify-write below
// its own granularity.
//
// Threading: everything on reactor() (RemoteBlockDevice makes a device usable from another one).
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/runtime/completion.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/task.h"

namespace umblock {

enum class IoOp : uint8_t { kRead, kWrite, kFlush, kDiscard, kWriteZeroes };

// kRead and kWrite: at most this many bytes in one BlockIo. kDiscard, kWriteZeroes: kMaxRangeBytes.
inline constexpr uint64_t kMaxTransferBytes = uint64_t{1} << 20;
inline constexpr uint64_t kMaxRangeBytes = uint64_t{128} << 20;

struct BlockIo {
  // `error` is 0 or a positive errno. The BlockIo may be reused or freed inside.
  using DoneFn = void (*)(BlockIo* self, int error) noexcept;

  explicit BlockIo(DoneFn fn) : done(fn) {}
  BlockIo(const BlockIo&) = delete;
  BlockIo& operator=(const BlockIo&) = delete;

  IoOp op = IoOp::kRead;
  bool fua = false;            // kWrite: done means stable. kFlush ignores it
  bool may_unmap = false;      // kWriteZeroes: may deallocate, as long as it reads as zeroes
  uint64_t offset = 0;         // bytes
  uint64_t length = 0;         // bytes; 0 for kFlush
  std::span<const iovec> iov;  // kRead, kWrite: sums to length

  DoneFn done;
  BlockIo* next = nullptr;  // for the device that holds it
  void* scratch = nullptr;  // for the device that holds it
};

struct BlockGeometry {
  uint64_t size = 0;                  // bytes
  uint32_t logical_block_size = 512;  // bytes
  uint32_t physical_block_size = 4096;
  uint32_t optimal_io_size = 0;  // bytes; 0: not said
  bool can_discard = false;
  bool discard_reads_zeroes = false;
  uint32_t discard_granularity = 0;  // bytes
  bool can_write_zeroes = true;
  bool volatile_cache = true;  // a flush is needed for completed writes to be stable

  friend bool operator==(const BlockGeometry&, const BlockGeometry&) = default;
};

// May this device be used now? A replicated volume is kReadWrite only as Primary.
enum class Access : uint8_t {
  kReadWrite,
  kStandby,      // a replica that is not Primary: no reads, no writes (ALUA standby / NOT READY)
  kUnavailable,  // no usable data, detached or going away
};

// Who uses a device, for the owner table: "iscsi iqn…:disk0 from iqn…:host1", "fuse r0-0 pid 4711".
struct Opener {
  std::string description;
  bool write = false;
};
using OpenerId = uint64_t;

class BlockDeviceObserver {
 public:
  virtual ~BlockDeviceObserver() = default;
  // Access, size or capabilities changed; look again. Called on the device's reactor.
  virtual void OnDeviceChanged() = 0;
};

class BlockDevice {
 public:
  virtual ~BlockDevice() = default;

  virtual void Submit(BlockIo* io) noexcept = 0;

  virtual Reactor& reactor() = 0;
  virtual const BlockGeometry& geometry() const = 0;
  // A name for messages: "volume r0/0", "backend disk1".
  virtual const std::string& name() const = 0;
  virtual Access access() const = 0;
  // Why access() is not kReadWrite, for people; empty otherwise.
  virtual std::string access_reason() const = 0;

  // The owner table. Opening for write where access() is not kReadWrite fails with the reason, as
  // does opening a standby or unavailable device for reading. An open device cannot be demoted,
  // detached or deleted without force; who asks is told the openers' descriptions.
  virtual Result<OpenerId> Open(Opener opener) = 0;
  virtual void Close(OpenerId id) = 0;
  virtual std::vector<Opener> openers() const = 0;

  virtual void AddObserver(BlockDeviceObserver* observer) = 0;
  virtual void RemoveObserver(BlockDeviceObserver* observer) = 0;

  // Requests that a layer above has answered itself (DeadlineDevice) and that have not come back
  // from here: they may still be carried out, on top of whatever is written meanwhile.
  uint64_t adrift = 0;

  // co_await device.Read(offset, iov) and so on: 0 or a positive errno.
  auto Read(uint64_t offset, std::span<const iovec> iov);
  auto Write(uint64_t offset, std::span<const iovec> iov, bool fua);
  auto Flush();
  auto Discard(uint64_t offset, uint64_t length);
  auto WriteZeroes(uint64_t offset, uint64_t length, bool may_unmap);
};

uint64_t IovLength(std::span<const iovec> iov);

// Awaits one BlockIo. A frame that has one of these in flight is not destroyed.
class BlockIoAwaiter : public BlockIo {
 public:
  explicit BlockIoAwaiter(BlockDevice* device) : BlockIo(&Done), device_(device) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    waiting_ = waiting;
    device_->Submit(this);
  }
  int await_resume() const noexcept { return error_; }

 private:
  static void Done(BlockIo* self, int error) noexcept {
    auto* awaiter = static_cast<BlockIoAwaiter*>(self);
    awaiter->error_ = error;
    awaiter->waiting_.resume();
  }

  BlockDevice* device_;
  int error_ = 0;
  std::coroutine_handle<> waiting_;
};

namespace internal {
struct ReadAwaiter : BlockIoAwaiter {
  ReadAwaiter(BlockDevice* device, uint64_t at, std::span<const iovec> buffers)
      : BlockIoAwaiter(device) {
    op = IoOp::kRead;
    offset = at;
    iov = buffers;
    length = IovLength(buffers);
  }
};
struct WriteAwaiter : BlockIoAwaiter {
  WriteAwaiter(BlockDevice* device, uint64_t at, std::span<const iovec> buffers, bool durable)
      : BlockIoAwaiter(device) {
    op = IoOp::kWrite;
    offset = at;
    iov = buffers;
    length = IovLength(buffers);
    fua = durable;
  }
};
struct RangeAwaiter : BlockIoAwaiter {
  RangeAwaiter(BlockDevice* device, IoOp operation, uint64_t at, uint64_t bytes, bool unmap)
      : BlockIoAwaiter(device) {
    op = operation;
    offset = at;
    length = bytes;
    may_unmap = unmap;
  }
};
}  // namespace internal

inline auto BlockDevice::Read(uint64_t offset, std::span<const iovec> iov) {
  return internal::ReadAwaiter(this, offset, iov);
}
inline auto BlockDevice::Write(uint64_t offset, std::span<const iovec> iov, bool fua) {
  return internal::WriteAwaiter(this, offset, iov, fua);
}
inline auto BlockDevice::Flush() { return internal::RangeAwaiter(this, IoOp::kFlush, 0, 0, false); }
inline auto BlockDevice::Discard(uint64_t offset, uint64_t length) {
  return internal::RangeAwaiter(this, IoOp::kDiscard, offset, length, false);
}
inline auto BlockDevice::WriteZeroes(uint64_t offset, uint64_t length, bool may_unmap) {
  return internal::RangeAwaiter(this, IoOp::kWriteZeroes, offset, length, may_unmap);
}

}  // namespace umblock
