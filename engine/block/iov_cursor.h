// IovCursor: walks once through scattered memory, copying to or from a contiguous piece.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

namespace umblock {

class IovCursor {
 public:
  IovCursor() = default;
  explicit IovCursor(std::span<const iovec> iov) : iov_(iov) {}

  // Each moves on by `length` bytes, which the rest has.
  void CopyTo(std::byte* to, size_t length) {
    Walk(length, [&to](void* part, size_t n) {
      std::memcpy(to, part, n);
      to += n;
    });
  }
  void CopyFrom(const std::byte* from, size_t length) {
    Walk(length, [&from](void* part, size_t n) {
      std::memcpy(part, from, n);
      from += n;
    });
  }

 private:
  template <typename Function>
  void Walk(size_t length, Function function) {
    while (length > 0) {
      const iovec& part = iov_.front();
      size_t n = std::min(length, part.iov_len - within_);
      if (n > 0) function(static_cast<char*>(part.iov_base) + within_, n);
      length -= n;
      within_ += n;
      if (within_ < part.iov_len) continue;
      iov_ = iov_.subspan(1);
      within_ = 0;
    }
  }

  std::span<const iovec> iov_;
  size_t within_ = 0;  // bytes into iov_.front()
};

}  // namespace umblock
