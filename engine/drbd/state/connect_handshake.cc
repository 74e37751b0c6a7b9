#include "engine/drbd/state/connect_handshake.h"

#include <algorithm>

namespace umblock::drbd {

void ConnectHandshake::Begin(std::vector<int> volumes) {
  begun_ = true;
  wants_disconnect_ = false;
  volumes_.clear();
  for (int number : volumes) volumes_.push_back({number, false, std::nullopt});
}

ConnectHandshake::Volume* ConnectHandshake::Find(int volume) {
  const auto it = std::ranges::find(volumes_, volume, &Volume::number);
  return it != volumes_.end() ? &*it : nullptr;
}

bool ConnectHandshake::OnUuids(int volume) {
  Volume* found = begun_ ? Find(volume) : nullptr;
  if (found == nullptr) return false;
  found->uuids = true;
  return true;
}

bool ConnectHandshake::OnState(int volume) {
  const Volume* found = begun_ ? Find(volume) : nullptr;
  return found != nullptr && found->uuids && !found->decision;
}

void ConnectHandshake::OnDecision(int volume, const SyncDecision& decision) {
  Volume* found = begun_ ? Find(volume) : nullptr;
  if (found != nullptr && !found->decision) found->decision = decision;
}

HandshakeState ConnectHandshake::state() const {
  if (!begun_) return HandshakeState::kNotNeeded;
  if (wants_disconnect_) return HandshakeState::kWantsDisconnect;
  bool retry = false;
  bool disconnect = false;
  for (const Volume& volume : volumes_) {
    if (!volume.decision) return HandshakeState::kPending;
    retry = retry || volume.decision->verdict == SyncVerdict::kRetry;
    disconnect = disconnect || volume.decision->verdict == SyncVerdict::kDisconnect;
  }
  if (retry) return HandshakeState::kWantsRetry;
  return disconnect ? HandshakeState::kWantsDisconnect : HandshakeState::kReady;
}

const SyncDecision* ConnectHandshake::decision(int volume) const {
  const auto it = std::ranges::find(volumes_, volume, &Volume::number);
  return it != volumes_.end() && it->decision ? &*it->decision : nullptr;
}

std::vector<int> ConnectHandshake::WouldBeTargets() const {
  std::vector<int> out;
  for (const Volume& volume : volumes_) {
    if (!volume.decision) continue;
    if (volume.decision->would_be_target || volume.decision->direction == SyncDirection::kTarget) {
      out.push_back(volume.number);
    }
  }
  return out;
}

ConnectFollowUp AfterConnect(StateResult result, AfterSplitBrain rr_conflict,
                             bool primary_with_force_secondary) {
  if (Succeeded(result)) return ConnectFollowUp::kConnected;
  switch (result) {
    case StateResult::kConcurrentStateChange:
    case StateResult::kTimeout:
      return ConnectFollowUp::kRetryIn50Ms;
    case StateResult::kHandshakeRetry:
      return ConnectFollowUp::kOutdateAndRetryIn1s;
    case StateResult::kCwFailedByPeer:
    case StateResult::kTwoPrimaries:
      return rr_conflict == AfterSplitBrain::kRetryConnect || primary_with_force_secondary
                 ? ConnectFollowUp::kOutdateAndRetryIn1s
                 : ConnectFollowUp::kDisconnect;
    case StateResult::kHandshakeDisconnect:
      return ConnectFollowUp::kDisconnect;
    case StateResult::kPrimaryReader:
      return ConnectFollowUp::kWaitForReaders;
    default:
      return ConnectFollowUp::kNetworkFailure;
  }
}

}  // namespace umblock::drbd
