// A recording of replication traffic as DRBD packets, per connection, direction and socket; made
// for tests that decode everything, and for tests that script a recorded peer.
//
//   auto capture = Capture::Read(CapturePath("93-93-writes-c"));
//   for (const CapturedLink& link : capture->links())
//     for (const CapturedEvent& event : link.Timeline()) ...
//
// Reads files, holds everything in memory, aborts on nothing: a recording that cannot be parsed is
// an Error. Tests only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/drbd/wire/config_packets.h"
#include "engine/drbd/wire/header.h"
#include "engine/drbd/wire/testing/tcp_reassembler.h"

namespace umblock::drbd::wire::testing {

struct CapturedPacket {
  int64_t time_ns = 0;  // of its last byte; since 1970, UTC
  Header header;
  std::vector<std::byte> bytes;  // header and payload

  Bytes payload() const { return Bytes(bytes).subspan(header.size()); }
};

// One TCP connection.
struct CapturedSocket {
  TcpEndpoint client;  // who connected
  TcpEndpoint server;
  SocketKind kind = SocketKind::kData;  // from the initial packet
  bool initial_seen = false;            // false: closed before any packet
  int64_t opened_ns = 0;
  int64_t closed_ns = -1;  // -1: open when the recording ended
  // [0] sent by the client, the initial packet first; [1] sent by the server.
  std::array<std::vector<CapturedPacket>, 2> sent;
  // Bytes at the end of each stream that are no whole packet (the connection broke off there).
  std::array<size_t, 2> leftover_bytes{};

  const std::vector<CapturedPacket>& SentBy(uint32_t ip) const {
    return sent[ip == client.ip ? 0 : 1];
  }
};

struct CapturedEvent {
  uint32_t sender_ip = 0;
  SocketKind socket = SocketKind::kData;
  const CapturedPacket* packet = nullptr;
};

// A DRBD connection between two nodes: from the features to the end of its sockets.
struct CapturedLink {
  std::array<uint32_t, 2> ips{};  // ascending
  std::array<ConnectionFeatures, 2> features;
  int protocol = 0;  // agreed
  uint32_t agreed_features = 0;
  const CapturedSocket* data = nullptr;     // never null
  const CapturedSocket* control = nullptr;  // null if it was not recorded

  // Both sockets and both directions, by time. What the same node sent on the same socket stays in
  // order.
  std::vector<CapturedEvent> Timeline() const;
};

class Capture {
 public:
  // A .pcapng file, plain or gzipped.
  static Result<Capture> Read(const std::string& path);

  Capture(Capture&&) noexcept = default;
  Capture& operator=(Capture&&) noexcept = default;

  const std::deque<CapturedSocket>& sockets() const { return sockets_; }  // by time of the SYN
  const std::vector<CapturedLink>& links() const { return links_; }       // by that of data

 private:
  Capture() = default;
  void FindLinks();

  std::deque<CapturedSocket> sockets_;
  std::vector<CapturedLink> links_;
};

// One row of the packet table in the text file that belongs to a recording.
struct CapturedCount {
  std::string type;    // "P_DATA"
  std::string socket;  // "data" or "meta"
  std::string node;    // "n1"
  size_t header_size = 0;
  size_t count = 0;
  auto operator<=>(const CapturedCount&) const = default;
};
Result<std::vector<CapturedCount>> ReadCapturedCounts(const std::string& text_path);

// The recordings in the source tree; the names are those of the files without suffix.
std::string CaptureDirectory();
std::string CapturePath(std::string_view name);                       // .pcapng.gz
std::vector<std::string> ListCaptures(const std::string& directory);  // paths, sorted

}  // namespace umblock::drbd::wire::testing
