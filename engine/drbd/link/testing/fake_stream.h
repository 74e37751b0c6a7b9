// FakeStream: a Stream whose other end is the test. Receives are fed with bytes in pieces of a
// chosen size; sends are kept until the test completes them. Threading: one reactor.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "engine/runtime/reactor.h"
#include "engine/runtime/stream.h"

namespace umblock::drbd::testing {

class FakeStream final : public Stream {
 public:
  explicit FakeStream(Reactor& reactor) : reactor_(reactor) {}
  ~FakeStream() override {
    UMBLOCK_ASSERT(send_ == nullptr && receive_ == nullptr, "nothing is in flight at the end");
  }

  // --- what the peer does ---
  void Feed(Bytes bytes) {
    incoming_.insert(incoming_.end(), bytes.begin(), bytes.end());
    Serve();
  }
  void EndOfStream() {
    ended_ = true;
    Serve();
  }
  // Most bytes that one receive gives.
  void set_piece(size_t bytes) { piece_ = bytes; }
  // Ends the send in flight: 0 for all of its bytes, else a negative errno.
  void CompleteSend(int32_t error = 0) {
    UMBLOCK_ASSERT(send_ != nullptr, "a send is in flight");
    if (error == 0) sent_.insert(sent_.end(), pending_.begin(), pending_.end());
    int32_t result = error == 0 ? static_cast<int32_t>(pending_.size()) : error;
    reactor_.Post(std::exchange(send_, nullptr), result);
  }

  bool sending() const { return send_ != nullptr; }
  size_t pending_iovecs() const { return pending_iovecs_; }
  const std::vector<std::byte>& pending() const { return pending_; }
  const std::vector<std::byte>& sent() const { return sent_; }
  int receives() const { return receives_; }
  // Bytes that landed in [memory, memory + size).
  size_t ReceivedInto(const void* memory, size_t size) const {
    size_t total = 0;
    auto base = reinterpret_cast<uintptr_t>(memory);
    for (auto [at, length] : landed_) {
      if (at >= base && at < base + size) total += length;
    }
    return total;
  }

  // --- Stream ---
  void StartReceive(std::span<const iovec> buffers, Completion* completion) override {
    UMBLOCK_ASSERT(receive_ == nullptr, "one receive at a time");
    receive_ = completion;
    room_.assign(buffers.begin(), buffers.end());
    ++receives_;
    Serve();
  }
  void StartSend(std::span<const iovec> buffers, Completion* completion) override {
    UMBLOCK_ASSERT(send_ == nullptr, "one send at a time");
    pending_.clear();
    pending_iovecs_ = buffers.size();
    for (const iovec& part : buffers) {
      auto* bytes = static_cast<const std::byte*>(part.iov_base);
      pending_.insert(pending_.end(), bytes, bytes + part.iov_len);
    }
    send_ = completion;
  }
  void Abort() noexcept override {
    if (send_ != nullptr) reactor_.Post(std::exchange(send_, nullptr), -ECANCELED);
    if (receive_ != nullptr) reactor_.Post(std::exchange(receive_, nullptr), -ECANCELED);
  }
  void ShutdownSend() noexcept override {}
  Task<void> Close() override {
    Abort();
    co_return;
  }
  bool IsEstablished() const override { return !ended_; }
  const SocketAddress& local_address() const override { return address_; }
  const SocketAddress& remote_address() const override { return address_; }

 private:
  void Serve() {
    if (receive_ == nullptr || (incoming_.empty() && !ended_)) return;
    size_t want = std::min(piece_, incoming_.size());
    size_t given = 0;
    for (const iovec& part : room_) {
      size_t step = std::min(part.iov_len, want - given);
      if (step == 0) break;
      std::memcpy(part.iov_base, incoming_.data() + given, step);
      landed_.push_back({reinterpret_cast<uintptr_t>(part.iov_base), step});
      given += step;
    }
    incoming_.erase(incoming_.begin(), incoming_.begin() + static_cast<long>(given));
    reactor_.Post(std::exchange(receive_, nullptr), static_cast<int32_t>(given));
  }

  Reactor& reactor_;
  SocketAddress address_;
  std::vector<std::byte> incoming_;
  std::vector<iovec> room_;
  std::vector<std::pair<uintptr_t, size_t>> landed_;
  bool ended_ = false;
  size_t piece_ = SIZE_MAX;
  int receives_ = 0;
  Completion* receive_ = nullptr;
  Completion* send_ = nullptr;
  std::vector<std::byte> pending_;
  size_t pending_iovecs_ = 0;
  std::vector<std::byte> sent_;
};

}  // namespace umblock::drbd::testing
