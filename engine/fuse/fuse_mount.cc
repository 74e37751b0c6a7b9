#include "engine/fuse/fuse_mount.h"

#include <algorithm>
#include <set>
#include <utility>

#include "engine/base/assert.h"
#include "engine/fuse/exported_file.h"
#include "engine/fuse/file_table.h"
#include "engine/fuse/fuse_session.h"
#include "engine/fuse/mount_check.h"
#include "engine/fuse/request_slot.h"
#include "engine/runtime/blocking.h"
#include "engine/runtime/sync.h"

namespace umblock {
namespace {

Status ValidateName(const std::string& name) {
  bool printable = std::all_of(name.begin(), name.end(),
                               [](unsigned char c) { return c > 0x20 && c != 0x7f && c != '/'; });
  if (name.empty() || name.size() > 255 || name == "." || name == ".." || !printable) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "export name '{}' cannot be a file name: 1 to 255 bytes without '/', blanks "
                     "and control characters",
                     name);
  }
  return Ok();
}

Status ValidateOptions(const FuseOptions& options) {
  if (options.max_requests < 4 || options.max_requests > 1024) {
    return MakeError(ErrorCode::kInvalidArgument, "max_requests {} is not within 4 to 1024",
                     options.max_requests);
  }
  if (options.receive_buffers < 2 || options.receive_buffers > 256) {
    return MakeError(ErrorCode::kInvalidArgument, "receive_buffers {} is not within 2 to 256",
                     options.receive_buffers);
  }
  if (options.waiting_bytes < (uint64_t{4} << 20)) {
    return MakeError(ErrorCode::kInvalidArgument, "waiting_bytes {} is less than 4 MiB",
                     options.waiting_bytes);
  }
  if ((options.file_mode & ~0777u) != 0) {
    return MakeError(ErrorCode::kInvalidArgument, "file_mode {:o} has more than permission bits",
                     options.file_mode);
  }
  return Ok();
}

}  // namespace

class FuseMountImpl {
 public:
  FuseMountImpl(Reactor& reactor, std::string mountpoint, const FuseOptions& options)
      : reactor_(reactor),
        mountpoint_(std::move(mountpoint)),
        options_(options),
        slots_(options.receive_buffers, &ExportedFile::OnPosted, &ExportedFile::OnDeviceDone),
        session_(mountpoint_, options, &files_, &slots_, &reactor.logger()),
        changing_(reactor),
        left_(reactor) {}
  ~FuseMountImpl() { UMBLOCK_ASSERT(stopped_, "a FUSE mount is stopped before it goes"); }

  Task<Status> Start() {
    Status mounted = Ok();
    co_await RunBlocking(reactor_, [&] {
      mounted = session_.Mount();
      return 0;
    });
    stopped_ = !mounted.has_value();
    if (mounted) reactor_.logger().Info("fuse {}: mounted", mountpoint_);
    co_return mounted;
  }

  Task<Status> AddFile(std::string name, BlockDevice* device, FuseFileOptions options) {
    UMBLOCK_CO_TRY(ValidateName(name));
    AsyncMutex::Lock lock = co_await changing_.Acquire();
    if (stopped_) co_return MakeError(ErrorCode::kFailedPrecondition, "{} is stopped", mountpoint_);
    if (files_.Find(std::string_view(name)) != nullptr) {
      co_return MakeError(ErrorCode::kAlreadyExists, "an export '{}' exists already in {}", name,
                          mountpoint_);
    }
    Reactor& home = device->reactor();
    uint64_t inode = files_.NextInode();
    if (&home != &reactor_) co_await home.SwitchTo();
    auto file = std::make_shared<ExportedFile>(name, inode, device, options, options_, &slots_);
    file->Attach();
    if (&home != &reactor_) co_await reactor_.SwitchTo();
    bool inserted = files_.Insert(std::move(file));
    UMBLOCK_ASSERT(inserted, "names are checked under the lock");
    reactor_.logger().Info("fuse {}: shows {} as {}", mountpoint_, device->name(), name);
    co_return Ok();
  }

  // A device that does not answer keeps its own file, and no change of the others, waiting.
  Task<Status> RemoveFile(std::string name, bool force) {
    std::shared_ptr<ExportedFile> file;
    {
      AsyncMutex::Lock lock = co_await changing_.Acquire();
      file = files_.Find(std::string_view(name));
      if (file == nullptr) {
        co_return MakeError(ErrorCode::kNotFound, "no export '{}' in {}", name, mountpoint_);
      }
      if (!leaving_.insert(name).second) {
        co_return MakeError(ErrorCode::kFailedPrecondition,
                            "export '{}' in {} is being removed already, and waits for {}", name,
                            mountpoint_, file->device_name());
      }
    }
    std::vector<std::string> openers;
    Status removed = co_await TakeDown(file, force, &openers);
    leaving_.erase(name);
    left_.NotifyAll();
    if (!removed) co_return removed;
    files_.Erase(file->inode());
    // Handles that are left point to the file.
    if (!openers.empty()) graveyard_.push_back(std::move(file));
    reactor_.logger().Info("fuse {}: no longer shows {}", mountpoint_, name);
    co_return Ok();
  }

  Task<Status> Stop() {
    AsyncMutex::Lock lock = co_await changing_.Acquire();
    if (stopped_) co_return Ok();
    stopped_ = true;
    co_await RunBlocking(reactor_, [this] {
      session_.StopThread();
      return 0;
    });
    while (!leaving_.empty()) co_await left_.Wait();
    std::vector<std::string> openers;
    for (const std::shared_ptr<ExportedFile>& file : files_.All()) {
      Status removed = co_await TakeDown(file, true, &openers);
      UMBLOCK_ASSERT(removed.has_value(), "removing by force is not refused");
    }
    co_await RunBlocking(reactor_, [this] {
      session_.Unmount();
      return 0;
    });
    if (openers.empty()) {
      reactor_.logger().Info("fuse {}: unmounted", mountpoint_);
      co_return Ok();
    }
    std::string who;
    for (const std::string& opener : openers) who += (who.empty() ? "" : ", ") + opener;
    reactor_.logger().Warn("fuse {}: unmounted while open by {}", mountpoint_, who);
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "{} was unmounted while open by {}; what they hold fails from now on, "
                        "unmount and detach it",
                        mountpoint_, who);
  }

  Task<FuseStatus> status() {
    FuseStatus result{.mountpoint = mountpoint_,
                      .mounted = session_.serving(),
                      .requests_in_flight = slots_.taken(),
                      .files = {}};
    for (const std::shared_ptr<ExportedFile>& file : files_.All()) {
      const FileCounters& counters = file->counters();
      FuseFileStatus one{
          .name = file->name(), .device = file->device_name(), .size = file->size(), .openers = {}};
      one.reads = counters.reads.load(std::memory_order_relaxed);
      one.read_bytes = counters.read_bytes.load(std::memory_order_relaxed);
      one.writes = counters.writes.load(std::memory_order_relaxed);
      one.write_bytes = counters.write_bytes.load(std::memory_order_relaxed);
      one.flushes = counters.flushes.load(std::memory_order_relaxed);
      one.unaligned = counters.unaligned.load(std::memory_order_relaxed);
      one.copied_bytes = counters.copied_bytes.load(std::memory_order_relaxed);
      one.errors = counters.errors.load(std::memory_order_relaxed);
      bool elsewhere = &file->reactor() != &reactor_;
      if (elsewhere) co_await file->reactor().SwitchTo();
      one.openers = file->Openers();
      if (elsewhere) co_await reactor_.SwitchTo();
      result.files.push_back(std::move(one));
    }
    std::sort(result.files.begin(), result.files.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    co_return result;
  }

  bool mounted() const { return session_.serving(); }
  const std::string& mountpoint() const { return mountpoint_; }
  bool IsOnExport(const std::string& path) const {
    return session_.serving() && LiesOnDevice(path, session_.device());
  }

 private:
  // Removes `file` from its device, on the device's reactor; `openers` gains who had it open.
  Task<Status> TakeDown(std::shared_ptr<ExportedFile> file, bool force,
                        std::vector<std::string>* openers) {
    bool elsewhere = &file->reactor() != &reactor_;
    if (elsewhere) co_await file->reactor().SwitchTo();
    Status removed = co_await file->Remove(force);
    for (std::string& opener : file->Openers()) openers->push_back(std::move(opener));
    if (elsewhere) co_await reactor_.SwitchTo();
    co_return removed;
  }

  Reactor& reactor_;
  const std::string mountpoint_;
  const FuseOptions options_;
  FileTable files_;
  SlotPool slots_;
  FuseSession session_;
  AsyncMutex changing_;  // one change of the file table at a time
  std::set<std::string> leaving_;
  WaitQueue left_;  // one of them is gone
  std::vector<std::shared_ptr<ExportedFile>> graveyard_;
  bool stopped_ = true;
};

FuseMount::FuseMount(std::unique_ptr<FuseMountImpl> impl) : impl_(std::move(impl)) {}
FuseMount::~FuseMount() = default;

Task<Result<std::unique_ptr<FuseMount>>> FuseMount::Start(Reactor& reactor, std::string mountpoint,
                                                          FuseOptions options) {
  UMBLOCK_CO_TRY(ValidateOptions(options));
  auto impl = std::make_unique<FuseMountImpl>(reactor, std::move(mountpoint), options);
  UMBLOCK_CO_TRY(co_await impl->Start());
  co_return std::unique_ptr<FuseMount>(new FuseMount(std::move(impl)));
}

Task<Status> FuseMount::AddFile(std::string name, BlockDevice* device, FuseFileOptions options) {
  return impl_->AddFile(std::move(name), device, options);
}
Task<Status> FuseMount::RemoveFile(std::string name, bool force) {
  return impl_->RemoveFile(std::move(name), force);
}
Task<Status> FuseMount::Stop() { return impl_->Stop(); }
Task<FuseStatus> FuseMount::status() { return impl_->status(); }
bool FuseMount::mounted() const { return impl_->mounted(); }
const std::string& FuseMount::mountpoint() const { return impl_->mountpoint(); }
bool FuseMount::IsOnExport(const std::string& path) const { return impl_->IsOnExport(path); }

}  // namespace umblock
