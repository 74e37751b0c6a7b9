#include "engine/block/backends/file_backend.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "engine/base/assert.h"
#include "engine/block/check_io.h"

namespace umblock {
namespace {

constexpr size_t kBounceBytes = 256 << 10;  // a piece of a request; more than any granularity

// What a device may answer (block_device.h).
int DeviceError(int32_t result) {
  switch (-result) {
    case ENOSPC:
    case EDQUOT:
      return ENOSPC;
    case EROFS:
    case EPERM:
      return EROFS;
    case ENODEV:
    case ENXIO:
      return ENODEV;
    case EOPNOTSUPP:
      return EOPNOTSUPP;
    default:
      return EIO;
  }
}

BlockGeometry GeometryOf(const FileInfo& info) {
  BlockGeometry geometry;
  geometry.size = info.size;
  geometry.logical_block_size = info.is_block_device ? info.logical_block_size : 512;
  geometry.physical_block_size =
      std::max(info.physical_block_size, FileBackend::GranularityOf(info));
  geometry.can_discard = info.can_discard;
  geometry.discard_reads_zeroes = info.can_discard && info.discard_reads_zeroes;
  geometry.discard_granularity = info.discard_granularity;
  geometry.can_write_zeroes = true;
  geometry.volatile_cache = info.volatile_cache;
  return geometry;
}

}  // namespace

uint32_t FileBackend::GranularityOf(const FileInfo& info) {
  return std::max<uint32_t>(512, info.offset_alignment);
}

FileBackend::Slot::Slot(FileBackend* b)
    : Completion([](Completion* self, int32_t result) noexcept {
        auto* slot = static_cast<Slot*>(self);
        slot->backend->OnStep(slot, result);
      }),
      RangeLock::Holder([](RangeLock::Holder* self) noexcept {
        auto* slot = static_cast<Slot*>(self);
        slot->backend->Start(slot);
      }),
      backend(b) {}

FileBackend::FileBackend(Reactor& reactor, std::string name, std::unique_ptr<File> file,
                         FileBackendOptions options)
    : Backend(reactor, std::move(name)),
      file_(std::move(file)),
      granularity_(GranularityOf(file_->info())),
      bounce_(reactor, options.bounce_limit_bytes),
      refused_(reactor),
      idle_(reactor) {
  UMBLOCK_ASSERT(granularity_ <= kBounceBytes / 2, "a piece has room for the blocks at its edges");
  geometry_ = GeometryOf(file_->info());
  for (uint32_t i = 0; i < std::max(options.queue_depth, 1u); ++i) {
    slots_.push_back(std::make_unique<Slot>(this));
    slots_.back()->next_slot = free_;
    free_ = slots_.back().get();
  }
}

FileBackend::~FileBackend() {
  UMBLOCK_ASSERT(file_ == nullptr, "a backend is stopped before it goes");
}

Task<Result<uint64_t>> FileBackend::GrowBelow(uint64_t bytes) {
  ++in_flight_;  // the file stays open
  Status grown = co_await file_->Grow(bytes);
  --in_flight_;
  CheckIdle();
  if (!grown) co_return std::unexpected(grown.error());
  co_return file_->info().size / granularity_* granularity_;
}

Task<void> FileBackend::Stop() {
  stopping_ = true;
  NotifyObservers();
  while (in_flight_ != 0) co_await idle_.Wait();
  co_await file_->Close();
  file_.reset();
}

void FileBackend::CheckIdle() {
  if (stopping_ && in_flight_ == 0) idle_.NotifyAll();
}

bool FileBackend::AlignedRange(const BlockIo& io) const {
  return io.offset % granularity_ == 0 && io.length % granularity_ == 0;
}

bool FileBackend::AlignedMemory(const BlockIo& io) const {
  const FileInfo& info = file_->info();
  return std::all_of(io.iov.begin(), io.iov.end(), [&info](const iovec& part) {
    return reinterpret_cast<uintptr_t>(part.iov_base) % info.memory_alignment == 0 &&
           part.iov_len % info.offset_alignment == 0;
  });
}

void FileBackend::Submit(BlockIo* io) noexcept {
  int error = stopping_ ? ENODEV : CheckIo(*io, geometry_.size);
  if (error == 0 && io->op == IoOp::kDiscard && !geometry_.can_discard) error = EOPNOTSUPP;
  if (error != 0) {
    ++counters_.errors;
    return refused_.Push(io, error);
  }
  ++in_flight_;
  CountStart(*io);
  if (free_ == nullptr) {
    ++counters_.queued;
    io->next = nullptr;
    (last_queued_ != nullptr ? last_queued_->next : first_queued_) = io;
    last_queued_ = io;
    return;
  }
  Slot* slot = free_;
  free_ = slot->next_slot;
  Begin(slot, io);
}

void FileBackend::Begin(Slot* slot, BlockIo* io) {
  slot->io = io;
  slot->step = Step::kWhole;
  slot->zeroing = io->op == IoOp::kWriteZeroes;
  slot->at = io->offset;
  slot->cursor = IovCursor(io->iov);
  if (Lock(slot)) Start(slot);
}

// Only where blocks are larger than sectors can a write have to read first.
bool FileBackend::Lock(Slot* slot) {
  const BlockIo& io = *slot->io;
  slot->locked = granularity_ > 512 && io.op != IoOp::kRead && io.op != IoOp::kFlush;
  if (!slot->locked) return true;
  slot->begin = Floor(io.offset);
  slot->end = Ceil(io.offset + io.length);
  slot->exclusive = !AlignedRange(io) && io.op != IoOp::kDiscard;
  return range_lock_.Acquire(slot);
}

void FileBackend::Start(Slot* slot) {
  const BlockIo& io = *slot->io;
  switch (io.op) {
    case IoOp::kRead:
    case IoOp::kWrite:
      if (!AlignedRange(io) || !AlignedMemory(io)) return StartBounced(slot);
      if (io.op == IoOp::kRead) return file_->StartRead(io.offset, io.iov, slot);
      return file_->StartWrite(io.offset, io.iov, io.fua, slot);
    case IoOp::kFlush:
      return file_->StartSync(slot);
    case IoOp::kDiscard:
    case IoOp::kWriteZeroes:
      return StartRange(slot);
  }
}

void FileBackend::StartRange(Slot* slot) {
  const BlockIo& io = *slot->io;
  // A regular file takes any range; a block device whole blocks only.
  bool whole = AlignedRange(io) || !file_->info().is_block_device;
  if (io.op == IoOp::kWriteZeroes) {
    if (!whole) return StartBounced(slot);
    return file_->StartWriteZeroes(io.offset, io.length, io.may_unmap, slot);
  }
  if (whole) return file_->StartDiscard(io.offset, io.length, slot);
  // The blocks at the edges stay: a discard is only advice.
  uint64_t begin = Ceil(io.offset);
  uint64_t end = Floor(io.offset + io.length);
  if (begin >= end) return reactor().Post(slot, 0);
  file_->StartDiscard(begin, end - begin, slot);
}

size_t FileBackend::BounceBytes(const Slot& slot) const {
  if (slot.zeroing) return granularity_;  // only its edges are bounced
  const BlockIo& io = *slot.io;
  uint64_t span = Ceil(io.offset + io.length) - Floor(io.offset);
  return std::min<uint64_t>(span, kBounceBytes);
}

void FileBackend::StartBounced(Slot* slot) {
  if (first_bouncing_ == nullptr) slot->bounce = bounce_.TryAllocate(BounceBytes(*slot));
  if (slot->bounce) return NextPiece(slot);
  if (first_bouncing_ == nullptr && bounce_.bytes_out() == 0) {
    return reactor().Post(slot, -ENOMEM);  // the system has no memory; nobody would come back to it
  }
  slot->next_slot = nullptr;
  (last_bouncing_ != nullptr ? last_bouncing_->next_slot : first_bouncing_) = slot;
  last_bouncing_ = slot;
}

void FileBackend::NextPiece(Slot* slot) {
  const BlockIo& io = *slot->io;
  uint64_t end = io.offset + io.length;
  uint64_t piece = slot->bounce.capacity() / granularity_ * granularity_;
  slot->until = std::min(end, Floor(slot->at) + piece);
  if (slot->zeroing && slot->at % granularity_ == 0 && Floor(end) > slot->at) {
    slot->step = Step::kZeroMiddle;
    slot->until = Floor(end);
    return file_->StartWriteZeroes(slot->at, slot->until - slot->at, io.may_unmap, slot);
  }
  uint64_t begin = Floor(slot->at);
  if (io.op == IoOp::kRead) {
    slot->step = Step::kRead;
    iovec iov = slot->bounce.iov(Ceil(slot->until) - begin);
    return file_->StartRead(begin, {&iov, 1}, slot);
  }
  std::byte* bounce = slot->bounce.data();
  if (begin != slot->at) return ReadBlock(slot, Step::kReadHead, begin, bounce);
  if (!PartialTail(*slot)) return WritePiece(slot);
  ReadBlock(slot, Step::kReadTail, Floor(slot->until), bounce + (Floor(slot->until) - begin));
}

void FileBackend::ReadBlock(Slot* slot, Step step, uint64_t offset, std::byte* to) {
  ++counters_.edge_reads;
  slot->step = step;
  iovec iov{to, granularity_};
  file_->StartRead(offset, {&iov, 1}, slot);
}

void FileBackend::WritePiece(Slot* slot) {
  uint64_t begin = Floor(slot->at);
  uint64_t length = slot->until - slot->at;
  std::byte* to = slot->bounce.data() + (slot->at - begin);
  if (slot->zeroing) {
    std::memset(to, 0, length);
  } else {
    slot->cursor.CopyTo(to, length);
    counters_.bytes_copied += length;
  }
  slot->step = Step::kWrite;
  iovec iov = slot->bounce.iov(Ceil(slot->until) - begin);
  file_->StartWrite(begin, {&iov, 1}, slot->io->fua, slot);
}

void FileBackend::OnStep(Slot* slot, int32_t result) noexcept {
  if (result < 0) return Finish(slot, DeviceError(result));
  uint64_t begin = Floor(slot->at);
  switch (slot->step) {
    case Step::kWhole:
      return Finish(slot, 0);
    case Step::kRead: {
      uint64_t length = slot->until - slot->at;
      slot->cursor.CopyFrom(slot->bounce.data() + (slot->at - begin), length);
      counters_.bytes_copied += length;
      return PieceDone(slot);
    }
    case Step::kReadHead:
      // A piece within one block has its tail now too.
      if (PartialTail(*slot) && Floor(slot->until) != begin) {
        return ReadBlock(slot, Step::kReadTail, Floor(slot->until),
                         slot->bounce.data() + (Floor(slot->until) - begin));
      }
      return WritePiece(slot);
    case Step::kReadTail:
      return WritePiece(slot);
    case Step::kWrite:
    case Step::kZeroMiddle:
      return PieceDone(slot);
  }
}

void FileBackend::PieceDone(Slot* slot) {
  slot->at = slot->until;
  if (slot->at == slot->io->offset + slot->io->length) return Finish(slot, 0);
  NextPiece(slot);
}

void FileBackend::Finish(Slot* slot, int error) {
  BlockIo* io = slot->io;
  slot->io = nullptr;
  if (error != 0) ++counters_.errors;
  if (slot->locked) range_lock_.Release(slot);
  if (slot->bounce) {
    slot->bounce.Release();
    ServeBouncing();
  }
  if (first_queued_ != nullptr) {
    BlockIo* next = first_queued_;
    first_queued_ = next->next;
    if (first_queued_ == nullptr) last_queued_ = nullptr;
    Begin(slot, next);
  } else {
    slot->next_slot = free_;
    free_ = slot;
  }
  --in_flight_;
  CheckIdle();
  io->done(io, error);
}

void FileBackend::ServeBouncing() {
  while (first_bouncing_ != nullptr) {
    Slot* slot = first_bouncing_;
    slot->bounce = bounce_.TryAllocate(BounceBytes(*slot));
    if (!slot->bounce) return;
    first_bouncing_ = slot->next_slot;
    if (first_bouncing_ == nullptr) last_bouncing_ = nullptr;
    NextPiece(slot);
  }
}

}  // namespace umblock
