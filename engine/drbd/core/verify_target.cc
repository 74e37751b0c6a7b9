#include "engine/drbd/core/verify_target.h"

#include <algorithm>
#include <cerrno>

#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {

VerifyTarget::VerifyTarget(PeerDevice& device)
    : device_(device), reactor_(device.volume().reactor()), room_(reactor_) {}

VerifyTarget::~VerifyTarget() {
  UMBLOCK_ASSERT(in_work_.empty(), "verify reads are stopped before their device goes");
}

// Where it starts is what the first request says.
void VerifyTarget::Begin() {
  begun_ = true;
  position_ = 0;
  device_.verify.Begin(false, 0, device_.volume().size_sectors());
  rate_.Begin(reactor_.Now(), device_.volume().size_sectors() * 512);
}

void VerifyTarget::End() {
  begun_ = false;
  DropAll();
  device_.verify.End(position_, position_ >= device_.volume().size_sectors());
}

Task<bool> VerifyTarget::OnRequest(wire::DagtagRequest request, CancelToken cancel) {
  while (in_work_.size() >= kMaxOutstanding && !stopping_) {
    if (co_await room_.Wait(cancel) == WakeReason::kCancelled) co_return false;
  }
  Buffer buffer = co_await device_.connection().buffers().Allocate(request.blksize, cancel);
  if (!buffer || stopping_) co_return false;
  if (std::exchange(begun_, false)) {
    device_.verify.Begin(false, request.sector, device_.volume().size_sectors());
  }
  position_ = request.sector + request.blksize / 512;
  if (device_.verify.running()) device_.verify.status().position = position_ * 512;
  rate_.Sample(reactor_.Now(), progress().left_bytes);
  VerifyAnswer* answer = answers_.Take();
  answer->target = this;
  answer->request = request;
  answer->buffer = std::move(buffer);
  answer->waiting = false;
  answer->reading = false;
  answer->answered = false;
  answer->dropped = false;
  in_work_.push_back(*answer);
  ++device_.unacked;
  if (device_.volume().resource().HasReceived(request.dagtag_node_id, request.dagtag)) {
    Read(answer);
  } else {
    answer->waiting = true;
  }
  co_return true;
}

void VerifyTarget::OnDagtagAdvanced() {
  for (auto it = in_work_.begin(); it != in_work_.end();) {
    VerifyAnswer& answer = *it++;
    const wire::DagtagRequest& request = answer.request;
    if (!answer.waiting) continue;
    if (!device_.volume().resource().HasReceived(request.dagtag_node_id, request.dagtag)) continue;
    answer.waiting = false;
    Read(&answer);
    it = in_work_.begin();  // that one may have gone, and others with it
  }
}

void VerifyTarget::Read(VerifyAnswer* answer) {
  Volume& volume = device_.volume();
  uint64_t first = answer->request.sector;
  volume.ranges().Insert(answer, RangeKind::kVerify, device_.node(), first,
                         first + answer->request.blksize / 512, nullptr);
  if (answer->touched() || volume.disk() == nullptr || volume.state().disk < DiskState::kOutdated) {
    Skip(answer);
    return;
  }
  answer->reading = true;
  answer->iov = answer->buffer.iov(answer->request.blksize);
  answer->io.op = IoOp::kRead;
  answer->io.offset = first * 512;
  answer->io.length = answer->request.blksize;
  answer->io.iov = {&answer->iov, 1};
  answer->io.scratch = answer;
  answer->io.done = [](BlockIo* self, int error) noexcept {
    auto* done = static_cast<VerifyAnswer*>(self->scratch);
    Volume& of = done->target->device_.volume();
    of.CountLower(-1);
    if (error == 0) {
      of.NoteResyncIo(self->length, 0);
    } else {
      of.OnLocalError(IoOp::kRead, error);  // may drop all, but not one that is read
    }
    done->reading = false;
    done->target->OnRead(done, error);
  };
  volume.CountLower(1);
  volume.disk()->backing().Submit(&answer->io);
}

void VerifyTarget::OnRead(VerifyAnswer* answer, int error) {
  wire::Digest* digest = device_.connection().verify_digest();
  if (answer->dropped) {
    Free(answer);
    return;
  }
  if (answer->touched() || digest == nullptr) {
    Skip(answer);
    return;
  }
  // What cannot be read is told by a digest that no content has (drbd-wire.md 5.13.3).
  std::array<std::byte, wire::kMaxDigestBytes> value{};
  if (error == 0) {
    digest->Update(std::span<const iovec>(&answer->iov, 1));
    digest->Finish(value);
  }
  answer->buffer.Release();
  answer->answered = true;
  device_.connection().SendVerifyReply(device_, answer->request,
                                       Bytes(value).first(digest->size()));
}

void VerifyTarget::Skip(VerifyAnswer* answer) {
  const wire::DagtagRequest& request = answer->request;
  device_.connection().SendBlockAck(wire::PacketType::kRsCancel, device_, request.sector,
                                    request.block_id, request.blksize);
  device_.verify.OnSkipped(request.sector, request.sector + request.blksize / 512);
  Free(answer);
  MaybeFinish();
}

void VerifyTarget::OnResult(uint64_t block_id, uint64_t sector, uint32_t bytes,
                            wire::VerifyResult result) {
  bool by_id = device_.connection().agreed_protocol() >= wire::kProtocolBlockIds;
  auto found = std::find_if(in_work_.begin(), in_work_.end(), [&](const VerifyAnswer& answer) {
    return answer.answered && answer.request.sector == sector && answer.request.blksize == bytes &&
           (!by_id || answer.request.block_id == block_id);
  });
  if (found == in_work_.end()) return;
  Volume& volume = device_.volume();
  uint64_t end = sector + bytes / 512;
  switch (result) {
    case wire::VerifyResult::kInSync:
      device_.verify.OnEqual(sector, end);
      break;
    case wire::VerifyResult::kOutOfSync:
      device_.verify.OnDifferent(sector, end);
      volume.SetOutOfSync(sector, end, volume.SlotMaskOf(NodeBit(device_.node())));
      break;
    case wire::VerifyResult::kSkipped:
      device_.verify.OnSkipped(sector, end);
      break;
  }
  Free(&*found);
  MaybeFinish();
}

// At the end of the device both sides know that it is over (5.13.5); before it the peer says so.
void VerifyTarget::MaybeFinish() {
  if (finishing_ || !in_work_.empty() || begun_) return;
  if (device_.state().repl != ReplicationState::kVerifyT) return;
  if (position_ < device_.volume().size_sectors()) return;
  finishing_ = true;
  device_.tasks.Spawn(Finish(device_.connection().session()));
}

Task<void> VerifyTarget::Finish(uint64_t session) {
  Connection& link = device_.connection();
  Volume& volume = device_.volume();
  bool there = co_await link.PingRoundTrip();
  finishing_ = false;
  if (!there || link.session() != session) co_return;
  if (device_.state().repl != ReplicationState::kVerifyT || !in_work_.empty()) co_return;
  int number = volume.number();
  int node = device_.node();
  (void)volume.resource().Change("verify finished", {.hard = true}, [=](ResourceState& next) {
    next.Volume(number)->peer(node).repl = ReplicationState::kEstablished;
  });
}

void VerifyTarget::Free(VerifyAnswer* answer) {
  answer->buffer.Release();
  if (answer->inserted()) device_.volume().ranges().Remove(answer);
  in_work_.erase(List::s_iterator_to(*answer));
  --device_.unacked;
  answers_.Give(answer);
  room_.NotifyAll();
}

void VerifyTarget::DropAll() {
  for (auto it = in_work_.begin(); it != in_work_.end();) {
    VerifyAnswer& answer = *it++;
    answer.dropped = true;
    answer.waiting = false;
    if (!answer.reading) Free(&answer);
  }
}

Task<void> VerifyTarget::Stop() {
  stopping_ = true;
  room_.NotifyAll();
  DropAll();
  while (!in_work_.empty()) co_await room_.Wait();
  stopping_ = false;
}

SyncProgress VerifyTarget::progress() const {
  SyncProgress result;
  const VerifyStatus& status = device_.verify.status();
  result.total_bytes = status.stop - status.start;
  result.left_bytes = status.stop - std::clamp(position_ * 512, status.start, status.stop);
  rate_.Describe(reactor_.Now(), result);
  return result;
}

}  // namespace umblock::drbd
