// HandshakeReport: what a handshake decided about one volume, for people and programs: the result,
// the rule, what each side brought to it, and the way out where there is one. A plain value.
#pragma once

#include <string>

#include "engine/drbd/state/sync_decision.h"

namespace umblock::drbd {

struct HandshakeReport {
  std::string verdict;  // "proceed", "disconnect", "retry"
  std::string result;   // "this node is the source of a resync, of the blocks marked in the bitmap"
  std::string way_out;  // what an operator can do; empty if nothing has to be done
  // The row of the rule table (drbd-metadata-resync.md 5.2) and what it gave, then what changed
  // that (5.5): "bitmap-self gave source-use-bitmap".
  std::string rule;
  // "BBBB…:AAAA… Secondary UpToDate, 3 blocks of 4 KiB marked, stable": current UUID, bitmap UUID
  // for the other side, role, disk, blocks of the bitmap for the other side, flags of the UUIDs.
  std::string own;
  std::string peer;
  int peer_node = kNoNode;

  // All of it in one line, for the log.
  std::string Line() const;
  bool operator==(const HandshakeReport&) const = default;
};

HandshakeReport Report(const SyncInput& in, const SyncDecision& decision);

}  // namespace umblock::drbd
