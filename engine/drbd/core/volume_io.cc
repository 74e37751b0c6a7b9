// The front's requests: admission, reads, flushes, completion. Writes: volume_write.cc.
#include <algorithm>
#include <cerrno>

#include "engine/drbd/core/resource_impl.h"
#include "engine/drbd/core/volume.h"

namespace umblock::drbd {

Volume::DeliverHook::DeliverHook(Volume* v)
    : umblock::Completion([](umblock::Completion* self, int32_t) noexcept {
        static_cast<DeliverHook*>(self)->volume->DeliverCompleted();
      }),
      volume(v) {}

// 0, or why this request can never work.
int Volume::Check(const BlockIo& io) const {
  if (io.op == IoOp::kFlush) return 0;
  bool range_op = io.op == IoOp::kDiscard || io.op == IoOp::kWriteZeroes;
  uint64_t limit = range_op ? kMaxRangeBytes : kMaxTransferBytes;
  if (io.length == 0 || io.length > limit) return EINVAL;
  if (io.offset % 512 != 0 || io.length % 512 != 0) return EINVAL;
  if (io.offset > geometry_.size || io.length > geometry_.size - io.offset) return EINVAL;
  if (io.op == IoOp::kDiscard && !geometry_.can_discard) return EOPNOTSUPP;
  if (io.op == IoOp::kWriteZeroes && !geometry_.can_write_zeroes) return EOPNOTSUPP;
  if (!range_op && IovLength(io.iov) != io.length) return EINVAL;
  return 0;
}

void Volume::Submit(BlockIo* io) noexcept {
  io->next = nullptr;
  io->scratch = reinterpret_cast<void*>(++submissions_);
  ++upper_pending_;
  if (int error = shut_ ? ENODEV : Check(*io); error != 0) {
    Complete(io, error);
    return;
  }
  if (waiting_head_ != nullptr || !MayAdmit()) {
    QueueForAdmission(io);
    return;
  }
  Start(io);
}

void Volume::QueueForAdmission(BlockIo* io) {
  io->next = nullptr;
  (waiting_tail_ != nullptr ? waiting_tail_->next : waiting_head_) = io;
  waiting_tail_ = io;
}

// Where a request would go is being settled with a peer: its connection fails, or bitmaps are being
// exchanged. A write in between would be in neither bitmap nor stream, and a short resync could end
// without it. A peer that does not get further is given up (Connection::AwaitBitmap).
bool Volume::AwaitsPeers() const {
  const VolumeState& now = state();
  return std::any_of(peers_.begin(), peers_.end(), [&now](const auto& entry) {
    if (entry.second->connection().failing()) return true;
    ReplicationState repl = now.peer(entry.first).repl;
    return repl == ReplicationState::kWFBitMapS || repl == ReplicationState::kWFBitMapT ||
           repl == ReplicationState::kWFSyncUUID || repl == ReplicationState::kStartingSyncS ||
           repl == ReplicationState::kStartingSyncT;
  });
}

bool Volume::MayAdmit() {
  if (quiesced_ > 0 || resource_.suspended()) return false;
  if (in_work_ >= resource_.config().options.max_io_depth) return false;
  const VolumeState& now = state();
  if (now.disk == DiskState::kAttaching || now.disk == DiskState::kNegotiating) return false;
  if (AwaitsPeers()) return false;
  if (!now.owes_new_uuid || resource_.state().role != Role::kPrimary) return true;
  // Without good data there is nothing to begin a generation of, and all I/O fails.
  if (!DataAccessible(resource_.state(), now)) return true;
  if (resource_.HasGoodData(*this)) resource_.StartOwedUuid(*this);
  return false;
}

void Volume::Readmit() {
  if (admitting_) return;
  admitting_ = true;
  while (waiting_head_ != nullptr && MayAdmit()) {
    BlockIo* io = waiting_head_;
    waiting_head_ = io->next;
    if (waiting_head_ == nullptr) waiting_tail_ = nullptr;
    io->next = nullptr;
    Start(io);
  }
  admitting_ = false;
}

void Volume::Start(BlockIo* io) {
  const ResourceState& resource = resource_.state();
  if (resource.role != Role::kPrimary || resource.fail_io) {
    Complete(io, resource.fail_io ? EIO : EROFS);
    return;
  }
  if (!DataAccessible(resource, state())) {
    Complete(io, EIO);
    return;
  }
  ++in_work_;
  switch (io->op) {
    case IoOp::kRead:
      StartRead(io);
      break;
    case IoOp::kFlush:
      StartFlush(io);
      break;
    case IoOp::kWrite:
    case IoOp::kDiscard:
    case IoOp::kWriteZeroes:
      StartWrite(io);
      break;
  }
}

// --- completion
// ------------------------------------------------------------------------------------

void Volume::Complete(BlockIo* io, int error) {
  io->next = nullptr;
  io->scratch = reinterpret_cast<void*>(static_cast<intptr_t>(error));
  if (error != 0) ++counters_.errors;
  (completed_tail_ != nullptr ? completed_tail_->next : completed_head_) = io;
  completed_tail_ = io;
  if (delivery_scheduled_) return;
  delivery_scheduled_ = true;
  reactor().Post(&deliver_hook_);
}

void Volume::DeliverCompleted() {
  delivery_scheduled_ = false;
  BlockIo* io = completed_head_;
  completed_head_ = completed_tail_ = nullptr;
  while (io != nullptr) {
    BlockIo* next = io->next;
    --upper_pending_;
    io->done(io, static_cast<int>(reinterpret_cast<intptr_t>(io->scratch)));
    io = next;
  }
  Readmit();
  if (upper_pending_ == 0) idle_.NotifyAll();
}

void Volume::FailWaiting() {
  while (waiting_head_ != nullptr) {
    BlockIo* io = waiting_head_;
    waiting_head_ = io->next;
    Complete(io, ENODEV);
  }
  waiting_tail_ = nullptr;
}

void Volume::FailHeldIo() {
  shut_ = true;
  FailWaiting();
  CheckFlushes();
}

Task<void> Volume::Shut() {
  FailHeldIo();
  while (upper_pending_ != 0) co_await idle_.Wait();
}

Task<void> Volume::WaitIdle() {
  while (in_work_ != 0) co_await idle_.Wait();
}

// --- reads
// -----------------------------------------------------------------------------------------

void Volume::StartRead(BlockIo* io) {
  ++counters_.read_requests;
  counters_.read_bytes += io->length;
  ReadRequest* read = reads_.Take();
  read->volume = this;
  read->upper = io;
  read->node = -1;
  read->done = false;
  read->tried_local = false;
  read->receiving = false;
  read->tried = 0;
  read->submitted_at = reactor().Now();
  TryRead(read);
}

bool Volume::MayReadLocally(uint64_t offset, uint64_t length) const {
  if (disk_ == nullptr) return false;
  switch (state().disk) {
    case DiskState::kUpToDate:
      return true;
    case DiskState::kInconsistent:
      for (uint32_t slot = 0; slot < disk_->bitmap().max_peers(); ++slot) {
        if (disk_->bitmap().CountRange(slot, offset, length) != 0) return false;
      }
      return true;
    default:
      return false;
  }
}

void Volume::TryRead(ReadRequest* read) {
  if (!read->tried_local && MayReadLocally(read->upper->offset, read->upper->length)) {
    read->tried_local = true;
    read->node = -1;
    read->local.op = IoOp::kRead;
    read->local.offset = read->upper->offset;
    read->local.length = read->upper->length;
    read->local.iov = read->upper->iov;
    read->local.scratch = read;
    read->local.done = [](BlockIo* self, int error) noexcept {
      auto* request = static_cast<ReadRequest*>(self->scratch);
      request->volume->OnLocalRead(request, error);
    };
    CountLower(1);
    disk_->backing().Submit(&read->local);
    return;
  }
  for (auto& [node, device] : peers_) {
    const PeerDeviceState& peer = state().peer(node);
    if (Contains(read->tried, node) || !device->connection().up()) continue;
    if (peer.repl < ReplicationState::kEstablished || peer.disk != DiskState::kUpToDate) continue;
    read->tried |= NodeBit(node);
    read->node = node;
    read->receiving = false;
    remote_reads_.push_back(read);
    ++device->pending;
    device->connection().SendReadRequest(*device, read->upper->offset / 512,
                                         static_cast<uint32_t>(read->upper->length),
                                         read->handle());
    return;
  }
  FinishRead(read, EIO);
}

void Volume::OnLocalRead(ReadRequest* read, int error) {
  CountLower(-1);
  if (error == 0) {
    NoteBackingIo(read->upper->length, 0);
    FinishRead(read, 0);
    return;
  }
  // The block is fetched again from a peer: out of sync towards everybody (drbd-io-path.md O5).
  uint64_t first = read->upper->offset / 512;
  uint64_t end = first + read->upper->length / 512;
  if (disk_ != nullptr) SetOutOfSync(first, end, disk_->bitmap().all_slots());
  OnLocalError(IoOp::kRead, error);
  TryRead(read);
}

void Volume::FinishRead(ReadRequest* read, int error) {
  counters_.read_latency.Add(reactor().Now() - read->submitted_at);
  BlockIo* upper = read->upper;
  reads_.Give(read);
  --in_work_;
  if (in_work_ == 0) idle_.NotifyAll();
  Complete(upper, error);
}

const BlockIo* Volume::FindRemoteRead(uint64_t block_id, int node, uint64_t sector) {
  ReadRequest* read = reads_.Find(block_id);
  if (read == nullptr || read->node != node || read->receiving ||
      read->upper->offset / 512 != sector)
    return nullptr;
  return read->upper;
}

void Volume::FinishRemoteRead(uint64_t block_id, bool ok) {
  ReadRequest* read = reads_.Find(block_id);
  UMBLOCK_ASSERT(read != nullptr && read->node >= 0, "a remote read is answered once");
  std::erase(remote_reads_, read);
  if (PeerDevice* device = peer(read->node); device != nullptr) --device->pending;
  read->node = -1;
  read->receiving = false;
  if (ok) {
    FinishRead(read, 0);
  } else {
    TryRead(read);
  }
}

void Volume::FailReadsOf(int node) {
  std::vector<uint64_t> lost;
  for (ReadRequest* read : remote_reads_) {
    if (read->node == node) lost.push_back(read->handle());
  }
  for (uint64_t handle : lost) FinishRemoteRead(handle, false);
}

// --- flushes
// ---------------------------------------------------------------------------------------

bool Volume::ReplicatesWithC() const {
  for (const auto& [node, device] : peers_) {
    const PeerDeviceState& peer_state = state().peer(node);
    if (peer_state.repl >= ReplicationState::kEstablished &&
        peer_state.disk == DiskState::kUpToDate &&
        device->connection().config().net.protocol == Protocol::kC) {
      return true;
    }
  }
  return false;
}

void Volume::StartFlush(BlockIo* io) {
  ++counters_.flush_requests;
  FlushRequest* flush = flushes_.Take();
  flush->volume = this;
  flush->upper = io;
  flush->local_done = false;
  flush->local_ok = false;
  flush->lost_some = std::exchange(lost_some_, false);
  flush->submitted_at = reactor().Now();
  // Every write that was acknowledged closed its epoch: what this flush covers is in epochs before
  // the present one.
  flush->epoch = resource_.log().epoch();
  // Without a disk of its own that has it, the peers' are all there is, under every protocol.
  const bool local = disk_ != nullptr && state().disk == DiskState::kUpToDate;
  flush->peers_done = !resource_.config().options.strict_flush || (local && !ReplicatesWithC());
  flush_list_.push_back(flush);
  if (disk_ == nullptr || state().disk < DiskState::kInconsistent) {
    flush->local_done = true;
    CheckFlush(flush);
    return;
  }
  flush->local.op = IoOp::kFlush;
  flush->local.offset = 0;
  flush->local.length = 0;
  flush->local.iov = {};
  flush->local.scratch = flush;
  flush->local.done = [](BlockIo* self, int error) noexcept {
    auto* request = static_cast<FlushRequest*>(self->scratch);
    Volume* volume = request->volume;
    volume->CountLower(-1);
    request->local_done = true;
    request->local_ok = error == 0;
    if (error != 0) {
      // Then only what is stable at the peers is.
      request->peers_done = !volume->resource_.config().options.strict_flush;
      volume->OnLocalError(IoOp::kFlush, error);
    }
    volume->CheckFlush(request);
  };
  CountLower(1);
  disk_->backing().Submit(&flush->local);
}

// A peer that was lost may have forgotten what it had not made stable (INV-10). Where no other copy
// has it, a flush must say so: those that are under way, and the next one.
void Volume::NoteLostCopy(const Request& request) {
  const bool here = disk_ != nullptr && request.local_leg == LocalLeg::kOk &&
                    request.disk_generation == disk_generation_ &&
                    state().disk == DiskState::kUpToDate;
  if (here) return;
  for (int i = 0; i < request.leg_count; ++i) {
    const DiskState theirs = state().peer(request.legs[static_cast<size_t>(i)].node).disk;
    if (request.leg_states[static_cast<size_t>(i)].ok() && theirs == DiskState::kUpToDate) return;
  }
  if (!lost_some_) {
    resource_.logger().Warn(
        "{}: the only copy of acknowledged writes is at a peer that was lost before it made them "
        "stable; the next flush fails",
        name());
  }
  lost_some_ = true;
  for (FlushRequest* flush : flush_list_) flush->lost_some = true;
}

void Volume::CheckFlush(FlushRequest* flush) {
  if (!flush->peers_done && resource_.log().StableBefore(flush->epoch)) flush->peers_done = true;
  if (!flush->local_done || !flush->peers_done) return;
  if (resource_.suspended() && !shut_) return;
  // A disk that is not UpToDate may be overwritten from a peer that has lost what it had.
  bool ok = flush->local_ok && state().disk == DiskState::kUpToDate;
  for (const auto& [node, device] : peers_) {
    if (state().peer(node).repl >= ReplicationState::kEstablished &&
        state().peer(node).disk == DiskState::kUpToDate) {
      ok = true;
    }
  }
  ok = ok && !flush->lost_some;
  counters_.flush_latency.Add(reactor().Now() - flush->submitted_at);
  BlockIo* upper = flush->upper;
  std::erase(flush_list_, flush);
  flushes_.Give(flush);
  --in_work_;
  if (in_work_ == 0) idle_.NotifyAll();
  Complete(upper, ok ? 0 : EIO);
}

void Volume::CheckFlushes() {
  std::vector<FlushRequest*> waiting = flush_list_;
  for (FlushRequest* flush : waiting) CheckFlush(flush);
}

}  // namespace umblock::drbd
