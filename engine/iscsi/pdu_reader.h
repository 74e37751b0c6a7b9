// PduReader: takes a TCP stream apart without copying large payloads.
//
// A small read-ahead buffer receives headers and small payloads, many PDUs in one receive. While
// PDUs are large it receives one header at a time, together with the end of the payload before,
// so that payloads go from the socket straight to where they belong.
// Threading: one reactor; one caller at a time.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <memory>

#include "engine/base/bytes.h"
#include "engine/iscsi/pdu.h"
#include "engine/iscsi/status.h"
#include "engine/runtime/stream.h"
#include "engine/runtime/task.h"

namespace umblock::iscsi {

class PduReader {
 public:
  static constexpr size_t kReadAhead = 32 * 1024;
  // Payloads above this are never read ahead on purpose.
  static constexpr size_t kSmallPayload = 8 * 1024;

  PduReader(Stream& stream, SessionCounters& counters);

  size_t available() const { return end_ - begin_; }
  const std::byte* peek() const { return buffer_.get() + begin_; }
  void Consume(size_t n) { begin_ += n; }

  // Ends with 0 when `want` bytes (at most kReadAhead / 2) can be peeked at, or a negative errno;
  // -ECONNRESET at the end of the stream.
  Task<int> Fill(size_t want);
  // Copies what has been read ahead into `to`, at most its size; returns how much.
  size_t TakeBuffered(MutableBytes to);
  // Receives all of `to` from the socket; nothing may be buffered. `tail` more bytes belong to the
  // same PDU: they and the next header are read ahead. 0 or a negative errno.
  Task<int> ReceiveInto(MutableBytes to, size_t tail);

  // Tells the sizes that go by, so that the reader knows how far to read ahead.
  void NotePayload(size_t length);
  void ExpectLarge() { small_in_a_row_ = 0; }

 private:
  static constexpr int kSmallRun = 2;
  bool large_mode() const { return small_in_a_row_ < kSmallRun; }

  Stream& stream_;
  SessionCounters& counters_;
  std::unique_ptr<std::byte[]> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  int small_in_a_row_ = 0;
  std::array<iovec, 2> iov_{};
};

}  // namespace umblock::iscsi
