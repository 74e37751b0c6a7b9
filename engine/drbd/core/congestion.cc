#include "engine/drbd/core/congestion.h"

#include <algorithm>

#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {
namespace {

constexpr Duration kPause = 1s;     // after the last write in flight
constexpr Duration kAgain = 100ms;  // while answers to resync requests are under way

bool TakesData(ReplicationState repl) {
  return repl == ReplicationState::kEstablished || repl == ReplicationState::kSyncSource;
}

}  // namespace

Congestion::Decide::Decide(Congestion* c)
    : umblock::Completion([](umblock::Completion* self, int32_t) noexcept {
        Congestion* of = static_cast<Decide*>(self)->congestion;
        of->deciding_ = false;
        of->React();
      }),
      congestion(c) {}

Congestion::CatchUp::CatchUp(Congestion* c)
    : Timer([](Timer* self) noexcept {
        Congestion* of = static_cast<CatchUp*>(self)->congestion;
        of->waiting_ = false;
        of->OnTimer();
      }),
      congestion(c) {}

Congestion::Congestion(Connection& connection) : connection_(connection) {}

bool Congestion::IsCongested(Volume& volume) const {
  const NetOptions& net = connection_.config().net;
  if (volume.state().disk != DiskState::kUpToDate || volume.disk() == nullptr) return false;
  const PeerDevice* device = volume.peer(connection_.node());
  if (device == nullptr || !TakesData(device->state().repl)) return false;
  const uint64_t in_flight = connection_.ap_in_flight() + connection_.rs_in_flight();
  return (net.congestion_fill != 0 && in_flight >= net.congestion_fill) ||
         volume.disk()->al_in_use() >= net.congestion_extents;
}

void Congestion::OnWriteQueued(Volume& volume) {
  const NetOptions& net = connection_.config().net;
  if (net.on_congestion == OnCongestion::kBlock || net.protocol != Protocol::kA) return;
  if (deciding_ || !connection_.up() || !IsCongested(volume)) return;
  deciding_ = true;
  connection_.resource().reactor().PostAtTurnEnd(&decide_);
}

void Congestion::React() {
  if (!connection_.up() || !connection_.state().connected()) return;
  if (connection_.ap_in_flight() == 0) return;  // it was over in no time
  const std::string why =
      fmt::format("congested: {} bytes of writes and {} of a resync are under way to the peer",
                  connection_.ap_in_flight(), connection_.rs_in_flight());
  switch (connection_.config().net.on_congestion) {
    case OnCongestion::kBlock:
      return;
    case OnCongestion::kDisconnect:
      connection_.Fail(ConnectionState::kDisconnecting, why);
      return;
    case OnCongestion::kPullAhead:
      connection_.resource().logger().Info("{}: {}", connection_.name(), why);
      PullAhead();
      return;
  }
}

void Congestion::PullAhead() {
  const int node = connection_.node();
  StateCheck check =
      connection_.resource().Change("congested", {.hard = true}, [node](ResourceState& next) {
        for (VolumeState& volume : next.volumes) {
          PeerDeviceState& peer = volume.peer(node);
          if (volume.disk == DiskState::kUpToDate && TakesData(peer.repl)) {
            peer.repl = ReplicationState::kAhead;
          }
        }
      });
  if (!check) {
    connection_.resource().logger().Error("{}: cannot pull ahead: {}", connection_.name(),
                                          check.error().text());
  }
  OnProgress();
}

bool Congestion::AnyAhead() const {
  const std::vector<VolumeState>& volumes = connection_.resource().state().volumes;
  return std::any_of(volumes.begin(), volumes.end(), [&](const VolumeState& volume) {
    return volume.peer(connection_.node()).repl == ReplicationState::kAhead;
  });
}

void Congestion::OnProgress() {
  if (waiting_ || connection_.ap_in_flight() != 0 || !connection_.up() || !AnyAhead()) return;
  waiting_ = true;
  connection_.resource().reactor().ArmIn(&catch_up_, kPause);
}

void Congestion::OnTimer() {
  if (!connection_.up() || !AnyAhead() || connection_.ap_in_flight() != 0) return;
  if (connection_.rs_in_flight() != 0) {
    waiting_ = true;
    connection_.resource().reactor().ArmIn(&catch_up_, kAgain);
    return;
  }
  const int node = connection_.node();
  (void)connection_.resource().Change("no longer congested", {.hard = true},
                                      [node](ResourceState& next) {
                                        for (VolumeState& volume : next.volumes) {
                                          PeerDeviceState& peer = volume.peer(node);
                                          if (peer.repl == ReplicationState::kAhead)
                                            peer.repl = ReplicationState::kSyncSource;
                                        }
                                      });
}

void Congestion::OnLost() {
  catch_up_.Disarm();
  waiting_ = false;
}

}  // namespace umblock::drbd
