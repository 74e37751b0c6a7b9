// Online verify on the wire (drbd-wire.md 5.13).
#include "engine/drbd/core/connection.h"
#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {

using wire::PacketType;

// --- sending
// ---------------------------------------------------------------------------------------

void Connection::SendVerifyRequest(PeerDevice& device, uint64_t first, uint64_t end,
                                   uint64_t block_id) {
  auto bytes = static_cast<uint32_t>((end - first) * 512);
  if (agreed_.protocol < wire::kProtocolBlockIds) block_id = wire::kIdSyncer;
  if ((agreed_.features & wire::kFeatureResyncDagtag) == 0) {
    SendPacket(wire::SocketKind::kData, PacketType::kOvRequest, device.volume_number(),
               wire::BlockRequest{first, block_id, bytes});
    return;
  }
  SendPacket(wire::SocketKind::kData, PacketType::kOvDagtagReq, device.volume_number(),
             AtPosition(first, block_id, bytes));
}

// The position is this node's: what the peer must have before it reads its own.
void Connection::SendVerifyReply(PeerDevice& device, const wire::DagtagRequest& request,
                                 Bytes digest) {
  if ((agreed_.features & wire::kFeatureResyncDagtag) == 0) {
    SendWithDigest(PacketType::kOvReply, device.volume_number(),
                   wire::BlockRequest{request.sector, request.block_id, request.blksize}, digest);
    return;
  }
  SendWithDigest(PacketType::kOvDagtagReply, device.volume_number(),
                 AtPosition(request.sector, request.block_id, request.blksize), digest);
}

void Connection::SendVerifyResult(PeerDevice& device, uint64_t first, uint64_t end,
                                  uint64_t block_id, wire::VerifyResult result) {
  auto bytes = static_cast<uint32_t>((end - first) * 512);
  if (agreed_.protocol >= wire::kProtocolBlockIds) {
    SendPacket(wire::SocketKind::kControl, PacketType::kOvResultId, device.volume_number(),
               wire::OvResultId{first, block_id, bytes, device.NextSequence(), result});
    return;
  }
  wire::BlockAck ack{first, 0, bytes, device.NextSequence()};
  ack.set_ov_result(result == wire::VerifyResult::kInSync      ? wire::kOvResultInSync
                    : result == wire::VerifyResult::kOutOfSync ? wire::kOvResultOutOfSync
                                                               : wire::kOvResultSkipped);
  SendPacket(wire::SocketKind::kControl, PacketType::kOvResult, device.volume_number(), ack);
}

// --- receiving
// -------------------------------------------------------------------------------------

Task<Status> Connection::OnVerifyRequest(const wire::Header& header, PeerDevice& device) {
  Result<Bytes> payload = co_await data_reader_->Small(header.length);
  if (!payload) co_return std::unexpected(payload.error());
  wire::DagtagRequest request;
  if (header.type == PacketType::kOvDagtagReq) {
    request = *wire::DagtagRequest::Decode(*payload);
  } else {
    wire::BlockRequest plain = *wire::BlockRequest::Decode(*payload);
    request = {plain.sector, plain.block_id, plain.blksize, 0, 0};
  }
  Volume& volume = device.volume();
  UMBLOCK_CO_TRY(wire::CheckRange(header.type, request.sector, request.blksize,
                                  wire::MaxRequestBytes(agreed_.protocol), volume.size_sectors()));
  // It may have had no disk, or no algorithm, for a moment: nothing is said about the block.
  if (volume.disk() == nullptr || volume.state().disk < DiskState::kOutdated ||
      verify_digest() == nullptr) {
    SendBlockAck(PacketType::kRsCancel, device, request.sector, request.block_id, request.blksize);
    co_return Ok();
  }
  if (!co_await device.verify_target.OnRequest(request, session_tasks_->token())) {
    co_return MakeError(ErrorCode::kCancelled, "the connection ended");
  }
  co_return Ok();
}

Task<Status> Connection::OnVerifyReply(const wire::Header& header, PeerDevice& device) {
  Result<Bytes> payload = co_await data_reader_->Small(header.length);
  if (!payload) co_return std::unexpected(payload.error());
  wire::DagtagRequest reply;
  Bytes digest;
  if (header.type == PacketType::kOvDagtagReply) {
    reply = *wire::DagtagRequest::Decode(*payload);
    digest = payload->subspan(wire::DagtagRequest::kSize);
  } else {
    wire::BlockRequest plain = *wire::BlockRequest::Decode(*payload);
    reply = {plain.sector, plain.block_id, plain.blksize, 0, 0};
    digest = payload->subspan(wire::BlockRequest::kSize);
  }
  // One that was stopped may still be answered.
  if (!device.verify_source.running()) co_return Ok();
  VerifyBlock* block =
      device.verify_source.FindRequest(reply.block_id, reply.sector, reply.blksize);
  if (block == nullptr) {
    co_return MakeError(ErrorCode::kInvalidArgument,
                        "{} for sector {} and {} bytes answers no request of ours",
                        wire::PacketName(header.type), reply.sector, reply.blksize);
  }
  UMBLOCK_CO_TRY(CheckDigest(header.type, "verify-alg", verify_digest(), digest));
  device.verify_source.OnReply(block, reply.dagtag_node_id, reply.dagtag, digest);
  co_return Ok();
}

Status Connection::OnVerifyResult(const wire::Header& header, Bytes payload, PeerDevice& device) {
  if (header.type == PacketType::kOvResultId) {
    std::optional<wire::OvResultId> result = wire::OvResultId::Decode(payload);
    if (!result) return MakeError(ErrorCode::kInvalidArgument, "malformed P_OV_RESULT_ID");
    device.verify_target.OnResult(result->block_id, result->sector, result->blksize,
                                  result->result);
    return Ok();
  }
  wire::BlockAck ack = *wire::BlockAck::Decode(payload);
  wire::VerifyResult result = ack.ov_result() == wire::kOvResultInSync ? wire::VerifyResult::kInSync
                              : ack.ov_result() == wire::kOvResultOutOfSync
                                  ? wire::VerifyResult::kOutOfSync
                                  : wire::VerifyResult::kSkipped;
  device.verify_target.OnResult(0, ack.sector, ack.blksize, result);
  return Ok();
}

}  // namespace umblock::drbd
