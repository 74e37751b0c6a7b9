// A BlockDevice in memory for unit tests and fuzzers: counts what it is asked, can fail, can hold
// requests back, can change its access and size.
#pragma once

#include <cerrno>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "engine/block/device_base.h"

namespace umblock::scsi {

class MemoryDevice final : public DeviceBase {
 public:
  MemoryDevice(Reactor& reactor, uint64_t size, std::string name = "memory")
      : DeviceBase(reactor, std::move(name)), bytes_(size) {
    geometry_.size = size;
    geometry_.can_discard = true;
    geometry_.discard_reads_zeroes = true;
    geometry_.discard_granularity = 4096;
  }

  const BlockGeometry& geometry() const override { return geometry_; }
  Access access() const override { return access_; }
  std::string access_reason() const override {
    return access_ == Access::kReadWrite ? "" : "the test says so";
  }
  void Submit(BlockIo* io) noexcept override {
    ++submitted_;
    last_fua_ = io->fua;
    if (hold_) {
      held_.push_back(io);
      return;
    }
    Complete(io);
  }

  // ---- for the test
  void SetAccess(Access access) {
    access_ = access;
    NotifyObservers();
  }
  void Resize(uint64_t size) {
    geometry_.size = size;
    bytes_.resize(size);
    NotifyObservers();
  }
  void Hold() { hold_ = true; }
  // Completes what is held, oldest first, and stops holding.
  void ReleaseHeld() {
    hold_ = false;
    while (!held_.empty()) ReleaseOne();
  }
  void ReleaseOne() {
    BlockIo* io = held_.front();
    held_.pop_front();
    Complete(io);
  }
  size_t held() const { return held_.size(); }
  void FailNext(int error) { fail_next_ = error; }
  std::vector<std::byte>& bytes() { return bytes_; }
  BlockGeometry& mutable_geometry() { return geometry_; }
  uint64_t submitted() const { return submitted_; }
  bool last_fua() const { return last_fua_; }

 private:
  struct Later : Completion {
    explicit Later(BlockIo* block_io) : Completion(&Run), io(block_io) {}
    static void Run(Completion* self, int32_t result) noexcept {
      auto* later = static_cast<Later*>(self);
      BlockIo* io = later->io;
      delete later;
      io->done(io, result);
    }
    BlockIo* io;
  };

  void Complete(BlockIo* io) { reactor().Post(new Later(io), Perform(io)); }

  int Perform(BlockIo* io) {
    if (fail_next_ != 0) return std::exchange(fail_next_, 0);
    if (io->op == IoOp::kFlush) return 0;
    if (io->offset % 512 != 0 || io->length % 512 != 0) return EINVAL;
    if (io->offset > geometry_.size || io->length > geometry_.size - io->offset) return EINVAL;
    if (io->op == IoOp::kDiscard || io->op == IoOp::kWriteZeroes) {
      if (io->length > kMaxRangeBytes) return EINVAL;
      std::memset(bytes_.data() + io->offset, 0, io->length);
      return 0;
    }
    if (io->length > kMaxTransferBytes || IovLength(io->iov) != io->length) return EINVAL;
    std::byte* at = bytes_.data() + io->offset;
    for (const iovec& part : io->iov) {
      if (io->op == IoOp::kRead) {
        std::memcpy(part.iov_base, at, part.iov_len);
      } else {
        std::memcpy(at, part.iov_base, part.iov_len);
      }
      at += part.iov_len;
    }
    return 0;
  }

  BlockGeometry geometry_;
  std::vector<std::byte> bytes_;
  Access access_ = Access::kReadWrite;
  bool hold_ = false;
  bool last_fua_ = false;
  int fail_next_ = 0;
  uint64_t submitted_ = 0;
  std::deque<BlockIo*> held_;
};

}  // namespace umblock::scsi
