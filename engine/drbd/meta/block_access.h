// Metadata I/O on a BlockDevice in pieces it accepts, with errors that say what failed.
//
// One owner, one operation at a time (asserted): the piece buffer is shared. Everything is aligned
// to 4 KiB and written in units of it.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/block/block_device.h"
#include "engine/runtime/task.h"

namespace umblock::drbd::meta {

// Memory that a device can read from and write to directly.
class AlignedBytes {
 public:
  explicit AlignedBytes(size_t bytes);
  MutableBytes bytes() const { return {data_.get(), size_}; }
  iovec iov(size_t length) const { return {data_.get(), length}; }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t size_;
};

class BlockAccess {
 public:
  // The largest transfer is `piece_bytes`, a multiple of 4096 up to kMaxTransferBytes.
  BlockAccess(BlockDevice& device, size_t piece_bytes);

  BlockDevice& device() { return device_; }
  const std::string& name() const { return device_.name(); }
  uint64_t device_bytes() const { return device_.geometry().size; }

  // `what` names the object in messages and outlives the call.
  Task<Status> Read(std::string_view what, uint64_t offset, MutableBytes into);
  Task<Status> Write(std::string_view what, uint64_t offset, Bytes from);
  Task<Status> WriteZeroes(std::string_view what, uint64_t offset, uint64_t length);
  // The buffer, and transfers of its beginning: for who works in place. The buffer
  // belongs to the operation from the call to its end.
  MutableBytes piece() const { return piece_.bytes(); }
  Task<Status> ReadPiece(std::string_view what, uint64_t offset, size_t bytes);
  Task<Status> WritePiece(std::string_view what, uint64_t offset, size_t bytes);
  // md-flushes: if off, the device's cache is trusted, and neither flush nor FUA is asked of it.
  void set_flushes(bool flushes) { flushes_ = flushes; }
  // Everything written before is stable.
  Task<Status> Flush(std::string_view what);
  // One 4 KiB block: flush, then the block with FUA. Stable afterwards, and not before what came
  // before.
  Task<Status> WriteBlockDurably(std::string_view what, uint64_t offset, Bytes block);

 private:
  Error Failed(int error, std::string_view verb, std::string_view what, uint64_t offset) const;

  BlockDevice& device_;
  AlignedBytes piece_;
  bool busy_ = false;
  bool flushes_ = true;
};

}  // namespace umblock::drbd::meta
