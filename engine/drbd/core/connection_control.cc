// The control socket: acks, pings, votes. Nothing here waits (drbd-wire.md 9.3).
#include "engine/drbd/core/connection.h"
#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {

using wire::PacketType;

Task<void> Connection::ControlLoop() {
  while (!failed_) {
    Result<wire::Header> header = co_await control_reader_->Next();
    if (failed_) break;
    if (!header) {
      // Why the peer left may still be on its way on the other socket.
      if (negotiated_ && header.error().code() == ErrorCode::kUnavailable) {
        co_await Sleep(reactor_, config_.net.ping_timeout, session_tasks_->token());
      }
      FailWith(header.error());
      break;
    }
    last_control_ = reactor_.Now();
    if (control_queue_.queued_bytes() > kMaxControlBacklog) {
      Fail(ConnectionState::kProtocolError, "the peer asks and does not read the answers");
      break;
    }
    if (header->length > PacketReader::kSmallPayload) {
      Fail(ConnectionState::kProtocolError,
           fmt::format("a control packet of {} bytes", header->length));
      break;
    }
    Result<Bytes> payload = co_await control_reader_->Small(header->length);
    if (failed_) break;
    if (!payload) {
      FailWith(payload.error());
      break;
    }
    Status status = HandleControl(*header, *payload);
    if (!status && !failed_) FailWith(status.error());
  }
}

Status Connection::HandleControl(const wire::Header& header, Bytes payload) {
  // Pings are answered at once, but nothing is sent here before features and authentication are
  // through: a 9.1 reads this socket in the agreed header format only (drbd-wire.md 1.11).
  if (header.type == PacketType::kPing && header.length == 0) {
    if (negotiated_) {
      SendEmpty(wire::SocketKind::kControl, PacketType::kPingAck);
    } else if (++owed_ping_acks_ > kMaxOwedPingAcks) {
      return MakeError(ErrorCode::kInvalidArgument, "{} pings before the features",
                       owed_ping_acks_);
    }
    return Ok();
  }
  if (header.type == PacketType::kPingAck && header.length == 0) {
    if (ping_acks_ < pings_sent_) ++ping_acks_;
    oldest_ping_ = reactor_.Now();  // of the next one that waits: not longer than this, for sure
    ping_event_.NotifyAll();
    return Ok();
  }
  if (!negotiated_) {
    return MakeError(ErrorCode::kInvalidArgument, "{} before the features were exchanged",
                     wire::PacketName(header.type));
  }
  UMBLOCK_TRY(wire::CheckHeader(header, wire::SocketKind::kControl, agreed_));
  switch (header.type) {
    case PacketType::kBarrierAck:
      return OnBarrierAck(payload);
    case PacketType::kConfirmStable:
      return OnConfirmStable(payload);
    case PacketType::kPeerAck: {
      wire::PeerAck ack = *wire::PeerAck::Decode(payload);
      writes_.OnPeerAck(ack.mask & wire::kNodeMask, ack.dagtag);
      return Ok();
    }
    case PacketType::kTwopcYes:
    case PacketType::kTwopcNo:
    case PacketType::kTwopcRetry:
      return OnTwoPcReply(header, payload);
    case PacketType::kFlushForward:
    case PacketType::kDelayProbe:
      return Ok();
    case PacketType::kPeersInSync: {
      Result<PeerDevice*> device = DeviceFor(header);
      if (!device) return std::unexpected(device.error());
      return OnPeersInSync(payload, **device);
    }
    case PacketType::kOvResult:
    case PacketType::kOvResultId: {
      Result<PeerDevice*> device = DeviceFor(header);
      if (!device) return std::unexpected(device.error());
      return OnVerifyResult(header, payload, **device);
    }
    default:
      return OnBlockAck(header, payload);
  }
}

Status Connection::OnTwoPcReply(const wire::Header& header, Bytes payload) {
  Vote vote = header.type == PacketType::kTwopcYes  ? Vote::kYes
              : header.type == PacketType::kTwopcNo ? Vote::kNo
                                                    : Vote::kRetry;
  resource_.transactions().OnReply(*this, vote, *wire::TwoPcReply::Decode(payload));
  return Ok();
}

Status Connection::OnPeersInSync(Bytes payload, PeerDevice& device) {
  wire::PeersInSync packet = *wire::PeersInSync::Decode(payload);
  Volume& volume = device.volume();
  UMBLOCK_TRY(wire::CheckRange(PacketType::kPeersInSync, packet.sector, packet.size,
                               UINT32_MAX - 511, volume.size_sectors()));
  volume.ClearOutOfSync(
      packet.sector, packet.sector + packet.size / 512,
      volume.SlotMaskOf(packet.mask & ~NodeBit(resource_.own_node()) & wire::kNodeMask));
  return Ok();
}

// --- acks
// ------------------------------------------------------------------------------------------

Status Connection::OnBlockAck(const wire::Header& header, Bytes payload) {
  std::optional<wire::BlockAck> ack = wire::BlockAck::Decode(payload);
  if (!ack) {
    return MakeError(ErrorCode::kInvalidArgument, "unexpected control packet {} (0x{:x})",
                     wire::PacketName(header.type), static_cast<int>(header.type));
  }
  Result<PeerDevice*> found = DeviceFor(header);
  if (!found) return std::unexpected(found.error());
  PeerDevice& device = **found;
  bool block_ids = agreed_.protocol >= wire::kProtocolBlockIds;
  switch (header.type) {
    case PacketType::kRecvAck:
      return OnWriteAck(device, *ack, LegEvent::kRecvAck);
    case PacketType::kWriteAck:
      return OnWriteAck(device, *ack, LegEvent::kWriteAck);
    case PacketType::kWriteAckInSync:
      return OnWriteAck(device, *ack, LegEvent::kWriteAckInSync);
    case PacketType::kRsWriteAck:
      if (!block_ids && ack->block_id != wire::kIdSyncer) {
        return OnWriteAck(device, *ack, LegEvent::kWriteAckInSync);
      }
      device.source.OnAck(ack->block_id, ack->sector, ack->blksize, true);
      return Ok();
    case PacketType::kRsNegAck:
      device.source.OnAck(ack->block_id, ack->sector, ack->blksize, false);
      return Ok();
    case PacketType::kNegAck:
      if (!block_ids && ack->block_id == wire::kIdSyncer) {
        device.source.OnAck(ack->block_id, ack->sector, ack->blksize, false);
        return Ok();
      }
      return OnNegAck(device, *ack);
    case PacketType::kNegDreply:
      if (device.volume().FindRemoteRead(ack->block_id, node(), ack->sector) == nullptr) {
        return MakeError(ErrorCode::kInvalidArgument, "P_NEG_DREPLY answers no read of ours");
      }
      device.volume().FinishRemoteRead(ack->block_id, false);
      return Ok();
    case PacketType::kNegRsDreply:
    case PacketType::kRsCancel:
    case PacketType::kRsCancelAhead:
    case PacketType::kRsIsInSync: {
      if (VerifyBlock* verified =
              device.verify_source.FindRequest(ack->block_id, ack->sector, ack->blksize)) {
        device.verify_source.OnCancelled(verified);
        return Ok();
      }
      ResyncBlock* block = device.target.FindRequest(ack->block_id, ack->sector, ack->blksize);
      if (block == nullptr) return Ok();  // of a resync that was stopped
      // Its state, which ends this resync, may still be behind data that is on the way.
      if (header.type == PacketType::kRsCancelAhead) device.target.Pause(true);
      if (header.type == PacketType::kNegRsDreply) {
        device.target.OnFailed(block);
      } else if (header.type == PacketType::kRsIsInSync) {
        if (!device.target.OnInSync(block)) {
          return MakeError(ErrorCode::kInvalidArgument,
                           "P_RS_IS_IN_SYNC for sector {}, of which no digest was sent",
                           ack->sector);
        }
      } else {
        device.target.OnCancelled(block);
      }
      return Ok();
    }
    default:
      return MakeError(ErrorCode::kInvalidArgument, "unexpected control packet {} (0x{:x})",
                       wire::PacketName(header.type), static_cast<int>(header.type));
  }
}

Status Connection::OnWriteAck(PeerDevice& device, const wire::BlockAck& ack, LegEvent event) {
  Request* request = device.volume().FindRequest(ack.block_id);
  int leg = request == nullptr || !request->registered ? -1 : request->LegOf(node());
  if (leg < 0 || request->first != ack.sector) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "an ack for sector {} names no write of ours that is under way", ack.sector);
  }
  auto index = static_cast<size_t>(leg);
  LegStep step = Next(request->leg_states[index], event);
  if (step.Has(LegEffect::kProtocolError)) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "the peer acknowledged a write to sector {} that it cannot acknowledge now",
                     ack.sector);
  }
  request->leg_states[index] = step.state;
  NoLongerPending(request, leg);
  request->volume->CheckCompletion(request);
  return Ok();
}

Status Connection::OnNegAck(PeerDevice& device, const wire::BlockAck& ack) {
  Volume& volume = device.volume();
  Request* request = volume.FindRequest(ack.block_id);
  int leg = request == nullptr || !request->registered ? -1 : request->LegOf(node());
  if (leg < 0 || request->first != ack.sector) {
    // Protocols A and B: the request may be gone; its range is out of sync (O8).
    if (wire::CheckRange(PacketType::kNegAck, ack.sector, ack.blksize, UINT32_MAX - 511,
                         volume.size_sectors())) {
      volume.SetOutOfSync(ack.sector, ack.sector + ack.blksize / 512,
                          volume.SlotMaskOf(NodeBit(node())));
    }
    return Ok();
  }
  auto index = static_cast<size_t>(leg);
  LegStep step = Next(request->leg_states[index], LegEvent::kNegAck);
  if (step.Has(LegEffect::kProtocolError)) {
    return MakeError(ErrorCode::kInvalidArgument, "P_NEG_ACK for a write that is over (sector {})",
                     ack.sector);
  }
  request->leg_states[index] = step.state;
  NoLongerPending(request, leg);
  // What the peer does not have is another generation, whatever its disk says of itself: it may
  // leave and come back before anything else is written. With half-synced data of its own this node
  // has nothing to begin one of: the peer was the one with all of it.
  if (volume.state().disk == DiskState::kUpToDate) {
    device.misses_writes = true;
    resource_.OweNewUuid(volume);
    if (!resource_.suspended()) resource_.StartOwedUuid(volume);
  }
  volume.CheckCompletion(request);
  return Ok();
}

// A write is pending until its ack, or without one until its barrier ack.
void Connection::NoLongerPending(Request* request, int leg) {
  RequestLeg& of = request->legs[static_cast<size_t>(leg)];
  if (!std::exchange(of.counted, false)) return;
  if (PeerDevice* device = request->volume->peer(node())) --device->pending;
}

// drbd-io-path.md B.7: the number must be that of the oldest epoch, the count exactly what was
// sent.
Status Connection::OnBarrierAck(Bytes payload) {
  wire::BarrierAck ack = *wire::BarrierAck::Decode(payload);
  uint32_t count = 0;
  if (sent_barriers_.empty() || sent_barriers_.front() != ack.barrier) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "P_BARRIER_ACK for epoch {}, which is not the oldest one that waits",
                     ack.barrier);
  }
  for (Request* request = unacked_head_; request != nullptr && request->epoch == ack.barrier;
       request = request->legs[static_cast<size_t>(request->LegOf(node()))].next_on_connection) {
    ++count;
  }
  if (count != ack.set_size) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "P_BARRIER_ACK for epoch {} counts {} writes, {} were sent", ack.barrier,
                     ack.set_size, count);
  }
  sent_barriers_.pop_front();
  for (uint32_t i = 0; i < count; ++i) MarkDone(PopUnacked());
  congestion_.OnProgress();
  resource_.ScheduleProgress();
  return Ok();
}

void Connection::MarkDone(Request* request) {
  auto index = static_cast<size_t>(request->LegOf(node()));
  LegStep step = Next(request->leg_states[index], LegEvent::kBarrierAck);
  if (step.Has(LegEffect::kForcedOk)) {
    resource_.logger().Warn("{}: barrier ack before the ack of a write to sector {}", name_,
                            request->first);
  }
  request->leg_states[index] = step.state;
  NoLongerPending(request, static_cast<int>(index));
  request->volume->CheckCompletion(request);
}

// B.8: the oldest writes of an epoch that is still open are stable.
Status Connection::OnConfirmStable(Bytes payload) {
  wire::ConfirmStable confirm = *wire::ConfirmStable::Decode(payload);
  Request* request = unacked_head_;
  if (request == nullptr || request->handle() != confirm.oldest_block_id || confirm.set_size == 0) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "P_CONFIRM_STABLE does not begin with the oldest write that waits");
  }
  uint32_t epoch = request->epoch;
  uint32_t count = 1;
  while (request->handle() != confirm.youngest_block_id && count < confirm.set_size) {
    request = request->legs[static_cast<size_t>(request->LegOf(node()))].next_on_connection;
    if (request == nullptr || request->epoch != epoch) break;
    ++count;
  }
  if (request == nullptr || request->handle() != confirm.youngest_block_id ||
      count != confirm.set_size) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "P_CONFIRM_STABLE names {} writes that are not one run of one epoch",
                     confirm.set_size);
  }
  for (uint32_t i = 0; i < count; ++i) MarkDone(PopUnacked());
  congestion_.OnProgress();
  // Nothing of the epoch is left to acknowledge with a barrier of its own, but the barrier still
  // comes; INV-31: the peer waits for the peer acks.
  resource_.AdvanceDone();
  resource_.peer_acks().Flush();
  return Ok();
}

// --- keep-alive
// ------------------------------------------------------------------------------------

void Connection::SendPing() {
  if (!up() || !control_queue_.running()) return;
  if (ping_acks_ == pings_sent_) oldest_ping_ = reactor_.Now();
  ++pings_sent_;
  SendEmpty(wire::SocketKind::kControl, PacketType::kPing);
  ping_event_.NotifyAll();
}

Task<bool> Connection::PingRoundTrip() {
  if (!up() || !negotiated_) co_return false;
  SendPing();
  uint64_t mine = pings_sent_;
  while (!failed_ && ping_acks_ < mine) co_await ping_event_.Wait();
  co_return !failed_;
}

Task<void> Connection::KeepAlive() {
  CancelToken cancel = session_tasks_->token();
  const NetOptions& net = config_.net;
  while (!failed_) {
    Time now = reactor_.Now();
    if (ping_acks_ < pings_sent_) {
      // What was asked must be answered in time, whatever else arrives.
      if (now - oldest_ping_ >= net.ping_timeout && now - last_control_ >= net.ping_timeout) {
        Fail(ConnectionState::kNetworkFailure, "the peer does not answer pings");
        co_return;
      }
      // One that talks, and does not answer, is not alive either.
      if (now - oldest_ping_ >= 10 * net.ping_timeout) {
        Fail(ConnectionState::kProtocolError, "the peer sends packets and no answers to pings");
        co_return;
      }
      Time due = std::max(oldest_ping_, last_control_) + net.ping_timeout;
      co_await ping_event_.WaitFor(std::max<Duration>(due - now, 1ms), cancel);
      if (ping_acks_ == pings_sent_) continue;
      continue;
    }
    CheckAckAge();
    if (failed_) co_return;
    if (now - last_control_ >= net.ping_int) {
      SendPing();
      continue;
    }
    Duration idle = net.ping_int - (now - last_control_);
    co_await ping_event_.WaitFor(std::min<Duration>(idle, 1s), cancel);
  }
}

// drbd-io-path.md F.7: a peer that does not acknowledge for timeout × ko-count is given up.
void Connection::CheckAckAge() {
  const NetOptions& net = config_.net;
  if (net.ko_count == 0 || unacked_head_ == nullptr) return;
  // The oldest that lacks its ack; else the oldest, if its barrier was sent.
  const RequestLeg* oldest = nullptr;
  for (Request* request = unacked_head_; request != nullptr && oldest == nullptr;) {
    auto index = static_cast<size_t>(request->LegOf(node()));
    if (request->leg_states[index].Has(LegBit::kPending)) oldest = &request->legs[index];
    request = request->legs[index].next_on_connection;
  }
  if (oldest == nullptr) {
    if (epoch_writes_ > 0 && sent_epoch_ == unacked_head_->epoch) return;
    oldest = &unacked_head_->legs[static_cast<size_t>(unacked_head_->LegOf(node()))];
  }
  if (reactor_.Now() - oldest->sent_at < net.timeout * net.ko_count) return;
  Fail(ConnectionState::kTimeout,
       fmt::format(
           "the peer has not acknowledged a write for {} s",
           std::chrono::duration_cast<std::chrono::seconds>(net.timeout * net.ko_count).count()));
}

}  // namespace umblock::drbd
