// PeerDevice: one volume towards one peer — what the peer said about it, and what runs between the
// two now (bitmap exchange, resync, verify). The states themselves (replication, peer disk) are in
// ResourceState. Lives as long as both volume and connection are configured; the part that belongs
// to one connect is reset by OnConnecting(). Threading: one reactor.
#pragma once

#include <memory>
#include <optional>

#include "engine/drbd/core/resync_source.h"
#include "engine/drbd/core/resync_target.h"
#include "engine/drbd/core/verify_source.h"
#include "engine/drbd/core/verify_tally.h"
#include "engine/drbd/core/verify_target.h"
#include "engine/drbd/meta/bitmap.h"
#include "engine/drbd/state/handshake_report.h"
#include "engine/drbd/state/peer_uuids.h"
#include "engine/drbd/state/resource_state.h"
#include "engine/drbd/wire/bitmap_stream.h"
#include "engine/drbd/wire/config_packets.h"
#include "engine/drbd/wire/state_word.h"

namespace umblock::drbd {

class Connection;
class Volume;

class PeerDevice {
 public:
  PeerDevice(Volume& volume, Connection& connection);
  ~PeerDevice();
  PeerDevice(const PeerDevice&) = delete;
  PeerDevice& operator=(const PeerDevice&) = delete;

  Volume& volume() { return volume_; }
  Connection& connection() { return connection_; }
  int node() const { return node_; }
  int volume_number() const;
  // "peer-volume r0/1/0"
  const std::string& name() const { return name_; }

  const PeerDeviceState& state() const;
  // The bitmap slot for this peer, if there is a disk and a slot.
  std::optional<uint32_t> slot() const;
  uint64_t out_of_sync_bits() const;

  // --- one connect ---
  void OnConnecting();
  uint32_t NextSequence() { return ++packet_sequence_; }

  // Receives one bitmap packet in WFBitMapS/T. True when the peer's bitmap is complete.
  Result<bool> ReceiveBitmap(wire::PacketType type, Bytes payload);

  // The peer's side, as last heard.
  PeerUuids uuids;
  bool uuids_known = false;
  wire::Sizes sizes;
  bool sizes_known = false;
  std::optional<SentUuids> sent_uuids;  // in the handshake that is under way
  bool source_missed_end = false;       // marks of DetectFinishedResyncs
  bool peer_missed_end = false;
  bool bitmap_sent = false;      // ours, in this exchange
  bool bitmap_received = false;  // the peer's
  uint64_t bitmap_packets = 0;   // received so far, in all exchanges
  uint64_t rs_start_uuid = 0;
  wire::StateWord handshake_word;  // of the connect that is under way
  // What the last handshake, here or on an earlier link, decided.
  std::optional<HandshakeReport> handshake;
  ReplicationState reported{};   // the peer's own view, in its last state on this link
  bool consider_resync = false;  // decide again on the next state of the peer
  bool starting_owed = false;    // about to propose the resync that a new size owes
  uint64_t handlers_called = 0;  // the session in which a decision called handlers; 0: none
  bool starting_target = false;  // on the way from WFBitMapT or Behind to SyncTarget
  // Writes of the present generation may be missing there: the next one begins without this peer.
  bool misses_writes = false;

  // Payload bytes on this connection, and answers outstanding.
  uint64_t sent_bytes = 0;
  uint64_t received_bytes = 0;
  uint64_t equal_bytes = 0;        // found equal by digest in resyncs, not transferred
  uint64_t deallocated_bytes = 0;  // zeroes by a thin answer in resyncs, not transferred
  uint64_t pending = 0;
  uint64_t unacked = 0;

 private:
  class Sink;

  Volume& volume_;
  Connection& connection_;
  int node_;
  std::string name_;

 public:
  // After what they refer to.
  ResyncTarget target;
  ResyncSource source;
  VerifyTally verify;  // of the one that runs, or the last one
  VerifySource verify_source;
  VerifyTarget verify_target;
  // What the resource does for this device; joined before the device goes.
  TaskGroup tasks;

 private:
  uint32_t packet_sequence_ = 0;
  std::unique_ptr<Sink> sink_;
  std::optional<wire::BitmapReceiver> bitmap_receiver_;
};

}  // namespace umblock::drbd
