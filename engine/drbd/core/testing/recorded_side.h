// One connection of a recording, seen from the place that a node of ours takes: what the recorded
// node there sent (expected of us) and what its peer sent (for the scripted peer to repeat), and
// what has to be prepared so that our node has the same to say. Tests only.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/drbd/config.h"
#include "engine/drbd/meta/superblock.h"
#include "engine/drbd/wire/config_packets.h"
#include "engine/drbd/wire/state_word.h"
#include "engine/drbd/wire/testing/capture_reader.h"

namespace umblock::drbd::testing {

// How a recorded connect ended.
enum class RecordedOutcome {
  kEstablished,  // in sync, or both without usable data
  kResync,       // bitmaps were exchanged
  kRefused,      // P_DISCONNECT: both StandAlone
  kAuthFailed,   // both StandAlone
};

struct RecordedStep {
  bool ours = false;  // sent by the node whose place we take
  wire::SocketKind socket = wire::SocketKind::kData;
  const wire::testing::CapturedPacket* packet = nullptr;

  wire::PacketType type() const { return packet->header.type; }
};

// What our node needs to look like before it connects.
struct RecordedNode {
  Role role = Role::kSecondary;
  DiskState disk = DiskState::kInconsistent;
  DiskState peer_disk = DiskState::kUnknown;
  bool has_disk = true;
  bool reconnect = false;
  bool discard_my_data = false;
  uint64_t d_size = 0;  // sectors
  uint64_t u_size = 0;
  uint64_t c_size = 0;
  uint32_t max_peers = 1;
  wire::Uuids110 uuids;
  std::vector<bool> bits;            // of the bitmap towards the peer
  bool large_bitmap_blocks = false;  // than our 4 KiB
  uint64_t dagtag = 0;
  NetOptions net;
  ResyncOptions resync{.c_min_rate = 0};
  uint32_t rs_discard_granularity = 0;
};

class RecordedSide {
 public:
  // `index`: which connection of the recording. `node`: whose place we take, 0 or 1.
  static RecordedSide Make(const std::string& recording, const wire::testing::Capture& capture,
                           size_t index, int node);

  std::string name;  // "93-93-writes-c/0/n1"
  int node = 0;
  int peer = 1;
  const wire::testing::CapturedLink* link = nullptr;
  std::vector<RecordedStep> all;  // in the order of the recording, without initial packets
  // Those that belong to the connect: up to Established, the beginning of a resync, or the end.
  std::vector<RecordedStep> connect;
  RecordedOutcome outcome = RecordedOutcome::kEstablished;
  RecordedNode prepared;
  std::string peer_secret;

 private:
  void FindHandshake();
  void Prepare(const std::string& recording, size_t index);
  void PrepareBits();
  const RecordedStep* First(bool ours, wire::PacketType type) const;
};

std::string SecretOf(const std::string& recording, size_t index, int node);

}  // namespace umblock::drbd::testing
