#include "engine/base/assert.h"

#include <cstdio>
#include <cstdlib>

namespace umblock {

void AssertionFailed(const char* condition, const char* message, const char* file,
                     int line) noexcept {
  std::fprintf(stderr, "umblock: invariant broken: %s (%s) at %s:%d\n", message, condition, file,
               line);
  std::fflush(stderr);
  std::abort();
}

}  // namespace umblock
