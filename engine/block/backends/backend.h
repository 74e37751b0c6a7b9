// Backend: a device at the bottom, over a file, a block device or memory.
//
// Life cycle: OpenBackend gives it ready for use. Before it is destroyed its openers and observers
// have gone and Stop has been awaited.
#pragma once

#include <memory>
#include <string>

#include "engine/block/device_base.h"

namespace umblock {

enum class BackendKind : uint8_t {
  kFile,  // a regular file or a block device
  kRam,   // memory that outlives the daemon: a shared mapping of a file, usually in a tmpfs
};

struct BackendSpec {
  std::string name;
  BackendKind kind = BackendKind::kFile;
  std::string path;
  // Bytes, a multiple of 4096 to create. What exists must have exactly this size; 0: takes it as
  // it is.
  uint64_t size = 0;
  bool create = false;  // make the file if nothing is there; a kFile is sparse, a kRam reserved
};

// Since the backend was opened. Of its reactor.
struct BackendCounters {
  uint64_t reads = 0;
  uint64_t writes = 0;
  uint64_t flushes = 0;
  uint64_t discards = 0;
  uint64_t zeroes = 0;
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
  uint64_t bytes_copied = 0;  // kFile: through bounce buffers; kRam: all of them
  uint64_t edge_reads = 0;    // blocks read so that a part of them could be written
  uint64_t queued = 0;        // requests that waited for a free slot
  uint64_t errors = 0;        // requests that failed
};

class Backend : public DeviceBase {
 public:
  using DeviceBase::DeviceBase;

  // Refuses new requests with ENODEV, awaits those in flight, lets go of the file.
  virtual Task<void> Stop() = 0;

  // Makes it larger: bytes, a multiple of 4096; 0: looks whether what is below has grown. Observers
  // hear of the new size. kInvalidArgument: smaller than it is. Otherwise as OpenBackend.
  Task<Status> Grow(uint64_t bytes);

  const BlockGeometry& geometry() const override { return geometry_; }
  Access access() const override { return stopping_ ? Access::kUnavailable : Access::kReadWrite; }
  std::string access_reason() const override { return stopping_ ? "it is being detached" : ""; }
  const BackendCounters& counters() const { return counters_; }

 protected:
  void CountStart(const BlockIo& io);
  // What is below, to `bytes` or as it is; the size afterwards.
  virtual Task<Result<uint64_t>> GrowBelow(uint64_t bytes) = 0;

  BlockGeometry geometry_;
  BackendCounters counters_;
  bool stopping_ = false;
};

// kInvalidArgument, kNotFound (no such file or directory), kFailedPrecondition (in use, wrong
// size), kResourceExhausted (no room): messages start with the backend's name.
Task<Result<std::unique_ptr<Backend>>> OpenBackend(Reactor& reactor, BackendSpec spec);

}  // namespace umblock
