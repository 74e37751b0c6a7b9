// MetaStore: the metadata of one volume on its disk, from opening to clean closing.
//
// Owns the superblock (as value), the bitmap (in memory and on disk) and the ring of the activity
// log. The state of the activity log itself is an ActivityLog, which the volume owns and constructs
// with first_transaction_number().
//
// Ordering that this class upholds (drbd-metadata-resync.md 3.7, 2.6; drbd-io-path.md A.3):
//   M1  WriteTransaction: dirty bitmap pages of evicted extents are written, and a write of them
//   that was
//       already under way has ended, before the block is submitted. The block is written with
//       preflush and FUA: when WriteTransaction returns, block and pages are stable. With external
//       metadata the data device is flushed first if extents are evicted, so that their data is
//       stable, too.
//   M2  A superblock write has preflush and FUA: bitmap pages and ring blocks written before it are
//       stable before it is. Superblock writes are serialised; each holds the newest contents.
//   M3  AL_CLEAN is on disk only while the bitmap there is complete and the ring empty: Open
//   replays,
//       writes the bitmap, empties the ring and only then returns, with AL_CLEAN cleared on disk;
//       Close writes bitmap, then ring, then the superblock with AL_CLEAN.
//   M4  Create makes the old superblock unreadable before it touches bitmap and ring.
//   M6  Internal metadata follows the end of its device (meta_store_resize.cc): until the
//   superblock at
//       the new end is stable the old place is complete, from then on the new one is; where the two
//       overlap the new superblock says FULL_SYNC until the rest is there. A new size is on disk
//       only with the bits of what it adds.
//   M5  While PRIMARY_IND is on disk, a crash turns what the log names into bits. A superblock that
//       takes it away is written only when the bitmap on disk is complete without the log.
//
// Any failed write is final: the store is failed() and every later call returns that error (the
// volume then detaches). A torn write of a superblock is noticed only by what CheckSuperblock can
// see; DRBD has no checksum there.
//
// Ownership: the devices outlive the store. Before destruction no operation may be running
// (asserted); Stop() waits for that. Threading: the device's reactor. Units: bytes unless named
// otherwise.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "engine/base/error.h"
#include "engine/block/block_device.h"
#include "engine/drbd/meta/activity_log.h"
#include "engine/drbd/meta/bitmap.h"
#include "engine/drbd/meta/block_access.h"
#include "engine/drbd/meta/geometry.h"
#include "engine/drbd/meta/superblock.h"
#include "engine/runtime/sync.h"
#include "engine/runtime/task.h"

namespace umblock::drbd::meta {

struct MetaCreateOptions {
  MetaLayoutOptions layout;
  uint64_t device_uuid = 0;
  // Overwrite whatever is there: filesystems, other metadata.
  bool force = false;
};

struct MetaOpenOptions {
  Placement placement = Placement::kInternal;
  // The configured node id: metadata of another node is refused. Unset: not checked.
  std::optional<int32_t> node_id;
  // External metadata: the device with the data, flushed before extents are evicted (M1).
  BlockDevice* data_device = nullptr;
  // md-flushes, disk-flushes (SetFlushes).
  bool metadata_flushes = true;
  bool data_flushes = true;
  // What to do when the activity log is needed and unusable: fail (kDataLoss), or take every block
  // as out of sync towards every peer and go on.
  bool unusable_log_means_full_sync = false;
  // Internal metadata: the size of the device when it was last in use, bytes; 0: not known. A
  // device that is larger now and has no metadata at its end is looked at there, and what is found
  // moves to the end (drbd-metadata-resync.md 9.5).
  uint64_t last_device_bytes = 0;
};

// What Open found and did.
struct MetaOpenReport {
  Superblock found;          // as it was on disk, before Open changed anything
  bool log_applied = false;  // it was unclean, with PRIMARY_IND: hot extents became out of sync
  bool log_unusable = false;
  bool full_sync =
      false;  // at least one slot was set completely (FULL_SYNC, disabled or unusable log)
  std::vector<uint32_t> hot_extents;
  uint64_t corrupt_log_blocks = 0;
  uint64_t bits_set = 0;  // in all slots together, by the above
};

class MetaStore {
 public:
  // Equivalent of `drbdmeta create-md`. Refuses (kFailedPrecondition, naming what was found) a
  // device that carries a filesystem, swap, LVM, a partition table or DRBD metadata, unless forced.
  static Task<Result<Geometry>> Create(BlockDevice& device, MetaCreateOptions options);

  // Reads and checks a superblock, nothing more; changes nothing.
  static Task<Result<Superblock>> ReadSuperblock(BlockDevice& device, Placement placement);

  // Reads everything, repairs what a crash left (activity log, FULL_SYNC) and marks the metadata as
  // in use (AL_CLEAN clear on disk). kNotFound: no metadata. kFailedPrecondition: not ours or not
  // v09. kDataLoss: damaged. `*report` is filled in as far as it got.
  static Task<Result<std::unique_ptr<MetaStore>>> Open(BlockDevice& device, MetaOpenOptions options,
                                                       MetaOpenReport* report);

  // From now on: whether flushes and FUA are asked of the metadata's device, and flushes of the
  // data's. Off is safe only where a cache survives a loss of power
  // (drbd-metadata-resync.md 3.2.5).
  void SetFlushes(bool metadata, bool data);

  MetaStore(const MetaStore&) = delete;
  MetaStore& operator=(const MetaStore&) = delete;
  ~MetaStore();

  const Geometry& geometry() const { return geometry_; }
  // Number for the ActivityLog's first transaction.
  uint32_t first_transaction_number() const { return next_transaction_; }
  // Sectors available for data on a backing device of this size.
  uint64_t UsableSectors(uint64_t backing_sectors) const {
    return meta::UsableSectors(geometry_, backing_sectors);
  }

  // The in-core superblock. Change it, then WriteSuperblock; geometry fields and AL_CLEAN are the
  // store's.
  Superblock& superblock() { return superblock_; }
  const Superblock& superblock() const { return superblock_; }
  Bitmap& bitmap() { return bitmap_; }
  const Bitmap& bitmap() const { return bitmap_; }

  // Returns when a write that began after this call is stable. Callers that come while one runs
  // share the next.
  Task<Status> WriteSuperblock();

  // Writes the pages that are dirty now, in `pages` or everywhere. They are stable after the next
  // WriteSuperblock, WriteTransaction or Flush.
  Task<Status> WriteDirtyPages(PageRange pages = {0, UINT64_MAX});
  // Called after pages were copied for writing and before they are written: the owner flushes the
  // data that cleared bits stand for. An error fails the write.
  void set_before_pages(std::function<Task<Status>()> hook) { before_pages_ = std::move(hook); }
  Task<Status> Flush();

  // Where internal metadata would lie on a device of this size.
  Result<Geometry> GeometryAt(uint64_t device_bytes) const;
  // The device has grown: internal metadata moves to its end (M6); where it was there are zeroes
  // then. Nothing happens if it is there, or external.
  Task<Status> MoveToEnd();
  // A new size of the volume: bitmap, then superblock. Blocks that appear are out of sync towards
  // everybody, or equal. kInvalidArgument: the metadata has no room for it.
  Task<Status> ChangeSize(uint64_t sectors, bool new_blocks_differ);

  // One at a time, in the order of their numbers (asserted). See M1.
  Task<Status> WriteTransaction(const AlBatch& batch);

  // Clean end: M3. The caller has ended all I/O and set the superblock's flags; no call is running
  // and none follows, except Stop.
  Task<Status> Close();
  // Waits until no operation runs any more. Afterwards every call fails.
  Task<void> Stop();

  bool failed() const { return failure_.has_value(); }
  // Only if failed().
  const Error& failure() const { return *failure_; }

  struct Counters {
    uint64_t superblock_writes = 0;
    uint64_t page_writes = 0;    // pages
    uint64_t page_requests = 0;  // write requests to the device
    uint64_t transactions = 0;
  };
  const Counters& counters() const { return counters_; }

 private:
  class Operation;

  static constexpr size_t kBitmapPieceBytes = 256 * 1024;
  static constexpr size_t kRingPieceBytes = 32 * 1024;
  static constexpr uint64_t kPagesPerRequest = kBitmapPieceBytes / kBlockBytes;

  MetaStore(BlockDevice& device, const MetaOpenOptions& options, const Superblock& superblock,
            Geometry geometry, Bitmap bitmap);

  Task<Status> LoadBitmap();
  Task<Status> Recover(const MetaOpenOptions& options, MetaOpenReport* report);
  Status ApplyLog(const Result<AlReplay>& replay, const MetaOpenOptions& options,
                  MetaOpenReport* report);
  uint64_t SetEverything(SlotMask slots);
  Task<Status> WriteEmptyRing();
  // Under page_mutex_: the dirty pages of [first, end), in as few requests as possible.
  Task<Status> WriteDirtyLocked(PageRange pages, uint64_t* next);
  Task<Status> WriteEvictedPages(std::span<const uint32_t> extents);
  Task<Status> WriteSuperblockOnce();
  // Of an external metadata's data device; nothing else has one of its own.
  Task<Status> FlushData(std::string_view when);
  // Steps of MoveToEnd, with everything else held back.
  Task<Status> MoveHeld(const Geometry& to);
  Task<Status> WriteRing(const Geometry& at, Bytes ring);
  Task<Status> WriteAllPages(const Geometry& at);
  Task<Status> SwitchTo(const Geometry& to);
  Task<Status> SwitchOverlapping(const Geometry& to, Bytes ring);
  Status Usable() const;
  Status Fail(Status status);

  BlockAccess superblock_access_;
  BlockAccess ring_access_;
  BlockAccess page_access_;
  BlockDevice* data_device_;
  bool data_flushes_;
  Superblock superblock_;
  Geometry geometry_;
  Bitmap bitmap_;

  std::function<Task<Status>()> before_pages_;
  AsyncMutex page_mutex_;  // one writer of bitmap pages at a time
  WaitQueue superblock_done_;
  uint64_t superblock_started_ = 0;
  uint64_t superblock_finished_ = 0;
  bool superblock_writing_ = false;
  bool log_counts_on_disk_ = true;  // PRIMARY_IND as last written

  uint32_t next_transaction_ = 0;
  bool transaction_running_ = false;
  bool moving_ = false;
  WaitQueue moved_;  // also: a transaction has ended

  int operations_ = 0;
  WaitQueue idle_;
  bool closed_ = false;
  std::optional<Error> failure_;
  Counters counters_;
};

}  // namespace umblock::drbd::meta
