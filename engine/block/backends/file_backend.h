// FileBackend: a regular file or block device as a device.
//
// Requests go to the file as they are, scatter/gather, without a copy, wherever the file takes
// them so. Otherwise, piece by piece through a bounce buffer: memory that the file's direct I/O
// does not take, and reads and writes of parts of a block where the file's blocks are larger than
// 512 bytes. Such a write reads the block, changes it and writes it whole; meanwhile no other write
// touches that block (RangeLock), so neighbouring sectors never get lost.
//
// Limits: `queue_depth` requests are with the file at a time, later ones wait in order; bounce
// buffers have a limit in bytes, requests that need one wait in order. Nothing is allocated per
// request.
#pragma once

#include <memory>
#include <vector>

#include "engine/block/backends/backend.h"
#include "engine/block/backends/range_lock.h"
#include "engine/block/done_queue.h"
#include "engine/block/iov_cursor.h"
#include "engine/runtime/buffer_pool.h"
#include "engine/runtime/file.h"
#include "engine/runtime/sync.h"

namespace umblock {

struct FileBackendOptions {
  uint32_t queue_depth = 256;
  size_t bounce_limit_bytes = size_t{8} << 20;
};

class FileBackend final : public Backend {
 public:
  // The file's size is a multiple of its granularity.
  FileBackend(Reactor& reactor, std::string name, std::unique_ptr<File> file,
              FileBackendOptions options = {});
  ~FileBackend() override;

  void Submit(BlockIo* io) noexcept override;
  Task<void> Stop() override;

  // The smallest unit that the file is read and written in, bytes; 512 or more.
  static uint32_t GranularityOf(const FileInfo& info);

 private:
  Task<Result<uint64_t>> GrowBelow(uint64_t bytes) override;

  enum class Step : uint8_t { kWhole, kRead, kReadHead, kReadTail, kWrite, kZeroMiddle };

  // A request that is with the file, and where it stands.
  struct Slot : Completion, RangeLock::Holder {
    explicit Slot(FileBackend* b);
    FileBackend* backend;
    BlockIo* io = nullptr;
    Step step = Step::kWhole;
    bool locked = false;
    bool zeroing = false;
    uint64_t at = 0;     // bytes of the device: where what is left begins
    uint64_t until = 0;  // where the piece that is being worked on ends
    IovCursor cursor;
    Buffer bounce;
    Slot* next_slot = nullptr;
  };

  bool AlignedRange(const BlockIo& io) const;
  bool AlignedMemory(const BlockIo& io) const;
  uint64_t Floor(uint64_t offset) const { return offset / granularity_ * granularity_; }
  uint64_t Ceil(uint64_t offset) const { return Floor(offset + granularity_ - 1); }

  void Begin(Slot* slot, BlockIo* io);
  bool Lock(Slot* slot);
  void Start(Slot* slot);
  void StartRange(Slot* slot);
  size_t BounceBytes(const Slot& slot) const;
  void StartBounced(Slot* slot);
  void ServeBouncing();
  void NextPiece(Slot* slot);
  void WritePiece(Slot* slot);
  void ReadBlock(Slot* slot, Step step, uint64_t offset, std::byte* to);
  bool PartialTail(const Slot& slot) const { return slot.until % granularity_ != 0; }
  void OnStep(Slot* slot, int32_t result) noexcept;
  void PieceDone(Slot* slot);
  void Finish(Slot* slot, int error);
  void CheckIdle();

  std::unique_ptr<File> file_;
  const uint32_t granularity_;  // bytes
  BufferPool bounce_;
  RangeLock range_lock_;
  std::vector<std::unique_ptr<Slot>> slots_;
  Slot* free_ = nullptr;
  BlockIo* first_queued_ = nullptr;  // for a slot
  BlockIo* last_queued_ = nullptr;
  Slot* first_bouncing_ = nullptr;  // for a bounce buffer
  Slot* last_bouncing_ = nullptr;
  uint64_t in_flight_ = 0;  // from Submit to done
  DoneQueue refused_;
  WaitQueue idle_;
};

}  // namespace umblock
