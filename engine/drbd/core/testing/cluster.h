// A small cluster of resources in the simulator, for tests of the replication engine: nodes with
// one disk each, metadata inside, connected by one path. Faults and oracles of the big simulator
// (sim/) are not here; tests script what they need.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/block/backends/backend.h"
#include "engine/drbd/resource.h"
#include "engine/runtime/buffer_pool.h"
#include "engine/runtime/sim/disk.h"
#include "engine/runtime/sim/network.h"
#include "engine/runtime/sim/node.h"
#include "engine/runtime/sim/reactor.h"
#include "engine/runtime/sim/world.h"
#include "engine/runtime/testing/scripted_programs.h"

namespace umblock::drbd::testing {

struct ClusterOptions {
  uint64_t seed = 1;
  uint64_t disk_bytes = uint64_t{64} << 20;
  // What Boot tells of the sizes that the backing devices had, as a daemon remembers them.
  uint64_t last_known_size = 0;
  int nodes = 2;
  int volumes = 1;
  int max_peers = 1;
  DiskOptions disk;
  NetOptions net;
  ResourceOptions resource;
  // As fast as it goes, whatever else there is to do.
  ResyncOptions resync{.c_min_rate = 0};
  HandlerConfig handlers;
  bool verbose = false;
  bool volatile_cache = true;
  bool external_metadata = false;  // of volume 0, on a disk of its own
};

// What runs on a node.
struct Program {
  std::unique_ptr<Backend> backends[4];
  std::unique_ptr<umblock::testing::ScriptedRunner> runner;
  std::unique_ptr<Resource> resource;
  std::vector<StateEvent> events;
};

class Cluster {
 public:
  explicit Cluster(ClusterOptions options);
  ~Cluster();

  SimWorld& world() { return *world_; }
  SimNode& node(int i) { return *nodes_[static_cast<size_t>(i)]; }
  SimDisk& disk(int i, int volume = 0);
  // The handlers that node i finds; they stay when it crashes.
  umblock::testing::ScriptedPrograms& handlers(int i) { return handlers_[static_cast<size_t>(i)]; }
  Program& program(int i) { return *programs_[static_cast<size_t>(i)]; }
  Resource& resource(int i) { return *program(i).resource; }
  BlockDevice& volume(int i, int number = 0) { return *resource(i).volume(number); }
  ResourceStatus status(int i) { return resource(i).status(); }
  DiskState disk_state(int i, int volume = 0);
  ReplicationState repl(int i, int peer, int volume = 0);
  ConnectionState connection(int i, int peer);
  uint64_t out_of_sync(int i, int peer, int volume = 0);

  // Runs a task on a node's reactor until it ends, and gives its result.
  Status Await(int i, Task<Status> task, Duration bound = 120s);
  // Starts it; the result appears later.
  std::shared_ptr<std::optional<Status>> Start(int i, Task<Status> task);
  bool RunUntil(const std::function<bool()>& holds, Duration bound = 60s) {
    return world_->RunUntil(holds, bound);
  }

  // Fresh metadata on every node, resources configured and attached, not connected.
  void CreateAll();
  // Both up, connected, disks equal (the initial sync skipped), UpToDate.
  void BringUp();
  void ConnectAll();
  bool AllUpToDate();
  // After a crash: the program again, attached and connecting.
  void Boot(int i);

  // 0 or an errno.
  int Write(int i, uint64_t offset, size_t bytes, uint8_t fill, bool fua = false, int volume = 0);
  int Read(int i, uint64_t offset, std::vector<std::byte>* into, int volume = 0);
  int Flush(int i, int volume = 0);
  // The data areas of two nodes, as their disks would give it now.
  ::testing::AssertionResult Equal(int a, int b, int volume = 0);
  uint8_t ByteOnDisk(int i, uint64_t offset, int volume = 0);

  void RememberSize(uint64_t bytes) { options_.last_known_size = bytes; }

  PeerConfig PeerOf(int i, int peer) const;

 private:
  void StartProgram(int i);
  std::string DiskName(int volume) const { return "disk" + std::to_string(volume); }

  ClusterOptions options_;
  std::unique_ptr<SimWorld> world_;
  std::vector<SimNode*> nodes_;
  std::vector<Program*> programs_;
  std::vector<std::shared_ptr<void>> kept_;
  std::vector<umblock::testing::ScriptedPrograms> handlers_;
};

}  // namespace umblock::drbd::testing
