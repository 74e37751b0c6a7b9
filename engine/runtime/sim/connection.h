// SimConnection: one TCP connection, as both kernels see it.
//
// Two pipes, one per direction. A pipe takes bytes into the sender's socket buffer (as many as have
// room: that is all a completed send means), moves them in segments of arbitrary size, delivers
// them in order into the receiver's buffer, and frees room when the acknowledgement has come back.
// It can be cut after any byte; the two ends learn of it at different times.
// Ends outlive the streams of the programs: an end whose program closed it or died answers with a
// reset, an end whose machine has no power does not answer.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/socket_address.h"
#include "engine/runtime/sim/world.h"
#include "engine/runtime/stream.h"

namespace umblock {

class SimNetwork;
class SimNode;
class SimStream;
struct SimIncarnation;

// FIFO of bytes.
class SimByteQueue {
 public:
  size_t size() const { return bytes_.size() - head_; }
  bool empty() const { return size() == 0; }
  void Push(Bytes bytes);
  void PushFront(Bytes bytes);
  // Moves the first n bytes out.
  std::vector<std::byte> Pop(size_t n);
  // The first bytes, at most `limit`, into the buffers.
  size_t PopInto(std::span<const iovec> buffers, size_t limit);
  void Clear();

 private:
  void Compact();
  std::vector<std::byte> bytes_;
  size_t head_ = 0;
};

class SimConnection : public std::enable_shared_from_this<SimConnection> {
 public:
  struct EndSetup {
    SimNode* node;
    SimIncarnation* incarnation;
    SocketAddress address;
    StreamOptions options;
  };

  SimConnection(SimNetwork& network, uint64_t id, const EndSetup& client, const EndSetup& server);

  uint64_t id() const { return id_; }
  SimNode& node(int end) const { return *ends_[end].node; }
  const SocketAddress& address(int end) const { return ends_[end].address; }
  // Bytes that went from `end` so far: into its socket, and out of the network at the other side.
  uint64_t accepted(int from_end) const { return pipes_[from_end].accepted; }
  uint64_t delivered(int from_end) const { return pipes_[from_end].delivered; }
  // Nothing will ever happen on it any more.
  bool dead() const;

  // Faults. CutAfter: once `bytes` more bytes from `from_end` have been delivered, both directions
  // die; the other direction at an arbitrary byte. Silent: the ends are not told.
  void CutAfter(int from_end, uint64_t bytes, bool silent = false);
  // `at_once`: both ends learn of it now, and not one of them earlier.
  void Cut(bool silent = false, bool at_once = false);
  // Only this direction goes dead, unnoticed, after `bytes` more bytes.
  void MuteAfter(int from_end, uint64_t bytes);
  // Nothing arrives at either end until so long from now; it is late, not lost.
  void Hold(Duration duration);
  // True once a cut or mute of this direction has struck after its number of bytes.
  bool struck(int from_end) const { return pipes_[from_end].struck; }

  // For SimStream.
  void Attach(int end, SimStream* stream);
  size_t Send(int end, std::span<const iovec> buffers, size_t skip);
  // 1 or more bytes; 0 at the end of the stream; nullopt: nothing yet; negative errno.
  std::optional<int32_t> Receive(int end, std::span<const iovec> buffers);
  int error(int end) const { return ends_[end].error; }
  bool established(int end) const;
  bool shutdown_sent(int end) const { return ends_[end].shutdown_sent; }
  void ShutdownSend(int end);
  // The program lets go of its end: an orderly end after what is queued, or a reset if it left
  // bytes unread.
  void Close(int end);

  // For SimNetwork.
  bool attached(int end) const { return ends_[end].stream != nullptr; }
  void OnPathChanged(int from_end, bool blocked);
  void OnOwnerDied(int end, bool power_cut);
  bool OwnedBy(int end, const SimIncarnation& incarnation) const {
    return ends_[end].incarnation == &incarnation;
  }
  void OnAccepted(int end, SimIncarnation* incarnation) { ends_[end].incarnation = incarnation; }

 private:
  struct End {
    SimNode* node = nullptr;
    SimIncarnation* incarnation = nullptr;
    SocketAddress address;
    SimStream* stream = nullptr;
    int error = 0;        // positive errno once the connection is broken for this end
    bool closed = false;  // the program has let go of it
    bool gone = false;    // the machine lost power: it does not even answer
    bool fin_received = false;
    bool shutdown_sent = false;
  };
  struct Segment {
    SimTime arrival;
    std::vector<std::byte> bytes;
    bool fin = false;
  };
  struct Pipe {
    SimByteQueue waiting;  // accepted, not on the wire
    std::deque<Segment> wire;
    SimByteQueue received;
    uint64_t accepted = 0;
    uint64_t delivered = 0;
    uint64_t acked = 0;
    uint64_t consumed = 0;
    size_t send_buffer = 0;
    size_t receive_buffer = 0;
    SimTime link_free{};
    SimTime last_arrival{};
    SimTime blocked_since{};
    bool blocked = false;
    bool dead = false;  // takes bytes, delivers none
    bool fin_queued = false;
    bool fin_sent = false;
    bool ack_owed = false;
    bool giving_up = false;
    bool ack_scheduled = false;
    bool pump_scheduled = false;
    std::optional<uint64_t> cut_at;  // of `delivered`
    bool struck = false;
    bool cut_silent = false;
    bool cut_mutes = false;
  };

  void Pump(int from);
  void Arrive(int from);
  void Deliver(int from, Segment segment);
  void Acknowledge(int from);
  void PumpLater(int from, Duration delay);
  void Truncate(Pipe& pipe);
  void ScheduleAck(int from);
  void StartGiveUp(int from);
  void Break(int end, int error);
  void BreakLater(int end, int error, Duration delay);
  void SendReset(int from_end);
  void ReachedCut(int from);
  size_t InFlight(const Pipe& pipe) const;

  SimNetwork& network_;
  SimWorld& world_;
  const uint64_t id_;
  std::array<End, 2> ends_;
  std::array<Pipe, 2> pipes_;  // [i]: from end i to the other
};

}  // namespace umblock
