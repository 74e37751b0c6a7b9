#include "sim/testing/fake_replica.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "engine/runtime/sim/network.h"
#include "engine/runtime/sync.h"

namespace umblock::sim {

namespace {
constexpr uint64_t kBlock = 4096;
constexpr uint64_t kWakeupLostAt = 400;
}  // namespace

FakeReplica::FakeReplica(std::shared_ptr<FakeWorld> shared, SimNode& node,
                         const ReplicaSetup& setup, std::function<void()> on_change)
    : DeviceBase(*node.reactor(), "fake volume"),
      shared_(std::move(shared)),
      node_(node),
      incarnation_(node.incarnation()),
      setup_(setup),
      on_change_(std::move(on_change)),
      changed_(*node.reactor()),
      tasks_(*node.reactor()) {
  geometry_.size = setup.volume_bytes;
  geometry_.can_discard = geometry_.discard_reads_zeroes = true;
}

ReplicaFactory FakeReplica::Factory(std::shared_ptr<FakeWorld> shared) {
  return [shared](SimNode& node, const ReplicaSetup& setup, std::function<void()> on_change) {
    return node.Make<FakeReplica>(shared, node, setup, std::move(on_change));
  };
}

Task<Status> FakeReplica::Start() {
  auto file = co_await reactor().OpenFile({.path = kDataPath});
  if (!file) co_return std::unexpected(file.error());
  file_ = std::move(*file);
  shared_->live[static_cast<size_t>(setup_.node)] = this;
  tasks_.Spawn(Serve());
  tasks_.Spawn(Watch());
  co_return Ok();
}

Task<void> FakeReplica::Stop() {
  stopping_ = true;
  shared_->live[static_cast<size_t>(setup_.node)] = nullptr;
  shared_->connected = false;
  changed_.NotifyAll();
  co_await tasks_.Join();
  co_await file_->Close();
}

ReplicaState FakeReplica::state() {
  ReplicaState state;
  state.primary = primary_;
  state.disk = up_to_date() ? drbd::DiskState::kUpToDate : drbd::DiskState::kInconsistent;
  if (shared_->connected) {
    state.connection = drbd::ConnectionState::kConnected;
    state.replication = drbd::ReplicationState::kEstablished;
    state.peer_disk = drbd::DiskState::kUpToDate;
    state.peer_primary = peer() != nullptr && peer()->primary_;
  } else if (wants_connection_) {
    state.connection = drbd::ConnectionState::kConnecting;
  }
  state.out_of_sync = shared_->out_of_sync.size() * kBlock;
  state.text = state.connected() ? "connected" : "not connected";
  return state;
}

// The dead replica is taken off the stage by the watch of the living one, or by its successor.
void FakeReplica::UpdateConnection() {
  for (FakeReplica*& live : shared_->live) {
    if (live != nullptr && live->node_.incarnation() != live->incarnation_) live = nullptr;
  }
  FakeReplica* other = peer();
  const SimNetwork& network = node_.world().network();
  const bool reachable = other != nullptr && wants_connection_ && other->wants_connection_ &&
                         !network.Blocked(node_, other->node_) &&
                         !network.Blocked(other->node_, node_);
  if (reachable == shared_->connected) return;
  if (reachable && (writing_ != 0 || other->writing_ != 0)) return;
  shared_->connected = reachable;
  ++shared_->session;
  if (reachable) {
    if (primary_ != other->primary_) shared_->newest = primary_ ? setup_.node : 1 - setup_.node;
    Resync();
  }
  changed_.NotifyAll();
  on_change_();
}

void FakeReplica::Resync() {
  const std::string path = kDataPath;
  SimDisk* disks[2];
  disks[setup_.node] = node_.files().Find(path);
  disks[1 - setup_.node] = peer()->node_.files().Find(path);
  std::vector<std::byte> block(kBlock);
  for (uint64_t number : shared_->out_of_sync) {
    disks[shared_->newest]->ReadNow(number * kBlock, block);
    disks[1 - shared_->newest]->WriteNow(number * kBlock, block);
    disks[shared_->newest]->WriteNow(number * kBlock, block);
  }
  shared_->out_of_sync.clear();
}

Task<void> FakeReplica::Watch() {
  while (!stopping_) {
    UpdateConnection();
    co_await changed_.WaitFor(30ms);
  }
}

Task<Status> FakeReplica::Promote(bool force) {
  co_await Sleep(reactor(), 2ms);
  UpdateConnection();
  if (!force && shared_->bug != FakeBug::kAllowsTwoPrimaries && shared_->connected &&
      peer()->primary_) {
    co_return MakeError(ErrorCode::kFailedPrecondition, "the other node is primary");
  }
  if (!up_to_date()) co_return MakeError(ErrorCode::kFailedPrecondition, "not up to date");
  shared_->newest = setup_.node;
  primary_ = true;
  on_change_();
  co_return Ok();
}

Task<Status> FakeReplica::Demote() {
  co_await Sleep(reactor(), 2ms);
  primary_ = false;
  on_change_();
  co_return Ok();
}

Task<Status> FakeReplica::Connect(bool) {
  wants_connection_ = true;
  co_await Sleep(reactor(), 5ms);
  co_return Ok();
}

Task<Status> FakeReplica::Disconnect() {
  wants_connection_ = false;
  co_await Sleep(reactor(), 5ms);
  UpdateConnection();
  co_return Ok();
}

void FakeReplica::Submit(BlockIo* io) noexcept {
  queue_.push_back(io);
  changed_.NotifyAll();
}

// One request at a time: that alone keeps overlapping ones in order.
Task<void> FakeReplica::Serve() {
  while (!stopping_) {
    if (queue_.empty()) {
      co_await changed_.Wait();
      continue;
    }
    const bool swap = shared_->bug == FakeBug::kAppliesOutOfOrder && queue_.size() > 1;
    BlockIo* io = swap ? queue_.back() : queue_.front();
    swap ? queue_.pop_back() : queue_.pop_front();
    if (++shared_->requests == kWakeupLostAt && shared_->bug == FakeBug::kLosesAWakeup) continue;
    if (io->op == IoOp::kRead) {
      co_await ServeRead(io);
    } else if (io->op == IoOp::kFlush) {
      co_await ServeFlush(io);
    } else {
      co_await ServeWrite(io);
    }
  }
}

Task<void> FakeReplica::ServeRead(BlockIo* io) {
  const int error = -co_await file_->Read(io->offset, io->iov);
  if (shared_->bug == FakeBug::kReadsTheOtherDisk && !shared_->out_of_sync.empty() &&
      peer() != nullptr) {
    uint64_t offset = io->offset;
    for (const iovec& part : io->iov) {
      peer()->node_.files().Find(kDataPath)->ReadNow(
          offset, {static_cast<std::byte*>(part.iov_base), part.iov_len});
      offset += part.iov_len;
    }
  }
  io->done(io, error);
}

Task<void> FakeReplica::ServeFlush(BlockIo* io) {
  co_await Sleep(reactor(), 1ms);
  io->done(io, 0);
}

Task<void> FakeReplica::ServeWrite(BlockIo* io) {
  std::vector<std::byte> data(io->length);
  size_t at = 0;
  if (io->op == IoOp::kWrite) {
    for (const iovec& part : io->iov) {
      std::memcpy(data.data() + at, part.iov_base, part.iov_len);
      at += part.iov_len;
    }
  }
  const bool durable = shared_->bug != FakeBug::kIgnoresFlushAndFua;
  const int error = co_await WriteBoth(io->offset, std::move(data), durable);
  io->done(io, error);
}

void FakeReplica::Mark(uint64_t offset, uint64_t length, bool out) {
  for (uint64_t block = offset / kBlock; block * kBlock < offset + length; ++block) {
    if (out) {
      shared_->out_of_sync.insert(block);
    } else {
      shared_->out_of_sync.erase(block);
    }
  }
}

Task<int> FakeReplica::WriteBoth(uint64_t offset, std::vector<std::byte> content, bool durable) {
  auto data = std::make_shared<std::vector<std::byte>>(std::move(content));
  const uint64_t length = data->size();
  UpdateConnection();
  const uint64_t session = shared_->session;
  const bool both = shared_->connected;
  std::set<uint64_t> marked_before;
  for (uint64_t block = offset / kBlock; block * kBlock < offset + length; ++block) {
    if (shared_->out_of_sync.contains(block)) marked_before.insert(block);
  }
  if (shared_->bug != FakeBug::kForgetsWhatIsOutOfSync) Mark(offset, length, true);
  auto here = std::make_shared<bool>(false);
  auto there = std::make_shared<bool>(!both);
  tasks_.Spawn(WriteHere(offset, data, durable, here));
  if (both) {
    auto theirs = data;
    if (shared_->bug == FakeBug::kTearsPeerWrites && length > 512) {
      theirs = std::make_shared<std::vector<std::byte>>(data->begin(), data->begin() + 512);
    }
    peer()->tasks_.Spawn(peer()->WriteHere(offset, theirs, durable, there));
    if (shared_->bug == FakeBug::kAcksBeforeThePeerHasIt) there = std::make_shared<bool>(true);
  }
  while (!*here || (!*there && shared_->session == session)) {
    co_await changed_.WaitFor(1ms);
    UpdateConnection();
  }
  if (both && shared_->session == session) {
    Mark(offset, length, false);
    for (uint64_t block : marked_before) shared_->out_of_sync.insert(block);
  }
  co_return 0;
}

Task<void> FakeReplica::WriteHere(uint64_t offset, std::shared_ptr<std::vector<std::byte>> data,
                                  bool durable, std::shared_ptr<bool> done) {
  iovec part{data->data(), data->size()};
  ++writing_;
  while (co_await file_->Write(offset, {&part, 1}, durable) != 0) {
  }
  --writing_;
  *done = true;
  changed_.NotifyAll();
}

}  // namespace umblock::sim
