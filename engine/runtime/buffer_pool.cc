#include "engine/runtime/buffer_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#define UMBLOCK_POISONS_BUFFERS 1
#endif
#endif

namespace umblock {
namespace {

constexpr size_t kArenaBytes = size_t{4} << 20;

size_t ClassOf(size_t bytes) {
  size_t rounded = std::bit_ceil(bytes < BufferPool::kSmallest ? BufferPool::kSmallest : bytes);
  return static_cast<size_t>(std::countr_zero(rounded) - std::countr_zero(BufferPool::kSmallest));
}

void Poison([[maybe_unused]] void* base, [[maybe_unused]] size_t length) {
#ifdef UMBLOCK_POISONS_BUFFERS
  ASAN_POISON_MEMORY_REGION(base, length);
#endif
}

void Unpoison([[maybe_unused]] void* base, [[maybe_unused]] size_t length) {
#ifdef UMBLOCK_POISONS_BUFFERS
  ASAN_UNPOISON_MEMORY_REGION(base, length);
#endif
}

}  // namespace

void Buffer::Release() noexcept {
  if (data_ == nullptr) return;
  pool_->Give(data_, capacity_);
  pool_ = nullptr;
  data_ = nullptr;
  capacity_ = 0;
}

BufferPool::BufferPool(Reactor& reactor, size_t limit_bytes, ArenaObserver* arenas)
    : reactor_(reactor), limit_(std::max(limit_bytes, kLargest)), observer_(arenas) {}

BufferPool::~BufferPool() {
  UMBLOCK_ASSERT(bytes_out_ == 0, "every buffer is back before its pool goes");
  UMBLOCK_ASSERT(first_waiter_ == nullptr, "nobody waits for a buffer of a pool that goes");
  for (const Arena& arena : arenas_) {
    Unpoison(arena.base, arena.length);
    munmap(arena.base, arena.length);
  }
}

Buffer BufferPool::TryAllocate(size_t bytes) {
  UMBLOCK_ASSERT(bytes > 0 && bytes <= kLargest, "a buffer has 1 byte to 1 MiB");
  if (first_waiter_ != nullptr) return {};
  return AllocateNow(ClassOf(bytes));
}

Task<Buffer> BufferPool::Allocate(size_t bytes, CancelToken cancel) {
  Buffer buffer = TryAllocate(bytes);
  if (buffer || cancel.requested()) co_return buffer;
  Waiter waiter(reactor_);
  waiter.size_class = ClassOf(bytes);
  (last_waiter_ != nullptr ? last_waiter_->next : first_waiter_) = &waiter;
  last_waiter_ = &waiter;
  if (co_await waiter.granted.Wait(cancel) == WakeReason::kCancelled) {
    RemoveWaiter(&waiter);
    Grant();  // the next one may be content with less
  }
  co_return std::move(waiter.buffer);
}

// Empty if the limit or the system has no room for it.
Buffer BufferPool::AllocateNow(size_t size_class) {
  size_t capacity = kSmallest << size_class;
  std::vector<std::byte*>& free = free_[size_class];
  if (bytes_out_ + capacity > limit_ || (free.empty() && !AddArena(size_class))) return {};
  std::byte* data = free.back();
  free.pop_back();
  Unpoison(data, capacity);
  bytes_out_ += capacity;
  return Buffer(this, data, capacity);
}

bool BufferPool::AddArena(size_t size_class) {
  void* base =
      mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return false;
  arenas_.push_back({static_cast<std::byte*>(base), kArenaBytes});
  arena_bytes_ += kArenaBytes;
  if (observer_ != nullptr) observer_->OnArena(static_cast<std::byte*>(base), kArenaBytes);
  std::vector<std::byte*>& free = free_[size_class];
  size_t size = kSmallest << size_class;
  // Room for every buffer of the class, so that giving one back never allocates.
  free.reserve(free.capacity() + kArenaBytes / size);
  for (size_t at = kArenaBytes; at >= size; at -= size) {
    free.push_back(static_cast<std::byte*>(base) + at - size);
  }
  Poison(base, kArenaBytes);
  return true;
}

void BufferPool::Give(std::byte* data, size_t capacity) noexcept {
  bytes_out_ -= capacity;
  free_[ClassOf(capacity)].push_back(data);
  Poison(data, capacity);
  Grant();
}

// Serves those who wait, in their order, as far as the room goes. A small request behind a large
// one waits with it: otherwise a stream of small ones would starve it.
void BufferPool::Grant() noexcept {
  while (first_waiter_ != nullptr) {
    Waiter* waiter = first_waiter_;
    waiter->buffer = AllocateNow(waiter->size_class);
    if (!waiter->buffer) return;
    RemoveWaiter(waiter);
    waiter->granted.NotifyAll();
  }
}

void BufferPool::RemoveWaiter(Waiter* waiter) {
  Waiter* previous = nullptr;
  for (Waiter* at = first_waiter_; at != nullptr && at != waiter; at = at->next) previous = at;
  (previous != nullptr ? previous->next : first_waiter_) = waiter->next;
  if (last_waiter_ == waiter) last_waiter_ = previous;
}

}  // namespace umblock
