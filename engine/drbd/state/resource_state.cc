#include "engine/drbd/state/resource_state.h"

#include <algorithm>

#include "engine/drbd/state/disk_state.h"

namespace umblock::drbd {
namespace {

using Object = StateChange::Object;

std::string_view YesNo(bool value) { return value ? "yes" : "no"; }

// Collects the differences of one object.
struct Recorder {
  std::vector<StateChange>& out;
  Object object;
  int node = kNoNode;
  int volume = -1;

  void Add(std::string_view attribute, std::string_view from, std::string_view to) const {
    if (from != to) out.push_back({object, node, volume, attribute, from, to});
  }
  void Add(std::string_view attribute, bool from, bool to) const {
    Add(attribute, YesNo(from), YesNo(to));
  }
};

void DiffPeerDevice(const Recorder& r, const PeerDeviceState& a, const PeerDeviceState& b) {
  r.Add("replication", ReplicationStateName(a.repl), ReplicationStateName(b.repl));
  r.Add("peer-disk", DiskStateName(a.disk), DiskStateName(b.disk));
  r.Add("resync-suspended-user", a.resync_susp_user, b.resync_susp_user);
  r.Add("resync-suspended-peer", a.resync_susp_peer, b.resync_susp_peer);
  r.Add("resync-suspended-dependency", a.resync_susp_dependency || a.resync_susp_other,
        b.resync_susp_dependency || b.resync_susp_other);
  r.Add("resync-suspended-max-parallel", a.resync_susp_parallel, b.resync_susp_parallel);
}

}  // namespace

VolumeState* ResourceState::Volume(int number) {
  const auto it = std::ranges::find(volumes, number, &VolumeState::number);
  return it != volumes.end() ? &*it : nullptr;
}

const VolumeState* ResourceState::Volume(int number) const {
  const auto it = std::ranges::find(volumes, number, &VolumeState::number);
  return it != volumes.end() ? &*it : nullptr;
}

NodeMask ResourceState::configured() const {
  NodeMask mask = 0;
  for (int node = 0; node < kNodeIds; ++node) {
    if (peer(node).configured) mask |= NodeBit(node);
  }
  return mask;
}

NodeMask ResourceState::connected() const {
  NodeMask mask = 0;
  for (int node : Nodes(configured())) {
    if (peer(node).connected()) mask |= NodeBit(node);
  }
  return mask;
}

NodeMask ResourceState::connected_primaries() const {
  NodeMask mask = 0;
  for (int node : Nodes(connected())) {
    if (peer(node).role == Role::kPrimary) mask |= NodeBit(node);
  }
  return mask;
}

bool ResourceState::suspended() const {
  if (susp_user || susp_nod || susp_quorum || susp_uuid) return true;
  return std::ranges::any_of(peers, [](const PeerState& p) { return p.configured && p.susp_fen; });
}

bool MayBeUpToDate(const VolumeState& volume) {
  MayBeUpToDateInput input;
  for (size_t node = 0; node < input.slots.size(); ++node) {
    const QuorumSlot& slot = volume.slots[node];
    input.slots[node].known = slot.have_bitmap || slot.node_exists;
    input.slots[node].fencing = slot.fencing;
    input.slots[node].outdated = slot.outdated;
    input.slots[node].device_seen = slot.device_seen;
    input.slots[node].disk = volume.peers[node].disk;
  }
  return MayBeUpToDate(input);
}

bool DataAccessible(const ResourceState& state, const VolumeState& volume) {
  if (volume.disk == DiskState::kUpToDate) return true;
  for (int node : Nodes(state.configured())) {
    if (volume.peer(node).disk == DiskState::kUpToDate && state.peer(node).allow_remote_read) {
      return true;
    }
  }
  return false;
}

std::vector<StateChange> Diff(const ResourceState& a, const ResourceState& b) {
  std::vector<StateChange> out;
  const Recorder resource{out, Object::kResource};
  resource.Add("role", RoleName(a.role), RoleName(b.role));
  resource.Add("suspended-user", a.susp_user, b.susp_user);
  resource.Add("suspended-no-data", a.susp_nod, b.susp_nod);
  resource.Add("suspended-quorum", a.susp_quorum || a.susp_uuid, b.susp_quorum || b.susp_uuid);
  resource.Add("force-io-failures", a.fail_io, b.fail_io);

  const NodeMask nodes = a.configured() | b.configured();
  for (int node : Nodes(nodes)) {
    const Recorder connection{out, Object::kConnection, node};
    const PeerState& was = a.peer(node);
    const PeerState& is = b.peer(node);
    connection.Add("connection", ConnectionStateName(was.connection),
                   ConnectionStateName(is.connection));
    connection.Add("role", RoleName(was.role), RoleName(is.role));
    connection.Add("suspended-fencing", was.susp_fen, is.susp_fen);
  }

  static const VolumeState kInitial;
  std::vector<int> numbers;
  for (const VolumeState& volume : a.volumes) numbers.push_back(volume.number);
  for (const VolumeState& volume : b.volumes) numbers.push_back(volume.number);
  std::ranges::sort(numbers);
  const auto repeated = std::ranges::unique(numbers);
  numbers.erase(repeated.begin(), repeated.end());
  const auto find = [](const ResourceState& s, int number) -> const VolumeState& {
    const VolumeState* volume = s.Volume(number);
    return volume != nullptr ? *volume : kInitial;
  };
  for (int number : numbers) {
    const Recorder device{out, Object::kDevice, kNoNode, number};
    const VolumeState& was = find(a, number);
    const VolumeState& is = find(b, number);
    device.Add("disk", DiskStateName(was.disk), DiskStateName(is.disk));
    device.Add("quorum", was.have_quorum, is.have_quorum);
  }
  for (int number : numbers) {
    for (int node : Nodes(nodes)) {
      DiffPeerDevice({out, Object::kPeerDevice, node, number}, find(a, number).peer(node),
                     find(b, number).peer(node));
    }
  }
  return out;
}

wire::StateWord ToStateWord(const ResourceState& state, int peer, int volume) {
  wire::StateWord word;
  word.role = state.role;
  word.peer_role = state.peer(peer).role;
  word.connection = state.peer(peer).connection;
  word.suspended_by_user = state.susp_user || state.susp_quorum || state.susp_uuid;
  word.suspended_no_data = state.susp_nod;
  word.suspended_fencing = state.peer(peer).susp_fen;
  const VolumeState* v = state.Volume(volume);
  if (v == nullptr) return word;
  const PeerDeviceState& pd = v->peer(peer);
  word.replication = pd.repl;
  word.disk = v->disk;
  word.peer_disk = pd.disk;
  const bool source =
      pd.repl == ReplicationState::kSyncSource || pd.repl == ReplicationState::kPausedSyncS;
  word.paused_after = pd.resync_susp_dependency || pd.resync_susp_other ||
                      (source && v->disk <= DiskState::kInconsistent);
  word.paused_by_peer = pd.resync_susp_peer;
  word.paused_by_user = pd.resync_susp_user;
  word.quorum = v->have_quorum;
  return word;
}

void ApplyPeerStateWord(ResourceState& next, int peer, int volume, const wire::StateWord& word,
                        bool peer_inconsistent) {
  next.peer(peer).role = word.role;
  VolumeState* v = next.Volume(volume);
  if (v == nullptr) return;
  PeerDeviceState& pd = v->peer(peer);
  pd.disk = ResolvePeerDisk(word.disk, peer_inconsistent);
  pd.resync_susp_peer = word.paused_after || word.paused_by_user;
  pd.peer_quorum = word.quorum;
}

}  // namespace umblock::drbd
