#include "server/memory_lock.h"

#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace umblock::server {
namespace {

constexpr const char* kRemedy =
    "allow it with 'ulimit -l unlimited' (LimitMEMLOCK=infinity, docker run --ulimit memlock=-1) "
    "or CAP_IPC_LOCK, or say --lock-memory off";

// The limit in bytes, or RLIM_INFINITY where it does not hold. CAP_IPC_LOCK lifts it only in the
// first user namespace, so that is tried: nothing is touched of a mapping that is not accessible.
rlim_t MemlockLimit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
    return RLIM_INFINITY;
  }
  const size_t more = limit.rlim_cur + static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  void* locked = ::mmap(nullptr, more, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_LOCKED, -1, 0);
  if (locked == MAP_FAILED) return limit.rlim_cur;
  ::munmap(locked, more);
  return RLIM_INFINITY;
}

std::string WhyNotLocked() {
  const rlim_t limit = MemlockLimit();
  if (limit != RLIM_INFINITY) {
    return fmt::format("only {} KiB may be locked (RLIMIT_MEMLOCK); {}", limit >> 10, kRemedy);
  }
  if (::mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0) {
    return fmt::format("{}; {}", std::strerror(errno), kRemedy);
  }
  return {};
}

}  // namespace

Result<bool> LockMemoryOfProcess(LockMemory wish, std::string* reason) {
  if (wish == LockMemory::kOff) {
    *reason = "--lock-memory off";
    return false;
  }
  *reason = WhyNotLocked();
  if (reason->empty()) return true;
  if (wish == LockMemory::kAuto) return false;
  return MakeError(ErrorCode::kResourceExhausted, "--lock-memory on: {}", *reason);
}

bool BecomeIoFlusher() { return ::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0; }

}  // namespace umblock::server
