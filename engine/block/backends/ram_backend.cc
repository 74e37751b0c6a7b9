#include "engine/block/backends/ram_backend.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "engine/base/assert.h"
#include "engine/block/check_io.h"
#include "engine/block/iov_cursor.h"

namespace umblock {
namespace {

constexpr uint64_t kBytesAtATime = 1 << 20;  // some 100 us: then others on the reactor have a go

}  // namespace

RamBackend::Work::Work(RamBackend* b)
    : Completion(
          [](Completion* self, int32_t) noexcept { static_cast<Work*>(self)->backend->RunSome(); }),
      backend(b) {}

RamBackend::RamBackend(Reactor& reactor, std::string name, std::unique_ptr<MappedMemory> memory)
    : Backend(reactor, std::move(name)),
      memory_(std::move(memory)),
      refused_(reactor),
      idle_(reactor) {
  geometry_.size = memory_->bytes().size();
  geometry_.can_discard = false;
  geometry_.can_write_zeroes = true;
  geometry_.volatile_cache = false;
}

RamBackend::~RamBackend() {
  UMBLOCK_ASSERT(memory_ == nullptr, "a backend is stopped before it goes");
}

Task<Result<uint64_t>> RamBackend::GrowBelow(uint64_t bytes) {
  growing_ = true;
  Status grown = co_await memory_->Grow(bytes);
  growing_ = false;
  idle_.NotifyAll();
  if (!grown) co_return std::unexpected(grown.error());
  co_return memory_->bytes().size();
}

Task<void> RamBackend::Stop() {
  stopping_ = true;
  NotifyObservers();
  while (first_ != nullptr || posted_ || growing_) co_await idle_.Wait();
  co_await memory_->Close();
  memory_.reset();
}

void RamBackend::Submit(BlockIo* io) noexcept {
  int error = stopping_ ? ENODEV : CheckIo(*io, geometry_.size);
  if (error == 0 && io->op == IoOp::kDiscard) error = EOPNOTSUPP;
  if (error != 0) {
    ++counters_.errors;
    return refused_.Push(io, error);
  }
  CountStart(*io);
  io->next = nullptr;
  (last_ != nullptr ? last_->next : first_) = io;
  last_ = io;
  if (posted_) return;
  posted_ = true;
  reactor().Post(&work_);
}

void RamBackend::RunSome() {
  posted_ = false;
  uint64_t left = kBytesAtATime;
  while (first_ != nullptr && left > 0) {
    BlockIo* io = first_;
    left -= DoSome(io, left);
    if (progress_ < io->length) break;
    progress_ = 0;
    first_ = io->next;
    if (first_ == nullptr) last_ = nullptr;
    io->done(io, 0);
  }
  if (first_ != nullptr && !posted_) {
    posted_ = true;
    reactor().Post(&work_);
  }
  if (stopping_ && first_ == nullptr && !posted_) idle_.NotifyAll();
}

// Works on at most `limit` bytes, or a transfer as a whole. Returns what it cost, in bytes.
uint64_t RamBackend::DoSome(BlockIo* io, uint64_t limit) {
  if (io->op == IoOp::kFlush) {
    progress_ = io->length;
    return 0;
  }
  std::byte* at = memory_->bytes().data() + io->offset + progress_;
  if (io->op == IoOp::kWriteZeroes) {
    uint64_t length = std::min(limit, io->length - progress_);
    std::memset(at, 0, length);
    progress_ += length;
    return length;
  }
  IovCursor cursor(io->iov);
  if (io->op == IoOp::kRead) {
    cursor.CopyFrom(at, io->length);
  } else {
    cursor.CopyTo(at, io->length);
  }
  counters_.bytes_copied += io->length;
  progress_ = io->length;
  return std::min(limit, io->length);
}

}  // namespace umblock
