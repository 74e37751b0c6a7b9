// ListenerPool: one listening socket per local address of a resource, shared by its connections
// (drbd-wire.md 1.6).
//
// An accepted socket belongs to the connection whose configured peer host it comes from; the first
// packet on it says whether it is for data or control. Sockets from strangers, with another first
// packet, or silent for too long are closed. Life cycle: Register while a connection wants to be
// reached; the socket closes when nobody is registered. Stop() before destruction.
// Threading: one reactor.
#pragma once

#include <memory>
#include <vector>

#include "engine/drbd/wire/packet_type.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/sync.h"

namespace umblock::drbd {

struct IncomingSocket {
  std::unique_ptr<Stream> stream;
  wire::SocketKind kind = wire::SocketKind::kData;
};

class ListenerPool {
 public:
  class Client {
   public:
    virtual ~Client() = default;
    virtual void OnIncoming(IncomingSocket socket) = 0;
  };

  explicit ListenerPool(Reactor& reactor);
  ~ListenerPool();
  Task<void> Stop();

  // Fails if the address cannot be bound; the message names it. Waits for a socket on the same
  // address that is just closing. `first_packet_timeout`: how long an accepted socket may be
  // silent.
  Task<Status> Register(SocketAddress local, SocketAddress remote, Duration first_packet_timeout,
                        StreamOptions options, Client* client);
  void Unregister(const SocketAddress& local, Client* client);

 private:
  // A socket whose purpose is not known yet costs memory: no more than this many per listener.
  static constexpr int kMaxUnidentified = 16;

  struct Registration {
    SocketAddress remote;
    Duration first_packet_timeout;
    Client* client;
  };
  struct Entry {
    SocketAddress local;
    std::unique_ptr<Listener> listener;
    std::unique_ptr<CancelSource> cancel;
    std::vector<Registration> registrations;
    int unidentified = 0;
  };

  Entry* Find(const SocketAddress& local);
  Task<void> AcceptLoop(Entry* entry);
  Task<void> Identify(Entry* entry, std::unique_ptr<Stream> stream);
  bool IsClosing(const SocketAddress& local) const;

  Reactor& reactor_;
  TaskGroup tasks_;
  WaitQueue closed_;
  std::vector<std::unique_ptr<Entry>> entries_;
};

}  // namespace umblock::drbd
