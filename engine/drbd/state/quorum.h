// Quorum of one volume (drbd-states.md section 6), computed from what is known of every node.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "engine/drbd/state/node_mask.h"
#include "engine/drbd/wire/state_word.h"

namespace umblock::drbd {

inline constexpr int kQuorumOff = 0;
inline constexpr int kQuorumMajority = 1024;
inline constexpr int kQuorumAll = 1025;

struct QuorumOptions {
  int quorum = kQuorumOff;  // kQuorumOff, kQuorumMajority, kQuorumAll, 1..32
  int minimum_redundancy = kQuorumOff;
  bool enabled() const { return quorum != kQuorumOff; }
  bool operator==(const QuorumOptions&) const = default;
};

// What the metadata say about a node id (flags of the peer entry).
struct QuorumSlot {
  bool have_bitmap = false;
  bool node_exists = false;
  bool device_seen = false;
  bool outdated = false;  // PEER_OUTDATED
  bool fencing = false;   // PEER_FENCING
  bool operator==(const QuorumSlot&) const = default;
};

// One configured peer, for this volume.
struct QuorumPeer {
  bool configured = false;
  bool replicating = false;  // repl above Off
  DiskState disk = DiskState::kUnknown;
  bool bitmap = true;      // false = intentionally diskless
  bool tiebreaker = true;  // an intentionally diskless peer counts as tiebreaker
  bool allow_remote_read = true;
  bool reports_quorum = false;  // quorum bit of its last state word
};

struct QuorumInput {
  int self = 0;
  QuorumOptions options;
  DiskState own_disk = DiskState::kDiskless;
  bool intentional_diskless = false;
  NodeMask quorumless = 0;                   // complement of members if quorate before, else none
  bool had_quorum = false;                   // the real value before this change
  std::array<QuorumSlot, kNodeIds> slots{};  // used if self has a disk
  std::array<QuorumPeer, kNodeIds> peers{};
};

struct QuorumResult {
  bool quorum = false;  // the real value; if the option is off, a majority is assumed
  bool by_tiebreaker = false;
  bool redundancy_missing = false;
  int up_to_date = 0;
  int present = 0;
  int outdated = 0;
  int quorumless = 0;
  int unknown = 0;
  int diskless = 0;
  int missing_diskless = 0;
  int quorate_peers = 0;
  int voters = 0;
  int threshold = 0;
  int redundancy_threshold = 0;
};
QuorumResult ComputeQuorum(const QuorumInput& in);

// "1 of 2 nodes visible, need 2 for quorum" and its siblings (2.3, D7).
std::string NoQuorumText(const QuorumInput& in, const QuorumResult& result);

}  // namespace umblock::drbd
