// Invariants, checked in every build.
//
// UMBLOCK_ASSERT(cond, "what broke") stops the process: a storage engine that has left its
// invariants must not write another byte. It is for the engine's own mistakes. What a peer, an
// initiator, a client or a disk may do wrong is an Error (engine/base/error.h), never an assertion.
#pragma once

namespace umblock {

[[noreturn]] void AssertionFailed(const char* condition, const char* message, const char* file,
                                  int line) noexcept;

}  // namespace umblock

#define UMBLOCK_ASSERT(condition, message)                                   \
  do {                                                                       \
    if (!(condition)) [[unlikely]]                                           \
      ::umblock::AssertionFailed(#condition, (message), __FILE__, __LINE__); \
  } while (false)
