// Faults: carries out the schedule of one run, and aims some faults at packets and disk writes.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "engine/runtime/sim/connection.h"
#include "sim/cluster.h"
#include "sim/schedule.h"
#include "sim/wire_tap.h"

namespace umblock::sim {

class Faults {
 public:
  Faults(Cluster& cluster, std::vector<Episode> schedule, std::vector<size_t> without);

  // From now on, each at its time.
  void Begin();
  // Everything is undone and nothing new begins.
  void End();

 private:
  // A fault that waits for its packet or disk write. One of each kind at a time.
  struct Armed {
    bool armed = false;
    SimTime until{};
    Episode episode{};
  };
  // A cut that was aimed: counted once it has struck.
  struct Aimed {
    std::shared_ptr<SimConnection> connection;
    int from_end;
    Situation situation;
  };
  // A node's first packet on a connection that it has made, which says what the connection is for.
  struct Initial {
    std::shared_ptr<SimConnection> connection;
    int from_node = -1;
  };

  void Execute(const Episode& episode);
  bool Crashes(const Episode& episode);
  bool Cuts(const Episode& episode);
  bool Silences(const Episode& episode);
  bool DiskFaults(const Episode& episode);
  bool OneDiskAtATime(const Episode& episode);
  void Acts(const Episode& episode);

  void Arm(const Episode& episode, Duration window);
  bool Take(Fault fault);  // disarms; true if it was armed and still in time
  const Episode& armed(Fault fault) const { return armed_[static_cast<size_t>(fault)].episode; }
  void OnPacket(const TappedPacket& packet);
  void AimCut(const TappedPacket& packet, uint64_t at, Situation situation, bool silent);
  void LoseInTwoPhaseCommit(const TappedPacket& packet);
  void CrashAt(int index, const Episode& episode);
  void OnActivityLogWrite(int index);
  void OnConnection(const std::shared_ptr<SimConnection>& connection);
  void OnInitialPacket(const TappedPacket& packet);
  void CheckAimed();
  void After(Duration delay, std::function<void()> fn);
  SimCrash KindOf(const Episode& episode) const;
  void CutAll(bool both_at_once);
  int Either(const Episode& episode) const { return static_cast<int>(episode.choice >> 32 & 1); }

  Cluster& cluster_;
  SimWorld& world_;
  const std::vector<Episode> schedule_;
  const std::vector<size_t> without_;
  std::array<Armed, static_cast<size_t>(Fault::kCount)> armed_;
  std::vector<Aimed> aimed_;
  std::array<Initial, 2> initial_;  // the last ones: of the control, of the data socket
  bool active_ = false;
  int disk_errors_on_ = -1;
  std::optional<SimTime> disk_errors_at_;
  WireTap tap_;
};

}  // namespace umblock::sim
