#include "engine/block/check_io.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <vector>

namespace umblock {
namespace {

int Check(IoOp op, uint64_t offset, uint64_t length, uint64_t size = 1 << 20) {
  std::vector<char> memory(op == IoOp::kRead && length <= (4 << 20) ? length : 0);
  iovec iov[2] = {{memory.data(), memory.size() / 2},
                  {memory.data() + memory.size() / 2, memory.size() - memory.size() / 2}};
  BlockIo io(nullptr);
  io.op = op;
  io.offset = offset;
  io.length = length;
  io.iov = iov;
  return CheckIo(io, size);
}

TEST(CheckIoTest, TakesWhatFits) {
  EXPECT_EQ(Check(IoOp::kRead, 0, 512), 0);
  EXPECT_EQ(Check(IoOp::kRead, (1 << 20) - 512, 512), 0);
  EXPECT_EQ(Check(IoOp::kRead, 0, 1 << 20), 0);
  EXPECT_EQ(Check(IoOp::kDiscard, 0, kMaxRangeBytes, kMaxRangeBytes), 0);
  EXPECT_EQ(Check(IoOp::kFlush, 0, 0), 0);
}

TEST(CheckIoTest, RefusesTheRest) {
  EXPECT_EQ(Check(IoOp::kRead, 0, 0), EINVAL);
  EXPECT_EQ(Check(IoOp::kRead, 1, 512), EINVAL);
  EXPECT_EQ(Check(IoOp::kRead, 0, 511), EINVAL);
  EXPECT_EQ(Check(IoOp::kRead, 1 << 20, 512), EINVAL);
  EXPECT_EQ(Check(IoOp::kRead, 512, 1 << 20), EINVAL);
  EXPECT_EQ(Check(IoOp::kRead, 0, kMaxTransferBytes + 512, 8 << 20), EINVAL);
  EXPECT_EQ(Check(IoOp::kDiscard, 0, kMaxRangeBytes + 512, uint64_t{1} << 40), EINVAL);
  EXPECT_EQ(Check(IoOp::kWriteZeroes, ~uint64_t{0} - 511, 512), EINVAL) << "the sum wraps round";
  EXPECT_EQ(Check(IoOp::kWrite, 0, 512), EINVAL) << "its memory has no bytes";
}

}  // namespace
}  // namespace umblock
