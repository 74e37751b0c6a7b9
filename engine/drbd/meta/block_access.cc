#include "engine/drbd/meta/block_access.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "engine/base/assert.h"
#include "engine/drbd/meta/constants.h"

namespace umblock::drbd::meta {
namespace {

constexpr std::align_val_t kAlignment{kBlockBytes};

// Marks the piece buffer as in use for as long as an operation runs.
class Busy {
 public:
  explicit Busy(bool& flag) : flag_(flag) {
    UMBLOCK_ASSERT(!flag_, "one operation at a time on a BlockAccess");
    flag_ = true;
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;
  ~Busy() { flag_ = false; }

 private:
  bool& flag_;
};

}  // namespace

AlignedBytes::AlignedBytes(size_t bytes)
    : data_(static_cast<std::byte*>(::operator new(bytes, kAlignment))), size_(bytes) {
  std::memset(data_.get(), 0, bytes);
}

void AlignedBytes::Free::operator()(std::byte* data) const { ::operator delete(data, kAlignment); }

BlockAccess::BlockAccess(BlockDevice& device, size_t piece_bytes)
    : device_(device), piece_(piece_bytes) {}

Error BlockAccess::Failed(int error, std::string_view verb, std::string_view what,
                          uint64_t offset) const {
  return Error::FromErrno(error,
                          fmt::format("{}: {} {} at byte {}", device_.name(), verb, what, offset));
}

Task<Status> BlockAccess::ReadPiece(std::string_view what, uint64_t offset, size_t bytes) {
  const Busy busy(busy_);
  const iovec iov = piece_.iov(bytes);
  const int error = co_await device_.Read(offset, {&iov, 1});
  if (error != 0) co_return std::unexpected(Failed(error, "reading", what, offset));
  co_return Ok();
}

Task<Status> BlockAccess::WritePiece(std::string_view what, uint64_t offset, size_t bytes) {
  const Busy busy(busy_);
  const iovec iov = piece_.iov(bytes);
  const int error = co_await device_.Write(offset, {&iov, 1}, false);
  if (error != 0) co_return std::unexpected(Failed(error, "writing", what, offset));
  co_return Ok();
}

Task<Status> BlockAccess::Read(std::string_view what, uint64_t offset, MutableBytes into) {
  while (!into.empty()) {
    const size_t n = std::min(piece_.size(), into.size());
    UMBLOCK_CO_TRY(co_await ReadPiece(what, offset, n));
    std::memcpy(into.data(), piece_.bytes().data(), n);
    into = into.subspan(n);
    offset += n;
  }
  co_return Ok();
}

Task<Status> BlockAccess::Write(std::string_view what, uint64_t offset, Bytes from) {
  while (!from.empty()) {
    const size_t n = std::min(piece_.size(), from.size());
    std::memcpy(piece_.bytes().data(), from.data(), n);
    UMBLOCK_CO_TRY(co_await WritePiece(what, offset, n));
    from = from.subspan(n);
    offset += n;
  }
  co_return Ok();
}

Task<Status> BlockAccess::WriteZeroes(std::string_view what, uint64_t offset, uint64_t length) {
  const Busy busy(busy_);
  bool by_hand = !device_.geometry().can_write_zeroes;
  std::ranges::fill(piece_.bytes(), std::byte{0});
  while (length > 0) {
    const uint64_t n = std::min<uint64_t>(length, by_hand ? piece_.size() : kMaxRangeBytes);
    int error = 0;
    if (by_hand) {
      const iovec iov = piece_.iov(n);
      error = co_await device_.Write(offset, {&iov, 1}, false);
    } else {
      error = co_await device_.WriteZeroes(offset, n, false);
    }
    if (error == EOPNOTSUPP && !by_hand) {
      by_hand = true;
      continue;
    }
    if (error != 0) co_return std::unexpected(Failed(error, "zeroing", what, offset));
    offset += n;
    length -= n;
  }
  co_return Ok();
}

Task<Status> BlockAccess::Flush(std::string_view what) {
  if (!flushes_) co_return Ok();
  const int error = co_await device_.Flush();
  if (error != 0) {
    co_return std::unexpected(
        Error::FromErrno(error, fmt::format("{}: flushing {}", device_.name(), what)));
  }
  co_return Ok();
}

Task<Status> BlockAccess::WriteBlockDurably(std::string_view what, uint64_t offset, Bytes block) {
  UMBLOCK_ASSERT(block.size() == kBlockBytes && offset % kBlockBytes == 0, "one aligned block");
  const Busy busy(busy_);
  std::memcpy(piece_.bytes().data(), block.data(), block.size());
  UMBLOCK_CO_TRY(co_await Flush(what));
  const iovec iov = piece_.iov(block.size());
  const int error = co_await device_.Write(offset, {&iov, 1}, flushes_);
  if (error != 0) co_return std::unexpected(Failed(error, "writing", what, offset));
  co_return Ok();
}

}  // namespace umblock::drbd::meta
