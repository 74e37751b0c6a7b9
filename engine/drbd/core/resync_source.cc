#include "engine/drbd/core/resync_source.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {
namespace {

bool AllZero(Bytes data) {
  return data.empty() ||
         (data[0] == std::byte{0} && std::memcmp(data.data(), &data[1], data.size() - 1) == 0);
}

}  // namespace

ResyncSource::ResyncSource(PeerDevice& device)
    : device_(device), reactor_(device.volume().reactor()), room_(reactor_) {}

ResyncSource::~ResyncSource() {
  UMBLOCK_ASSERT(in_work_.empty(), "resync reads are stopped before their device goes");
}

Task<bool> ResyncSource::OnRequest(wire::DagtagRequest request, bool thin, Bytes digest,
                                   CancelToken cancel) {
  // The payload that it lies in is gone after the first wait.
  std::array<std::byte, wire::kMaxDigestBytes> wanted{};
  size_t digest_size = digest.size();
  std::ranges::copy(digest, wanted.begin());
  const auto full = [this] {
    return unacked_deallocated_ >= kMaxDeallocated ||
           in_work_.size() - unacked_deallocated_ >= kMaxOutstanding;
  };
  while (full() && !stopping_) {
    if (co_await room_.Wait(cancel) == WakeReason::kCancelled) co_return false;
  }
  Buffer buffer = co_await device_.connection().buffers().Allocate(request.blksize, cancel);
  if (!buffer || stopping_) co_return false;
  ResyncRead* read = reads_.Take();
  read->source = this;
  read->request = request;
  read->thin = thin;
  read->deallocated = false;
  read->digest = wanted;
  read->digest_size = digest_size;
  read->buffer = std::move(buffer);
  read->waiting_for_dagtag = false;
  read->reading = false;
  read->queued = false;
  read->sent = false;
  read->answered = false;
  read->dropped = false;
  in_work_.push_back(*read);
  outstanding_bytes_ += request.blksize;
  ++device_.unacked;
  if (DependencyMet(*read)) {
    Advance(read);
  } else {
    read->waiting_for_dagtag = true;
  }
  co_return true;
}

// drbd-io-path.md G.4: the read must not see less of the primary's stream than the target has.
bool ResyncSource::DependencyMet(const ResyncRead& read) const {
  return device_.volume().resource().HasReceived(read.request.dagtag_node_id, read.request.dagtag);
}

void ResyncSource::OnDagtagAdvanced() {
  for (auto it = in_work_.begin(); it != in_work_.end();) {
    ResyncRead& read = *it++;
    if (!read.waiting_for_dagtag || !DependencyMet(read)) continue;
    read.waiting_for_dagtag = false;
    Advance(&read);
    it = in_work_.begin();  // others may have gone with it
  }
}

void ResyncSource::Advance(ResyncRead* read) {
  uint64_t first = read->request.sector;
  if (device_.volume().ranges().Insert(read, RangeKind::kResyncRead, device_.node(), first,
                                       first + read->request.blksize / 512,
                                       [](IoRange* self) noexcept {
                                         auto* granted = static_cast<ResyncRead*>(self);
                                         granted->source->StartRead(granted);
                                       })) {
    StartRead(read);
  }
}

void ResyncSource::StartRead(ResyncRead* read) {
  Volume& volume = device_.volume();
  if (read->dropped || volume.disk() == nullptr || volume.state().disk < DiskState::kOutdated) {
    OnRead(read, EIO);
    return;
  }
  read->reading = true;
  read->iov = read->buffer.iov(read->request.blksize);
  read->io.op = IoOp::kRead;
  read->io.offset = read->request.sector * 512;
  read->io.length = read->request.blksize;
  read->io.iov = {&read->iov, 1};
  read->io.scratch = read;
  read->io.done = [](BlockIo* self, int error) noexcept {
    auto* done = static_cast<ResyncRead*>(self->scratch);
    Volume& of = done->source->device_.volume();
    of.CountLower(-1);
    if (error == 0) {
      of.NoteResyncIo(done->request.blksize, 0);
    } else {
      of.OnLocalError(IoOp::kRead, error);  // may give up all reads, but not one that is read
    }
    done->reading = false;
    done->source->OnRead(done, error);
  };
  volume.CountLower(1);
  volume.disk()->backing().Submit(&read->io);
}

void ResyncSource::OnRead(ResyncRead* read, int error) {
  if (read->dropped) {
    read->sent = true;
    MaybeFree(read);
    return;
  }
  if (error != 0) {
    device_.connection().SendBlockAck(wire::PacketType::kNegRsDreply, device_, read->request.sector,
                                      read->request.block_id, read->request.blksize);
    read->answered = true;
    read->sent = true;
    MaybeFree(read);
    return;
  }
  if (EqualAtTarget(*read)) {
    ReplyInSync(read);
  } else if (read->thin && AllZero(read->buffer.first(read->request.blksize))) {
    ReplyDeallocated(read);
  } else {
    Reply(read);
  }
}

bool ResyncSource::EqualAtTarget(const ResyncRead& read) const {
  if (read.digest_size == 0) return false;
  wire::Digest* digest = device_.connection().csums_digest();
  return digest != nullptr && digest->size() == read.digest_size &&
         digest->Matches({&read.iov, 1}, Bytes(read.digest).first(read.digest_size));
}

// Nothing more is said about it: the target has the data.
void ResyncSource::ReplyInSync(ResyncRead* read) {
  const wire::DagtagRequest& request = read->request;
  Volume& volume = device_.volume();
  equal_bytes_ += request.blksize;
  device_.equal_bytes += request.blksize;
  volume.ClearOutOfSync(request.sector, request.sector + request.blksize / 512,
                        volume.SlotMaskOf(NodeBit(device_.node())));
  device_.connection().SendBlockAck(wire::PacketType::kRsIsInSync, device_, request.sector,
                                    request.block_id, request.blksize);
  read->answered = true;
  read->sent = true;
  MaybeFree(read);
}

// Acknowledged like data: until then the range is held, and the block is out of sync (5.12.3).
void ResyncSource::ReplyDeallocated(ResyncRead* read) {
  const wire::DagtagRequest& request = read->request;
  deallocated_bytes_ += request.blksize;
  device_.deallocated_bytes += request.blksize;
  read->queued = true;
  read->sent = true;
  read->deallocated = true;
  ++unacked_deallocated_;
  read->buffer.Release();
  room_.NotifyAll();
  device_.connection().SendDeallocated(device_, request.sector, request.block_id, request.blksize);
}

void ResyncSource::Reply(ResyncRead* read) {
  // Below protocol 122 an answer to a digest names no request (drbd-wire.md 5.12.3).
  bool named =
      read->digest_size == 0 || device_.connection().agreed_protocol() >= wire::kProtocolBlockIds;
  read->queued = true;
  read->fn = [](SentNotice* self, bool) noexcept {
    auto* sent = static_cast<ResyncRead*>(self);
    sent->sent = true;
    sent->buffer.Release();
    sent->source->MaybeFree(sent);
  };
  device_.connection().SendDataReply(wire::PacketType::kRsDataReply, device_, read->request.sector,
                                     named ? read->request.block_id : wire::kIdSyncer,
                                     {&read->iov, 1}, read);
}

bool ResyncSource::OnAck(uint64_t block_id, uint64_t sector, uint32_t bytes, bool written) {
  for (ResyncRead& read : in_work_) {
    // Nobody can have written what was not sent.
    if (read.answered || !read.queued || read.request.sector != sector ||
        read.request.blksize != bytes)
      continue;
    if (read.request.block_id != block_id && block_id != wire::kIdSyncer) continue;
    read.answered = true;
    Volume& volume = device_.volume();
    if (written) {
      volume.ClearOutOfSync(sector, sector + bytes / 512,
                            volume.SlotMaskOf(NodeBit(device_.node())));
    }
    MaybeFree(&read);
    return true;
  }
  return false;
}

void ResyncSource::MaybeFree(ResyncRead* read) {
  if (!read->answered || !read->sent || read->reading) return;
  read->buffer.Release();
  if (read->inserted()) device_.volume().ranges().Remove(read);
  in_work_.erase(List::s_iterator_to(*read));
  outstanding_bytes_ -= read->request.blksize;
  if (read->deallocated) --unacked_deallocated_;
  --device_.unacked;
  reads_.Give(read);
  room_.NotifyAll();
}

void ResyncSource::Begin() {
  total_bits_ = device_.out_of_sync_bits();
  equal_bytes_ = 0;
  deallocated_bytes_ = 0;
  started_ = reactor_.Now();
}

SyncProgress ResyncSource::progress() const {
  SyncProgress result;
  uint64_t left = device_.out_of_sync_bits();
  result.total_bytes = total_bits_ * 4096;
  result.left_bytes = left * 4096;
  result.equal_bytes = equal_bytes_;
  result.deallocated_bytes = deallocated_bytes_;
  auto elapsed_ms = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(reactor_.Now() - started_).count());
  if (elapsed_ms > 0 && total_bits_ > left) {
    result.rate_bytes_per_second = (total_bits_ - left) * 4096 * 1000 / elapsed_ms;
  }
  if (result.rate_bytes_per_second > 0) {
    result.eta = Duration(std::chrono::seconds(
        static_cast<int64_t>(result.left_bytes / result.rate_bytes_per_second)));
  }
  return result;
}

// Nothing more is expected from the peer. Reads in flight and replies in the send queue end by
// themselves; the rest goes now.
void ResyncSource::GiveUpAll() {
  for (ResyncRead& read : in_work_) {
    read.dropped = !read.queued;
    read.answered = true;
    read.waiting_for_dagtag = false;
    if (!read.reading && !read.queued) read.sent = true;
  }
  // To free one may grant another its range, and end that one too.
  while (true) {
    auto over = std::find_if(in_work_.begin(), in_work_.end(), [](const ResyncRead& read) {
      return read.answered && read.sent && !read.reading;
    });
    if (over == in_work_.end()) return;
    MaybeFree(&*over);
  }
}

void ResyncSource::Abandon() { GiveUpAll(); }

void ResyncSource::CancelAhead() {
  for (ResyncRead& read : in_work_) {
    if (read.answered) continue;
    const wire::DagtagRequest& request = read.request;
    if (read.queued) {
      device_.connection().SendOutOfSync(device_, request.sector,
                                         request.sector + request.blksize / 512);
      continue;
    }
    device_.connection().SendBlockAck(wire::PacketType::kRsCancelAhead, device_, request.sector,
                                      request.block_id, request.blksize);
  }
  GiveUpAll();
}

Task<void> ResyncSource::Stop() {
  stopping_ = true;
  room_.NotifyAll();
  GiveUpAll();
  while (!in_work_.empty()) co_await room_.Wait();
  stopping_ = false;
}

}  // namespace umblock::drbd
