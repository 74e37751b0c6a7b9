// Resource: a set of volumes that are replicated together, to the same peers, in one write order.
//
// Life cycle: constructed Secondary, without volumes and peers; what the administrator configured
// is added by AddVolume, Attach, AddPeer and Connect. Stop() is awaited before destruction: it ends
// connections and detaches without changing what is recorded on disk about the role (a Primary
// that stops is a crashed Primary; demote first for a clean end).
// Acts are tasks: they end when the state they ask for is reached, or say why it is not and what to
// do. Acts of one resource may be called concurrently; state changes are serialised inside.
// Threading: everything on the resource's reactor. Snapshots (status.h) are values.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/block/block_device.h"
#include "engine/drbd/config.h"
#include "engine/drbd/status.h"
#include "engine/runtime/process.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/task.h"

namespace umblock::drbd {

class ResourceImpl;

// One line of the event stream: object, attribute, old and new value, and why.
struct StateEvent {
  std::string object;     // "resource r0", "connection r0/1", "volume r0/0", "peer-volume r0/1/0"
  std::string attribute;  // "role", "disk", "replication", "peer-disk", …
  std::string old_value;
  std::string new_value;
  std::string reason;  // the rule or act that caused it
};

class ResourceObserver {
 public:
  virtual ~ResourceObserver() = default;
  // The events of one atomic change. Called on the resource's reactor; must not call back into
  // acts.
  virtual void OnStateChange(const std::vector<StateEvent>& events) = 0;
};

struct AttachRequest {
  int volume = 0;
  // Not owned; outlive the attachment. With metadata == nullptr the metadata is internal: at the
  // end of `backing`.
  BlockDevice* backing = nullptr;
  BlockDevice* metadata = nullptr;
  // Bytes of `backing` when it was last attached with internal metadata (VolumeStatus); 0: not
  // known. If it has grown since, the metadata is found there and moves to the end.
  uint64_t last_known_size = 0;
  // If set: asked once the metadata has been read, in the same turn in which the disk becomes the
  // volume's. An error refuses the disk, which then stays as it was.
  std::function<Status(uint64_t device_uuid)> may_attach;
};

struct CreateMetadataRequest {
  BlockDevice* backing = nullptr;
  BlockDevice* metadata = nullptr;  // nullptr: internal
  int max_peers = 1;                // bitmap slots, 1 … 31
  bool force = false;               // overwrite data or metadata that is found there
  uint64_t device_uuid = 0;         // a tag that tells this disk from others; 0: none
};
// Writes fresh metadata (current UUID "just created"). Refuses where it finds a file system or
// other metadata, naming it.
Task<Status> CreateMetadata(CreateMetadataRequest request);

struct ResizeRequest {
  // Bytes, a multiple of 4096. 0: as large as the smallest of the backing devices allows.
  uint64_t size = 0;
  // What comes is equal on all nodes already (zeroes, for instance): it is not synchronised.
  bool assume_clean = false;
  // Grow although a peer is not connected; if it has less room it cannot connect any more.
  bool assume_peer_has_space = false;
  // Allows a size below the present one. What is beyond is lost.
  bool shrink = false;
};

struct ConnectOptions {
  bool discard_my_data = false;  // resolves a split brain: this node becomes the sync target
};

// What a verify is to compare, in bytes.
struct VerifyRequest {
  std::optional<uint64_t> start;  // not set: where the last one got to, else the beginning
  std::optional<uint64_t> stop;   // not set: the end
};

class Resource {
 public:
  // `programs` runs the handlers; without it none can run. Outlives the resource.
  Resource(Reactor& reactor, ResourceConfig config, ResourceObserver* observer,
           ProcessRunner* programs = nullptr);
  ~Resource();
  Task<void> Stop();

  const std::string& name() const;
  ResourceStatus status() const;

  // A volume without a disk at first. The BlockDevice of a volume exists as long as the volume.
  Status AddVolume(const VolumeConfig& config);
  Task<Status> RemoveVolume(int volume);  // refused while attached or open
  BlockDevice* volume(int number);        // nullptr if there is none

  Task<Status> Attach(AttachRequest request);
  Task<Status> Detach(int volume, bool force);

  // A peer is StandAlone until Connect.
  Status AddPeer(const PeerConfig& config);
  Task<Status> RemovePeer(int node_id, bool force);
  // Frees the bitmap slot and the entry of a former peer in the metadata of a volume, which has a
  // disk; durable when it ends. A peer of that node id is synchronised in full later.
  // kFailedPrecondition: it is a peer; kNotFound: the metadata remembers no such node.
  Task<Status> ForgetPeer(int volume, int node_id);
  // Starts trying; ends at once. The state shows in status() and in events.
  Task<Status> Connect(int node_id, ConnectOptions options);
  Task<Status> Disconnect(int node_id, bool force);

  Task<Status> Promote(bool force);
  Task<Status> Demote(bool force);

  // Declares the local data of a volume worthless and fetches it from the peer: all of it, or only
  // the blocks that are marked out of sync on either node, as a verify leaves them, on a link that
  // stands (invalidate --reset-bitmap=no; peers of protocol 120 and above).
  Task<Status> Invalidate(int volume, int peer_node_id, bool only_marked = false);
  // The same for the peer's data.
  Task<Status> InvalidateRemote(int volume, int peer_node_id, bool only_marked = false);
  Task<Status> PauseSync(int volume, int peer_node_id);
  Task<Status> ResumeSync(int volume, int peer_node_id);
  // Compares a volume with a peer's by digests; ends when it runs. What differs is then out of
  // sync, and the next resync by bitmap mends it; nothing is mended by itself. kFailedPrecondition:
  // no verify_alg, not connected, something else runs, a disk is not UpToDate.
  Task<Status> StartVerify(int volume, int peer_node_id, VerifyRequest request);
  // Ends when it has stopped, at a place from where the next one goes on. None runs: succeeds. One
  // that the peer started is the peer's to stop.
  Task<Status> StopVerify(int volume, int peer_node_id);
  Task<Status> Outdate(int volume);
  // Gives a volume a new size on all connected nodes, with its I/O running. The backing devices
  // have grown before. Ends when this node has the new size; the resync of what came goes on.
  // kFailedPrecondition: no disk here, a resync or verify runs, a peer is away, a node has not that
  // much room, or the volume would shrink (without request.shrink, or while it is open).
  Task<Status> Resize(int volume, ResizeRequest request);
  // With `clear_bitmap`: declares the empty disks of all peers equal (skips the initial sync).
  // Otherwise only a Primary begins a generation: a Secondary has changed nothing, and alone with a
  // new one it is a split brain for a peer that has. With `force` a Secondary without a connected
  // peer does so all the same.
  Task<Status> NewCurrentUuid(int volume, bool clear_bitmap, bool force = false);
  Task<Status> SuspendIo();
  Task<Status> ResumeIo();
  // Before Stop(), for fronts that wait for their I/O: what a suspension holds back, and what comes
  // after it, fails with ENODEV. Nothing happens if I/O is not suspended.
  void FailHeldIo();

  Status UpdateOptions(const ResourceOptions& options);
  // For calls from now on.
  Status UpdateHandlers(const HandlerConfig& handlers);
  Task<Status> UpdateNetOptions(int node_id, const NetOptions& options);
  Status UpdateResyncOptions(int node_id, const ResyncOptions& options);
  Status UpdateDiskOptions(int volume, const DiskOptions& options);

 private:
  std::unique_ptr<ResourceImpl> impl_;
};

}  // namespace umblock::drbd
