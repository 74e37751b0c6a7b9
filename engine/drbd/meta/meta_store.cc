#include "engine/drbd/meta/meta_store.h"

#include <algorithm>
#include <array>
#include <utility>

#include "engine/base/assert.h"
#include "engine/drbd/meta/meta_store_operation.h"

namespace umblock::drbd::meta {

MetaStore::MetaStore(BlockDevice& device, const MetaOpenOptions& options,
                     const Superblock& superblock, Geometry geometry, Bitmap bitmap)
    : superblock_access_(device, kSuperblockBytes),
      ring_access_(device, kRingPieceBytes),
      page_access_(device, kBitmapPieceBytes),
      data_device_(options.placement == Placement::kFlexExternal ? options.data_device : nullptr),
      data_flushes_(options.data_flushes),
      superblock_(superblock),
      geometry_(geometry),
      bitmap_(std::move(bitmap)),
      page_mutex_(device.reactor()),
      superblock_done_(device.reactor()),
      moved_(device.reactor()),
      idle_(device.reactor()) {
  SetFlushes(options.metadata_flushes, options.data_flushes);
}

void MetaStore::SetFlushes(bool metadata, bool data) {
  for (BlockAccess* access : {&superblock_access_, &ring_access_, &page_access_}) {
    access->set_flushes(metadata);
  }
  data_flushes_ = data;
}

MetaStore::~MetaStore() {
  UMBLOCK_ASSERT(operations_ == 0, "metadata is stopped before it is destroyed");
}

Status MetaStore::Usable() const {
  if (failure_) return std::unexpected(*failure_);
  if (closed_) {
    return MakeError(ErrorCode::kFailedPrecondition, "{}: the metadata is closed",
                     superblock_access_.name());
  }
  return Ok();
}

Status MetaStore::Fail(Status status) {
  if (!status && !failure_) failure_ = status.error();
  return status;
}

// --- superblock ----------------------------------------------------------------------------------

Task<Status> MetaStore::WriteSuperblockOnce() {
  std::array<std::byte, kSuperblockBytes> block;
  UMBLOCK_ASSERT(!superblock_.Has(kMdAlClean) || closed_,
                 "M3: no superblock with AL_CLEAN while the metadata is in use");
  // Without PRIMARY_IND nobody looks into the activity log after a crash: what it stands for must
  // be stable. Where data and metadata share a device, the flush before the block sees to that.
  if (log_counts_on_disk_ && !closed_ && !superblock_.Has(kMdPrimaryInd)) {
    UMBLOCK_CO_TRY(Fail(co_await FlushData("before the activity log is void")));
  }
  // M5. At least once, as a page may be clean because it is just being written.
  for (bool again = log_counts_on_disk_; again && !closed_ && !superblock_.Has(kMdPrimaryInd);
       again = bitmap_.dirty_pages() != 0) {
    UMBLOCK_CO_TRY(co_await WriteDirtyPages());
  }
  EncodeSuperblock(superblock_, block);
  const bool log_counts = superblock_.Has(kMdPrimaryInd);
  ++counters_.superblock_writes;
  const Status status = Fail(co_await superblock_access_.WriteBlockDurably(
      "superblock", geometry_.superblock_offset, block));
  if (status) log_counts_on_disk_ = log_counts;
  co_return status;
}

Task<Status> MetaStore::FlushData(std::string_view when) {
  if (data_device_ == nullptr || !data_flushes_) co_return Ok();
  const int error = co_await data_device_->Flush();
  if (error == 0) co_return Ok();
  co_return std::unexpected(
      Error::FromErrno(error, fmt::format("{}: flushing data {}", data_device_->name(), when)));
}

Task<Status> MetaStore::WriteSuperblock() {
  const Operation running(*this);
  const uint64_t wanted = superblock_started_ + 1;
  while (superblock_finished_ < wanted) {
    UMBLOCK_CO_TRY(Usable());
    if (superblock_writing_) {
      co_await superblock_done_.Wait();
      continue;
    }
    superblock_writing_ = true;
    const uint64_t number = ++superblock_started_;
    const Status status = co_await WriteSuperblockOnce();
    superblock_writing_ = false;
    if (status) superblock_finished_ = number;
    superblock_done_.NotifyAll();
    if (!status) co_return status;
  }
  co_return Ok();
}

// --- bitmap pages --------------------------------------------------------------------------------

Task<Status> MetaStore::WriteDirtyLocked(PageRange pages, uint64_t* next) {
  const uint64_t first = bitmap_.FindDirtyPage(pages.first, pages.end);
  *next = first;
  if (first >= std::min(pages.end, bitmap_.page_count())) co_return Ok();
  uint64_t end = first;
  const uint64_t limit = std::min({pages.end, bitmap_.page_count(), first + kPagesPerRequest});
  // Copied here and clean from here on: a bit that changes during the write makes its page dirty
  // again.
  const MutableBytes piece = page_access_.piece();
  for (; end < limit && bitmap_.IsDirty(end); ++end) {
    std::ranges::copy(bitmap_.Page(end), piece.begin() + (end - first) * kBlockBytes);
    bitmap_.MarkClean(end);
  }
  const size_t bytes = (end - first) * kBlockBytes;
  Status status = Ok();
  if (before_pages_) status = co_await before_pages_();
  if (status) {
    status = co_await page_access_.WritePiece("bitmap", geometry_.bm_offset + first * kBlockBytes,
                                              bytes);
  }
  if (!status) {
    for (uint64_t page = first; page < std::min(end, bitmap_.page_count()); ++page) {
      bitmap_.MarkDirty(page);
    }
    co_return Fail(status);
  }
  counters_.page_writes += end - first;
  ++counters_.page_requests;
  *next = end;
  co_return Ok();
}

Task<Status> MetaStore::WriteDirtyPages(PageRange pages) {
  const Operation running(*this);
  while (true) {
    // Let go between requests: an eviction waits for one request, not for the whole bitmap.
    const AsyncMutex::Lock lock = co_await page_mutex_.Acquire();
    UMBLOCK_CO_TRY(Usable());
    UMBLOCK_CO_TRY(co_await WriteDirtyLocked(pages, &pages.first));
    if (bitmap_.FindDirtyPage(pages.first, pages.end) >=
        std::min(pages.end, bitmap_.page_count())) {
      co_return Ok();
    }
  }
}

Task<Status> MetaStore::Flush() {
  const Operation running(*this);
  UMBLOCK_CO_TRY(Usable());
  co_return Fail(co_await page_access_.Flush("bitmap"));
}

Task<Status> MetaStore::WriteEvictedPages(std::span<const uint32_t> extents) {
  // The lock is taken even if nothing is dirty: a page may be clean because it is just being
  // written.
  const AsyncMutex::Lock lock = co_await page_mutex_.Acquire();
  for (const uint32_t extent : extents) {
    PageRange pages = bitmap_.PagesOfExtent(extent);
    while (bitmap_.FindDirtyPage(pages.first, pages.end) <
           std::min(pages.end, bitmap_.page_count())) {
      UMBLOCK_CO_TRY(co_await WriteDirtyLocked(pages, &pages.first));
    }
  }
  co_return Ok();
}

// --- activity log --------------------------------------------------------------------------------

Task<Status> MetaStore::WriteTransaction(const AlBatch& batch) {
  const Operation running(*this);
  while (moving_) co_await moved_.Wait();
  UMBLOCK_CO_TRY(Usable());
  UMBLOCK_ASSERT(!transaction_running_, "one transaction at a time");
  UMBLOCK_ASSERT(batch.transaction.number == next_transaction_, "transactions come in order");
  transaction_running_ = true;
  Status status = Ok();
  if (batch.evicted_count > 0) {
    status = co_await WriteEvictedPages(batch.evicted());
    if (status) status = co_await FlushData("before its activity-log extents are evicted");
  }
  if (status) {
    std::array<std::byte, kBlockBytes> block;
    EncodeAlTransaction(batch.transaction, block);
    const uint64_t at =
        geometry_.al_offset + kBlockBytes * AlBlockOfTransaction(batch.transaction.number,
                                                                 geometry_.al_stripes,
                                                                 geometry_.al_stripe_size_4k);
    status = co_await ring_access_.WriteBlockDurably("activity log", at, block);
  }
  transaction_running_ = false;
  moved_.NotifyAll();
  if (status) {
    ++next_transaction_;
    ++counters_.transactions;
  }
  co_return Fail(status);
}

Task<Status> MetaStore::WriteEmptyRing() {
  std::array<std::byte, kBlockBytes> block;
  EncodeInitialisedAlBlock(block);
  // Logical block 0 last: whoever replays a ring that is empty except for a torn block 0 takes it
  // for an empty one (drbd-metadata-resync.md 2.11.3); any other torn block beside empty ones is an
  // error.
  for (uint64_t i = 1; i < geometry_.al_blocks(); ++i) {
    UMBLOCK_CO_TRY(
        co_await ring_access_.Write("activity log", geometry_.al_offset + i * kBlockBytes, block));
  }
  co_return co_await ring_access_.WriteBlockDurably("activity log", geometry_.al_offset, block);
}

// --- end -----------------------------------------------------------------------------------------

Task<Status> MetaStore::Close() {
  UMBLOCK_ASSERT(operations_ == 0, "nothing runs when metadata is closed");
  const Operation running(*this);
  // M3: the bitmap is on disk before AL_CLEAN. A write that the closing disk has refused sets its
  // bit while others are on their way out; whoever sent it keeps that bit too.
  for (bool log_empty = false; !log_empty || bitmap_.dirty_pages() != 0;) {
    UMBLOCK_CO_TRY(co_await WriteDirtyPages());
    UMBLOCK_CO_TRY(Fail(co_await ring_access_.Flush("bitmap")));
    if (log_empty || bitmap_.dirty_pages() != 0) continue;
    UMBLOCK_CO_TRY(Fail(co_await WriteEmptyRing()));
    log_empty = true;
  }
  closed_ = true;
  superblock_.Set(kMdAlClean, true);
  co_return co_await WriteSuperblockOnce();
}

Task<void> MetaStore::Stop() {
  closed_ = true;
  superblock_done_.NotifyAll();
  while (operations_ > 0) co_await idle_.Wait();
}

}  // namespace umblock::drbd::meta
