// FileOp: one File operation in flight, and the pool it comes from.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/runtime/reactor.h"
#include "engine/runtime/uring/uring_op.h"

namespace umblock {

class UringFile;

struct FileOp : UringOp {
  enum class Kind : uint8_t { kRead, kWrite, kSync, kPunch, kZeroRange, kZeroByWriting, kIoctl };

  explicit FileOp(UringOp::Fn function) : UringOp(function), ioctl(this), again(this) {
    iov.reserve(16);
  }

  // A discard of a block device, which only ioctl offers: runs on a thread that may block.
  struct Ioctl final : BlockingWork, Completion {
    explicit Ioctl(FileOp* o);
    int32_t Run() noexcept override;
    FileOp* op;
  };
  // The pause before it is submitted again.
  struct Again final : Timer {
    explicit Again(FileOp* o);
    FileOp* op;
  };

  UringFile* file = nullptr;
  Completion* done = nullptr;
  Kind kind = Kind::kRead;
  bool durable = false;
  bool may_unmap = false;
  uint8_t tries = 0;       // that the device answered with EAGAIN, one after the other
  uint64_t offset = 0;     // of what is left
  uint64_t remaining = 0;  // bytes
  std::vector<iovec> iov;  // a copy of the caller's; keeps its memory while it is in the pool
  size_t first = 0;        // in iov: where what is left begins
  Ioctl ioctl;
  Again again;
  FileOp* next = nullptr;
};

// The operations of one reactor: as many as were ever in flight at a time.
class FileOpPool {
 public:
  FileOp* Take();
  void Give(FileOp* op);

 private:
  std::vector<std::unique_ptr<FileOp>> all_;
  FileOp* free_ = nullptr;
};

}  // namespace umblock
