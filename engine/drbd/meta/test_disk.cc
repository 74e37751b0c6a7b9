#include "engine/drbd/meta/test_disk.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace umblock::drbd::meta::testing {

// --- reactor -------------------------------------------------------------------------------------

void ManualReactor::RunReady() {
  while (!ready_.empty()) {
    const auto [completion, result] = ready_.front();
    ready_.pop_front();
    completion->fn(completion, result);
  }
}

void ManualReactor::FillRandom(MutableBytes bytes) { std::ranges::fill(bytes, std::byte{7}); }
void ManualReactor::Post(Completion* completion, int32_t result) {
  ready_.emplace_back(completion, result);
}
void ManualReactor::PostFromAnyThread(Completion* completion, int32_t result) {
  Post(completion, result);
}
void ManualReactor::PostAtTurnEnd(Completion* completion) { Post(completion, 0); }

namespace {
[[noreturn]] void Absent() {
  UMBLOCK_ASSERT(false, "this test reactor has posts only");
  __builtin_unreachable();
}
}  // namespace

void ManualReactor::Arm(Timer*, Time) { Absent(); }
Task<Result<std::unique_ptr<File>>> ManualReactor::OpenFile(OpenFileRequest) { Absent(); }
Task<Result<std::unique_ptr<Stream>>> ManualReactor::Connect(ConnectRequest, CancelToken) {
  Absent();
}
Result<std::unique_ptr<Listener>> ManualReactor::Listen(const ListenRequest&) { Absent(); }
void ManualReactor::StartBlocking(BlockingWork*) { Absent(); }
BufferPool& ManualReactor::buffers() { Absent(); }

// --- disk ----------------------------------------------------------------------------------------

TestDisk::TestDisk(ManualReactor& reactor, uint64_t bytes, DiskContents stable)
    : DeviceBase(reactor, "testdisk"), stable_(std::move(stable)), current_(stable_) {
  geometry_.size = bytes;
}

void TestDisk::Grow(uint64_t bytes) {
  geometry_.size = bytes;
  NotifyObservers();
}

TestDisk::~TestDisk() { UMBLOCK_ASSERT(in_flight_.empty(), "requests are completed"); }

void TestDisk::Submit(BlockIo* io) noexcept {
  UMBLOCK_ASSERT(io->offset % kBlockBytes == 0 && io->length % kBlockBytes == 0,
                 "metadata I/O is done in aligned blocks");
  UMBLOCK_ASSERT(io->offset + io->length <= geometry_.size, "within the device");
  in_flight_.push_back({io, writes_ended_});
}

void TestDisk::Apply(const BlockIo& io) {
  std::vector<std::byte> data(io.length);
  size_t at = 0;
  for (const iovec& part : io.iov) {
    std::memcpy(data.data() + at, part.iov_base, part.iov_len);
    at += part.iov_len;
  }
  ++writes_ended_;
  for (uint64_t i = 0; i < io.length / kBlockBytes; ++i) {
    const uint64_t block = io.offset / kBlockBytes + i;
    DiskBlock& now = current_[block];
    std::memcpy(now.data(), data.data() + i * kBlockBytes, kBlockBytes);
    if (io.fua) {
      stable_[block] = now;
      std::erase_if(unstable_, [block](const Unstable& u) { return u.block == block; });
    } else {
      unstable_.push_back({block, now, writes_ended_});
    }
  }
}

void TestDisk::Complete(size_t index) {
  const InFlight done = in_flight_[index];
  in_flight_.erase(in_flight_.begin() + static_cast<ptrdiff_t>(index));
  BlockIo& io = *done.io;
  if (const int error = fail_if ? fail_if(io) : 0; error != 0) {
    io.done(&io, error);
    return;
  }
  switch (io.op) {
    case IoOp::kRead: {
      const Buffer data = Peek(io.offset, io.length);
      size_t at = 0;
      for (const iovec& part : io.iov) {
        std::memcpy(part.iov_base, data.data() + at, part.iov_len);
        at += part.iov_len;
      }
      break;
    }
    case IoOp::kWrite:
    case IoOp::kWriteZeroes:
      Apply(io);
      break;
    case IoOp::kFlush:
      std::erase_if(unstable_, [&](const Unstable& u) {
        if (u.sequence > done.ended_before) return false;
        stable_[u.block] = u.data;
        return true;
      });
      break;
    case IoOp::kDiscard:
      io.done(&io, EOPNOTSUPP);
      return;
  }
  io.done(&io, 0);
}

DiskContents TestDisk::AfterCrash(std::mt19937_64& random) const {
  DiskContents contents = stable_;
  const uint64_t taste = random() % 4;  // nothing, everything, or a mixture
  const auto lucky = [&] { return taste == 0 ? false : taste == 1 || random() % 2 == 0; };
  for (const Unstable& u : unstable_) {
    if (lucky()) contents[u.block] = u.data;
  }
  for (const InFlight& flight : in_flight_) {
    if (flight.io->op != IoOp::kWrite) continue;
    const auto* data = static_cast<const std::byte*>(flight.io->iov[0].iov_base);
    for (uint64_t i = 0; i < flight.io->length / kBlockBytes; ++i) {
      if (!lucky()) continue;
      std::memcpy(contents[flight.io->offset / kBlockBytes + i].data(), data + i * kBlockBytes,
                  kBlockBytes);
    }
  }
  return contents;
}

Buffer TestDisk::Peek(uint64_t offset, uint64_t length) const {
  Buffer data(length);
  for (uint64_t i = 0; i < length / kBlockBytes; ++i) {
    const auto found = current_.find(offset / kBlockBytes + i);
    if (found != current_.end()) std::ranges::copy(found->second, data.begin() + i * kBlockBytes);
  }
  return data;
}

void TestDisk::Poke(uint64_t offset, Bytes bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    const uint64_t block = (offset + i) / kBlockBytes;
    current_[block][(offset + i) % kBlockBytes] = bytes[i];
    stable_[block] = current_[block];
  }
}

void TestDisk::Save(DiskFile& file) const {
  for (const auto& [block, data] : current_) file.Write(block * kBlockBytes, data);
}

DiskContents TestDisk::Load(const DiskFile& file, uint64_t from, uint64_t to) {
  DiskContents contents;
  for (uint64_t at = AlignDown(from, kBlockBytes); at + kBlockBytes <= to; at += kBlockBytes) {
    const Buffer block = file.Read(at, kBlockBytes);
    if (std::ranges::all_of(block, [](std::byte b) { return b == std::byte{0}; })) continue;
    std::ranges::copy(block, contents[at / kBlockBytes].begin());
  }
  return contents;
}

bool Machine::Step(std::mt19937_64* random) {
  if (disk.in_flight() == 0) return false;
  disk.Complete(random == nullptr ? 0 : (*random)() % disk.in_flight());
  reactor.RunReady();
  return true;
}

}  // namespace umblock::drbd::meta::testing
