// Creating, reading and recovering metadata: the part of MetaStore before a volume is in use.
#include <array>

#include "engine/base/assert.h"
#include "engine/drbd/meta/meta_store.h"
#include "engine/drbd/meta/signatures.h"

namespace umblock::drbd::meta {
namespace {

// What create-md writes there; informational (drbd-metadata-resync.md 2.3).
constexpr uint32_t kCreatedAlExtents = 257;

Superblock FreshSuperblock(const Geometry& g, uint64_t device_uuid) {
  Superblock sb;
  sb.device_uuid = device_uuid;
  sb.flags = kMdAlClean;
  sb.md_size_sectors = g.md_size_sectors;
  sb.al_offset_sectors = g.al_offset_sectors;
  sb.al_nr_extents = kCreatedAlExtents;
  sb.bm_offset_sectors = g.bm_offset_sectors;
  sb.bytes_per_bit = g.bytes_per_bit;
  sb.max_peers = g.max_peers;
  sb.al_stripes = g.al_stripes;
  sb.al_stripe_size_4k = g.al_stripe_size_4k;
  return sb;
}

Task<Status> RefuseExistingData(BlockAccess& access, uint64_t superblock_offset) {
  const std::string& name = access.device().name();
  AlignedBytes start(
      AlignDown<uint64_t>(std::min<uint64_t>(kSignatureBytes, access.device_bytes()), kBlockBytes));
  UMBLOCK_CO_TRY(co_await access.Read("what is there already", 0, start.bytes()));
  if (const auto what = FindSignature(start.bytes())) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "{} seems to hold {}; nothing was written. Wipe it (wipefs), or create the "
                        "metadata with force",
                        name, *what);
  }
  std::array<std::byte, kSuperblockBytes> block;
  UMBLOCK_CO_TRY(co_await access.Read("superblock", superblock_offset, block));
  if (LooksLikeSuperblock(block)) {
    co_return MakeError(
        ErrorCode::kFailedPrecondition,
        "{} holds DRBD metadata already; nothing was written. Attach it as it is, or "
        "create new metadata with force",
        name);
  }
  co_return Ok();
}

Task<Status> WriteFreshMetadata(BlockAccess& access, const Geometry& g, const Superblock& sb) {
  std::array<std::byte, kBlockBytes> block{};
  // M4: a crash in between must not leave an old superblock over an empty bitmap.
  UMBLOCK_CO_TRY(co_await access.WriteBlockDurably("superblock", g.superblock_offset, block));
  UMBLOCK_CO_TRY(co_await access.WriteZeroes("bitmap", g.bm_offset, g.bm_bytes));
  EncodeInitialisedAlBlock(block);
  for (uint64_t i = 0; i < g.al_blocks(); ++i) {
    UMBLOCK_CO_TRY(co_await access.Write("activity log", g.al_offset + i * kBlockBytes, block));
  }
  EncodeSuperblock(sb, block);
  co_return co_await access.WriteBlockDurably("superblock", g.superblock_offset, block);
}

}  // namespace

Task<Result<Geometry>> MetaStore::Create(BlockDevice& device, MetaCreateOptions options) {
  BlockAccess access(device, kBitmapPieceBytes);
  const uint64_t bytes = access.device_bytes();
  const Result<Geometry> geometry = ComputeGeometry(options.layout, bytes);
  if (!geometry) co_return std::unexpected(geometry.error().Within(device.name()));
  if (bytes / kSectorBytes < kMinMetaDeviceSectors) {
    co_return MakeError(ErrorCode::kInvalidArgument,
                        "{}: {} bytes are too small for DRBD metadata (at least 1 MiB)",
                        device.name(), bytes);
  }
  if (!options.force) {
    UMBLOCK_CO_TRY(co_await RefuseExistingData(access, geometry->superblock_offset));
  }
  UMBLOCK_CO_TRY(co_await WriteFreshMetadata(access, *geometry,
                                             FreshSuperblock(*geometry, options.device_uuid)));
  co_return *geometry;
}

Task<Result<Superblock>> MetaStore::ReadSuperblock(BlockDevice& device, Placement placement) {
  BlockAccess access(device, kSuperblockBytes);
  if (access.device_bytes() < kMinMetaDeviceSectors * kSectorBytes) {
    co_return MakeError(ErrorCode::kNotFound, "{}: {} bytes cannot hold DRBD metadata",
                        device.name(), access.device_bytes());
  }
  std::array<std::byte, kSuperblockBytes> block;
  UMBLOCK_CO_TRY(co_await access.Read("superblock",
                                      SuperblockOffset(placement, access.device_bytes()), block));
  Result<Superblock> superblock = DecodeSuperblock(block);
  if (!superblock) co_return std::unexpected(superblock.error().Within(device.name()));
  co_return superblock;
}

namespace {

// Of a device that has grown, the metadata where its end was.
Task<Result<Superblock>> FindSuperblock(BlockDevice& device, const MetaOpenOptions& options,
                                        uint64_t* device_bytes) {
  Result<Superblock> found = co_await MetaStore::ReadSuperblock(device, options.placement);
  if (found || found.error().code() != ErrorCode::kNotFound ||
      options.placement != Placement::kInternal || options.last_device_bytes >= *device_bytes ||
      options.last_device_bytes < kMinMetaDeviceSectors * kSectorBytes) {
    co_return found;
  }
  BlockAccess access(device, kSuperblockBytes);
  std::array<std::byte, kSuperblockBytes> block;
  UMBLOCK_CO_TRY(co_await access.Read(
      "superblock", SuperblockOffset(options.placement, options.last_device_bytes), block));
  Result<Superblock> before = DecodeSuperblock(block);
  if (!before) co_return found;
  *device_bytes = options.last_device_bytes;
  co_return before;
}

}  // namespace

Task<Result<std::unique_ptr<MetaStore>>> MetaStore::Open(BlockDevice& device,
                                                         MetaOpenOptions options,
                                                         MetaOpenReport* report) {
  uint64_t bytes = device.geometry().size;
  const Result<Superblock> found = co_await FindSuperblock(device, options, &bytes);
  if (!found) co_return std::unexpected(found.error());
  report->found = *found;
  if (found->format != Format::kV09) {
    co_return MakeError(
        ErrorCode::kFailedPrecondition,
        "{}: metadata of version 8; convert it with drbdmeta (create-md of v09 offers "
        "that) while the peers are in sync",
        device.name());
  }
  const AttachExpectations expect{options.placement == Placement::kInternal, bytes / kSectorBytes,
                                  options.node_id, false};
  if (const Status checked = CheckSuperblock(*found, expect); !checked) {
    co_return std::unexpected(checked.error().Within(device.name()));
  }
  const Result<Geometry> geometry = GeometryOf(*found, options.placement, bytes);
  if (!geometry) co_return std::unexpected(geometry.error().Within(device.name()));
  Result<Bitmap> bitmap = Bitmap::Create(
      {found->max_peers, found->effective_sectors * kSectorBytes, found->bytes_per_bit});
  if (!bitmap) co_return std::unexpected(bitmap.error().Within(device.name()));
  std::unique_ptr<MetaStore> store(
      new MetaStore(device, options, *found, *geometry, std::move(*bitmap)));
  UMBLOCK_CO_TRY(co_await store->LoadBitmap());
  UMBLOCK_CO_TRY(co_await store->Recover(options, report));
  UMBLOCK_CO_TRY(co_await store->MoveToEnd());
  co_return store;
}

Task<Status> MetaStore::LoadBitmap() {
  for (uint64_t page = 0; page < bitmap_.page_count();) {
    const uint64_t count = std::min(kPagesPerRequest, bitmap_.page_count() - page);
    UMBLOCK_CO_TRY(co_await page_access_.ReadPiece(
        "bitmap", geometry_.bm_offset + page * kBlockBytes, count * kBlockBytes));
    for (uint64_t i = 0; i < count; ++i) {
      bitmap_.LoadPage(page + i, page_access_.piece().subspan(i * kBlockBytes, kBlockBytes));
    }
    page += count;
  }
  co_return Ok();
}

uint64_t MetaStore::SetEverything(SlotMask slots) {
  uint64_t changed = 0;
  for (uint32_t slot = 0; slot < bitmap_.max_peers(); ++slot) {
    if ((slots >> slot & 1) != 0) changed += bitmap_.SetAll(slot);
  }
  return changed;
}

Status MetaStore::ApplyLog(const Result<AlReplay>& replay, const MetaOpenOptions& options,
                           MetaOpenReport* report) {
  if (!replay) {
    report->log_unusable = true;
    if (!options.unusable_log_means_full_sync) {
      return std::unexpected(replay.error().Within(fmt::format(
          "{}: cannot tell which blocks a crash left different", superblock_access_.name())));
    }
    report->full_sync = true;
    report->bits_set += SetEverything(bitmap_.all_slots());
    return Ok();
  }
  report->log_applied = true;
  report->hot_extents = replay->hot_extents;
  for (const uint32_t extent : replay->hot_extents) {
    // The last extent, and one whose bits end beyond the device, is clipped, not dropped.
    const BitRange range = bitmap_.BitsOfExtent(extent);
    for (uint32_t slot = 0; slot < bitmap_.max_peers(); ++slot) {
      report->bits_set += bitmap_.SetBits(slot, range.first, range.end);
    }
  }
  return Ok();
}

Task<Status> MetaStore::Recover(const MetaOpenOptions& options, MetaOpenReport* report) {
  std::vector<std::byte> ring(geometry_.al_bytes());
  UMBLOCK_CO_TRY(co_await ring_access_.Read("activity log", geometry_.al_offset, ring));
  const Result<AlReplay> replay = ReplayAl(ring, geometry_.al_stripes, geometry_.al_stripe_size_4k);
  if (replay) report->corrupt_log_blocks = replay->corrupt_blocks;
  const bool crashed_in_use = !superblock_.al_clean() && superblock_.Has(kMdPrimaryInd);
  if (crashed_in_use) UMBLOCK_CO_TRY(ApplyLog(replay, options, report));

  SlotMask full = 0;
  if (superblock_.Has(kMdCrashedPrimary) && superblock_.Has(kMdAlDisabled)) {
    full = bitmap_.all_slots();
  }
  for (PeerEntry& peer : superblock_.peers) {
    if ((peer.flags & kPeerFullSync) != 0 && peer.bitmap_index >= 0) {
      full |= SlotMask{1} << peer.bitmap_index;
    }
  }
  if (full != 0) {
    report->full_sync = true;
    report->bits_set += SetEverything(full);
  }

  // M3: bitmap, then ring, then superblock.
  UMBLOCK_CO_TRY(co_await WriteDirtyPages());
  UMBLOCK_CO_TRY(co_await Flush());
  if (!replay || !replay->pristine()) UMBLOCK_CO_TRY(Fail(co_await WriteEmptyRing()));
  if (replay && replay->update_blocks > 0) next_transaction_ = replay->newest_number + 1;
  // The bits of a full synchronisation are stable now.
  for (PeerEntry& peer : superblock_.peers) {
    if (peer.bitmap_index >= 0) peer.flags &= ~kPeerFullSync;
  }
  superblock_.Set(kMdAlClean, false);
  co_return co_await WriteSuperblock();
}

}  // namespace umblock::drbd::meta
