// LogicalUnit: the commands that take several steps on the medium.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "engine/scsi/logical_unit.h"

namespace umblock::scsi {
namespace {

constexpr size_t kScratchBytes = 128 * 1024;

bool NeedsScratch(CommandKind kind) { return kind != CommandKind::kUnmap; }

size_t FirstDifference(Bytes a, Bytes b) {
  return static_cast<size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

bool AllZero(Bytes bytes) {
  return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace

Task<void> LogicalUnit::RunSteps(Request* request) {
  Buffer scratch;
  if (NeedsScratch(request->command.kind())) {
    // Never waits: the request holds a buffer already, and requests that hold one and wait for
    // another would wait for each other.
    scratch = device_.reactor().buffers().TryAllocate(kScratchBytes);
    if (!scratch) {
      request->status = ScsiStatus::kTaskSetFull;
      Finish(request);
      co_return;
    }
  }
  int error = 0;
  switch (request->command.kind()) {
    case CommandKind::kVerify:
      error = co_await Verify(request, scratch);
      break;
    case CommandKind::kWriteAndVerify:
      error = co_await WriteAndVerify(request, scratch);
      break;
    case CommandKind::kCompareAndWrite:
      error = co_await CompareAndWrite(request, scratch);
      break;
    case CommandKind::kOrWrite:
      error = co_await OrWrite(request, scratch);
      break;
    case CommandKind::kWriteSame:
      error = co_await WriteSame(request, scratch);
      break;
    default:
      error = co_await Unmap(request);
      break;
  }
  scratch.Release();
  if (error != 0) request->Fail(SenseFor(error, request->command.info->writes));
  Finish(request);
}

// PREEMPT AND ABORT answers when the tasks that it ended are over (SPC-4 §5.12.11.2.7). Requests of
// this kind are not waited for: two that abort each other would never end.
bool LogicalUnit::AnyRunningOf(const std::vector<std::string>& ports) const {
  return std::ranges::any_of(requests_, [&ports](const Request& other) {
    return other.aborted && other.command.kind() != CommandKind::kPersistentReserveOut &&
           std::ranges::find(ports, other.nexus->nexus().identity().initiator_port) != ports.end();
  });
}

Task<void> LogicalUnit::ReserveOutSteps(Request* request) {
  std::vector<std::string> victims = PersistentReserveOut(request);
  while (!victims.empty() && AnyRunningOf(victims)) co_await changed_.Wait();
  Finish(request);
}

// Reads the range in pieces; with `expected` not empty it is compared, and the first difference
// fails the request with MISCOMPARE and its offset.
Task<int> LogicalUnit::Compare(Request* request, Buffer& scratch, uint64_t offset, Bytes expected) {
  uint64_t length = uint64_t{request->command.blocks} * options_.block_size;
  for (uint64_t at = 0; at < length; at += kScratchBytes) {
    size_t piece = static_cast<size_t>(std::min<uint64_t>(kScratchBytes, length - at));
    iovec data = scratch.iov(piece);
    int error = co_await device_.Read(offset + at, std::span(&data, 1));
    if (error != 0) co_return error;
    if (expected.empty()) continue;
    size_t same = FirstDifference(scratch.first(piece), expected.subspan(at, piece));
    if (same == piece) continue;
    request->Fail(kMiscompare.WithInformation(at + same));
    co_return 0;
  }
  co_return 0;
}

Task<int> LogicalUnit::Verify(Request* request, Buffer& scratch) {
  uint64_t offset = request->command.lba * options_.block_size;
  Bytes expected;
  if (request->command.bytchk != 0) expected = request->buffer.first(request->data_out_received);
  co_return co_await Compare(request, scratch, offset, expected);
}

Task<int> LogicalUnit::WriteAndVerify(Request* request, Buffer& scratch) {
  uint64_t offset = request->command.lba * options_.block_size;
  size_t length = size_t{request->command.blocks} * options_.block_size;
  if (length == 0) co_return 0;
  iovec data = request->buffer.iov(length);
  int error = co_await device_.Write(offset, std::span(&data, 1), true);
  if (error != 0) co_return error;
  Bytes expected;
  if (request->command.bytchk != 0) expected = request->buffer.first(length);
  co_return co_await Compare(request, scratch, offset, expected);
}

Task<int> LogicalUnit::CompareAndWrite(Request* request, Buffer& scratch) {
  uint64_t offset = request->command.lba * options_.block_size;
  size_t length = size_t{request->command.blocks} * options_.block_size;
  if (length == 0) co_return 0;
  int error = co_await Compare(request, scratch, offset, request->buffer.first(length));
  if (error != 0 || request->status != ScsiStatus::kGood) co_return error;
  iovec data = request->buffer.iov(length, length);
  bool fua = request->command.fua || !modes_.write_cache;
  co_return co_await device_.Write(offset, std::span(&data, 1), fua);
}

Task<int> LogicalUnit::OrWrite(Request* request, Buffer& scratch) {
  uint64_t offset = request->command.lba * options_.block_size;
  size_t length = size_t{request->command.blocks} * options_.block_size;
  std::byte* bytes = request->buffer.data();
  if (length == 0) co_return 0;
  for (size_t at = 0; at < length; at += kScratchBytes) {
    size_t piece = std::min(kScratchBytes, length - at);
    iovec data = scratch.iov(piece);
    int error = co_await device_.Read(offset + at, std::span(&data, 1));
    if (error != 0) co_return error;
    for (size_t i = 0; i < piece; ++i) bytes[at + i] |= scratch.data()[i];
  }
  iovec data = request->buffer.iov(length);
  bool fua = request->command.fua || !modes_.write_cache;
  co_return co_await device_.Write(offset, std::span(&data, 1), fua);
}

Task<int> LogicalUnit::WriteSame(Request* request, Buffer& scratch) {
  const Command& command = request->command;
  uint32_t block = options_.block_size;
  uint64_t offset = command.lba * block;
  uint64_t length = uint64_t{command.blocks} * block;
  bool zero = command.no_data_out || AllZero(request->buffer.first(block));
  if (zero && device_.geometry().can_write_zeroes) {
    int error = co_await device_.WriteZeroes(offset, length, command.unmap);
    if (error == 0 && !modes_.write_cache) error = co_await device_.Flush();
    co_return error;
  }
  size_t filled = static_cast<size_t>(std::min<uint64_t>(kScratchBytes, length));
  for (size_t at = 0; at < filled; at += block) {
    if (zero) {
      std::memset(scratch.data() + at, 0, block);
    } else {
      std::memcpy(scratch.data() + at, request->buffer.data(), block);
    }
  }
  for (uint64_t at = 0; at < length; at += filled) {
    iovec data = scratch.iov(static_cast<size_t>(std::min<uint64_t>(filled, length - at)));
    int error = co_await device_.Write(offset + at, std::span(&data, 1), !modes_.write_cache);
    if (error != 0) co_return error;
  }
  co_return 0;
}

// UNMAP parameter list (SBC-3 §5.28.2): every descriptor is checked before the first is carried
// out.
Task<int> LogicalUnit::Unmap(Request* request) {
  Bytes list(request->buffer.data(), request->data_out_received);
  if (list.empty()) co_return 0;
  if (list.size() < 8) {
    request->Fail(kParameterListLengthError);
    co_return 0;
  }
  size_t length = std::min<size_t>(LoadBe<uint16_t>(&list[2]), list.size() - 8);
  size_t count = length / 16;
  uint64_t limit = kMaxUnmapLength / options_.block_size;
  if (count > kMaxUnmapDescriptors) {
    request->Fail(kInvalidFieldInParameterList.AtParameter(2));
    co_return 0;
  }
  for (size_t i = 0; i < count; ++i) {
    auto lba = LoadBe<uint64_t>(&list[8 + i * 16]);
    auto blocks = LoadBe<uint32_t>(&list[16 + i * 16]);
    if (lba > blocks_ || blocks > blocks_ - lba) {
      request->Fail(kLbaOutOfRange.WithInformation(lba));
      co_return 0;
    }
    if (blocks > limit) {
      request->Fail(kInvalidFieldInParameterList.AtParameter(static_cast<uint16_t>(16 + i * 16)));
      co_return 0;
    }
  }
  for (size_t i = 0; i < count; ++i) {
    uint64_t offset = LoadBe<uint64_t>(&list[8 + i * 16]) * options_.block_size;
    uint64_t left = uint64_t{LoadBe<uint32_t>(&list[16 + i * 16])} * options_.block_size;
    while (left != 0) {
      uint64_t piece = std::min(left, kMaxRangeBytes);
      int error = co_await device_.Discard(offset, piece);
      if (error != 0 && error != EOPNOTSUPP) co_return error;
      offset += piece;
      left -= piece;
    }
  }
  co_return modes_.write_cache ? 0 : co_await device_.Flush();
}

}  // namespace umblock::scsi
