// Connector: makes the two sockets of a connection (drbd-wire.md 1.2 to 1.7).
//
// Both nodes listen and connect at the same time. Who compares higher opens data first, the other
// control; after an accepted socket the missing one is opened at once; sockets that cross are
// replaced, with a coin toss so that two nodes do not dance in step. When both exist they must stay
// up for a settle time.
//
// Life cycle: registered with the listeners between Open() and Close(); Run() once at a time, any
// number of times. Sockets that arrive while a connection is up are kept (a few) for the next Run:
// they usually mean that the peer has restarted and that the old connection is dead.
// Threading: one reactor.
#pragma once

#include <deque>
#include <memory>

#include "engine/drbd/config.h"
#include "engine/drbd/link/listener_pool.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/sync.h"

namespace umblock::drbd {

struct LinkSockets {
  std::unique_ptr<Stream> data;
  std::unique_ptr<Stream> control;
  // The RESOLVE_CONFLICTS arbiter: set on the side that accepted the control socket (1.5).
  bool resolve_conflicts = false;
  PathConfig path;
};

class Connector : private ListenerPool::Client {
 public:
  Connector(Reactor& reactor, ListenerPool& listeners);
  ~Connector() override;

  Task<Status> Open(std::vector<PathConfig> paths, NetOptions options);
  Task<void> Close();

  // Until it has two settled sockets, or is cancelled (kCancelled).
  Task<Result<LinkSockets>> Run(CancelToken cancel);

  // Called when a socket arrives while no Run is under way.
  void set_unexpected(umblock::Completion* completion) { unexpected_ = completion; }

 private:
  static constexpr size_t kMaxPending = 4;

  struct Slot {
    std::unique_ptr<Stream> stream;
    bool accepted = false;
  };

  void OnIncoming(IncomingSocket socket) override;
  Task<void> ConnectOnce(CancelToken cancel);
  // Takes what has arrived. True if a socket replaced one of the same purpose.
  Task<bool> TakeIncoming();
  Task<bool> File(wire::SocketKind kind, std::unique_ptr<Stream> stream, bool accepted);
  Task<bool> Settle(CancelToken cancel);
  Task<void> Drop(Slot& slot);
  Slot& slot(wire::SocketKind kind) { return kind == wire::SocketKind::kData ? data_ : control_; }
  bool complete() const { return data_.stream != nullptr && control_.stream != nullptr; }
  bool CoinToss() { return (reactor_.Random64() & 1) != 0; }
  Duration PassiveWait();

  Reactor& reactor_;
  ListenerPool& listeners_;
  std::vector<PathConfig> paths_;
  NetOptions options_;
  size_t path_ = 0;
  bool open_ = false;
  bool running_ = false;
  std::deque<IncomingSocket> pending_;
  WaitQueue arrived_;
  Slot data_;
  Slot control_;
  umblock::Completion* unexpected_ = nullptr;
  TaskGroup closing_;
};

}  // namespace umblock::drbd
