// PacketReader: takes packets off one stream.
//
// Headers and small payloads come through a read-ahead buffer; the rest of a large payload is
// received straight into the caller's memory. After a large payload the reader takes no more ahead
// than the front of a P_DATA, so that in a run of large payloads no byte of them is copied; only
// the first one behind small packets may have up to kBufferBytes in the buffer already. One reader
// per stream, one call at a time.
//
// Errors: kUnavailable when the stream ended or failed, kInvalidArgument for bytes that are no
// packet. Threading: one reactor.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/drbd/wire/header.h"
#include "engine/runtime/stream.h"
#include "engine/runtime/task.h"

namespace umblock::drbd {

class PacketReader {
 public:
  // What is read in one go, at most; also the largest payload that Small() gives.
  static constexpr size_t kBufferBytes = 16384;
  // Payloads up to this size are copied out of the buffer rather than received directly.
  static constexpr size_t kSmallPayload = 8192;

  explicit PacketReader(Stream& stream);

  Task<Result<wire::Header>> Next();
  // The next `bytes` (up to kSmallPayload), valid until the next call.
  Task<Result<Bytes>> Small(size_t bytes);
  Task<Status> Into(MutableBytes to);
  Task<Status> Discard(size_t bytes);

  // A whole header waits in the buffer already: Next() will not wait.
  bool HasBuffered() const { return end_ - begin_ >= wire::kMaxHeaderSize; }
  uint64_t bytes_received() const { return bytes_received_; }
  uint64_t bytes_copied() const { return bytes_copied_; }
  // When the last bytes arrived is the owner's business: it looks at bytes_received().

 private:
  // Header and head of a P_DATA: what a reader takes ahead where large payloads are likely.
  static constexpr size_t kFrontBytes = 40;
  // So many packets without a large payload, and it reads ahead as much as it can again.
  static constexpr int kCautiousPackets = 4;

  // At least `bytes` are buffered when this succeeds.
  Task<Status> Fill(size_t bytes, size_t ahead);
  bool cautious() const { return packets_since_large_ < kCautiousPackets; }
  Status Check(int32_t received);
  Bytes buffered() const { return {buffer_.get() + begin_, end_ - begin_}; }

  Stream& stream_;
  std::unique_ptr<std::byte[]> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  int packets_since_large_ = kCautiousPackets;
  uint64_t bytes_received_ = 0;
  uint64_t bytes_copied_ = 0;
};

}  // namespace umblock::drbd
