#include "engine/drbd/link/send_queue.h"

#include <algorithm>
#include <cerrno>

namespace umblock::drbd {

SendQueue::FlushHook::FlushHook(SendQueue* q)
    : umblock::Completion([](umblock::Completion* self, int32_t) noexcept {
        SendQueue* queue_of = static_cast<FlushHook*>(self)->queue;
        queue_of->flush_scheduled_ = false;
        queue_of->drained_.NotifyAll();
        queue_of->Flush();
      }),
      queue(q) {}

SendQueue::SendDone::SendDone(SendQueue* q)
    : umblock::Completion([](umblock::Completion* self, int32_t result_code) noexcept {
        static_cast<SendDone*>(self)->queue->OnSent(result_code);
      }),
      queue(q) {}

SendQueue::StallTimer::StallTimer(SendQueue* q)
    : Timer([](Timer* self) noexcept { static_cast<StallTimer*>(self)->queue->OnTimer(); }),
      queue(q) {}

SendQueue::SendQueue(Reactor& reactor, Owner& owner)
    : reactor_(reactor),
      owner_(owner),
      entries_(256),
      drained_(reactor),
      flush_hook_(this),
      send_done_(this),
      stall_timer_(this) {}

SendQueue::~SendQueue() {
  UMBLOCK_ASSERT(entries_.empty() && batch_entries_ == 0 && !flush_scheduled_,
                 "a send queue is stopped before it dies");
}

void SendQueue::Start(Stream* stream, Duration timeout, uint32_t stalls) {
  UMBLOCK_ASSERT(stream_ == nullptr && entries_.empty(), "a send queue starts empty");
  stream_ = stream;
  timeout_ = timeout;
  stall_limit_ = stalls;
  failed_ = false;
  stopping_ = false;
}

Task<void> SendQueue::Stop() {
  stopping_ = true;
  stall_timer_.Disarm();
  while (batch_entries_ != 0 || flush_scheduled_) co_await drained_.Wait();
  while (!entries_.empty()) PopFront(false);
  stream_ = nullptr;
  tail_chunk_ = nullptr;
  drained_.NotifyAll();
}

MutableBytes SendQueue::Append(size_t bytes) {
  UMBLOCK_ASSERT(bytes > 0 && bytes <= kMaxPacketBytes, "a packet fits into a chunk");
  if (tail_chunk_ == nullptr || kChunkBytes - tail_chunk_->used < bytes) {
    tail_chunk_ = TakeChunk();
  }
  Chunk* chunk = tail_chunk_;
  std::byte* data = chunk->bytes.data() + chunk->used;
  chunk->used += bytes;
  ++counters_.packets;
  queued_bytes_ += bytes;
  // Packets that follow each other in a chunk leave as one piece.
  if (entries_.size() > batch_entries_) {
    Entry& last = entries_.back();
    if (last.chunk == chunk && last.notice == nullptr && last.data + last.length == data) {
      last.length += bytes;
      ScheduleFlush();
      return {data, bytes};
    }
  }
  ++chunk->entries;
  Push({data, bytes, chunk, nullptr});
  return {data, bytes};
}

void SendQueue::AppendPayload(std::span<const iovec> payload, SentNotice* notice) {
  UMBLOCK_ASSERT(!payload.empty(), "a payload has bytes");
  for (size_t i = 0; i < payload.size(); ++i) {
    queued_bytes_ += payload[i].iov_len;
    counters_.payload_bytes += payload[i].iov_len;
    Push({static_cast<std::byte*>(payload[i].iov_base), payload[i].iov_len, nullptr,
          i + 1 == payload.size() ? notice : nullptr});
  }
}

void SendQueue::NotifyWhenSent(SentNotice* notice) {
  if (entries_.size() > batch_entries_ && entries_.back().notice == nullptr) {
    entries_.back().notice = notice;
    return;
  }
  Push({nullptr, 0, nullptr, notice});
}

Task<void> SendQueue::WaitBelow(size_t bytes, Duration limit) {
  Time until = reactor_.Now() + limit;
  while (running() && queued_bytes_ >= bytes) {
    Time now = reactor_.Now();
    if (now >= until) co_return;
    co_await drained_.WaitFor(until - now);
  }
}

void SendQueue::Push(const Entry& entry) {
  if (entries_.full()) entries_.set_capacity(entries_.capacity() * 2);
  entries_.push_back(entry);
  ScheduleFlush();
}

void SendQueue::PopFront(bool handed_over) {
  Entry entry = entries_.front();
  entries_.pop_front();
  queued_bytes_ -= entry.length;
  if (entry.chunk != nullptr && --entry.chunk->entries == 0) GiveChunk(entry.chunk);
  if (entry.notice != nullptr) entry.notice->fn(entry.notice, handed_over);
}

void SendQueue::ScheduleFlush() {
  if (flush_scheduled_ || batch_entries_ != 0 || !running()) return;
  flush_scheduled_ = true;
  reactor_.PostAtTurnEnd(&flush_hook_);
}

void SendQueue::Flush() {
  if (!running() || batch_entries_ != 0 || entries_.empty()) return;
  size_t bytes = 0;
  size_t count = 0;
  while (count < entries_.size() && count < kMaxIovecs && bytes < kMaxBatchBytes) {
    const Entry& entry = entries_[count];
    batch_[count] = {entry.data, entry.length};
    bytes += entry.length;
    ++count;
  }
  batch_entries_ = count;
  ++counters_.sends;
  stalls_left_ = stall_limit_;
  reactor_.ArmIn(&stall_timer_, timeout_);
  stream_->StartSend({batch_.data(), count}, &send_done_);
}

void SendQueue::OnSent(int32_t result) {
  stall_timer_.Disarm();
  if (result < 0) {
    batch_entries_ = 0;
    drained_.NotifyAll();
    Fail(-result);
    return;
  }
  counters_.bytes += static_cast<uint64_t>(result);
  // A notice may append: what is left of the batch must look in flight until it is gone, or the new
  // packet would be merged into bytes that have left already.
  while (batch_entries_ > 0) {
    --batch_entries_;
    PopFront(true);
  }
  drained_.NotifyAll();
  Flush();
}

void SendQueue::OnTimer() {
  if (stall_limit_ == 0) {
    reactor_.ArmIn(&stall_timer_, timeout_);
    owner_.OnSendStalled(*this, 1);
    return;
  }
  if (--stalls_left_ == 0) {
    Fail(ETIMEDOUT);
    return;
  }
  reactor_.ArmIn(&stall_timer_, timeout_);
  owner_.OnSendStalled(*this, stalls_left_);
}

void SendQueue::Fail(int error) {
  if (failed_ || stopping_) return;
  failed_ = true;
  owner_.OnSendFailed(*this, error);
}

SendQueue::Chunk* SendQueue::TakeChunk() {
  if (free_chunks_.empty()) {
    chunks_.push_back(std::make_unique<Chunk>());
    return chunks_.back().get();
  }
  Chunk* chunk = free_chunks_.back();
  free_chunks_.pop_back();
  return chunk;
}

void SendQueue::GiveChunk(Chunk* chunk) {
  if (chunk == tail_chunk_) tail_chunk_ = nullptr;
  chunk->used = 0;
  free_chunks_.push_back(chunk);
}

}  // namespace umblock::drbd
