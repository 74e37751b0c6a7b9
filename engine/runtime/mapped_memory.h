// MappedMemory: a named piece of memory that outlives the process: a file, mapped shared.
//
// It is the bottom of RAM backends. Its contents survive a crash or restart of the daemon, and are
// lost with the machine if the file lies in a tmpfs (/dev/shm, /run); nothing here makes them
// durable. All of it is reserved when it is made or opened, so that storing into it later cannot
// fail (a full file system would kill the process).
// Threading: one reactor; the memory itself may be touched from anywhere until Close.
#pragma once

#include <cstdint>
#include <string>

#include "engine/base/bytes.h"
#include "engine/runtime/task.h"

namespace umblock {

struct MapMemoryRequest {
  std::string path;
  // Bytes. An existing file must have exactly this size; 0: whatever it has.
  uint64_t size = 0;
  bool create = false;  // make it, zeroed, if nothing is there; needs a size
};

class MappedMemory {
 public:
  virtual ~MappedMemory() = default;

  virtual MutableBytes bytes() = 0;
  // Makes file and mapping larger, the new part zeroed and reserved; bytes() moves. Nobody touches
  // the memory meanwhile from another thread.
  virtual Task<Status> Grow(uint64_t bytes);
  // Unmaps it and lets go of the file. Nobody touches the memory any more.
  virtual Task<void> Close() = 0;
};

inline Task<Status> MappedMemory::Grow(uint64_t) {
  co_return MakeError(ErrorCode::kUnimplemented, "this memory cannot grow");
}

}  // namespace umblock
