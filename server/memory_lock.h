// What keeps the daemon out of a trap: the kernel, short of memory, writes pages of a file system
// on one of the daemon's volumes, and the daemon needs memory to take that write.
//
// Locked memory (mlockall) is never paged out, so no request waits for a page of the daemon to be
// read back. Pages are locked as they are first touched (MCL_ONFAULT), also those of ram backends,
// which then cannot be swapped out: a ram backend counts fully against the machine's memory and the
// container's. Memory is locked only where there is no limit to it: under RLIMIT_MEMLOCK each
// mapping beyond the limit would fail (EAGAIN). Source: mlock(2), mmap(2).
//
// A thread that is an I/O flusher is not made to write pages itself, perhaps to its own volumes,
// when it needs memory. Source: PR_SET_IO_FLUSHER(2const), needs CAP_SYS_RESOURCE.
#pragma once

#include <string>

#include "engine/base/error.h"

namespace umblock::server {

enum class LockMemory { kAuto, kOn, kOff };

// For the process: what is there and what comes. True if it is locked. Where it cannot be: false
// with kAuto, and `reason` says why and what to change; an error with kOn.
Result<bool> LockMemoryOfProcess(LockMemory wish, std::string* reason);

// For the calling thread and those that it starts from now on. False: not permitted.
bool BecomeIoFlusher();

}  // namespace umblock::server
