#include "engine/runtime/uring/uring_mapped_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "engine/base/assert.h"
#include "engine/runtime/blocking.h"
#include "engine/runtime/uring/open_file.h"

namespace umblock {
namespace {

struct Mapping {
  OwnedFd fd;
  MutableBytes bytes;
};

class SharedMapping final : public MappedMemory {
 public:
  SharedMapping(Reactor& reactor, Mapping mapping)
      : reactor_(reactor), fd_(std::move(mapping.fd)), bytes_(mapping.bytes) {}
  ~SharedMapping() override {
    UMBLOCK_ASSERT(bytes_.empty(), "mapped memory is closed before it goes");
  }

  MutableBytes bytes() override { return bytes_; }
  Task<Status> Grow(uint64_t bytes) override;
  Task<void> Close() override {
    MutableBytes bytes = std::exchange(bytes_, {});
    if (bytes.empty()) co_return;
    co_await RunBlocking(reactor_, [this, bytes] {
      munmap(bytes.data(), bytes.size());
      fd_.Reset();
      return 0;
    });
  }

 private:
  Reactor& reactor_;
  OwnedFd fd_;
  MutableBytes bytes_;
};

// The file may be new: its size is set, and room for all of it reserved, before it is used.
Status Reserve(const MapMemoryRequest& request, int fd, uint64_t size) {
  if (fallocate(fd, 0, 0, static_cast<off_t>(size)) == 0) return Ok();
  if (errno == ENOSPC) {
    return MakeError(ErrorCode::kResourceExhausted,
                     "{}: no room for {} bytes where it lies; choose a smaller size, make room, or "
                     "enlarge the tmpfs",
                     request.path, size);
  }
  return std::unexpected(Error::FromErrno(errno, "reserve " + request.path));
}

Task<Status> SharedMapping::Grow(uint64_t bytes) {
  if (bytes <= bytes_.size()) co_return Ok();
  Status reserved = Ok();
  co_await RunBlocking(reactor_, [&] {
    reserved = Reserve({.path = "the file below it"}, fd_.get(), bytes);
    return 0;
  });
  if (!reserved) co_return reserved;
  void* base = mremap(bytes_.data(), bytes_.size(), bytes, MREMAP_MAYMOVE);
  if (base == MAP_FAILED) co_return std::unexpected(Error::FromErrno(errno, "map it anew"));
  bytes_ = {static_cast<std::byte*>(base), bytes};
  co_return Ok();
}

Result<Mapping> Map(const MapMemoryRequest& request) {
  struct stat existing;
  bool created = stat(request.path.c_str(), &existing) != 0;
  auto file = OpenAndExamine({.path = request.path, .create = request.create, .direct = false});
  if (!file) return std::unexpected(file.error());
  if (file->info.is_block_device) {
    return MakeError(ErrorCode::kInvalidArgument, "{} is a block device; memory is a regular file",
                     request.path);
  }
  uint64_t size = request.size != 0 ? request.size : file->info.size;
  created = created && file->info.size == 0;
  if (!created && file->info.size != size) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{} has {} bytes, not {}; give its size, or remove it to make it anew",
                     request.path, file->info.size, size);
  }
  if (size == 0) {
    return MakeError(ErrorCode::kInvalidArgument, "{} is empty; give a size", request.path);
  }
  Status reserved = Reserve(request, file->fd.get(), size);
  if (!reserved) {
    if (created) unlink(request.path.c_str());
    return std::unexpected(reserved.error());
  }
  void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file->fd.get(), 0);
  if (base == MAP_FAILED) {
    return std::unexpected(Error::FromErrno(errno, "map " + request.path));
  }
  return Mapping{std::move(file->fd), {static_cast<std::byte*>(base), size}};
}

}  // namespace

Task<Result<std::unique_ptr<MappedMemory>>> MapSharedMemory(Reactor& reactor,
                                                            MapMemoryRequest request) {
  std::optional<Result<Mapping>> mapped;
  co_await RunBlocking(reactor, [&mapped, &request] {
    mapped.emplace(Map(request));
    return 0;
  });
  if (!*mapped) co_return std::unexpected(mapped->error());
  co_return std::make_unique<SharedMapping>(reactor, std::move(**mapped));
}

}  // namespace umblock
