#include "server/resource_manager.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>

#include "server/convert.h"
#include "server/names.h"
#include "server/resource_entry.h"
#include "server/wait_condition.h"

namespace umblock::server {

constexpr Duration kLongestWait = 24h;
constexpr Duration kDefaultWait = 60s;
constexpr Duration kClosingTime = 500ms;

std::unexpected<Error> NoSuchResource(const std::string& name) {
  return MakeError(ErrorCode::kNotFound, "no resource '{}'", name);
}
std::unexpected<Error> IsStopping() {
  return MakeError(ErrorCode::kUnavailable, "umblockd is stopping");
}
std::unexpected<Error> NoSuchVolume(const std::string& resource, uint32_t number) {
  return MakeError(ErrorCode::kNotFound, "no volume {}/{}", resource, number);
}
std::unexpected<Error> NoSuchPeer(const std::string& resource, uint32_t peer_node_id) {
  return MakeError(ErrorCode::kNotFound,
                   "no connection {}/{}: resource '{}' has no peer with node id {}", resource,
                   peer_node_id, resource, peer_node_id);
}

ResourceEntry::ResourceEntry(ResourceManager* owner, Reactor& on_reactor)
    : manager(owner),
      reactor(on_reactor),
      lifecycle(on_reactor),
      drain(
          [](Completion* completion, int32_t) noexcept {
            auto* posted = static_cast<Drain*>(completion);
            ResourceEntryPtr keep = std::move(posted->keep);
            posted->entry->manager->OnEngineEvents(*posted->entry);
          },
          this) {}

ResourceEntry::~ResourceEntry() = default;

void ResourceEntry::OnStateChange(const std::vector<drbd::StateEvent>& events) {
  pending_events.insert(pending_events.end(), events.begin(), events.end());
  if (drain.keep != nullptr) return;
  drain.keep = self.lock();
  // Not from inside the engine's change: its status is looked at once the change is complete.
  if (drain.keep != nullptr) reactor.Post(&drain);
}

ResourceManager::ResourceManager(NodeParts parts, BackendManager* backends)
    : parts_(parts),
      backends_(backends),
      changed_(parts.reactor),
      retries_(parts.reactor, parts.patience) {}

ResourceManager::~ResourceManager() = default;

Result<ResourceEntryPtr> ResourceManager::Find(const std::string& name) const {
  const auto it = entries_.find(name);
  if (it == entries_.end() || it->second->gone) return NoSuchResource(name);
  return it->second;
}

v1::Resource ResourceManager::Describe(const ResourceEntry& entry) const {
  const drbd::ResourceStatus status = entry.resource->status();
  v1::Resource resource;
  *resource.mutable_spec() = entry.spec;
  FillResourceStatus(status, resource.mutable_status());
  for (const auto& [number, declared] : entry.volumes) {
    v1::Volume* volume = resource.add_volumes();
    *volume->mutable_spec() = declared.spec;
    volume->set_attach(declared.attach);
    for (const drbd::VolumeStatus& observed : status.volumes) {
      if (observed.number == static_cast<int>(number)) {
        FillVolumeStatus(observed, volume->mutable_status());
      }
    }
    if (!declared.problem.empty()) volume->mutable_status()->set_disk_reason(declared.problem);
    for (const std::string& front : declared.fronts) volume->mutable_status()->add_used_by(front);
  }
  for (const auto& [peer, declared] : entry.connections) {
    v1::Connection* connection = resource.add_connections();
    *connection->mutable_spec() = declared.spec;
    connection->set_has_shared_secret(!declared.secret.empty());
    connection->set_connect(declared.connect);
    for (const drbd::ConnectionStatus& observed : status.connections) {
      if (observed.peer_node_id == static_cast<int>(peer)) {
        FillConnectionStatus(entry.name(), observed, connection);
      }
    }
    if (!declared.problem.empty()) {
      connection->mutable_status()->set_last_error(declared.problem);
    }
  }
  return resource;
}

v1::Volume ResourceManager::DescribeVolume(const ResourceEntry& entry, uint32_t number) const {
  for (const v1::Volume& volume : Describe(entry).volumes()) {
    if (volume.spec().number() == number) return volume;
  }
  return {};
}

v1::Connection ResourceManager::DescribeConnection(const ResourceEntry& entry,
                                                   uint32_t peer) const {
  for (const v1::Connection& connection : Describe(entry).connections()) {
    if (connection.spec().peer_node_id() == peer) return connection;
  }
  return {};
}

std::vector<v1::Resource> ResourceManager::All() const {
  std::vector<v1::Resource> all;
  for (const auto& [name, entry] : entries_) {
    if (!entry->gone) all.push_back(Describe(*entry));
  }
  return all;
}

void ResourceManager::Show(const ResourceEntry& entry, const std::string& reason) {
  const std::vector<v1::Event> events = EventsOf(Describe(entry));
  parts_.events.DeleteMissing(entry.name(), events);
  for (const v1::Event& event : events) parts_.events.Show(event, reason);
  changed_.NotifyAll();
}

void ResourceManager::OnEngineEvents(ResourceEntry& entry) {
  const std::vector<drbd::StateEvent> reported = std::exchange(entry.pending_events, {});
  if (entry.gone) return;
  const std::vector<v1::Event> events = EventsOf(Describe(entry));
  for (const v1::Event& event : events) {
    std::vector<const drbd::StateEvent*> changes;
    for (const drbd::StateEvent& change : reported) {
      if (change.object == event.object()) changes.push_back(&change);
    }
    if (!changes.empty()) parts_.events.ShowEngineChange(event, changes);
  }
  Show(entry);
}

void ResourceManager::Look() {
  for (const auto& [name, entry] : entries_) {
    if (!entry->gone) Show(*entry);
  }
}

Task<Result<v1::Resource>> ResourceManager::Create(v1::CreateResourceRequest request) {
  const v1::ResourceSpec& spec = request.spec();
  auto config = ToResourceConfig(spec);
  if (!config) co_return std::unexpected(config.error());
  if (Status allowed = co_await CheckHandlers(config->handlers); !allowed) {
    co_return std::unexpected(allowed.error());
  }
  if (entries_.contains(spec.name())) {
    co_return MakeError(ErrorCode::kAlreadyExists, "there is a resource '{}' already", spec.name());
  }
  auto entry = std::make_shared<ResourceEntry>(this, parts_.reactor);
  entry->self = entry;
  entry->spec = spec;
  entry->gone = true;
  auto made = parts_.engine.MakeResource(*config, entry.get());
  if (!made) co_return std::unexpected(made.error());
  entry->resource = std::move(*made);
  entries_[spec.name()] = entry;  // holds the name while the configuration is written
  Status stored = co_await parts_.config.Commit(
      [&spec](StoredState& state) { *state.config.add_resources()->mutable_spec() = spec; });
  if (!stored) {
    entries_.erase(spec.name());
    co_await entry->resource->Stop();
    co_return std::unexpected(stored.error());
  }
  entry->gone = false;
  Show(*entry);
  co_return Describe(*entry);
}

Task<Result<v1::Resource>> ResourceManager::Get(v1::GetResourceRequest request) {
  auto entry = Find(request.name());
  if (!entry) co_return std::unexpected(entry.error());
  co_return Describe(**entry);
}

Task<Result<v1::ListResourcesResponse>> ResourceManager::List(v1::ListResourcesRequest) {
  v1::ListResourcesResponse response;
  for (v1::Resource& resource : All()) *response.add_resources() = std::move(resource);
  co_return response;
}

Task<Result<v1::Resource>> ResourceManager::Update(v1::UpdateResourceRequest request) {
  auto found = Find(request.name());
  if (!found) co_return std::unexpected(found.error());
  ResourceEntryPtr entry = *found;
  auto options = ToResourceOptions(request.options());
  if (!options) co_return std::unexpected(options.error());
  auto lock = co_await entry->lifecycle.Acquire();
  if (entry->gone) co_return NoSuchResource(request.name());
  if (Status updated = entry->resource->UpdateOptions(*options); !updated) {
    co_return std::unexpected(updated.error());
  }
  Status stored = co_await parts_.config.Commit([&request](StoredState& state) {
    *FindResource(state, request.name())->mutable_spec()->mutable_options() = request.options();
  });
  if (!stored) {
    if (auto old = ToResourceOptions(entry->spec.options())) {
      (void)entry->resource->UpdateOptions(*old);
    }
    co_return std::unexpected(stored.error());
  }
  *entry->spec.mutable_options() = request.options();
  Show(*entry, "UpdateResource");
  co_return Describe(*entry);
}

namespace {

Status CheckDeletable(ResourceEntry& entry, bool recursive) {
  if (entry.acts > 0) {
    return MakeError(ErrorCode::kAborted,
                     "an act is still running on resource '{}': try again when it has ended",
                     entry.name());
  }
  const drbd::ResourceStatus status = entry.resource->status();
  if (status.role == drbd::Role::kPrimary) {
    return MakeError(ErrorCode::kFailedPrecondition, "resource '{}' is Primary: demote it first",
                     entry.name());
  }
  for (const drbd::VolumeStatus& volume : status.volumes) {
    if (!volume.openers.empty()) {
      return MakeError(ErrorCode::kFailedPrecondition, "volume {}/{} is open: {}", entry.name(),
                       volume.number, volume.openers.front());
    }
  }
  for (const auto& [number, volume] : entry.volumes) {
    if (!volume.fronts.empty()) {
      return MakeError(ErrorCode::kFailedPrecondition,
                       "volume {}/{} is presented by {}: delete that first", entry.name(), number,
                       *volume.fronts.begin());
    }
  }
  if (!recursive && (!entry.volumes.empty() || !entry.connections.empty())) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "resource '{}' has {} volumes and {} connections: delete them first, or ask "
                     "for a recursive deletion",
                     entry.name(), entry.volumes.size(), entry.connections.size());
  }
  return Ok();
}

}  // namespace

Task<Result<v1::DeleteResourceResponse>> ResourceManager::Delete(
    v1::DeleteResourceRequest request) {
  auto found = Find(request.name());
  if (!found) co_return std::unexpected(found.error());
  ResourceEntryPtr entry = *found;
  auto lock = co_await entry->lifecycle.Acquire();
  if (entry->gone) co_return NoSuchResource(request.name());
  if (Status allowed = CheckDeletable(*entry, request.recursive()); !allowed) {
    co_return std::unexpected(allowed.error());
  }
  entry->gone = true;  // no act starts from here on; the name stays taken until the end
  Status stored = co_await parts_.config.Commit([&request](StoredState& state) {
    EraseFrom(state.config.mutable_resources(), [&request](const auto& resource) {
      return resource.spec().name() == request.name();
    });
  });
  if (!stored) {
    entry->gone = false;
    co_return std::unexpected(stored.error());
  }
  co_await entry->resource->Stop();
  entry->stopped = true;
  for (const auto& [number, volume] : entry->volumes) ReleaseBackends(volume.spec);
  entries_.erase(request.name());
  parts_.events.DeleteMissing(request.name(), {});
  changed_.NotifyAll();
  co_return v1::DeleteResourceResponse();
}

Task<Result<v1::Resource>> ResourceManager::Promote(v1::PromoteRequest request) {
  auto entry = Find(request.name());
  if (!entry) co_return std::unexpected(entry.error());
  ActGuard guard(*entry);
  if (Status done = co_await (*entry)->resource->Promote(request.force()); !done) {
    co_return std::unexpected(done.error());
  }
  co_return Describe(**entry);
}

namespace {

// Until none of the volumes is open, or kClosingTime is over: the kernel reports the last close of
// a file, and of the loop device on it, a moment after close() and losetup -d have returned.
Task<void> AwaitClose(Reactor& reactor, const ResourceEntry& entry) {
  const auto open = [&entry] {
    const drbd::ResourceStatus status = entry.resource->status();
    return std::ranges::any_of(status.volumes,
                               [](const auto& volume) { return !volume.openers.empty(); });
  };
  const Time until = reactor.Now() + kClosingTime;
  while (open() && reactor.Now() < until) co_await Sleep(reactor, kClosingTime / 50);
}

}  // namespace

Task<Result<v1::Resource>> ResourceManager::Demote(v1::DemoteRequest request) {
  auto entry = Find(request.name());
  if (!entry) co_return std::unexpected(entry.error());
  ActGuard guard(*entry);
  if (!request.force()) co_await AwaitClose(parts_.reactor, **entry);
  if (Status done = co_await (*entry)->resource->Demote(request.force()); !done) {
    co_return std::unexpected(done.error());
  }
  co_return Describe(**entry);
}

Task<Result<v1::Resource>> ResourceManager::SuspendIo(v1::SuspendIoRequest request) {
  auto entry = Find(request.name());
  if (!entry) co_return std::unexpected(entry.error());
  ActGuard guard(*entry);
  if (Status done = co_await (*entry)->resource->SuspendIo(); !done) {
    co_return std::unexpected(done.error());
  }
  co_return Describe(**entry);
}

Task<Result<v1::Resource>> ResourceManager::ResumeIo(v1::ResumeIoRequest request) {
  auto entry = Find(request.name());
  if (!entry) co_return std::unexpected(entry.error());
  ActGuard guard(*entry);
  if (Status done = co_await (*entry)->resource->ResumeIo(); !done) {
    co_return std::unexpected(done.error());
  }
  co_return Describe(**entry);
}

Task<Result<v1::WaitResponse>> ResourceManager::Wait(v1::WaitRequest request, CancelToken cancel) {
  Duration timeout = kDefaultWait;
  if (request.has_timeout()) {
    const auto& asked = request.timeout();
    if (asked.seconds() < 0 || asked.nanos() < 0 || asked.nanos() > 999999999 ||
        asked.seconds() > std::chrono::duration_cast<std::chrono::seconds>(kLongestWait).count()) {
      co_return MakeError(ErrorCode::kInvalidArgument, "timeout: 0 to 86400 seconds are allowed");
    }
    timeout = Duration(google::protobuf::util::TimeUtil::DurationToNanoseconds(asked));
  }
  const Time deadline = parts_.reactor.Now() + timeout;
  for (;;) {
    auto entry = Find(request.resource());
    if (!entry) co_return std::unexpected(entry.error());
    auto missing = MissingFor(request, (*entry)->resource->status());
    if (!missing) co_return std::unexpected(missing.error());
    if (missing->empty()) {
      v1::WaitResponse response;
      *response.mutable_resource() = Describe(**entry);
      co_return response;
    }
    const Time now = parts_.reactor.Now();
    if (cancel.requested()) co_return MakeError(ErrorCode::kCancelled, "the wait was cancelled");
    if (now >= deadline) {
      co_return MakeError(ErrorCode::kDeadlineExceeded, "{} after {} seconds", *missing,
                          std::chrono::duration<double>(timeout).count());
    }
    co_await changed_.WaitFor(deadline - now, cancel);
  }
}

Status ResourceManager::Restore() {
  for (const auto& stored : parts_.config.config().resources()) {
    UMBLOCK_TRY(RestoreResource(stored));
  }
  return Ok();
}

Status ResourceManager::RestoreResource(const config::v1::StoredResource& stored) {
  auto entry = std::make_shared<ResourceEntry>(this, parts_.reactor);
  entry->self = entry;
  entry->spec = stored.spec();
  auto config = ToResourceConfig(entry->spec);
  if (!config) return std::unexpected(config.error());
  auto made = parts_.engine.MakeResource(*config, entry.get());
  if (!made) return std::unexpected(made.error());
  entry->resource = std::move(*made);
  for (const auto& from : stored.volumes()) {
    VolumeEntry& volume = entry->volumes[from.spec().number()];
    volume.spec = from.spec();
    volume.attach = from.attach();
    volume.attach_pending = from.attach();
    volume.backend_bytes = from.backend_bytes();
    volume.device_uuid = from.device_uuid();
    auto volume_config = ToVolumeConfig(from.spec());
    Status added = volume_config ? entry->resource->AddVolume(*volume_config)
                                 : std::unexpected(volume_config.error());
    if (added && from.attach()) added = ClaimBackends(from.spec());
    if (!added) volume.problem = added.error().message();
  }
  for (const auto& from : stored.connections()) {
    ConnectionEntry& connection = entry->connections[from.spec().peer_node_id()];
    connection.spec = from.spec();
    connection.secret = parts_.config.Secret(from.shared_secret_key());
    connection.connect = from.connect();
    connection.connect_pending = from.connect();
    auto peer = ToPeerConfig(from.spec(), connection.secret);
    Status added = peer ? entry->resource->AddPeer(*peer) : std::unexpected(peer.error());
    if (!added) connection.problem = added.error().message();
  }
  entries_[entry->name()] = entry;
  Show(*entry, "restored");
  return Ok();
}

Task<void> ResourceManager::RetryOne(ResourceEntryPtr entry) {
  auto lock = co_await entry->lifecycle.Acquire();
  if (entry->gone || entry->stopped) co_return;
  bool changed = false;
  for (auto& [number, volume] : entry->volumes) {
    if (!volume.attach_pending) continue;
    Status attached = co_await AttachNow(entry, number);
    const std::string problem = attached ? std::string() : attached.error().message();
    changed = changed || attached || problem != volume.problem;
    volume.attach_pending = !attached;
    volume.problem = problem;
  }
  // Disks first, so that the handshake speaks of data that is there.
  for (auto& [peer, connection] : entry->connections) {
    if (!connection.connect_pending) continue;
    Status started = co_await entry->resource->Connect(static_cast<int>(peer), {});
    connection.connect_pending = !started;
    connection.problem = started ? std::string() : started.error().message();
    changed = true;
  }
  (void)co_await RememberSizes(entry);  // the next time
  if (changed) Show(*entry, "restored");
}

Task<void> ResourceManager::Retry() {
  const std::map<std::string, ResourceEntryPtr> entries = entries_;
  for (const auto& [name, entry] : entries) {
    // What waits for a disk or a peer that hangs holds up no other resource: the next time.
    if (!entry->lifecycle.locked()) co_await retries_.Run(RetryOne(entry));
  }
}

void ResourceManager::FailHeldIo() {
  for (const auto& [name, entry] : entries_) entry->resource->FailHeldIo();
}

Task<void> ResourceManager::StopAll() {
  const std::map<std::string, ResourceEntryPtr> entries = entries_;
  for (const auto& [name, entry] : entries) {
    if (std::exchange(entry->stopped, true)) continue;
    co_await entry->resource->Stop();
  }
  changed_.NotifyAll();
  co_await retries_.Join();
}

void ResourceManager::Clear() { entries_.clear(); }

void ResourceManager::AddProblems(std::vector<NodeProblem>* problems) const {
  for (const auto& [name, entry] : entries_) {
    if (std::string problem = HandlerProblem(*entry); !problem.empty()) {
      problems->push_back({ResourceName(name), std::move(problem)});
    }
    for (const auto& [number, volume] : entry->volumes) {
      if (!volume.problem.empty()) problems->push_back({VolumeName(name, number), volume.problem});
    }
    for (const auto& [peer, connection] : entry->connections) {
      if (!connection.problem.empty()) {
        problems->push_back({ConnectionName(name, peer), connection.problem});
      }
    }
  }
}

Status ResourceManager::ClaimVolume(const v1::VolumeRef& ref, const std::string& user) {
  auto entry = Find(ref.resource());
  if (!entry) return std::unexpected(entry.error());
  VolumeEntry* volume = (*entry)->Volume(ref.number());
  if (volume == nullptr) return NoSuchVolume(ref.resource(), ref.number());
  if (volume->going) {
    return MakeError(ErrorCode::kAborted, "{} is being made or deleted: try again",
                     VolumeName(ref.resource(), ref.number()));
  }
  volume->fronts.insert(user);
  return Ok();
}

void ResourceManager::ReleaseVolume(const v1::VolumeRef& ref, const std::string& user) {
  auto entry = Find(ref.resource());
  if (!entry) return;
  if (VolumeEntry* volume = (*entry)->Volume(ref.number())) volume->fronts.erase(user);
}

Result<BlockDevice*> ResourceManager::VolumeDevice(const v1::VolumeRef& ref) const {
  auto entry = Find(ref.resource());
  if (!entry) return std::unexpected(entry.error());
  BlockDevice* device = (*entry)->resource->volume(static_cast<int>(ref.number()));
  if (device == nullptr) return NoSuchVolume(ref.resource(), ref.number());
  return device;
}

}  // namespace umblock::server
