#include "engine/drbd/state/membership.h"

namespace umblock::drbd {

StateResult CheckPrimaryDistance(const PrimaryDistance& in) {
  if (NodeCount(in.primary_nodes) <= 1) return StateResult::kSuccess;
  if (in.allow_two_primaries == 0) return StateResult::kTwoPrimaries;
  if ((in.primary_nodes & in.weak_nodes) == 0) return StateResult::kSuccess;
  // Primaries that do not see each other: only diskless ones with a storage node in between.
  const NodeMask common = ~in.weak_nodes;
  if (common == 0) return StateResult::kWeaklyConnected;
  if (Contains(in.primary_nodes, in.self) && in.self_has_disk) {
    return StateResult::kWeaklyConnected;
  }
  if ((in.connections & common & ~in.allow_two_primaries) != 0) return StateResult::kTwoPrimaries;
  return StateResult::kSuccess;
}

NodeMask MembersAfterCommit(NodeMask members, const MemberCommit& commit) {
  if (commit.is_initiator) return commit.reachable;
  if (commit.has_reachable && (commit.own_volumes_have_quorum || commit.neighbour_has_quorum)) {
    members = commit.reachable;
  }
  if (commit.connect) members |= NodeBit(commit.initiator) | NodeBit(commit.target);
  return members | NodeBit(commit.self);
}

}  // namespace umblock::drbd
