// What a node tells a peer about its data generations (P_UUIDS110, P_CURRENT_UUID), and how to make
// it from the own state (drbd-metadata-resync.md 4.9, drbd-wire.md 5.4.2).
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "engine/drbd/state/uuid_set.h"
#include "engine/drbd/wire/config_packets.h"

namespace umblock::drbd {

// One UUID packet, dialect-free. A peer without a disk sends only `current` (its exposed UUID) and
// `node_mask` (weak nodes); then `present` is 0.
struct PeerUuids {
  uint64_t current = 0;
  uint64_t dirty_bits = 0;
  uint64_t flags = 0;      // wire::kUuidFlag*
  NodeMask node_mask = 0;  // STABLE: weak nodes; otherwise the authoritative nodes
  NodeMask present = 0;    // bitmap[n] was in the packet
  std::array<uint64_t, kNodeIds> bitmap{};
  std::array<uint64_t, kHistoryUuids> history{};

  // The bitmap UUID for `node`; kUuidUnknown if absent.
  uint64_t BitmapFor(int node) const {
    return Contains(present, node) ? bitmap[static_cast<size_t>(node)] : kUuidUnknown;
  }
  bool Has(uint64_t flag) const { return (flags & flag) != 0; }
  bool InHistory(uint64_t uuid) const;

  bool operator==(const PeerUuids&) const = default;
};

// Everything beside the UuidSet that goes into a UUID packet to one peer.
struct UuidSendContext {
  int peer_node = 0;
  int agreed_version = 124;
  int max_peers = 1;
  NodeMask with_slot = 0;    // entries with a bitmap slot
  NodeMask node_exists = 0;  // entries with NODE_EXISTS
  NodeMask configured = 0;   // ids with a connection object
  uint64_t dirty_bits = 0;   // bits set in the slot for the peer, in own bitmap blocks

  // SyncTarget of another node: its current UUID stands in for ours.
  int sync_source = kNoNode;
  uint64_t sync_source_current = 0;
  // Nodes we are SyncTarget or PausedSyncT of whose (known) current UUID differs from ours.
  NodeMask target_of_newer = 0;

  bool discard_my_data = false;
  bool crashed_primary = false;
  bool inconsistent = false;
  bool stable = false;
  bool reconnect = false;
  bool primary_lost_quorum = false;
  uint64_t extra_flags = 0;  // NEW_DATAGEN, SKIP_INITIAL_SYNC, GOT_STABLE, RESYNC, ...

  NodeMask weak = 0;           // with NEW_DATAGEN, and of a Primary
  NodeMask authoritative = 0;  // without STABLE: the Primary neighbours
};

// Between the packets and the value. A P_CURRENT_UUID has no flags: STABLE is not assumed.
PeerUuids FromWire(const wire::Uuids110& packet);
PeerUuids FromWire(const wire::CurrentUuid& packet);
wire::Uuids110 ToWire(const PeerUuids& uuids);

PeerUuids BuildUuidsFor(const UuidSet& own, const UuidSendContext& context);

// The own current UUID as a peer sees it.
uint64_t ResolvedCurrent(const UuidSet& own, const UuidSendContext& context);

// What must be remembered of the packet sent during a connect handshake, to notice a change before
// it is committed (rule 0 of 5.2).
struct SentUuids {
  uint64_t current = 0;
  uint64_t bitmap = 0;
  uint64_t flags = 0;  // INCONSISTENT ignored

  static SentUuids Of(const PeerUuids& sent, int peer_node);
  bool SameAs(const SentUuids& now) const;
};

}  // namespace umblock::drbd
