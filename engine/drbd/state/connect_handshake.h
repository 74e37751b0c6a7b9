// When is one side of a connect handshake ready (drbd-states.md 4.8, drbd-wire.md 5.8.5)?
//
// The transaction "connection -> Connected" may be answered or decided only when every locally
// configured volume has received, after the PREPARE, the peer's UUIDs and then its state. Repeated
// states before the commit do not overwrite the first decision.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/drbd/state/sync_decision.h"
#include "engine/drbd/state/two_phase_commit.h"

namespace umblock::drbd {

class ConnectHandshake {
 public:
  // A PREPARE of the connect was sent (initiator) or accepted (target). Starts over.
  void Begin(std::vector<int> volumes);
  void End() { begun_ = false; }
  bool begun() const { return begun_; }

  // The peer's UUIDs for `volume` arrived; false = not counted (no PREPARE yet, unknown volume).
  bool OnUuids(int volume);
  // The peer's state arrived. True if the decision for this volume is due now: UUIDs are there and
  // none was stored yet. Then OnDecision follows.
  bool OnState(int volume);
  void OnDecision(int volume, const SyncDecision& decision);
  // Sizes that do not fit, a peer with a disk that is configured without one, ...
  void OnRefused() { wants_disconnect_ = true; }

  HandshakeState state() const;
  const SyncDecision* decision(int volume) const;
  // Volumes that would have become sync target: Outdated after a failed connect.
  std::vector<int> WouldBeTargets() const;

 private:
  struct Volume {
    int number = 0;
    bool uuids = false;
    std::optional<SyncDecision> decision;
  };
  Volume* Find(int volume);

  bool begun_ = false;
  bool wants_disconnect_ = false;
  std::vector<Volume> volumes_;
};

// Who starts the connect transaction: the lower node id (>= 118).
constexpr bool StartsConnect(int self, int peer) { return self < peer; }

// What the initiator does with the result of its connect attempt (4.8, last table).
enum class ConnectFollowUp : uint8_t {
  kConnected,
  kRetryIn50Ms,
  kOutdateAndRetryIn1s,
  kDisconnect,      // P_DISCONNECT, local outdate, StandAlone
  kWaitForReaders,  // up to auto-promote-timeout, then again
  kNetworkFailure,  // rebuild the connection
};
ConnectFollowUp AfterConnect(StateResult result, AfterSplitBrain rr_conflict,
                             bool primary_with_force_secondary);

}  // namespace umblock::drbd
