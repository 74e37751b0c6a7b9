// UringFile: a regular file or block device on a ring. See File for the contract.
//
// Zeroing goes through fallocate, for files and block devices alike, and falls back to writing
// zeroes where the file system has no such thing; discarding punches holes in files and is the
// BLKDISCARD ioctl, on a helper thread, for block devices. A device that answers EAGAIN is asked
// again with growing pauses, for about a second; then the operation fails with EAGAIN.
#pragma once

#include "engine/runtime/file.h"
#include "engine/runtime/sync.h"
#include "engine/runtime/uring/file_op.h"
#include "engine/runtime/uring/socket_util.h"

namespace umblock {

class UringReactor;

class UringFile final : public File {
 public:
  UringFile(UringReactor& reactor, OwnedFd fd, const FileInfo& info);
  ~UringFile() override;

  void StartRead(uint64_t offset, std::span<const iovec> buffers, Completion* done) override;
  void StartWrite(uint64_t offset, std::span<const iovec> buffers, bool durable,
                  Completion* done) override;
  void StartSync(Completion* done) override;
  void StartDiscard(uint64_t offset, uint64_t length, Completion* done) override;
  void StartWriteZeroes(uint64_t offset, uint64_t length, bool may_unmap,
                        Completion* done) override;

  const FileInfo& info() const override { return info_; }
  Task<Status> Grow(uint64_t bytes) override;
  Task<void> Close() override;

 private:
  friend struct FileOp;
  friend class FileOpPool;

  FileOp* NewOp(FileOp::Kind kind, uint64_t offset, uint64_t length, Completion* done);
  void StartTransfer(FileOp::Kind kind, uint64_t offset, std::span<const iovec> buffers,
                     bool durable, Completion* done);
  void Submit(FileOp* op);
  void SubmitTransfer(FileOp* op, bool write);
  static void OnDone(UringOp* base, int32_t result, uint32_t flags) noexcept;
  void OnTransferred(FileOp* op, int32_t result) noexcept;
  void OnRangeDone(FileOp* op, int32_t result) noexcept;
  void Finish(FileOp* op, int32_t result) noexcept;

  UringReactor& reactor_;
  OwnedFd fd_;
  FileInfo info_;
  uint32_t in_flight_ = 0;
  WaitQueue idle_;
};

}  // namespace umblock
