#include "server/real_engine.h"

#include "engine/runtime/uring/uring_process.h"
#include "engine/runtime/uring/uring_reactor.h"
#include "server/read_only_device.h"

#ifdef UMBLOCK_HAVE_BACKENDS
#include "engine/block/backends/backend.h"
#endif
#ifdef UMBLOCK_HAVE_FUSE
#include "engine/fuse/fuse_mount.h"
#endif
#ifdef UMBLOCK_HAVE_ISCSI
#include "server/real_iscsi.h"
#endif

namespace umblock::server {
namespace {

[[maybe_unused]] std::unexpected<Error> NotInThisBuild(const char* part) {
  return MakeError(ErrorCode::kUnimplemented, "this build of umblockd has no {}", part);
}

#ifdef UMBLOCK_HAVE_BACKENDS

class RealBackend final : public OpenedBackend {
 public:
  explicit RealBackend(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}
  BlockDevice* device() override { return backend_.get(); }
  Task<Status> Grow(uint64_t bytes) override { return backend_->Grow(bytes); }
  Task<void> Close() override { return backend_->Stop(); }

 private:
  std::unique_ptr<Backend> backend_;
};

#endif  // UMBLOCK_HAVE_BACKENDS

#ifdef UMBLOCK_HAVE_DRBD

class RealResource final : public ReplicatedResource {
 public:
  RealResource(Reactor& reactor, const drbd::ResourceConfig& config,
               drbd::ResourceObserver* observer, ProcessRunner* programs)
      : resource_(reactor, config, observer, programs) {}

  Task<void> Stop() override { return resource_.Stop(); }
  drbd::ResourceStatus status() const override { return resource_.status(); }
  Status AddVolume(const drbd::VolumeConfig& config) override {
    return resource_.AddVolume(config);
  }
  Task<Status> RemoveVolume(int volume) override { return resource_.RemoveVolume(volume); }
  BlockDevice* volume(int number) override { return resource_.volume(number); }
  Task<Status> Attach(drbd::AttachRequest request) override { return resource_.Attach(request); }
  Task<Status> Detach(int volume, bool force) override { return resource_.Detach(volume, force); }
  Status AddPeer(const drbd::PeerConfig& config) override { return resource_.AddPeer(config); }
  Task<Status> RemovePeer(int node_id, bool force) override {
    return resource_.RemovePeer(node_id, force);
  }
  Task<Status> ForgetPeer(int volume, int node_id) override {
    return resource_.ForgetPeer(volume, node_id);
  }
  Task<Status> Connect(int node_id, drbd::ConnectOptions options) override {
    return resource_.Connect(node_id, options);
  }
  Task<Status> Disconnect(int node_id, bool force) override {
    return resource_.Disconnect(node_id, force);
  }
  Task<Status> Promote(bool force) override { return resource_.Promote(force); }
  Task<Status> Demote(bool force) override { return resource_.Demote(force); }
  Task<Status> Resize(int volume, drbd::ResizeRequest request) override {
    return resource_.Resize(volume, request);
  }
  Task<Status> Invalidate(int volume, int peer_node_id, bool only_marked) override {
    return resource_.Invalidate(volume, peer_node_id, only_marked);
  }
  Task<Status> InvalidateRemote(int volume, int peer_node_id, bool only_marked) override {
    return resource_.InvalidateRemote(volume, peer_node_id, only_marked);
  }
  Task<Status> PauseSync(int volume, int peer_node_id) override {
    return resource_.PauseSync(volume, peer_node_id);
  }
  Task<Status> ResumeSync(int volume, int peer_node_id) override {
    return resource_.ResumeSync(volume, peer_node_id);
  }
  Task<Status> StartVerify(int volume, int peer_node_id, drbd::VerifyRequest request) override {
    return resource_.StartVerify(volume, peer_node_id, request);
  }
  Task<Status> StopVerify(int volume, int peer_node_id) override {
    return resource_.StopVerify(volume, peer_node_id);
  }
  Task<Status> Outdate(int volume) override { return resource_.Outdate(volume); }
  Task<Status> NewCurrentUuid(int volume, bool clear_bitmap, bool force) override {
    return resource_.NewCurrentUuid(volume, clear_bitmap, force);
  }
  Task<Status> SuspendIo() override { return resource_.SuspendIo(); }
  Task<Status> ResumeIo() override { return resource_.ResumeIo(); }
  void FailHeldIo() override { resource_.FailHeldIo(); }
  Status UpdateOptions(const drbd::ResourceOptions& options) override {
    return resource_.UpdateOptions(options);
  }
  Status UpdateHandlers(const drbd::HandlerConfig& handlers) override {
    return resource_.UpdateHandlers(handlers);
  }
  Task<Status> UpdateNetOptions(int node_id, const drbd::NetOptions& options) override {
    return resource_.UpdateNetOptions(node_id, options);
  }
  Status UpdateResyncOptions(int node_id, const drbd::ResyncOptions& options) override {
    return resource_.UpdateResyncOptions(node_id, options);
  }
  Status UpdateDiskOptions(int volume, const drbd::DiskOptions& options) override {
    return resource_.UpdateDiskOptions(volume, options);
  }

 private:
  drbd::Resource resource_;
};

#endif  // UMBLOCK_HAVE_DRBD

#ifdef UMBLOCK_HAVE_FUSE

class RealFuse final : public FuseFront {
 public:
  explicit RealFuse(std::unique_ptr<FuseMount> mount) : mount_(std::move(mount)) {}

  Task<Status> AddFile(std::string name, BlockDevice* device, bool read_only) override {
    if (!read_only) co_return co_await mount_->AddFile(std::move(name), device);
    auto wrapped = std::make_unique<ReadOnlyDevice>(device);
    Status added = co_await mount_->AddFile(name, wrapped.get());
    if (added) read_only_[name] = std::move(wrapped);
    co_return added;
  }
  Task<Status> RemoveFile(std::string name, bool force) override {
    Status removed = co_await mount_->RemoveFile(name, force);
    if (removed) read_only_.erase(name);
    co_return removed;
  }
  Task<std::vector<FuseFileCounters>> Files() override {
    const FuseStatus status = co_await mount_->status();
    std::vector<FuseFileCounters> files;
    for (const FuseFileStatus& from : status.files) {
      FuseFileCounters& to = files.emplace_back();
      to.name = from.name;
      to.open_count = static_cast<uint32_t>(from.openers.size());
      to.read_requests = from.reads;
      to.read_bytes = from.read_bytes;
      to.write_requests = from.writes;
      to.write_bytes = from.write_bytes;
      to.copied_bytes = from.copied_bytes;
    }
    co_return files;
  }
  bool mounted() const override { return mount_->mounted(); }
  bool IsOnExport(const std::string& path) const override { return mount_->IsOnExport(path); }
  Task<Status> Stop() override { return mount_->Stop(); }

 private:
  std::map<std::string, std::unique_ptr<ReadOnlyDevice>> read_only_;
  std::unique_ptr<FuseMount> mount_;
};

#endif  // UMBLOCK_HAVE_FUSE

class RealEngine final : public Engine {
 public:
  RealEngine(UringReactor& reactor, RealEngineOptions options)
      : reactor_(reactor), options_(std::move(options)), programs_(reactor) {}

  Task<Result<std::unique_ptr<OpenedBackend>>> OpenBackend(BackendSetup setup) override {
#ifdef UMBLOCK_HAVE_BACKENDS
    BackendSpec spec;
    spec.name = setup.name;
    spec.kind = setup.kind == BackendSetup::Kind::kRam ? BackendKind::kRam : BackendKind::kFile;
    spec.path = setup.path;
    spec.size = setup.size;
    spec.create = setup.create;
    auto opened = co_await umblock::OpenBackend(reactor_, std::move(spec));
    if (!opened) co_return std::unexpected(opened.error());
    co_return std::make_unique<RealBackend>(std::move(*opened));
#else
    co_return NotInThisBuild("backends");
#endif
  }

  Result<std::unique_ptr<ReplicatedResource>> MakeResource(
      const drbd::ResourceConfig& config, drbd::ResourceObserver* observer) override {
#ifdef UMBLOCK_HAVE_DRBD
    UMBLOCK_TRY(drbd::Validate(config));
    drbd::ResourceConfig named = config;
    named.node_name = options_.node_name;
    return std::make_unique<RealResource>(reactor_, named, observer,
                                          options_.allow_handlers ? &programs_ : nullptr);
#else
    (void)config, (void)observer;
    return NotInThisBuild("replication");
#endif
  }

  bool allows_handlers() const override { return options_.allow_handlers; }

  Task<Status> CreateMetadata(drbd::CreateMetadataRequest request) override {
#ifdef UMBLOCK_HAVE_DRBD
    return drbd::CreateMetadata(request);
#else
    co_return NotInThisBuild("replication");
#endif
  }

  Task<Result<std::unique_ptr<IscsiFront>>> StartIscsi() override {
#ifdef UMBLOCK_HAVE_ISCSI
    return StartRealIscsi(reactor_);
#else
    co_return NotInThisBuild("iSCSI front");
#endif
  }

  Task<Result<std::unique_ptr<FuseFront>>> StartFuse(std::string mountpoint) override {
#ifdef UMBLOCK_HAVE_FUSE
    FuseOptions options;
    options.allow_other = options_.fuse_allow_other;
    auto mount = co_await FuseMount::Start(reactor_, std::move(mountpoint), options);
    if (!mount) co_return std::unexpected(mount.error());
    co_return std::make_unique<RealFuse>(std::move(*mount));
#else
    co_return NotInThisBuild("FUSE front");
#endif
  }

  std::map<std::string, uint64_t> RuntimeCounters() override {
    const UringCounters& from = reactor_.counters();
    return {{"turns", from.turns},
            {"enters", from.enters},
            {"other_syscalls", from.other_syscalls},
            {"sqes", from.sqes},
            {"cqes", from.cqes},
            {"wakes_sent", from.wakes_sent},
            {"messages", from.messages},
            {"sleeps", from.sleeps},
            {"spins", from.spins},
            {"spins_paid", from.spins_paid},
            {"cut_turns", from.cut_turns},
            {"fixed_buffer_ops", from.fixed_buffer_ops}};
  }

 private:
  UringReactor& reactor_;
  [[maybe_unused]] const RealEngineOptions options_;
  UringProcessRunner programs_;
};

}  // namespace

std::unique_ptr<Engine> MakeRealEngine(UringReactor& reactor, RealEngineOptions options) {
  return std::make_unique<RealEngine>(reactor, std::move(options));
}

}  // namespace umblock::server
