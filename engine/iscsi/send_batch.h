// SendBatch: PDUs that leave in one send. Headers, padding, digests and small data are laid out in
// the batch itself; larger data is named where it lies and must stay there until the batch is sent.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <span>

#include "engine/base/bytes.h"
#include "engine/iscsi/pdu.h"

namespace umblock::iscsi {

class SendBatch {
 public:
  static constexpr size_t kMaxPdus = 64;
  static constexpr size_t kMaxBytes = size_t{2} << 20;
  // Data up to this is copied into the batch: sense data, and nothing else in practice.
  static constexpr size_t kInlineData = 64;

  bool full() const { return pdus_ == kMaxPdus || bytes_ >= kMaxBytes; }
  bool empty() const { return pdus_ == 0; }
  size_t pdus() const { return pdus_; }
  size_t bytes() const { return bytes_; }
  std::span<const iovec> iov() const { return std::span(iov_).first(iov_count_); }

  // Sets the data length in the header, and appends padding and digests.
  void Add(Bhs header, Bytes data, bool header_digest, bool data_digest);
  void Clear();

 private:
  static constexpr size_t kArena = kMaxPdus * (kBhsLength + 2 * kDigestLength + 4 + kInlineData);

  void Append(Bytes data);
  void Name(Bytes data);

  std::array<std::byte, kArena> arena_;
  std::array<iovec, kMaxPdus * 3> iov_;
  size_t arena_used_ = 0;
  size_t iov_count_ = 0;
  size_t pdus_ = 0;
  size_t bytes_ = 0;
};

}  // namespace umblock::iscsi
