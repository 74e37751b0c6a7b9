#include "engine/drbd/core/resync_target.h"

#include <algorithm>
#include <bit>
#include <cerrno>

#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {
namespace {

constexpr uint64_t kSectorsPerBit = 8;
constexpr uint64_t kFirstRequestSectors = 64;      // 32 KiB
constexpr uint64_t kLargestRequestSectors = 2048;  // 1 MiB
// By digest: what is hashed in one turn, also of a slow algorithm. One changed sector costs as
// much.
constexpr uint64_t kLargestDigestSectors = 256;
constexpr Duration kTick = 100ms;
constexpr Duration kMarkEvery = 3s;
constexpr size_t kMarks = 8;
// Our block ids of requests, told apart from those of writes: both sides' ids meet in one ack
// packet, P_RS_WRITE_ACK, below protocol 122, and in the eyes of whoever watches.
constexpr uint64_t kResyncIds = uint64_t{1} << 63;

}  // namespace

ResyncTarget::ResyncTarget(PeerDevice& device)
    : device_(device),
      reactor_(device.volume().reactor()),
      controller_(ResyncOptions{}),
      tasks_(reactor_),
      changed_(reactor_) {}

ResyncTarget::~ResyncTarget() {
  UMBLOCK_ASSERT(active_.empty(), "a resync is stopped before its device goes");
}

void ResyncTarget::Start() {
  if (running_ && stopping_) {
    start_again_ = true;
    return;
  }
  UMBLOCK_ASSERT(!running_, "a resync runs once at a time");
  running_ = true;
  stopping_ = false;
  paused_ = false;
  position_ = 0;
  arrived_ = 0;
  failed_blocks_ = 0;
  equal_bytes_ = 0;
  deallocated_bytes_ = 0;
  by_digest_ = UsesDigests();
  thin_bits_ = by_digest_ ? 0 : ThinBits();
  request_sectors_ = kFirstRequestSectors;
  total_bits_ = device_.out_of_sync_bits();
  started_ = reactor_.Now();
  marks_.assign(1, {started_, total_bits_});
  controller_.Reset();
  tasks_.Spawn(Loop());
}

// csums-after-crash-only: only if this node itself has crashed as a Primary (6.9).
bool ResyncTarget::UsesDigests() const {
  Connection& link = device_.connection();
  if (link.csums_digest() == nullptr) return false;
  return !link.config().net.csums_after_crash_only || device_.volume().crashed_primary;
}

uint64_t ResyncTarget::ThinBits() const {
  if ((device_.connection().agreed_features() & wire::kFeatureThinResync) == 0) return 0;
  return device_.volume().thin_granularity() / (kSectorsPerBit * 512);
}

// c-min-rate: somebody else has the disk, and the resync is faster than that (6.5).
bool ResyncTarget::Yields() {
  constexpr uint64_t kNoticedBytes = 64 * 512;
  const Volume& volume = device_.volume();
  const uint64_t least = uint64_t{device_.connection().config().resync.c_min_rate} * 1024;
  if (least == 0 || volume.disk() == nullptr) return false;
  const uint64_t other = volume.application_bytes();
  if (volume.disk()->al_in_use() == 0 && other - seen_other_bytes_ <= kNoticedBytes) return false;
  seen_other_bytes_ = other;
  return progress().rate_bytes_per_second > least;
}

uint64_t ResyncTarget::LargestRequest() const {
  return by_digest_ ? kLargestDigestSectors : kLargestRequestSectors;
}

void ResyncTarget::Pause(bool paused) {
  if (paused_ == paused) return;
  paused_ = paused;
  changed_.NotifyAll();
}

Task<void> ResyncTarget::Stop() {
  stopping_ = true;
  start_again_ = false;
  // The source has stopped listening: it would keep a bit that is cleared here from now on, even
  // beyond an exchange of bitmaps that comes before the block is written.
  for (ResyncBlock& block : active_) block.stale = true;
  changed_.NotifyAll();
  co_await tasks_.Join();
  // To release one may grant another its range, and end that one too.
  while (true) {
    auto idle = std::find_if(active_.begin(), active_.end(), [](const ResyncBlock& block) {
      return !block.writing && !block.reading;
    });
    if (idle == active_.end()) break;
    Release(&*idle);
  }
  while (!active_.empty()) co_await changed_.Wait();
  running_ = false;
  stopping_ = false;
  if (std::exchange(start_again_, false) && device_.connection().up()) Start();
}

Task<void> ResyncTarget::Loop() {
  Time last = reactor_.Now();
  while (!stopping_) {
    if (paused_) {
      co_await changed_.Wait();
      last = reactor_.Now();
      continue;
    }
    Time now = reactor_.Now();
    bool whole_tick = now - last >= kTick;
    uint64_t budget = controller_.Tick(std::exchange(arrived_, 0), now - last);
    last = now;
    uint64_t limit = uint64_t{device_.connection().config().net.max_buffers} * kSectorsPerBit;
    auto in_flight = static_cast<uint64_t>(controller_.in_flight());
    budget = in_flight >= limit ? 0 : std::min(budget, limit - in_flight);
    // Less than a block would never come to anything.
    if (in_flight == 0 && whole_tick && !(thin_bits_ != 0 && controller_.overdrawn())) {
      budget = std::max(budget, kSectorsPerBit);
    }
    if (Yields()) budget = 0;
    uint64_t requested = RequestSome(budget);
    Sample();
    if (active_.empty() && requested == 0) {
      std::optional<uint32_t> slot = device_.slot();
      if (!slot) break;
      bool at_end = position_ >= device_.volume().disk()->bitmap().bits();
      if (at_end && conflicts_ == 0) {
        if (device_.out_of_sync_bits() == 0 || failed_blocks_ > 0) {
          finishing_ = true;
          bool over = co_await Finish();
          finishing_ = false;
          if (over) break;
          last = reactor_.Now();
          continue;
        }
        position_ = 0;
        continue;
      }
      if (at_end) {
        // Blocks that writes were in the way of, or that the source put off: another pass, a little
        // later.
        conflicts_ = 0;
        position_ = 0;
        co_await changed_.WaitFor(10ms);
        continue;
      }
    }
    co_await changed_.WaitFor(kTick);
  }
  if (!stopping_) running_ = false;
}

uint64_t ResyncTarget::RequestSome(uint64_t budget) {
  std::optional<uint32_t> slot = device_.slot();
  if (!slot) return 0;
  meta::Bitmap& bitmap = device_.volume().disk()->bitmap();
  uint64_t requested = 0;
  while (budget >= kSectorsPerBit || (budget > 0 && requested == 0)) {
    uint64_t bit = bitmap.FindNextSet(*slot, position_);
    position_ = bit;
    if (bit >= bitmap.bits()) break;
    Extent extent = ExtentAt(bit, std::min(request_sectors_, budget));
    uint64_t first_sector = bit * kSectorsPerBit;
    uint64_t end_sector =
        std::min(extent.end_bit * kSectorsPerBit, device_.volume().size_sectors());
    Asked asked = RequestRange(first_sector, end_sector, extent.thin);
    if (asked == Asked::kNoMemory) break;
    position_ = extent.end_bit;
    if (asked == Asked::kConflict) {
      ++conflicts_;
      continue;
    }
    uint64_t sectors = end_sector - first_sector;
    requested += sectors;
    budget -= std::min(budget, sectors);
    request_sectors_ = std::min(request_sectors_ * 2, LargestRequest());
  }
  return requested;
}

ResyncTarget::Extent ResyncTarget::ExtentAt(uint64_t bit, uint64_t most_sectors) const {
  const meta::Bitmap& bitmap = device_.volume().disk()->bitmap();
  uint32_t slot = *device_.slot();
  // As much as is set, as the budget allows, and as the alignment of the start does: the start is
  // a multiple of the smallest power of two that is not below the size (drbd-wire.md 5.12.1).
  uint64_t most = std::max<uint64_t>(most_sectors / kSectorsPerBit, 1);
  if (bit != 0) most = std::min(most, uint64_t{1} << std::countr_zero(bit));
  if (thin_bits_ != 0) {
    uint64_t into_unit = bit % thin_bits_;
    uint64_t unit_end = bit - into_unit + thin_bits_;
    // A unit that is out of sync as a whole is asked for as a whole, beyond the budget too. The
    // last one of a device may be shorter, and is no unit.
    if (into_unit == 0 && unit_end * kSectorsPerBit <= device_.volume().size_sectors() &&
        bitmap.FindNextClear(slot, bit, unit_end) >= unit_end) {
      return {unit_end, true};
    }
    most = std::min(most, unit_end - bit);
  }
  return {std::min(bitmap.FindNextClear(slot, bit, bit + most), bit + most), false};
}

ResyncTarget::Asked ResyncTarget::RequestRange(uint64_t first, uint64_t end, bool thin) {
  Volume& volume = device_.volume();
  if (volume.ranges().WouldWait(RangeKind::kResyncWrite, device_.node(), first, end)) {
    return Asked::kConflict;
  }
  Buffer buffer;
  if (by_digest_) {
    buffer = device_.connection().buffers().TryAllocate((end - first) * 512);
    if (!buffer) return Asked::kNoMemory;
  }
  ResyncBlock* block = blocks_.Take();
  block->target = this;
  block->first = first;
  block->end = end;
  block->replied = false;
  block->thin = thin;
  block->deallocated = false;
  block->writing = false;
  block->stale = false;
  block->reading = false;
  block->by_digest = by_digest_;
  block->buffer = std::move(buffer);
  bool granted = volume.ranges().Insert(block, RangeKind::kResyncWrite, device_.node(), first, end,
                                        [](IoRange*) noexcept {});
  UMBLOCK_ASSERT(granted, "a range that would not wait is granted");
  active_.push_back(*block);
  controller_.OnRequested(end - first);
  ++device_.pending;
  if (by_digest_) {
    ReadOwn(block);
  } else {
    device_.connection().SendResyncRequest(device_, first, end, block->handle() ^ kResyncIds, {},
                                           thin);
  }
  return Asked::kYes;
}

void ResyncTarget::ReadOwn(ResyncBlock* block) {
  Volume& volume = device_.volume();
  BlockIo& io = block->io;
  io.op = IoOp::kRead;
  io.offset = block->first * 512;
  io.length = (block->end - block->first) * 512;
  block->iov = block->buffer.iov(io.length);
  io.iov = {&block->iov, 1};
  io.scratch = block;
  io.done = [](BlockIo* self, int error) noexcept {
    auto* done = static_cast<ResyncBlock*>(self->scratch);
    done->target->OnOwnRead(done, error);
  };
  block->reading = true;
  volume.CountLower(1);
  volume.disk()->backing().Submit(&io);
}

void ResyncTarget::OnOwnRead(ResyncBlock* block, int error) {
  Volume& volume = device_.volume();
  volume.CountLower(-1);
  if (error == 0) {
    volume.NoteResyncIo(block->io.length, 0);
  } else {
    volume.OnLocalError(IoOp::kRead, error);  // may stop this resync, but not this block
  }
  block->reading = false;
  wire::Digest* digest = device_.connection().csums_digest();
  if (stopping_ || volume.disk() == nullptr) {
    Release(block);
    return;
  }
  // What cannot be read is fetched: writing it may mend it.
  if (error != 0 || digest == nullptr) block->by_digest = false;
  std::array<std::byte, wire::kMaxDigestBytes> value;
  if (block->by_digest) {
    digest->Update(std::span<const iovec>(&block->iov, 1));
    digest->Finish(value);
  }
  block->buffer.Release();
  device_.connection().SendResyncRequest(
      device_, block->first, block->end, block->handle() ^ kResyncIds,
      block->by_digest ? Bytes(value).first(digest->size()) : Bytes(), false);
}

ResyncBlock* ResyncTarget::FindRequest(uint64_t block_id, uint64_t sector, uint32_t bytes) {
  ResyncBlock* block = blocks_.Find(block_id ^ kResyncIds);
  if (device_.connection().agreed_protocol() < wire::kProtocolBlockIds) {
    // Not every answer names the request (drbd-wire.md 5.12.3, 5.12.4).
    auto same = std::find_if(active_.begin(), active_.end(), [&](const ResyncBlock& each) {
      return each.first == sector && !each.replied;
    });
    block = same == active_.end() ? nullptr : &*same;
  }
  if (block == nullptr || block->replied || block->reading || block->first != sector ||
      (block->end - block->first) * 512 != bytes) {
    return nullptr;
  }
  return block;
}

void ResyncTarget::OnReply(ResyncBlock* block) {
  block->replied = true;
  --device_.pending;
  Volume& volume = device_.volume();
  if (stopping_) {
    Release(block);
    return;
  }
  // Whatever the other nodes have, it is not this (O9).
  volume.SetOutOfSync(block->first, block->end, volume.SlotsExcept(device_.node()));
  if (volume.ranges().Restage(block, [](IoRange* self) noexcept {
        auto* granted = static_cast<ResyncBlock*>(self);
        granted->target->WriteBlock(granted);
      })) {
    WriteBlock(block);
  }
}

void ResyncTarget::WriteBlock(ResyncBlock* block) {
  Volume& volume = device_.volume();
  if (volume.disk() == nullptr || volume.state().disk < DiskState::kInconsistent) {
    Release(block);
    return;
  }
  BlockIo& io = block->io;
  io.op = block->deallocated ? IoOp::kWriteZeroes : IoOp::kWrite;
  io.may_unmap = true;
  io.fua = false;
  io.offset = block->first * 512;
  io.length = (block->end - block->first) * 512;
  if (!block->deallocated) block->iov = block->buffer.iov(io.length);
  io.iov = block->deallocated ? std::span<const iovec>{} : std::span<const iovec>{&block->iov, 1};
  io.scratch = block;
  io.done = [](BlockIo* self, int error) noexcept {
    auto* done = static_cast<ResyncBlock*>(self->scratch);
    done->target->device_.volume().CountLower(-1);
    done->target->OnWritten(done, error);
  };
  block->writing = true;
  volume.CountLower(1);
  volume.disk()->backing().Submit(&io);
}

void ResyncTarget::OnWritten(ResyncBlock* block, int error) {
  Volume& volume = device_.volume();
  auto bytes = static_cast<uint32_t>((block->end - block->first) * 512);
  bool block_ids = device_.connection().agreed_protocol() >= wire::kProtocolBlockIds;
  uint64_t id = block_ids ? block->handle() ^ kResyncIds : wire::kIdSyncer;
  if (error == 0) {
    volume.NoteResyncIo(0, bytes);
    if (block->deallocated) {
      deallocated_bytes_ += bytes;
      device_.deallocated_bytes += bytes;
    }
    if (!block->stale) {
      volume.ClearOutOfSync(block->first, block->end, volume.SlotMaskOf(NodeBit(device_.node())));
    }
    device_.connection().SendBlockAck(wire::PacketType::kRsWriteAck, device_, block->first, id,
                                      bytes);
  } else {
    ++failed_blocks_;
    device_.connection().SendBlockAck(
        block_ids ? wire::PacketType::kRsNegAck : wire::PacketType::kNegAck, device_, block->first,
        id, bytes);
    volume.OnLocalError(IoOp::kWrite, error);
  }
  block->writing = false;
  Release(block);
}

void ResyncTarget::OnOutOfSync(uint64_t first, uint64_t end) {
  for (ResyncBlock& block : active_) {
    // What is said of a digest comes on the other socket and may be older than this.
    if (!block.replied && !block.by_digest) continue;
    if (block.first < end && first < block.end) block.stale = true;
  }
}

void ResyncTarget::OnFailed(ResyncBlock* block) {
  ++failed_blocks_;
  OnAnswered(block);
}

bool ResyncTarget::OnInSync(ResyncBlock* block) {
  if (!block->by_digest) return false;
  Volume& volume = device_.volume();
  uint64_t bytes = (block->end - block->first) * 512;
  equal_bytes_ += bytes;
  device_.equal_bytes += bytes;
  if (!block->stale) {
    volume.ClearOutOfSync(block->first, block->end, volume.SlotMaskOf(NodeBit(device_.node())));
  }
  OnAnswered(block);
  return true;
}

bool ResyncTarget::OnDeallocated(ResyncBlock* block) {
  if (!block->thin) return false;
  block->deallocated = true;
  OnReply(block);
  return true;
}

// At once it would say the same again, and again.
void ResyncTarget::OnCancelled(ResyncBlock* block) {
  ++conflicts_;
  OnAnswered(block);
}

void ResyncTarget::OnAnswered(ResyncBlock* block) {
  block->replied = true;
  --device_.pending;
  Release(block);
}

void ResyncTarget::Release(ResyncBlock* block) {
  if (!block->replied) --device_.pending;
  arrived_ += block->end - block->first;
  block->buffer.Release();
  device_.volume().ranges().Remove(block);
  active_.erase(List::s_iterator_to(*block));
  blocks_.Give(block);
  if (active_.empty()) changed_.NotifyAll();
}

// True if the resync is over. The order is that of drbd-metadata-resync.md 3.7: data, bitmap,
// UUIDs, and only then the state that says so.
Task<bool> ResyncTarget::Finish() {
  Volume& volume = device_.volume();
  ResourceImpl& resource = volume.resource();
  int node = device_.node();
  int number = volume.number();
  if (failed_blocks_ > 0) {
    resource.logger().Warn("{}: resync ended with {} failed blocks, {} bits left", device_.name(),
                           failed_blocks_, device_.out_of_sync_bits());
    (void)resource.Change("resync ended with failed blocks", {.hard = true},
                          [=](ResourceState& next) {
                            PeerDeviceState& peer = next.Volume(number)->peer(node);
                            peer.repl = ReplicationState::kEstablished;
                            peer.resync_active = false;
                          });
    co_return true;
  }
  Status written = co_await volume.disk()->WriteBitmap();
  // A disk that fails now is taken down by its owner, and this resync with it.
  if (!written || stopping_) co_return true;
  // The peer must be there still, and must have heard everything (6.8).
  if (!co_await device_.connection().PingRoundTrip()) co_return true;
  if (stopping_) co_return true;
  if (device_.out_of_sync_bits() == 0 && co_await resource.FinishResyncAsTarget(device_)) {
    co_return true;
  }
  position_ = 0;
  co_return stopping_;
}

void ResyncTarget::Sample() {
  Time now = reactor_.Now();
  if (now - marks_.back().at < kMarkEvery) return;
  if (marks_.size() == kMarks) marks_.erase(marks_.begin());
  marks_.push_back({now, device_.out_of_sync_bits()});
}

SyncProgress ResyncTarget::progress() const {
  SyncProgress result;
  uint64_t left = device_.out_of_sync_bits();
  result.total_bytes = total_bits_ * 4096;
  result.left_bytes = left * 4096;
  result.equal_bytes = equal_bytes_;
  result.deallocated_bytes = deallocated_bytes_;
  result.paused = paused_;
  if (marks_.empty()) return result;
  const Mark& mark = marks_.size() > 1 ? marks_[marks_.size() - 2] : marks_.front();
  auto elapsed_ms = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(reactor_.Now() - mark.at).count());
  if (elapsed_ms > 0 && mark.left_bits > left) {
    result.rate_bytes_per_second = (mark.left_bits - left) * 4096 * 1000 / elapsed_ms;
  }
  if (result.rate_bytes_per_second > 0) {
    result.eta = Duration(std::chrono::seconds(
        static_cast<int64_t>(result.left_bytes / result.rate_bytes_per_second)));
  }
  return result;
}

}  // namespace umblock::drbd
