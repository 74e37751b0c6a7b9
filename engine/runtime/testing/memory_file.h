// MemoryFile: a File in memory for tests, strict about alignment, slow in an order of its own.
//
// Operations complete after a random time (of the reactor's clock) drawn from a seed, and take
// effect only then, so that anything which relies on an order that it did not wait for is seen.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "engine/runtime/file.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/sync.h"

namespace umblock {

class MemoryFile final : public File {
 public:
  MemoryFile(Reactor& reactor, FileInfo info, uint32_t seed)
      : reactor_(reactor), info_(info), bytes_(info.size), random_(seed), idle_(reactor) {}
  ~MemoryFile() override { UMBLOCK_ASSERT(in_flight_ == 0, "a file is closed before it goes"); }

  std::vector<std::byte>& bytes() { return bytes_; }
  int misaligned() const { return misaligned_; }
  int operations() const { return operations_; }
  int durable_writes() const { return durable_writes_; }
  // Of the operations started from now on, the one after `skip` others fails with this errno.
  void FailAfter(int skip, int error) {
    fail_after_ = skip;
    fail_error_ = error;
  }

  void StartRead(uint64_t offset, std::span<const iovec> buffers, Completion* done) override {
    Start(Kind::kRead, offset, buffers, done);
  }
  void StartWrite(uint64_t offset, std::span<const iovec> buffers, bool durable,
                  Completion* done) override {
    if (durable) ++durable_writes_;
    Start(Kind::kWrite, offset, buffers, done);
  }
  void StartSync(Completion* done) override { Start(Kind::kSync, 0, {}, done); }
  void StartDiscard(uint64_t offset, uint64_t length, Completion* done) override {
    iovec range{nullptr, length};
    Start(Kind::kZero, offset, {&range, 1}, done);
  }
  void StartWriteZeroes(uint64_t offset, uint64_t length, bool, Completion* done) override {
    iovec range{nullptr, length};
    Start(Kind::kZero, offset, {&range, 1}, done);
  }
  const FileInfo& info() const override { return info_; }
  Task<void> Close() override {
    while (in_flight_ != 0) co_await idle_.Wait();
  }

 private:
  enum class Kind { kRead, kWrite, kSync, kZero };

  struct Op : Timer {
    Op()
        : Timer([](Timer* self) noexcept {
            std::unique_ptr<Op> op(static_cast<Op*>(self));
            op->file->Complete(*op);
          }) {}
    MemoryFile* file = nullptr;
    Kind kind = Kind::kRead;
    uint64_t offset = 0;
    std::vector<iovec> iov;
    Completion* done = nullptr;
    int error = 0;
  };

  void Start(Kind kind, uint64_t offset, std::span<const iovec> buffers, Completion* done) {
    auto op = std::make_unique<Op>();
    op->file = this;
    op->kind = kind;
    op->offset = offset;
    op->iov.assign(buffers.begin(), buffers.end());
    op->done = done;
    op->error = fail_after_-- == 0 ? fail_error_ : Check(kind, offset, buffers);
    ++in_flight_;
    ++operations_;
    reactor_.ArmIn(op.release(), std::chrono::microseconds(random_() % 1000));
  }

  int Check(Kind kind, uint64_t offset, std::span<const iovec> buffers) {
    uint64_t length = 0;
    bool aligned = offset % info_.offset_alignment == 0;
    for (const iovec& part : buffers) {
      length += part.iov_len;
      aligned &= part.iov_len % info_.offset_alignment == 0;
      if (kind == Kind::kZero) continue;
      aligned &= reinterpret_cast<uintptr_t>(part.iov_base) % info_.memory_alignment == 0;
    }
    // Only a block device minds the alignment of ranges.
    if (kind == Kind::kZero && !info_.is_block_device) aligned = true;
    if (!aligned) ++misaligned_;
    if (!aligned) return EINVAL;
    return offset + length > bytes_.size() ? EIO : 0;
  }

  void Complete(Op& op) {
    uint64_t at = op.offset;
    for (const iovec& part : op.iov) {
      if (op.error != 0) break;
      if (op.kind == Kind::kRead) std::memcpy(part.iov_base, &bytes_[at], part.iov_len);
      if (op.kind == Kind::kWrite) std::memcpy(&bytes_[at], part.iov_base, part.iov_len);
      if (op.kind == Kind::kZero) std::memset(&bytes_[at], 0, part.iov_len);
      at += part.iov_len;
    }
    if (--in_flight_ == 0) idle_.NotifyAll();
    op.done->fn(op.done, -op.error);
  }

  Reactor& reactor_;
  FileInfo info_;
  std::vector<std::byte> bytes_;
  std::minstd_rand random_;
  int in_flight_ = 0;
  int misaligned_ = 0;
  int operations_ = 0;
  int durable_writes_ = 0;
  int fail_after_ = -1;
  int fail_error_ = 0;
  WaitQueue idle_;
};

}  // namespace umblock
