#include "engine/drbd/core/disk.h"

#include <algorithm>

namespace umblock::drbd {

Disk::Disk(Reactor& reactor, DiskOwner& owner, DiskOpenRequest request)
    : reactor_(reactor),
      owner_(owner),
      backing_(request.backing),
      metadata_(request.metadata != nullptr ? request.metadata : request.backing),
      al_updates_(request.options.al_updates),
      data_flushes_(request.options.disk_flushes),
      name_(std::move(request.name)),
      uuids_(request.node_id),
      tasks_(reactor) {}

Disk::~Disk() = default;

Task<Result<std::unique_ptr<Disk>>> Disk::Open(Reactor& reactor, DiskOwner& owner,
                                               DiskOpenRequest request) {
  meta::MetaOpenOptions options;
  options.placement =
      request.metadata != nullptr ? meta::Placement::kFlexExternal : meta::Placement::kInternal;
  options.node_id = request.node_id;
  options.data_device = request.metadata != nullptr ? request.backing : nullptr;
  options.unusable_log_means_full_sync = true;
  options.metadata_flushes = request.options.md_flushes;
  options.data_flushes = request.options.disk_flushes;
  options.last_device_bytes = request.last_known_size;
  std::unique_ptr<Disk> disk(new Disk(reactor, owner, request));
  meta::MetaOpenReport report;
  Result<std::unique_ptr<meta::MetaStore>> store =
      co_await meta::MetaStore::Open(*disk->metadata_, options, &report);
  if (!store) co_return std::unexpected(store.error());
  disk->store_ = std::move(*store);
  disk->replayed_extents_ = report.log_applied ? report.hot_extents.size() : 0;
  if (report.log_applied || report.full_sync) {
    reactor.logger().Info(
        "{}: the activity log of a crashed node was applied: {} extents, {} bits set{}",
        disk->name_, report.hot_extents.size(), report.bits_set,
        report.full_sync ? ", everything out of sync" : "");
  }
  uint32_t extents = std::clamp(
      request.options.al_extents, meta::kMinAlExtents,
      std::min(meta::kMaxAlExtents, meta::MaxAlExtentsFor(disk->store_->geometry().al_blocks())));
  disk->al_ =
      std::make_unique<meta::ActivityLog>(extents, disk->store_->first_transaction_number());
  disk->usable_sectors_ =
      disk->store_->UsableSectors(request.backing->geometry().size / meta::kSectorBytes);
  disk->followed_bytes_ = request.backing->geometry().size;
  disk->superblock().node_id = request.node_id;
  disk->superblock().Set(meta::kMdAlDisabled, !request.options.al_updates);
  Disk* raw = disk.get();
  disk->store_->set_before_pages([raw]() -> Task<Status> {
    if (raw->flushed_ >= raw->cleared_) co_return Ok();
    co_return co_await raw->FlushBacking();
  });
  disk->superblock().al_nr_extents = extents;
  disk->UuidsFromSuperblock();
  co_return disk;
}

Task<void> Disk::Close(bool clean) {
  closing_ = true;
  co_await tasks_.Join();
  meta::AlWaiterList released;
  if (!al_->failed()) al_->Fail(&released);
  Dispatch(released);
  if (clean && !failed_ && !store_->failed()) {
    UuidsToSuperblock();
    Status flushed = co_await FlushBacking();
    Status status = flushed ? co_await store_->Close() : flushed;
    if (!status) {
      reactor_.logger().Warn("{}: could not close the metadata cleanly: {}", name_,
                             status.error().message());
    }
  }
  co_await store_->Stop();
}

std::optional<uint32_t> Disk::SlotOf(int node) const {
  int32_t index = superblock().peers[static_cast<size_t>(node)].bitmap_index;
  if (index < 0) return std::nullopt;
  return static_cast<uint32_t>(index);
}

Result<uint32_t> Disk::AssignSlot(int node) {
  if (std::optional<uint32_t> slot = SlotOf(node)) return *slot;
  meta::SlotMask used = 0;
  for (const meta::PeerEntry& entry : superblock().peers) {
    if (entry.bitmap_index >= 0) used |= meta::SlotMask{1} << entry.bitmap_index;
  }
  for (uint32_t slot = 0; slot < superblock().max_peers; ++slot) {
    if ((used & (meta::SlotMask{1} << slot)) != 0) continue;
    superblock().peers[static_cast<size_t>(node)].bitmap_index = static_cast<int32_t>(slot);
    return slot;
  }
  return MakeError(
      ErrorCode::kResourceExhausted,
      "{0}: the metadata has {1} bitmap slots and all belong to other nodes ({2}); node "
      "{3} gets none. Forget one that does not come back (umctl volume forget-peer {4} "
      "NODE_ID), or create the metadata with more slots",
      name_, superblock().max_peers, SlotOwners(), node, name_.substr(name_.find(' ') + 1));
}

std::string Disk::SlotOwners() const {
  std::string text;
  for (int node = 0; node < kNodeIds; ++node) {
    if (SlotOf(node)) text += fmt::format("{}{}", text.empty() ? "" : ", ", node);
  }
  return text;
}

bool Disk::Remembers(int node) const {
  const meta::PeerEntry& entry = superblock().peers[static_cast<size_t>(node)];
  return entry.bitmap_index >= 0 || entry.flags != 0;
}

Task<Status> Disk::ForgetPeer(int node) {
  // The bits first: after a crash in between the slot is the node's still, and all of it is sent.
  if (std::optional<uint32_t> slot = SlotOf(node)) {
    bitmap().SetAll(*slot);
    UMBLOCK_CO_TRY(co_await WriteBitmap());
  }
  meta::PeerEntry& entry = superblock().peers[static_cast<size_t>(node)];
  entry.bitmap_index = -1;
  entry.flags = 0;
  uuids_.SetBitmapAndPush(node, 0, 0);
  co_return co_await WriteSuperblock();
}

// --- size
// ------------------------------------------------------------------------------------------

void Disk::FollowBacking() {
  if (following_ || closing_ || failed_) return;
  if (backing_->geometry().size <= followed_bytes_) return;
  following_ = true;
  tasks_.Spawn(Follow());
}

Task<void> Disk::Follow() {
  Status status = Ok();
  while (status && !closing_ && backing_->geometry().size > followed_bytes_) {
    const uint64_t bytes = backing_->geometry().size;
    status = co_await store_->MoveToEnd();
    if (!status) break;
    followed_bytes_ = bytes;
    usable_sectors_ = store_->UsableSectors(bytes / meta::kSectorBytes);
    reactor_.logger().Info("{}: the backing device has {} bytes now: room for {}", name_, bytes,
                           usable_sectors_ * meta::kSectorBytes);
  }
  following_ = false;
  if (store_->failed()) {
    Fail(store_->failure());
  } else if (!status) {
    reactor_.logger().Error("{}: the metadata could not move to the end of the larger device: {}",
                            name_, status.error().message());
  }
  owner_.OnBackingFollowed();
}

Task<Status> Disk::ChangeSize(uint64_t sectors, bool sync_owed) {
  if (closing_) {
    co_return MakeError(ErrorCode::kUnavailable, "{}: the disk is being detached", name_);
  }
  if (sync_owed) {
    for (meta::PeerEntry& peer : superblock().peers) {
      if (peer.bitmap_index >= 0) peer.flags |= meta::kPeerSyncOwed;
    }
  }
  UuidsToSuperblock();
  Status status = co_await store_->ChangeSize(sectors, sync_owed);
  if (store_->failed()) Fail(store_->failure());
  co_return status;
}

bool Disk::SyncIsOwed(int node) const {
  const meta::PeerEntry& peer = superblock().peers[static_cast<size_t>(node)];
  return peer.bitmap_index >= 0 && (peer.flags & meta::kPeerSyncOwed) != 0;
}

void Disk::SyncIsDone(int node) {
  superblock().peers[static_cast<size_t>(node)].flags &= ~meta::kPeerSyncOwed;
  ScheduleSuperblock();
}

void Disk::UuidsFromSuperblock() {
  const meta::Superblock& sb = superblock();
  uuids_.Load(sb.current_uuid);
  for (int node = 0; node < kNodeIds; ++node) {
    const meta::PeerEntry& entry = sb.peers[static_cast<size_t>(node)];
    uuids_.LoadBitmap(node, {entry.bitmap_uuid, entry.bitmap_dagtag});
  }
  for (int i = 0; i < kHistoryUuids; ++i) {
    uuids_.LoadHistory(i, sb.history[static_cast<size_t>(i)]);
  }
}

void Disk::UuidsToSuperblock() {
  meta::Superblock& sb = superblock();
  sb.current_uuid = uuids_.current();
  for (int node = 0; node < kNodeIds; ++node) {
    meta::PeerEntry& entry = sb.peers[static_cast<size_t>(node)];
    entry.bitmap_uuid = uuids_.bitmap(node).uuid;
    entry.bitmap_dagtag = uuids_.bitmap(node).dagtag;
  }
  for (int i = 0; i < kHistoryUuids; ++i) sb.history[static_cast<size_t>(i)] = uuids_.history(i);
}

Task<Status> Disk::WriteSuperblock() {
  if (closing_) {
    co_return MakeError(ErrorCode::kUnavailable, "{}: the disk is being detached", name_);
  }
  UuidsToSuperblock();
  Status status = co_await store_->WriteSuperblock();
  if (!status) Fail(status.error());
  co_return status;
}

void Disk::ScheduleSuperblock() {
  if (lazy_scheduled_ || closing_ || failed_) return;
  lazy_scheduled_ = true;
  tasks_.Spawn(LazyWrite());
}

Task<void> Disk::LazyWrite() {
  co_await reactor_.Yield();
  lazy_scheduled_ = false;
  if (closing_) co_return;
  co_await WriteSuperblock();
}

Task<Status> Disk::FlushBacking() {
  uint64_t covered = cleared_;
  int error = data_flushes_ ? co_await backing_->Flush() : 0;
  if (error != 0) {
    co_return std::unexpected(Error::FromErrno(error, fmt::format("{}: flush the data", name_)));
  }
  flushed_ = std::max(flushed_, covered);
  co_return Ok();
}

void Disk::SetFlushes(const DiskOptions& options) {
  data_flushes_ = options.disk_flushes;
  store_->SetFlushes(options.md_flushes, options.disk_flushes);
}

Task<Status> Disk::WriteBitmap() {
  if (closing_) {
    co_return MakeError(ErrorCode::kUnavailable, "{}: the disk is being detached", name_);
  }
  Status status = co_await store_->WriteDirtyPages();
  if (!status) Fail(status.error());
  co_return status;
}

bool Disk::AcquireExtents(uint64_t first, uint64_t end, AlUser* user) {
  if (!al_updates_) return true;
  switch (al_->Acquire(ExtentOf(first), ExtentOf(end - 1), user)) {
    case meta::ActivityLog::Outcome::kHot:
      return true;
    case meta::ActivityLog::Outcome::kQueued:
      KickLog();
      if (al_->starving()) owner_.OnActivityLogStarving();
      return false;
    case meta::ActivityLog::Outcome::kFailed:
      break;
  }
  // The disk is going away; who asked finds out like everybody who waits.
  struct Refused : umblock::Completion {
    AlUser* user;
    explicit Refused(AlUser* u)
        : umblock::Completion([](umblock::Completion* self, int32_t) noexcept {
            AlUser* user_of = static_cast<Refused*>(self)->user;
            delete static_cast<Refused*>(self);
            user_of->al_ready(user_of, false);
          }),
          user(u) {}
  };
  reactor_.Post(new Refused(user));
  return false;
}

void Disk::ReleaseExtents(uint64_t first, uint64_t end) {
  if (!al_updates_) return;
  if (al_->Release(ExtentOf(first), ExtentOf(end - 1))) KickLog();
}

void Disk::KickLog() {
  if (log_running_ || closing_) return;
  log_running_ = true;
  tasks_.Spawn(LogLoop());
}

// One transaction after the other, each with everything that has come to wait meanwhile.
Task<void> Disk::LogLoop() {
  co_await reactor_.Yield();  // what arrives in this turn joins the first one
  while (true) {
    meta::AlWaiterList released;
    const meta::AlBatch* batch =
        closing_ || al_->failed() ? nullptr : al_->NextTransaction(&released);
    if (batch == nullptr) {
      log_running_ = false;
      bool starving = al_->starving();
      Dispatch(released);
      if (starving && !closing_) owner_.OnActivityLogStarving();
      co_return;
    }
    Dispatch(released);
    Status status = co_await WriteBatch(*batch);
    meta::AlWaiterList durable;
    if (status) {
      al_->TransactionDurable(&durable);
    } else {
      al_->TransactionFailed(&durable);
      Fail(status.error());
    }
    Dispatch(durable);
  }
}

Task<Status> Disk::WriteBatch(const meta::AlBatch& batch) {
  // Writes of an extent that leaves the log are found nowhere after a crash: they, and blocks whose
  // bits were cleared, must be stable before it leaves.
  if (batch.evicted_count > 0) UMBLOCK_CO_TRY(co_await FlushBacking());
  co_return co_await store_->WriteTransaction(batch);
}

void Disk::Dispatch(meta::AlWaiterList& released) {
  while (!released.empty()) {
    meta::AlWaiter& waiter = released.front();
    released.pop_front();
    auto* user = static_cast<AlUser*>(&waiter);
    user->al_ready(user, waiter.granted());
  }
}

void Disk::Fail(const Error& error) {
  if (failed_) return;
  failed_ = true;
  meta::AlWaiterList released;
  if (!al_->in_flight() && !al_->failed()) al_->Fail(&released);
  owner_.OnMetadataFailed(error);
  Dispatch(released);
}

}  // namespace umblock::drbd
