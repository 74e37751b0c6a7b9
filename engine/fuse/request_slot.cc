#include "engine/fuse/request_slot.h"

#include <linux/fuse.h>
#include <sys/mman.h>

namespace umblock {
namespace {

// Only what is touched takes memory.
std::byte* Map(size_t bytes) {
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return base == MAP_FAILED ? nullptr : static_cast<std::byte*>(base);
}

}  // namespace

static_assert(ReceiveBuffer::kHeaderBytes == sizeof(fuse_in_header) + sizeof(fuse_write_in));

SlotPool::SlotPool(size_t receive_buffers, Completion::Fn on_posted, BlockIo::DoneFn on_done)
    : on_posted_(on_posted),
      on_done_(on_done),
      receive_arena_(Map(receive_buffers * ReceiveBuffer::kMappedBytes)),
      buffers_(receive_buffers) {
  const bool slots = AddSlots();
  UMBLOCK_ASSERT(receive_arena_ != nullptr && slots,
                 "address space for the FUSE request buffers is there");
  for (size_t i = 0; i < receive_buffers; ++i) {
    buffers_[i].base = receive_arena_ + i * ReceiveBuffer::kMappedBytes;
    free_buffers_.Push(&buffers_[i]);
  }
}

SlotPool::~SlotPool() {
  UMBLOCK_ASSERT(taken() == 0, "every FUSE request is answered before its pool goes");
  munmap(receive_arena_, buffers_.size() * ReceiveBuffer::kMappedBytes);
  for (std::byte* lot : lots_) munmap(lot, kLotBytes);
}

bool SlotPool::AddSlots() {
  std::byte* memory = Map(kLotBytes);
  if (memory == nullptr) return false;
  lots_.push_back(memory);
  for (size_t i = 0; i < kLot; ++i) {
    auto& slot = slots_.emplace_back(std::make_unique<RequestSlot>(on_posted_, on_done_));
    slot->small = std::exchange(memory, memory + RequestSlot::kSmallBytes);
    slot->bounce = std::exchange(memory, memory + RequestSlot::kBounceBytes);
    free_slots_.Push(slot.get());
  }
  return true;
}

RequestSlot* SlotPool::TakeSlot() {
  RequestSlot* slot = free_slots_.Pop();
  if (slot == nullptr && AddSlots()) slot = free_slots_.Pop();
  if (slot != nullptr) taken_.fetch_add(1, std::memory_order_acq_rel);
  return slot;
}

ReceiveBuffer* SlotPool::TakeReceiveBuffer() {
  ReceiveBuffer* buffer = free_buffers_.Pop();
  return buffer != nullptr ? buffer : MapSpare();
}

ReceiveBuffer* SlotPool::MapSpare() {
  std::byte* base = Map(ReceiveBuffer::kMappedBytes);
  return base == nullptr ? nullptr : new ReceiveBuffer{.base = base, .spare = true};
}

void SlotPool::GiveReceiveBuffer(ReceiveBuffer* buffer) {
  if (!buffer->spare) return free_buffers_.Push(buffer);
  munmap(buffer->base, ReceiveBuffer::kMappedBytes);
  delete buffer;
}

void SlotPool::GiveSlot(RequestSlot* slot) {
  if (slot->large != nullptr) GiveReceiveBuffer(std::exchange(slot->large, nullptr));
  slot->read_buffer.Release();
  slot->file.reset();
  slot->handle = nullptr;
  slot->request = nullptr;
  free_slots_.Push(slot);
  taken_.fetch_sub(1, std::memory_order_acq_rel);
}

}  // namespace umblock
