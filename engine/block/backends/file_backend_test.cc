#include "engine/block/backends/file_backend.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "engine/runtime/testing/loop_reactor.h"
#include "engine/runtime/testing/memory_file.h"

namespace umblock {
namespace {

// Memory at a chosen distance from a page boundary.
class Memory {
 public:
  Memory(size_t bytes, size_t misalignment)
      : base_(static_cast<std::byte*>(
            aligned_alloc(4096, (bytes + misalignment + 4095) / 4096 * 4096 + 4096))),
        data_(base_ + misalignment) {}
  Memory(const Memory&) = delete;
  ~Memory() { free(base_); }
  std::byte* data() { return data_; }

 private:
  std::byte* base_;
  std::byte* data_;
};

struct TestIo : BlockIo {
  TestIo(IoOp operation, uint64_t at, uint64_t bytes, size_t misalignment = 0)
      : BlockIo([](BlockIo* self, int outcome) noexcept {
          auto* io = static_cast<TestIo*>(self);
          EXPECT_FALSE(io->error) << "done is called once";
          io->error = outcome;
        }),
        memory(operation == IoOp::kRead || operation == IoOp::kWrite ? bytes : 1, misalignment),
        part{memory.data(), bytes} {
    op = operation;
    offset = at;
    length = bytes;
    iov = {&part, 1};
  }
  Memory memory;
  iovec part;
  std::optional<int> error;
};

FileInfo Info(uint64_t size, uint32_t offset_alignment, uint32_t memory_alignment = 512) {
  FileInfo info;
  info.size = size;
  info.direct = true;
  info.offset_alignment = offset_alignment;
  info.memory_alignment = memory_alignment;
  info.can_discard = true;
  info.discard_reads_zeroes = true;
  return info;
}

class FileBackendTest : public testing::Test {
 protected:
  void Make(FileInfo info, FileBackendOptions options = {}, uint32_t seed = 1) {
    auto file = std::make_unique<MemoryFile>(reactor_, info, seed);
    file_ = file.get();
    backend_.emplace(reactor_, "backend f", std::move(file), options);
  }
  ~FileBackendTest() override {
    if (backend_) Finish();
  }
  void Finish() {
    EXPECT_EQ(file_->misaligned(), 0) << "the file only sees what its direct I/O takes";
    reactor_.RunTask(backend_->Stop());
    backend_.reset();
  }
  int Do(TestIo& io) {
    backend_->Submit(&io);
    EXPECT_FALSE(io.error) << "never inside Submit";
    reactor_.Advance(1s);
    return io.error.value_or(-1);
  }
  int Write(uint64_t at, uint64_t bytes, char fill, size_t misalignment = 0) {
    TestIo io(IoOp::kWrite, at, bytes, misalignment);
    memset(io.memory.data(), fill, bytes);
    return Do(io);
  }
  char ByteAt(uint64_t at) { return static_cast<char>(file_->bytes()[at]); }

  LoopReactor reactor_;
  MemoryFile* file_ = nullptr;
  std::optional<FileBackend> backend_;
};

TEST_F(FileBackendTest, AlignedRequestsReachTheFileAsTheyAre) {
  Make(Info(1 << 20, 512));
  EXPECT_EQ(Write(512, 1024, 'a'), 0);
  EXPECT_EQ(ByteAt(512 + 1023), 'a');
  TestIo read(IoOp::kRead, 512, 1024);
  EXPECT_EQ(Do(read), 0);
  EXPECT_EQ(memcmp(read.memory.data(), &file_->bytes()[512], 1024), 0);
  EXPECT_EQ(backend_->counters().bytes_copied, 0u);
  EXPECT_EQ(file_->operations(), 2);
}

TEST_F(FileBackendTest, MisalignedMemoryIsCopiedOnceAndCounted) {
  Make(Info(4 << 20, 512));
  EXPECT_EQ(Write(512, 1 << 20, 'a', 4), 0) << "in pieces";
  EXPECT_EQ(backend_->counters().bytes_copied, 1u << 20);
  EXPECT_EQ(ByteAt(512 + (1 << 20) - 1), 'a');
  TestIo read(IoOp::kRead, 0, 2048, 8);
  EXPECT_EQ(Do(read), 0);
  EXPECT_EQ(static_cast<char>(read.memory.data()[511]), 0);
  EXPECT_EQ(static_cast<char>(read.memory.data()[512]), 'a');
  EXPECT_EQ(backend_->counters().bytes_copied, (1u << 20) + 2048);
  EXPECT_EQ(backend_->counters().edge_reads, 0u) << "whole sectors need no reading";
}

TEST_F(FileBackendTest, PartsOfBlocksAreReadChangedAndWritten) {
  Make(Info(1 << 20, 4096));
  EXPECT_EQ(Write(0, 8192, 'o'), 0);
  EXPECT_EQ(Write(4096 - 512, 1024, 'n'), 0);
  EXPECT_EQ(backend_->counters().edge_reads, 2u);
  EXPECT_EQ(ByteAt(4096 - 513), 'o');
  EXPECT_EQ(ByteAt(4096 - 512), 'n');
  EXPECT_EQ(ByteAt(4096 + 511), 'n');
  EXPECT_EQ(ByteAt(4096 + 512), 'o');
  TestIo read(IoOp::kRead, 4096 + 512, 512);
  EXPECT_EQ(Do(read), 0);
  EXPECT_EQ(static_cast<char>(read.memory.data()[0]), 'o');
}

TEST_F(FileBackendTest, DurableWritesStayDurableThroughTheBounce) {
  Make(Info(1 << 20, 4096));
  TestIo whole(IoOp::kWrite, 0, 4096), part(IoOp::kWrite, 512, 512);
  whole.fua = part.fua = true;
  memset(whole.memory.data(), 1, 4096);
  memset(part.memory.data(), 2, 512);
  EXPECT_EQ(Do(whole), 0);
  EXPECT_EQ(Do(part), 0);
  EXPECT_EQ(file_->durable_writes(), 2);
}

TEST_F(FileBackendTest, ZeroesReachTheEdgesOfABlockDevice) {
  FileInfo info = Info(1 << 20, 4096);
  info.is_block_device = true;
  info.logical_block_size = 4096;
  info.discard_reads_zeroes = false;
  Make(info);
  EXPECT_EQ(backend_->geometry().logical_block_size, 4096u);
  ASSERT_EQ(Write(0, 65536, 'x'), 0);
  for (auto [at, length] : std::vector<std::pair<uint64_t, uint64_t>>{
           {512, 512}, {8192, 4096}, {12288 + 512, 4096}, {20480 + 3584, 9216}, {40960, 4608}}) {
    TestIo zero(IoOp::kWriteZeroes, at, length);
    EXPECT_EQ(Do(zero), 0);
    EXPECT_EQ(ByteAt(at), 0) << at;
    EXPECT_EQ(ByteAt(at + length - 1), 0) << at;
    EXPECT_EQ(ByteAt(at - 1), 'x') << at;
    EXPECT_EQ(ByteAt(at + length), 'x') << at;
  }
}

TEST_F(FileBackendTest, ADiscardOfPartsOfABlockDevicesBlocksLeavesThem) {
  FileInfo info = Info(1 << 20, 4096);
  info.is_block_device = true;
  Make(info);
  ASSERT_EQ(Write(0, 65536, 'x'), 0);
  TestIo part(IoOp::kDiscard, 512, 1024), more(IoOp::kDiscard, 512, 8192);
  EXPECT_EQ(Do(part), 0);
  EXPECT_EQ(ByteAt(1024), 'x');
  EXPECT_EQ(Do(more), 0);
  EXPECT_EQ(ByteAt(4095), 'x');
  EXPECT_EQ(ByteAt(4096), 0);
  EXPECT_EQ(ByteAt(8192), 'x');
}

TEST_F(FileBackendTest, RefusesBadRequestsAndWhatIsNotOffered) {
  FileInfo info = Info(1 << 20, 512);
  info.can_discard = false;
  Make(info);
  TestIo beyond(IoOp::kRead, 1 << 20, 512), odd(IoOp::kRead, 100, 512),
      discard(IoOp::kDiscard, 0, 512);
  EXPECT_EQ(Do(beyond), EINVAL);
  EXPECT_EQ(Do(odd), EINVAL);
  EXPECT_EQ(Do(discard), EOPNOTSUPP);
  EXPECT_EQ(file_->operations(), 0);
  EXPECT_EQ(backend_->counters().errors, 3u);
}

TEST_F(FileBackendTest, ErrorsOfTheFileEndARequestAtEveryStep) {
  for (int step = 0; step < 4; ++step) {
    Make(Info(1 << 20, 4096));
    TestIo io(IoOp::kWrite, 512, 8192);  // reads a head and a tail, then writes
    memset(io.memory.data(), 1, 8192);
    file_->FailAfter(step, step == 2 ? ENOSPC : EINVAL);
    EXPECT_EQ(Do(io), step < 2 ? EIO : step == 2 ? ENOSPC : 0);
    file_->FailAfter(-1, 0);
    TestIo next(IoOp::kWrite, 512, 512);
    memset(next.memory.data(), 2, 512);
    EXPECT_EQ(Do(next), 0) << "nothing stays locked";
    Finish();
  }
}

TEST_F(FileBackendTest, MoreRequestsThanSlotsAndBounceMemoryWaitInOrder) {
  Make(Info(16 << 20, 512), {.queue_depth = 4, .bounce_limit_bytes = 1});
  std::deque<TestIo> ios;
  for (uint64_t i = 0; i < 64; ++i) {
    TestIo& io = ios.emplace_back(IoOp::kWrite, i * 65536 * 2, 65536 * 2, i % 3 == 0 ? 0 : 4);
    memset(io.memory.data(), 'a' + static_cast<int>(i % 26), io.length);
    backend_->Submit(&io);
  }
  EXPECT_EQ(backend_->counters().queued, 60u);
  reactor_.Advance(10s);
  for (uint64_t i = 0; i < 64; ++i) {
    EXPECT_EQ(ios[i].error, 0) << i;
    EXPECT_EQ(ByteAt(i * 65536 * 2 + 77), 'a' + static_cast<char>(i % 26));
  }
}

TEST_F(FileBackendTest, StopAwaitsRequestsAndRefusesNewOnes) {
  Make(Info(1 << 20, 512));
  TestIo early(IoOp::kFlush, 0, 0), late(IoOp::kFlush, 0, 0);
  backend_->Submit(&early);
  bool stopped = false;
  TaskGroup group(reactor_);
  group.Spawn([](FileBackend* b, bool* done) -> Task<void> {
    co_await b->Stop();
    *done = true;
  }(&*backend_, &stopped));
  EXPECT_EQ(backend_->access(), Access::kUnavailable);
  backend_->Submit(&late);
  reactor_.RunReady();
  EXPECT_EQ(late.error, ENODEV);
  EXPECT_FALSE(stopped);
  reactor_.Advance(1s);
  EXPECT_EQ(early.error, 0);
  EXPECT_TRUE(stopped);
  backend_.reset();
}

// Many requests at a time on sectors that nobody else uses meanwhile, sharing blocks all the time,
// against a model that knows each sector's last value.
struct Geometry {
  uint32_t offset_alignment;
  uint32_t memory_alignment;
  bool block_device;
};

class FileBackendPropertyTest : public testing::TestWithParam<Geometry> {};

INSTANTIATE_TEST_SUITE_P(Alignments, FileBackendPropertyTest,
                         testing::Values(Geometry{512, 512, false}, Geometry{4096, 512, false},
                                         Geometry{4096, 4096, true}, Geometry{1, 1, false},
                                         Geometry{16384, 4, true}));

class Workload {
 public:
  static constexpr uint64_t kSectors = 1024;

  Workload(FileBackend* backend, uint32_t seed)
      : backend_(backend), random_(seed), model_(kSectors, 0), busy_(kSectors, false) {}

  void Run(int operations) {
    left_ = operations;
    for (int i = 0; i < 24; ++i) Next();
  }
  int left() const { return left_ + in_flight_; }
  uint32_t value(uint64_t sector) const { return model_[sector]; }

 private:
  struct Op : BlockIo {
    explicit Op(Workload* w)
        : BlockIo([](BlockIo* self, int error) noexcept {
            std::unique_ptr<Op> op(static_cast<Op*>(self));
            op->workload->Done(*op, error);
          }),
          workload(w) {}
    Workload* workload;
    std::unique_ptr<Memory> memory;
    std::vector<iovec> parts;
  };

  void Next() {
    if (left_ == 0) return;
    --left_;
    uint64_t count = 1 + random_() % (random_() % 4 == 0 ? 200 : 12);
    uint64_t first = random_() % (kSectors - count + 1);
    while (count > 0 && busy_[first + count - 1]) --count;
    for (uint64_t s = first; s < first + count; ++s) {
      if (busy_[s]) return Next();
    }
    if (count == 0) return Next();
    auto op = std::make_unique<Op>(this);
    op->offset = first * 512;
    op->length = count * 512;
    uint32_t kind = random_() % 8;
    op->op = kind < 2 ? IoOp::kRead : kind == 2 ? IoOp::kWriteZeroes : IoOp::kWrite;
    if (kind == 3)
      op->op = backend_->geometry().discard_reads_zeroes ? IoOp::kDiscard : IoOp::kRead;
    op->fua = random_() % 2 == 0;
    if (op->op == IoOp::kRead || op->op == IoOp::kWrite) Scatter(op.get());
    for (uint64_t s = first; s < first + count; ++s) {
      busy_[s] = true;
      if (op->op == IoOp::kRead) continue;
      model_[s] = op->op == IoOp::kWrite ? static_cast<uint32_t>(random_()) : 0;
      if (op->op == IoOp::kWrite) {
        StoreLe(op->memory->data() + (s - first) * 512, model_[s]);
        StoreLe(op->memory->data() + (s - first) * 512 + 508, ~model_[s]);
      }
    }
    ++in_flight_;
    backend_->Submit(op.release());
  }

  void Scatter(Op* op) {
    size_t misalignment = random_() % 3 == 0 ? 4 * (random_() % 1024) : 0;
    op->memory = std::make_unique<Memory>(op->length, misalignment);
    size_t at = 0;
    while (at < op->length) {
      size_t n =
          std::min<size_t>(op->length - at, random_() % 3 == 0 ? 512 : 1000 * (random_() % 9));
      op->parts.push_back({op->memory->data() + at, n});
      at += n;
    }
    op->iov = op->parts;
  }

  void Done(Op& op, int error) {
    EXPECT_EQ(error, 0);
    --in_flight_;
    for (uint64_t s = op.offset / 512; s < (op.offset + op.length) / 512; ++s) {
      busy_[s] = false;
      if (op.op != IoOp::kRead) continue;
      std::byte* sector = op.memory->data() + (s * 512 - op.offset);
      EXPECT_EQ(LoadLe<uint32_t>(sector), model_[s]) << "sector " << s;
      if (model_[s] != 0) EXPECT_EQ(LoadLe<uint32_t>(sector + 508), ~model_[s]) << "sector " << s;
    }
    Next();
  }

  FileBackend* backend_;
  std::minstd_rand random_;
  std::vector<uint32_t> model_;
  std::vector<bool> busy_;
  int left_ = 0;
  int in_flight_ = 0;
};

TEST_P(FileBackendPropertyTest, ConcurrentRequestsMatchTheModel) {
  for (uint32_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    LoopReactor reactor;
    FileInfo info =
        Info(Workload::kSectors * 512, GetParam().offset_alignment, GetParam().memory_alignment);
    info.is_block_device = GetParam().block_device;
    info.discard_reads_zeroes = !info.is_block_device;
    auto owned = std::make_unique<MemoryFile>(reactor, info, seed);
    MemoryFile* file = owned.get();
    FileBackend backend(reactor, "backend f", std::move(owned), {.queue_depth = 16});
    Workload workload(&backend, seed);
    workload.Run(800);
    reactor.Advance(100s);
    EXPECT_EQ(workload.left(), 0);
    for (uint64_t s = 0; s < Workload::kSectors; ++s) {
      EXPECT_EQ(LoadLe<uint32_t>(&file->bytes()[s * 512]), workload.value(s)) << "sector " << s;
    }
    EXPECT_EQ(file->misaligned(), 0);
    reactor.RunTask(backend.Stop());
  }
}

}  // namespace
}  // namespace umblock
