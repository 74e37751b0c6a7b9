#include "engine/runtime/sim/file.h"

#include <cerrno>

#include "engine/base/assert.h"
#include "engine/runtime/sim/node.h"
#include "engine/runtime/sim/reactor.h"

namespace umblock {

// One operation on its way: turns the disk's end of it into the caller's completion.
struct SimFile::Pending : Completion {
  Pending(SimFile* of, Completion* completion)
      : Completion([](Completion* self, int32_t value) noexcept {
          auto* pending = static_cast<Pending*>(self);
          Completion* user = pending->done;
          if (--pending->file->in_flight_ == 0) pending->file->idle_.NotifyAll();
          delete pending;
          user->fn(user, value);
        }),
        file(of),
        done(completion) {}

  SimFile* file;
  Completion* done;
};

Result<std::unique_ptr<File>> SimFile::Open(SimReactor& reactor, const OpenFileRequest& request) {
  SimFileSystem& files = reactor.node().files();
  SimDisk* disk = files.Find(request.path);
  if (disk == nullptr) {
    if (!request.create) {
      return MakeError(ErrorCode::kNotFound, "{}: no such file", request.path);
    }
    SimDiskOptions options = files.defaults;
    options.size = AlignUp<uint64_t>(request.create_size, SimDisk::kPage);
    disk = files.Create(request.path, options);
  } else if (request.create && request.exclusive_create) {
    return MakeError(ErrorCode::kAlreadyExists, "{}: the file exists", request.path);
  }
  if (request.exclusive_use && disk->locked()) {
    return MakeError(ErrorCode::kFailedPrecondition, "{}: in use by another opener", request.path);
  }
  return std::make_unique<SimFile>(reactor, *disk, request);
}

SimFile::SimFile(SimReactor& reactor, SimDisk& disk, const OpenFileRequest& request)
    : reactor_(reactor),
      disk_(disk),
      writable_(request.writable),
      exclusive_(request.exclusive_use),
      idle_(reactor) {
  const SimDiskOptions& options = disk.options();
  info_.size = options.size;
  info_.is_block_device = options.is_block_device;
  info_.direct = request.direct;
  info_.offset_alignment = request.direct ? options.alignment : 1;
  info_.memory_alignment = request.direct ? 4 : 1;
  info_.logical_block_size = options.alignment;
  info_.physical_block_size = SimDisk::kPage;
  info_.can_discard = options.can_discard;
  info_.discard_reads_zeroes = options.can_discard;
  info_.discard_granularity = options.can_discard ? SimDisk::kPage : 0;
  info_.volatile_cache = options.volatile_cache;
  if (exclusive_) disk_.set_locked(true);
}

Task<Status> SimFile::Grow(uint64_t bytes) {
  const uint64_t pages = (bytes + SimDisk::kPage - 1) / SimDisk::kPage;
  if (pages * SimDisk::kPage > disk_.options().size) disk_.Grow(pages * SimDisk::kPage);
  info_.size = disk_.options().size;
  co_return Ok();
}

SimFile::~SimFile() {
  UMBLOCK_ASSERT(in_flight_ == 0, "a file is closed before it goes");
  if (!closed_ && exclusive_) disk_.set_locked(false);
}

int SimFile::Check(SimDiskOp op, uint64_t offset, uint64_t length,
                   std::span<const iovec> buffers) const {
  if (closed_) return EBADF;
  if (op != SimDiskOp::kRead && op != SimDiskOp::kSync && !writable_) return EBADF;
  if (offset % info_.offset_alignment != 0 || length % info_.offset_alignment != 0) return EINVAL;
  for (const iovec& part : buffers) {
    if (reinterpret_cast<uintptr_t>(part.iov_base) % info_.memory_alignment != 0) return EINVAL;
  }
  if (offset > info_.size || length > info_.size - offset) {
    return op == SimDiskOp::kRead ? EIO : ENOSPC;
  }
  if (op == SimDiskOp::kDiscard && !info_.can_discard) return EOPNOTSUPP;
  return 0;
}

void SimFile::Start(SimDiskOp op, uint64_t offset, uint64_t length, std::span<const iovec> buffers,
                    bool durable, Completion* done) {
  ++in_flight_;
  auto* pending = new Pending(this, done);
  if (int error = Check(op, offset, length, buffers); error != 0) {
    reactor_.Deliver(pending, -error);
    return;
  }
  UMBLOCK_ASSERT(offset % SimDisk::kSector == 0 && length % SimDisk::kSector == 0,
                 "the simulated disk knows whole sectors only");
  disk_.Start(this, pending, op, offset, length, {buffers.begin(), buffers.end()}, durable);
}

namespace {
uint64_t LengthOf(std::span<const iovec> buffers) {
  uint64_t total = 0;
  for (const iovec& part : buffers) total += part.iov_len;
  return total;
}
}  // namespace

void SimFile::StartRead(uint64_t offset, std::span<const iovec> buffers, Completion* done) {
  Start(SimDiskOp::kRead, offset, LengthOf(buffers), buffers, false, done);
}

void SimFile::StartWrite(uint64_t offset, std::span<const iovec> buffers, bool durable,
                         Completion* done) {
  Start(SimDiskOp::kWrite, offset, LengthOf(buffers), buffers, durable, done);
}

void SimFile::StartSync(Completion* done) { Start(SimDiskOp::kSync, 0, 0, {}, false, done); }

void SimFile::StartDiscard(uint64_t offset, uint64_t length, Completion* done) {
  Start(SimDiskOp::kDiscard, offset, length, {}, false, done);
}

void SimFile::StartWriteZeroes(uint64_t offset, uint64_t length, bool, Completion* done) {
  Start(SimDiskOp::kWriteZeroes, offset, length, {}, false, done);
}

Task<void> SimFile::Close() {
  while (in_flight_ != 0) co_await idle_.Wait();
  if (!closed_ && exclusive_) disk_.set_locked(false);
  closed_ = true;
}

void SimFile::OnDone(void* cookie, int32_t result) {
  reactor_.Deliver(static_cast<Pending*>(cookie), result);
}

void SimFile::OnLost(void* cookie) {
  reactor_.incarnation().lost.push_back(static_cast<Pending*>(cookie));
}

}  // namespace umblock
