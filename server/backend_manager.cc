#include "server/backend_manager.h"

#include <sys/stat.h>

#include <utility>
#include <vector>

#include "server/convert.h"
#include "server/names.h"
#include "server/run_blocking.h"

namespace umblock::server {

struct BackendManager::Entry {
  v1::BackendSpec spec;
  std::unique_ptr<OpenedBackend> opened;
  std::string reason;                  // why it is not open
  std::map<std::string, bool> claims;  // by user; true: exclusive
  bool busy = false;                   // being opened, made or deleted
};

BackendManager::BackendManager(NodeParts parts)
    : parts_(parts), retries_(parts.reactor, parts.patience) {}
BackendManager::~BackendManager() = default;

BackendManager::Entry* BackendManager::Find(const std::string& name) const {
  const auto it = entries_.find(name);
  return it == entries_.end() ? nullptr : it->second.get();
}

v1::Backend BackendManager::Describe(const Entry& entry) const {
  v1::Backend backend;
  *backend.mutable_spec() = entry.spec;
  v1::BackendStatus* status = backend.mutable_status();
  status->set_ready(entry.opened != nullptr);
  if (entry.opened != nullptr) {
    const BlockGeometry& geometry = entry.opened->device()->geometry();
    status->set_size_bytes(geometry.size);
    status->set_logical_block_size(geometry.logical_block_size);
    status->set_physical_block_size(geometry.physical_block_size);
    status->set_can_discard(geometry.can_discard);
    status->set_volatile_cache(geometry.volatile_cache);
  } else {
    status->set_reason(entry.reason);
  }
  for (const auto& [user, exclusive] : entry.claims) status->add_used_by(user);
  return backend;
}

namespace {

// The engine refuses a file that is open already, but cannot say as what. May block.
Status RefuseSameFile(const std::string& name, const std::string& path,
                      const std::vector<std::pair<std::string, std::string>>& others) {
  struct stat here{};
  if (::stat(path.c_str(), &here) != 0) return Ok();
  const bool device = S_ISBLK(here.st_mode);
  for (const auto& [other, other_path] : others) {
    struct stat there{};
    if (::stat(other_path.c_str(), &there) != 0 || device != S_ISBLK(there.st_mode)) continue;
    const bool same = device ? here.st_rdev == there.st_rdev
                             : here.st_dev == there.st_dev && here.st_ino == there.st_ino;
    if (!same) continue;
    return MakeError(ErrorCode::kFailedPrecondition,
                     "backend '{}': '{}' is the same {} as '{}' of backend '{}'", name, path,
                     device ? "device" : "file", other_path, other);
  }
  return Ok();
}

}  // namespace

void BackendManager::Publish(const Entry& entry) {
  parts_.events.Show(BackendEvent(Describe(entry)), entry.reason);
}

Task<Status> BackendManager::Open(std::shared_ptr<Entry> entry) {
  auto setup = ToBackendSetup(entry->spec);
  if (!setup) co_return std::unexpected(setup.error());
  if (make_path_check) {
    const PathCheck check = make_path_check();
    Status allowed;
    co_await RunBlocking(parts_.reactor, [&] { allowed = check(setup->path); });
    if (!allowed) co_return allowed;
  }
  std::vector<std::pair<std::string, std::string>> others;
  for (const auto& [name, other] : entries_) {
    if (other->opened != nullptr) others.emplace_back(name, other->spec.path());
  }
  Status own;
  co_await RunBlocking(parts_.reactor,
                       [&] { own = RefuseSameFile(setup->name, setup->path, others); });
  if (!own) co_return own;
  auto opened = co_await parts_.engine.OpenBackend(*setup);
  if (!opened) co_return std::unexpected(opened.error());
  entry->opened = std::move(*opened);
  entry->reason.clear();
  co_return Ok();
}

Task<Result<v1::Backend>> BackendManager::Create(v1::CreateBackendRequest request) {
  v1::BackendSpec spec = request.spec();
  auto setup = ToBackendSetup(spec);
  if (!setup) co_return std::unexpected(setup.error());
  if (spec.kind() == v1::BackendKind::UNSPECIFIED) spec.set_kind(v1::BackendKind::File);
  for (const auto& [name, other] : entries_) {
    if (name == spec.name()) {
      co_return MakeError(ErrorCode::kAlreadyExists, "there is a backend '{}' already ({})", name,
                          other->spec.path());
    }
    if (other->spec.path() == spec.path()) {
      co_return MakeError(ErrorCode::kAlreadyExists, "'{}' is the path of backend '{}' already",
                          spec.path(), name);
    }
  }
  auto entry = std::make_shared<Entry>();
  entry->spec = spec;
  entry->busy = true;
  entry->reason = "is being opened";
  entries_[spec.name()] = entry;
  Status made = co_await Open(entry);
  if (made) {
    made = co_await parts_.config.Commit(
        [&spec](StoredState& state) { *state.config.add_backends() = spec; });
  }
  entry->busy = false;
  if (!made) {
    entries_.erase(spec.name());
    if (entry->opened != nullptr) co_await entry->opened->Close();
    co_return std::unexpected(made.error());
  }
  Publish(*entry);
  co_return Describe(*entry);
}

Task<Result<v1::Backend>> BackendManager::Get(v1::GetBackendRequest request) {
  Entry* entry = Find(request.name());
  if (entry == nullptr) {
    co_return MakeError(ErrorCode::kNotFound, "no backend '{}'", request.name());
  }
  co_return Describe(*entry);
}

Task<Result<v1::ListBackendsResponse>> BackendManager::List(v1::ListBackendsRequest) {
  v1::ListBackendsResponse response;
  for (v1::Backend& backend : All()) *response.add_backends() = std::move(backend);
  co_return response;
}

// A file that is larger than its spec says would not be opened any more, so the spec says nothing
// before it grows.
Task<Status> BackendManager::Grow(std::shared_ptr<Entry> entry, uint64_t bytes) {
  if (entry->opened == nullptr) {
    co_return MakeError(ErrorCode::kUnavailable, "backend '{}' is not ready: {}",
                        entry->spec.name(), entry->reason);
  }
  if (entry->spec.size_bytes() != 0) {
    const std::string name = entry->spec.name();
    UMBLOCK_CO_TRY(co_await parts_.config.Commit([&name](StoredState& state) {
      for (v1::BackendSpec& spec : *state.config.mutable_backends()) {
        if (spec.name() != name) continue;
        spec.set_size_bytes(0);
        spec.set_create(false);
      }
    }));
    entry->spec.set_size_bytes(0);
    entry->spec.set_create(false);
  }
  Status grown = co_await entry->opened->Grow(bytes);
  Publish(*entry);
  co_return grown;
}

Task<Result<v1::Backend>> BackendManager::Resize(v1::ResizeBackendRequest request) {
  const auto it = entries_.find(request.name());
  if (it == entries_.end()) {
    co_return MakeError(ErrorCode::kNotFound, "no backend '{}'", request.name());
  }
  std::shared_ptr<Entry> entry = it->second;
  if (entry->busy) {
    co_return MakeError(ErrorCode::kAborted, "backend '{}' is being changed: try again",
                        request.name());
  }
  entry->busy = true;
  Status grown = co_await Grow(entry, request.size_bytes());
  entry->busy = false;
  if (!grown) co_return std::unexpected(grown.error());
  co_return Describe(*entry);
}

Task<Status> BackendManager::LookAgain(const std::string& name) {
  const auto it = entries_.find(name);
  if (it == entries_.end()) co_return MakeError(ErrorCode::kNotFound, "no backend '{}'", name);
  std::shared_ptr<Entry> entry = it->second;
  if (entry->busy) co_return Ok();  // whoever is at it looks, too
  entry->busy = true;
  Status looked = co_await Grow(entry, 0);
  entry->busy = false;
  co_return looked;
}

Task<Result<v1::DeleteBackendResponse>> BackendManager::Delete(v1::DeleteBackendRequest request) {
  const std::string name = request.name();
  Entry* found = Find(name);
  if (found == nullptr) co_return MakeError(ErrorCode::kNotFound, "no backend '{}'", name);
  if (!found->claims.empty()) {
    std::string users;
    for (const auto& [user, exclusive] : found->claims) users += (users.empty() ? "" : ", ") + user;
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "backend '{}' is in use by {}: detach or delete that first", name, users);
  }
  if (found->busy) {
    co_return MakeError(ErrorCode::kAborted, "backend '{}' is being changed: try again", name);
  }
  std::shared_ptr<Entry> entry = entries_[name];
  entry->busy = true;
  Status stored = co_await parts_.config.Commit([this, &name](StoredState& state) {
    EraseFrom(state.config.mutable_backends(),
              [&name](const v1::BackendSpec& spec) { return spec.name() == name; });
    if (on_forget_stored) on_forget_stored(state, name);
  });
  entry->busy = false;
  if (!stored) co_return std::unexpected(stored.error());
  entries_.erase(name);
  if (on_forgotten) on_forgotten(name);
  if (entry->opened != nullptr) co_await entry->opened->Close();
  parts_.events.ShowDeleted("backend " + name);
  co_return v1::DeleteBackendResponse();
}

Status BackendManager::Claim(const std::string& name, const std::string& user, bool exclusive) {
  Entry* entry = Find(name);
  if (entry == nullptr) return MakeError(ErrorCode::kNotFound, "no backend '{}'", name);
  if (entry->claims.contains(user)) return Ok();
  if (entry->busy) {
    return MakeError(ErrorCode::kAborted, "backend '{}' is being changed: try again", name);
  }
  for (const auto& [other, other_exclusive] : entry->claims) {
    if (exclusive || other_exclusive) {
      return MakeError(ErrorCode::kFailedPrecondition,
                       "backend '{}' is in use by {}: use another backend, or remove that first",
                       name, other);
    }
  }
  entry->claims[user] = exclusive;
  Publish(*entry);
  return Ok();
}

void BackendManager::Release(const std::string& name, const std::string& user) {
  Entry* entry = Find(name);
  if (entry == nullptr || entry->claims.erase(user) == 0) return;
  Publish(*entry);
}

bool BackendManager::IsClaimedBy(const std::string& name, const std::string& user) const {
  const Entry* entry = Find(name);
  return entry != nullptr && entry->claims.contains(user);
}

Result<BlockDevice*> BackendManager::Device(const std::string& name) const {
  Entry* entry = Find(name);
  if (entry == nullptr) return MakeError(ErrorCode::kNotFound, "no backend '{}'", name);
  if (entry->opened == nullptr) {
    return MakeError(ErrorCode::kUnavailable, "backend '{}' is not ready: {}", name, entry->reason);
  }
  return entry->opened->device();
}

void BackendManager::Restore() {
  for (const v1::BackendSpec& spec : parts_.config.config().backends()) {
    auto entry = std::make_shared<Entry>();
    entry->spec = spec;
    // The file was made long ago: a missing one is missing data, not a blank disk.
    entry->spec.set_create(false);
    entry->reason = "not opened yet";
    entries_[spec.name()] = std::move(entry);
  }
}

Task<void> BackendManager::OpenAgain(std::shared_ptr<Entry> entry) {
  if (entry->busy || entry->opened != nullptr) co_return;
  entry->busy = true;
  Status opened = co_await Open(entry);
  entry->busy = false;
  if (!opened) entry->reason = opened.error().message();
  Publish(*entry);
}

Task<void> BackendManager::Retry() {
  std::vector<std::shared_ptr<Entry>> missing;
  for (const auto& [name, entry] : entries_) {
    if (entry->opened == nullptr && !entry->busy) missing.push_back(entry);
  }
  for (const std::shared_ptr<Entry>& entry : missing) {
    co_await retries_.Run(OpenAgain(entry));
    if (!entry->busy || entry->opened != nullptr) continue;
    entry->reason = "is being opened, and its device has not answered yet";
    Publish(*entry);
  }
}

Task<void> BackendManager::Stop() {
  co_await retries_.Join();
  for (const auto& [name, entry] : entries_) {
    if (entry->opened == nullptr) continue;
    co_await entry->opened->Close();
    entry->opened.reset();
  }
}

std::vector<v1::Backend> BackendManager::All() const {
  std::vector<v1::Backend> all;
  for (const auto& [name, entry] : entries_) all.push_back(Describe(*entry));
  return all;
}

void BackendManager::AddProblems(std::vector<NodeProblem>* problems) const {
  for (const auto& [name, entry] : entries_) {
    if (entry->opened == nullptr) problems->push_back({"backend " + name, entry->reason});
  }
}

}  // namespace umblock::server
