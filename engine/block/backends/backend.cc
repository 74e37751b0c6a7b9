#include "engine/block/backends/backend.h"

#include "engine/block/backends/file_backend.h"
#include "engine/block/backends/ram_backend.h"

namespace umblock {
namespace {

Status CheckSpec(const BackendSpec& spec) {
  if (spec.path.empty()) {
    return MakeError(ErrorCode::kInvalidArgument, "a path is needed");
  }
  if (spec.create && spec.size == 0) {
    return MakeError(ErrorCode::kInvalidArgument, "a size is needed to create {}", spec.path);
  }
  if (spec.create && spec.size % 4096 != 0) {
    return MakeError(ErrorCode::kInvalidArgument, "the size {} is not a multiple of 4096",
                     spec.size);
  }
  if (spec.size > static_cast<uint64_t>(INT64_MAX)) {
    return MakeError(ErrorCode::kInvalidArgument, "the size {} is larger than any file", spec.size);
  }
  return Ok();
}

Status CheckSize(const BackendSpec& spec, uint64_t size, uint32_t alignment) {
  if (size == 0) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{} is empty; remove it and create it with a size", spec.path);
  }
  if (spec.size != 0 && size != spec.size) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{} has {} bytes, not {}; give its size, or none to take it as it is",
                     spec.path, size, spec.size);
  }
  if (size % alignment != 0) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "{} has {} bytes, which is not a multiple of {}; extend it to one", spec.path,
                     size, alignment);
  }
  return Ok();
}

Task<Result<std::unique_ptr<Backend>>> OpenFileBackend(Reactor& reactor, const BackendSpec& spec) {
  auto file = co_await reactor.OpenFile(
      {.path = spec.path, .create = spec.create, .create_size = spec.size});
  if (!file) co_return std::unexpected(file.error());
  Status size = CheckSize(spec, (*file)->info().size, FileBackend::GranularityOf((*file)->info()));
  if (!size) {
    co_await (*file)->Close();
    co_return std::unexpected(size.error());
  }
  co_return std::make_unique<FileBackend>(reactor, "backend " + spec.name, std::move(*file));
}

Task<Result<std::unique_ptr<Backend>>> OpenRamBackend(Reactor& reactor, const BackendSpec& spec) {
  auto memory =
      co_await reactor.MapMemory({.path = spec.path, .size = spec.size, .create = spec.create});
  if (!memory) co_return std::unexpected(memory.error());
  Status size = CheckSize(spec, (*memory)->bytes().size(), 512);
  if (!size) {
    co_await (*memory)->Close();
    co_return std::unexpected(size.error());
  }
  co_return std::make_unique<RamBackend>(reactor, "backend " + spec.name, std::move(*memory));
}

}  // namespace

void Backend::CountStart(const BlockIo& io) {
  switch (io.op) {
    case IoOp::kRead:
      ++counters_.reads;
      counters_.bytes_read += io.length;
      return;
    case IoOp::kWrite:
      ++counters_.writes;
      counters_.bytes_written += io.length;
      return;
    case IoOp::kFlush:
      ++counters_.flushes;
      return;
    case IoOp::kDiscard:
      ++counters_.discards;
      return;
    case IoOp::kWriteZeroes:
      ++counters_.zeroes;
      return;
  }
}

Task<Status> Backend::Grow(uint64_t bytes) {
  if (bytes != 0 && bytes < geometry_.size) {
    co_return MakeError(ErrorCode::kInvalidArgument,
                        "{} has {} bytes: it can become larger, not smaller ({})", name(),
                        geometry_.size, bytes);
  }
  if (bytes % 4096 != 0) {
    co_return MakeError(ErrorCode::kInvalidArgument, "{}: the size {} is not a multiple of 4096",
                        name(), bytes);
  }
  if (stopping_) co_return MakeError(ErrorCode::kUnavailable, "{} is being closed", name());
  Result<uint64_t> size = co_await GrowBelow(bytes);
  if (!size) co_return std::unexpected(size.error().Within(name()));
  const uint64_t usable = *size / geometry_.logical_block_size * geometry_.logical_block_size;
  if (usable <= geometry_.size) co_return Ok();
  geometry_.size = usable;
  NotifyObservers();
  co_return Ok();
}

Task<Result<std::unique_ptr<Backend>>> OpenBackend(Reactor& reactor, BackendSpec spec) {
  std::string context = "backend " + spec.name;
  Status checked = CheckSpec(spec);
  if (!checked) co_return std::unexpected(checked.error().Within(context));
  bool file = spec.kind == BackendKind::kFile;
  auto backend = co_await (file ? OpenFileBackend(reactor, spec) : OpenRamBackend(reactor, spec));
  if (!backend) co_return std::unexpected(backend.error().Within(context));
  co_return std::move(*backend);
}

}  // namespace umblock
