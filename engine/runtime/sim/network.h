// SimNetwork: who can reach whom, how fast, who listens where.
//
// Faults: partitions in both or one direction (packets vanish; what was sent is delivered late when
// the partition heals before TCP gives up), resets, cuts after a number of delivered bytes,
// refused connects. Threading: the world's.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "engine/runtime/sim/random.h"
#include "engine/runtime/sim/world.h"
#include "engine/runtime/stream.h"

namespace umblock {

class SimConnection;
class SimListener;
class SimNode;
class SimReactor;

struct SimLinkOptions {
  Duration min_latency = 30us;  // one way
  Duration max_latency = 400us;
  uint64_t bytes_per_second = uint64_t{1} << 30;
  uint32_t min_buffer = 4096;  // of sockets without a configured size, bytes
  uint32_t max_buffer = 1 << 20;
  uint32_t max_segment = 65536;
  Duration give_up = 120s;  // unacknowledged data for so long: the sender's kernel gives up
};

class SimNetwork {
 public:
  explicit SimNetwork(SimWorld& world);
  SimNetwork(const SimNetwork&) = delete;
  SimNetwork& operator=(const SimNetwork&) = delete;
  ~SimNetwork();

  // Links of connections made from now on.
  SimLinkOptions link;

  // Faults.
  void SetBlocked(const SimNode& from, const SimNode& to, bool blocked);
  void Partition(const SimNode& a, const SimNode& b, bool apart) {
    SetBlocked(a, b, apart);
    SetBlocked(b, a, apart);
  }
  // Each connection attempt is refused with this chance.
  void set_refuse_permille(uint32_t permille) { refuse_permille_ = permille; }
  // Live connections between two nodes, oldest first.
  std::vector<std::shared_ptr<SimConnection>> Connections(const SimNode& a, const SimNode& b);
  // Called with each connection as it is established.
  void SetConnectionObserver(std::function<void(const std::shared_ptr<SimConnection>&)> observer) {
    connection_observer_ = std::move(observer);
  }
  // Called with every run of bytes that an end (0: who connected) hands to its socket.
  using Tap = std::function<void(SimConnection&, int from_end, Bytes bytes)>;
  void SetTap(Tap tap) { tap_ = std::move(tap); }
  const Tap& tap() const { return tap_; }

  bool Blocked(const SimNode& from, const SimNode& to) const;
  Duration Latency() { return random_.Skewed(link.min_latency, link.max_latency); }
  SimRandom& random() { return random_; }
  SimWorld& world() { return world_; }

  // For SimReactor.
  Task<Result<std::unique_ptr<Stream>>> Connect(SimReactor& reactor, ConnectRequest request,
                                                CancelToken cancel);
  Result<std::unique_ptr<Listener>> Listen(SimReactor& reactor, const ListenRequest& request);
  // For SimListener.
  void Unlisten(SimListener* listener);
  // For SimNode.
  void OnCrash(SimIncarnation& dead, bool power_cut);
  void OnPowerChanged(SimNode& node);

 private:
  struct Attempt;

  void SendSyn(const std::shared_ptr<Attempt>& attempt, Duration retry);
  void OnSyn(const std::shared_ptr<Attempt>& attempt);
  void Answer(const std::shared_ptr<Attempt>& attempt, int error);
  SimListener* FindListener(const SocketAddress& address);
  SimNode* FindNode(const SocketAddress& address);
  void PathChanged(const SimNode& from, const SimNode& to, bool blocked);
  void Prune();

  SimWorld& world_;
  SimRandom random_;
  std::vector<std::vector<bool>> blocked_;  // [from][to], by node index
  std::vector<SimListener*> listeners_;
  std::vector<std::shared_ptr<SimConnection>> connections_;
  uint32_t refuse_permille_ = 0;
  uint16_t next_port_ = 32768;
  Tap tap_;
  std::function<void(const std::shared_ptr<SimConnection>&)> connection_observer_;
  uint64_t next_connection_ = 1;
};

}  // namespace umblock
