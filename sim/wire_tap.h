// WireTap: follows the packets of every connection between the nodes, from the bytes that the
// engine hands to its sockets, so that a fault can be aimed at a packet: cut inside this payload,
// lose that barrier ack, crash while the bitmap is on its way.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "engine/drbd/wire/header.h"
#include "engine/runtime/sim/connection.h"
#include "engine/runtime/sim/network.h"

namespace umblock::sim {

struct TappedPacket {
  SimConnection* connection;
  int from_end;
  drbd::wire::Header header;
  uint64_t start;  // of the header: bytes from the beginning of the stream
  uint64_t end;    // of the payload
  Bytes payload;   // as much of it as was handed over together with the header
};

class WireTap {
 public:
  using Observer = std::function<void(const TappedPacket&)>;

  // Called when a packet's header has been handed to the socket.
  WireTap(SimNetwork& network, Observer observer);

  uint64_t packets() const { return packets_; }

 private:
  struct Direction {
    std::array<std::byte, drbd::wire::kMaxHeaderSize> head;
    size_t have = 0;
    uint64_t at = 0;    // bytes seen
    uint64_t skip = 0;  // of a payload, still to come
    bool lost = false;  // not this protocol: not followed any more
  };

  void OnBytes(SimConnection& connection, int from_end, Bytes bytes);

  Observer observer_;
  std::map<uint64_t, std::array<Direction, 2>> directions_;  // by connection
  uint64_t packets_ = 0;
};

}  // namespace umblock::sim
