#include "engine/drbd/link/packet_reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace umblock::drbd {

PacketReader::PacketReader(Stream& stream)
    : stream_(stream), buffer_(std::make_unique<std::byte[]>(kBufferBytes)) {}

Status PacketReader::Check(int32_t received) {
  if (received > 0) {
    bytes_received_ += static_cast<uint64_t>(received);
    return Ok();
  }
  if (received == 0) {
    return MakeError(ErrorCode::kUnavailable, "the peer closed the connection");
  }
  return std::unexpected(Error::FromErrno(-received, "receive from the peer"));
}

Task<Status> PacketReader::Fill(size_t bytes, size_t ahead) {
  while (end_ - begin_ < bytes) {
    if (begin_ == end_) {
      begin_ = end_ = 0;
    } else if (kBufferBytes - begin_ < bytes) {
      std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
    }
    size_t most = kBufferBytes - end_;
    if (cautious()) most = std::min(most, std::max(bytes, ahead) - (end_ - begin_));
    iovec room{buffer_.get() + end_, most};
    int32_t received = co_await stream_.Receive({&room, 1});
    UMBLOCK_CO_TRY(Check(received));
    end_ += static_cast<size_t>(received);
  }
  co_return Ok();
}

Task<Result<wire::Header>> PacketReader::Next() {
  if (cautious()) ++packets_since_large_;
  UMBLOCK_CO_TRY(co_await Fill(wire::kMinHeaderSize, kFrontBytes));
  std::optional<wire::HeaderKind> kind = wire::IdentifyHeader(buffered());
  if (!kind) {
    co_return MakeError(ErrorCode::kInvalidArgument,
                        "the peer sent 0x{:08x} where a packet header begins",
                        LoadBe<uint32_t>(buffered().data()));
  }
  UMBLOCK_CO_TRY(co_await Fill(wire::HeaderSize(*kind), kFrontBytes));
  std::expected<wire::Header, wire::HeaderError> header = wire::DecodeHeader(buffered());
  if (!header) {
    co_return MakeError(ErrorCode::kInvalidArgument, "the peer sent a bad packet header: {}",
                        wire::HeaderErrorText(header.error()));
  }
  begin_ += header->size();
  co_return *header;
}

Task<Result<Bytes>> PacketReader::Small(size_t bytes) {
  UMBLOCK_ASSERT(bytes <= kSmallPayload, "a small payload fits into the buffer");
  UMBLOCK_CO_TRY(co_await Fill(bytes, bytes));
  Bytes result = buffered().first(bytes);
  begin_ += bytes;
  co_return result;
}

Task<Status> PacketReader::Into(MutableBytes to) {
  if (to.size() <= kSmallPayload) {
    packets_since_large_ = kCautiousPackets;
    Result<Bytes> bytes = co_await Small(to.size());
    if (!bytes) co_return std::unexpected(bytes.error());
    if (!to.empty()) std::memcpy(to.data(), bytes->data(), to.size());
    bytes_copied_ += to.size();
    co_return Ok();
  }
  packets_since_large_ = 0;
  size_t ahead = std::min(end_ - begin_, to.size());
  std::memcpy(to.data(), buffer_.get() + begin_, ahead);
  begin_ += ahead;
  bytes_copied_ += ahead;
  to = to.subspan(ahead);
  while (!to.empty()) {
    // What comes behind the payload lands in the buffer with the same call: the front of the next
    // packet, and no payload of it.
    iovec parts[2] = {{to.data(), to.size()}, {buffer_.get(), kFrontBytes}};
    begin_ = end_ = 0;
    int32_t received = co_await stream_.Receive(parts);
    UMBLOCK_CO_TRY(Check(received));
    size_t taken = std::min(static_cast<size_t>(received), to.size());
    end_ = static_cast<size_t>(received) - taken;
    to = to.subspan(taken);
  }
  co_return Ok();
}

Task<Status> PacketReader::Discard(size_t bytes) {
  while (bytes > 0) {
    size_t step = std::min(bytes, kSmallPayload);
    Result<Bytes> part = co_await Small(step);
    if (!part) co_return std::unexpected(part.error());
    bytes -= step;
  }
  co_return Ok();
}

}  // namespace umblock::drbd
