#include "engine/block/layers/deadline_device.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "engine/runtime/testing/loop_reactor.h"

namespace umblock {
namespace {

// Ends requests when the test says so.
class ManualDevice final : public DeviceBase {
 public:
  explicit ManualDevice(Reactor& reactor) : DeviceBase(reactor, "backend manual") {
    geometry_.size = 1 << 20;
  }
  void Submit(BlockIo* io) noexcept override { waiting.push_back(io); }
  const BlockGeometry& geometry() const override { return geometry_; }
  Access access() const override { return Access::kReadWrite; }
  std::string access_reason() const override { return ""; }

  void End(int error, uint8_t fill = 0) {
    BlockIo* io = waiting.front();
    waiting.pop_front();
    if (io->op == IoOp::kRead) {
      for (const iovec& part : io->iov) memset(part.iov_base, fill, part.iov_len);
    }
    io->done(io, error);
  }
  std::deque<BlockIo*> waiting;

 private:
  BlockGeometry geometry_;
};

struct TestIo : BlockIo {
  TestIo(IoOp what, size_t bytes, uint8_t fill)
      : BlockIo([](BlockIo* self, int e) noexcept {
          ++static_cast<TestIo*>(self)->ends;
          static_cast<TestIo*>(self)->error = e;
        }),
        data(bytes, fill) {
    op = what;
    length = bytes;
    parts[0] = {data.data(), bytes / 2};
    parts[1] = {data.data() + bytes / 2, bytes - bytes / 2};
    if (bytes > 0) iov = {parts, 2};
    scratch = this;  // the submitter's
  }
  std::vector<uint8_t> data;
  iovec parts[2];
  int ends = 0;
  int error = -1;
};

class DeadlineDeviceTest : public testing::Test, protected DeadlineDevice::Owner {
 protected:
  DeadlineDeviceTest() : below_(reactor_), device_(DeadlineDevice::Make(below_, 2s, this)) {}
  ~DeadlineDeviceTest() override {
    if (device_ != nullptr) device_->Release();
    while (!below_.waiting.empty()) below_.End(0);
    reactor_.RunReady();
  }
  void OnDeadline(IoOp op, Duration age) override {
    late.push_back(op);
    age_ = age;
  }

  LoopReactor reactor_;
  ManualDevice below_;
  DeadlineDevice* device_;
  std::vector<IoOp> late;
  Duration age_{};
};

TEST_F(DeadlineDeviceTest, PassesEverythingThrough) {
  TestIo write(IoOp::kWrite, 8192, 0x11);
  TestIo read(IoOp::kRead, 4096, 0);
  TestIo flush(IoOp::kFlush, 0, 0);
  for (TestIo* io : {&write, &read, &flush}) device_->Submit(io);
  ASSERT_EQ(below_.waiting.size(), 3u);
  EXPECT_EQ(static_cast<uint8_t*>(below_.waiting[0]->iov[0].iov_base)[8191], 0x11);
  below_.End(0);
  below_.End(0, 0x77);
  below_.End(EIO);
  EXPECT_EQ(write.error, 0);
  EXPECT_EQ(read.error, 0);
  EXPECT_EQ(read.data, std::vector<uint8_t>(4096, 0x77));
  EXPECT_EQ(flush.error, EIO);
  EXPECT_EQ(write.scratch, &write);
  reactor_.Advance(10s);
  EXPECT_TRUE(late.empty());
}

TEST_F(DeadlineDeviceTest, TheOwnerIsToldOnceWhenTheOldestIsTooOld) {
  TestIo first(IoOp::kWrite, 4096, 1);
  TestIo second(IoOp::kRead, 4096, 1);
  device_->Submit(&first);
  reactor_.Advance(1500ms);
  device_->Submit(&second);
  below_.End(0);  // in time; the second one's clock counts now
  reactor_.Advance(1900ms);
  EXPECT_TRUE(late.empty());
  reactor_.Advance(200ms);
  ASSERT_EQ(late.size(), 1u);
  EXPECT_EQ(late[0], IoOp::kRead);
  EXPECT_GE(age_, 2s);
  reactor_.Advance(10s);
  EXPECT_EQ(late.size(), 1u);
  EXPECT_EQ(second.ends, 0);  // what follows is the owner's to decide
}

TEST_F(DeadlineDeviceTest, WhatIsAbortedIsAnsweredAndTouchesNothingLater) {
  auto write = std::make_unique<TestIo>(IoOp::kWrite, 4096, 0x22);
  auto read = std::make_unique<TestIo>(IoOp::kRead, 4096, 0x33);
  device_->Submit(write.get());
  device_->Submit(read.get());
  device_->Abort();
  EXPECT_EQ(write->error, ETIMEDOUT);
  EXPECT_EQ(read->error, ETIMEDOUT);
  EXPECT_EQ(below_.adrift, 2u);
  // The caller uses its memory for something else, or gives it back.
  std::vector<uint8_t> seen = read->data;
  const auto* below = static_cast<uint8_t*>(below_.waiting[0]->iov[0].iov_base);
  std::fill(write->data.begin(), write->data.end(), uint8_t{0xff});
  EXPECT_EQ(below[0], 0x22);
  EXPECT_EQ(below[4095], 0x22);
  below_.waiting.push_back(below_.waiting.front());  // the read's end comes first
  below_.waiting.pop_front();
  below_.End(0, 0x99);
  EXPECT_EQ(read->data, seen);
  read.reset();
  write.reset();
  below_.End(0);
  EXPECT_EQ(below_.adrift, 0u);
}

TEST_F(DeadlineDeviceTest, WhatComesAfterAnAbortFailsAtOnceAndNotInsideSubmit) {
  device_->Abort();
  TestIo late_io(IoOp::kWrite, 4096, 1);
  device_->Submit(&late_io);
  EXPECT_EQ(late_io.ends, 0);
  reactor_.RunReady();
  EXPECT_EQ(late_io.error, ETIMEDOUT);
  EXPECT_EQ(late_io.scratch, &late_io);
  EXPECT_TRUE(below_.waiting.empty());
}

TEST_F(DeadlineDeviceTest, IsThereUntilTheLastHasComeBack) {
  TestIo write(IoOp::kWrite, 1 << 20, 0x44);
  device_->Submit(&write);
  std::exchange(device_, nullptr)->Release();
  EXPECT_EQ(write.error, ETIMEDOUT);
  EXPECT_EQ(below_.adrift, 1u);
  EXPECT_EQ(static_cast<uint8_t*>(below_.waiting[0]->iov[0].iov_base)[(1 << 20) - 1], 0x44);
  below_.End(0);
  EXPECT_EQ(below_.adrift, 0u);
  EXPECT_EQ(write.ends, 1);
}

}  // namespace
}  // namespace umblock
