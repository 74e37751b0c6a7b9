// SimFile: a SimDisk opened by a node's program; the File interface. Misaligned or out-of-range
// direct I/O fails with -EINVAL, as the kernel answers it.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "engine/runtime/file.h"
#include "engine/runtime/sim/disk.h"
#include "engine/runtime/sync.h"

namespace umblock {

class SimReactor;

class SimFile final : public File {
 public:
  // Finds, or creates, request.path among the files of the reactor's node.
  static Result<std::unique_ptr<File>> Open(SimReactor& reactor, const OpenFileRequest& request);

  SimFile(SimReactor& reactor, SimDisk& disk, const OpenFileRequest& request);
  ~SimFile() override;

  void StartRead(uint64_t offset, std::span<const iovec> buffers, Completion* done) override;
  void StartWrite(uint64_t offset, std::span<const iovec> buffers, bool durable,
                  Completion* done) override;
  void StartSync(Completion* done) override;
  void StartDiscard(uint64_t offset, uint64_t length, Completion* done) override;
  void StartWriteZeroes(uint64_t offset, uint64_t length, bool may_unmap,
                        Completion* done) override;
  const FileInfo& info() const override { return info_; }
  // As a file: at once, and stable.
  Task<Status> Grow(uint64_t bytes) override;
  Task<void> Close() override;

  // By SimDisk: an operation ended, or will never end because the node crashed.
  void OnDone(void* cookie, int32_t result);
  void OnLost(void* cookie);

 private:
  struct Pending;

  void Start(SimDiskOp op, uint64_t offset, uint64_t length, std::span<const iovec> buffers,
             bool durable, Completion* done);
  int Check(SimDiskOp op, uint64_t offset, uint64_t length, std::span<const iovec> buffers) const;

  SimReactor& reactor_;
  SimDisk& disk_;
  const bool writable_;
  const bool exclusive_;
  bool closed_ = false;
  FileInfo info_;
  int in_flight_ = 0;
  WaitQueue idle_;
};

}  // namespace umblock
