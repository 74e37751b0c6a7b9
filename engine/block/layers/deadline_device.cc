#include "engine/block/layers/deadline_device.h"

#include <algorithm>
#include <bit>
#include <cerrno>

#include "engine/base/assert.h"
#include "engine/block/iov_cursor.h"

namespace umblock {

DeadlineDevice::Watch::Watch(DeadlineDevice* d)
    : Timer([](Timer* self) noexcept { static_cast<Watch*>(self)->device->OnTimer(); }),
      device(d) {}

DeadlineDevice* DeadlineDevice::Make(BlockDevice& below, Duration limit, Owner* owner) {
  return new DeadlineDevice(below, limit, owner);
}

DeadlineDevice::DeadlineDevice(BlockDevice& below, Duration limit, Owner* owner)
    : DeviceBase(below.reactor(), below.name()),
      below_(below),
      limit_(limit),
      owner_(owner),
      refused_(below.reactor()),
      watch_(this) {
  below_.AddObserver(this);
}

DeadlineDevice::~DeadlineDevice() { below_.RemoveObserver(this); }

void DeadlineDevice::Release() {
  owner_ = nullptr;
  Abort();
  released_ = true;
  DeleteIfOver();
}

void DeadlineDevice::DeleteIfOver() {
  if (released_ && free_.size() == all_.size()) delete this;
}

// --- requests
// --------------------------------------------------------------------------------------

DeadlineDevice::Passage* DeadlineDevice::Take(BlockIo* io) {
  if (free_.empty()) {
    all_.push_back(std::make_unique<Passage>(this));
    free_.push_back(all_.back().get());
  }
  Passage* passage = free_.back();
  free_.pop_back();
  passage->original = io;
  passage->below_has_it = false;
  passage->op = io->op;
  passage->fua = io->fua;
  passage->may_unmap = io->may_unmap;
  passage->offset = io->offset;
  passage->length = io->length;
  passage->iov = {};
  passage->since = reactor().Now();
  return passage;
}

void DeadlineDevice::Give(Passage* passage) {
  passage->original = nullptr;
  free_.push_back(passage);
}

void DeadlineDevice::Link(Passage* passage) {
  passage->older = newest_;
  passage->newer = nullptr;
  (newest_ != nullptr ? newest_->newer : oldest_) = passage;
  newest_ = passage;
}

void DeadlineDevice::Unlink(Passage* passage) {
  (passage->older != nullptr ? passage->older->newer : oldest_) = passage->newer;
  (passage->newer != nullptr ? passage->newer->older : newest_) = passage->older;
}

void DeadlineDevice::Submit(BlockIo* io) noexcept {
  Passage* passage = Take(io);
  if (aborted_) return refused_.Push(passage, ETIMEDOUT);
  const bool payload = io->op == IoOp::kRead || io->op == IoOp::kWrite;
  if (payload) {
    if (passage->capacity < io->length) {
      passage->capacity = std::bit_ceil(std::max<size_t>(io->length, 4096));
      passage->memory.reset(static_cast<std::byte*>(std::aligned_alloc(4096, passage->capacity)));
      UMBLOCK_ASSERT(passage->memory != nullptr, "there is memory for a request");
    }
    passage->part = {passage->memory.get(), io->length};
    passage->iov = {&passage->part, 1};
    if (io->op == IoOp::kWrite) IovCursor(io->iov).CopyTo(passage->memory.get(), io->length);
  }
  passage->below_has_it = true;
  Link(passage);
  if (!watch_.armed()) ArmWatch();
  below_.Submit(passage);
}

void DeadlineDevice::Passage::Done(BlockIo* self, int error) noexcept {
  auto* passage = static_cast<Passage*>(self);
  DeadlineDevice* of = passage->device;
  BlockIo* io = passage->original;
  if (io == nullptr) {
    --of->below_.adrift;
  } else {
    if (passage->below_has_it) of->Unlink(passage);
    if (io->op == IoOp::kRead && error == 0) {
      IovCursor(io->iov).CopyFrom(passage->memory.get(), io->length);
    }
  }
  of->Give(passage);
  of->DeleteIfOver();
  // Which may release the device: it is not looked at any more.
  if (io != nullptr) io->done(io, error);
}

// --- the limit
// -------------------------------------------------------------------------------------

void DeadlineDevice::ArmWatch() {
  if (oldest_ != nullptr && !told_) reactor().Arm(&watch_, oldest_->since + limit_);
}

void DeadlineDevice::OnTimer() {
  if (oldest_ == nullptr) return;
  const Duration age = reactor().Now() - oldest_->since;
  if (age < limit_) return ArmWatch();
  told_ = true;
  if (owner_ != nullptr) owner_->OnDeadline(oldest_->op, age);
}

void DeadlineDevice::Abort() {
  aborted_ = true;
  watch_.Disarm();
  while (oldest_ != nullptr) {
    Passage* passage = oldest_;
    Unlink(passage);
    BlockIo* io = passage->original;
    passage->original = nullptr;
    ++below_.adrift;
    io->done(io, ETIMEDOUT);
  }
}

}  // namespace umblock
