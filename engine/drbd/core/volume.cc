#include "engine/drbd/core/volume.h"

#include <algorithm>
#include <cerrno>

#include "engine/drbd/core/resource_impl.h"
#include "engine/drbd/core/thin_granularity.h"
#include "engine/drbd/state/disk_state.h"

namespace umblock::drbd {

Volume::Volume(ResourceImpl& resource, VolumeConfig config)
    : DeviceBase(resource.reactor(), fmt::format("volume {}/{}", resource.name(), config.number)),
      resource_(resource),
      config_(config),
      idle_(resource.reactor()),
      deliver_hook_(this) {
  geometry_.size = 0;
}

Volume::~Volume() {
  UMBLOCK_ASSERT(disk_ == nullptr && upper_pending_ == 0, "a volume ends detached and idle");
}

VolumeState& Volume::state() { return *resource_.facts().Volume(config_.number); }
const VolumeState& Volume::state() const { return *resource_.state().Volume(config_.number); }

Access Volume::access() const {
  const ResourceState& resource = resource_.state();
  if (resource.role == Role::kPrimary && !resource.fail_io) {
    return DataAccessible(resource, state()) || resource.suspended() ? Access::kReadWrite
                                                                     : Access::kUnavailable;
  }
  return state().disk >= DiskState::kOutdated ? Access::kStandby : Access::kUnavailable;
}

std::string Volume::access_reason() const {
  const ResourceState& resource = resource_.state();
  if (resource.fail_io) {
    return fmt::format("resource {} was demoted by force while it was open; close it everywhere",
                       resource_.name());
  }
  if (resource.role != Role::kPrimary) {
    return fmt::format("resource {} is {} on this node; promote it first", resource_.name(),
                       RoleName(resource.role));
  }
  if (!DataAccessible(resource, state())) {
    return fmt::format("no UpToDate data is reachable (own disk: {})", DiskStateName(state().disk));
  }
  return "";
}

// --- disk
// ------------------------------------------------------------------------------------------

Task<Status> Volume::OpenGuarded(AttachRequest request) {
  if (request.backing == nullptr) {
    co_return MakeError(ErrorCode::kInvalidArgument, "{}: no backing device was named", name());
  }
  Result<std::unique_ptr<Disk>> disk =
      co_await Disk::Open(reactor(), *this,
                          {.backing = request.backing,
                           .metadata = request.metadata,
                           .node_id = resource_.own_node(),
                           .options = config_.disk,
                           .name = name(),
                           .last_known_size = request.last_known_size});
  if (!disk) co_return std::unexpected(disk.error().Within(name()));
  uint64_t effective = (*disk)->superblock().effective_sectors;
  if (effective > (*disk)->usable_sectors()) {
    Error error(ErrorCode::kFailedPrecondition,
                fmt::format("{}: the data needs {} bytes and {} has room for {}; attach a device "
                            "that is at least as large",
                            name(), effective * 512, request.backing->name(),
                            (*disk)->usable_sectors() * 512));
    co_await (*disk)->Close(false);
    co_return std::unexpected(error);
  }
  uint32_t bytes_per_bit = (*disk)->superblock().bytes_per_bit;
  if (bytes_per_bit != meta::kDefaultBytesPerBit) {
    co_await (*disk)->Close(false);
    co_return MakeError(ErrorCode::kUnimplemented,
                        "{}: the metadata has one bit per {} bytes, here it is one per {}; create "
                        "the metadata again with that block size",
                        name(), bytes_per_bit, meta::kDefaultBytesPerBit);
  }
  if (request.may_attach) {
    Status allowed = request.may_attach((*disk)->superblock().device_uuid);
    if (!allowed) {
      co_await (*disk)->Close(false);
      co_return allowed;
    }
  }
  disk_ = std::move(*disk);
  ++disk_generation_;
  disk_->backing().AddObserver(&backing_watch_);
  disk_->FollowBacking();
  backend_name_ = request.backing->name();
  resource_.log().RaiseDagtag(disk_->uuids().StartupDagtag());
  WarnOfCaches();
  co_return Ok();
}

Task<void> Volume::CloseDisk(bool clean) {
  if (disk_ == nullptr) co_return;
  if (closing_disk_) {  // a disk that fails while it is being detached
    while (disk_ != nullptr) co_await idle_.Wait();
    co_return;
  }
  closing_disk_ = true;
  disk_->backing().RemoveObserver(&backing_watch_);
  co_await DrainLocal();
  co_await disk_->Close(clean);
  disk_.reset();
  ReleaseGuards();
  closing_disk_ = false;
  idle_.NotifyAll();
  backend_name_.clear();
  UpdateGeometry();
}

Task<void> Volume::DrainLocal() {
  while (lower_pending_ != 0) co_await idle_.Wait();
}

void Volume::Quiesce(bool on) {
  quiesced_ += on ? 1 : -1;
  if (quiesced_ == 0) Readmit();
}

void Volume::NoteBackingIo(uint64_t read_bytes, uint64_t written_bytes) {
  application_bytes_ += read_bytes + written_bytes;
  NoteResyncIo(read_bytes, written_bytes);
}

void Volume::NoteResyncIo(uint64_t read_bytes, uint64_t written_bytes) {
  counters_.disk_read_bytes += read_bytes;
  counters_.disk_written_bytes += written_bytes;
}

void Volume::CountLower(int64_t delta) {
  lower_pending_ = static_cast<uint64_t>(static_cast<int64_t>(lower_pending_) + delta);
  if (lower_pending_ == 0) idle_.NotifyAll();
}

void Volume::OnLocalError(IoOp op, int error) {
  if (state().disk <= DiskState::kFailed) return;  // it is known
  static constexpr const char* kNames[] = {"read", "write", "flush", "discard", "write zeroes"};
  std::string reason = fmt::format("{} error on {}: {}", kNames[static_cast<int>(op)],
                                   backend_name_, Error::FromErrno(error, "I/O").message());
  resource_.logger().Error("{}: {}", name(), reason);
  if (config_.disk.on_io_error == OnIoError::kPassOn) {
    (void)resource_.Change(reason, {.hard = true}, [this](ResourceState& next) {
      VolumeState* volume = next.Volume(config_.number);
      if (volume->disk > DiskState::kInconsistent) volume->disk = DiskState::kInconsistent;
    });
    return;
  }
  resource_.FailDisk(*this, std::move(reason), true);
}

void Volume::OnMetadataFailed(const Error& error) {
  resource_.logger().Error("{}: metadata: {}", name(), error.message());
  resource_.FailDisk(*this, fmt::format("metadata: {}", error.message()), true);
}

void Volume::OnActivityLogStarving() {
  // What holds the extents: writes of the front that wait for a merged peer ack elsewhere, and
  // received writes that wait for theirs.
  resource_.peer_acks().Flush();
  for (auto& [node, device] : peers_) device->connection().writes().OnLogStarving();
}

// drbd-states.md 1.7.
void Volume::StoreMetaFlags() {
  if (disk_ == nullptr) return;
  const ResourceState& resource = resource_.state();
  const VolumeState& now = state();
  meta::Superblock before = disk_->superblock();
  meta::Superblock& sb = disk_->superblock();
  if (now.disk >= DiskState::kInconsistent && now.disk != DiskState::kUnknown) {
    DiskFlags flags = FlagsForDisk(now.disk);
    sb.Set(meta::kMdConsistent, flags.consistent);
    sb.Set(meta::kMdWasUpToDate, flags.was_up_to_date);
  }
  bool primary = resource.role == Role::kPrimary;
  bool any_primary = primary || resource.connected_primaries() != 0;
  bool busy = std::any_of(peers_.begin(), peers_.end(), [](const auto& entry) {
    return entry.second->connection().writes().in_use() != 0;
  });
  if (any_primary) {
    sb.Set(meta::kMdPrimaryInd, true);
  } else if (!busy && now.disk >= DiskState::kInconsistent) {
    sb.Set(meta::kMdPrimaryInd, false);
  }
  sb.Set(meta::kMdCrashedPrimary, primary || crashed_primary);
  sb.Set(meta::kMdHaveQuorum, now.have_quorum);
  sb.members = resource.members;
  for (auto& [node, device] : peers_) {
    const PeerDeviceState& peer_state = now.peer(node);
    meta::PeerEntry& entry = sb.peers[static_cast<size_t>(node)];
    if (entry.bitmap_index < 0) continue;
    const bool fences = device->connection().config().net.fencing != FencingPolicy::kDontCare;
    entry.flags = fences ? entry.flags | meta::kPeerFencing : entry.flags & ~meta::kPeerFencing;
    auto set = [&entry](uint32_t flag, bool on) {
      entry.flags = on ? entry.flags | flag : entry.flags & ~flag;
    };
    set(meta::kPeerConnected, peer_state.repl > ReplicationState::kOff);
    set(meta::kPeerOutdated,
        peer_state.disk == DiskState::kInconsistent || peer_state.disk == DiskState::kOutdated);
    if (peer_state.disk >= DiskState::kInconsistent && peer_state.disk != DiskState::kUnknown) {
      set(meta::kPeerDeviceSeen, true);
    }
  }
  if (!(before == sb)) disk_->ScheduleSuperblock();
}

Task<Status> Volume::StoreMetaFlagsNow() {
  if (disk_ == nullptr) co_return Ok();
  StoreMetaFlags();
  co_return co_await disk_->WriteSuperblock();
}

// --- peers
// -----------------------------------------------------------------------------------------

PeerDevice* Volume::peer(int node) {
  auto it = peers_.find(node);
  return it == peers_.end() ? nullptr : it->second.get();
}

void Volume::AddPeer(Connection& connection) {
  peers_.emplace(connection.node(), std::make_unique<PeerDevice>(*this, connection));
}

void Volume::RemovePeer(int node) { peers_.erase(node); }

UuidPeers Volume::uuid_peers() const {
  UuidPeers result;
  result.own_node = resource_.own_node();
  if (disk_ != nullptr) {
    result.max_peers = static_cast<int>(disk_->superblock().max_peers);
    for (int node = 0; node < kNodeIds; ++node) {
      if (std::optional<uint32_t> slot = disk_->SlotOf(node)) {
        result.peer[static_cast<size_t>(node)].slot = static_cast<int>(*slot);
      }
    }
  }
  for (const auto& [node, device] : peers_) {
    UuidPeer& peer_entry = result.peer[static_cast<size_t>(node)];
    const PeerDeviceState& peer_state = state().peer(node);
    peer_entry.configured = true;
    peer_entry.connected = peer_state.repl > ReplicationState::kOff;
    peer_entry.established = peer_state.repl >= ReplicationState::kEstablished;
    peer_entry.disk = peer_state.disk;
    peer_entry.misses_writes = device->misses_writes;
  }
  return result;
}

// --- size
// ------------------------------------------------------------------------------------------

void Volume::SetSize(uint64_t sectors) {
  if (disk_ != nullptr) {
    uint64_t tracked = disk_->bitmap().device_bytes();
    if (tracked != sectors * 512) {
      Status status = disk_->bitmap().Resize(sectors * 512, true);
      if (!status) resource_.logger().Error("{}: {}", name(), status.error().message());
    }
    if (disk_->superblock().effective_sectors != sectors) {
      disk_->superblock().effective_sectors = sectors;
      disk_->ScheduleSuperblock();
    }
  }
  SetExposedSize(sectors);
}

uint64_t Volume::wanted_sectors() const {
  const uint64_t wanted = config_.size / 512;
  if (wanted == 0 || disk_ == nullptr) return wanted;
  return std::max(wanted, disk_->superblock().effective_sectors);
}

void Volume::BackingWatch::OnDeviceChanged() {
  if (volume->disk_ != nullptr) volume->disk_->FollowBacking();
}

void Volume::OnBackingFollowed() { resource_.changed().NotifyAll(); }

Task<Status> Volume::AdoptSize(uint64_t sectors, bool sync_owed) {
  if (disk_ == nullptr) {
    SetSize(sectors);
    co_return Ok();
  }
  const bool grows = sectors > size_sectors();
  // Nothing may be under way beyond the new end; what is refused from here on never starts.
  if (!grows) {
    SetExposedSize(sectors);
    co_await DrainLocal();
  }
  if (disk_ == nullptr) co_return MakeError(ErrorCode::kUnavailable, "{} lost its disk", name());
  CountLower(1);
  Status status = co_await disk_->ChangeSize(sectors, sync_owed && grows);
  CountLower(-1);
  if (status && grows) SetExposedSize(sectors);
  co_return status;
}

void Volume::SetExposedSize(uint64_t sectors) {
  if (geometry_.size == sectors * 512) return;
  resource_.logger().Info("{}: size {} bytes (was {})", name(), sectors * 512, geometry_.size);
  geometry_.size = sectors * 512;
  NotifyObservers();
}

void Volume::UpdateGeometry() {
  BlockGeometry next = geometry_;
  if (disk_ != nullptr) {
    const BlockGeometry& backing = disk_->backing().geometry();
    next.logical_block_size = backing.logical_block_size;
    next.physical_block_size = std::max<uint32_t>(backing.physical_block_size, 4096);
    next.optimal_io_size = backing.optimal_io_size;
    next.discard_granularity = std::max<uint32_t>(backing.discard_granularity, 4096);
  }
  next.can_discard = true;
  next.discard_reads_zeroes = true;
  next.can_write_zeroes = true;
  next.volatile_cache = true;
  for (const auto& [node, device] : peers_) {
    const Connection& connection = device->connection();
    if (!const_cast<Connection&>(connection).up()) continue;
    if ((connection.agreed_features() & wire::kFeatureTrim) == 0) next.can_discard = false;
    if ((connection.agreed_features() & wire::kFeatureWzeroes) == 0) next.can_write_zeroes = false;
  }
  if (next == geometry_) return;
  geometry_ = next;
  NotifyObservers();
}

// --- bitmap
// ----------------------------------------------------------------------------------------

bool Volume::SetOutOfSync(uint64_t first, uint64_t end, meta::SlotMask slots) {
  if (disk_ == nullptr || slots == 0) return false;
  return disk_->bitmap().SetRangeIn(slots, first * 512, (end - first) * 512) != 0;
}

bool Volume::ClearOutOfSync(uint64_t first, uint64_t end, meta::SlotMask slots) {
  if (disk_ == nullptr || slots == 0) return false;
  if (disk_->bitmap().ClearRangeIn(slots, first * 512, (end - first) * 512) == 0) return false;
  disk_->NoteCleared();
  return true;
}

meta::SlotMask Volume::SlotsExcept(int node) const {
  if (disk_ == nullptr) return 0;
  meta::SlotMask mask = disk_->bitmap().all_slots();
  if (std::optional<uint32_t> slot = disk_->SlotOf(node)) mask &= ~(meta::SlotMask{1} << *slot);
  return mask;
}

meta::SlotMask Volume::SlotMaskOf(NodeMask nodes) const {
  meta::SlotMask mask = 0;
  if (disk_ == nullptr) return mask;
  for (int node : Nodes(nodes)) {
    if (std::optional<uint32_t> slot = disk_->SlotOf(node)) mask |= meta::SlotMask{1} << *slot;
  }
  return mask;
}

// --- openers, status
// -------------------------------------------------------------------------------

void Volume::OnOpenersChanged() { RefreshOpeners(); }

void Volume::RefreshOpeners() {
  VolumeState& now = state();
  now.read_only_openers = 0;
  now.read_write_openers = 0;
  for (const Opener& opener : openers()) {
    ++(opener.write ? now.read_write_openers : now.read_only_openers);
  }
  if (now.read_only_openers + now.read_write_openers == 0 && resource_.state().fail_io) {
    bool anyone = false;
    for (const VolumeState& volume : resource_.state().volumes) {
      anyone = anyone || volume.read_only_openers + volume.read_write_openers != 0;
    }
    if (!anyone) {
      (void)resource_.Change("last close", {.hard = true},
                             [](ResourceState& next) { next.fail_io = false; });
    }
  }
}

// What the activity log and its owner were made with stays until the next attach. Flushes change at
// once.
Status Volume::UpdateDiskOptions(const DiskOptions& options) {
  VolumeConfig next = config_;
  next.disk = options;
  UMBLOCK_TRY(Validate(next));
  const bool caches = options.disk_flushes != config_.disk.disk_flushes ||
                      options.md_flushes != config_.disk.md_flushes;
  config_ = next;
  if (caches && disk_ != nullptr) {
    disk_->SetFlushes(options);
    WarnOfCaches();
  }
  return Ok();
}

void Volume::WarnOfCaches() const {
  auto warn = [this](bool flushes, std::string_view option, std::string_view what) {
    if (flushes) return;
    resource_.logger().Warn(
        "{}: {} is off: if the cache of the {} device does not survive a loss of power, what was "
        "acknowledged may be lost with it",
        name(), option, what);
  };
  warn(config_.disk.disk_flushes, "disk-flushes", "backing");
  warn(config_.disk.md_flushes, "md-flushes", "metadata");
}

uint64_t Volume::thin_granularity() const {
  if (disk_ == nullptr) return 0;
  return ThinGranularity(config_.disk.rs_discard_granularity, disk_->backing().geometry());
}

VolumeCounters Volume::counters() const {
  VolumeCounters result = counters_;
  result.upper_pending = upper_pending_;
  result.lower_pending = lower_pending_;
  if (disk_ != nullptr) {
    result.al_writes += disk_->al_transactions();
    result.al_in_use = disk_->al_in_use();
    result.bm_writes += disk_->bitmap_pages_written();
  }
  return result;
}

std::string Volume::WhyNotUpToDate() const {
  if (state().disk == DiskState::kUpToDate) return "";
  for (const auto& [node, device] : peers_) {
    ReplicationState repl = device->state().repl;
    if (repl == ReplicationState::kSyncTarget || repl == ReplicationState::kPausedSyncT) {
      return fmt::format("is being synchronised from {}", device->connection().config().name);
    }
  }
  return disk_reason;
}

VolumeStatus Volume::status() const {
  VolumeStatus result;
  const VolumeState& now = state();
  result.number = config_.number;
  result.disk = now.disk;
  result.disk_reason = WhyNotUpToDate();
  result.backend = backend_name_;
  if (disk_ != nullptr) result.device_uuid = disk_->superblock().device_uuid;
  result.size_bytes = geometry_.size;
  result.wanted_bytes = wanted_sectors() * 512;
  if (disk_ != nullptr) result.backing_bytes = disk_->followed_bytes();
  result.quorum = now.have_quorum;
  if (disk_ != nullptr) result.current_uuid = fmt::format("{:016X}", disk_->uuids().current());
  for (const Opener& opener : openers()) result.openers.push_back(opener.description);
  result.counters = counters();
  return result;
}

}  // namespace umblock::drbd
