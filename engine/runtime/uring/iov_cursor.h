// Moving on in a list of iovecs after a partial transfer.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <vector>

namespace umblock {

// What the kernel takes in one call (UIO_MAXIOV).
inline constexpr size_t kMaxIovecs = 1024;

// Skips `bytes` from (*iov)[*first] on, which the list has.
inline void AdvanceIovecs(std::vector<iovec>* iov, size_t* first, size_t bytes) {
  while (*first < iov->size() && bytes >= (*iov)[*first].iov_len) {
    bytes -= (*iov)[*first].iov_len;
    ++*first;
  }
  if (bytes == 0) return;
  iovec& part = (*iov)[*first];
  part.iov_base = static_cast<char*>(part.iov_base) + bytes;
  part.iov_len -= bytes;
}

}  // namespace umblock
