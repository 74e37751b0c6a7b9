#include "engine/fuse/request_slot.h"

#include <linux/fuse.h>
#include <sys/mman.h>

namespace umblock {

static_assert(ReceiveBuffer::kHeaderBytes == sizeof(fuse_in_header) + sizeof(fuse_write_in));

SlotPool::SlotPool(size_t slots, size_t receive_buffers, Completion::Fn on_posted,
                   BlockIo::DoneFn on_done)
    : buffers_(receive_buffers) {
  constexpr size_t kOwnBytes = RequestSlot::kSmallBytes + RequestSlot::kBounceBytes;
  size_t small_bytes = slots * kOwnBytes;
  arena_bytes_ = small_bytes + receive_buffers * ReceiveBuffer::kMappedBytes;
  void* base = mmap(nullptr, arena_bytes_, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  UMBLOCK_ASSERT(base != MAP_FAILED, "address space for the FUSE request buffers is there");
  arena_ = static_cast<std::byte*>(base);
  slots_.reserve(slots);
  for (size_t i = 0; i < slots; ++i) {
    slots_.push_back(std::make_unique<RequestSlot>(on_posted, on_done));
    slots_.back()->small = arena_ + i * kOwnBytes;
    slots_.back()->bounce = slots_.back()->small + RequestSlot::kSmallBytes;
    free_slots_.Push(slots_.back().get());
  }
  for (size_t i = 0; i < receive_buffers; ++i) {
    buffers_[i].base = arena_ + small_bytes + i * ReceiveBuffer::kMappedBytes;
    free_buffers_.Push(&buffers_[i]);
  }
}

SlotPool::~SlotPool() {
  UMBLOCK_ASSERT(taken() == 0, "every FUSE request is answered before its pool goes");
  munmap(arena_, arena_bytes_);
}

RequestSlot* SlotPool::TakeSlot() {
  RequestSlot* slot = free_slots_.Pop();
  taken_.fetch_add(1, std::memory_order_acq_rel);
  return slot;
}

ReceiveBuffer* SlotPool::TakeReceiveBuffer() { return free_buffers_.Pop(); }

void SlotPool::GiveSlot(RequestSlot* slot) {
  if (slot->large != nullptr) {
    free_buffers_.Push(slot->large);
    slot->large = nullptr;
  }
  slot->read_buffer.Release();
  slot->file.reset();
  slot->handle = nullptr;
  slot->request = nullptr;
  free_slots_.Push(slot);
  taken_.fetch_sub(1, std::memory_order_acq_rel);
}

}  // namespace umblock
