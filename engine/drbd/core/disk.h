// Disk: what a volume has while it is attached — backing device, metadata, bitmap, activity log and
// generation UUIDs — and the order in which they become durable.
//
// Upholds (drbd-metadata-resync.md 3.7, drbd-io-path.md A.16):
//   INV-2   a write is released by the activity log only when a durable transaction names its
//   extents 3.7     bitmap pages of evicted extents, and before them the data they stand for, are
//   durable
//           before the transaction that evicts; data is flushed before a page with cleared bits is
//           written
//   3.7     superblocks are written in the order of the calls; a caller that awaits WriteSuperblock
//           may tell peers what it wrote
//
// Life cycle: Open() reads and replays; Close() ends all activity of its own (the volume has
// drained its I/O before). On a metadata error OnMetadataFailed is called once and the activity log
// refuses. Threading: one reactor.
#pragma once

#include <memory>
#include <optional>

#include "engine/block/block_device.h"
#include "engine/drbd/config.h"
#include "engine/drbd/meta/activity_log.h"
#include "engine/drbd/meta/bitmap.h"
#include "engine/drbd/meta/meta_store.h"
#include "engine/drbd/state/uuid_set.h"
#include "engine/runtime/sync.h"

namespace umblock::drbd {

// A request that waits for activity-log extents.
class AlUser : public meta::AlWaiter {
 public:
  using Fn = void (*)(AlUser* self, bool granted) noexcept;
  Fn al_ready = nullptr;
};

class DiskOwner {
 public:
  virtual ~DiskOwner() = default;
  virtual void OnMetadataFailed(const Error& error) = 0;
  // The head of the activity log's queue finds no slot: whoever can release some should.
  virtual void OnActivityLogStarving() = 0;
  // FollowBacking has ended: usable_sectors() may be another.
  virtual void OnBackingFollowed() = 0;
};

struct DiskOpenRequest {
  BlockDevice* backing = nullptr;
  BlockDevice* metadata = nullptr;  // nullptr: internal
  int node_id = -1;
  DiskOptions options;
  std::string name;              // for messages: "volume r0/0"
  uint64_t last_known_size = 0;  // of the backing device, bytes: MetaOpenOptions::last_device_bytes
};

class Disk {
 public:
  static Task<Result<std::unique_ptr<Disk>>> Open(Reactor& reactor, DiskOwner& owner,
                                                  DiskOpenRequest request);
  ~Disk();

  // `clean`: the volume is not Primary, nothing is in flight: the activity log is initialised again
  // and the superblock says so (2.6.3), so that any implementation may attach without a replay.
  Task<void> Close(bool clean);

  BlockDevice& backing() { return *backing_; }
  const BlockDevice& backing() const { return *backing_; }
  meta::Bitmap& bitmap() { return store_->bitmap(); }
  const meta::Bitmap& bitmap() const { return store_->bitmap(); }
  meta::Superblock& superblock() { return store_->superblock(); }
  const meta::Superblock& superblock() const { return store_->superblock(); }
  UuidSet& uuids() { return uuids_; }
  const UuidSet& uuids() const { return uuids_; }
  uint64_t usable_sectors() const { return usable_sectors_; }
  // The backing device may have grown: internal metadata moves to its new end, I/O goes on. If that
  // fails before anything was changed, the disk stays as it was.
  void FollowBacking();
  bool following() const { return following_; }
  // Where the metadata ends, bytes of the backing device; for who attaches it the next time.
  uint64_t followed_bytes() const { return followed_bytes_; }
  // A new size, durable when it ends (MetaStore::ChangeSize). `sync_owed`: the new blocks differ,
  // and every peer with a slot owes or is owed them until a resync has ended.
  Task<Status> ChangeSize(uint64_t sectors, bool sync_owed);
  // The slot has bits of blocks that a new size brought, although both disks may be of one
  // generation.
  bool SyncIsOwed(int node) const;
  void SyncIsDone(int node);
  const meta::AlCounters& al_counters() const { return al_->counters(); }
  uint64_t bitmap_pages_written() const { return store_->counters().page_writes; }
  uint64_t al_transactions() const { return al_->counters().transactions; }
  uint64_t al_in_use() const { return al_->referenced_slots(); }
  // What Open found: extents that the log had marked hot.
  uint64_t replayed_extents() const { return replayed_extents_; }

  // The bitmap slot of a node, if it has one.
  std::optional<uint32_t> SlotOf(int node) const;
  // Gives a node a slot: its own, or the lowest free one (8.1). Not durable until WriteSuperblock.
  Result<uint32_t> AssignSlot(int node);
  // The metadata has a slot, a generation or marks for a node.
  bool Remembers(int node) const;
  // Frees the slot and the entry of a node (8.4); durable when it ends. A kernel lets the entry
  // take over the first generation that other free entries name. Here it names none: a disk that
  // has the generation in use at this moment must not pass for equal later (UuidSet::Rotate).
  Task<Status> ForgetPeer(int node);

  // Stores UUIDs and flags as they are when the write starts. Ends when that, or something newer,
  // is on stable storage.
  Task<Status> WriteSuperblock();
  // The same, some time soon.
  void ScheduleSuperblock();
  // Dirty bitmap pages, after a flush of the data they stand for.
  Task<Status> WriteBitmap();
  // Bits were cleared for data that may still be in a volatile cache.
  void NoteCleared() { ++cleared_; }

  // Extents of sectors [first, end). True: hot, go on; false: user->al_ready will be called.
  bool AcquireExtents(uint64_t first, uint64_t end, AlUser* user);
  void ReleaseExtents(uint64_t first, uint64_t end);
  // disk-flushes and md-flushes, from now on.
  void SetFlushes(const DiskOptions& options);
  bool log_starving() const { return al_->starving(); }
  bool log_failed() const { return al_->failed(); }
  bool log_waiting() const { return al_->waiting(); }
  bool log_writing() const { return al_->in_flight(); }

 private:
  Disk(Reactor& reactor, DiskOwner& owner, DiskOpenRequest request);

  static uint32_t ExtentOf(uint64_t sector) {
    return static_cast<uint32_t>(sector / meta::kAlExtentSectors);
  }
  void KickLog();
  Task<void> LogLoop();
  Task<Status> WriteBatch(const meta::AlBatch& batch);
  Task<Status> FlushBacking();
  void Dispatch(meta::AlWaiterList& released);
  void UuidsFromSuperblock();
  void UuidsToSuperblock();
  void Fail(const Error& error);
  Task<void> LazyWrite();
  Task<void> Follow();
  std::string SlotOwners() const;

  Reactor& reactor_;
  DiskOwner& owner_;
  BlockDevice* backing_;
  BlockDevice* metadata_;  // where the metadata lies; backing_ if internal
  bool al_updates_;
  bool data_flushes_;
  std::string name_;
  std::unique_ptr<meta::MetaStore> store_;
  std::unique_ptr<meta::ActivityLog> al_;
  UuidSet uuids_;
  uint64_t usable_sectors_ = 0;
  uint64_t followed_bytes_ = 0;
  bool following_ = false;
  uint64_t replayed_extents_ = 0;
  bool log_running_ = false;
  bool lazy_scheduled_ = false;
  // Bits cleared so far, and up to which of them the data is stable.
  uint64_t cleared_ = 0;
  uint64_t flushed_ = 0;
  bool failed_ = false;
  bool closing_ = false;
  TaskGroup tasks_;
};

}  // namespace umblock::drbd
