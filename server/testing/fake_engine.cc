#include "server/testing/fake_engine.h"

#include <algorithm>

#include "server/convert.h"

namespace umblock::server {
namespace {

constexpr uint64_t kMetadataBytes = uint64_t{1} << 20;

std::unexpected<Error> Refused(const std::string& why) {
  return MakeError(ErrorCode::kFailedPrecondition, "{}", why);
}

class FakeBackend final : public OpenedBackend {
 public:
  explicit FakeBackend(std::unique_ptr<FakeDevice> device) : device_(std::move(device)) {}
  BlockDevice* device() override { return device_.get(); }
  Task<Status> Grow(uint64_t bytes) override {
    if (bytes != 0 && bytes < device_->geometry().size) {
      co_return MakeError(ErrorCode::kInvalidArgument, "smaller");
    }
    if (bytes != 0) device_->set_size(bytes);
    co_return Ok();
  }
  Task<void> Close() override { co_return; }

 private:
  std::unique_ptr<FakeDevice> device_;
};

class FakeIscsi final : public IscsiFront {
 public:
  explicit FakeIscsi(FakeEngine* engine) : engine_(engine) {}

  Task<Status> AddPortal(SocketAddress address) override {
    if (engine_->busy_addresses.contains(address.ToString())) {
      co_return Refused("the address is in use");
    }
    co_return Ok();
  }
  Task<Status> RemovePortal(SocketAddress) override { co_return Ok(); }
  Task<Status> AddTarget(TargetSetup setup) override {
    targets_.insert(setup.name);
    co_return Ok();
  }
  Task<Status> UpdateTarget(TargetSetup) override { co_return Ok(); }
  Task<Status> RemoveTarget(std::string name, bool) override {
    targets_.erase(name);
    co_return Ok();
  }
  Task<Status> AddLun(LunSetup setup) override {
    luns_.push_back({.target = setup.target, .number = setup.number, .read_requests = 5});
    engine_->luns[fmt::format("{}/{}", setup.target, setup.number)] = setup;
    co_return Ok();
  }
  Task<Status> RemoveLun(std::string target, uint32_t number, bool) override {
    std::erase_if(luns_,
                  [&](const LunCounters& l) { return l.target == target && l.number == number; });
    co_return Ok();
  }
  IscsiStatus status() override {
    IscsiStatus status;
    status.luns = luns_;
    for (const std::string& target : targets_) {
      status.sessions.push_back({.target = target,
                                 .initiator = "iqn.2026-01.example:host",
                                 .address = "192.0.2.9:40000",
                                 .tsih = 1,
                                 .commands = 7});
    }
    return status;
  }
  Task<void> Stop() override { co_return; }

 private:
  FakeEngine* engine_;
  std::set<std::string> targets_;
  std::vector<LunCounters> luns_;
};

class FakeFuse final : public FuseFront {
 public:
  explicit FakeFuse(FakeEngine* engine) : engine_(engine) { engine_->fuse_mounted = true; }

  Task<Status> AddFile(std::string name, BlockDevice*, bool) override {
    files_.insert(name);
    co_return Ok();
  }
  Task<Status> RemoveFile(std::string name, bool force) override {
    if (!force && engine_->open_files.contains(name)) co_return Refused("it is open");
    while (engine_->file_hangs) co_await engine_->removal_.Wait();
    engine_->open_files.erase(name);
    files_.erase(name);
    co_return Ok();
  }
  Task<std::vector<FuseFileCounters>> Files() override {
    std::vector<FuseFileCounters> files;
    for (const std::string& name : files_) files.push_back({.name = name, .read_requests = 3});
    co_return files;
  }
  bool IsOnExport(const std::string& path) const override { return path.starts_with("/exports/"); }
  bool mounted() const override { return engine_->fuse_mounted; }
  Task<Status> Stop() override {
    const bool open = !engine_->open_files.empty();
    engine_->open_files.clear();
    if (open) co_return Refused("something was open");
    co_return Ok();
  }

 private:
  FakeEngine* engine_;
  std::set<std::string> files_;
};

}  // namespace

FakeDevice::FakeDevice(Reactor& reactor, std::string name, std::string path, uint64_t size)
    : DeviceBase(reactor, std::move(name)), path_(std::move(path)) {
  geometry_.size = size;
}

void FakeDevice::Submit(BlockIo*) noexcept {
  UMBLOCK_ASSERT(false, "nobody does I/O in tests of the management side");
}

FakeResource::FakeResource(FakeEngine* engine, const drbd::ResourceConfig& config,
                           drbd::ResourceObserver* observer)
    : engine_(engine), config_(config), observer_(observer) {
  engine_->resources_[config.name] = this;
}

FakeResource::~FakeResource() {
  UMBLOCK_ASSERT(stopped_, "Stop was awaited");
  engine_->resources_.erase(config_.name);
}

Task<void> FakeResource::Stop() {
  stopped_ = true;
  engine_->forced_.NotifyAll();
  co_await engine_->reactor().Yield();
}

void FakeResource::Report(std::string object, std::string attribute, std::string old_value,
                          std::string new_value, std::string reason) {
  observer_->OnStateChange({{std::move(object), std::move(attribute), std::move(old_value),
                             std::move(new_value), std::move(reason)}});
}

void FakeResource::SetRole(drbd::Role role, const std::string& reason) {
  const std::string old(v1::Role::Value_Name(ToProto(role_)));
  role_ = role;
  for (auto& [number, volume] : volumes_) {
    volume.device->set_access(role == drbd::Role::kPrimary ? Access::kReadWrite : Access::kStandby);
  }
  Report("resource " + config_.name, "role", old, v1::Role::Value_Name(ToProto(role)), reason);
}

void FakeResource::SetDisk(Volume& volume, drbd::DiskState disk, const std::string& reason) {
  const std::string old(v1::DiskState::Value_Name(ToProto(volume.status.disk)));
  volume.status.disk = disk;
  volume.status.disk_reason = disk == drbd::DiskState::kUpToDate ? "" : reason;
  Report(fmt::format("volume {}/{}", config_.name, volume.status.number), "disk", old,
         v1::DiskState::Value_Name(ToProto(disk)), reason);
}

void FakeResource::SetConnection(Peer& peer, drbd::ConnectionState state,
                                 const std::string& reason) {
  const std::string old(v1::ConnectionState::Value_Name(ToProto(peer.status.state)));
  peer.status.state = state;
  Report(fmt::format("connection {}/{}", config_.name, peer.status.peer_node_id), "connection", old,
         v1::ConnectionState::Value_Name(ToProto(state)), reason);
}

drbd::ResourceStatus FakeResource::status() const {
  drbd::ResourceStatus status;
  status.name = config_.name;
  status.node_id = config_.node_id;
  status.role = role_;
  status.suspended = suspended_ ? "user" : "no";
  status.write_ordering = "flush";
  for (const auto& [number, volume] : volumes_) {
    drbd::VolumeStatus& shown = status.volumes.emplace_back(volume.status);
    for (const Opener& opener : volume.device->openers())
      shown.openers.push_back(opener.description);
  }
  for (const auto& [id, peer] : peers_) status.connections.push_back(peer.status);
  return status;
}

Status FakeResource::AddVolume(const drbd::VolumeConfig& config) {
  Volume& volume = volumes_[config.number];
  volume.status.number = config.number;
  volume.status.quorum = true;
  volume.status.wanted_bytes = config.size;
  volume.device = std::make_unique<FakeDevice>(
      engine_->reactor(), fmt::format("volume {}/{}", config_.name, config.number), "", 0);
  volume.device->set_access(Access::kStandby);
  for (auto& [id, peer] : peers_) peer.status.volumes.push_back({.volume = config.number});
  return Ok();
}

Task<Status> FakeResource::RemoveVolume(int number) {
  while (engine_->removal_hangs) co_await engine_->removal_.Wait();
  volumes_.erase(number);
  for (auto& [id, peer] : peers_) {
    std::erase_if(peer.status.volumes, [&](const auto& v) { return v.volume == number; });
  }
  co_return Ok();
}

BlockDevice* FakeResource::volume(int number) {
  const auto it = volumes_.find(number);
  return it == volumes_.end() ? nullptr : it->second.device.get();
}

Task<Status> FakeResource::Attach(drbd::AttachRequest request) {
  co_await engine_->reactor().Yield();
  Volume& volume = volumes_.at(request.volume);
  auto* device =
      static_cast<FakeDevice*>(request.metadata != nullptr ? request.metadata : request.backing);
  FakeDisk& disk = engine_->disks().at(device->path());
  if (engine_->attach_hangs || disk.attach_hangs) {
    SetDisk(volume, drbd::DiskState::kAttaching, "asks a peer");
    co_await engine_->forced_.Wait();
    SetDisk(volume, drbd::DiskState::kDiskless, "the peer does not answer");
    co_return MakeError(ErrorCode::kUnavailable, "the peer does not answer");
  }
  if (!disk.has_metadata) {
    co_return MakeError(ErrorCode::kNotFound, "{} carries no metadata: create it first",
                        device->name());
  }
  if (request.may_attach) {
    if (Status allowed = request.may_attach(disk.device_uuid); !allowed) co_return allowed;
  }
  volume.status.backend = request.backing->name();
  volume.status.device_uuid = disk.device_uuid;
  volume.status.size_bytes = request.backing->geometry().size - kMetadataBytes;
  volume.status.current_uuid = "0000000000000004";
  volume.status.backing_bytes = request.backing->geometry().size;
  engine_->last_known_size = request.last_known_size;
  volume.device->set_size(volume.status.size_bytes);
  volume.device->set_block_size(request.backing->geometry().logical_block_size);
  SetDisk(volume, drbd::DiskState::kInconsistent, "just created");
  co_return Ok();
}

Task<Status> FakeResource::Detach(int number, bool force) {
  if (force) engine_->forced_.NotifyAll();
  Volume& volume = volumes_.at(number);
  volume.status.backend.clear();
  volume.status.device_uuid = 0;
  SetDisk(volume, drbd::DiskState::kDiskless, "detached");
  co_return Ok();
}

Status FakeResource::AddPeer(const drbd::PeerConfig& config) {
  Peer& peer = peers_[config.node_id];
  peer.config = config;
  peer.status.peer_node_id = config.node_id;
  peer.status.peer_name = config.name;
  peer.status.peer_role = drbd::Role::kUnknown;
  for (const auto& [number, volume] : volumes_) {
    peer.status.volumes.push_back({.volume = number,
                                   .replication = drbd::ReplicationState::kOff,
                                   .peer_disk = drbd::DiskState::kUnknown,
                                   .resync_suspended = "no"});
  }
  return Ok();
}

Task<Status> FakeResource::RemovePeer(int node_id, bool) {
  peers_.erase(node_id);
  co_return Ok();
}

Task<Status> FakeResource::ForgetPeer(int, int node_id) {
  co_await engine_->reactor().Yield();
  if (peers_.contains(node_id)) co_return Refused("it is a peer");
  if (engine_->forgetting_fails) co_return MakeError(ErrorCode::kDataLoss, "cannot be written");
  if (std::ranges::find(engine_->forgotten, node_id) != engine_->forgotten.end()) {
    co_return MakeError(ErrorCode::kNotFound, "no node {}", node_id);
  }
  engine_->forgotten.push_back(node_id);
  co_return Ok();
}

Task<Status> FakeResource::Connect(int node_id, drbd::ConnectOptions) {
  SetConnection(peers_.at(node_id), drbd::ConnectionState::kConnecting, "Connect");
  co_return Ok();
}

Task<Status> FakeResource::Disconnect(int node_id, bool force) {
  if (force) engine_->forced_.NotifyAll();
  SetConnection(peers_.at(node_id), drbd::ConnectionState::kStandAlone, "Disconnect");
  co_return Ok();
}

Task<Status> FakeResource::Promote(bool force) {
  co_await engine_->reactor().Yield();
  for (auto& [number, volume] : volumes_) {
    if (volume.status.disk == drbd::DiskState::kUpToDate) continue;
    if (!force) {
      co_return Refused(fmt::format("volume {}/{} has no UpToDate data: sync it, or force",
                                    config_.name, number));
    }
    SetDisk(volume, drbd::DiskState::kUpToDate, "forced promotion");
  }
  SetRole(drbd::Role::kPrimary, "Promote");
  co_return Ok();
}

Task<Status> FakeResource::Demote(bool) {
  for (auto& [number, volume] : volumes_) {
    if (!volume.device->open()) continue;
    co_return Refused(fmt::format("volume {}/{} is open: {}", config_.name, number,
                                  volume.device->DescribeOpeners()));
  }
  SetRole(drbd::Role::kSecondary, "Demote");
  co_return Ok();
}

Task<Status> FakeResource::Invalidate(int volume, int peer_node_id, bool) {
  UMBLOCK_ASSERT(peers_.contains(peer_node_id), "the peer is one of the resource's");
  SetDisk(volumes_.at(volume), drbd::DiskState::kInconsistent, "Invalidate");
  co_return Ok();
}
Task<Status> FakeResource::InvalidateRemote(int, int, bool) { co_return Ok(); }
Task<Status> FakeResource::PauseSync(int, int) { co_return Ok(); }
Task<Status> FakeResource::ResumeSync(int, int) { co_return Ok(); }
Task<Status> FakeResource::StartVerify(int volume, int peer_node_id, drbd::VerifyRequest request) {
  last_verify = request;
  for (drbd::PeerVolumeStatus& each : peers_.at(peer_node_id).status.volumes) {
    if (each.volume != volume) continue;
    each.replication = drbd::ReplicationState::kVerifyS;
    each.verify.emplace();
    each.verify->running = each.verify->started_here = true;
    each.verify->different_bytes = 4096;
  }
  co_return Ok();
}
Task<Status> FakeResource::StopVerify(int volume, int peer_node_id) {
  for (drbd::PeerVolumeStatus& each : peers_.at(peer_node_id).status.volumes) {
    if (each.volume != volume || !each.verify) continue;
    each.replication = drbd::ReplicationState::kEstablished;
    each.verify->running = false;
  }
  co_return Ok();
}
Task<Status> FakeResource::Outdate(int volume) {
  SetDisk(volumes_.at(volume), drbd::DiskState::kOutdated, "Outdate");
  co_return Ok();
}
Task<Status> FakeResource::Resize(int volume, drbd::ResizeRequest request) {
  co_await engine_->reactor().Yield();
  Volume& of = volumes_.at(volume);
  if (request.size != 0 && request.size < of.status.size_bytes && !request.shrink) {
    co_return Refused("would be lost");
  }
  of.status.wanted_bytes = request.size;
  if (request.size != 0) of.status.size_bytes = request.size;
  co_return Ok();
}
Task<Status> FakeResource::NewCurrentUuid(int volume, bool clear_bitmap, bool force) {
  if (!clear_bitmap && !force && role_ != drbd::Role::kPrimary) co_return Refused("Secondary");
  SetDisk(volumes_.at(volume), drbd::DiskState::kUpToDate, "NewCurrentUuid");
  co_return Ok();
}
Task<Status> FakeResource::SuspendIo() {
  suspended_ = true;
  co_return Ok();
}
Task<Status> FakeResource::ResumeIo() {
  suspended_ = false;
  co_return Ok();
}
Status FakeResource::UpdateOptions(const drbd::ResourceOptions& options) {
  config_.options = options;
  return Ok();
}
Task<Status> FakeResource::UpdateNetOptions(int node_id, const drbd::NetOptions& options) {
  peers_.at(node_id).config.net = options;
  co_return Ok();
}
Status FakeResource::UpdateResyncOptions(int, const drbd::ResyncOptions&) { return Ok(); }
Status FakeResource::UpdateDiskOptions(int, const drbd::DiskOptions&) { return Ok(); }

void FakeResource::PeerArrives(int node_id) {
  Peer& peer = peers_.at(node_id);
  peer.status.peer_role = drbd::Role::kSecondary;
  peer.status.agreed_protocol = 122;
  peer.status.local_address = peer.config.paths.at(0).local.ToString();
  peer.status.remote_address = peer.config.paths.at(0).remote.ToString();
  for (auto& volume : peer.status.volumes) {
    volume.replication = drbd::ReplicationState::kEstablished;
    volume.peer_disk = drbd::DiskState::kUpToDate;
  }
  SetConnection(peer, drbd::ConnectionState::kConnected, "handshake done");
}

void FakeResource::SyncRuns(int node_id, uint64_t total, uint64_t left) {
  for (auto& volume : peers_.at(node_id).status.volumes) {
    volume.replication = drbd::ReplicationState::kSyncSource;
    volume.peer_disk = drbd::DiskState::kInconsistent;
    volume.out_of_sync_bytes = left;
    volume.sync = drbd::SyncProgress{.total_bytes = total,
                                     .left_bytes = left,
                                     .rate_bytes_per_second = 1 << 20,
                                     .eta = std::chrono::seconds(left >> 20)};
  }
  Report(fmt::format("peer-volume {}/{}/0", config_.name, node_id), "replication", "Established",
         "SyncSource", "resync");
}

void FakeResource::SyncEnds(int node_id) {
  for (auto& volume : peers_.at(node_id).status.volumes) {
    volume.replication = drbd::ReplicationState::kEstablished;
    volume.peer_disk = drbd::DiskState::kUpToDate;
    volume.out_of_sync_bytes = 0;
    volume.sync.reset();
  }
  Report(fmt::format("peer-volume {}/{}/0", config_.name, node_id), "replication", "SyncSource",
         "Established", "resync done");
}

Task<Result<std::unique_ptr<OpenedBackend>>> FakeEngine::OpenBackend(BackendSetup setup) {
  co_await reactor_.Yield();
  auto it = disks_->find(setup.path);
  while (it != disks_->end() && it->second.open_hangs) co_await removal_.Wait();
  if (it == disks_->end() && setup.create) {
    it = disks_->emplace(setup.path, FakeDisk{.size = setup.size}).first;
  }
  if (it == disks_->end() || it->second.fails) {
    co_return MakeError(ErrorCode::kNotFound, "backend '{}': no file '{}'", setup.name, setup.path);
  }
  auto device =
      std::make_unique<FakeDevice>(reactor_, "backend " + setup.name, setup.path, it->second.size);
  device->set_block_size(it->second.block_size);
  co_return std::make_unique<FakeBackend>(std::move(device));
}

Result<std::unique_ptr<ReplicatedResource>> FakeEngine::MakeResource(
    const drbd::ResourceConfig& config, drbd::ResourceObserver* observer) {
  return std::make_unique<FakeResource>(this, config, observer);
}

Task<Status> FakeEngine::CreateMetadata(drbd::CreateMetadataRequest request) {
  co_await reactor_.Yield();
  auto* device =
      static_cast<FakeDevice*>(request.metadata != nullptr ? request.metadata : request.backing);
  FakeDisk& disk = disks_->at(device->path());
  if ((disk.has_metadata || disk.has_file_system) && !request.force) {
    co_return Refused(fmt::format("{} carries {} already: force to overwrite it", device->name(),
                                  disk.has_metadata ? "metadata" : "a file system"));
  }
  disk.has_metadata = true;
  disk.has_file_system = false;
  disk.device_uuid = request.device_uuid;
  co_return Ok();
}

Task<Result<std::unique_ptr<IscsiFront>>> FakeEngine::StartIscsi() {
  co_return std::make_unique<FakeIscsi>(this);
}

Task<Result<std::unique_ptr<FuseFront>>> FakeEngine::StartFuse(std::string) {
  if (!fuse_works) co_return MakeError(ErrorCode::kPermissionDenied, "/dev/fuse cannot be opened");
  co_return std::make_unique<FakeFuse>(this);
}

}  // namespace umblock::server
