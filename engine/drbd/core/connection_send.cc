// What a connection sends.
#include "engine/drbd/core/connection.h"
#include "engine/drbd/core/resource_impl.h"
#include "engine/drbd/state/uuid_events.h"

namespace umblock::drbd {

using wire::PacketType;
using wire::SocketKind;

void Connection::SendEmpty(SocketKind socket, PacketType type) {
  SendQueue& queue = socket == SocketKind::kData ? data_queue_ : control_queue_;
  if (!up() || !queue.running()) return;
  wire::EncodeEmptyPacket(type, wire::kNoVolume, queue.Append(wire::kMaxHeaderSize));
}

void Connection::SendProtocol(PacketType type) {
  const NetOptions& net = config_.net;
  wire::Protocol packet;
  packet.protocol = static_cast<uint32_t>(net.protocol);
  packet.after_sb_0p = static_cast<uint32_t>(net.after_sb_0pri);
  packet.after_sb_1p = static_cast<uint32_t>(net.after_sb_1pri);
  packet.after_sb_2p = static_cast<uint32_t>(net.after_sb_2pri);
  packet.conn_flags = connect_options_.discard_my_data ? wire::kConnDiscardMyData : 0;
  packet.two_primaries = net.allow_two_primaries ? 1 : 0;
  packet.integrity_alg = wire::AlgorithmName(net.data_integrity_alg);
  SendPacket(SocketKind::kData, type, wire::kNoVolume, packet);
}

void Connection::SendState(PeerDevice& device) {
  wire::StateWord word = ToStateWord(resource_.state(), node(), device.volume_number());
  SendPacket(SocketKind::kData, PacketType::kState, device.volume_number(),
             wire::State{wire::EncodeStateWord(word)});
}

void Connection::SendRoleNotice() {
  wire::StateWord word;
  word.role = resource_.state().role;
  SendPacket(SocketKind::kData, PacketType::kState, wire::kNoVolume,
             wire::State{wire::EncodeStateWord(word)});
}

void Connection::SendUuids(PeerDevice& device, uint64_t extra_flags, NodeMask weak) {
  Volume& volume = device.volume();
  int number = volume.number();
  if (volume.disk() == nullptr || volume.state().disk < DiskState::kNegotiating) {
    SendPacket(SocketKind::kData, PacketType::kCurrentUuid, number,
               wire::CurrentUuid{volume.exposed_uuid, weak != 0 ? weak : kAllNodes});
    return;
  }
  PeerUuids own = resource_.UuidsFor(device, extra_flags, weak);
  if (handshake_.begun()) device.sent_uuids = SentUuids::Of(own, node());
  wire::Uuids110 packet;
  packet.current = own.current;
  packet.dirty_bits = own.dirty_bits;
  packet.uuid_flags = own.flags;
  packet.node_mask = own.node_mask;
  for (int n : Nodes(own.present)) packet.SetBitmapUuid(n, own.bitmap[static_cast<size_t>(n)]);
  packet.history = own.history;
  SendPacket(SocketKind::kData, PacketType::kUuids110, number, packet);
}

void Connection::SendSizes(PeerDevice& device) {
  Volume& volume = device.volume();
  wire::Sizes packet;
  uint64_t own = volume.disk() != nullptr ? volume.disk()->usable_sectors() : 0;
  // The least of what this node and its peers could hold (drbd-metadata-resync.md 9.1).
  packet.d_size = own;
  for (auto& [other, peer_device] : volume.peers()) {
    if (!peer_device->sizes_known || peer_device->sizes.d_size == 0 || other == node()) continue;
    if (!resource_.state().peer(other).connected()) continue;
    packet.d_size = packet.d_size == 0 ? peer_device->sizes.d_size
                                       : std::min(packet.d_size, peer_device->sizes.d_size);
  }
  packet.u_size = volume.wanted_sectors();
  packet.c_size = volume.size_sectors();
  packet.max_bio_size = wire::kMaxRequestBytes;
  if ((agreed_.features & wire::kFeatureWsame) != 0) {
    const BlockGeometry& geometry = volume.geometry();
    wire::QueueLimits limits;
    limits.physical_block_size = geometry.physical_block_size;
    limits.logical_block_size = geometry.logical_block_size;
    limits.io_min = geometry.physical_block_size;
    limits.io_opt = geometry.optimal_io_size;
    limits.discard_enabled = geometry.can_discard ? 1 : 0;
    packet.limits = limits;
  }
  SendPacket(SocketKind::kData, PacketType::kSizes, volume.number(), packet);
}

void Connection::SendInitialStates() {
  resource_.NoteContact(node());
  std::vector<int> numbers;
  for (auto& [number, volume] : resource_.volumes()) numbers.push_back(number);
  handshake_.Begin(numbers);
  ArmHandshakeTimer();  // of this attempt: there may have been others on this link
  handshake_reason_.clear();
  for (auto& [number, volume] : resource_.volumes()) {
    PeerDevice& device = *volume->peer(node());
    device.uuids_known = false;
    device.sent_uuids.reset();
    device.source_missed_end = false;
    device.peer_missed_end = false;
    wire::SyncParam89 param;
    param.resync_rate = config_.resync.resync_rate;
    param.verify_alg = wire::AlgorithmName(config_.net.verify_alg);
    param.csums_alg = wire::AlgorithmName(config_.net.csums_alg);
    param.c_plan_ahead = config_.resync.c_plan_ahead;
    param.c_delay_target = config_.resync.c_delay_target;
    param.c_fill_target = config_.resync.c_fill_target;
    param.c_max_rate = config_.resync.c_max_rate;
    SendPacket(SocketKind::kData, PacketType::kSyncParam89, number, param);
    SendSizes(device);
    // A Primary tells who lacks its generation.
    bool primary = resource_.state().role == Role::kPrimary;
    SendUuids(device, 0,
              primary ? WeakNodesOfDevice(resource_.own_node(), volume->state().disk,
                                          volume->uuid_peers())
                      : 0);
    SendState(device);
  }
}

namespace {

// Our slot for a peer as the runs that the bitmap stream wants.
class SlotRuns final : public wire::BitRuns {
 public:
  SlotRuns(const meta::Bitmap& bitmap, uint32_t slot) : bitmap_(bitmap), slot_(slot) {}
  Run RunAt(uint64_t position) override {
    meta::WireRun run = bitmap_.NextWireRun(slot_, position);
    return {position + run.length, run.set};
  }

 private:
  const meta::Bitmap& bitmap_;
  uint32_t slot_;
};

}  // namespace

// In one go: no other packet may come in between (drbd-wire.md 5.9.1).
void Connection::SendBitmap(PeerDevice& device) {
  std::optional<uint32_t> slot = device.slot();
  if (!slot || !up()) return;
  device.bitmap_sent = true;
  const meta::Bitmap& bitmap = device.volume().disk()->bitmap();
  SlotRuns runs(bitmap, *slot);
  wire::BitmapSender sender(runs, wire::BitmapStreamBits(device.volume().size_sectors()),
                            config_.net.use_rle ? wire::BitmapSender::Mode::kCompressed
                                                : wire::BitmapSender::Mode::kPlain);
  std::array<std::byte, wire::kMaxBitmapPacketBytes> payload;
  while (!sender.done()) {
    wire::BitmapSender::Packet packet = sender.Next(payload);
    MutableBytes out = data_queue_.Append(wire::kMaxHeaderSize + packet.length);
    wire::EncodeHeader({.type = packet.type,
                        .volume = device.volume_number(),
                        .length = static_cast<uint32_t>(packet.length)},
                       out);
    std::copy_n(payload.begin(), packet.length, out.begin() + wire::kMaxHeaderSize);
  }
}

void Connection::SendBlockAck(PacketType type, PeerDevice& device, uint64_t sector,
                              uint64_t block_id, uint32_t bytes) {
  SendPacket(SocketKind::kControl, type, device.volume_number(),
             wire::BlockAck{sector, block_id, bytes, device.NextSequence()});
}

void Connection::SendOutOfSync(PeerDevice& device, uint64_t first, uint64_t end) {
  constexpr uint64_t kMost = uint64_t{1} << 22;  // sectors: the size field has 32 bits of bytes
  while (first < end) {
    uint64_t step = std::min(end - first, kMost);
    SendPacket(SocketKind::kData, PacketType::kOutOfSync, device.volume_number(),
               wire::BlockDescription{first, static_cast<uint32_t>(step * 512)});
    first += step;
  }
}

void Connection::SendResyncRequest(PeerDevice& device, uint64_t first, uint64_t end,
                                   uint64_t block_id, Bytes digest, bool thin) {
  auto bytes = static_cast<uint32_t>((end - first) * 512);
  int number = device.volume_number();
  if ((agreed_.features & wire::kFeatureResyncDagtag) == 0) {
    PacketType type = !digest.empty() ? PacketType::kCsumRsRequest
                      : thin          ? PacketType::kRsThinReq
                                      : PacketType::kRsDataRequest;
    SendWithDigest(type, number, wire::BlockRequest{first, block_id, bytes}, digest);
    return;
  }
  PacketType type = !digest.empty() ? PacketType::kRsCsumDagtagReq
                    : thin          ? PacketType::kRsThinDagtagReq
                                    : PacketType::kRsDagtagReq;
  SendWithDigest(type, number, AtPosition(first, block_id, bytes), digest);
}

void Connection::SendDeallocated(PeerDevice& device, uint64_t sector, uint64_t block_id,
                                 uint32_t bytes) {
  int number = device.volume_number();
  if (agreed_.protocol >= wire::kProtocolBlockIds) {
    SendWithDigest(PacketType::kRsDeallocatedId, number, wire::BlockAck{sector, block_id, bytes, 0},
                   {});
  } else {
    SendWithDigest(PacketType::kRsDeallocated, number, wire::BlockDescription{sector, bytes}, {});
  }
}

wire::DagtagRequest Connection::AtPosition(uint64_t sector, uint64_t block_id, uint32_t bytes) {
  wire::DagtagRequest request{sector, block_id, bytes, 0, 0};
  // drbd-wire.md 5.12.2: the newest position of the primary's stream that this node knows.
  if (resource_.state().role == Role::kPrimary) {
    request.dagtag = resource_.log().dagtag();
    request.dagtag_node_id = request.dagtag != 0 ? static_cast<uint32_t>(resource_.own_node()) : 0;
    // The source waits for this position; writes it gets nothing of must not keep it from it.
    if (!sent_dagtag_known_ || sent_dagtag_ != request.dagtag) SendDagtag(request.dagtag);
  } else {
    for (auto& [other, connection] : resource_.connections()) {
      if (!connection->state().connected() || connection->state().role != Role::kPrimary) continue;
      if (!connection->writes().dagtag_known()) continue;
      request.dagtag = connection->writes().last_dagtag();
      request.dagtag_node_id = request.dagtag != 0 ? static_cast<uint32_t>(other) : 0;
    }
  }
  return request;
}

void Connection::SendDataReply(PacketType type, PeerDevice& device, uint64_t sector,
                               uint64_t block_id, std::span<const iovec> payload,
                               SentNotice* notice) {
  if (!up() || !data_queue_.running()) {
    notice->fn(notice, false);
    return;
  }
  uint64_t bytes = IovLength(payload);
  size_t digest = own_digest_ ? own_digest_->size() : 0;
  MutableBytes out = data_queue_.Append(wire::kMaxHeaderSize + wire::DataHead::kSize + digest);
  wire::EncodePacket(type, device.volume_number(), wire::DataHead{sector, block_id, 0, 0}, out,
                     static_cast<uint32_t>(bytes + digest));
  if (own_digest_) {
    own_digest_->Update(payload);
    own_digest_->Finish(out.subspan(wire::kMaxHeaderSize + wire::DataHead::kSize));
  }
  data_queue_.AppendPayload(payload, notice);
  device.sent_bytes += bytes;
}

void Connection::SendReadRequest(PeerDevice& device, uint64_t sector, uint32_t bytes,
                                 uint64_t block_id) {
  SendBarrierIfDue();  // even a read closes a finished epoch (drbd-io-path.md A.8)
  SendPacket(SocketKind::kData, PacketType::kDataRequest, device.volume_number(),
             wire::BlockRequest{sector, block_id, bytes});
}

void Connection::SendPeerAck(NodeMask mask, uint64_t dagtag) {
  SendPacket(SocketKind::kControl, PacketType::kPeerAck, wire::kNoVolume,
             wire::PeerAck{mask, dagtag});
}

// The peer's count of our stream must be right before the next write, and known before a resync
// depends on it (drbd-wire.md 5.10.8).
void Connection::SendDagtag(uint64_t dagtag) {
  SendPacket(SocketKind::kData, PacketType::kDagtag, wire::kNoVolume, wire::Dagtag{dagtag});
  sent_dagtag_ = dagtag;
  sent_dagtag_known_ = true;
}

void Connection::SendTransaction(PacketType type, int volume, const wire::TwoPcRequest& request) {
  if (!up() || !data_queue_.running()) return;
  MutableBytes out = data_queue_.Append(wire::kMaxHeaderSize + wire::TwoPcRequest::kSize);
  wire::EncodeHeader({.type = type, .volume = volume, .length = wire::TwoPcRequest::kSize}, out);
  wire::Encode(request, wire::TwoPcLayoutFor(agreed_.features), out.subspan(wire::kMaxHeaderSize));
}

void Connection::SendVote(PacketType type, int volume, const wire::TwoPcReply& reply) {
  SendPacket(SocketKind::kControl, type, volume, reply);
}

// --- writes
// ----------------------------------------------------------------------------------------

AckProtocol Connection::ack_protocol() const {
  switch (config_.net.protocol) {
    case Protocol::kA:
      return AckProtocol::kA;
    case Protocol::kB:
      return AckProtocol::kB;
    case Protocol::kC:
      break;
  }
  return AckProtocol::kC;
}

uint32_t Connection::DpFlags(const PeerDevice& device) const {
  uint32_t flags = wire::kDpRwSync;
  switch (config_.net.protocol) {
    case Protocol::kA:
      break;
    case Protocol::kB:
      flags |= wire::kDpSendReceiveAck;
      break;
    case Protocol::kC:
      flags |= wire::kDpSendWriteAck;
      break;
  }
  ReplicationState repl = device.state().repl;
  if (repl >= ReplicationState::kSyncSource && repl <= ReplicationState::kPausedSyncT) {
    flags |= wire::kDpMaySetInSync | wire::kDpSendWriteAck;
  }
  return flags;
}

void Connection::QueueWrite(Request* request, int leg_index, PeerDevice& device) {
  RequestLeg& leg = request->legs[static_cast<size_t>(leg_index)];
  if (epoch_writes_ > 0 && sent_epoch_ != request->epoch) SendBarrier();
  sent_epoch_ = request->epoch;
  uint64_t before = request->dagtag - request->sectors();
  if (!sent_dagtag_known_ || sent_dagtag_ != before) SendDagtag(before);
  sent_dagtag_ = request->dagtag;
  if (first_dagtag_ == 0) first_dagtag_ = request->dagtag;

  uint64_t bytes = request->sectors() * 512;
  wire::DataHead head{request->first, request->handle(), device.NextSequence(), DpFlags(device)};
  if (request->fua) head.dp_flags |= wire::kDpFua;
  if (request->leg_states[static_cast<size_t>(leg_index)].Has(LegBit::kProtoC)) {
    head.dp_flags &= ~wire::kDpSendReceiveAck;
    head.dp_flags |= wire::kDpSendWriteAck;
  }
  leg.sent_at = reactor_.Now();
  ++epoch_writes_;
  ap_in_flight_ += bytes;
  if (unacked_tail_ == nullptr) {
    unacked_head_ = request;
  } else {
    unacked_tail_->legs[static_cast<size_t>(unacked_tail_->LegOf(node()))].next_on_connection =
        request;
  }
  unacked_tail_ = request;
  leg.counted = true;
  ++device.pending;

  leg.fn = [](SentNotice* self, bool handed_over) noexcept {
    auto* sent = static_cast<RequestLeg*>(self);
    Request* of = sent->request;
    auto index = static_cast<size_t>(sent - of->legs.data());
    LegStep step =
        Next(of->leg_states[index], handed_over ? LegEvent::kSent : LegEvent::kSendDropped);
    of->leg_states[index] = step.state;
    of->volume->CheckCompletion(of);
  };
  if (request->op == IoOp::kWrite) {
    size_t digest = own_digest_ ? own_digest_->size() : 0;
    MutableBytes out = data_queue_.Append(wire::kMaxHeaderSize + wire::DataHead::kSize + digest);
    wire::EncodePacket(PacketType::kData, device.volume_number(), head, out,
                       static_cast<uint32_t>(bytes + digest));
    if (own_digest_) {
      own_digest_->Update(request->upper->iov);
      own_digest_->Finish(out.subspan(wire::kMaxHeaderSize + wire::DataHead::kSize));
    }
    data_queue_.AppendPayload(request->upper->iov, &leg);
    device.sent_bytes += bytes;
    return;
  }
  // drbd-io-path.md E.1. Without WZEROES the receiver takes a P_TRIM for "write zeroes".
  bool zeroes =
      request->op == IoOp::kWriteZeroes && (agreed_.features & wire::kFeatureWzeroes) != 0;
  if (zeroes) head.dp_flags |= wire::kDpZeroes;
  if (!zeroes || request->may_unmap) head.dp_flags |= wire::kDpDiscard;
  SendPacket(SocketKind::kData, zeroes ? PacketType::kZeroes : PacketType::kTrim,
             device.volume_number(), wire::TrimRequest{head, static_cast<uint32_t>(bytes)});
  data_queue_.NotifyWhenSent(&leg);
}

void Connection::SendBarrier() {
  // The number is ours alone: opaque to the peer, which echoes it (drbd-io-path.md B.3).
  SendPacket(SocketKind::kData, PacketType::kBarrier, wire::kNoVolume, wire::Barrier{sent_epoch_});
  if (sent_barriers_.full()) sent_barriers_.set_capacity(sent_barriers_.capacity() * 2);
  sent_barriers_.push_back(sent_epoch_);
  epoch_writes_ = 0;
}

void Connection::SendBarrierIfDue() {
  if (epoch_writes_ > 0 && sent_epoch_ != resource_.log().epoch()) SendBarrier();
}

}  // namespace umblock::drbd
