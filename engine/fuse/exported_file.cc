#include "engine/fuse/exported_file.h"

#include <linux/fuse.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "engine/base/assert.h"

namespace umblock {
namespace {

constexpr uint64_t kBounceBytes = RequestSlot::kBounceBytes;

// Kernel flag since Linux 6.2: writes of one file may run at the same time. Older kernels ignore
// it. The files never grow by a write, which is the condition for it.
constexpr uint32_t kParallelDirectWrites = 1u << 6;

bool WantsWrite(int open_flags) { return (open_flags & O_ACCMODE) != O_RDONLY; }

bool Aligned(uint64_t offset, uint64_t length) {
  return offset % ExportedFile::kSector == 0 && length % ExportedFile::kSector == 0;
}

// Error texts do not fit through open(2): the errno that comes nearest; the log has the sentence.
int OpenErrno(const BlockDevice& device, const Error& error, bool write) {
  switch (device.access()) {
    case Access::kStandby:
      return write ? EROFS : EAGAIN;
    case Access::kUnavailable:
      return ENODEV;
    case Access::kReadWrite:
      break;
  }
  switch (error.code()) {
    case ErrorCode::kPermissionDenied:
      return EACCES;
    case ErrorCode::kAborted:
    case ErrorCode::kUnavailable:
      return EAGAIN;
    default:
      return EBUSY;
  }
}

}  // namespace

ExportedFile::ExportedFile(std::string name, uint64_t inode, BlockDevice* device,
                           FuseFileOptions options, const FuseOptions& limits, SlotPool* slots)
    : name_(std::move(name)),
      device_name_(device->name()),
      inode_(inode),
      options_(options),
      device_(device),
      reactor_(&device->reactor()),
      slots_(slots),
      max_on_device_(limits.max_requests),
      pool_share_(std::max<uint64_t>(reactor_->buffers().limit() / 8, BufferPool::kLargest)),
      size_(device->geometry().size),
      memory_(limits.waiting_bytes),
      changed_(*reactor_),
      tasks_(*reactor_) {}

ExportedFile::~ExportedFile() {
  UMBLOCK_ASSERT(device_ == nullptr, "an exported file is removed before it goes");
  UMBLOCK_ASSERT(in_flight_ == 0, "an exported file is idle before it goes");
}

void ExportedFile::Attach() { device_->AddObserver(this); }

void ExportedFile::OnDeviceChanged() {
  size_.store(device_->geometry().size, std::memory_order_relaxed);
}

std::vector<std::string> ExportedFile::Openers() const {
  std::vector<std::string> result;
  result.reserve(handles_.size());
  for (const auto& [key, handle] : handles_) result.push_back(handle->description);
  std::sort(result.begin(), result.end());
  return result;
}

Task<Status> ExportedFile::Remove(bool force) {
  if (!force && !handles_.empty()) {
    std::string who;
    for (const std::string& opener : Openers()) who += (who.empty() ? "" : ", ") + opener;
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "export '{}' is open by {}; unmount and detach what uses it, or remove it "
                        "by force",
                        name_, who);
  }
  removed_ = true;
  // What the device has not been given ends now.
  Admit();
  while (!gate_.empty()) Finish(gate_.Pop(), ENODEV);
  while (in_flight_ != 0) co_await changed_.Wait();
  co_await tasks_.Join();
  for (auto& [key, handle] : handles_) {
    if (handle->closed) continue;
    handle->closed = true;
    device_->Close(handle->opener);
  }
  if (device_ != nullptr) device_->RemoveObserver(this);
  device_ = nullptr;
  co_return Ok();
}

void ExportedFile::OnPosted(Completion* posted, int32_t) noexcept {
  RequestSlot* slot = static_cast<RequestSlot::Posted*>(posted)->slot;
  slot->handle->file->Start(slot);
}

void ExportedFile::Start(RequestSlot* slot) noexcept {
  ++in_flight_;
  if (slot->kind == RequestKind::kOpen) return StartOpen(slot);
  if (slot->kind == RequestKind::kRelease) return StartRelease(slot);
  waiting_.Push(slot);
  Admit();
}

// A request that ends at once comes back here from below: the loop goes on, not deeper.
void ExportedFile::Admit() {
  if (std::exchange(admitting_, true)) return;
  while (!waiting_.empty() && (removed_ || on_device_ < max_on_device_)) {
    ++on_device_;
    StartOnDevice(waiting_.Pop());
  }
  admitting_ = false;
}

void ExportedFile::StartOnDevice(RequestSlot* slot) {
  if (removed_) return Finish(slot, ENODEV);
  switch (slot->kind) {
    case RequestKind::kRead:
      return StartRead(slot);
    case RequestKind::kWrite:
    case RequestKind::kRange:
      return Enqueue(slot);
    case RequestKind::kFlush:
      counters_.flushes.fetch_add(1, std::memory_order_relaxed);
      slot->io.op = IoOp::kFlush;
      slot->io.offset = 0;
      slot->io.length = 0;
      slot->io.iov = {};
      return device_->Submit(&slot->io);
    case RequestKind::kOpen:
    case RequestKind::kRelease:
      break;
  }
}

void ExportedFile::StartOpen(RequestSlot* slot) {
  std::unique_ptr<FileHandle> handle(slot->handle);
  if (removed_) return Finish(slot, ENODEV);
  bool write = WantsWrite(slot->open_flags);
  if (write && options_.read_only) return Finish(slot, EROFS);
  Result<OpenerId> opener = device_->Open({.description = handle->description, .write = write});
  if (!opener) {
    reactor_->logger().Info("{}: open refused reason=\"{}\"", handle->description,
                            opener.error().message());
    return Finish(slot, OpenErrno(*device_, opener.error(), write));
  }
  FileHandle* key = handle.get();
  key->opener = *opener;
  handles_.emplace(key, std::move(handle));
  fuse_open_out out{};
  out.fh = reinterpret_cast<uint64_t>(key);
  out.open_flags = FOPEN_DIRECT_IO | kParallelDirectWrites;
  // libfuse 3.14 has no field for parallel writes, so the reply is put together here. It fails if
  // whoever opened was interrupted meanwhile: then no release follows.
  if (fuse_reply_buf(slot->request, reinterpret_cast<const char*>(&out), sizeof out) != 0) {
    device_->Close(key->opener);
    handles_.erase(key);
  }
  slot->request = nullptr;
  Finish(slot, 0);
}

void ExportedFile::StartRelease(RequestSlot* slot) {
  auto found = handles_.find(slot->handle);
  UMBLOCK_ASSERT(found != handles_.end(), "the kernel releases a handle once");
  if (!found->second->closed) device_->Close(found->second->opener);
  handles_.erase(found);
  slot->handle = nullptr;
  Finish(slot, 0);
}

void ExportedFile::StartRead(RequestSlot* slot) {
  uint64_t size = device_->geometry().size;
  if (slot->offset >= size) slot->length = 0;
  slot->length = std::min(slot->length, size - std::min(size, slot->offset));
  if (slot->length == 0) return Finish(slot, 0);
  if (slot->offset % kSector != 0) return tasks_.Spawn(ReadUnaligned(slot));
  slot->payload = slot->bounce;
  if (slot->length <= kBounceBytes) return SubmitRead(slot);
  if (!TakeReadBuffer(slot)) return Finish(slot, ENOMEM);
  SubmitRead(slot);
}

// The reactor's buffers serve all its volumes and connections: a file whose reads do not come back
// must not have them all, and does not wait for those of others.
bool ExportedFile::TakeReadBuffer(RequestSlot* slot) {
  if (pool_bytes_ + slot->length <= pool_share_) {
    slot->read_buffer = reactor_->buffers().TryAllocate(slot->length);
  }
  if (slot->read_buffer) {
    pool_bytes_ += slot->read_buffer.capacity();
    slot->payload = slot->read_buffer.data();
    return true;
  }
  slot->large = SlotPool::MapSpare();
  if (slot->large == nullptr) return false;
  slot->payload = slot->large->base;
  return true;
}

// Whole sectors, of which the reply may leave out the end of the last (buffers are such multiples).
void ExportedFile::SubmitRead(RequestSlot* slot) {
  slot->iov = {slot->payload, AlignUp(slot->length, kSector)};
  slot->io.op = IoOp::kRead;
  slot->io.offset = slot->offset;
  slot->io.length = slot->iov.iov_len;
  slot->io.iov = {&slot->iov, 1};
  device_->Submit(&slot->io);
}

// Into the reply's buffer piece by piece, shifted to where the caller wants the bytes.
Task<void> ExportedFile::ReadUnaligned(RequestSlot* slot) {
  counters_.unaligned.fetch_add(1, std::memory_order_relaxed);
  if (!TakeReadBuffer(slot)) {
    Finish(slot, ENOMEM);
    co_return;
  }
  uint64_t at = slot->offset;
  const uint64_t end = slot->offset + slot->length;
  int error = 0;
  while (at < end && error == 0) {
    uint64_t start = AlignDown(at, kSector);
    uint64_t stop = std::min(AlignUp(end, kSector), start + kBounceBytes);
    iovec iov{slot->bounce, stop - start};
    error = co_await device_->Read(start, {&iov, 1});
    uint64_t n = std::min(stop, end) - at;
    if (error == 0)
      std::memcpy(slot->payload + (at - slot->offset), slot->bounce + (at - start), n);
    counters_.copied_bytes.fetch_add(n, std::memory_order_relaxed);
    at += n;
  }
  Finish(slot, error);
}

void ExportedFile::Enqueue(RequestSlot* slot) {
  uint64_t size = device_->geometry().size;
  if (slot->offset >= size) {  // a hole beyond the end is there already
    return Finish(slot, slot->kind == RequestKind::kWrite && slot->length != 0 ? ENOSPC : 0);
  }
  slot->length = std::min(slot->length, size - slot->offset);
  if (slot->length == 0) return Finish(slot, 0);
  gate_.Push(slot);
  OpenGate();
}

void ExportedFile::OpenGate() {
  while (!gate_.empty() && !alone_) {
    RequestSlot* slot = gate_.first();
    bool aligned = Aligned(slot->offset, slot->length);
    if (!aligned && writes_in_flight_ != 0) return;
    gate_.Pop();
    ++writes_in_flight_;
    if (!aligned) {
      alone_ = true;
      tasks_.Spawn(RunAlone(slot));
    } else if (slot->kind == RequestKind::kRange) {
      tasks_.Spawn(RunRange(slot));
    } else {
      SubmitWrite(slot);
    }
  }
}

void ExportedFile::SubmitWrite(RequestSlot* slot) {
  slot->iov = {slot->payload, slot->length};
  slot->io.op = IoOp::kWrite;
  slot->io.fua = slot->fua;
  slot->io.offset = slot->offset;
  slot->io.length = slot->length;
  slot->io.iov = {&slot->iov, 1};
  device_->Submit(&slot->io);
}

Task<void> ExportedFile::RunAlone(RequestSlot* slot) {
  counters_.unaligned.fetch_add(1, std::memory_order_relaxed);
  int error = slot->kind == RequestKind::kWrite ? co_await WriteUnaligned(slot)
                                                : co_await ChangeRange(slot);
  alone_ = false;
  FinishWrite(slot, error);
}

// The kernel cuts a write at 256 pages of the caller's memory: one that does not begin on a page
// gives pieces that begin on a sector and end within one. Their whole sectors go as they are.
Task<int> ExportedFile::WriteUnaligned(RequestSlot* slot) {
  const uint64_t end = slot->offset + slot->length;
  const uint64_t last = AlignDown(end, kSector);
  if (slot->offset % kSector != 0 || last <= slot->offset) {
    co_return co_await Overlay(slot, slot->offset, slot->length);
  }
  iovec iov{slot->payload, last - slot->offset};
  const int error = co_await device_->Write(slot->offset, {&iov, 1}, slot->fua);
  if (error != 0) co_return error;
  co_return co_await Overlay(slot, last, end - last);
}

Task<void> ExportedFile::RunRange(RequestSlot* slot) {
  int error = co_await ChangeRange(slot);
  FinishWrite(slot, error);
}

// Whole sectors by the device's own means, the edges by overlaying zeroes.
Task<int> ExportedFile::ChangeRange(RequestSlot* slot) {
  const uint64_t end = slot->offset + slot->length;
  const uint64_t first = AlignUp(slot->offset, kSector);
  const uint64_t last = AlignDown(end, kSector);
  if (first > last) co_return co_await Overlay(slot, slot->offset, slot->length);
  int error = 0;
  if (slot->offset != first) {
    error = co_await Overlay(slot, slot->offset, first - slot->offset);
  }
  if (error == 0 && first != last) error = co_await ZeroWhole(first, last - first, slot->unmap);
  if (error == 0 && last != end) error = co_await Overlay(slot, last, end - last);
  if (error == 0 && slot->fua) error = co_await device_->Flush();
  co_return error;
}

Task<int> ExportedFile::ZeroWhole(uint64_t offset, uint64_t length, bool unmap) {
  const BlockGeometry geometry = device_->geometry();
  // A hole must read as zeroes: a discard that does not promise that is not one.
  const bool discard = unmap && geometry.can_discard && geometry.discard_reads_zeroes;
  if (!discard && !geometry.can_write_zeroes) co_return EOPNOTSUPP;
  while (length != 0) {
    uint64_t n = std::min(length, kMaxRangeBytes);
    int error = discard ? co_await device_->Discard(offset, n)
                        : co_await device_->WriteZeroes(offset, n, unmap);
    if (error != 0) co_return error;
    offset += n;
    length -= n;
  }
  co_return 0;
}

Task<int> ExportedFile::Overlay(RequestSlot* slot, uint64_t offset, uint64_t length) {
  const bool write = slot->kind == RequestKind::kWrite;
  const uint64_t end = offset + length;
  uint64_t at = offset;
  while (at < end) {
    const uint64_t start = AlignDown(at, kSector);
    const uint64_t stop = std::min(AlignUp(end, kSector), start + kBounceBytes);
    const uint64_t n = std::min(stop, end) - at;
    if (at != start) {
      iovec head{slot->bounce, kSector};
      int error = co_await device_->Read(start, {&head, 1});
      if (error != 0) co_return error;
    }
    const bool tail_read = at != start && stop - start == kSector;
    if (stop > end && !tail_read) {
      iovec tail{slot->bounce + (stop - start - kSector), kSector};
      int error = co_await device_->Read(stop - kSector, {&tail, 1});
      if (error != 0) co_return error;
    }
    std::byte* to = slot->bounce + (at - start);
    if (write) {
      std::memcpy(to, slot->payload + (at - slot->offset), n);
      counters_.copied_bytes.fetch_add(n, std::memory_order_relaxed);
    } else {
      std::memset(to, 0, n);
    }
    iovec iov{slot->bounce, stop - start};
    int error = co_await device_->Write(start, {&iov, 1}, write && slot->fua);
    if (error != 0) co_return error;
    at += n;
  }
  co_return 0;
}

void ExportedFile::OnDeviceDone(BlockIo* io, int error) noexcept {
  RequestSlot* slot = static_cast<RequestSlot::Io*>(io)->slot;
  ExportedFile* file = slot->handle->file;
  if (slot->kind == RequestKind::kWrite) {
    file->FinishWrite(slot, error);
  } else {
    file->Finish(slot, error);
  }
}

void ExportedFile::FinishWrite(RequestSlot* slot, int error) {
  --writes_in_flight_;
  OpenGate();
  Finish(slot, error);
}

void ExportedFile::Finish(RequestSlot* slot, int error) {
  std::shared_ptr<ExportedFile> last = std::move(slot->file);  // this may be the last that knows us
  if (error != 0) counters_.errors.fetch_add(1, std::memory_order_relaxed);
  const bool on_device = slot->kind != RequestKind::kOpen && slot->kind != RequestKind::kRelease;
  const uint64_t memory = std::exchange(slot->memory, 0);
  if (slot->read_buffer) pool_bytes_ -= slot->read_buffer.capacity();
  Answer(slot, error);
  slots_->GiveSlot(slot);
  memory_.Give(memory);
  --in_flight_;
  if (on_device) {
    --on_device_;
    Admit();
  }
  if (in_flight_ == 0) changed_.NotifyAll();
}

// A reply that the kernel does not take (the request was interrupted, the mount is gone) is
// nobody's loss.
void ExportedFile::Answer(RequestSlot* slot, int error) {
  if (slot->request == nullptr) return;
  if (error != 0) {
    fuse_reply_err(slot->request, error);
    return;
  }
  switch (slot->kind) {
    case RequestKind::kRead:
      counters_.reads.fetch_add(1, std::memory_order_relaxed);
      counters_.read_bytes.fetch_add(slot->length, std::memory_order_relaxed);
      fuse_reply_buf(slot->request,
                     slot->length == 0 ? nullptr : reinterpret_cast<const char*>(slot->payload),
                     slot->length);
      break;
    case RequestKind::kWrite:
      counters_.writes.fetch_add(1, std::memory_order_relaxed);
      counters_.write_bytes.fetch_add(slot->length, std::memory_order_relaxed);
      fuse_reply_write(slot->request, slot->length);
      break;
    case RequestKind::kOpen:
    case RequestKind::kRelease:
    case RequestKind::kFlush:
    case RequestKind::kRange:
      fuse_reply_err(slot->request, 0);
      break;
  }
}

}  // namespace umblock
