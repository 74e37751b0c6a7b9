// File: a regular file or block device, read and written by offset.
//
// Completions carry 0 or a negative errno; short transfers are continued inside (a read past the
// end of a file fails with -EIO). Any number of operations may be in flight. Writes are never
// cancelled: Close() awaits them. The destructor asserts that nothing is in flight. With direct
// I/O, offsets and every iovec's length must be multiples of info().offset_alignment and buffer
// addresses of info().memory_alignment. The bytes an operation names stay valid until its
// completion; the array of iovecs itself need not outlive the call. Threading: one reactor.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "engine/base/error.h"
#include "engine/runtime/completion.h"
#include "engine/runtime/task.h"

namespace umblock {

struct OpenFileRequest {
  std::string path;
  bool writable = true;
  bool create = false;            // make a regular file if nothing is there
  bool exclusive_create = false;  // with create: fail if it exists
  uint64_t create_size = 0;       // bytes; a created file gets this size, sparse
  bool direct = true;             // O_DIRECT where the file system offers it
  bool exclusive_use = true;      // take a lock, so that two users of one file are refused
};

struct FileInfo {
  uint64_t size = 0;  // bytes
  bool is_block_device = false;
  bool direct = false;            // direct I/O is in effect
  uint32_t offset_alignment = 1;  // of offsets and lengths, bytes
  uint32_t memory_alignment = 1;  // of buffer addresses, bytes
  uint32_t logical_block_size = 512;
  uint32_t physical_block_size = 4096;
  bool can_discard = false;  // discard or hole punching
  bool discard_reads_zeroes = false;
  uint32_t discard_granularity = 0;
  bool volatile_cache = true;  // completed writes need StartSync to be stable
};

class File {
 public:
  virtual ~File() = default;

  virtual void StartRead(uint64_t offset, std::span<const iovec> buffers, Completion* done) = 0;
  // `durable`: completes only when the data is on stable storage (RWF_DSYNC / FUA).
  virtual void StartWrite(uint64_t offset, std::span<const iovec> buffers, bool durable,
                          Completion* done) = 0;
  // Everything that completed before this started is stable when it completes.
  virtual void StartSync(Completion* done) = 0;
  virtual void StartDiscard(uint64_t offset, uint64_t length, Completion* done) = 0;
  // `may_unmap`: the range may be deallocated as long as it reads as zeroes.
  virtual void StartWriteZeroes(uint64_t offset, uint64_t length, bool may_unmap,
                                Completion* done) = 0;

  virtual const FileInfo& info() const = 0;
  // Makes a regular file this large, sparse; with 0, or for a block device, looks how large it has
  // become. info().size is the larger of that and what it was: a file that has shrunk keeps its
  // size here and fails where it ends. kFailedPrecondition: a block device is not that large.
  virtual Task<Status> Grow(uint64_t bytes);
  virtual Task<void> Close() = 0;

  auto Read(uint64_t offset, std::span<const iovec> buffers) {
    struct Awaiter : CompletionAwaiter<Awaiter> {
      File* file;
      uint64_t at;
      std::span<const iovec> iov;
      Awaiter(File* f, uint64_t o, std::span<const iovec> b) : file(f), at(o), iov(b) {}
      void Start(Completion* c) { file->StartRead(at, iov, c); }
    };
    return Awaiter(this, offset, buffers);
  }
  auto Write(uint64_t offset, std::span<const iovec> buffers, bool durable) {
    struct Awaiter : CompletionAwaiter<Awaiter> {
      File* file;
      uint64_t at;
      std::span<const iovec> iov;
      bool stable;
      Awaiter(File* f, uint64_t o, std::span<const iovec> b, bool d)
          : file(f), at(o), iov(b), stable(d) {}
      void Start(Completion* c) { file->StartWrite(at, iov, stable, c); }
    };
    return Awaiter(this, offset, buffers, durable);
  }
  auto Sync() {
    struct Awaiter : CompletionAwaiter<Awaiter> {
      File* file;
      explicit Awaiter(File* f) : file(f) {}
      void Start(Completion* c) { file->StartSync(c); }
    };
    return Awaiter(this);
  }
};

inline Task<Status> File::Grow(uint64_t) {
  co_return MakeError(ErrorCode::kUnimplemented, "this file cannot grow");
}

}  // namespace umblock
