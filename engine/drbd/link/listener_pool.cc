#include "engine/drbd/link/listener_pool.h"

#include <algorithm>

#include "engine/drbd/wire/header.h"

namespace umblock::drbd {
namespace {

// Aborts a stream when a time is over.
class Deadline : private Timer {
 public:
  Deadline(Reactor& reactor, Stream& stream, Duration duration)
      : Timer([](Timer* self) noexcept { static_cast<Deadline*>(self)->stream_.Abort(); }),
        stream_(stream) {
    reactor.ArmIn(this, duration);
  }

 private:
  Stream& stream_;
};

}  // namespace

ListenerPool::ListenerPool(Reactor& reactor)
    : reactor_(reactor), tasks_(reactor), closed_(reactor) {}

ListenerPool::~ListenerPool() {
  UMBLOCK_ASSERT(entries_.empty(), "the listeners are stopped before their pool goes");
}

Task<void> ListenerPool::Stop() {
  for (std::unique_ptr<Entry>& entry : entries_) {
    entry->registrations.clear();
    entry->cancel->Cancel();
  }
  tasks_.Cancel();
  co_await tasks_.Join();
}

ListenerPool::Entry* ListenerPool::Find(const SocketAddress& local) {
  for (std::unique_ptr<Entry>& entry : entries_) {
    if (entry->local == local && !entry->cancel->requested()) return entry.get();
  }
  return nullptr;
}

bool ListenerPool::IsClosing(const SocketAddress& local) const {
  return std::any_of(entries_.begin(), entries_.end(), [&local](const auto& entry) {
    return entry->local == local && entry->cancel->requested();
  });
}

Task<Status> ListenerPool::Register(SocketAddress local, SocketAddress remote,
                                    Duration first_packet_timeout, StreamOptions options,
                                    Client* client) {
  while (IsClosing(local)) co_await closed_.Wait();
  Entry* entry = Find(local);
  if (entry == nullptr) {
    Result<std::unique_ptr<Listener>> listener =
        reactor_.Listen({.local = local, .backlog = 64, .options = options});
    if (!listener) {
      co_return std::unexpected(
          listener.error().Within(fmt::format("listen on {} for the peer", local.ToString())));
    }
    entries_.push_back(std::make_unique<Entry>());
    entry = entries_.back().get();
    entry->local = local;
    entry->listener = std::move(*listener);
    entry->cancel = std::make_unique<CancelSource>();
    tasks_.Spawn(AcceptLoop(entry));
  }
  entry->registrations.push_back({remote, first_packet_timeout, client});
  co_return Ok();
}

void ListenerPool::Unregister(const SocketAddress& local, Client* client) {
  Entry* entry = Find(local);
  if (entry == nullptr) return;
  std::erase_if(entry->registrations,
                [client](const Registration& r) { return r.client == client; });
  if (entry->registrations.empty()) entry->cancel->Cancel();
}

Task<void> ListenerPool::AcceptLoop(Entry* entry) {
  while (!entry->cancel->requested()) {
    Result<std::unique_ptr<Stream>> stream = co_await entry->listener->Accept(*entry->cancel);
    if (!stream) {
      if (entry->cancel->requested()) break;
      // Out of descriptors, or a connection that died in the queue: go on, not in a tight loop.
      co_await Sleep(reactor_, 100ms, *entry->cancel);
      continue;
    }
    if (entry->unidentified >= kMaxUnidentified) {
      co_await (*stream)->Close();
      continue;
    }
    tasks_.Spawn(Identify(entry, std::move(*stream)));
  }
  co_await entry->listener->Close();
  while (entry->unidentified > 0) co_await Sleep(reactor_, 10ms);
  std::erase_if(entries_, [entry](const auto& other) { return other.get() == entry; });
  closed_.NotifyAll();
}

Task<void> ListenerPool::Identify(Entry* entry, std::unique_ptr<Stream> stream) {
  ++entry->unidentified;
  auto find = [entry, &stream]() -> Registration* {
    for (Registration& r : entry->registrations) {
      if (r.remote.SameHost(stream->remote_address())) return &r;
    }
    return nullptr;
  };
  Registration* registration = find();
  bool wanted = false;
  IncomingSocket socket;
  if (registration == nullptr) {
    reactor_.logger().Warn("listener {}: closed a connection from {}, which is no configured peer",
                           entry->local.ToString(), stream->remote_address().ToString());
  } else {
    std::byte raw[wire::kMinHeaderSize];
    size_t have = 0;
    {
      Deadline deadline(reactor_, *stream, registration->first_packet_timeout);
      while (have < sizeof raw) {
        iovec room{raw + have, sizeof raw - have};
        int32_t received = co_await stream->Receive({&room, 1});
        if (received <= 0) break;
        have += static_cast<size_t>(received);
      }
    }
    if (have == sizeof raw) {
      auto header = wire::DecodeHeader(raw);
      wanted = header && header->kind == wire::HeaderKind::kH80 && header->length == 0 &&
               (header->type == wire::PacketType::kInitialData ||
                header->type == wire::PacketType::kInitialMeta);
      if (wanted) {
        socket.kind = header->type == wire::PacketType::kInitialData ? wire::SocketKind::kData
                                                                     : wire::SocketKind::kControl;
      }
    }
  }
  registration = find();  // the table may have changed while we waited
  if (wanted && registration != nullptr && !entry->cancel->requested()) {
    socket.stream = std::move(stream);
    registration->client->OnIncoming(std::move(socket));
  } else {
    co_await stream->Close();
  }
  --entry->unidentified;
}

}  // namespace umblock::drbd
