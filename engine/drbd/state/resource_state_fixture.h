// Test support: a healthy resource as a value, and one change applied to it.
#pragma once

#include <string>
#include <vector>

#include "engine/drbd/state/resource_state.h"

namespace umblock::drbd::testing {

using Repl = ReplicationState;
using Disk = DiskState;
using Conn = ConnectionState;

// Node 0 with one volume; `peers` connected peers 1.., everything UpToDate.
inline ResourceState Healthy(int peers = 1) {
  ResourceState s;
  s.own_node = 0;
  s.volumes.resize(1);
  s.volumes[0].disk = Disk::kUpToDate;
  s.volumes[0].disk_from_metadata = Disk::kUpToDate;
  for (int node = 1; node <= peers; ++node) {
    s.peer(node).configured = true;
    s.peer(node).connection = Conn::kConnected;
    s.peer(node).role = Role::kSecondary;
    s.peer(node).agreed_version = 124;
    PeerDeviceState& pd = s.volumes[0].peer(node);
    pd.repl = Repl::kEstablished;
    pd.disk = Disk::kUpToDate;
    pd.uuids_known = pd.peer_stable = true;
    pd.peer_quorum = true;
    s.volumes[0].slots[static_cast<size_t>(node)] = {true, true, true, false};
  }
  s.members = (NodeMask{1} << (peers + 1)) - 1;
  return s;
}
inline VolumeState& Vol(ResourceState& s) { return s.volumes[0]; }
inline PeerDeviceState& Dev(ResourceState& s, int node = 1) { return s.volumes[0].peer(node); }

struct Result {
  ResourceState state;
  SanitizeNotes notes;
  StateResult code = StateResult::kSuccess;
  std::string text;
};
// `edit` applied to `now`, sanitised and checked.
template <typename Edit>
Result Change(const ResourceState& now, Edit edit, ChangeOptions options = {}) {
  Result result{now, {}};
  edit(result.state);
  result.notes = Sanitize(now, result.state, options);
  const StateCheck check = CheckTransition(now, result.state, options);
  if (!check) {
    result.code = check.error().code;
    result.text = check.error().text();
  }
  return result;
}
inline constexpr ChangeOptions kHard{.hard = true};

inline auto SetConnection(int node, Conn to) {
  return [=](ResourceState& s) { s.peer(node).connection = to; };
}
inline void Promote(ResourceState& s) { s.role = Role::kPrimary; }
inline void Demote(ResourceState& s) { s.role = Role::kSecondary; }

}  // namespace umblock::drbd::testing
