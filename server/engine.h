// What the management side needs of the engine, as interfaces: umblockd fills them with the real
// parts (real_engine.cc), tests with small fakes.
//
// Threading: everything on the node's reactor, unless it says otherwise. Ownership: whoever is
// handed a unique_ptr awaits its Close or Stop before destroying it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/base/socket_address.h"
#include "engine/block/block_device.h"
#include "engine/drbd/config.h"
#include "engine/drbd/resource.h"
#include "engine/drbd/status.h"
#include "engine/runtime/task.h"

namespace umblock::server {

struct BackendSetup {
  enum class Kind { kFile, kRam };
  std::string name;
  Kind kind = Kind::kFile;
  std::string path;
  uint64_t size = 0;  // bytes; 0: the file's own
  bool create = false;
};

class OpenedBackend {
 public:
  virtual ~OpenedBackend() = default;
  virtual BlockDevice* device() = 0;
  virtual Task<Status> Grow(uint64_t bytes) = 0;  // umblock::Backend::Grow
  virtual Task<void> Close() = 0;
};

// drbd::Resource, call by call (engine/drbd/resource.h says what each does).
class ReplicatedResource {
 public:
  virtual ~ReplicatedResource() = default;
  virtual Task<void> Stop() = 0;
  virtual drbd::ResourceStatus status() const = 0;
  virtual Status AddVolume(const drbd::VolumeConfig& config) = 0;
  virtual Task<Status> RemoveVolume(int volume) = 0;
  virtual BlockDevice* volume(int number) = 0;
  virtual Task<Status> Attach(drbd::AttachRequest request) = 0;
  virtual Task<Status> Detach(int volume, bool force) = 0;
  virtual Status AddPeer(const drbd::PeerConfig& config) = 0;
  virtual Task<Status> RemovePeer(int node_id, bool force) = 0;
  virtual Task<Status> ForgetPeer(int volume, int node_id) = 0;
  virtual Task<Status> Connect(int node_id, drbd::ConnectOptions options) = 0;
  virtual Task<Status> Disconnect(int node_id, bool force) = 0;
  virtual Task<Status> Promote(bool force) = 0;
  virtual Task<Status> Demote(bool force) = 0;
  virtual Task<Status> Invalidate(int volume, int peer_node_id, bool only_marked) = 0;
  virtual Task<Status> InvalidateRemote(int volume, int peer_node_id, bool only_marked) = 0;
  virtual Task<Status> PauseSync(int volume, int peer_node_id) = 0;
  virtual Task<Status> ResumeSync(int volume, int peer_node_id) = 0;
  virtual Task<Status> StartVerify(int volume, int peer_node_id, drbd::VerifyRequest request) = 0;
  virtual Task<Status> StopVerify(int volume, int peer_node_id) = 0;
  virtual Task<Status> Outdate(int volume) = 0;
  virtual Task<Status> Resize(int volume, drbd::ResizeRequest request) = 0;
  virtual Task<Status> NewCurrentUuid(int volume, bool clear_bitmap, bool force) = 0;
  virtual Task<Status> SuspendIo() = 0;
  virtual Task<Status> ResumeIo() = 0;
  virtual void FailHeldIo() = 0;
  virtual Status UpdateOptions(const drbd::ResourceOptions& options) = 0;
  virtual Status UpdateHandlers(const drbd::HandlerConfig& handlers) = 0;
  virtual Task<Status> UpdateNetOptions(int node_id, const drbd::NetOptions& options) = 0;
  virtual Status UpdateResyncOptions(int node_id, const drbd::ResyncOptions& options) = 0;
  virtual Status UpdateDiskOptions(int volume, const drbd::DiskOptions& options) = 0;
};

struct ChapSetup {
  std::string user;
  std::string secret;  // empty: CHAP is off
};

struct TargetSetup {
  std::string name;
  std::string alias;
  std::vector<std::string> initiators;  // empty: all
  ChapSetup chap;
  ChapSetup mutual_chap;
};

struct LunSetup {
  std::string target;
  uint32_t number = 0;
  BlockDevice* device = nullptr;
  std::string serial;       // 1 to 36 printable characters: what initiators know the disk by
  uint32_t block_size = 0;  // 512, 4096
  bool read_only = false;
};

struct LunCounters {
  std::string target;
  uint32_t number = 0;
  uint64_t read_requests = 0, read_bytes = 0;
  uint64_t write_requests = 0, write_bytes = 0;
  uint64_t check_conditions = 0;
};

struct SessionStatus {
  std::string target;
  std::string initiator;
  std::string address;
  uint32_t tsih = 0;
  uint64_t commands = 0;
  uint64_t copied_bytes = 0;
  uint64_t received_bytes = 0, sent_bytes = 0;
};

struct IscsiStatus {
  std::vector<LunCounters> luns;
  std::vector<SessionStatus> sessions;
};

class IscsiFront {
 public:
  virtual ~IscsiFront() = default;
  virtual Task<Status> AddPortal(SocketAddress address) = 0;
  virtual Task<Status> RemovePortal(SocketAddress address) = 0;
  virtual Task<Status> AddTarget(TargetSetup setup) = 0;
  virtual Task<Status> UpdateTarget(TargetSetup setup) = 0;
  virtual Task<Status> RemoveTarget(std::string name, bool force) = 0;
  virtual Task<Status> AddLun(LunSetup setup) = 0;
  virtual Task<Status> RemoveLun(std::string target, uint32_t number, bool force) = 0;
  virtual IscsiStatus status() = 0;
  virtual Task<void> Stop() = 0;
};

struct FuseFileCounters {
  std::string name;
  uint32_t open_count = 0;
  uint64_t read_requests = 0, read_bytes = 0;
  uint64_t write_requests = 0, write_bytes = 0;
  uint64_t copied_bytes = 0;
};

class FuseFront {
 public:
  virtual ~FuseFront() = default;
  virtual Task<Status> AddFile(std::string name, BlockDevice* device, bool read_only) = 0;
  virtual Task<Status> RemoveFile(std::string name, bool force) = 0;
  virtual Task<std::vector<FuseFileCounters>> Files() = 0;
  // False: somebody else has unmounted it. Stop lets go of what was open.
  virtual bool mounted() const = 0;
  // Any thread that may block.
  virtual bool IsOnExport(const std::string& path) const = 0;
  virtual Task<Status> Stop() = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual Task<Result<std::unique_ptr<OpenedBackend>>> OpenBackend(BackendSetup setup) = 0;
  virtual Result<std::unique_ptr<ReplicatedResource>> MakeResource(
      const drbd::ResourceConfig& config, drbd::ResourceObserver* observer) = 0;
  // Whether resources may run handlers.
  virtual bool allows_handlers() const = 0;
  virtual Task<Status> CreateMetadata(drbd::CreateMetadataRequest request) = 0;
  // kUnimplemented: this build has no such front.
  virtual Task<Result<std::unique_ptr<IscsiFront>>> StartIscsi() = 0;
  virtual Task<Result<std::unique_ptr<FuseFront>>> StartFuse(std::string mountpoint) = 0;
  // Counters of the runtime by name ("turns", "enters", "sqes"), for the metrics.
  virtual std::map<std::string, uint64_t> RuntimeCounters() = 0;
};

}  // namespace umblock::server
