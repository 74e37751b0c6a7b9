// UringOp: an operation that the kernel works on. Its address is the user_data of its entry.
//
// It is embedded in what waits for it (a stream, a pooled file operation, an awaiter) and stays
// where it is until fn has been called, once per submitted entry.
#pragma once

#include <cstdint>

namespace umblock {

struct UringOp {
  // `result` and `flags` as in the kernel's completion (io_uring_enter(2)).
  using Fn = void (*)(UringOp* self, int32_t result, uint32_t flags) noexcept;

  explicit UringOp(Fn function) : fn(function) {}
  UringOp(const UringOp&) = delete;
  UringOp& operator=(const UringOp&) = delete;

  Fn fn;
};

}  // namespace umblock
