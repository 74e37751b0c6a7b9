#include "engine/drbd/core/verify_source.h"

#include <algorithm>
#include <cerrno>

#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {
namespace {

constexpr Duration kTick = 100ms;
// Tells our block ids of verify from those of writes and of resync requests.
constexpr uint64_t kVerifyIds = uint64_t{3} << 62;

}  // namespace

VerifySource::VerifySource(PeerDevice& device)
    : device_(device),
      reactor_(device.volume().reactor()),
      controller_(ResyncOptions{}),
      tasks_(reactor_),
      changed_(reactor_) {}

VerifySource::~VerifySource() {
  UMBLOCK_ASSERT(active_.empty(), "a verify is stopped before its device goes");
}

void VerifySource::Prepare(uint64_t first, uint64_t end) {
  UMBLOCK_ASSERT(first % kBlockSectors == 0 && first < end, "a verify goes from block to block");
  first_ = first;
  end_ = end;
}

void VerifySource::Start() {
  UMBLOCK_ASSERT(!running_, "a verify runs once at a time");
  running_ = true;
  stopping_ = false;
  stop_asked_ = false;
  position_ = first_;
  resume_sector_ = first_;
  arrived_ = 0;
  controller_.Reset();
  device_.verify.Begin(true, first_, end_);
  rate_.Begin(reactor_.Now(), (end_ - first_) * 512);
  tasks_.Spawn(Loop());
}

void VerifySource::RequestStop() {
  stop_asked_ = true;
  changed_.NotifyAll();
}

// The link is gone, or the state has left VerifyS. Reads in flight end by themselves.
Task<void> VerifySource::Stop() {
  stopping_ = true;
  changed_.NotifyAll();
  co_await tasks_.Join();
  if (running_) {
    resume_sector_ = Reached();
    device_.verify.End(resume_sector_, false);
  }
  while (true) {
    auto idle = std::find_if(active_.begin(), active_.end(),
                             [](const VerifyBlock& block) { return !block.reading; });
    if (idle == active_.end()) break;
    Release(&*idle);
  }
  while (!active_.empty()) co_await changed_.Wait();
  running_ = false;
  stopping_ = false;
}

// Everything before it has been compared or skipped.
uint64_t VerifySource::Reached() const {
  uint64_t reached = active_.empty() ? position_ : active_.front().first_sector();
  return reached >= end_ && end_ >= device_.volume().size_sectors() ? 0 : reached;
}

Task<void> VerifySource::Loop() {
  Time last = reactor_.Now();
  while (!stopping_) {
    Time now = reactor_.Now();
    bool whole_tick = now - last >= kTick;
    uint64_t budget = controller_.Tick(std::exchange(arrived_, 0), now - last);
    last = now;
    uint64_t limit = uint64_t{device_.connection().config().net.max_buffers} * 4;
    auto in_flight = static_cast<uint64_t>(controller_.in_flight());
    budget = in_flight >= limit ? 0 : std::min(budget, limit - in_flight);
    if (in_flight == 0 && whole_tick) budget = std::max(budget, kBlockSectors);
    RequestSome(budget);
    device_.verify.status().position = position_ * 512;
    rate_.Sample(now, progress().left_bytes);
    if (active_.empty() && (stop_asked_ || position_ >= end_)) {
      co_await Finish();
      break;
    }
    co_await changed_.WaitFor(kTick);
  }
  if (!stopping_) running_ = false;
}

uint64_t VerifySource::RequestSome(uint64_t budget) {
  Volume& volume = device_.volume();
  Connection& link = device_.connection();
  uint64_t requested = 0;
  uint64_t end = std::min(end_, volume.size_sectors());
  while (!stop_asked_ && position_ < end && budget >= kBlockSectors) {
    Buffer buffer = link.buffers().TryAllocate(kBlockSectors * 512);
    if (!buffer) break;
    VerifyBlock* block = blocks_.Take();
    block->source = this;
    block->replied = false;
    block->waiting = false;
    block->reading = false;
    block->buffer = std::move(buffer);
    uint64_t first = position_;
    position_ = std::min(first + kBlockSectors, end);
    budget -= kBlockSectors;
    requested += position_ - first;
    active_.push_back(*block);
    controller_.OnRequested(position_ - first);
    ++device_.pending;
    volume.ranges().Insert(block, RangeKind::kVerify, device_.node(), first, position_, nullptr);
    if (block->touched()) {
      OnCancelled(block);
      continue;
    }
    link.SendVerifyRequest(device_, first, position_, block->handle() ^ kVerifyIds);
  }
  if (end < end_ && position_ >= end) end_ = position_;  // it has shrunk
  return requested;
}

VerifyBlock* VerifySource::FindRequest(uint64_t block_id, uint64_t sector, uint32_t bytes) {
  if (!running_) return nullptr;
  VerifyBlock* block = blocks_.Find(block_id ^ kVerifyIds);
  if (device_.connection().agreed_protocol() < wire::kProtocolBlockIds) {
    // Answers name no request (drbd-wire.md 5.13.3).
    auto same = std::find_if(active_.begin(), active_.end(), [&](const VerifyBlock& each) {
      return each.first_sector() == sector && !each.replied;
    });
    block = same == active_.end() ? nullptr : &*same;
  }
  if (block == nullptr || block->replied || block->first_sector() != sector ||
      (block->end_sector() - sector) * 512 != bytes) {
    return nullptr;
  }
  return block;
}

void VerifySource::OnReply(VerifyBlock* block, uint32_t dagtag_node_id, uint64_t dagtag,
                           Bytes digest) {
  block->replied = true;
  --device_.pending;
  if (stopping_) {
    Release(block);
    return;
  }
  block->dagtag_node_id = dagtag_node_id;
  block->dagtag = dagtag;
  block->digest_size = digest.size();
  std::ranges::copy(digest, block->digest.begin());
  // The own read must not see less of the primary's stream than the peer's did (G.7).
  if (device_.volume().resource().HasReceived(dagtag_node_id, dagtag)) {
    Read(block);
  } else {
    block->waiting = true;
  }
}

void VerifySource::OnDagtagAdvanced() {
  for (auto it = active_.begin(); it != active_.end();) {
    VerifyBlock& block = *it++;
    if (!block.waiting) continue;
    if (!device_.volume().resource().HasReceived(block.dagtag_node_id, block.dagtag)) continue;
    block.waiting = false;
    Read(&block);
  }
}

void VerifySource::Read(VerifyBlock* block) {
  Volume& volume = device_.volume();
  block->reading = true;
  volume.CountLower(1);
  if (volume.disk() == nullptr || volume.state().disk < DiskState::kInconsistent) {
    OnRead(block, ENODEV);
    return;
  }
  BlockIo& io = block->io;
  io.op = IoOp::kRead;
  io.offset = block->first_sector() * 512;
  io.length = (block->end_sector() - block->first_sector()) * 512;
  block->iov = block->buffer.iov(io.length);
  io.iov = {&block->iov, 1};
  io.scratch = block;
  io.done = [](BlockIo* self, int error) noexcept {
    auto* done = static_cast<VerifyBlock*>(self->scratch);
    Volume& of = done->source->device_.volume();
    if (error == 0) {
      of.NoteResyncIo(self->length, 0);
    } else {
      of.OnLocalError(IoOp::kRead, error);  // may stop this verify, but not this block
    }
    done->source->OnRead(done, error);
  };
  volume.disk()->backing().Submit(&io);
}

void VerifySource::OnRead(VerifyBlock* block, int error) {
  device_.volume().CountLower(-1);
  block->reading = false;
  if (stopping_) {
    Release(block);
    return;
  }
  Conclude(block, Compare(*block, error));
}

wire::VerifyResult VerifySource::Compare(const VerifyBlock& block, int error) {
  wire::Digest* digest = device_.connection().verify_digest();
  if (block.touched() || digest == nullptr || digest->size() != block.digest_size) {
    return wire::VerifyResult::kSkipped;
  }
  // Without a disk nothing was read; what cannot be read of one is not equal.
  if (error == ENODEV) return wire::VerifyResult::kSkipped;
  bool equal =
      error == 0 && digest->Matches({&block.iov, 1}, Bytes(block.digest).first(block.digest_size));
  return equal ? wire::VerifyResult::kInSync : wire::VerifyResult::kOutOfSync;
}

void VerifySource::Conclude(VerifyBlock* block, wire::VerifyResult result) {
  uint64_t first = block->first_sector();
  uint64_t end = block->end_sector();
  Volume& volume = device_.volume();
  switch (result) {
    case wire::VerifyResult::kInSync:
      device_.verify.OnEqual(first, end);
      break;
    case wire::VerifyResult::kOutOfSync:
      device_.verify.OnDifferent(first, end);
      volume.SetOutOfSync(first, end, volume.SlotMaskOf(NodeBit(device_.node())));
      break;
    case wire::VerifyResult::kSkipped:
      device_.verify.OnSkipped(first, end);
      break;
  }
  device_.connection().SendVerifyResult(device_, first, end, block->handle() ^ kVerifyIds, result);
  Release(block);
}

void VerifySource::OnCancelled(VerifyBlock* block) {
  device_.verify.OnSkipped(block->first_sector(), block->end_sector());
  Release(block);
}

void VerifySource::Release(VerifyBlock* block) {
  if (!block->replied) --device_.pending;
  arrived_ += block->end_sector() - block->first_sector();
  block->buffer.Release();
  device_.volume().ranges().Remove(block);
  active_.erase(List::s_iterator_to(*block));
  blocks_.Give(block);
  if (active_.empty()) changed_.NotifyAll();
}

// The bits are durable, and the peer has heard of every result, before the state says that it is
// over.
Task<void> VerifySource::Finish() {
  finishing_ = true;
  Volume& volume = device_.volume();
  if (volume.disk() != nullptr) {
    volume.CountLower(1);
    (void)co_await volume.disk()->WriteBitmap();
    volume.CountLower(-1);
  }
  bool there = !stopping_ && co_await device_.connection().PingRoundTrip();
  if (there && !stopping_) {
    bool complete = position_ >= end_;
    resume_sector_ = Reached();
    device_.verify.End(position_, complete);
    int number = volume.number();
    int node = device_.node();
    (void)volume.resource().Change(complete ? "verify finished" : "verify was stopped",
                                   {.hard = true}, [=](ResourceState& next) {
                                     PeerDeviceState& peer = next.Volume(number)->peer(node);
                                     if (peer.repl == ReplicationState::kVerifyS)
                                       peer.repl = ReplicationState::kEstablished;
                                   });
  }
  finishing_ = false;
}

SyncProgress VerifySource::progress() const {
  SyncProgress result;
  result.total_bytes = (end_ - first_) * 512;
  result.left_bytes = (end_ - std::min(position_, end_)) * 512;
  rate_.Describe(reactor_.Now(), result);
  return result;
}

}  // namespace umblock::drbd
