// Records what simulated nodes send each other as a pcapng file of TCP frames, so that tools which
// check real recordings can check ours. Bytes appear when a node hands them to its socket, in the
// order in which that happens. Tests only.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/runtime/sim/connection.h"
#include "engine/runtime/sim/network.h"

namespace umblock::drbd::testing {

class TrafficRecorder {
 public:
  // Taps the network of `world`, which outlives the recorder. One tap at a time.
  explicit TrafficRecorder(SimWorld& world);
  ~TrafficRecorder();
  TrafficRecorder(const TrafficRecorder&) = delete;
  TrafficRecorder& operator=(const TrafficRecorder&) = delete;

  const std::vector<std::byte>& contents() const { return file_; }
  Status WriteTo(const std::string& path) const;

 private:
  struct Flow {
    std::weak_ptr<SimConnection> connection;
    SocketAddress ends[2];
    uint32_t sequence[2] = {1000, 5000};
    bool closed = false;
  };
  void OnBytes(SimConnection& connection, int from, Bytes bytes);
  void CloseDead();
  void Frame(Flow& flow, int from, uint8_t flags, Bytes payload);
  void Block(uint32_t type, const std::vector<std::byte>& body);

  SimWorld& world_;
  std::map<uint64_t, Flow> flows_;  // by id
  std::vector<std::byte> file_;
};

}  // namespace umblock::drbd::testing
