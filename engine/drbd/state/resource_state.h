// The state of one resource as a value: every dimension of drbd-states.md part 1, of this node's
// view, together with the facts the rules ask for. A change works on a copy:
//
//   ResourceState next = now;  edit next;
//   Sanitize(now, next, context);                       // what follows from the request (2.4)
//   CheckTransition(now, next, options)                 // may it happen? (2.2, 2.3)
//   Diff(now, next)                                     // what to publish
//
// Configuration and facts (suffix or comment "config"/"fact") are edited in place, they are not
// state dimensions and never appear in a diff.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/drbd/state/fencing_policy.h"
#include "engine/drbd/state/node_mask.h"
#include "engine/drbd/state/quorum.h"
#include "engine/drbd/state/state_result.h"
#include "engine/drbd/wire/state_word.h"

namespace umblock::drbd {

enum class OnNoQuorum : uint8_t { kIoError = 0, kSuspendIo = 1 };
enum class OnNoData : uint8_t { kIoError = 0, kSuspendIo = 1 };

// One volume towards one peer.
struct PeerDeviceState {
  ReplicationState repl = ReplicationState::kOff;
  DiskState disk = DiskState::kUnknown;  // our view of the peer's disk
  bool resync_susp_user = false;
  bool resync_susp_peer = false;
  bool resync_susp_dependency = false;
  bool resync_susp_other = false;  // another connection is syncing this volume
  bool resync_susp_parallel = false;
  bool resync_active = false;
  bool replication = true;  // new data is mirrored during a resync (9.3)

  // Facts.
  bool bitmap = true;      // config: false = the peer is intentionally diskless
  bool tiebreaker = true;  // config
  bool uuids_known = false;
  bool peer_stable = false;        // STABLE in the peer's UUIDs
  bool peer_got_stable = false;    // GOT_STABLE, consumed by Sanitize (S22)
  bool try_other_sources = false;  // S23: ask an UpToDate peer for a resync
  bool current_uuid_equal = false;
  bool peer_quorum = false;        // quorum bit of its last state word
  bool handshake_running = false;  // packets of a connect handshake are exchanged, repl is Off
  uint64_t out_of_sync = 0;        // bits
  // 2.4.1, while the own disk is Negotiating: kBehind = no result, kOff = pending.
  ReplicationState negotiation_result = ReplicationState::kOff;

  bool resync_suspended() const {
    return resync_susp_user || resync_susp_peer || resync_susp_dependency || resync_susp_other ||
           resync_susp_parallel;
  }
  bool operator==(const PeerDeviceState&) const = default;
};

struct VolumeState {
  int number = 0;
  DiskState disk = DiskState::kDiskless;
  bool have_quorum = true;  // the enforced value
  bool quorum = true;       // the real one, tracked even with the option off

  // Facts.
  bool intentional_diskless = false;  // config
  int read_only_openers = 0;
  int read_write_openers = 0;
  bool restore_quorum = false;  // latch, 6.6
  bool negotiation_pending = false;
  DiskState disk_from_metadata = DiskState::kInconsistent;  // DiskStateFromMetadata
  bool may_be_up_to_date = true;                            // MayBeUpToDate, 7.1
  bool owes_new_uuid = false;
  std::array<QuorumSlot, kNodeIds> slots{};  // metadata slots, for quorum
  std::array<PeerDeviceState, kNodeIds> peers{};

  PeerDeviceState& peer(int node) { return peers[static_cast<size_t>(node)]; }
  const PeerDeviceState& peer(int node) const { return peers[static_cast<size_t>(node)]; }
  bool operator==(const VolumeState&) const = default;
};

// One peer (a connection).
struct PeerState {
  bool configured = false;
  ConnectionState connection = ConnectionState::kStandAlone;
  Role role = Role::kUnknown;
  bool susp_fen = false;

  // Config and facts.
  FencingPolicy fencing = FencingPolicy::kDontCare;
  bool allow_two_primaries = false;
  bool allow_remote_read = true;
  bool has_verify_alg = false;
  int agreed_version = 0;

  bool connected() const { return connection == ConnectionState::kConnected; }
  bool operator==(const PeerState&) const = default;
};

struct ResourceState {
  int own_node = 0;
  Role role = Role::kSecondary;
  bool susp_user = false;
  bool susp_nod = false;
  bool susp_quorum = false;
  bool susp_uuid = false;
  bool fail_io = false;
  NodeMask members = 0;

  // Config.
  QuorumOptions quorum;
  OnNoQuorum on_no_quorum = OnNoQuorum::kSuspendIo;
  OnNoData on_no_data = OnNoData::kIoError;

  std::array<PeerState, kNodeIds> peers{};
  std::vector<VolumeState> volumes;

  PeerState& peer(int node) { return peers[static_cast<size_t>(node)]; }
  const PeerState& peer(int node) const { return peers[static_cast<size_t>(node)]; }
  VolumeState* Volume(int number);
  const VolumeState* Volume(int number) const;
  NodeMask configured() const;
  NodeMask connected() const;
  NodeMask connected_primaries() const;
  bool suspended() const;  // 1.2
  bool operator==(const ResourceState&) const = default;
};

// Data of this volume is accessible: an UpToDate disk here, or at a readable peer (1.2).
bool DataAccessible(const ResourceState& state, const VolumeState& volume);

// 7.1, from the slots and the peers' disks of this state.
bool MayBeUpToDate(const VolumeState& volume);

// --- A change ------------------------------------------------------------------------------------

struct ChangeOptions {
  bool hard = false;                   // a fact that cannot be refused
  bool ignore_failed_outdate = false;  // S4
  bool ignore_openers = false;         // forced demotion
};

// 2.4: derives in `next` everything that follows from the request. Returns what cannot be kept in
// the state itself.
struct SanitizeNotes {
  bool maybe_crashed_primary = false;  // S2
  bool run_empty_transaction = false;  // a volume became Consistent and may return (4.9)
  bool newly_without_data = false;     // S30: a Primary lost the last UpToDate copy
};
SanitizeNotes Sanitize(const ResourceState& now, ResourceState& next, const ChangeOptions& options);

// 2.2 always, 2.3 unless hard. `next` is sanitized.
StateCheck CheckTransition(const ResourceState& now, const ResourceState& next,
                           const ChangeOptions& options);

// --- What changed --------------------------------------------------------------------------------

struct StateChange {
  enum class Object : uint8_t { kResource, kConnection, kDevice, kPeerDevice };
  Object object = Object::kResource;
  int node = kNoNode;
  int volume = -1;
  std::string_view attribute;  // "role", "connection", "disk", "replication", "peer-disk", ...
  std::string_view from;       // names, static strings
  std::string_view to;
  bool operator==(const StateChange&) const = default;
};
// In the order of events: resource, connections, devices, peer devices (10.1). Peers and volumes
// that exist on one side only count as changed from/to their initial values.
std::vector<StateChange> Diff(const ResourceState& before, const ResourceState& after);

// --- State words ---------------------------------------------------------------------------------

// The P_STATE for one peer and volume (1.6).
wire::StateWord ToStateWord(const ResourceState& state, int peer, int volume);

// The part of a received word that enters the own view while connected: peer role, peer disk
// (Negotiating resolved by `peer_inconsistent`), resync_susp_peer, quorum bit. The replication
// state is the sync decision's business.
void ApplyPeerStateWord(ResourceState& next, int peer, int volume, const wire::StateWord& word,
                        bool peer_inconsistent);

}  // namespace umblock::drbd
