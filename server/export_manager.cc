#include "server/export_manager.h"

#include "server/convert.h"
#include "server/names.h"

namespace umblock::server {

struct ExportManager::Entry {
  v1::ExportSpec spec;
  bool open = false;
  bool going = false;  // being deleted
  std::string reason = "not opened yet";
};

ExportManager::ExportManager(NodeParts parts, Backings backings, std::string directory)
    : parts_(parts),
      backings_(backings),
      directory_(std::move(directory)),
      changes_(parts.reactor) {}

ExportManager::~ExportManager() = default;

Task<void> ExportManager::DropLostMount() {
  if (fuse_ == nullptr || fuse_->mounted()) co_return;
  const std::string reason = fmt::format(
      "{} was unmounted by somebody else: it is mounted again, and what was open has to be opened "
      "anew",
      directory_);
  parts_.logger.Warn("exports: {}", reason);
  // The kernel closes nothing on a mount that was aborted: without this a volume would stay open.
  if (Status stopped = co_await fuse_->Stop(); !stopped) {
    parts_.logger.Warn("exports: {}", stopped.error().message());
  }
  fuse_.reset();
  for (const auto& [name, entry] : entries_) {
    entry->open = false;
    entry->reason = reason;
  }
  Look();
}

Task<Status> ExportManager::NeedMount() {
  co_await DropLostMount();
  if (fuse_ != nullptr) co_return Ok();
  if (stopped_) co_return MakeError(ErrorCode::kUnavailable, "the daemon is stopping");
  if (directory_.empty()) {
    co_return MakeError(ErrorCode::kUnimplemented,
                        "the FUSE front is off: start umblockd with --fuse-dir DIRECTORY");
  }
  auto started = co_await parts_.engine.StartFuse(directory_);
  mount_problem_ = started ? std::string() : started.error().message();
  if (!started) co_return std::unexpected(started.error());
  fuse_ = std::move(*started);
  co_return Ok();
}

Task<Status> ExportManager::Open(Entry* entry) {
  auto device = backings_.Device(entry->spec.backing());
  Status opened = device ? Ok() : std::unexpected(device.error());
  if (opened) {
    opened = co_await fuse_->AddFile(entry->spec.name(), *device, entry->spec.read_only());
  }
  entry->open = opened.has_value();
  entry->reason = opened ? std::string() : opened.error().message();
  co_return opened;
}

v1::Export ExportManager::Describe(const Entry& entry) const {
  v1::Export shown;
  *shown.mutable_spec() = entry.spec;
  const FrontState state = FrontStateOf(backings_.Device(entry.spec.backing()), entry.reason);
  shown.set_ready(state.ready);
  shown.set_reason(state.reason);
  shown.set_size_bytes(state.size);
  if (!directory_.empty()) shown.set_path(directory_ + "/" + entry.spec.name());
  return shown;
}

Task<Result<v1::Export>> ExportManager::Create(v1::CreateExportRequest request) {
  auto lock = co_await changes_.Acquire();
  const v1::ExportSpec& spec = request.spec();
  Status made = CheckName("export", spec.name());
  if (made) made = CheckBackingRef(spec.backing());
  if (!made) co_return std::unexpected(made.error());
  if (entries_.contains(spec.name())) {
    co_return MakeError(ErrorCode::kAlreadyExists, "there is an export '{}' already", spec.name());
  }
  if (made = co_await NeedMount(); !made) co_return std::unexpected(made.error());
  const std::string user = "export " + spec.name();
  if (made = backings_.Claim(spec.backing(), user); !made) {
    co_return std::unexpected(made.error().Within(user));
  }
  auto entry = std::make_unique<Entry>();
  entry->spec = spec;
  made = co_await Open(entry.get());
  if (made) {
    made = co_await parts_.config.Commit(
        [&spec](StoredState& state) { *state.config.add_exports() = spec; });
    if (!made) (void)co_await fuse_->RemoveFile(spec.name(), true);
  }
  if (!made) {
    backings_.Release(spec.backing(), user);
    co_return std::unexpected(made.error().Within(user));
  }
  v1::Export shown = Describe(*entry);
  entries_[spec.name()] = std::move(entry);
  parts_.events.Show(ExportEvent(shown));
  co_return shown;
}

Task<Result<v1::Export>> ExportManager::Get(v1::GetExportRequest request) {
  for (v1::Export& item : co_await All()) {
    if (item.spec().name() == request.name()) co_return std::move(item);
  }
  co_return MakeError(ErrorCode::kNotFound, "no export '{}'", request.name());
}

Task<Result<v1::ListExportsResponse>> ExportManager::List(v1::ListExportsRequest) {
  v1::ListExportsResponse response;
  for (v1::Export& item : co_await All()) *response.add_exports() = std::move(item);
  co_return response;
}

// Takes the file away. Waits for what its device still works on, which may be for ever, and holds
// nobody up meanwhile: `lock` is let go of.
Task<Status> ExportManager::Close(Entry* entry, bool force, AsyncMutex::Lock* lock) {
  if (!entry->open) co_return Ok();
  const std::shared_ptr<FuseFront> fuse = fuse_;
  entry->going = true;
  lock->Release();
  Status removed = co_await fuse->RemoveFile(entry->spec.name(), force);
  *lock = co_await changes_.Acquire();
  entry->going = false;
  if (removed) entry->open = false;
  co_return removed;
}

Task<Result<v1::DeleteExportResponse>> ExportManager::Delete(v1::DeleteExportRequest request) {
  auto lock = co_await changes_.Acquire();
  const std::string name = request.name();
  const auto it = entries_.find(name);
  if (it == entries_.end()) co_return MakeError(ErrorCode::kNotFound, "no export '{}'", name);
  Entry* entry = it->second.get();
  if (entry->going) {
    co_return MakeError(ErrorCode::kAborted,
                        "export '{}' is being deleted, and waits for requests on {}", name,
                        DescribeBacking(entry->spec.backing()));
  }
  co_await DropLostMount();
  if (Status closed = co_await Close(entry, request.force(), &lock); !closed) {
    co_return std::unexpected(closed.error());
  }
  if (stopped_) co_return MakeError(ErrorCode::kUnavailable, "the daemon is stopping");
  Status stored = co_await parts_.config.Commit([&name](StoredState& state) {
    EraseFrom(state.config.mutable_exports(),
              [&name](const v1::ExportSpec& spec) { return spec.name() == name; });
  });
  if (!stored) {
    if (fuse_ != nullptr) (void)co_await Open(entry);
    co_return std::unexpected(stored.error());
  }
  backings_.Release(entry->spec.backing(), "export " + name);
  entries_.erase(it);
  parts_.events.ShowDeleted("export " + name);
  co_return v1::DeleteExportResponse();
}

std::function<Status(const std::string&)> ExportManager::PathCheck() const {
  return [fuse = fuse_, directory = directory_](const std::string& path) -> Status {
    if (fuse == nullptr || !fuse->IsOnExport(path)) return Ok();
    return MakeError(ErrorCode::kFailedPrecondition,
                     "'{}' lies on an export of this daemon ({}): it would wait for itself", path,
                     directory);
  };
}

void ExportManager::Restore() {
  for (const v1::ExportSpec& spec : parts_.config.config().exports()) {
    auto entry = std::make_unique<Entry>();
    entry->spec = spec;
    Status claimed = backings_.Claim(spec.backing(), "export " + spec.name());
    if (!claimed) entry->reason = claimed.error().message();
    entries_[spec.name()] = std::move(entry);
  }
}

Task<void> ExportManager::Retry() {
  auto lock = co_await changes_.Acquire();
  if (stopped_ || (directory_.empty() && entries_.empty())) co_return;
  Status mounted = co_await NeedMount();
  for (const auto& [name, entry] : entries_) {
    if (!mounted) {
      entry->reason = mounted.error().message();
    } else if (!entry->open && !entry->going) {
      (void)co_await Open(entry.get());
    }
  }
}

Task<void> ExportManager::Stop() {
  stopped_ = true;
  auto lock = co_await changes_.Acquire();
  if (fuse_ == nullptr) co_return;
  if (Status stopped = co_await fuse_->Stop(); !stopped) {
    parts_.logger.Warn("exports: {}", stopped.error().message());
  }
  for (const auto& [name, entry] : entries_) entry->open = false;
  fuse_.reset();
}

void ExportManager::Look() {
  for (const auto& [name, entry] : entries_) parts_.events.Show(ExportEvent(Describe(*entry)));
}

Task<std::vector<v1::Export>> ExportManager::All() {
  // Whoever looks does not wait for a change that waits for a device. The front may be stopped
  // meanwhile, but does not go while this looks into it.
  std::vector<FuseFileCounters> files;
  if (const std::shared_ptr<FuseFront> fuse = fuse_) files = co_await fuse->Files();
  std::vector<v1::Export> all;
  for (const auto& [name, entry] : entries_) {
    v1::Export& shown = all.emplace_back(Describe(*entry));
    for (const FuseFileCounters& file : files) {
      if (file.name != name) continue;
      shown.set_open_count(file.open_count);
      v1::ExportStatistics* statistics = shown.mutable_statistics();
      statistics->set_read_requests(file.read_requests);
      statistics->set_read_bytes(file.read_bytes);
      statistics->set_write_requests(file.write_requests);
      statistics->set_write_bytes(file.write_bytes);
      statistics->set_copied_bytes(file.copied_bytes);
    }
  }
  co_return all;
}

void ExportManager::AddProblems(std::vector<NodeProblem>* problems) const {
  if (!mount_problem_.empty()) problems->push_back({"fuse " + directory_, mount_problem_});
  for (const auto& [name, entry] : entries_) {
    if (!entry->open) problems->push_back({"export " + name, entry->reason});
  }
}

}  // namespace umblock::server
