#include "engine/runtime/sim/network.h"

#include <algorithm>
#include <cerrno>

#include "engine/base/assert.h"
#include "engine/runtime/sim/connection.h"
#include "engine/runtime/sim/node.h"
#include "engine/runtime/sim/reactor.h"
#include "engine/runtime/sim/stream.h"

namespace umblock {
namespace {

constexpr Duration kFirstSynRetry = 1s;

bool IsWildcard(const SocketAddress& address) {
  const SocketAddress any = address.family() == SocketAddress::Family::kIpv4
                                ? SocketAddress::Ipv4({}, 0)
                                : SocketAddress::Ipv6({}, 0);
  return address.SameHost(any);
}

}  // namespace

// A connect on its way. Lives until the program's coroutine and all packets have let go of it.
struct SimNetwork::Attempt {
  SimReactor* reactor;
  SimIncarnation* incarnation;
  ConnectRequest request;
  WaitQueue* waiter = nullptr;  // in the waiting coroutine; null once that has given up
  bool done = false;
  int error = 0;
  std::shared_ptr<SimConnection> connection;
};

SimNetwork::SimNetwork(SimWorld& world) : world_(world), random_(world.Stream(0x6e6574)) {}
SimNetwork::~SimNetwork() = default;

bool SimNetwork::Blocked(const SimNode& from, const SimNode& to) const {
  if (&from == &to) return false;
  if (!from.powered() || !to.powered()) return true;
  const auto a = static_cast<size_t>(from.index());
  const auto b = static_cast<size_t>(to.index());
  return a < blocked_.size() && b < blocked_[a].size() && blocked_[a][b];
}

void SimNetwork::SetBlocked(const SimNode& from, const SimNode& to, bool blocked) {
  const bool before = Blocked(from, to);
  const size_t n = world_.nodes().size();
  blocked_.resize(n);
  for (auto& row : blocked_) row.resize(n);
  blocked_[static_cast<size_t>(from.index())][static_cast<size_t>(to.index())] = blocked;
  const bool after = Blocked(from, to);
  if (before != after) PathChanged(from, to, after);
}

void SimNetwork::OnPowerChanged(SimNode& node) {
  for (const auto& other : world_.nodes()) {
    if (other.get() == &node) continue;
    PathChanged(node, *other, Blocked(node, *other));
    PathChanged(*other, node, Blocked(*other, node));
  }
}

void SimNetwork::PathChanged(const SimNode& from, const SimNode& to, bool blocked) {
  for (const auto& connection : connections_) {
    for (int end = 0; end < 2; ++end) {
      if (&connection->node(end) == &from && &connection->node(1 - end) == &to) {
        connection->OnPathChanged(end, blocked);
      }
    }
  }
}

std::vector<std::shared_ptr<SimConnection>> SimNetwork::Connections(const SimNode& a,
                                                                    const SimNode& b) {
  std::vector<std::shared_ptr<SimConnection>> found;
  for (const auto& connection : connections_) {
    if (connection->dead()) continue;
    if ((&connection->node(0) == &a && &connection->node(1) == &b) ||
        (&connection->node(0) == &b && &connection->node(1) == &a)) {
      found.push_back(connection);
    }
  }
  return found;
}

void SimNetwork::Prune() {
  std::erase_if(connections_, [](const auto& connection) { return connection->dead(); });
}

void SimNetwork::OnCrash(SimIncarnation& dead, bool power_cut) {
  std::erase_if(listeners_,
                [&](SimListener* listener) { return &listener->reactor().incarnation() == &dead; });
  const std::vector<std::shared_ptr<SimConnection>> all = connections_;
  for (const auto& connection : all) {
    for (int end = 0; end < 2; ++end) {
      if (connection->OwnedBy(end, dead)) connection->OnOwnerDied(end, power_cut);
    }
  }
}

SimListener* SimNetwork::FindListener(const SocketAddress& address) {
  for (SimListener* listener : listeners_) {
    const SocketAddress& local = listener->local_address();
    if (local.port() != address.port()) continue;
    if (local.SameHost(address)) return listener;
    if (IsWildcard(local) && listener->reactor().node().HasAddress(address)) return listener;
  }
  return nullptr;
}

SimNode* SimNetwork::FindNode(const SocketAddress& address) {
  for (const auto& node : world_.nodes()) {
    if (node->HasAddress(address)) return node.get();
  }
  return nullptr;
}

Result<std::unique_ptr<Listener>> SimNetwork::Listen(SimReactor& reactor,
                                                     const ListenRequest& request) {
  SocketAddress local = request.local;
  if (local.port() == 0) local = local.WithPort(next_port_++);
  if (!IsWildcard(local) && !reactor.node().HasAddress(local)) {
    return std::unexpected(Error::FromErrno(EADDRNOTAVAIL, "listen on " + local.ToString()));
  }
  for (SimListener* other : listeners_) {
    const bool same_node = &other->reactor().node() == &reactor.node();
    const bool overlap = other->local_address().SameHost(local) || IsWildcard(local) ||
                         IsWildcard(other->local_address());
    if (same_node && overlap && other->local_address().port() == local.port()) {
      return std::unexpected(Error::FromErrno(EADDRINUSE, "listen on " + local.ToString()));
    }
  }
  auto listener =
      std::make_unique<SimListener>(reactor, *this, local, request.backlog, request.options);
  listeners_.push_back(listener.get());
  return listener;
}

void SimNetwork::Unlisten(SimListener* listener) { std::erase(listeners_, listener); }

Task<Result<std::unique_ptr<Stream>>> SimNetwork::Connect(SimReactor& reactor,
                                                          ConnectRequest request,
                                                          CancelToken cancel) {
  const std::string what = "connect to " + request.remote.ToString();
  SimNode& node = reactor.node();
  if (!request.bind_local || IsWildcard(request.local)) {
    const uint16_t port = request.bind_local ? request.local.port() : uint16_t{0};
    for (const SocketAddress& own : node.addresses()) {
      if (own.family() != request.remote.family()) continue;
      request.local = own.WithPort(port);
      break;
    }
  }
  if (!node.HasAddress(request.local)) {
    co_return std::unexpected(Error::FromErrno(EADDRNOTAVAIL, what));
  }
  if (request.local.port() == 0) {
    if (next_port_ < 32768) next_port_ = 32768;
    request.local = request.local.WithPort(next_port_++);
  }
  WaitQueue waiter(reactor);
  auto attempt = std::make_shared<Attempt>();
  attempt->reactor = &reactor;
  attempt->incarnation = &reactor.incarnation();
  attempt->request = request;
  attempt->waiter = &waiter;
  SendSyn(attempt, kFirstSynRetry);
  const Time deadline = reactor.Now() + request.timeout;
  WakeReason reason = WakeReason::kNotified;
  while (!attempt->done && reason == WakeReason::kNotified) {
    reason = co_await waiter.WaitFor(deadline - reactor.Now(), cancel);
  }
  attempt->waiter = nullptr;
  if (!attempt->done) {
    if (reason == WakeReason::kCancelled) {
      co_return MakeError(ErrorCode::kCancelled, "{}: cancelled", what);
    }
    co_return std::unexpected(Error::FromErrno(ETIMEDOUT, what));
  }
  if (attempt->error != 0) co_return std::unexpected(Error::FromErrno(attempt->error, what));
  co_return std::make_unique<SimStream>(reactor, std::move(attempt->connection), 0);
}

void SimNetwork::SendSyn(const std::shared_ptr<Attempt>& attempt, Duration retry) {
  if (attempt->waiter == nullptr || attempt->done || !attempt->incarnation->alive) return;
  SimNode* target = FindNode(attempt->request.remote);
  SimNode& source = attempt->reactor->node();
  if (target != nullptr && !Blocked(source, *target)) {
    world_.After(Latency(), SimEventKind::kNetwork, [this, attempt] { OnSyn(attempt); });
  }
  world_.After(retry, SimEventKind::kNetwork,
               [this, attempt, retry] { SendSyn(attempt, retry * 2); });
}

void SimNetwork::OnSyn(const std::shared_ptr<Attempt>& attempt) {
  if (!attempt->incarnation->alive || attempt->done || attempt->connection != nullptr) return;
  SimNode* target = FindNode(attempt->request.remote);
  SimNode& source = attempt->reactor->node();
  if (Blocked(source, *target)) return;
  if (Blocked(*target, source)) return;  // the answer would not arrive: nothing is established
  SimListener* listener = FindListener(attempt->request.remote);
  if (listener == nullptr || random_.Permille(refuse_permille_)) {
    world_.After(Latency(), SimEventKind::kNetwork,
                 [this, attempt] { Answer(attempt, ECONNREFUSED); });
    return;
  }
  if (!listener->HasRoom()) return;
  Prune();
  attempt->connection = std::make_shared<SimConnection>(
      *this, next_connection_++,
      SimConnection::EndSetup{&source, attempt->incarnation, attempt->request.local,
                              attempt->request.options},
      SimConnection::EndSetup{target, &listener->reactor().incarnation(), attempt->request.remote,
                              listener->options()});
  connections_.push_back(attempt->connection);
  if (connection_observer_ != nullptr) connection_observer_(attempt->connection);
  listener->Add(attempt->connection);
  world_.After(Latency(), SimEventKind::kNetwork, [this, attempt] { Answer(attempt, 0); });
}

void SimNetwork::Answer(const std::shared_ptr<Attempt>& attempt, int error) {
  if (!attempt->incarnation->alive || attempt->done) return;
  if (attempt->waiter == nullptr) {  // the program no longer wants it
    if (attempt->connection != nullptr) attempt->connection->Close(0);
    attempt->done = true;
    return;
  }
  attempt->done = true;
  attempt->error = error;
  attempt->waiter->NotifyAll();
}

}  // namespace umblock
