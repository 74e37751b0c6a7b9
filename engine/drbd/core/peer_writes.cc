#include "engine/drbd/core/peer_writes.h"

#include <cerrno>

#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {

PeerWrites::PeerWrites(Connection& connection)
    : connection_(connection),
      reactor_(connection.reactor()),
      epochs_(16),
      drained_(reactor_),
      room_(reactor_),
      tasks_(reactor_) {
  epochs_.push_back({});
}

PeerWrites::~PeerWrites() {
  UMBLOCK_ASSERT(records_.empty() && unfinished_ == 0, "received writes are drained first");
}

void PeerWrites::SetDagtag(uint64_t dagtag) {
  last_dagtag_ = dagtag;
  dagtag_known_ = true;
  connection_.resource().OnDagtagAdvanced();
}

PeerWrites::Epoch& PeerWrites::EpochOf(uint64_t serial) { return epochs_[serial - first_serial_]; }

PeerWrites::Epoch& PeerWrites::CurrentEpoch() { return epochs_.back(); }

void PeerWrites::Receive(PeerWrite* write) {
  Epoch& epoch = CurrentEpoch();
  ++epoch.size;
  ++epoch.active;
  ++unfinished_;
  write->owner = this;
  write->epoch = first_serial_ + epochs_.size() - 1;
  write->stage = PeerWrite::Stage::kQueued;
  write->failed = false;
  write->confirmed = false;
  write->extents_held = false;
  write->dagtag = last_dagtag_ + (write->end - write->first);
  records_.push_back(*write);
  ++write->device->unacked;
  if ((write->dp_flags & wire::kDpSendReceiveAck) != 0) {
    connection_.SendBlockAck(wire::PacketType::kRecvAck, *write->device, write->first,
                             write->block_id,
                             static_cast<uint32_t>((write->end - write->first) * 512));
  }
  // The sender has no disk of its own that could take part: its copy lacks this block (O7). Noted
  // now, as its next packet may be the beginning of an attach. What is left to read of a link that
  // has broken may come from such a sender too.
  Volume& volume = write->device->volume();
  const DiskState theirs = write->device->state().disk;
  if (theirs < DiskState::kInconsistent || theirs == DiskState::kUnknown) {
    volume.SetOutOfSync(write->first, write->end, volume.SlotMaskOf(NodeBit(connection_.node())));
  }
  // In the table from now on, so that a resync read that depends on this position waits for it.
  volume.ranges().Insert(write, RangeKind::kPeerWrite, connection_.node(), write->first, write->end,
                         [](IoRange* self) noexcept {
                           auto* granted = static_cast<PeerWrite*>(self);
                           if (granted->stage == PeerWrite::Stage::kRange)
                             granted->owner->Submit(granted);
                         });
  last_dagtag_ = write->dagtag;
  dagtag_known_ = true;
  if (next_to_start_ == nullptr) next_to_start_ = write;
  StartEligible();
  connection_.resource().OnDagtagAdvanced();
}

void PeerWrites::Refuse(PeerDevice& device, const wire::DataHead& head, uint32_t bytes) {
  ++CurrentEpoch().size;
  connection_.SendBlockAck(wire::PacketType::kNegAck, device, head.sector, head.block_id, bytes);
}

void PeerWrites::StartEligible() {
  while (next_to_start_ != nullptr && next_to_start_->epoch == first_serial_ && !extents_blocked_) {
    PeerWrite* write = next_to_start_;
    auto following = std::next(List::s_iterator_to(*write));
    next_to_start_ = following == records_.end() ? nullptr : &*following;
    TakeExtents(write);
  }
}

void PeerWrites::TakeExtents(PeerWrite* write) {
  Volume& volume = write->device->volume();
  write->stage = PeerWrite::Stage::kExtents;
  if (volume.disk() == nullptr) {
    OnExtents(write, false);
    return;
  }
  write->disk_generation = volume.disk_generation();
  write->al_ready = [](AlUser* self, bool granted) noexcept {
    auto* ready = static_cast<PeerWrite*>(self);
    PeerWrites* owner = ready->owner;
    owner->extents_blocked_ = false;
    owner->OnExtents(ready, granted);
    owner->StartEligible();
  };
  // Strictly in order: those behind must not use up what this one waits for, since their extents
  // are free again only when the whole epoch is done.
  extents_blocked_ = true;
  if (volume.disk()->AcquireExtents(write->first, write->end, write)) {
    extents_blocked_ = false;
    OnExtents(write, true);
  }
}

void PeerWrites::OnExtents(PeerWrite* write, bool granted) {
  write->extents_held = granted;
  write->stage = PeerWrite::Stage::kRange;
  if (write->IoRange::granted()) Submit(write);
}

// DP_FLUSH: what was written before is stable before this write is.
Task<void> PeerWrites::FlushThen(Volume* volume, PeerWrite* write) {
  int error = co_await volume->disk()->backing().Flush();
  if (error == 0) {
    volume->disk()->backing().Submit(&write->io);
    co_return;
  }
  volume->CountLower(-1);
  OnDisk(write, error);
}

void PeerWrites::Submit(PeerWrite* write) {
  write->stage = PeerWrite::Stage::kDisk;
  Volume& volume = write->device->volume();
  bool usable = write->extents_held && volume.disk() != nullptr &&
                volume.disk_generation() == write->disk_generation &&
                volume.state().disk >= DiskState::kInconsistent;
  if (!usable) {
    OnFailed(write);
    Acknowledge(write);
    return;
  }
  // Its disk may have failed since.
  if (write->device->state().disk < DiskState::kInconsistent) {
    volume.SetOutOfSync(write->first, write->end, volume.SlotMaskOf(NodeBit(connection_.node())));
  }
  BlockIo& io = write->io;
  io.op = write->op == IoOp::kDiscard ? IoOp::kWriteZeroes : write->op;
  io.may_unmap = (write->dp_flags & wire::kDpDiscard) != 0;
  io.fua = (write->dp_flags & wire::kDpFua) != 0;
  io.offset = write->first * 512;
  io.length = (write->end - write->first) * 512;
  if (write->op == IoOp::kWrite) {
    write->iov = write->buffer.iov(io.length);
    io.iov = {&write->iov, 1};
  } else {
    io.iov = {};
  }
  io.scratch = write;
  io.done = [](BlockIo* self, int error) noexcept {
    auto* done = static_cast<PeerWrite*>(self->scratch);
    done->device->volume().CountLower(-1);
    done->owner->OnDisk(done, error);
  };
  volume.CountLower(1);
  if ((write->dp_flags & wire::kDpFlush) != 0) {
    tasks_.Spawn(FlushThen(&volume, write));
  } else {
    volume.disk()->backing().Submit(&io);
  }
}

void PeerWrites::OnFailed(PeerWrite* write) {
  Volume& volume = write->device->volume();
  write->failed = true;
  // Before the P_NEG_ACK is queued (O6).
  volume.SetOutOfSync(write->first, write->end, volume.SlotMaskOf(NodeBit(connection_.node())));
}

void PeerWrites::OnDisk(PeerWrite* write, int error) {
  Volume& volume = write->device->volume();
  if (error != 0) {
    OnFailed(write);
    // One that has been detached since is no disk any more.
    if (volume.disk() != nullptr && volume.disk_generation() == write->disk_generation) {
      volume.OnLocalError(write->op, error);
    }
  } else {
    volume.NoteBackingIo(0, (write->end - write->first) * 512);
  }
  Acknowledge(write);
}

void PeerWrites::Acknowledge(PeerWrite* write) {
  PeerDevice& device = *write->device;
  Volume& volume = device.volume();
  auto bytes = static_cast<uint32_t>((write->end - write->first) * 512);
  if (write->failed) {
    connection_.SendBlockAck(wire::PacketType::kNegAck, device, write->first, write->block_id,
                             bytes);
  } else if ((write->dp_flags & wire::kDpSendWriteAck) != 0) {
    ReplicationState repl = device.state().repl;
    bool in_sync = (write->dp_flags & wire::kDpMaySetInSync) != 0 &&
                   repl >= ReplicationState::kSyncSource && repl <= ReplicationState::kPausedSyncT;
    if (in_sync) {
      volume.ClearOutOfSync(write->first, write->end,
                            volume.SlotMaskOf(NodeBit(connection_.node())));
    }
    wire::PacketType type = wire::PacketType::kWriteAck;
    if (in_sync) {
      type = connection_.agreed_protocol() >= wire::kProtocolBlockIds
                 ? wire::PacketType::kWriteAckInSync
                 : wire::PacketType::kRsWriteAck;
    }
    connection_.SendBlockAck(type, device, write->first, write->block_id, bytes);
  }
  --device.unacked;
  write->buffer.Release();
  write->stage = PeerWrite::Stage::kAcked;
  // The epoch's counts follow the ack, so that its barrier ack cannot overtake it (INV-14).
  --EpochOf(write->epoch).active;
  --unfinished_;
  volume.ranges().Remove(write);
  if (draining_) RetireFinished();
  FinishEpochs();
  if (confirm_wanted_) OnLogStarving();
  if (unfinished_ == 0) drained_.NotifyAll();
}

// --- epochs
// ----------------------------------------------------------------------------------------

bool PeerWrites::OnBarrier(uint32_t barrier) {
  Epoch& epoch = CurrentEpoch();
  if (epoch.size == 0) return false;
  epoch.barrier = barrier;
  epoch.closed = true;
  if (epochs_.full()) epochs_.set_capacity(epochs_.capacity() * 2);
  epochs_.push_back({});
  FinishEpochs();
  return true;
}

void PeerWrites::FinishEpochs() {
  while (epochs_.front().closed && epochs_.front().active == 0) {
    Epoch& epoch = epochs_.front();
    if (connection_.resource().flush_ordering() && !epoch.flushed) {
      if (!epoch.flushing) {
        epoch.flushing = true;
        tasks_.Spawn(FlushEpoch(first_serial_));
      }
      return;
    }
    if (!unstable_) {
      connection_.SendPacket(wire::SocketKind::kControl, wire::PacketType::kBarrierAck,
                             wire::kNoVolume,
                             wire::BarrierAck{epoch.barrier, epoch.size - epoch.confirmed});
    }
    ++epochs_finished_;
    epochs_.pop_front();
    ++first_serial_;
    StartEligible();
  }
}

Task<void> PeerWrites::FlushEpoch(uint64_t serial) {
  if (!co_await FlushVolumes()) unstable_ = true;
  EpochOf(serial).flushed = true;
  FinishEpochs();
}

// False if received writes may be lost. Then the disk has failed, and the connection ends without
// the barrier ack: the sender marks out of sync what it has not seen acked. A backend that has no
// flush at all is no failure; nothing is promised then (drbd-io-path.md B.5).
Task<bool> PeerWrites::FlushVolumes() {
  bool ok = true;
  auto& volumes = connection_.resource().volumes();
  // By number, as the map may change while a flush is awaited.
  for (auto it = volumes.begin(); it != volumes.end();) {
    int number = it->first;
    Volume* volume = it->second.get();
    it = volumes.upper_bound(number);
    if (volume->disk() == nullptr) continue;
    uint64_t generation = volume->disk_generation();
    volume->CountLower(1);
    int error = co_await volume->disk()->backing().Flush();
    volume->CountLower(-1);
    it = volumes.upper_bound(number);
    if (error == 0) continue;
    if (error == EOPNOTSUPP) {
      connection_.resource().DegradeToDrain("the backend has no flush");
      continue;
    }
    ok = false;
    if (volume->disk() != nullptr && volume->disk_generation() == generation) {
      volume->OnLocalError(IoOp::kFlush, error);
    }
  }
  if (!ok) {
    connection_.Fail(ConnectionState::kBrokenPipe, "received writes could not be made stable");
  }
  co_return ok;
}

// --- activity log pressure (drbd-io-path.md C.3)
// -----------------------------------------------------

void PeerWrites::OnLogStarving() {
  confirm_wanted_ = true;
  if (confirming_ || draining_ || !connection_.up()) return;
  if (connection_.agreed_protocol() < 114) return;
  // All that have started must have ended.
  bool any = false;
  for (const PeerWrite& write : records_) {
    if (write.epoch != first_serial_) continue;
    if (write.stage == PeerWrite::Stage::kDisk || write.stage == PeerWrite::Stage::kRange) return;
    if (write.stage != PeerWrite::Stage::kAcked) break;
    any = any || !write.confirmed;
  }
  confirm_wanted_ = false;
  if (!any) return;  // nothing of this peer is in the way, and a flush would help nobody
  confirming_ = true;
  tasks_.Spawn(ConfirmStable());
}

Task<void> PeerWrites::ConfirmStable() {
  uint64_t serial = first_serial_;
  // What completes while the flush is under way is not covered by it.
  uint64_t covered = 0;
  for (const PeerWrite& write : records_) {
    if (write.epoch == serial && write.stage == PeerWrite::Stage::kAcked) covered = write.dagtag;
  }
  if (connection_.resource().flush_ordering() && !co_await FlushVolumes()) unstable_ = true;
  confirming_ = false;
  if (unstable_) co_return;
  if (serial != first_serial_ || epochs_.front().flushing || draining_) co_return;
  wire::ConfirmStable confirm;
  for (PeerWrite& write : records_) {
    if (write.epoch != serial || write.confirmed) continue;
    if (write.stage != PeerWrite::Stage::kAcked || write.failed) break;
    if (static_cast<int64_t>(write.dagtag - covered) > 0) break;
    if (confirm.set_size == 0) confirm.oldest_block_id = write.block_id;
    confirm.youngest_block_id = write.block_id;
    ++confirm.set_size;
    write.confirmed = true;
  }
  if (confirm.set_size == 0) co_return;
  epochs_.front().confirmed += confirm.set_size;
  connection_.SendPacket(wire::SocketKind::kControl, wire::PacketType::kConfirmStable,
                         wire::kNoVolume, confirm);
}

// --- peer acks
// -------------------------------------------------------------------------------------

void PeerWrites::OnPeerAck(uint64_t mask, uint64_t dagtag) {
  while (!records_.empty()) {
    PeerWrite& write = records_.front();
    if (static_cast<int64_t>(write.dagtag - dagtag) > 0) break;
    if (write.stage != PeerWrite::Stage::kAcked) break;
    Retire(&write, mask, true);
  }
}

void PeerWrites::Retire(PeerWrite* write, uint64_t mask, bool have_mask) {
  Volume& volume = write->device->volume();
  if (volume.disk() != nullptr) {
    meta::SlotMask others = volume.SlotsExcept(connection_.node());
    meta::SlotMask acked = have_mask && !write->failed ? volume.SlotMaskOf(mask) & others : 0;
    volume.ClearOutOfSync(write->first, write->end, acked);
    volume.SetOutOfSync(write->first, write->end, others & ~acked);
    if (write->extents_held && write->disk_generation == volume.disk_generation()) {
      volume.disk()->ReleaseExtents(write->first, write->end);
    }
  }
  write->extents_held = false;
  records_.erase(List::s_iterator_to(*write));
  writes_.Give(write);
  if (!room_.empty()) room_.NotifyAll();
}

void PeerWrites::RetireFinished() {
  while (!records_.empty() && records_.front().stage == PeerWrite::Stage::kAcked) {
    Retire(&records_.front(), 0, false);
  }
}

// --- the end of a connection
// -----------------------------------------------------------------------

Task<void> PeerWrites::WaitForRoom(CancelToken cancel) {
  while (full() && !cancel.requested()) {
    OnLogStarving();  // the peer acks at once what is confirmed
    co_await room_.Wait(cancel);
  }
}

Task<void> PeerWrites::WaitIdle(CancelToken cancel) {
  while (unfinished_ != 0 && !cancel.requested()) co_await drained_.Wait(cancel);
}

Task<void> PeerWrites::Drain() {
  draining_ = true;
  confirm_wanted_ = false;
  RetireFinished();
  while (unfinished_ != 0) co_await drained_.Wait();
  co_await tasks_.Join();
  RetireFinished();
  Reset();
}

void PeerWrites::Reset() {
  UMBLOCK_ASSERT(records_.empty() && unfinished_ == 0, "a new connect begins without old writes");
  epochs_.clear();
  epochs_.push_back({});
  first_serial_ = 0;
  next_to_start_ = nullptr;
  extents_blocked_ = false;
  draining_ = false;
  confirming_ = false;
  unstable_ = false;
  // The position survives (reconciliation), but nothing may depend on it until it is heard again.
  dagtag_known_ = false;
}

}  // namespace umblock::drbd
