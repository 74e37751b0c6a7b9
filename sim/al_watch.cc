#include "sim/al_watch.h"

#include "engine/base/assert.h"
#include "engine/drbd/meta/al_transaction.h"

namespace umblock::sim {

namespace meta = drbd::meta;

AlWatch::AlWatch(SimDisk& disk, bool external, Coverage& coverage)
    : disk_(disk), external_(external), coverage_(coverage) {
  Follow(disk.options().size);
  disk.SetObserver([this](const SimDiskEvent& event) { OnDisk(event); });
}

void AlWatch::Follow(uint64_t bytes) {
  if (bytes == bytes_) return;
  bytes_ = bytes;
  meta::MetaLayoutOptions layout;
  layout.placement = external_ ? meta::Placement::kFlexExternal : meta::Placement::kInternal;
  auto geometry = meta::ComputeGeometry(layout, bytes);
  UMBLOCK_ASSERT(geometry.has_value(), "the simulated disk has room for metadata");
  geometry_ = *geometry;
}

void AlWatch::OnDisk(const SimDiskEvent& event) {
  using What = SimDiskEvent::What;
  if (event.what == What::kCompleted && event.error != 0) {
    if (event.op == SimDiskOp::kSync) coverage_.Count(Situation::kFlushError);
    if (event.op == SimDiskOp::kRead) coverage_.Count(Situation::kReadError);
    if (event.op == SimDiskOp::kWrite) coverage_.Count(Situation::kWriteError);
    return;
  }
  if (event.op != SimDiskOp::kWrite) return;
  const bool in_log = event.offset >= geometry_.al_offset &&
                      event.offset + event.length <= geometry_.al_offset + geometry_.al_bytes();
  if (!in_log) return;
  if (event.what == What::kTorn) coverage_.Count(Situation::kTornActivityLogWrite);
  if (event.what == What::kStarted && on_write_ != nullptr) on_write_();
  if (event.what == What::kCompleted) OnTransactionWritten(event.offset);
}

void AlWatch::OnTransactionWritten(uint64_t offset) {
  std::array<std::byte, SimDisk::kPage> block;
  disk_.ReadNow(offset, block);
  meta::AlTransaction transaction;
  const meta::AlBlockKind kind = meta::DecodeAlBlock(block, &transaction);
  if (kind == meta::AlBlockKind::kInitialised) slots_.clear();
  if (kind != meta::AlBlockKind::kUpdate) return;
  ++transactions_;
  for (size_t i = 0; i < transaction.update_count; ++i) {
    const meta::AlUpdate& update = transaction.updates[i];
    if (update.slot >= slots_.size()) slots_.resize(update.slot + 1u, meta::kAlNoExtent);
    uint32_t& extent = slots_[update.slot];
    if (extent != meta::kAlNoExtent && extent != update.extent) {
      coverage_.Count(Situation::kActivityLogEviction);
    }
    extent = update.extent;
  }
}

}  // namespace umblock::sim
