#include "engine/runtime/uring/uring_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "engine/base/assert.h"
#include "engine/runtime/blocking.h"
#include "engine/runtime/uring/iov_cursor.h"
#include "engine/runtime/uring/uring_reactor.h"

namespace umblock {
namespace {

constexpr size_t kZeroBytes = 256 << 10;
alignas(4096) const std::byte kZeroes[kZeroBytes] = {};

// A device that is short of requests or memory may answer EAGAIN for a moment. It is asked again
// after 1, 2, 4 … 512 ms, about a second in all; one that still has no room has failed.
constexpr uint8_t kMostTries = 10;

}  // namespace

FileOp::Again::Again(FileOp* o)
    : Timer([](Timer* self) noexcept {
        FileOp* waiting = static_cast<Again*>(self)->op;
        waiting->file->Submit(waiting);
      }),
      op(o) {}

FileOp::Ioctl::Ioctl(FileOp* o)
    : BlockingWork(this),
      Completion([](Completion* self, int32_t result) noexcept {
        FileOp* ended = static_cast<Ioctl*>(self)->op;
        ended->fn(ended, result, 0);
      }),
      op(o) {}

int32_t FileOp::Ioctl::Run() noexcept {
  uint64_t range[2] = {op->offset, op->remaining};
  return ::ioctl(op->file->fd_.get(), BLKDISCARD, range) == 0 ? 0 : -errno;
}

FileOp* FileOpPool::Take() {
  if (free_ == nullptr) {
    all_.push_back(std::make_unique<FileOp>(&UringFile::OnDone));
    return all_.back().get();
  }
  FileOp* op = free_;
  free_ = op->next;
  return op;
}

void FileOpPool::Give(FileOp* op) {
  op->next = free_;
  free_ = op;
}

UringFile::UringFile(UringReactor& reactor, OwnedFd fd, const FileInfo& info)
    : reactor_(reactor), fd_(std::move(fd)), info_(info), idle_(reactor) {}

UringFile::~UringFile() { UMBLOCK_ASSERT(in_flight_ == 0, "a file is closed before it goes"); }

FileOp* UringFile::NewOp(FileOp::Kind kind, uint64_t offset, uint64_t length, Completion* done) {
  FileOp* op = reactor_.file_ops().Take();
  op->file = this;
  op->done = done;
  op->kind = kind;
  op->durable = false;
  op->may_unmap = false;
  op->tries = 0;
  op->offset = offset;
  op->remaining = length;
  op->first = 0;
  ++in_flight_;
  return op;
}

void UringFile::StartRead(uint64_t offset, std::span<const iovec> buffers, Completion* done) {
  StartTransfer(FileOp::Kind::kRead, offset, buffers, false, done);
}

void UringFile::StartWrite(uint64_t offset, std::span<const iovec> buffers, bool durable,
                           Completion* done) {
  StartTransfer(FileOp::Kind::kWrite, offset, buffers, durable, done);
}

void UringFile::StartTransfer(FileOp::Kind kind, uint64_t offset, std::span<const iovec> buffers,
                              bool durable, Completion* done) {
  uint64_t length = 0;
  for (const iovec& part : buffers) length += part.iov_len;
  if (length == 0) return reactor_.Post(done, 0);
  FileOp* op = NewOp(kind, offset, length, done);
  op->durable = durable;
  op->iov.assign(buffers.begin(), buffers.end());
  Submit(op);
}

void UringFile::StartSync(Completion* done) { Submit(NewOp(FileOp::Kind::kSync, 0, 0, done)); }

void UringFile::StartDiscard(uint64_t offset, uint64_t length, Completion* done) {
  if (!info_.can_discard) return reactor_.Post(done, -EOPNOTSUPP);
  if (length == 0) return reactor_.Post(done, 0);
  auto kind = info_.is_block_device ? FileOp::Kind::kIoctl : FileOp::Kind::kPunch;
  Submit(NewOp(kind, offset, length, done));
}

void UringFile::StartWriteZeroes(uint64_t offset, uint64_t length, bool may_unmap,
                                 Completion* done) {
  if (length == 0) return reactor_.Post(done, 0);
  auto kind = may_unmap ? FileOp::Kind::kPunch : FileOp::Kind::kZeroRange;
  FileOp* op = NewOp(kind, offset, length, done);
  op->may_unmap = may_unmap;
  Submit(op);
}

void UringFile::Submit(FileOp* op) {
  switch (op->kind) {
    case FileOp::Kind::kRead:
      return SubmitTransfer(op, false);
    case FileOp::Kind::kWrite:
      return SubmitTransfer(op, true);
    case FileOp::Kind::kZeroByWriting:
      op->iov.assign(1, {const_cast<std::byte*>(kZeroes),
                         static_cast<size_t>(std::min<uint64_t>(op->remaining, kZeroBytes))});
      op->first = 0;
      return SubmitTransfer(op, true);
    case FileOp::Kind::kIoctl:
      return reactor_.StartBlocking(&op->ioctl);
    default:
      break;
  }
  io_uring_sqe* entry = reactor_.ring().Entry();
  if (op->kind == FileOp::Kind::kSync) {
    io_uring_prep_fsync(entry, fd_.get(), IORING_FSYNC_DATASYNC);
  } else {
    int mode = FALLOC_FL_KEEP_SIZE |
               (op->kind == FileOp::Kind::kPunch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
    io_uring_prep_fallocate(entry, fd_.get(), mode, static_cast<off_t>(op->offset),
                            static_cast<off_t>(op->remaining));
  }
  Ring::Attach(entry, op);
}

void UringFile::SubmitTransfer(FileOp* op, bool write) {
  io_uring_sqe* entry = reactor_.ring().Entry();
  iovec* iov = op->iov.data() + op->first;
  auto parts = static_cast<unsigned>(std::min(op->iov.size() - op->first, kMaxIovecs));
  if (parts == 1) {
    auto length = static_cast<unsigned>(std::min<size_t>(iov->iov_len, 1u << 30));
    auto index = reactor_.arenas().IndexOf(iov->iov_base, length);
    if (index) ++reactor_.ring().counters.fixed_buffer_ops;
    if (write && index) {
      io_uring_prep_write_fixed(entry, fd_.get(), iov->iov_base, length, op->offset, *index);
    } else if (write) {
      io_uring_prep_write(entry, fd_.get(), iov->iov_base, length, op->offset);
    } else if (index) {
      io_uring_prep_read_fixed(entry, fd_.get(), iov->iov_base, length, op->offset, *index);
    } else {
      io_uring_prep_read(entry, fd_.get(), iov->iov_base, length, op->offset);
    }
  } else if (write) {
    io_uring_prep_writev(entry, fd_.get(), iov, parts, op->offset);
  } else {
    io_uring_prep_readv(entry, fd_.get(), iov, parts, op->offset);
  }
  if (op->durable) entry->rw_flags |= RWF_DSYNC;
  Ring::Attach(entry, op);
}

void UringFile::OnDone(UringOp* base, int32_t result, uint32_t) noexcept {
  auto* op = static_cast<FileOp*>(base);
  UringFile* file = op->file;
  if (result == -EINTR) return file->Submit(op);
  if (result == -EAGAIN && op->tries < kMostTries) {
    return file->reactor_.ArmIn(&op->again, std::chrono::milliseconds(1 << op->tries++));
  }
  switch (op->kind) {
    case FileOp::Kind::kRead:
    case FileOp::Kind::kWrite:
    case FileOp::Kind::kZeroByWriting:
      return file->OnTransferred(op, result);
    case FileOp::Kind::kPunch:
    case FileOp::Kind::kZeroRange:
      return file->OnRangeDone(op, result);
    default:
      return file->Finish(op, std::min(result, 0));
  }
}

void UringFile::OnTransferred(FileOp* op, int32_t result) noexcept {
  if (result < 0) return Finish(op, result);
  auto moved = static_cast<uint64_t>(result);
  op->tries = 0;
  op->offset += moved;
  op->remaining -= moved;
  if (op->remaining == 0) return Finish(op, 0);
  // Nothing moved, or a direct transfer ended off the blocks: the end of the file.
  if (moved == 0 || op->offset % info_.offset_alignment != 0) return Finish(op, -EIO);
  if (op->kind != FileOp::Kind::kZeroByWriting) AdvanceIovecs(&op->iov, &op->first, moved);
  Submit(op);
}

// A file system without the better way gets the plainer one: punch, zero range, write.
void UringFile::OnRangeDone(FileOp* op, int32_t result) noexcept {
  bool zeroing = op->kind == FileOp::Kind::kZeroRange || op->may_unmap;
  if (result != -EOPNOTSUPP || !zeroing) return Finish(op, std::min(result, 0));
  op->kind =
      op->kind == FileOp::Kind::kPunch ? FileOp::Kind::kZeroRange : FileOp::Kind::kZeroByWriting;
  Submit(op);
}

void UringFile::Finish(FileOp* op, int32_t result) noexcept {
  Completion* done = op->done;
  reactor_.file_ops().Give(op);
  if (--in_flight_ == 0) idle_.NotifyAll();
  done->fn(done, result);  // may destroy this
}

namespace {

// The size afterwards.
Result<uint64_t> GrowTo(int fd, bool is_block_device, uint64_t bytes) {
  uint64_t size = 0;
  if (is_block_device) {
    if (ioctl(fd, BLKGETSIZE64, &size) != 0) {
      return std::unexpected(Error::FromErrno(errno, "look at its size"));
    }
    if (bytes > size) {
      return MakeError(ErrorCode::kFailedPrecondition,
                       "the block device has {} bytes, not {}; make it larger first", size, bytes);
    }
    return size;
  }
  struct stat now;
  if (fstat(fd, &now) != 0) return std::unexpected(Error::FromErrno(errno, "look at its size"));
  size = static_cast<uint64_t>(now.st_size);
  if (bytes <= size) return size;
  // The size is stable before anybody relies on it: metadata moves to the new end.
  if (ftruncate(fd, static_cast<off_t>(bytes)) != 0 || fsync(fd) != 0) {
    return std::unexpected(Error::FromErrno(errno, fmt::format("make it {} bytes", bytes)));
  }
  return bytes;
}

}  // namespace

Task<Status> UringFile::Grow(uint64_t bytes) {
  Result<uint64_t> size = uint64_t{0};
  ++in_flight_;
  co_await RunBlocking(reactor_, [&] {
    size = GrowTo(fd_.get(), info_.is_block_device, bytes);
    return 0;
  });
  if (--in_flight_ == 0) idle_.NotifyAll();
  if (!size) co_return std::unexpected(size.error());
  info_.size = std::max(info_.size, *size);
  co_return Ok();
}

Task<void> UringFile::Close() {
  while (in_flight_ != 0) co_await idle_.Wait();
  if (!fd_.valid()) co_return;
  co_await RunBlocking(reactor_, [this] {
    fd_.Reset();  // the last close of a block device writes its cache back
    return 0;
  });
}

}  // namespace umblock
