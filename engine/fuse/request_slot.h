// RequestSlot: one FUSE request on its way from the session thread to a volume and back; SlotPool:
// the memory that requests of one mount use.
//
// The session thread takes a slot, fills it and posts it to the reactor of the file's device; that
// reactor answers the kernel and gives the slot back. Taking never waits, since requests of one
// file would then wait for those of another: when the pool is empty it grows. What bounds it is the
// memory that each file may hold (FileMemory).
// Threading: Take* only on the session thread, MapSpare and Give* on any thread; none takes a lock
// (a stack with many pushers and one popper has no ABA problem).
#pragma once

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>
#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
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
  bool spare = false;  // not of the pool: unmapped when it is given back

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
  ReceiveBuffer* large = nullptr;  // kWrite above kSmallBytes; kRead without a read_buffer
  Buffer read_buffer;              // kRead above kBounceBytes
  uint64_t memory = 0;             // bytes, as counted by the file's FileMemory
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
  }
  // Null if there is none.
  T* Pop() {
    T* item = head_.load(std::memory_order_acquire);
    while (item != nullptr &&
           !head_.compare_exchange_weak(item, item->next, std::memory_order_acquire,
                                        std::memory_order_acquire)) {
    }
    if (item != nullptr) item->next = nullptr;
    return item;
  }

 private:
  std::atomic<T*> head_{nullptr};
};

class SlotPool {
 public:
  // Slots are added in lots. `receive_buffers` are kept; above them each is mapped and unmapped.
  SlotPool(size_t receive_buffers, Completion::Fn on_posted, BlockIo::DoneFn on_done);
  SlotPool(const SlotPool&) = delete;
  SlotPool& operator=(const SlotPool&) = delete;
  ~SlotPool();

  // Null: the system has no memory for more.
  RequestSlot* TakeSlot();
  ReceiveBuffer* TakeReceiveBuffer();
  static ReceiveBuffer* MapSpare();
  // Gives back what the slot holds, then the slot.
  void GiveSlot(RequestSlot* slot);
  void GiveReceiveBuffer(ReceiveBuffer* buffer);

  // Slots not in the pool.
  size_t taken() const { return taken_.load(std::memory_order_acquire); }

 private:
  static constexpr size_t kLot = 64;
  static constexpr size_t kLotBytes = kLot * (RequestSlot::kSmallBytes + RequestSlot::kBounceBytes);

  bool AddSlots();

  const Completion::Fn on_posted_;
  const BlockIo::DoneFn on_done_;
  std::byte* receive_arena_ = nullptr;
  std::vector<ReceiveBuffer> buffers_;
  std::vector<std::byte*> lots_;
  std::vector<std::unique_ptr<RequestSlot>> slots_;
  ReturnStack<RequestSlot> free_slots_;
  ReturnStack<ReceiveBuffer> free_buffers_;
  std::atomic<size_t> taken_{0};
};

}  // namespace umblock
