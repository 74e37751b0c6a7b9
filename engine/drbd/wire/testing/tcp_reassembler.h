// TCP connections out of captured Ethernet frames: who connected, and both byte streams in order,
// with the time at which each byte was on the wire. Tests only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/base/bytes.h"

namespace umblock::drbd::wire::testing {

struct TcpEndpoint {
  uint32_t ip = 0;  // IPv4, host order
  uint16_t port = 0;
  auto operator<=>(const TcpEndpoint&) const = default;
};
std::string IpText(uint32_t ip);  // "192.0.2.11"

// One direction of a connection.
struct TcpStream {
  std::vector<std::byte> data;
  // Ascending: bytes up to `end` (exclusive) were complete at `time_ns`.
  struct Mark {
    size_t end;
    int64_t time_ns;
  };
  std::vector<Mark> marks;

  // When byte `index` had arrived in order.
  int64_t TimeOf(size_t index) const;
};

struct TcpConnection {
  TcpEndpoint client;  // who sent the SYN
  TcpEndpoint server;
  int64_t opened_ns = 0;
  int64_t closed_ns = -1;  // first FIN or RST; -1: none in the capture
  bool established = false;
  // [0] from the client, [1] from the server.
  std::array<TcpStream, 2> streams;
};

// Feed frames in the order of the capture. IPv4 only; everything else is skipped, and so are
// connections whose SYN was not recorded. Handles retransmission, reordering, overlap and reuse of
// ports; a gap that is never filled ends the stream there.
class TcpReassembler {
 public:
  void Add(int64_t time_ns, Bytes ethernet_frame);

  // In order of the SYNs.
  std::vector<TcpConnection> Take();

 private:
  struct Half {
    bool started = false;
    uint32_t first_sequence = 0;                       // of byte 0
    std::map<uint64_t, std::vector<std::byte>> early;  // by stream offset
  };
  struct Open {
    TcpConnection connection;
    std::array<Half, 2> halves;
  };
  struct Segment;

  void AddSegment(int64_t time_ns, const Segment& segment);
  static void Deliver(int64_t time_ns, uint64_t offset, Bytes data, Half& half, TcpStream& stream);

  std::vector<std::unique_ptr<Open>> all_;
  std::map<std::pair<TcpEndpoint, TcpEndpoint>, Open*> current_;  // by {client, server}
};

}  // namespace umblock::drbd::wire::testing
