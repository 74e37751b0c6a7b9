// Repertoire: what an administrator may ask of a replicated volume beside roles, connections and
// disks, as episodes of a schedule: verifies, growth, paused resyncs, invalidations, suspended I/O,
// new options; and the fence-peer handler, which outdates the peer, shoots it, fails or hangs.
//
// An act that is refused or interrupted is the administrator's bad luck. One that never ends is a
// failure, and so is whatever contradicts what an act that succeeded has promised.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "sim/cluster.h"
#include "sim/schedule.h"
#include "sim/verify_exam.h"

namespace umblock::sim {

// What a seed with the repertoire has beside what every seed has.
void ChooseOptions(SimRandom& random, std::optional<drbd::Protocol> protocol, ReplicaSetup* setup);

class Repertoire {
 public:
  explicit Repertoire(Cluster& cluster);

  // False: the episode is none of this.
  bool Execute(const Episode& episode);
  void End();  // the faults are over: everything is undone
  bool settled() const;
  void Tick();
  void OnCrash(int index);
  void OnStateChanged(int index, const ReplicaState& state);
  VerifyExam& exam() { return exam_; }
  std::shared_ptr<FenceCall> Fence(int caller);

 private:
  struct LoadVerify {
    int node = 0;
    std::shared_ptr<Act> act;
  };
  struct Growth {
    uint64_t before = 0;  // of the volume
    std::array<std::shared_ptr<Act>, kNodes> disks;
    int asker = 0;
    std::shared_ptr<Act> resize;
    std::optional<Duration> crash_after;
  };
  struct Suspension {
    int node = 0;
    std::shared_ptr<Act> act;
    std::optional<uint64_t> writes_ended;  // when it was complete
    bool over = false;
  };
  struct Handler {  // on its way to outdate a peer
    std::shared_ptr<FenceCall> call;
    std::shared_ptr<Act> act;
  };

  void VerifyUnderLoad(const Episode& episode);
  void Grow(const Episode& episode);
  void PauseSync(const Episode& episode);
  void Invalidate(const Episode& episode);
  void SuspendIo(const Episode& episode);
  void Reconfigure(const Episode& episode);
  void TendVerify();
  void TendGrowth();
  void TendPauses();
  void TendSuspension();
  void TendOptions();
  void TendHandlers();
  void TendActs();
  void Outdate(const std::shared_ptr<FenceCall>& call, int peer);
  void Stonith(const std::shared_ptr<FenceCall>& call, int peer);
  std::shared_ptr<Act> Do(int index, std::string name, Task<Status> task);
  bool BothInSync();
  void After(Duration delay, std::function<void()> fn);
  int Either(const Episode& episode) const { return static_cast<int>(episode.choice >> 32 & 1); }

  Cluster& cluster_;
  SimWorld& world_;
  SimRandom random_;
  VerifyExam exam_;
  bool ending_ = false;
  std::vector<std::shared_ptr<Act>> acts_;
  std::optional<LoadVerify> verify_;
  std::optional<Growth> growth_;
  std::optional<Suspension> suspension_;
  std::array<bool, kNodes> paused_{};
  std::array<bool, kNodes> resume_due_{};
  std::array<std::shared_ptr<Act>, kNodes> resuming_;
  std::array<bool, kNodes> options_due_{};
  std::array<SimTime, kNodes> options_at_{};
  std::optional<Situation> options_changed_;
  std::vector<Handler> handlers_;
  std::array<drbd::ReplicationState, kNodes> replication_{};
  std::array<uint64_t, kNodes> timeouts_{};
};

}  // namespace umblock::sim
