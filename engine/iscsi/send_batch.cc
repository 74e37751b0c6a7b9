#include "engine/iscsi/send_batch.h"

#include <cstring>

#include "engine/iscsi/digest.h"

namespace umblock::iscsi {

// Appends to the arena, and to the last piece of the send if that ends there.
void SendBatch::Append(Bytes data) {
  UMBLOCK_ASSERT(kArena - arena_used_ >= data.size(), "a batch has room for its headers");
  std::byte* at = arena_.data() + arena_used_;
  std::memcpy(at, data.data(), data.size());
  arena_used_ += data.size();
  bytes_ += data.size();
  if (iov_count_ != 0) {
    iovec& last = iov_[iov_count_ - 1];
    if (static_cast<std::byte*>(last.iov_base) + last.iov_len == at) {
      last.iov_len += data.size();
      return;
    }
  }
  iov_[iov_count_++] = {at, data.size()};
}

void SendBatch::Name(Bytes data) {
  iov_[iov_count_++] = {const_cast<std::byte*>(data.data()), data.size()};
  bytes_ += data.size();
}

void SendBatch::Add(Bhs header, Bytes data, bool header_digest, bool data_digest) {
  UMBLOCK_ASSERT(!full(), "a full batch is sent first");
  ++pdus_;
  header.PutDataLength(static_cast<uint32_t>(data.size()));
  Append(header.bytes());
  if (header_digest) {
    std::byte digest[kDigestLength];
    StoreLe<uint32_t>(digest, Digest(header.bytes()));
    Append(digest);
  }
  if (data.empty()) return;
  data.size() <= kInlineData ? Append(data) : Name(data);
  std::byte tail[3 + kDigestLength]{};
  size_t padding = AlignUp<size_t>(data.size(), 4) - data.size();
  size_t length = padding;
  if (data_digest) {
    Crc32c crc;
    crc.Add(data);
    crc.Add(Bytes(tail, padding));
    StoreLe<uint32_t>(tail + padding, crc.value());
    length += kDigestLength;
  }
  if (length != 0) Append(Bytes(tail, length));
}

void SendBatch::Clear() { arena_used_ = iov_count_ = pdus_ = bytes_ = 0; }

}  // namespace umblock::iscsi
