// Cluster: two simulated nodes with a replica each, an application on the primary, and an operator
// who keeps both nodes attached and connected and one of them primary.
//
// The operator plays by the rules of a careful administrator, so that every loss of data is the
// engine's fault: it promotes only a node that holds everything which was acknowledged (`holders`),
// never while another primary may be alive out of sight, and flushes before it demotes.
// What counts as lost when: sim/history.h and docs/simulator.md.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "engine/runtime/sim/network.h"
#include "engine/runtime/sim/node.h"
#include "engine/runtime/sim/world.h"
#include "sim/al_watch.h"
#include "sim/history.h"
#include "sim/run.h"
#include "sim/workload.h"

namespace umblock::sim {

inline constexpr int kNodes = 2;

class Repertoire;

// A task of an administrator, under way on a node.
struct Act {
  std::string name;
  int node = 0;
  uint64_t incarnation = 0;
  SimTime since{};
  bool done = false;
  Status status;
};

class Cluster {
 public:
  Cluster(SimWorld& world, const RunOptions& options, const ReplicaFactory& factory,
          Coverage& coverage);
  ~Cluster();
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  struct Node {
    SimNode* sim = nullptr;
    SimDisk* data = nullptr;
    SimDisk* meta = nullptr;     // carries the metadata; may be `data`
    Replica* replica = nullptr;  // null while the node is down or not started yet
    bool formatted = false;
    bool ready = false;  // started: state() and acts may be called
    bool wants_connection = true;
    bool wants_disk = true;
    bool discard_on_connect = false;
    bool reconfiguring = false;  // not to be connected before it has its new options
    bool suspect = false;        // lost power as a copy: incomplete until it is in sync again
    bool restarted = false;      // since the crash that the cluster has not got over yet
    uint64_t disconnects = 0;
    bool was_connected = false;
    bool was_target = false;   // of a resync
    std::shared_ptr<Act> act;  // starting, attaching, connecting
    SimTime next_try{};
    std::string last_error;
    std::unique_ptr<AlWatch> al_watch;
  };

  // --- phases, each until done or failed ---
  bool SetUp();     // both nodes formatted, connected and in sync (or syncing)
  bool Converge();  // after the faults: everybody up, in sync, idle; disks compared
  bool TearDown();  // demote, stop, look at what is on the disks

  // --- for the faults ---
  Node& node(int index) { return nodes_[static_cast<size_t>(index)]; }
  Node& other(int index) { return node(1 - index); }
  int primary() const { return primary_; }  // -1: none
  int IndexOf(const SimNode& sim) const { return sim.index(); }
  void Crash(int index, SimCrash kind);
  void CrashSoon(int index, SimCrash kind);
  void Start(int index);
  void RequestMove() { move_requested_ = true; }
  void RequestCompare() { compare_requested_ = true; }
  void TryRefusedPromotion();
  void StartDisconnect(int index);
  void StartDetach(int index);
  ReplicaState StateOf(int index);
  SimWorld& world() { return world_; }
  Coverage& coverage() { return coverage_; }
  const ReplicaSetup& setup(int index) const { return setups_[static_cast<size_t>(index)]; }
  bool volatile_cache() const { return volatile_cache_; }
  // The weakest that the nodes have had: what it does not promise is not asked for.
  drbd::Protocol protocol() const { return weakest_protocol_; }
  Workload& workload() { return workload_; }
  // Called with the node when it starts to write an activity-log transaction.
  void SetActivityLogHandler(std::function<void(int node)> on_write);
  std::string DescribeState();

  // --- for the repertoire ---
  Repertoire* repertoire() { return repertoire_.get(); }  // null: this seed keeps to faults
  std::shared_ptr<Act> Begin(int index, std::string name, Task<Status> task);
  bool Lost(const Act& act) const;
  bool active() const { return role_ == Role::kActive; }
  bool draining() const { return role_ == Role::kDraining; }
  uint64_t volume_bytes() const { return volume_bytes_; }
  uint64_t writes_acked() const { return history_.writes_acked(); }
  void AllowGarbageFrom(uint64_t offset) { history_.AllowGarbageFrom(offset / kSectorBytes); }
  // For nodes that start from now on.
  void SetNet(const drbd::NetOptions& net);

 private:
  enum class Role : uint8_t {
    kNone,  // nobody is primary
    kPromoting,
    kActive,    // the application runs
    kDraining,  // it is told to stop: for a comparison, or
    kFlushing,  // on the way to a demotion
    kDemoting,
  };

  void Tick();
  void FollowSizes();
  void TendNode(int index);
  void TendRoles();
  void PickPrimary();
  void OnPromoted();
  void StartApplication();
  void AfterDrain();
  void LeavePrimary();
  void CheckRefusedPromotion();
  void OnCrash(int index, SimCrash kind);
  void OnStateChanged(int index);
  void UpdateHolders();
  void CheckTwoPrimaries();
  bool Quiet();
  bool Resyncing();
  bool CompareDisks();
  bool CheckDisksAtRest();
  bool CheckBitmapsOnDisk();
  Task<Status> FlushTask(BlockDevice* device, uint64_t covers);
  Task<Status> StopTask(Replica* replica);

  SimWorld& world_;
  const RunOptions& options_;
  const ReplicaFactory& factory_;
  Coverage& coverage_;
  SimRandom random_;
  bool volatile_cache_ = true;
  std::array<ReplicaSetup, kNodes> setups_;
  uint64_t volume_bytes_ = 0;  // the least that both have shown
  drbd::Protocol weakest_protocol_{};
  std::array<Node, kNodes> nodes_;
  std::function<void(int)> on_al_write_;
  History history_;
  Workload workload_;
  std::unique_ptr<Repertoire> repertoire_;

  Role role_ = Role::kNone;
  int primary_ = -1;
  int last_primary_ = -1;
  int wanted_primary_ = -1;  // of a move
  OpenerId opener_ = 0;
  std::shared_ptr<Act> role_act_;
  SimTime next_role_try_{};
  unsigned holders_ = 3;             // bit per node: holds everything that was acknowledged
  bool unflushed_doubtful_ = false;  // a primary lost its cache; see OnPromoted
  bool unflushed_lost_ = false;
  int crashed_primary_ = -1;
  bool move_requested_ = false;
  bool compare_requested_ = false;
  SimTime compare_since_{};
  int quiet_ticks_ = 0;
  bool roles_wanted_ = false;
  bool settling_ = false;  // no more application: towards the end
  std::shared_ptr<Act> refused_act_;
  std::array<uint64_t, kNodes> refused_disconnects_{};
};

}  // namespace umblock::sim
