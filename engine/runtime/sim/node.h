// SimNode: one machine — addresses, disks that survive crashes, and a program that does not.
//
// Life cycle: `Start(factory)` begins an incarnation: the factory makes reactors and objects with
// AddReactor() and Make<T>(), which the incarnation owns. A crash ends it between two events: from
// then on nothing of it runs; its objects are kept but never destructed, as their frames and
// buffers are in the middle of something. `Restart()` begins a new incarnation with the same
// factory. `Shutdown()` is the clean end: everything is destructed, youngest first.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/socket_address.h"
#include "engine/runtime/sim/disk.h"
#include "engine/runtime/sim/reactor.h"
#include "engine/runtime/sim/world.h"

namespace umblock {

struct SimNodeOptions {
  std::string name;
  std::vector<SocketAddress> addresses;  // ports are ignored; the first one is the default source
};

enum class SimCrash : uint8_t {
  kPowerCut,     // disk caches are lost, peers hear nothing more
  kProcessKill,  // the kernel stays: caches and writes in flight survive, sockets are closed
};

// What lives from one start of a node's program to its end.
struct SimIncarnation {
  uint64_t id = 0;  // unique in its world
  SimNode* node = nullptr;
  bool alive = true;
  std::vector<std::shared_ptr<void>> objects;
  std::vector<SimReactor*> reactors;
  std::vector<Completion*> lost;  // what will never be called; listed for the leak checker
};

// Paths of a node and the disks that are found there.
class SimFileSystem {
 public:
  explicit SimFileSystem(SimWorld& world, std::string node) : world_(world), node_(node) {}

  SimDisk* Create(const std::string& path, const SimDiskOptions& options);
  SimDisk* Find(const std::string& path) const;  // nullptr if there is none
  void Remove(const std::string& path) { disks_.erase(path); }
  const std::map<std::string, std::unique_ptr<SimDisk>>& disks() const { return disks_; }
  // How disks are made that a program creates by OpenFile.
  SimDiskOptions defaults;

 private:
  SimWorld& world_;
  std::string node_;
  std::map<std::string, std::unique_ptr<SimDisk>> disks_;
};

class SimNode {
 public:
  using Factory = std::function<void(SimNode&)>;

  SimNode(SimWorld& world, int index, SimNodeOptions options);
  SimNode(const SimNode&) = delete;
  SimNode& operator=(const SimNode&) = delete;
  ~SimNode();

  SimWorld& world() { return world_; }
  int index() const { return index_; }
  const std::string& name() const { return options_.name; }
  const std::vector<SocketAddress>& addresses() const { return options_.addresses; }
  bool HasAddress(const SocketAddress& address) const;
  SimFileSystem& files() { return files_; }

  void Start(Factory factory);
  void Restart();
  // At once; not from inside a step of this node (see CrashSoon).
  void Crash(SimCrash kind);
  // Once the current event is over, before any other.
  void CrashSoon(SimCrash kind);
  // After `steps` more steps of this node's reactors.
  void CrashAfterSteps(uint64_t steps, SimCrash kind);
  // Called at the beginning of every crash, while the incarnation still stands.
  void SetCrashHandler(std::function<void(SimCrash)> handler) {
    crash_handler_ = std::move(handler);
  }
  void Shutdown();
  // The end of the world: as a crash, without consequences for disks and peers.
  void Abandon();

  bool running() const { return incarnation_ != nullptr; }
  // The machine answers on the network: it runs, or only its program was killed.
  bool powered() const { return powered_; }
  SimIncarnation* incarnation() { return incarnation_; }
  uint64_t crashes() const { return crashes_; }

  // For factories and tests, while running.
  SimReactor* AddReactor();
  SimReactor* reactor(size_t index = 0) { return incarnation_->reactors.at(index); }
  template <typename T, typename... Args>
  T* Make(Args&&... args) {
    auto object = std::make_shared<T>(std::forward<Args>(args)...);
    T* raw = object.get();
    incarnation_->objects.push_back(std::move(object));
    return raw;
  }

  // How much slower than usual this node computes (1: not at all).
  void set_slowdown(uint32_t factor) { slowdown_ = factor; }
  uint32_t slowdown() const { return slowdown_; }

  // Called by reactors before each step; true if the node shall crash now.
  bool CountStep();

 private:
  void Bury();

  SimWorld& world_;
  const int index_;
  SimNodeOptions options_;
  SimFileSystem files_;
  Factory factory_;
  std::vector<std::unique_ptr<SimIncarnation>> incarnations_;
  SimIncarnation* incarnation_ = nullptr;
  bool powered_ = true;
  uint32_t slowdown_ = 1;
  uint64_t crashes_ = 0;
  uint64_t steps_to_crash_ = 0;  // 0: none planned
  SimCrash planned_crash_ = SimCrash::kPowerCut;
  std::function<void(SimCrash)> crash_handler_;
  Duration clock_offset_;
  int64_t clock_drift_ppm_;
};

}  // namespace umblock
