// Who is weak, who is stable, who belongs to the partition: masks of node ids
// (drbd-states.md 1.2, 4.5, 6.5; drbd-metadata-resync.md 4.4).
#pragma once

#include <cstdint>

#include "engine/drbd/state/node_mask.h"
#include "engine/drbd/state/state_result.h"

namespace umblock::drbd {

// What a Primary with accessible data reports as weak: everybody it does not see directly.
constexpr NodeMask WeakNodesOfPrimary(int self, NodeMask direct) {
  return ~(direct | NodeBit(self));
}

// Stable: self is Primary, or no connected neighbour is.
constexpr bool IsStable(bool self_primary, NodeMask connected_primaries) {
  return self_primary || connected_primaries == 0;
}

// 4.5: may the Primaries of the cluster see each other only through others?
struct PrimaryDistance {
  int self = 0;
  NodeMask primary_nodes = 0;
  NodeMask weak_nodes = 0;
  NodeMask connections = 0;          // own configured connections
  NodeMask allow_two_primaries = 0;  // those with allow-two-primaries
  bool self_has_disk = false;        // any local disk
};
StateResult CheckPrimaryDistance(const PrimaryDistance& in);

// 6.5: the member mask after an event.
struct MemberCommit {
  int self = 0;
  bool is_initiator = false;
  NodeMask reachable = 0;     // accumulated, or from the COMMIT
  bool has_reachable = true;  // the COMMIT carries reachable_nodes
  bool connect = false;
  int initiator = kNoNode;
  int target = kNoNode;
  bool own_volumes_have_quorum = false;
  bool neighbour_has_quorum = false;  // some neighbour reports quorum on all volumes
};
NodeMask MembersAfterCommit(NodeMask members, const MemberCommit& commit);
constexpr NodeMask MembersAfterConnect(NodeMask members, int peer) {
  return members | NodeBit(peer);
}

// At commit: must this node outdate itself (4.7, 4.6.1)? A Primary with data exists that it cannot
// reach directly.
constexpr bool MustOutdateAtCommit(int self, NodeMask primary_nodes, NodeMask direct,
                                   bool primaries_incapable) {
  return !primaries_incapable && (primary_nodes & ~(direct | NodeBit(self))) != 0;
}

}  // namespace umblock::drbd
