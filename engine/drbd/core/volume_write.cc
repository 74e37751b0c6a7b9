// Writes of the front: range, extents, registration, legs, bits (drbd-io-path.md A).
#include <algorithm>
#include <cerrno>

#include "engine/drbd/core/resource_impl.h"
#include "engine/drbd/core/volume.h"
#include "engine/drbd/state/write_routing.h"

namespace umblock::drbd {

void Volume::StartWrite(BlockIo* io) {
  ++counters_.write_requests;
  counters_.write_bytes += io->length;
  Request* request = requests_.Take();
  request->volume = this;
  request->upper = io;
  request->op = io->op;
  request->submission = reinterpret_cast<uint64_t>(io->scratch);
  request->fua = io->fua;
  request->may_unmap = io->may_unmap;
  request->first = io->offset / 512;
  request->end = request->first + io->length / 512;
  request->submitted_at = reactor().Now();
  request->registered = false;
  request->extents_held = false;
  request->completed = false;
  request->error = 0;
  request->local_leg = LocalLeg::kNone;
  request->leg_count = 0;
  // The range first: overlapping writes keep the order of their submission from here on.
  if (ranges_.Insert(request, RangeKind::kLocalWrite, -1, request->first, request->end,
                     [](IoRange* self) noexcept {
                       auto* granted = static_cast<Request*>(self);
                       granted->volume->OnRange(granted);
                     })) {
    OnRange(request);
  }
}

void Volume::OnRange(Request* request) {
  if (disk_ == nullptr) {
    Register(request);
    return;
  }
  request->disk_generation = disk_generation_;
  request->al_ready = [](AlUser* self, bool granted) noexcept {
    auto* ready = static_cast<Request*>(self);
    ready->volume->OnExtents(ready, granted);
  };
  if (disk_->AcquireExtents(request->first, request->end, request)) OnExtents(request, true);
}

void Volume::OnExtents(Request* request, bool granted) {
  request->extents_held = granted;
  Register(request);
}

// Back to the admission queue: nothing of it has happened.
void Volume::Postpone(Request* request) {
  ReleaseExtents(request);
  BlockIo* io = request->upper;
  --counters_.write_requests;
  counters_.write_bytes -= io->length;
  --in_work_;
  uint64_t submission = request->submission;
  ranges_.Remove(request);
  requests_.Give(request);
  io->scratch = reinterpret_cast<void*>(submission);
  // In the order of submission: overlapping writes keep theirs.
  BlockIo** at = &waiting_head_;
  while (*at != nullptr && reinterpret_cast<uint64_t>((*at)->scratch) < submission) {
    at = &(*at)->next;
  }
  io->next = *at;
  *at = io;
  if (io->next == nullptr) waiting_tail_ = io;
  if (shut_) FailWaiting();
  if (in_work_ == 0) idle_.NotifyAll();
}

// drbd-io-path.md A.5: one straight function, nothing else runs in between.
void Volume::Register(Request* request) {
  const ResourceState& resource = resource_.state();
  bool held_back = quiesced_ > 0 || resource_.suspended() || AwaitsPeers() ||
                   (state().owes_new_uuid && resource.role == Role::kPrimary);
  if (held_back && resource.role == Role::kPrimary) {
    Postpone(request);
    Readmit();
    return;
  }
  bool local = disk_ != nullptr && request->disk_generation == disk_generation_ &&
               request->extents_held && state().disk >= DiskState::kInconsistent;
  bool writable =
      resource.role == Role::kPrimary && !resource.fail_io && DataAccessible(resource, state());
  if (!writable) {
    ReleaseExtents(request);
    ranges_.Remove(request);
    BlockIo* upper = request->upper;
    int error = resource.role == Role::kPrimary ? EIO : EROFS;
    requests_.Give(request);
    --in_work_;
    if (in_work_ == 0) idle_.NotifyAll();
    Complete(upper, error);
    return;
  }
  for (auto& [node, device] : peers_) {
    if (resource_.log().epoch_writes() >= device->connection().config().net.max_epoch_size) {
      resource_.CloseEpoch();
    }
  }
  request->registered = true;
  request->local_leg = local ? LocalLeg::kPending : LocalLeg::kNone;
  resource_.log().Append(request);
  ChooseLegs(request);
  if (local) {
    SubmitLocal(request);
  } else {
    CheckCompletion(request);
  }
}

void Volume::ChooseLegs(Request* request) {
  // FUA without a disk of its own that has the data: stable is what a peer has written.
  const bool on_peers_alone = request->fua && (request->local_leg == LocalLeg::kNone ||
                                               state().disk != DiskState::kUpToDate);
  for (auto& [node, device] : peers_) {
    const PeerDeviceState& peer_state = state().peer(node);
    WriteRoute route = device->connection().up()
                           ? RouteWrite(peer_state.disk, peer_state.repl, peer_state.replication)
                           : WriteRoute::kNothing;
    auto index = static_cast<size_t>(request->leg_count++);
    RequestLeg& leg = request->legs[index];
    leg.request = request;
    leg.node = node;
    leg.next_on_connection = nullptr;
    leg.in_bitmap_of = 0;
    switch (route) {
      case WriteRoute::kData:
        request->leg_states[index] =
            Next(DataLeg(on_peers_alone ? AckProtocol::kC : device->connection().ack_protocol()),
                 LegEvent::kReady)
                .state;
        device->connection().QueueWrite(request, static_cast<int>(index), *device);
        device->connection().congestion().OnWriteQueued(*this);
        break;
      case WriteRoute::kOutOfSync:
        request->leg_states[index] = OutOfSyncLeg();
        break;
      case WriteRoute::kNothing:
        request->leg_states[index] = NotChosenLeg();
        break;
    }
  }
}

void Volume::SubmitLocal(Request* request) {
  BlockIo& io = request->local;
  io.op = request->op == IoOp::kDiscard ? IoOp::kWriteZeroes : request->op;
  // A discarded range reads as zeroes on every copy (drbd-io-path.md E.4): copies must be equal.
  io.may_unmap = request->op == IoOp::kDiscard || request->may_unmap;
  io.fua = request->fua;
  io.offset = request->first * 512;
  io.length = request->sectors() * 512;
  io.iov = request->upper->iov;
  io.scratch = request;
  io.done = [](BlockIo* self, int error) noexcept {
    auto* done = static_cast<Request*>(self->scratch);
    done->volume->OnLocalWrite(done, error);
  };
  CountLower(1);
  disk_->backing().Submit(&io);
}

void Volume::OnLocalWrite(Request* request, int error) {
  CountLower(-1);
  if (error == 0) NoteBackingIo(0, request->sectors() * 512);
  LocalStep step =
      Next(request->local_leg, error == 0 ? LocalEvent::kCompleted : LocalEvent::kError);
  request->local_leg = step.state;
  if (error != 0) {
    request->error = error == ETIMEDOUT ? EIO : error;  // disk-timeout: an error of the disk
    // With pass_on the disk stays: what it does not have must not be read from it.
    if (disk_ != nullptr && config_.disk.on_io_error == OnIoError::kPassOn) {
      SetOutOfSync(request->first, request->end, disk_->bitmap().all_slots());
    }
    if (step.io_error) OnLocalError(request->op, error);
  }
  if (step.check_completion) CheckCompletion(request);
}

// True if every copy that has the write is one that a resync will put older data on top of: this
// node's disk while it is Inconsistent; a peer's, where the own disk did not take the write and may
// come back as the source of that resync. Such a write must not be acknowledged (INV-1).
bool Volume::WillBeOverwritten(const Request& request) {
  const DiskState own = state().disk;
  const bool own_is_target = own == DiskState::kInconsistent;
  // One that has failed may come back as what it was before the write.
  const bool own_stands = own > DiskState::kInconsistent || own == DiskState::kDetaching;
  if (request.local_leg == LocalLeg::kOk && own_stands) return false;
  const bool own_may_be_source = !own_is_target && request.local_leg != LocalLeg::kNone;
  for (int i = 0; i < request.leg_count; ++i) {
    if (!request.leg_states[static_cast<size_t>(i)].ok()) continue;
    const DiskState theirs = state().peer(request.legs[static_cast<size_t>(i)].node).disk;
    // kUnknown: lost since it took the write.
    if (theirs == DiskState::kUpToDate) return false;
    if (!own_may_be_source && theirs >= DiskState::kOutdated) return false;
  }
  return true;
}

void Volume::CheckCompletion(Request* request) {
  if (!request->registered) return;
  if (!request->completed) {
    // Completions are withheld while I/O is suspended only for what a lost peer left pending
    // (kHeld).
    switch (UpperCompletion(request->local_leg, request->states(), {})) {
      case Completion::kWait:
        return;
      case Completion::kSuccess:
        request->error = WillBeOverwritten(*request) ? EIO : 0;
        // The end of the program, and it was held back: nobody may believe that it is done.
        if (shut_ && resource_.suspended()) request->error = ENODEV;
        break;
      case Completion::kError:
        if (request->error == 0) request->error = EIO;
        break;
    }
    request->completed = true;
    // INV-12: what is issued after this completion must not share its epoch.
    if (request->epoch == resource_.log().epoch()) resource_.CloseEpoch();
    ranges_.Remove(request);
    counters_.write_latency.Add(reactor().Now() - request->submitted_at);
    BlockIo* upper = request->upper;
    request->upper = nullptr;
    --in_work_;
    if (in_work_ == 0) idle_.NotifyAll();
    Complete(upper, request->error);
  }
  resource_.ScheduleProgress();
}

void Volume::ReleaseExtents(Request* request) {
  if (!request->extents_held) return;
  request->extents_held = false;
  if (disk_ != nullptr && request->disk_generation == disk_generation_) {
    disk_->ReleaseExtents(request->first, request->end);
  }
}

void Volume::Retire(Request* request) {
  DecideBits(request);
  ReleaseExtents(request);
  NodeMask ok = request->local_leg == LocalLeg::kOk ? NodeBit(resource_.own_node()) : 0;
  NodeMask data = 0;
  for (int i = 0; i < request->leg_count; ++i) {
    LegState leg = request->leg_states[static_cast<size_t>(i)];
    int node = request->legs[static_cast<size_t>(i)].node;
    if (leg.ok()) ok |= NodeBit(node);
    // A peer without a disk keeps no record of the write it refused (H.2 rule 5).
    if (leg.Has(LegBit::kData) && !leg.Has(LegBit::kNegAck)) data |= NodeBit(node);
  }
  resource_.peer_acks().OnDone(request->dagtag, ok, data);
  if (disk_ != nullptr && disk_->log_starving()) resource_.peer_acks().Flush();
  requests_.Give(request);
}

// drbd-io-path.md A.11: one decision per slot, connected or not, allocated or not.
void Volume::DecideBits(Request* request) {
  if (disk_ == nullptr) return;
  // A disk that was attached since did not get this write: a peer that did has not become equal to
  // it by that.
  const bool same_disk = request->disk_generation == disk_generation_;
  meta::SlotMask set = disk_->bitmap().all_slots();
  meta::SlotMask clear = 0;
  for (int i = 0; i < request->leg_count; ++i) {
    int node = request->legs[static_cast<size_t>(i)].node;
    std::optional<uint32_t> slot = disk_->SlotOf(node);
    if (!slot) continue;
    meta::SlotMask bit = meta::SlotMask{1} << *slot;
    switch (BitsAtDone(request->leg_states[static_cast<size_t>(i)])) {
      case DoneBits::kLeave:
        set &= ~bit;
        break;
      case DoneBits::kSetInSync:
        set &= ~bit;
        if (same_disk) clear |= bit;
        break;
      case DoneBits::kSetOutOfSync:
        if (request->legs[static_cast<size_t>(i)].in_bitmap_of == disk_generation_) set &= ~bit;
        break;
    }
  }
  if (clear != 0) ClearOutOfSync(request->first, request->end, clear);
  for (int i = 0; i < request->leg_count && set != 0; ++i) {
    LegState leg = request->leg_states[static_cast<size_t>(i)];
    int node = request->legs[static_cast<size_t>(i)].node;
    std::optional<uint32_t> slot = disk_->SlotOf(node);
    if (!leg.Has(LegBit::kOutOfSync) || !slot) continue;
    meta::SlotMask bit = meta::SlotMask{1} << *slot;
    set &= ~bit;
    // The peer hears of it only if it did not know (O2).
    if (SetOutOfSync(request->first, request->end, bit)) {
      if (PeerDevice* device = peer(node); device != nullptr) {
        device->connection().SendOutOfSync(*device, request->first, request->end);
      }
    }
  }
  if (set != 0) SetOutOfSync(request->first, request->end, set);
}

}  // namespace umblock::drbd
