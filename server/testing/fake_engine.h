// FakeEngine: the engine's parts as small state machines, so that the management side can be tested
// by itself. Everything on the reactor; FakeDisks may be shared by engines that follow each other
// (a restart), like real disks.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "engine/block/device_base.h"
#include "engine/runtime/sync.h"
#include "server/engine.h"

namespace umblock::server {

struct FakeDisk {
  uint64_t size = 0;
  bool has_metadata = false;
  bool has_file_system = false;
  bool fails = false;         // cannot be opened
  bool open_hangs = false;    // until EndRemoval
  bool attach_hangs = false;  // until LetAttachGo, and then it fails
  uint32_t block_size = 512;
  uint64_t device_uuid = 0;
};
using FakeDisks = std::map<std::string, FakeDisk>;  // by path

class FakeDevice final : public DeviceBase {
 public:
  FakeDevice(Reactor& reactor, std::string name, std::string path, uint64_t size);
  void Submit(BlockIo* io) noexcept override;
  const BlockGeometry& geometry() const override { return geometry_; }
  Access access() const override { return access_; }
  std::string access_reason() const override {
    return access_ == Access::kReadWrite ? "" : "Secondary";
  }
  const std::string& path() const { return path_; }
  void set_access(Access access) { access_ = access; }
  void set_size(uint64_t size) { geometry_.size = size; }
  void set_block_size(uint32_t bytes) { geometry_.logical_block_size = bytes; }

 private:
  const std::string path_;
  BlockGeometry geometry_;
  Access access_ = Access::kReadWrite;
};

class FakeEngine;

class FakeResource final : public ReplicatedResource {
 public:
  FakeResource(FakeEngine* engine, const drbd::ResourceConfig& config,
               drbd::ResourceObserver* observer);
  ~FakeResource() override;

  Task<void> Stop() override;
  drbd::ResourceStatus status() const override;
  Status AddVolume(const drbd::VolumeConfig& config) override;
  Task<Status> RemoveVolume(int volume) override;
  BlockDevice* volume(int number) override;
  Task<Status> Attach(drbd::AttachRequest request) override;
  Task<Status> Detach(int volume, bool force) override;
  Status AddPeer(const drbd::PeerConfig& config) override;
  Task<Status> RemovePeer(int node_id, bool force) override;
  Task<Status> ForgetPeer(int volume, int node_id) override;
  Task<Status> Connect(int node_id, drbd::ConnectOptions options) override;
  Task<Status> Disconnect(int node_id, bool force) override;
  Task<Status> Promote(bool force) override;
  Task<Status> Demote(bool force) override;
  Task<Status> Invalidate(int volume, int peer_node_id, bool only_marked) override;
  Task<Status> InvalidateRemote(int volume, int peer_node_id, bool only_marked) override;
  Task<Status> PauseSync(int volume, int peer_node_id) override;
  Task<Status> ResumeSync(int volume, int peer_node_id) override;
  Task<Status> StartVerify(int volume, int peer_node_id, drbd::VerifyRequest request) override;
  Task<Status> StopVerify(int volume, int peer_node_id) override;
  Task<Status> Outdate(int volume) override;
  Task<Status> Resize(int volume, drbd::ResizeRequest request) override;
  Task<Status> NewCurrentUuid(int volume, bool clear_bitmap, bool force) override;
  Task<Status> SuspendIo() override;
  Task<Status> ResumeIo() override;
  void FailHeldIo() override {}
  Status UpdateOptions(const drbd::ResourceOptions& options) override;
  Status UpdateHandlers(const drbd::HandlerConfig& handlers) override {
    config_.handlers = handlers;
    return Ok();
  }
  const drbd::HandlerConfig& handlers() const { return config_.handlers; }
  Task<Status> UpdateNetOptions(int node_id, const drbd::NetOptions& options) override;
  Status UpdateResyncOptions(int node_id, const drbd::ResyncOptions& options) override;
  Status UpdateDiskOptions(int volume, const drbd::DiskOptions& options) override;

  // What a peer would cause.
  void PeerArrives(int node_id);
  void SyncRuns(int node_id, uint64_t total, uint64_t left);
  void SyncEnds(int node_id);

  std::optional<drbd::VerifyRequest> last_verify;

  drbd::NetOptions net(int node_id) const { return peers_.at(node_id).config.net; }

 private:
  struct Volume {
    drbd::VolumeStatus status;
    std::unique_ptr<FakeDevice> device;
  };
  struct Peer {
    drbd::PeerConfig config;
    drbd::ConnectionStatus status;
  };

  void Report(std::string object, std::string attribute, std::string old_value,
              std::string new_value, std::string reason);
  void SetRole(drbd::Role role, const std::string& reason);
  void SetDisk(Volume& volume, drbd::DiskState disk, const std::string& reason);
  void SetConnection(Peer& peer, drbd::ConnectionState state, const std::string& reason);

  FakeEngine* engine_;
  drbd::ResourceConfig config_;
  drbd::ResourceObserver* observer_;
  drbd::Role role_ = drbd::Role::kSecondary;
  bool suspended_ = false;
  bool stopped_ = false;
  std::map<int, Volume> volumes_;
  std::map<int, Peer> peers_;
};

class FakeEngine final : public Engine {
 public:
  FakeEngine(Reactor& reactor, FakeDisks* disks)
      : removal_(reactor), forced_(reactor), reactor_(reactor), disks_(disks) {}

  Task<Result<std::unique_ptr<OpenedBackend>>> OpenBackend(BackendSetup setup) override;
  Result<std::unique_ptr<ReplicatedResource>> MakeResource(
      const drbd::ResourceConfig& config, drbd::ResourceObserver* observer) override;
  bool allows_handlers() const override { return allow_handlers; }
  Task<Status> CreateMetadata(drbd::CreateMetadataRequest request) override;
  Task<Result<std::unique_ptr<IscsiFront>>> StartIscsi() override;
  Task<Result<std::unique_ptr<FuseFront>>> StartFuse(std::string mountpoint) override;
  std::map<std::string, uint64_t> RuntimeCounters() override { return {{"turns", 1}}; }

  Reactor& reactor() { return reactor_; }
  bool allow_handlers = false;
  FakeDisks& disks() { return *disks_; }
  FakeResource* resource(const std::string& name) { return resources_.at(name); }

  std::map<std::string, FakeResource*> resources_;
  std::set<std::string> busy_addresses;  // portals that cannot be opened
  std::map<std::string, LunSetup> luns;  // by "target/number"
  bool fuse_works = true;
  bool fuse_mounted = false;         // false after a start: somebody else unmounted it
  std::set<std::string> open_files;  // exports that somebody has open
  bool removal_hangs = false;        // of a volume, until EndRemoval
  bool file_hangs = false;           // the removal of an export, until EndRemoval
  void EndRemoval() {
    removal_hangs = file_hangs = false;
    for (auto& [path, disk] : *disks_) disk.open_hangs = false;
    removal_.NotifyAll();
  }
  // Also what an act with force does.
  void LetAttachGo() {
    attach_hangs = false;
    forced_.NotifyAll();
  }
  WaitQueue removal_;
  WaitQueue forced_;
  std::vector<int> forgotten;  // node ids
  bool forgetting_fails = false;
  uint64_t last_known_size = 0;  // of the last Attach
  bool attach_hangs = false;     // until an act with force comes, as if a peer did not answer

 private:
  Reactor& reactor_;
  FakeDisks* disks_;
};

}  // namespace umblock::server
