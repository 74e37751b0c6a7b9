// The data socket: writes, reads, resync, bitmaps.
#include "engine/drbd/core/connection.h"
#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {

using wire::PacketType;

Task<void> Connection::DataLoop() {
  while (!failed_) {
    Result<wire::Header> header = co_await data_reader_->Next();
    if (failed_) break;
    if (!header) {
      FailWith(header.error());
      break;
    }
    Status status = wire::CheckHeader(*header, wire::SocketKind::kData, agreed_);
    if (status) {
      if (!state().connected()) ArmHandshakeTimer();
      // What comes after a resize may be about blocks that are not here yet.
      while (resource_.resizing() && !failed_) co_await resource_.changed().Wait();
      status = co_await HandleData(*header);
    }
    if (!status && !failed_) FailWith(status.error());
  }
}

// The device a packet of a volume is about.
Result<PeerDevice*> Connection::DeviceFor(const wire::Header& header) {
  Volume* volume = resource_.volume(header.volume);
  PeerDevice* device = volume == nullptr ? nullptr : volume->peer(node());
  if (device == nullptr) {
    return MakeError(ErrorCode::kInvalidArgument, "{} for volume {}, which does not exist here",
                     wire::PacketName(header.type), header.volume);
  }
  return device;
}

namespace {

bool IsConfiguration(PacketType type) {
  switch (type) {
    case PacketType::kSyncParam89:
    case PacketType::kSizes:
    case PacketType::kUuids110:
    case PacketType::kCurrentUuid:
    case PacketType::kState:
    case PacketType::kEnableReplicationNext:
    case PacketType::kEnableReplication:
      return true;
    default:
      return false;
  }
}

}  // namespace

Task<Status> Connection::HandleData(const wire::Header& header) {
  if (!protocol_seen_ && header.type != PacketType::kProtocol) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "the peer sent {} where P_PROTOCOL was due; is authentication configured "
                        "on one side only?",
                        wire::PacketName(header.type));
  }
  // Packets of the whole connection.
  switch (header.type) {
    case PacketType::kBarrier: {
      Result<Bytes> payload = co_await data_reader_->Small(header.length);
      if (!payload) co_return std::unexpected(payload.error());
      if (!writes_.OnBarrier(wire::Barrier::Decode(*payload)->barrier)) {
        co_return MakeError(ErrorCode::kInvalidArgument, "P_BARRIER for an epoch without a write");
      }
      co_return Ok();
    }
    case PacketType::kDagtag: {
      Result<Bytes> payload = co_await data_reader_->Small(header.length);
      if (!payload) co_return std::unexpected(payload.error());
      writes_.SetDagtag(wire::Dagtag::Decode(*payload)->dagtag);
      co_return Ok();
    }
    case PacketType::kUnplugRemote:
      co_return co_await data_reader_->Discard(header.length);
    case PacketType::kDisconnect:
      Fail(ConnectionState::kDisconnecting,
           handshake_reason_.empty() ? "the peer refused the connect for good; see its log"
                                     : handshake_reason_);
      co_return Ok();
    case PacketType::kProtocol:
    case PacketType::kProtocolUpdate:
    case PacketType::kTwopcPrepare:
    case PacketType::kTwopcPrepRsz:
    case PacketType::kTwopcCommit:
    case PacketType::kTwopcAbort: {
      Result<Bytes> payload = co_await data_reader_->Small(header.length);
      if (!payload) co_return std::unexpected(payload.error());
      if (header.type == PacketType::kProtocol) co_return OnProtocol(*payload);
      if (header.type == PacketType::kProtocolUpdate) co_return OnProtocolUpdate(*payload);
      co_return OnTwoPcRequest(header, *payload);
    }
    case PacketType::kPeerDagtag:
    case PacketType::kFlushRequests:
    case PacketType::kFlushRequestsAck:
      co_return co_await data_reader_->Discard(header.length);
    case PacketType::kState:
      if (header.volume == wire::kNoVolume) {
        Result<Bytes> payload = co_await data_reader_->Small(header.length);
        if (!payload) co_return std::unexpected(payload.error());
        co_return OnRoleNotice(*payload);
      }
      break;
    default:
      break;
  }

  Result<PeerDevice*> found = DeviceFor(header);
  if (!found) {
    if (!IsConfiguration(header.type)) co_return std::unexpected(found.error());
    resource_.logger().Warn("{}: ignored: {}", name_, found.error().message());
    co_return co_await data_reader_->Discard(header.length);
  }
  PeerDevice& device = **found;
  if (IsConfiguration(header.type)) {
    Result<Bytes> payload = co_await data_reader_->Small(header.length);
    if (!payload) co_return std::unexpected(payload.error());
    switch (header.type) {
      case PacketType::kSyncParam89:
        co_return OnSyncParam(*payload);
      case PacketType::kSizes:
        co_return co_await OnSizes(*payload, device);
      case PacketType::kUuids110:
        co_return OnUuids(*payload, device);
      case PacketType::kCurrentUuid:
        co_return OnCurrentUuid(*payload, device);
      case PacketType::kState:
        co_return OnState(*payload, device);
      default:
        co_return Ok();  // P_ENABLE_REPLICATION(_NEXT): not agreed, and 9.3 sends it all the same
    }
  }
  if (device.state().repl < ReplicationState::kEstablished) {
    co_return MakeError(ErrorCode::kInvalidArgument,
                        "{} for volume {} before its handshake was done",
                        wire::PacketName(header.type), header.volume);
  }
  switch (header.type) {
    case PacketType::kData:
      co_return co_await OnWrite(header, device);
    case PacketType::kTrim:
    case PacketType::kZeroes:
      co_return co_await OnTrim(header, device);
    case PacketType::kOutOfSync:
      co_return co_await OnOutOfSync(header, device);
    case PacketType::kBitmap:
    case PacketType::kCompressedBitmap:
      co_return co_await OnBitmap(header, device);
    case PacketType::kDataRequest:
      co_return co_await OnReadRequest(header, device);
    case PacketType::kDataReply:
      co_return co_await OnReadReply(header, device);
    case PacketType::kRsDataRequest:
    case PacketType::kRsThinReq:
    case PacketType::kCsumRsRequest:
    case PacketType::kRsDagtagReq:
    case PacketType::kRsThinDagtagReq:
    case PacketType::kRsCsumDagtagReq:
      co_return co_await OnResyncRequest(header, device);
    case PacketType::kRsDataReply:
      co_return co_await OnResyncReply(header, device);
    case PacketType::kRsDeallocated:
    case PacketType::kRsDeallocatedId:
      co_return co_await OnDeallocated(header, device);
    case PacketType::kOvRequest:
    case PacketType::kOvDagtagReq:
      co_return co_await OnVerifyRequest(header, device);
    case PacketType::kOvReply:
    case PacketType::kOvDagtagReply:
      co_return co_await OnVerifyReply(header, device);
    default:
      co_return MakeError(ErrorCode::kInvalidArgument, "unexpected data packet {} (0x{:x})",
                          wire::PacketName(header.type), static_cast<int>(header.type));
  }
}

// --- writes of the peer
// ----------------------------------------------------------------------------

Task<Status> Connection::OnWrite(const wire::Header& header, PeerDevice& device) {
  size_t digest_size = peer_digest_ ? peer_digest_->size() : 0;
  size_t fixed = wire::DataHead::kSize + digest_size;
  if (header.length <= fixed) {
    co_return MakeError(ErrorCode::kInvalidArgument, "P_DATA of {} bytes carries no data",
                        header.length);
  }
  Result<Bytes> front = co_await data_reader_->Small(fixed);
  if (!front) co_return std::unexpected(front.error());
  wire::DataHead head = *wire::DataHead::Decode(*front);
  std::array<std::byte, wire::kMaxDigestBytes> digest{};
  std::copy_n(front->begin() + wire::DataHead::kSize, digest_size, digest.begin());
  uint32_t bytes = header.length - static_cast<uint32_t>(fixed);
  Volume& volume = device.volume();
  UMBLOCK_CO_TRY(wire::CheckRange(header.type, head.sector, bytes,
                                  wire::MaxRequestBytes(agreed_.protocol), volume.size_sectors()));
  if ((head.dp_flags & wire::kDpWsame) != 0) {
    co_return MakeError(ErrorCode::kInvalidArgument, "P_DATA with the write-same flag");
  }
  UMBLOCK_CO_TRY(CheckHeldWrites());
  if (volume.disk() == nullptr || volume.state().disk < DiskState::kInconsistent) {
    UMBLOCK_CO_TRY(co_await data_reader_->Discard(bytes));
    writes_.Refuse(device, head, bytes);
    co_return Ok();
  }
  if (writes_.full()) co_await writes_.WaitForRoom(session_tasks_->token());
  Buffer buffer = co_await buffers_.Allocate(bytes, session_tasks_->token());
  if (!buffer) co_return MakeError(ErrorCode::kCancelled, "the connection ended");
  UMBLOCK_CO_TRY(co_await data_reader_->Into(buffer.first(bytes)));
  if (peer_digest_) {
    iovec data = buffer.iov(bytes);
    if (!peer_digest_->Matches({&data, 1}, Bytes(digest).first(digest_size))) {
      co_return MakeError(
          ErrorCode::kInvalidArgument,
          "the digest of a write to sector {} does not fit its data: it was damaged "
          "on the way",
          head.sector);
    }
  }
  device.received_bytes += bytes;
  PeerWrite* write = writes_.Take();
  write->device = &device;
  write->op = IoOp::kWrite;
  write->first = head.sector;
  write->end = head.sector + bytes / 512;
  write->block_id = head.block_id;
  write->dp_flags = head.dp_flags;
  write->buffer = std::move(buffer);
  writes_.Receive(write);
  co_return Ok();
}

// Each write is kept on record until the peer's ack; one that never sends any must not fill memory.
Status Connection::CheckHeldWrites() const {
  if (writes_.in_use() < kMaxHeldWrites) return Ok();
  return MakeError(ErrorCode::kInvalidArgument,
                   "the peer has sent {} writes without a P_PEER_ACK for them", writes_.in_use());
}

Task<Status> Connection::OnTrim(const wire::Header& header, PeerDevice& device) {
  Result<Bytes> payload = co_await data_reader_->Small(header.length);
  if (!payload) co_return std::unexpected(payload.error());
  wire::TrimRequest trim = *wire::TrimRequest::Decode(*payload);
  Volume& volume = device.volume();
  UMBLOCK_CO_TRY(wire::CheckRange(header.type, trim.head.sector, trim.size,
                                  wire::MaxTrimBytes(agreed_.features), volume.size_sectors()));
  UMBLOCK_CO_TRY(CheckHeldWrites());
  if (volume.disk() == nullptr || volume.state().disk < DiskState::kInconsistent) {
    writes_.Refuse(device, trim.head, trim.size);
    co_return Ok();
  }
  if (writes_.full()) co_await writes_.WaitForRoom(session_tasks_->token());
  if (failed_) co_return MakeError(ErrorCode::kCancelled, "the connection ended");
  PeerWrite* write = writes_.Take();
  write->device = &device;
  write->op = header.type == PacketType::kTrim ? IoOp::kDiscard : IoOp::kWriteZeroes;
  write->first = trim.head.sector;
  write->end = trim.head.sector + trim.size / 512;
  write->block_id = trim.head.block_id;
  write->dp_flags = trim.head.dp_flags;
  writes_.Receive(write);
  co_return Ok();
}

Task<Status> Connection::OnOutOfSync(const wire::Header& header, PeerDevice& device) {
  Result<Bytes> payload = co_await data_reader_->Small(header.length);
  if (!payload) co_return std::unexpected(payload.error());
  wire::BlockDescription range = *wire::BlockDescription::Decode(*payload);
  UMBLOCK_CO_TRY(wire::CheckRange(header.type, range.sector, range.blksize, UINT32_MAX - 511,
                                  device.volume().size_sectors()));
  // The bits are set after every write that came before (O3): an ack of one might clear them.
  co_await writes_.WaitIdle(session_tasks_->token());
  if (failed_) co_return MakeError(ErrorCode::kCancelled, "the connection ended");
  device.volume().SetOutOfSync(range.sector, range.sector + range.blksize / 512,
                               device.volume().SlotMaskOf(NodeBit(node())));
  device.target.OnOutOfSync(range.sector, range.sector + range.blksize / 512);
  co_return Ok();
}

// --- reads of the peer, and answers to ours
// --------------------------------------------------------

Task<Status> Connection::OnReadRequest(const wire::Header& header, PeerDevice& device) {
  Result<Bytes> payload = co_await data_reader_->Small(header.length);
  if (!payload) co_return std::unexpected(payload.error());
  wire::BlockRequest request = *wire::BlockRequest::Decode(*payload);
  UMBLOCK_CO_TRY(wire::CheckRange(header.type, request.sector, request.blksize,
                                  wire::MaxRequestBytes(agreed_.protocol),
                                  device.volume().size_sectors()));
  if (!co_await reads_.OnRequest(device, request, session_tasks_->token())) {
    co_return MakeError(ErrorCode::kCancelled, "the connection ended");
  }
  co_return Ok();
}

Task<Status> Connection::OnReadReply(const wire::Header& header, PeerDevice& device) {
  size_t digest_size = peer_digest_ ? peer_digest_->size() : 0;
  size_t fixed = wire::DataHead::kSize + digest_size;
  Result<Bytes> front = co_await data_reader_->Small(fixed);
  if (!front) co_return std::unexpected(front.error());
  wire::DataHead head = *wire::DataHead::Decode(*front);
  std::array<std::byte, wire::kMaxDigestBytes> digest{};
  std::copy_n(front->begin() + wire::DataHead::kSize, digest_size, digest.begin());
  const BlockIo* upper = device.volume().FindRemoteRead(head.block_id, node(), head.sector);
  if (upper == nullptr || header.length != fixed + upper->length) {
    co_return MakeError(ErrorCode::kInvalidArgument,
                        "P_DATA_REPLY for sector {} answers no read of ours", head.sector);
  }
  device.volume().BeginRemoteRead(head.block_id);
  for (const iovec& part : upper->iov) {
    UMBLOCK_CO_TRY(
        co_await data_reader_->Into({static_cast<std::byte*>(part.iov_base), part.iov_len}));
  }
  if (peer_digest_ && !peer_digest_->Matches(upper->iov, Bytes(digest).first(digest_size))) {
    co_return MakeError(ErrorCode::kInvalidArgument,
                        "the digest of a read reply for sector {} does not fit its data",
                        head.sector);
  }
  device.received_bytes += upper->length;
  device.volume().FinishRemoteRead(head.block_id, true);
  co_return Ok();
}

// --- bitmap
// ----------------------------------------------------------------------------------------

Task<Status> Connection::OnBitmap(const wire::Header& header, PeerDevice& device) {
  Result<Bytes> payload = co_await data_reader_->Small(header.length);
  if (!payload) co_return std::unexpected(payload.error());
  ReplicationState repl = device.state().repl;
  if (repl != ReplicationState::kWFBitMapS && repl != ReplicationState::kWFBitMapT) {
    co_return MakeError(ErrorCode::kInvalidArgument, "a bitmap arrived in state {}",
                        ReplicationStateName(repl));
  }
  ++device.bitmap_packets;
  Result<bool> complete = device.ReceiveBitmap(header.type, *payload);
  if (!complete) co_return std::unexpected(complete.error());
  if (*complete) resource_.OnBitmapReceived(device);
  co_return Ok();
}

void Connection::ExpectBitmap(PeerDevice& device) {
  if (session_tasks_ != nullptr) session_tasks_->Spawn(AwaitBitmap(&device));
}

// The front waits meanwhile: a peer that answers pings and sends no bitmap must not hold it for
// ever.
Task<void> Connection::AwaitBitmap(PeerDevice* device) {
  ReplicationState waiting = device->state().repl;
  Duration bound = config_.net.timeout * std::max(config_.net.ko_count, 1U);
  for (;;) {
    uint64_t seen = device->bitmap_packets;
    if (co_await Sleep(reactor_, bound, session_tasks_->token()) == WakeReason::kCancelled)
      co_return;
    if (failed_ || device->state().repl != waiting) co_return;
    if (device->bitmap_received) co_return;  // a handler runs, for as long as it may
    if (device->bitmap_packets == seen) break;
  }
  Fail(ConnectionState::kTimeout,
       fmt::format("no bitmap from the peer for {} s",
                   std::chrono::duration_cast<std::chrono::seconds>(bound).count()));
}

// --- resync
// ----------------------------------------------------------------------------------------

Status Connection::CheckDigest(PacketType type, std::string_view option, const wire::Digest* own,
                               Bytes digest) {
  if (own != nullptr && own->size() == digest.size()) return Ok();
  return MakeError(ErrorCode::kInvalidArgument,
                   "{} carries a digest of {} bytes, the configured {} has {}",
                   wire::PacketName(type), digest.size(), option, own == nullptr ? 0 : own->size());
}

Task<Status> Connection::OnResyncRequest(const wire::Header& header, PeerDevice& device) {
  Result<Bytes> payload = co_await data_reader_->Small(header.length);
  if (!payload) co_return std::unexpected(payload.error());
  wire::DagtagRequest request;
  bool with_dagtag = header.type == PacketType::kRsDagtagReq ||
                     header.type == PacketType::kRsThinDagtagReq ||
                     header.type == PacketType::kRsCsumDagtagReq;
  if (with_dagtag) {
    request = *wire::DagtagRequest::Decode(*payload);
  } else {
    wire::BlockRequest plain = *wire::BlockRequest::Decode(*payload);
    request = {plain.sector, plain.block_id, plain.blksize, 0, 0};
  }
  bool thin = header.type == PacketType::kRsThinReq || header.type == PacketType::kRsThinDagtagReq;
  Bytes digest;
  if (header.type == PacketType::kCsumRsRequest || header.type == PacketType::kRsCsumDagtagReq) {
    digest = payload->subspan(with_dagtag ? wire::DagtagRequest::kSize : wire::BlockRequest::kSize);
    UMBLOCK_CO_TRY(CheckDigest(header.type, "csums-alg", csums_digest(), digest));
  }
  Volume& volume = device.volume();
  UMBLOCK_CO_TRY(wire::CheckRange(header.type, request.sector, request.blksize,
                                  wire::MaxRequestBytes(agreed_.protocol), volume.size_sectors()));
  ReplicationState repl = device.state().repl;
  if (repl == ReplicationState::kWFBitMapS || repl == ReplicationState::kStartingSyncS) {
    SendBlockAck(PacketType::kRsCancel, device, request.sector, request.block_id, request.blksize);
    co_return Ok();
  }
  if (repl == ReplicationState::kAhead) {
    SendBlockAck(PacketType::kRsCancelAhead, device, request.sector, request.block_id,
                 request.blksize);
    co_return Ok();
  }
  if (volume.disk() == nullptr || volume.state().disk < DiskState::kOutdated) {
    SendBlockAck(PacketType::kNegRsDreply, device, request.sector, request.block_id,
                 request.blksize);
    co_return Ok();
  }
  if (!co_await device.source.OnRequest(request, thin, digest, session_tasks_->token())) {
    co_return MakeError(ErrorCode::kCancelled, "the connection ended");
  }
  co_return Ok();
}

Task<Status> Connection::OnResyncReply(const wire::Header& header, PeerDevice& device) {
  size_t digest_size = peer_digest_ ? peer_digest_->size() : 0;
  size_t fixed = wire::DataHead::kSize + digest_size;
  if (header.length <= fixed) {
    co_return MakeError(ErrorCode::kInvalidArgument, "P_RS_DATA_REPLY without data");
  }
  Result<Bytes> front = co_await data_reader_->Small(fixed);
  if (!front) co_return std::unexpected(front.error());
  wire::DataHead head = *wire::DataHead::Decode(*front);
  std::array<std::byte, wire::kMaxDigestBytes> digest{};
  std::copy_n(front->begin() + wire::DataHead::kSize, digest_size, digest.begin());
  uint32_t bytes = header.length - static_cast<uint32_t>(fixed);
  if (device.target.FindRequest(head.block_id, head.sector, bytes) == nullptr &&
      device.target.running()) {
    co_return MakeError(ErrorCode::kInvalidArgument,
                        "P_RS_DATA_REPLY for sector {} and {} bytes answers no request of ours",
                        head.sector, bytes);
  }
  Buffer buffer = co_await buffers_.Allocate(bytes, session_tasks_->token());
  if (!buffer) co_return MakeError(ErrorCode::kCancelled, "the connection ended");
  UMBLOCK_CO_TRY(co_await data_reader_->Into(buffer.first(bytes)));
  if (peer_digest_) {
    iovec data = buffer.iov(bytes);
    if (!peer_digest_->Matches({&data, 1}, Bytes(digest).first(digest_size))) {
      co_return MakeError(ErrorCode::kInvalidArgument,
                          "the digest of resync data for sector {} does not fit", head.sector);
    }
  }
  device.received_bytes += bytes;
  // The resync may have been stopped while the payload came in.
  ResyncBlock* block = device.target.FindRequest(head.block_id, head.sector, bytes);
  if (block == nullptr) co_return Ok();
  block->buffer = std::move(buffer);
  device.target.OnReply(block);
  co_return Ok();
}

Task<Status> Connection::OnDeallocated(const wire::Header& header, PeerDevice& device) {
  Result<Bytes> payload = co_await data_reader_->Small(header.length);
  if (!payload) co_return std::unexpected(payload.error());
  wire::BlockAck range;
  if (header.type == PacketType::kRsDeallocatedId) {
    range = *wire::BlockAck::Decode(*payload);
  } else {
    wire::BlockDescription description = *wire::BlockDescription::Decode(*payload);
    range.sector = description.sector;
    range.blksize = description.blksize;
  }
  ResyncBlock* block = device.target.FindRequest(range.block_id, range.sector, range.blksize);
  // The resync may have been stopped meanwhile.
  if (block == nullptr && !device.target.running()) co_return Ok();
  if (block == nullptr || !device.target.OnDeallocated(block)) {
    co_return MakeError(ErrorCode::kInvalidArgument,
                        "{} for sector {} and {} bytes answers no thin request of ours",
                        wire::PacketName(header.type), range.sector, range.blksize);
  }
  co_return Ok();
}

}  // namespace umblock::drbd
