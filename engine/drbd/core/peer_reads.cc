#include "engine/drbd/core/peer_reads.h"

#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {

PeerReads::PeerReads(Connection& connection)
    : connection_(connection), reactor_(connection.reactor()), room_(reactor_) {}

Task<bool> PeerReads::OnRequest(PeerDevice& device, wire::BlockRequest request,
                                CancelToken cancel) {
  while (reads_.in_use() >= kMaxOutstanding) {
    if (co_await room_.Wait(cancel) == WakeReason::kCancelled) co_return false;
  }
  Buffer buffer = co_await connection_.buffers().Allocate(request.blksize, cancel);
  if (!buffer) co_return false;
  Read* read = reads_.Take();
  read->owner = this;
  read->device = &device;
  read->request = request;
  read->buffer = std::move(buffer);
  ++device.unacked;
  if (device.volume().ranges().Insert(
          read, RangeKind::kPeerRead, device.node(), request.sector,
          request.sector + request.blksize / 512, [](IoRange* self) noexcept {
            auto* granted = static_cast<Read*>(self);
            granted->owner->waiting_.erase(List::s_iterator_to(*granted));
            granted->owner->Start(granted);
          })) {
    Start(read);
  } else {
    waiting_.push_back(*read);
  }
  co_return true;
}

void PeerReads::Start(Read* read) {
  Volume& volume = read->device->volume();
  const wire::BlockRequest& request = read->request;
  volume.ranges().Remove(read);
  if (volume.disk() == nullptr || volume.state().disk != DiskState::kUpToDate) {
    connection_.SendBlockAck(wire::PacketType::kNegDreply, *read->device, request.sector,
                             request.block_id, request.blksize);
    Free(read);
    return;
  }
  read->iov = read->buffer.iov(request.blksize);
  read->io.op = IoOp::kRead;
  read->io.offset = request.sector * 512;
  read->io.length = request.blksize;
  read->io.iov = {&read->iov, 1};
  read->io.scratch = read;
  read->io.done = [](BlockIo* self, int error) noexcept {
    auto* done = static_cast<Read*>(self->scratch);
    done->device->volume().CountLower(-1);
    done->owner->OnRead(done, error);
  };
  volume.CountLower(1);
  volume.disk()->backing().Submit(&read->io);
}

void PeerReads::OnRead(Read* read, int error) {
  PeerDevice& device = *read->device;
  if (error != 0) {
    connection_.SendBlockAck(wire::PacketType::kNegDreply, device, read->request.sector,
                             read->request.block_id, read->request.blksize);
    device.volume().OnLocalError(IoOp::kRead, error);
    Free(read);
    return;
  }
  device.volume().NoteBackingIo(read->request.blksize, 0);
  read->fn = [](SentNotice* self, bool) noexcept {
    auto* sent = static_cast<Read*>(self);
    sent->owner->Free(sent);
  };
  connection_.SendDataReply(wire::PacketType::kDataReply, device, read->request.sector,
                            read->request.block_id, {&read->iov, 1}, read);
}

void PeerReads::Free(Read* read) {
  --read->device->unacked;
  read->buffer.Release();
  reads_.Give(read);
  room_.NotifyAll();
}

Task<void> PeerReads::Stop() {
  while (!waiting_.empty()) {
    Read& read = waiting_.front();
    waiting_.pop_front();
    read.device->volume().ranges().Remove(&read);
    Free(&read);
  }
  while (reads_.in_use() != 0) co_await room_.Wait();
}

}  // namespace umblock::drbd
