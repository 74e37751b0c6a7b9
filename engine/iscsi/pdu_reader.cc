#include "engine/iscsi/pdu_reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace umblock::iscsi {

PduReader::PduReader(Stream& stream, SessionCounters& counters)
    : stream_(stream),
      counters_(counters),
      buffer_(std::make_unique_for_overwrite<std::byte[]>(kReadAhead)) {}

void PduReader::NotePayload(size_t length) {
  if (length > kSmallPayload) {
    small_in_a_row_ = 0;
  } else if (small_in_a_row_ < kSmallRun) {
    ++small_in_a_row_;
  }
}

Task<int> PduReader::Fill(size_t want) {
  UMBLOCK_ASSERT(want <= kReadAhead / 2, "headers fit in the read-ahead buffer");
  while (available() < want) {
    if (begin_ == end_) {
      begin_ = end_ = 0;
    } else if (kReadAhead - end_ < want) {
      // The start of a header at the very end of the buffer.
      std::memmove(buffer_.get(), peek(), available());
      end_ -= begin_;
      begin_ = 0;
    }
    size_t room = large_mode() ? want - available() : kReadAhead - end_;
    iov_[0] = {buffer_.get() + end_, room};
    int32_t n = co_await stream_.Receive(std::span(iov_).first(1));
    if (n <= 0) co_return n == 0 ? -ECONNRESET : n;
    ++counters_.receives;
    counters_.bytes_in += static_cast<uint64_t>(n);
    end_ += static_cast<size_t>(n);
  }
  co_return 0;
}

size_t PduReader::TakeBuffered(MutableBytes to) {
  size_t n = std::min(to.size(), available());
  if (n != 0) std::memcpy(to.data(), peek(), n);
  begin_ += n;
  return n;
}

Task<int> PduReader::ReceiveInto(MutableBytes to, size_t tail) {
  UMBLOCK_ASSERT(available() == 0, "buffered bytes are taken first");
  begin_ = end_ = 0;
  size_t ahead = large_mode() ? std::min(tail + kBhsLength, kReadAhead) : kReadAhead;
  size_t got = 0;
  while (got < to.size()) {
    iov_[0] = {to.data() + got, to.size() - got};
    iov_[1] = {buffer_.get(), ahead};
    int32_t n = co_await stream_.Receive(iov_);
    if (n <= 0) co_return n == 0 ? -ECONNRESET : n;
    ++counters_.receives;
    counters_.bytes_in += static_cast<uint64_t>(n);
    got += static_cast<size_t>(n);
  }
  end_ = got - to.size();
  co_return 0;
}

}  // namespace umblock::iscsi
