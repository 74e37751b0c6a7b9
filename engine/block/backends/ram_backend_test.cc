#include "engine/block/backends/ram_backend.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <vector>

#include "engine/runtime/testing/heap_memory.h"
#include "engine/runtime/testing/loop_reactor.h"

namespace umblock {
namespace {

struct TestIo : BlockIo {
  TestIo(IoOp operation, uint64_t at, uint64_t bytes, char fill = 0)
      : BlockIo([](BlockIo* self, int outcome) noexcept {
          static_cast<TestIo*>(self)->error = outcome;
        }),
        memory(bytes <= kMaxTransferBytes ? bytes : 0, fill),
        part{memory.data(), memory.size()} {
    op = operation;
    offset = at;
    length = bytes;
    iov = {&part, 1};
  }
  std::vector<char> memory;
  iovec part;
  std::optional<int> error;
};

class RamBackendTest : public testing::Test {
 protected:
  RamBackendTest() : ram_(reactor_, "ram", std::make_unique<HeapMemory>(size_t{4} << 20)) {}
  ~RamBackendTest() override {
    if (!stopped_) reactor_.RunTask(ram_.Stop());
  }

  LoopReactor reactor_;
  RamBackend ram_;
  bool stopped_ = false;
};

TEST_F(RamBackendTest, ARequestSeesThoseSubmittedBefore) {
  TestIo write(IoOp::kWrite, 0, 8192, 'a'), zero(IoOp::kWriteZeroes, 4096, 4096),
      read(IoOp::kRead, 0, 8192), flush(IoOp::kFlush, 0, 0);
  for (TestIo* io : {&write, &zero, &read, &flush}) {
    ram_.Submit(io);
    EXPECT_FALSE(io->error) << "never inside Submit";
  }
  reactor_.RunReady();
  for (TestIo* io : {&write, &zero, &read, &flush}) EXPECT_EQ(io->error, 0);
  EXPECT_EQ(read.memory[4095], 'a');
  EXPECT_EQ(read.memory[4096], 0);
  EXPECT_EQ(ram_.counters().bytes_copied, 16384u);
}

TEST_F(RamBackendTest, LargeZeroesLetOthersRun) {
  TestIo fill(IoOp::kWrite, (4 << 20) - 512, 512, 'x'), zero(IoOp::kWriteZeroes, 0, 4 << 20);
  ram_.Submit(&fill);
  ram_.Submit(&zero);
  struct Other : Completion {
    Other(TestIo* z)
        : Completion([](Completion* self, int32_t) noexcept {
            auto* other = static_cast<Other*>(self);
            other->before = !other->zero->error.has_value();
          }),
          zero(z) {}
    TestIo* zero;
    bool before = false;
  } other(&zero);
  reactor_.Post(&other);
  reactor_.RunReady();
  EXPECT_TRUE(other.before);
  EXPECT_EQ(zero.error, 0);
  TestIo read(IoOp::kRead, (4 << 20) - 512, 512, 'y');
  ram_.Submit(&read);
  reactor_.RunReady();
  EXPECT_EQ(read.memory[511], 0);
}

TEST_F(RamBackendTest, RefusesWhatItCannotDo) {
  TestIo discard(IoOp::kDiscard, 0, 512), beyond(IoOp::kRead, 4 << 20, 512);
  ram_.Submit(&discard);
  ram_.Submit(&beyond);
  reactor_.RunReady();
  EXPECT_EQ(discard.error, EOPNOTSUPP);
  EXPECT_EQ(beyond.error, EINVAL);
  EXPECT_FALSE(ram_.geometry().can_discard);
  EXPECT_FALSE(ram_.geometry().volatile_cache);
}

TEST_F(RamBackendTest, StopAwaitsRequestsAndRefusesNewOnes) {
  TestIo early(IoOp::kWriteZeroes, 0, 4 << 20), late(IoOp::kFlush, 0, 0);
  ram_.Submit(&early);
  TaskGroup group(reactor_);
  group.Spawn(ram_.Stop());
  ram_.Submit(&late);
  reactor_.RunReady();
  EXPECT_EQ(early.error, 0);
  EXPECT_EQ(late.error, ENODEV);
  EXPECT_EQ(group.running(), 0);
  EXPECT_EQ(ram_.access(), Access::kUnavailable);
  stopped_ = true;
}

}  // namespace
}  // namespace umblock
