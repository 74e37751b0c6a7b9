// Replica: one node's part of a replicated volume, as the cluster simulator sees it.
//
// drbd::Resource is one (resource_replica.h); tests put fakes with known faults here to prove that
// the oracles notice. A replica belongs to an incarnation of its node: after a crash it is never
// called again. Threading: the node's first reactor.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "engine/base/error.h"
#include "engine/block/block_device.h"
#include "engine/drbd/config.h"
#include "engine/drbd/status.h"
#include "engine/drbd/wire/state_word.h"
#include "engine/runtime/sim/node.h"
#include "engine/runtime/task.h"

namespace umblock::sim {

inline constexpr const char* kDataPath = "/data";
inline constexpr const char* kMetaPath = "/meta";  // only with external metadata

// A run of the fence-peer handler: whoever plays the operator's program says when it ends, and how.
struct FenceCall {
  bool done = false;
  int exit_code = 1;
};

struct ReplicaSetup {
  int node = 0;                  // 0 or 1; also its node id
  uint64_t volume_bytes = 0;     // 0: as large as the disks allow
  uint64_t last_known_size = 0;  // of the data disk
  uint32_t al_extents = 67;
  bool external_metadata = false;
  drbd::NetOptions net;
  drbd::ResourceOptions resource;
  drbd::ResyncOptions resync;
  drbd::DiskOptions disk;
  std::function<std::shared_ptr<FenceCall>()> fence;  // not set: there is no handler
  SocketAddress local;
  SocketAddress remote;
};

struct ReplicaState {
  bool primary = false;
  drbd::DiskState disk = drbd::DiskState::kDiskless;
  drbd::ConnectionState connection = drbd::ConnectionState::kStandAlone;
  drbd::ReplicationState replication = drbd::ReplicationState::kOff;
  drbd::DiskState peer_disk = drbd::DiskState::kUnknown;
  bool peer_primary = false;
  uint64_t out_of_sync = 0;  // bytes
  uint64_t pending = 0;      // answers and acknowledgements under way, either direction
  bool drain_ordering = false;
  uint64_t size = 0;           // of the volume, bytes
  uint64_t backing_bytes = 0;  // of the data disk, as far as the metadata has followed it
  uint64_t disk_timeouts = 0;
  bool suspended = false;
  std::optional<drbd::VerifyStatus> verify;
  std::string text;  // for people

  bool connected() const { return connection == drbd::ConnectionState::kConnected; }
  bool up_to_date() const { return disk == drbd::DiskState::kUpToDate; }
  // This side says: both disks hold the same, except for what is in flight.
  bool in_sync() const {
    return connected() && up_to_date() && peer_disk == drbd::DiskState::kUpToDate &&
           replication == drbd::ReplicationState::kEstablished && out_of_sync == 0;
  }
};

class Replica {
 public:
  virtual ~Replica() = default;

  // Writes fresh metadata; only on a node that was never started before.
  virtual Task<Status> Format() = 0;
  // Opens the files and makes the objects; neither attaches nor connects.
  virtual Task<Status> Start() = 0;
  // The clean end. Afterwards it is destructed.
  virtual Task<void> Stop() = 0;

  virtual ReplicaState state() = 0;
  virtual BlockDevice* device() = 0;

  virtual Task<Status> Promote(bool force) = 0;
  virtual Task<Status> Demote() = 0;
  // `discard_my_data`: the way out of a split brain.
  virtual Task<Status> Connect(bool discard_my_data) = 0;
  virtual Task<Status> Disconnect() = 0;
  virtual Task<Status> Attach() = 0;
  virtual Task<Status> Detach() = 0;
  // Declares both empty disks equal.
  virtual Task<Status> SkipInitialSync() = 0;

  // The repertoire. What a replica does not know it refuses.
  virtual Task<Status> StartVerify(uint64_t /*start*/, uint64_t /*stop*/) { return Refuse(); }
  virtual Task<Status> StopVerify() { return Refuse(); }
  virtual Task<Status> GrowDisk(uint64_t /*bytes*/) { return Refuse(); }
  virtual Task<Status> Resize() { return Refuse(); }
  virtual Task<Status> Invalidate(bool /*remote*/) { return Refuse(); }
  virtual Task<Status> PauseSync(bool /*pause*/) { return Refuse(); }
  virtual Task<Status> SuspendIo(bool /*suspend*/) { return Refuse(); }
  virtual Task<Status> Outdate() { return Refuse(); }
  virtual Task<Status> UpdateNet(drbd::NetOptions /*net*/) { return Refuse(); }

 private:
  static Task<Status> Refuse() {
    co_return MakeError(ErrorCode::kUnimplemented, "this replica does not know that");
  }
};

// Makes the replica of a new incarnation, owned by it. `on_change` is to be called after every
// change of state().
using ReplicaFactory = std::function<Replica*(SimNode& node, const ReplicaSetup& setup,
                                              std::function<void()> on_change)>;

}  // namespace umblock::sim
