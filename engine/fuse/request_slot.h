// RequestSlot: one FUSE request on its way from the session thread to a volume and back; SlotPool:
// all the memory that requests of one mount may use, allocated once.
//
// The session thread takes a slot, fills it and posts it to the reactor of the file's device; that
// reactor answers the kernel and gives the slot back. The pool is the bound on requests in flight:
// when it is empty the session thread waits in TakeSlot/TakeReceiveBuffer and the kernel queues.
// Threading: Take* only on the session thread, Give* on any thread; neither takes a lock (a stack
// with many pushers and one popper has no ABA problem, and a semaphore counts what is on it).
#pragma once

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>
#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <semaphore>
#include <string>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/block/block_device.h"
#include "engine/runtime/buffer_pool.h"

namespace umblock {

class ExportedFile;
struct FileHandle;

// Where the session thread reads a request from /dev/fuse: laid out so that the payload of a write,
// which follows 80 bytes of headers, begins on a page.
struct ReceiveBuffer {
  static constexpr size_t kHeaderBytes = 80;  // struct fuse_in_header, struct fuse_write_in
  static constexpr size_t kPage = 4096;
  // What libfuse passes to read(2) at most: 1 MiB and one page of headers.
  static constexpr size_t kReadBytes = (size_t{1} << 20) + kPage;
  static constexpr size_t kMappedBytes = kReadBytes + 2 * kPage;

  std::byte* base = nullptr;
  ReceiveBuffer* next = nullptr;

  std::byte* receive_at() const { return base + kPage - kHeaderBytes; }
};

enum class RequestKind : uint8_t { kOpen, kRelease, kRead, kWrite, kFlush, kRange };

struct RequestSlot {
  // A write's payload up to this size is copied here, so that the receive buffer is free at once.
  static constexpr size_t kSmallBytes = 8192;
  // For small reads, and for read-modify-write.
  static constexpr size_t kBounceBytes = 16384;

  struct Posted : Completion {
    Posted(Fn on_posted, RequestSlot* owner) : Completion(on_posted), slot(owner) {}
    RequestSlot* slot;
  };
  struct Io : BlockIo {
    Io(DoneFn on_done, RequestSlot* owner) : BlockIo(on_done), slot(owner) {}
    RequestSlot* slot;
  };

  RequestSlot(Completion::Fn on_posted, BlockIo::DoneFn on_done)
      : posted(on_posted, this), io(on_done, this) {}

  Posted posted;  // carries the slot to the device's reactor
  Io io;
  RequestKind kind = RequestKind::kRead;
  bool fua = false;    // kWrite, kRange: O_SYNC or O_DSYNC
  bool unmap = false;  // kRange: punch a hole
  fuse_req_t request = nullptr;
  FileHandle* handle = nullptr;        // kOpen: the one to be
  std::shared_ptr<ExportedFile> file;  // kOpen: keeps it alive
  int open_flags = 0;                  // kOpen
  uint64_t offset = 0;                 // as asked, any byte
  uint64_t length = 0;
  std::byte* payload = nullptr;    // what is written, or was read
  std::byte* small = nullptr;      // kSmallBytes, page-aligned, this slot's own
  std::byte* bounce = nullptr;     // kBounceBytes, the same
  ReceiveBuffer* large = nullptr;  // kWrite above kSmallBytes
  Buffer read_buffer;              // kRead above kBounceBytes
  iovec iov{};
  RequestSlot* next = nullptr;
};

// A stack that any thread pushes to and one thread pops from.
template <typename T>
class ReturnStack {
 public:
  void Push(T* item) {
    item->next = head_.load(std::memory_order_relaxed);
    while (!head_.compare_exchange_weak(item->next, item, std::memory_order_release,
                                        std::memory_order_relaxed)) {
    }
    available_.release();
  }
  // Waits until there is one.
  T* Pop() {
    available_.acquire();
    T* item = head_.load(std::memory_order_acquire);
    while (!head_.compare_exchange_weak(item, item->next, std::memory_order_acquire,
                                        std::memory_order_acquire)) {
    }
    item->next = nullptr;
    return item;
  }

 private:
  std::atomic<T*> head_{nullptr};
  std::counting_semaphore<> available_{0};
};

class SlotPool {
 public:
  SlotPool(size_t slots, size_t receive_buffers, Completion::Fn on_posted, BlockIo::DoneFn on_done);
  SlotPool(const SlotPool&) = delete;
  SlotPool& operator=(const SlotPool&) = delete;
  ~SlotPool();

  RequestSlot* TakeSlot();
  ReceiveBuffer* TakeReceiveBuffer();
  // Gives back what the slot holds, then the slot.
  void GiveSlot(RequestSlot* slot);
  void GiveReceiveBuffer(ReceiveBuffer* buffer) { free_buffers_.Push(buffer); }

  // Slots not in the pool.
  size_t taken() const { return taken_.load(std::memory_order_acquire); }

 private:
  std::byte* arena_ = nullptr;
  size_t arena_bytes_ = 0;
  std::vector<std::unique_ptr<RequestSlot>> slots_;
  std::vector<ReceiveBuffer> buffers_;
  ReturnStack<RequestSlot> free_slots_;
  ReturnStack<ReceiveBuffer> free_buffers_;
  std::atomic<size_t> taken_{0};
};

}  // namespace umblock
