#include "engine/drbd/link/connector.h"

#include "engine/drbd/wire/header.h"

namespace umblock::drbd {

Connector::Connector(Reactor& reactor, ListenerPool& listeners)
    : reactor_(reactor), listeners_(listeners), arrived_(reactor), closing_(reactor) {}

Connector::~Connector() { UMBLOCK_ASSERT(!open_, "a connector is closed before it dies"); }

namespace {
StreamOptions OptionsFor(const NetOptions& net) {
  return {.no_delay = true,
          .keepalive = true,
          .send_buffer_bytes = net.sndbuf_size,
          .receive_buffer_bytes = net.rcvbuf_size};
}

Task<void> CloseStream(std::unique_ptr<Stream> stream) { co_await stream->Close(); }
}  // namespace

Task<Status> Connector::Open(std::vector<PathConfig> paths, NetOptions options) {
  UMBLOCK_ASSERT(!open_, "a connector is opened once");
  if (paths.empty()) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "the connection has no path; add one (local and remote address)");
  }
  paths_ = std::move(paths);
  options_ = std::move(options);
  path_ = 0;
  for (size_t i = 0; i < paths_.size(); ++i) {
    Status status = co_await listeners_.Register(
        paths_[i].local, paths_[i].remote, 4 * options_.ping_timeout, OptionsFor(options_), this);
    if (!status) {
      for (size_t j = 0; j < i; ++j) listeners_.Unregister(paths_[j].local, this);
      co_return status;
    }
  }
  open_ = true;
  co_return Ok();
}

Task<void> Connector::Close() {
  if (!open_) co_return;
  for (const PathConfig& path : paths_) listeners_.Unregister(path.local, this);
  while (!pending_.empty()) {
    closing_.Spawn(CloseStream(std::move(pending_.front().stream)));
    pending_.pop_front();
  }
  co_await closing_.Join();
  open_ = false;
}

void Connector::OnIncoming(IncomingSocket socket) {
  if (pending_.size() == kMaxPending) {
    closing_.Spawn(CloseStream(std::move(pending_.front().stream)));
    pending_.pop_front();
  }
  pending_.push_back(std::move(socket));
  arrived_.NotifyAll();
  if (!running_ && unexpected_ != nullptr) reactor_.Post(unexpected_);
}

Duration Connector::PassiveWait() {
  Duration seventh = options_.connect_int / 7;
  return CoinToss() ? options_.connect_int + seventh : options_.connect_int - seventh;
}

Task<void> Connector::Drop(Slot& slot) {
  if (slot.stream == nullptr) co_return;
  std::unique_ptr<Stream> stream = std::move(slot.stream);
  co_await stream->Close();
}

Task<bool> Connector::File(wire::SocketKind kind, std::unique_ptr<Stream> stream, bool accepted) {
  Slot& target = slot(kind);
  bool crossed = target.stream != nullptr;
  std::unique_ptr<Stream> old = std::move(target.stream);
  target.stream = std::move(stream);
  target.accepted = accepted;
  if (crossed) co_await old->Close();
  co_return crossed;
}

Task<bool> Connector::TakeIncoming() {
  bool crossed = false;
  while (!pending_.empty()) {
    IncomingSocket socket = std::move(pending_.front());
    pending_.pop_front();
    if (!socket.stream->IsEstablished()) {
      co_await socket.stream->Close();
      continue;
    }
    if (co_await File(socket.kind, std::move(socket.stream), true)) crossed = true;
  }
  co_return crossed;
}

Task<void> Connector::ConnectOnce(CancelToken cancel) {
  const PathConfig& path = paths_[path_];
  Result<std::unique_ptr<Stream>> stream =
      co_await reactor_.Connect({.local = path.local.WithPort(0),
                                 .bind_local = true,
                                 .remote = path.remote,
                                 .timeout = options_.connect_int,
                                 .options = OptionsFor(options_)},
                                cancel);
  if (!stream) {
    path_ = (path_ + 1) % paths_.size();
    co_return;
  }
  // A socket may have arrived meanwhile: the purpose is decided now.
  co_await TakeIncoming();
  wire::SocketKind kind;
  if (data_.stream == nullptr && control_.stream == nullptr) {
    kind = path.local > path.remote ? wire::SocketKind::kData : wire::SocketKind::kControl;
  } else if (data_.stream == nullptr) {
    kind = wire::SocketKind::kData;
  } else if (control_.stream == nullptr) {
    kind = wire::SocketKind::kControl;
  } else {
    co_await (*stream)->Close();
    co_return;
  }
  std::byte raw[wire::kMinHeaderSize];
  wire::EncodeHeader({.type = kind == wire::SocketKind::kData ? wire::PacketType::kInitialData
                                                              : wire::PacketType::kInitialMeta,
                      .volume = 0,
                      .length = 0,
                      .kind = wire::HeaderKind::kH80},
                     raw);
  iovec packet{raw, sizeof raw};
  int32_t sent = co_await (*stream)->Send({&packet, 1});
  if (sent < 0) {
    co_await (*stream)->Close();
    co_return;
  }
  co_await File(kind, std::move(*stream), false);
}

// True if both sockets are still up after the settle time.
Task<bool> Connector::Settle(CancelToken cancel) {
  Duration settle = options_.socket_check_timeout != Duration::zero()
                        ? options_.socket_check_timeout
                        : options_.ping_timeout;
  Time until = reactor_.Now() + settle;
  while (reactor_.Now() < until) {
    WakeReason reason = co_await arrived_.WaitFor(until - reactor_.Now(), cancel);
    if (reason == WakeReason::kCancelled) co_return false;
    if (co_await TakeIncoming()) co_return false;
  }
  if (data_.stream != nullptr && !data_.stream->IsEstablished()) co_await Drop(data_);
  if (control_.stream != nullptr && !control_.stream->IsEstablished()) co_await Drop(control_);
  co_return complete();
}

Task<Result<LinkSockets>> Connector::Run(CancelToken cancel) {
  UMBLOCK_ASSERT(open_ && !running_, "a connector runs once at a time, open");
  running_ = true;
  bool wait_passively = false;
  while (!cancel.requested()) {
    co_await TakeIncoming();
    if (!complete() && !wait_passively) co_await ConnectOnce(cancel);
    wait_passively = false;
    if (cancel.requested()) break;
    if (complete()) {
      if (co_await Settle(cancel)) {
        running_ = false;
        LinkSockets sockets{std::move(data_.stream), std::move(control_.stream), control_.accepted,
                            paths_[path_]};
        co_return sockets;
      }
      wait_passively = CoinToss();
      if (!wait_passively || complete()) continue;
    }
    if (pending_.empty()) {
      co_await arrived_.WaitFor(PassiveWait(), cancel);
      // A socket that stays alone is kept while it is up: a peer that only listens gets both from
      // here, one after the other (drbd-wire.md 1.2).
      for (Slot* each : {&data_, &control_}) {
        if (each->stream != nullptr && !each->stream->IsEstablished()) co_await Drop(*each);
      }
    }
  }
  co_await Drop(data_);
  co_await Drop(control_);
  running_ = false;
  co_return MakeError(ErrorCode::kCancelled, "connecting was stopped");
}

}  // namespace umblock::drbd
