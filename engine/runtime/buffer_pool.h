// BufferPool: aligned payload buffers of one reactor, in power-of-two classes from 4 KiB to 1 MiB,
// out of arenas that are mapped once and reused for ever.
//
// A Buffer goes back to its pool when it is destroyed, on the reactor that owns the pool (a buffer
// that travelled to another reactor travels back first). The pool has a limit in bytes: when it is
// reached TryAllocate gives an empty Buffer and Allocate waits, first come first served; that is
// the back-pressure towards initiators and peers. Under AddressSanitizer a free buffer is poisoned.
// Threading: one reactor.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/runtime/cancel.h"
#include "engine/runtime/sync.h"
#include "engine/runtime/task.h"

namespace umblock {

class BufferPool;

// Told of each arena as it is mapped: registers its memory with a ring. Arenas live until the pool
// is destroyed.
class ArenaObserver {
 public:
  virtual ~ArenaObserver() = default;
  virtual void OnArena(std::byte* base, size_t length) = 0;
};

class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        capacity_(std::exchange(other.capacity_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      Release();
      pool_ = std::exchange(other.pool_, nullptr);
      data_ = std::exchange(other.data_, nullptr);
      capacity_ = std::exchange(other.capacity_, 0);
    }
    return *this;
  }
  ~Buffer() { Release(); }

  explicit operator bool() const { return data_ != nullptr; }
  std::byte* data() const { return data_; }
  size_t capacity() const { return capacity_; }  // bytes; a power of two, at least what was asked
  MutableBytes first(size_t n) const { return {data_, n}; }
  iovec iov(size_t length, size_t offset = 0) const { return {data_ + offset, length}; }
  void Release() noexcept;

 private:
  friend class BufferPool;
  Buffer(BufferPool* pool, std::byte* data, size_t capacity)
      : pool_(pool), data_(data), capacity_(capacity) {}

  BufferPool* pool_ = nullptr;
  std::byte* data_ = nullptr;
  size_t capacity_ = 0;
};

class BufferPool {
 public:
  static constexpr size_t kAlignment = 4096;
  static constexpr size_t kSmallest = 4096;
  static constexpr size_t kLargest = size_t{1} << 20;

  // `limit_bytes`: how much may be out at a time; at least kLargest.
  BufferPool(Reactor& reactor, size_t limit_bytes, ArenaObserver* arenas = nullptr);
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;
  ~BufferPool();

  // `bytes` from 1 to kLargest. Empty if the limit is reached or others are waiting.
  Buffer TryAllocate(size_t bytes);
  // Waits while the limit is reached. Empty if cancelled.
  Task<Buffer> Allocate(size_t bytes, CancelToken cancel = {});

  size_t bytes_out() const { return bytes_out_; }
  size_t limit() const { return limit_; }
  uint64_t arena_bytes() const { return arena_bytes_; }

 private:
  friend class Buffer;
  static constexpr size_t kClasses = 9;

  // One Allocate that waits; stands in its coroutine.
  struct Waiter {
    explicit Waiter(Reactor& reactor) : granted(reactor) {}
    size_t size_class = 0;
    Buffer buffer;
    WaitQueue granted;
    Waiter* next = nullptr;
  };

  Buffer AllocateNow(size_t size_class);
  bool AddArena(size_t size_class);
  void Give(std::byte* data, size_t capacity) noexcept;
  void Grant() noexcept;
  void RemoveWaiter(Waiter* waiter);

  Reactor& reactor_;
  size_t limit_;
  ArenaObserver* observer_;
  size_t bytes_out_ = 0;
  uint64_t arena_bytes_ = 0;
  Waiter* first_waiter_ = nullptr;
  Waiter* last_waiter_ = nullptr;
  std::array<std::vector<std::byte*>, kClasses> free_;
  struct Arena {
    std::byte* base;
    size_t length;
  };
  std::vector<Arena> arenas_;
};

}  // namespace umblock
