#include "engine/runtime/sim/stream.h"

#include <cerrno>

#include "engine/base/assert.h"
#include "engine/runtime/sim/network.h"
#include "engine/runtime/sim/node.h"
#include "engine/runtime/sim/reactor.h"

namespace umblock {

SimStream::SimStream(SimReactor& reactor, std::shared_ptr<SimConnection> connection, int end)
    : reactor_(reactor),
      connection_(std::move(connection)),
      end_(end),
      receive_(&OnReceived, this),
      send_(&OnSent, this),
      idle_(reactor) {
  connection_->Attach(end_, this);
}

SimStream::~SimStream() {
  UMBLOCK_ASSERT(receive_.user == nullptr && send_.user == nullptr,
                 "a stream is closed before it goes");
  if (!closed_) connection_->Close(end_);
}

void SimStream::Begin(Operation& operation, std::span<const iovec> buffers,
                      Completion* completion) {
  UMBLOCK_ASSERT(operation.user == nullptr, "one receive and one send at a time");
  operation.user = completion;
  operation.ended = false;
  operation.buffers.assign(buffers.begin(), buffers.end());
}

void SimStream::End(Operation& operation, int32_t result) {
  operation.ended = true;
  reactor_.Deliver(&operation, result);
}

void SimStream::Finish(Operation& operation, int32_t result) {
  Completion* user = operation.user;
  operation.user = nullptr;
  if (receive_.user == nullptr && send_.user == nullptr) idle_.NotifyAll();
  user->fn(user, result);
}

void SimStream::OnReceived(Completion* self, int32_t result) noexcept {
  auto* operation = static_cast<Operation*>(self);
  operation->stream->Finish(*operation, result);
}

void SimStream::OnSent(Completion* self, int32_t result) noexcept {
  auto* operation = static_cast<Operation*>(self);
  operation->stream->Finish(*operation, result);
}

void SimStream::StartReceive(std::span<const iovec> buffers, Completion* completion) {
  Begin(receive_, buffers, completion);
  if (aborted_) {
    End(receive_, -ECANCELED);
    return;
  }
  TryReceive();
}

void SimStream::TryReceive() {
  if (receive_.user == nullptr || receive_.ended || aborted_) return;
  if (std::optional<int32_t> result = connection_->Receive(end_, receive_.buffers)) {
    End(receive_, *result);
  }
}

void SimStream::StartSend(std::span<const iovec> buffers, Completion* completion) {
  Begin(send_, buffers, completion);
  sent_ = 0;
  to_send_ = 0;
  for (const iovec& part : buffers) to_send_ += part.iov_len;
  if (aborted_) {
    End(send_, -ECANCELED);
    return;
  }
  TrySend();
}

void SimStream::TrySend() {
  if (send_.user == nullptr || send_.ended || aborted_) return;
  if (int error = connection_->error(end_); error != 0) {
    End(send_, -error);
    return;
  }
  if (connection_->shutdown_sent(end_)) {
    End(send_, -EPIPE);
    return;
  }
  sent_ += connection_->Send(end_, send_.buffers, sent_);
  if (sent_ == to_send_) End(send_, static_cast<int32_t>(to_send_));
}

void SimStream::Abort() noexcept {
  if (aborted_) return;
  aborted_ = true;
  if (receive_.user != nullptr && !receive_.ended) End(receive_, -ECANCELED);
  if (send_.user != nullptr && !send_.ended) End(send_, -ECANCELED);
  connection_->ShutdownSend(end_);
}

void SimStream::ShutdownSend() noexcept { connection_->ShutdownSend(end_); }

Task<void> SimStream::Close() {
  Abort();
  while (receive_.user != nullptr || send_.user != nullptr) co_await idle_.Wait();
  if (!closed_) connection_->Close(end_);
  closed_ = true;
}

bool SimStream::IsEstablished() const { return !aborted_ && connection_->established(end_); }

SimListener::SimListener(SimReactor& reactor, SimNetwork& network, SocketAddress local, int backlog,
                         const StreamOptions& options)
    : reactor_(reactor),
      network_(network),
      local_(local),
      backlog_(backlog),
      options_(options),
      arrivals_(reactor) {}

SimListener::~SimListener() {
  UMBLOCK_ASSERT(!accepting_, "a listener is closed before it goes");
  if (!closed_) {
    network_.Unlisten(this);
    DropPending();
  }
}

void SimListener::Add(std::shared_ptr<SimConnection> connection) {
  pending_.push_back(std::move(connection));
  arrivals_.NotifyAll();
}

Task<Result<std::unique_ptr<Stream>>> SimListener::Accept(CancelToken cancel) {
  UMBLOCK_ASSERT(!accepting_, "one accept at a time");
  accepting_ = true;
  bool cancelled = cancel.requested();
  while (!cancelled && !closed_ && pending_.empty()) {
    cancelled = co_await arrivals_.Wait(cancel) == WakeReason::kCancelled;
  }
  accepting_ = false;
  if (cancelled || closed_) {
    arrivals_.NotifyAll();
    co_return MakeError(ErrorCode::kCancelled, "accept on {}: cancelled", local_.ToString());
  }
  std::shared_ptr<SimConnection> connection = std::move(pending_.front());
  pending_.pop_front();
  connection->OnAccepted(1, &reactor_.incarnation());
  co_return std::make_unique<SimStream>(reactor_, std::move(connection), 1);
}

Task<void> SimListener::Close() {
  if (!closed_) {
    closed_ = true;
    network_.Unlisten(this);
    DropPending();
    arrivals_.NotifyAll();
  }
  while (accepting_) co_await arrivals_.Wait();
}

void SimListener::DropPending() {
  for (const auto& connection : pending_) connection->Close(1);
  pending_.clear();
}

}  // namespace umblock
