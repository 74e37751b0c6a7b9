#include "engine/runtime/buffer_pool.h"

#include <sys/mman.h>

#include <bit>

namespace umblock {
namespace {

constexpr size_t kArenaBytes = size_t{4} << 20;

size_t ClassOf(size_t bytes) {
  size_t rounded = std::bit_ceil(bytes < BufferPool::kSmallest ? BufferPool::kSmallest : bytes);
  return static_cast<size_t>(std::countr_zero(rounded) - std::countr_zero(BufferPool::kSmallest));
}

}  // namespace

void Buffer::Release() noexcept {
  if (data_ == nullptr) return;
  pool_->Give(data_, capacity_);
  pool_ = nullptr;
  data_ = nullptr;
  capacity_ = 0;
}

BufferPool::BufferPool(Reactor& reactor, size_t limit_bytes)
    : limit_(limit_bytes < kLargest ? kLargest : limit_bytes), room_(reactor) {}

BufferPool::~BufferPool() {
  UMBLOCK_ASSERT(bytes_out_ == 0, "every buffer is back before its pool goes");
  for (const Arena& arena : arenas_) munmap(arena.base, arena.length);
}

Buffer BufferPool::TryAllocate(size_t bytes) {
  UMBLOCK_ASSERT(bytes > 0 && bytes <= kLargest, "a buffer has 1 byte to 1 MiB");
  size_t size_class = ClassOf(bytes);
  size_t capacity = kSmallest << size_class;
  if (waiting_ != 0 || bytes_out_ + capacity > limit_) return {};
  std::byte* data = Take(size_class);
  if (data == nullptr) return {};
  bytes_out_ += capacity;
  return Buffer(this, data, capacity);
}

Task<Buffer> BufferPool::Allocate(size_t bytes, CancelToken cancel) {
  Buffer buffer = TryAllocate(bytes);
  if (buffer) co_return buffer;
  size_t capacity = kSmallest << ClassOf(bytes);
  ++waiting_;
  while (true) {
    WakeReason reason = co_await room_.Wait(cancel);
    if (reason == WakeReason::kCancelled) break;
    if (bytes_out_ + capacity > limit_) continue;
    std::byte* data = Take(ClassOf(bytes));
    if (data == nullptr) continue;
    bytes_out_ += capacity;
    buffer = Buffer(this, data, capacity);
    break;
  }
  --waiting_;
  if (bytes_out_ < limit_) room_.NotifyAll();
  co_return buffer;
}

std::byte* BufferPool::Take(size_t size_class) {
  std::vector<std::byte*>& free = free_[size_class];
  if (free.empty()) {
    void* base =
        mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return nullptr;
    arenas_.push_back({static_cast<std::byte*>(base), kArenaBytes});
    arena_bytes_ += kArenaBytes;
    size_t size = kSmallest << size_class;
    free.reserve(free.capacity() + kArenaBytes / size);
    for (size_t at = kArenaBytes; at >= size; at -= size) {
      free.push_back(static_cast<std::byte*>(base) + at - size);
    }
  }
  std::byte* data = free.back();
  free.pop_back();
  return data;
}

void BufferPool::Give(std::byte* data, size_t capacity) noexcept {
  bytes_out_ -= capacity;
  free_[ClassOf(capacity)].push_back(data);
  room_.NotifyAll();
}

}  // namespace umblock
