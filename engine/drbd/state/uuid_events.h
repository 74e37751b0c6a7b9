// What happens to the UUIDs of a volume when something is learnt or finished: a new generation
// announced by a Primary, a resync starting and ending, resyncs that ended elsewhere, the initial
// sync skipped or forced (drbd-metadata-resync.md 4.4, 4.6, 4.7, 4.8).
#pragma once

#include <cstdint>

#include "engine/drbd/state/peer_uuids.h"
#include "engine/drbd/state/uuid_set.h"

namespace umblock::drbd {

// The weak-node mask a Primary sends: everybody but itself (if UpToDate) and the peers whose disk
// is neither <= Failed nor DUnknown nor Outdated (4.4). Bits of unknown nodes are set.
NodeMask WeakNodesOfDevice(int own_node, DiskState own_disk, const UuidPeers& peers);

// --- 4.4: P_UUIDS110 with NEW_DATAGEN, or P_CURRENT_UUID of a diskless Primary -----------------
struct NewDatagenInput {
  uint64_t new_current = 0;
  NodeMask weak = 0;
  uint64_t dagtag = 0;  // last dagtag received on that connection
  DiskState own_disk = DiskState::kUpToDate;
  bool own_primary = false;
  // Nodes we are SyncTarget, PausedSyncT or Behind of.
  NodeMask target_of = 0;
  uint64_t predecessor_if_new = 0;
};
struct NewDatagenResult {
  // We are a sync target: nothing was stored; remember the value as the current UUID of these.
  NodeMask remember_for = 0;
  bool adopted = false;
  NodeMask marked = 0;  // got a new bitmap UUID: they get our UUIDs too
};
NewDatagenResult ReceiveNewDatagen(UuidSet& own, const UuidPeers& peers,
                                   const NewDatagenInput& input);

// --- 4.7 (>= 110): start and end of a resync on the target -------------------------------------
struct ResyncStart {
  uint64_t rs_start = 0;  // keep until the end of the resync
  NodeMask marked = 0;
};
ResyncStart StartResyncAsTarget(UuidSet& own, const UuidPeers& peers, const PeerUuids& source,
                                uint64_t dagtag, uint64_t predecessor_if_new);

struct ResyncFinish {
  // Nodes whose bitmap UUID became rs_start: Outdated in our view if they showed a newer state.
  NodeMask behind = 0;
};
// Only for a stable resync without failed blocks. `on_source_current` = connected diskful peers
// whose current UUID already is the source's.
ResyncFinish FinishResyncAsTarget(UuidSet& own, const UuidPeers& peers, const PeerUuids& source,
                                  uint64_t rs_start, NodeMask on_source_current, bool primary,
                                  uint64_t dagtag);

// End on the source, and the connect or remote attach that needs no resync (4.7, 5.8): the own
// bitmap UUID towards `peer` goes to the history; the caller clears the slot's bits.
bool DropBitmapUuid(UuidSet& own, int peer);

// A full sync began as source, both UUIDs real: the peer's current becomes its bitmap UUID, so that
// an interrupted full sync resumes by bitmap (5.8).
void SetAllAsSource(UuidSet& own, int peer, uint64_t peer_current, uint64_t dagtag);

// --- 4.8: resyncs whose end was missed, on every received UUID set -----------------------------
struct DetectInput {
  int peer_node = 0;
  int agreed_version = 124;
  bool repl_off = false;       // connecting: no replication with this peer yet
  uint64_t own_resolved = 0;   // own current UUID as sent
  bool own_is_target = false;  // sync target of a third node
  uint64_t own_bits = 0;       // bits in the slot for the peer
  NodeMask known = 0;          // entries with a slot or NODE_EXISTS
  NodeMask unconnected = 0;    // ids without replication at this moment
};
struct DetectResult {
  bool peer_missed_end = false;    // the peer was SyncSource and did not see the end
  bool source_missed_end = false;  // we were
  NodeMask clear_bits = 0;         // slots whose bits become 0
  struct Copy {
    int from = kNoNode;
    int to = kNoNode;
    bool operator==(const Copy&) const = default;
  };
  std::array<Copy, kNodeIds> copy{};  // slots to copy, in this order
  int copies = 0;
  bool changed = false;  // write the superblock, send own UUIDs to the others
};
DetectResult DetectFinishedResyncs(UuidSet& own, const UuidPeers& peers, const PeerUuids& from,
                                   const DetectInput& input);

// --- 4.6: the initial sync skipped -------------------------------------------------------------
// new-current-uuid --clear-bitmap on the node where it is asked for. All bitmaps are to be cleared
// and written, then the UUIDs sent with SKIP_INITIAL_SYNC. Refused (false) if the own current UUID
// names a generation.
bool SkipInitialSync(UuidSet& own, const UuidPeers& peers, bool primary, uint64_t dagtag,
                     uint64_t random_current, uint64_t predecessor_if_new);
// The receiver of SKIP_INITIAL_SYNC; false = the packet does not ask this of us.
bool AdoptSkippedInitialSync(UuidSet& own, const PeerUuids& from, int peer_node, bool established,
                             int agreed_version);

}  // namespace umblock::drbd
