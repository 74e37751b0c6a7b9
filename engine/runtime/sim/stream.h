// SimStream and SimListener: a program's handles on a SimConnection and on a listening port.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "engine/runtime/sim/connection.h"
#include "engine/runtime/stream.h"
#include "engine/runtime/sync.h"

namespace umblock {

class SimReactor;

class SimStream final : public Stream {
 public:
  SimStream(SimReactor& reactor, std::shared_ptr<SimConnection> connection, int end);
  ~SimStream() override;

  void StartReceive(std::span<const iovec> buffers, Completion* completion) override;
  void StartSend(std::span<const iovec> buffers, Completion* completion) override;
  void Abort() noexcept override;
  void ShutdownSend() noexcept override;
  Task<void> Close() override;
  bool IsEstablished() const override;
  const SocketAddress& local_address() const override { return connection_->address(end_); }
  const SocketAddress& remote_address() const override { return connection_->address(1 - end_); }

  SimConnection& connection() { return *connection_; }
  int end() const { return end_; }

  // By SimConnection: bytes, the end or an error may be there; room may be there.
  void TryReceive();
  void TrySend();

 private:
  struct Operation : Completion {
    Operation(Fn fn, SimStream* owner) : Completion(fn), stream(owner) {}
    SimStream* stream;
    Completion* user = nullptr;  // set while in use
    bool ended = false;          // its result is on the way to the program
    std::vector<iovec> buffers;
  };

  static void OnReceived(Completion* self, int32_t result) noexcept;
  static void OnSent(Completion* self, int32_t result) noexcept;
  void Begin(Operation& operation, std::span<const iovec> buffers, Completion* completion);
  void End(Operation& operation, int32_t result);
  void Finish(Operation& operation, int32_t result);

  SimReactor& reactor_;
  std::shared_ptr<SimConnection> connection_;
  const int end_;
  Operation receive_;
  Operation send_;
  size_t sent_ = 0;
  size_t to_send_ = 0;
  bool aborted_ = false;
  bool closed_ = false;
  WaitQueue idle_;
};

class SimListener final : public Listener {
 public:
  SimListener(SimReactor& reactor, SimNetwork& network, SocketAddress local, int backlog,
              const StreamOptions& options);
  ~SimListener() override;

  Task<Result<std::unique_ptr<Stream>>> Accept(CancelToken cancel) override;
  const SocketAddress& local_address() const override { return local_; }
  Task<void> Close() override;

  SimReactor& reactor() { return reactor_; }
  const StreamOptions& options() const { return options_; }
  bool HasRoom() const { return static_cast<int>(pending_.size()) < backlog_; }
  void Add(std::shared_ptr<SimConnection> connection);

 private:
  void DropPending();

  SimReactor& reactor_;
  SimNetwork& network_;
  SocketAddress local_;
  const int backlog_;
  StreamOptions options_;
  bool closed_ = false;
  bool accepting_ = false;
  std::deque<std::shared_ptr<SimConnection>> pending_;
  WaitQueue arrivals_;
};

}  // namespace umblock
