// PacketLog: what two simulated nodes sent each other, packet by packet, from a tap on the network.
// A packet is listed when its last byte was handed to the sender's socket.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "engine/drbd/wire/data_packets.h"
#include "engine/drbd/wire/header.h"
#include "engine/runtime/sim/connection.h"
#include "engine/runtime/sim/network.h"
#include "engine/runtime/sim/node.h"
#include "engine/runtime/sim/world.h"

namespace umblock::drbd::testing {

struct SeenPacket {
  SimTime at{};
  uint64_t connection = 0;
  int from = 0;  // index of the node
  wire::Header header;
  std::vector<std::byte> front;  // the first bytes of the payload, up to 64

  wire::PacketType type() const { return header.type; }
  wire::DataHead data_head() const { return *wire::DataHead::Decode(front); }
};

class PacketLog {
 public:
  explicit PacketLog(SimWorld& world) : world_(world) {
    world.network().SetTap(
        [this](SimConnection& c, int from_end, Bytes bytes) { OnBytes(c, from_end, bytes); });
  }
  ~PacketLog() { world_.network().SetTap(nullptr); }

  // Called with each packet, at once.
  std::function<void(const SeenPacket&)> on_packet;

  const std::vector<SeenPacket>& packets() const { return packets_; }
  void Clear() { packets_.clear(); }
  size_t Count(int from, wire::PacketType type) const {
    return static_cast<size_t>(std::count_if(packets_.begin(), packets_.end(), [=](auto& p) {
      return p.from == from && p.type() == type;
    }));
  }
  std::vector<SeenPacket> Of(int from, std::initializer_list<wire::PacketType> types) const {
    std::vector<SeenPacket> result;
    for (const SeenPacket& packet : packets_) {
      if (packet.from == from &&
          std::find(types.begin(), types.end(), packet.type()) != types.end())
        result.push_back(packet);
    }
    return result;
  }
  // The live connection that carries data (or control) now; its number as a SimConnection.
  uint64_t data_connection() const { return data_; }
  uint64_t control_connection() const { return control_; }

 private:
  struct Pipe {
    std::vector<std::byte> bytes;
    bool broken = false;
  };

  void OnBytes(SimConnection& connection, int from_end, Bytes bytes) {
    Pipe& pipe = pipes_[{connection.id(), from_end}];
    if (pipe.broken) return;
    pipe.bytes.insert(pipe.bytes.end(), bytes.begin(), bytes.end());
    size_t at = 0;
    while (true) {
      Bytes rest = Bytes(pipe.bytes).subspan(at);
      auto header = wire::DecodeHeader(rest);
      if (!header) {
        pipe.broken = header.error() != wire::HeaderError::kIncomplete;
        break;
      }
      if (rest.size() < header->size() + header->length) break;
      SeenPacket packet{
          world_.now(), connection.id(), connection.node(from_end).index(), *header, {}};
      Bytes payload = rest.subspan(header->size(), header->length);
      packet.front.assign(payload.begin(), payload.begin() + static_cast<long>(std::min<size_t>(
                                                                 payload.size(), 64)));
      if (header->type == wire::PacketType::kInitialData) data_ = connection.id();
      if (header->type == wire::PacketType::kInitialMeta) control_ = connection.id();
      at += header->size() + header->length;
      packets_.push_back(packet);
      if (on_packet) on_packet(packet);
    }
    pipe.bytes.erase(pipe.bytes.begin(), pipe.bytes.begin() + static_cast<long>(at));
  }

  SimWorld& world_;
  std::map<std::pair<uint64_t, int>, Pipe> pipes_;
  std::vector<SeenPacket> packets_;
  uint64_t data_ = 0;
  uint64_t control_ = 0;
};

}  // namespace umblock::drbd::testing
