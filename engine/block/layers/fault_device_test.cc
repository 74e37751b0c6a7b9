#include "engine/block/layers/fault_device.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <vector>

#include "engine/block/backends/ram_backend.h"
#include "engine/runtime/testing/heap_memory.h"
#include "engine/runtime/testing/loop_reactor.h"

namespace umblock {
namespace {

struct TestIo : BlockIo {
  TestIo(IoOp operation, uint64_t at, size_t bytes, char fill = 0)
      : BlockIo([](BlockIo* self, int outcome) noexcept {
          static_cast<TestIo*>(self)->error = outcome;
        }),
        memory(bytes, fill),
        parts{{memory.data(), bytes / 2}, {memory.data() + bytes / 2, bytes - bytes / 2}} {
    op = operation;
    offset = at;
    length = bytes;
    iov = parts;
  }
  std::vector<char> memory;
  iovec parts[2];
  std::optional<int> error;
};

class FaultDeviceTest : public testing::Test {
 protected:
  FaultDeviceTest() : ram_(reactor_, "ram", std::make_unique<HeapMemory>(1 << 20)) {
    faulty_.emplace(ram_, 1);
  }
  ~FaultDeviceTest() override {
    faulty_.reset();
    reactor_.RunTask(ram_.Stop());
  }

  std::optional<int> Do(TestIo& io) {
    faulty_->Submit(&io);
    EXPECT_FALSE(io.error) << "never inside Submit";
    reactor_.RunReady();
    return io.error;
  }
  int Write(uint64_t at, size_t bytes, char fill) {
    TestIo io(IoOp::kWrite, at, bytes, fill);
    return Do(io).value_or(-1);
  }
  char ByteAt(uint64_t at) {
    TestIo io(IoOp::kRead, at / 512 * 512, 512);
    ram_.Submit(&io);
    reactor_.RunReady();
    return io.memory[at % 512];
  }

  LoopReactor reactor_;
  RamBackend ram_;
  std::optional<FaultDevice> faulty_;
};

TEST_F(FaultDeviceTest, WithoutRulesItIsTheDeviceBelow) {
  EXPECT_EQ(Write(4096, 1024, 'x'), 0);
  EXPECT_EQ(ByteAt(4096 + 1023), 'x');
  EXPECT_EQ(faulty_->geometry(), ram_.geometry());
  EXPECT_EQ(faulty_->faults(), 0u);
}

TEST_F(FaultDeviceTest, TheNthWriteFails) {
  faulty_->AddRule({.ops = FaultRule::Bit(IoOp::kWrite), .skip = 2, .count = 1, .error = ENOSPC});
  EXPECT_EQ(Write(0, 512, 'a'), 0);
  TestIo read(IoOp::kRead, 0, 512);
  EXPECT_EQ(Do(read), 0) << "reads are not counted";
  EXPECT_EQ(Write(0, 512, 'b'), 0);
  EXPECT_EQ(Write(0, 512, 'c'), ENOSPC);
  EXPECT_EQ(ByteAt(0), 'b');
  EXPECT_EQ(Write(0, 512, 'd'), 0);
}

TEST_F(FaultDeviceTest, ARuleMayLimitItselfToARange) {
  faulty_->AddRule({.begin = 8192, .end = 8704});
  EXPECT_EQ(Write(4096, 4096, 'a'), 0);
  EXPECT_EQ(Write(8704, 512, 'a'), 0);
  EXPECT_EQ(Write(8192 - 512, 1024, 'a'), EIO);
  TestIo flush(IoOp::kFlush, 0, 0);
  flush.length = 0;
  EXPECT_EQ(Do(flush), EIO) << "a flush touches everything";
}

TEST_F(FaultDeviceTest, ChanceComesFromTheSeed) {
  auto outcomes = [this](uint64_t seed) {
    FaultDevice device(ram_, seed);
    device.AddRule({.per_mille = 300});
    std::string text;
    for (int i = 0; i < 200; ++i) {
      TestIo io(IoOp::kRead, 0, 512);
      device.Submit(&io);
      reactor_.RunReady();
      text.push_back(io.error == 0 ? '.' : 'E');
    }
    return text;
  };
  std::string first = outcomes(7);
  EXPECT_EQ(first, outcomes(7));
  EXPECT_NE(first, outcomes(8));
  auto errors = std::count(first.begin(), first.end(), 'E');
  EXPECT_GT(errors, 20);
  EXPECT_LT(errors, 100);
}

TEST_F(FaultDeviceTest, ADelayedWriteArrivesLater) {
  faulty_->AddRule({.action = FaultRule::Action::kDelay, .delay = 5ms});
  TestIo io(IoOp::kWrite, 0, 512, 'z');
  EXPECT_EQ(Do(io), std::nullopt);
  EXPECT_EQ(ByteAt(0), 0);
  reactor_.Advance(5ms);
  EXPECT_EQ(io.error, 0);
  EXPECT_EQ(ByteAt(0), 'z');
}

TEST_F(FaultDeviceTest, ATornWriteLeavesItsBeginning) {
  faulty_->AddRule({.action = FaultRule::Action::kTear, .count = 1, .keep = 1536});
  EXPECT_EQ(Write(0, 2048, 't'), EIO);
  EXPECT_EQ(ByteAt(1535), 't');
  EXPECT_EQ(ByteAt(1536), 0);
  faulty_->ClearRules();
  faulty_->AddRule({.action = FaultRule::Action::kTear});
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Write(65536, 4096, 'u'), EIO);
  EXPECT_EQ(ByteAt(65536 + 4095), 0) << "a drawn cut is always less than all";
  TestIo read(IoOp::kRead, 0, 512);
  EXPECT_EQ(Do(read), 0) << "only writes tear";
}

TEST_F(FaultDeviceTest, HangingRequestsWaitForTheirRelease) {
  faulty_->AddRule({.action = FaultRule::Action::kHang, .count = 3});
  TestIo a(IoOp::kWrite, 0, 512, 'a'), b(IoOp::kWrite, 0, 512, 'b'), c(IoOp::kFlush, 0, 0);
  EXPECT_EQ(Do(a), std::nullopt);
  EXPECT_EQ(Do(b), std::nullopt);
  reactor_.Advance(1h);
  EXPECT_EQ(faulty_->hanging(), 2u);
  EXPECT_EQ(ByteAt(0), 0);
  faulty_->Release();
  reactor_.RunReady();
  EXPECT_EQ(a.error, 0);
  EXPECT_EQ(b.error, 0);
  EXPECT_EQ(ByteAt(0), 'b');
  EXPECT_EQ(Do(c), std::nullopt);
  faulty_->Release(EIO);
  reactor_.RunReady();
  EXPECT_EQ(c.error, EIO);
  EXPECT_EQ(faulty_->in_flight(), 0u);
}

}  // namespace
}  // namespace umblock
