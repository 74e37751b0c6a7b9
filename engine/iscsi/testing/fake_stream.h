// A Stream that plays given bytes, in pieces of given sizes, then ends; what is sent is counted and
// dropped. For fuzzers and unit tests on a reactor without sockets.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "engine/runtime/reactor.h"
#include "engine/runtime/stream.h"

namespace umblock::iscsi {

class FakeStream final : public Stream {
 public:
  // Each receive gives at most the next of `pieces` bytes (cyclic; empty: all that fits).
  FakeStream(Reactor& reactor, std::string bytes, std::string pieces)
      : reactor_(reactor), bytes_(std::move(bytes)), pieces_(std::move(pieces)) {}

  void StartReceive(std::span<const iovec> buffers, Completion* completion) override {
    if (aborted_) return reactor_.Post(completion, -ECANCELED);
    size_t limit = bytes_.size() - at_;
    if (!pieces_.empty()) {
      size_t piece = static_cast<uint8_t>(pieces_[next_piece_++ % pieces_.size()]);
      limit = std::min(limit, piece * 16 + 1);
    }
    size_t given = 0;
    for (const iovec& part : buffers) {
      size_t n = std::min(part.iov_len, limit - given);
      if (n != 0) std::memcpy(part.iov_base, bytes_.data() + at_, n);
      at_ += n;
      given += n;
    }
    reactor_.Post(completion, static_cast<int32_t>(given));
  }
  void StartSend(std::span<const iovec> buffers, Completion* completion) override {
    if (aborted_) return reactor_.Post(completion, -ECANCELED);
    size_t total = 0;
    for (const iovec& part : buffers) {
      // Copies every byte, so that a sanitizer sees what may not be sent.
      last_sent_.assign(static_cast<const char*>(part.iov_base), part.iov_len);
      total += part.iov_len;
    }
    sent_ += total;
    reactor_.Post(completion, static_cast<int32_t>(total));
  }
  void Abort() noexcept override { aborted_ = true; }
  void ShutdownSend() noexcept override {}
  Task<void> Close() override {
    aborted_ = true;
    co_return;
  }
  bool IsEstablished() const override { return !aborted_; }
  const SocketAddress& local_address() const override { return address_; }
  const SocketAddress& remote_address() const override { return address_; }
  uint64_t sent() const { return sent_; }

 private:
  Reactor& reactor_;
  std::string bytes_;
  std::string pieces_;
  size_t at_ = 0;
  size_t next_piece_ = 0;
  bool aborted_ = false;
  uint64_t sent_ = 0;
  std::string last_sent_;
  SocketAddress address_;
};

}  // namespace umblock::iscsi
