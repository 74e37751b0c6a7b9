// MemoryDevice: a BlockDevice in memory for the tests of the fronts above it. It completes requests
// in later turns, remembers what it was asked, and fails, holds back or refuses as it is told.
// Threading: the data path on its reactor; the switches and the record from any thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engine/block/device_base.h"

namespace umblock {

struct RecordedIo {
  IoOp op;
  uint64_t offset;
  uint64_t length;
  bool fua;
  bool may_unmap;
  bool page_aligned;  // every part of the iov begins on a page
};

class MemoryDevice final : public DeviceBase {
 public:
  MemoryDevice(Reactor& reactor, std::string name, uint64_t size)
      : DeviceBase(reactor, std::move(name)), data_(size) {
    geometry_.size = size;
  }

  void Submit(BlockIo* io) noexcept override {
    Record(*io);
    auto* pending = new Pending{this, io};  // NOLINT: no memory ends the test
    if (hold_.load() && (hold_reads_.load() || io->op != IoOp::kRead)) {
      std::lock_guard lock(mutex_);
      held_.push_back(pending);
      return;
    }
    reactor().Post(pending);
  }
  const BlockGeometry& geometry() const override { return geometry_; }
  Access access() const override { return access_.load(); }
  std::string access_reason() const override {
    return access() == Access::kStandby ? "the resource is Secondary here" : "no disk";
  }

  // On the reactor, before anything is submitted or with an observer told afterwards.
  BlockGeometry& mutable_geometry() { return geometry_; }
  void Resize(uint64_t size) {
    data_.resize(size);
    geometry_.size = size;
    NotifyObservers();
  }

  void set_access(Access access) { access_ = access; }
  void set_error(int error) { error_ = error; }
  // While held, everything but reads waits inside the device.
  void Hold() { hold_ = true; }
  void HoldReadsToo() { hold_ = hold_reads_ = true; }
  void ReleaseHeld() {
    hold_ = hold_reads_ = false;
    std::lock_guard lock(mutex_);
    for (Pending* pending : held_) reactor().PostFromAnyThread(pending);
    held_.clear();
  }
  size_t held() const {
    std::lock_guard lock(mutex_);
    return held_.size();
  }
  std::vector<RecordedIo> TakeRecord() {
    std::lock_guard lock(mutex_);
    return std::exchange(record_, {});
  }
  std::vector<std::byte> Contents(uint64_t offset, size_t n) const {
    std::lock_guard lock(mutex_);
    auto at = data_.begin() + static_cast<ptrdiff_t>(offset);
    return {at, at + static_cast<ptrdiff_t>(n)};
  }
  void Fill(uint64_t offset, size_t n, std::byte value) {
    std::lock_guard lock(mutex_);
    std::fill_n(data_.begin() + static_cast<ptrdiff_t>(offset), n, value);
  }

 private:
  struct Pending : Completion {
    Pending(MemoryDevice* d, BlockIo* i) : Completion(&Run), device(d), io(i) {}
    static void Run(Completion* self, int32_t) noexcept {
      std::unique_ptr<Pending> pending(static_cast<Pending*>(self));
      BlockIo* io = pending->io;
      io->done(io, pending->device->Perform(io));
    }
    MemoryDevice* device;
    BlockIo* io;
  };

  int Perform(BlockIo* io) {
    if (int error = error_.load(); error != 0) return error;
    if (io->offset % 512 != 0 || io->length % 512 != 0) return EINVAL;
    if (io->offset + io->length > geometry_.size) return EINVAL;
    std::lock_guard lock(mutex_);
    std::byte* at = data_.data() + io->offset;
    switch (io->op) {
      case IoOp::kRead:
      case IoOp::kWrite:
        if (io->length > kMaxTransferBytes || IovLength(io->iov) != io->length) return EINVAL;
        for (const iovec& part : io->iov) {
          if (io->op == IoOp::kRead) {
            std::memcpy(part.iov_base, at, part.iov_len);
          } else {
            std::memcpy(at, part.iov_base, part.iov_len);
          }
          at += part.iov_len;
        }
        return 0;
      case IoOp::kFlush:
        return 0;
      case IoOp::kDiscard:
      case IoOp::kWriteZeroes:
        if (io->length > kMaxRangeBytes) return EINVAL;
        std::memset(at, 0, io->length);
        return 0;
    }
    return EINVAL;
  }

  void Record(const BlockIo& io) {
    bool aligned = std::all_of(io.iov.begin(), io.iov.end(), [](const iovec& part) {
      return reinterpret_cast<uintptr_t>(part.iov_base) % 4096 == 0;
    });
    std::lock_guard lock(mutex_);
    record_.push_back({io.op, io.offset, io.length, io.fua, io.may_unmap, aligned});
  }

  std::vector<std::byte> data_;
  BlockGeometry geometry_;
  std::atomic<Access> access_{Access::kReadWrite};
  std::atomic<int> error_{0};
  std::atomic<bool> hold_{false};
  std::atomic<bool> hold_reads_{false};
  mutable std::mutex mutex_;
  std::vector<Pending*> held_;
  std::vector<RecordedIo> record_;
};

}  // namespace umblock
