// SendQueue: the one ordered way out on a stream of a peer.
//
// Everything a node sends on a socket passes through here in the order of the calls: packets are
// encoded in place (Append), payloads are referenced, not copied (AppendPayload). The queue is
// flushed once per turn of the reactor, as many packets as fit in one send (drbd-io-path.md J.4
// P8). It never makes its user wait: who sends a request has made sure that the answer has room, so
// the queue is bounded by the requests in flight (limits are the callers': max-buffers,
// max-io-depth).
//
// Life cycle: Start() with a stream; on the first failed or stalled send the failure callback is
// called once and what is queued stays until Stop(). Stop() awaits the send in flight, then drops
// the rest: every SentNotice is called exactly once. Payload memory is pinned until its notice is
// called (INV-21). Threading: one reactor.
#pragma once

#include <sys/uio.h>

#include <array>
#include <boost/circular_buffer.hpp>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/sync.h"

namespace umblock::drbd {

// Called when the bytes before it were handed to the socket (`handed_over`), or given up.
struct SentNotice {
  using Fn = void (*)(SentNotice* self, bool handed_over) noexcept;
  explicit SentNotice(Fn function) : fn(function) {}
  Fn fn;
};

struct SendQueueCounters {
  uint64_t packets = 0;
  uint64_t bytes = 0;          // handed to the socket
  uint64_t sends = 0;          // calls that carried them
  uint64_t payload_bytes = 0;  // of `bytes`, those that were referenced and not copied
};

class SendQueue {
 public:
  class Owner {
   public:
    virtual ~Owner() = default;
    // The stream failed (`error` is a positive errno), or took no byte for too long (ETIMEDOUT).
    virtual void OnSendFailed(SendQueue& queue, int error) = 0;
    // No progress for one timeout; `left` more and the connection is given up.
    virtual void OnSendStalled(SendQueue& queue, uint32_t left) = 0;
  };

  SendQueue(Reactor& reactor, Owner& owner);
  ~SendQueue();

  // `timeout`: how long one send may make no progress; `stalls` such periods end the connection
  // (0: never).
  void Start(Stream* stream, Duration timeout, uint32_t stalls);
  Task<void> Stop();
  bool running() const { return stream_ != nullptr && !stopping_ && !failed_; }

  // Room for one packet's bytes, at most kMaxPacketBytes; to be filled before the turn ends.
  MutableBytes Append(size_t bytes);
  // `notice` may be null. The iovecs are copied, the memory is not.
  void AppendPayload(std::span<const iovec> payload, SentNotice* notice);

  // `notice` is called when everything appended so far was handed over, or given up.
  void NotifyWhenSent(SentNotice* notice);

  size_t queued_bytes() const { return queued_bytes_; }
  bool idle() const { return entries_.empty(); }
  // Waits until less than `bytes` are queued, or the queue is not running, at most for `limit`.
  Task<void> WaitBelow(size_t bytes, Duration limit);
  const SendQueueCounters& counters() const { return counters_; }

  static constexpr size_t kMaxPacketBytes = 8192;

 private:
  static constexpr size_t kChunkBytes = 16384;
  static constexpr size_t kMaxIovecs = 256;
  static constexpr size_t kMaxBatchBytes = size_t{1} << 20;

  struct Chunk {
    std::array<std::byte, kChunkBytes> bytes;
    size_t used = 0;
    uint32_t entries = 0;  // that point into it
  };
  struct Entry {
    std::byte* data = nullptr;
    size_t length = 0;
    Chunk* chunk = nullptr;  // null: referenced payload
    SentNotice* notice = nullptr;
  };

  void Push(const Entry& entry);
  void PopFront(bool handed_over);
  void ScheduleFlush();
  void Flush();
  void OnSent(int32_t result);
  void OnTimer();
  void Fail(int error);
  Chunk* TakeChunk();
  void GiveChunk(Chunk* chunk);

  Reactor& reactor_;
  Owner& owner_;
  Stream* stream_ = nullptr;
  boost::circular_buffer<Entry> entries_;
  std::vector<std::unique_ptr<Chunk>> chunks_;
  std::vector<Chunk*> free_chunks_;
  Chunk* tail_chunk_ = nullptr;
  std::array<iovec, kMaxIovecs> batch_{};
  size_t batch_entries_ = 0;  // in flight
  size_t queued_bytes_ = 0;
  bool flush_scheduled_ = false;
  bool failed_ = false;
  bool stopping_ = false;
  Duration timeout_{};
  uint32_t stall_limit_ = 0;
  uint32_t stalls_left_ = 0;
  WaitQueue drained_;
  SendQueueCounters counters_;

  struct FlushHook : umblock::Completion {
    SendQueue* queue;
    explicit FlushHook(SendQueue* q);
  } flush_hook_;
  struct SendDone : umblock::Completion {
    SendQueue* queue;
    explicit SendDone(SendQueue* q);
  } send_done_;
  struct StallTimer : Timer {
    SendQueue* queue;
    explicit StallTimer(SendQueue* q);
  } stall_timer_;
};

}  // namespace umblock::drbd
