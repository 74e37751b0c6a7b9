// Metadata of a device that has grown, and of a volume that changes its size
// (drbd-metadata-resync.md 9.3, 9.5).
#include <algorithm>
#include <array>

#include "engine/base/assert.h"
#include "engine/drbd/meta/meta_store_operation.h"

namespace umblock::drbd::meta {
namespace {

uint64_t EndOf(const Geometry& g) { return g.superblock_offset + kSuperblockBytes; }

}  // namespace

Result<Geometry> MetaStore::GeometryAt(uint64_t device_bytes) const {
  return ComputeGeometry({geometry_.placement, geometry_.max_peers, geometry_.bytes_per_bit,
                          geometry_.al_stripes, geometry_.al_stripe_size_4k},
                         device_bytes);
}

Task<Status> MetaStore::MoveToEnd() {
  if (geometry_.placement != Placement::kInternal) co_return Ok();
  const Operation running(*this);
  // In this order: a superblock write waits for pages (M5), and so does a transaction.
  while (superblock_writing_) co_await superblock_done_.Wait();
  UMBLOCK_CO_TRY(Usable());
  superblock_writing_ = true;
  moving_ = true;
  while (transaction_running_) co_await moved_.Wait();
  Status status = Usable();
  {
    const AsyncMutex::Lock lock = co_await page_mutex_.Acquire();
    const Result<Geometry> to = GeometryAt(superblock_access_.device_bytes());
    if (status && !to) status = std::unexpected(to.error().Within(superblock_access_.name()));
    if (status && to->superblock_offset > geometry_.superblock_offset) {
      status = co_await MoveHeld(*to);
    }
  }
  moving_ = false;
  superblock_writing_ = false;
  moved_.NotifyAll();
  superblock_done_.NotifyAll();
  co_return status;
}

// An error before the switch leaves everything as it was, and usable.
Task<Status> MetaStore::MoveHeld(const Geometry& to) {
  const Geometry from = geometry_;
  std::vector<std::byte> ring(from.al_bytes());
  UMBLOCK_CO_TRY(co_await ring_access_.Read("activity log", from.al_offset, ring));
  if (to.bm_offset < EndOf(from)) {
    UMBLOCK_CO_TRY(Fail(co_await SwitchOverlapping(to, ring)));
  } else {
    // What a crash before the switch leaves must be complete, too.
    for (uint64_t page = 0; bitmap_.FindDirtyPage(page) < bitmap_.page_count();) {
      UMBLOCK_CO_TRY(co_await WriteDirtyLocked({page, UINT64_MAX}, &page));
    }
    UMBLOCK_CO_TRY(co_await WriteAllPages(to));
    UMBLOCK_CO_TRY(co_await WriteRing(to, ring));
    UMBLOCK_CO_TRY(Fail(co_await SwitchTo(to)));
  }
  // It is room for data now, which must not look like metadata; and both nodes have the same there
  // if both moved it.
  const uint64_t end = std::min(EndOf(from), to.bm_offset);
  if (end > from.bm_offset) {
    UMBLOCK_CO_TRY(Fail(
        co_await page_access_.WriteZeroes("old metadata", from.bm_offset, end - from.bm_offset)));
  }
  co_return Fail(co_await page_access_.Flush("old metadata"));
}

Task<Status> MetaStore::WriteRing(const Geometry& at, Bytes ring) {
  UMBLOCK_ASSERT(ring.size() == at.al_bytes(), "a move does not change the activity log");
  co_return co_await ring_access_.Write("activity log", at.al_offset, ring);
}

Task<Status> MetaStore::WriteAllPages(const Geometry& at) {
  UMBLOCK_CO_TRY(co_await page_access_.WriteZeroes("bitmap", at.bm_offset, at.bm_bytes));
  for (uint64_t page = 0; page < bitmap_.page_count();) {
    const uint64_t count = std::min(kPagesPerRequest, bitmap_.page_count() - page);
    for (uint64_t i = 0; i < count; ++i) {
      std::ranges::copy(bitmap_.Page(page + i), page_access_.piece().begin() + i * kBlockBytes);
    }
    if (before_pages_) UMBLOCK_CO_TRY(co_await before_pages_());
    UMBLOCK_CO_TRY(co_await page_access_.WritePiece("bitmap", at.bm_offset + page * kBlockBytes,
                                                    count * kBlockBytes));
    page += count;
  }
  co_return Ok();
}

// The superblock at the new end is what makes it the place; it is written with a flush before.
Task<Status> MetaStore::SwitchTo(const Geometry& to) {
  geometry_ = to;
  superblock_.md_size_sectors = to.md_size_sectors;
  superblock_.al_offset_sectors = to.al_offset_sectors;
  superblock_.bm_offset_sectors = to.bm_offset_sectors;
  // M5: to void the log takes more than this.
  Superblock next = superblock_;
  if (log_counts_on_disk_) next.Set(kMdPrimaryInd, true);
  std::array<std::byte, kSuperblockBytes> block;
  EncodeSuperblock(next, block);
  ++counters_.superblock_writes;
  const Status status =
      co_await superblock_access_.WriteBlockDurably("superblock", to.superblock_offset, block);
  if (status) log_counts_on_disk_ = next.Has(kMdPrimaryInd);
  co_return status;
}

// The device grew by less than the metadata takes: the new place covers a part of the old one. A
// crash in between leaves a disk that is out of sync as a whole.
Task<Status> MetaStore::SwitchOverlapping(const Geometry& to, Bytes ring) {
  UMBLOCK_ASSERT(to.superblock_offset >= EndOf(geometry_), "the new superblock is beyond the old");
  const Superblock before = superblock_;
  superblock_.Set(kMdAlDisabled, true);
  for (PeerEntry& peer : superblock_.peers) {
    if (peer.bitmap_index >= 0) peer.flags |= kPeerFullSync;
  }
  UMBLOCK_CO_TRY(co_await SwitchTo(to));
  UMBLOCK_CO_TRY(co_await WriteAllPages(to));
  UMBLOCK_CO_TRY(co_await WriteRing(to, ring));
  superblock_.Set(kMdAlDisabled, before.Has(kMdAlDisabled));
  for (size_t node = 0; node < superblock_.peers.size(); ++node) {
    if ((before.peers[node].flags & kPeerFullSync) == 0) {
      superblock_.peers[node].flags &= ~kPeerFullSync;
    }
  }
  co_return co_await SwitchTo(to);
}

Task<Status> MetaStore::ChangeSize(uint64_t sectors, bool new_blocks_differ) {
  const Operation running(*this);
  UMBLOCK_CO_TRY(Usable());
  const uint64_t bytes = sectors * kSectorBytes;
  if (BitmapBytes(BitmapBits(bytes, geometry_.bytes_per_bit), geometry_.max_peers) >
      geometry_.bm_bytes) {
    co_return MakeError(ErrorCode::kInvalidArgument, "{}: the bitmap has no room for {} bytes",
                        superblock_access_.name(), bytes);
  }
  if (bytes < bitmap_.device_bytes()) {
    superblock_.effective_sectors = sectors;
    UMBLOCK_CO_TRY(co_await WriteSuperblock());
    co_return bitmap_.Resize(bytes, false);
  }
  UMBLOCK_CO_TRY(bitmap_.Resize(bytes, new_blocks_differ));
  UMBLOCK_CO_TRY(co_await WriteDirtyPages());
  superblock_.effective_sectors = sectors;
  co_return co_await WriteSuperblock();
}

}  // namespace umblock::drbd::meta
