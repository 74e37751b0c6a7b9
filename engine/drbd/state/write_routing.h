// What a write does to each peer: the table drbd-io-path.md A.6, DRBD 9 column.
//
// Never both: a peer either gets the data (and owes an ack and a barrier ack), or an out-of-sync
// note, or nothing (its bit is set when the write is done). The epoch is closed whenever the answer
// changes for any peer (INV-16).
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "engine/drbd/state/node_mask.h"
#include "engine/drbd/wire/state_word.h"

namespace umblock::drbd {

enum class WriteRoute : uint8_t { kNothing, kData, kOutOfSync };

// `replication`: the 9.3 switch "resync without replication" (G.6); true when the feature was not
// agreed.
constexpr WriteRoute RouteWrite(DiskState peer_disk, ReplicationState repl, bool replication) {
  if (repl < ReplicationState::kEstablished) return WriteRoute::kNothing;
  if (repl == ReplicationState::kWFBitMapS || repl == ReplicationState::kAhead) {
    return WriteRoute::kOutOfSync;
  }
  switch (peer_disk) {
    case DiskState::kUpToDate:
      return WriteRoute::kData;
    case DiskState::kInconsistent: {
      const bool receives =
          repl == ReplicationState::kEstablished ||
          (repl >= ReplicationState::kWFBitMapT && repl <= ReplicationState::kPausedSyncT);
      if (!receives) return WriteRoute::kNothing;
      return replication ? WriteRoute::kData : WriteRoute::kOutOfSync;
    }
    case DiskState::kOutdated:
      return WriteRoute::kOutOfSync;
    default:  // Consistent: the bit is set at done; no disk or unknown: nothing to send to
      return WriteRoute::kNothing;
  }
}

}  // namespace umblock::drbd
