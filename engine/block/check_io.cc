#include "engine/block/check_io.h"

#include <cerrno>

namespace umblock {

int CheckIo(const BlockIo& io, uint64_t device_size) {
  if (io.op == IoOp::kFlush) return 0;
  bool transfer = io.op == IoOp::kRead || io.op == IoOp::kWrite;
  uint64_t longest = transfer ? kMaxTransferBytes : kMaxRangeBytes;
  if (io.length == 0 || io.length > longest) return EINVAL;
  if (io.offset % 512 != 0 || io.length % 512 != 0) return EINVAL;
  if (io.offset > device_size || io.length > device_size - io.offset) return EINVAL;
  if (transfer && IovLength(io.iov) != io.length) return EINVAL;
  return 0;
}

}  // namespace umblock
