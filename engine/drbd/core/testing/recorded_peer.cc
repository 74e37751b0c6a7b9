#include "engine/drbd/core/testing/recorded_peer.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/drbd/wire/auth.h"
#include "engine/drbd/wire/data_packets.h"
#include "engine/drbd/wire/digest.h"
#include "engine/drbd/wire/packet.h"
#include "engine/drbd/wire/twopc_packets.h"

namespace umblock::drbd::testing {

using wire::PacketType;
using wire::SocketKind;

namespace {

SocketAddress AddressOf(int node, uint16_t port) {
  return SocketAddress::Ipv4({192, 0, 2, static_cast<uint8_t>(11 + node)}, port);
}

int Index(SocketKind kind) { return kind == SocketKind::kData ? 0 : 1; }

std::vector<std::byte> Empty(PacketType type, wire::HeaderKind kind) {
  std::vector<std::byte> bytes(wire::HeaderSize(kind));
  wire::EncodeHeader({.type = type,
                      .volume = kind == wire::HeaderKind::kH100 ? wire::kNoVolume : 0,
                      .length = 0,
                      .kind = kind},
                     bytes);
  return bytes;
}

}  // namespace

RecordedPeer::RecordedPeer(Reactor& reactor, const RecordedSide& side, PeerOffer offer)
    : reactor_(reactor),
      side_(side),
      offer_(offer),
      send_locks_{AsyncMutex(reactor), AsyncMutex(reactor)},
      arrived_(reactor),
      tasks_(reactor) {
  agreed_protocol_ = std::min(offer.protocol_max, static_cast<uint32_t>(side.link->protocol));
  agreed_features_ = offer.features & side.link->agreed_features;
}

RecordedPeer::~RecordedPeer() = default;

void RecordedPeer::Start(std::vector<RecordedStep> steps, PeerBehaviour behaviour) {
  behaviour_ = std::move(behaviour);
  tasks_.Spawn(Run(std::move(steps)));
}

Task<Status> RecordedPeer::Stop() {
  cancel_.Cancel();
  tasks_.Cancel();
  for (auto& stream : streams_) {
    if (stream) stream->Abort();
  }
  arrived_.NotifyAll();
  co_await tasks_.Join();
  for (auto& stream : streams_) {
    if (stream) co_await stream->Close();
    stream.reset();
  }
  if (listener_) co_await listener_->Close();
  co_return Ok();
}

// Our node dials first and opens the socket that its address gives it; then the other one is due.
Task<Status> RecordedPeer::MakeSockets() {
  auto listener = reactor_.Listen({.local = AddressOf(side_.peer, 7789)});
  if (!listener) co_return std::unexpected(listener.error());
  listener_ = std::move(*listener);
  auto accepted = co_await listener_->Accept(cancel_);
  if (!accepted) co_return std::unexpected(accepted.error());
  PacketReader reader(**accepted);
  auto first = co_await reader.Next();
  bool we_open_data = side_.link->data->client.ip == (side_.node == 0 ? 0xC000020Bu : 0xC000020Cu);
  SocketKind ours = we_open_data ? SocketKind::kData : SocketKind::kControl;
  PacketType initial = we_open_data ? PacketType::kInitialData : PacketType::kInitialMeta;
  bool right = first && first->type == initial && first->size() == wire::kMinHeaderSize &&
               first->length == 0;
  streams_[Index(ours)] = std::move(*accepted);
  if (!right) co_return MakeError(ErrorCode::kInvalidArgument, "not the recorded initial packet");
  SocketKind theirs = we_open_data ? SocketKind::kControl : SocketKind::kData;
  auto connected = co_await reactor_.Connect({.local = AddressOf(side_.peer, 0),
                                              .bind_local = true,
                                              .remote = AddressOf(side_.node, 7789)},
                                             cancel_);
  if (!connected) co_return std::unexpected(connected.error());
  streams_[Index(theirs)] = std::move(*connected);
  bool sent = co_await SendRaw(
      theirs, Empty(we_open_data ? PacketType::kInitialMeta : PacketType::kInitialData,
                    wire::HeaderKind::kH80));
  if (!sent) co_return MakeError(ErrorCode::kUnavailable, "our node closed the second socket");
  co_return Ok();
}

Task<void> RecordedPeer::Run(std::vector<RecordedStep> steps) {
  Status made = co_await MakeSockets();
  if (!made) {
    failure_ = made.error().ToString();
    done_ = true;
    co_return;
  }
  tasks_.Spawn(Receive(SocketKind::kData));
  tasks_.Spawn(Receive(SocketKind::kControl));
  for (const RecordedStep& step : steps) {
    if (closed_) break;
    if (step.ours) {
      Expect(step);
      continue;
    }
    if (!co_await WaitForOurs(step)) break;
    if (!co_await Send(step)) break;
  }
  bool refused =
      side_.outcome == RecordedOutcome::kRefused || side_.outcome == RecordedOutcome::kAuthFailed;
  if (refused && !steps.empty() && co_await WaitForOurs(steps.back())) {
    for (auto& stream : streams_) stream->ShutdownSend();
  }
  done_ = true;
}

Task<void> RecordedPeer::Receive(SocketKind kind) {
  Stream& stream = *streams_[Index(kind)];
  PacketReader reader(stream);
  for (;;) {
    auto header = co_await reader.Next();
    if (!header) break;
    std::vector<std::byte> payload(header->length);
    if (header->length > 0 && !co_await reader.Into(payload)) break;
    if (header->type == PacketType::kPing) {
      co_await SendRaw(SocketKind::kControl, Empty(PacketType::kPingAck, wire::HeaderKind::kH100));
    }
    if (header->type == PacketType::kPingAck) {
      ++ping_acks_;
      if (header->kind != wire::HeaderKind::kH100) failure_ = "a ping was answered too early";
    }
    if (header->type == PacketType::kUuids110) own_current_ = LoadBe<uint64_t>(payload.data());
    if (behaviour_.answers) co_await Answer(*header, payload);
    if (!LeftOut(header->type)) {
      received_.push_back({kind, header->type, PacketText(*header, payload, agreed_features_)});
    }
    ours_.push_back({kind, header->type, std::move(payload)});
    arrived_.NotifyAll();
  }
  closed_ = true;
  arrived_.NotifyAll();
}

// When a DAGTAG is due depends on a feature that we decline, and 9.1 and 9.2 (node 0 of the
// recordings without that feature) send it later than 9.3.
bool RecordedPeer::LeftOut(PacketType type) const {
  if (type == PacketType::kDagtag) {
    return (side_.link->agreed_features & wire::kFeatureResyncWithoutReplication) != 0 ||
           side_.node == 0;
  }
  return IsLeftOut(type);
}

namespace {

// What is answered, or counted, as it comes.
bool IsFlow(PacketType type) {
  switch (type) {
    case PacketType::kData:
    case PacketType::kTrim:
    case PacketType::kZeroes:
    case PacketType::kBarrier:
    case PacketType::kRecvAck:
    case PacketType::kWriteAck:
    case PacketType::kWriteAckInSync:
    case PacketType::kBarrierAck:
    case PacketType::kRsDataRequest:
    case PacketType::kRsDagtagReq:
    case PacketType::kCsumRsRequest:
    case PacketType::kRsCsumDagtagReq:
    case PacketType::kRsThinReq:
    case PacketType::kRsThinDagtagReq:
    case PacketType::kRsDataReply:
    case PacketType::kRsDeallocated:
    case PacketType::kRsDeallocatedId:
    case PacketType::kRsWriteAck:
    case PacketType::kRsIsInSync:
    case PacketType::kOvRequest:
    case PacketType::kOvDagtagReq:
    case PacketType::kOvReply:
    case PacketType::kOvDagtagReply:
    case PacketType::kOvResult:
    case PacketType::kOvResultId:
    case PacketType::kDataRequest:
    case PacketType::kDataReply:
    case PacketType::kPeerAck:
    case PacketType::kPeersInSync:
      return true;
    default:
      return false;
  }
}

// Answers to our requests, which Answer() gives.
bool IsAnswer(PacketType type) {
  switch (type) {
    case PacketType::kRecvAck:
    case PacketType::kWriteAck:
    case PacketType::kWriteAckInSync:
    case PacketType::kBarrierAck:
    case PacketType::kRsDataReply:
    case PacketType::kRsDeallocated:
    case PacketType::kRsDeallocatedId:
    case PacketType::kRsWriteAck:
    case PacketType::kRsIsInSync:
    case PacketType::kOvReply:
    case PacketType::kOvDagtagReply:
    case PacketType::kOvResult:
    case PacketType::kOvResultId:
    case PacketType::kDataReply:
      return true;
    default:
      return false;
  }
}

template <typename T>
std::vector<std::byte> Encoded(PacketType type, int volume, const T& packet, size_t trailing = 0) {
  std::vector<std::byte> bytes(wire::kMaxHeaderSize + T::kSize + trailing);
  wire::EncodePacket(type, volume, packet, bytes, static_cast<uint32_t>(trailing));
  return bytes;
}

// What the peer is asked for is empty here. Empty without an algorithm.
std::vector<std::byte> DigestOfZeroes(const std::string& algorithm, size_t bytes) {
  if (algorithm.empty()) return {};
  std::vector<std::byte> zeroes(bytes);
  wire::Digest digest = std::move(*wire::Digest::Create(algorithm));
  std::vector<std::byte> result(digest.size());
  digest.Update(Bytes(zeroes));
  digest.Finish(result);
  return result;
}

}  // namespace

Task<void> RecordedPeer::Answer(const wire::Header& header, Bytes payload) {
  switch (header.type) {
    case PacketType::kData:
    case PacketType::kTrim:
    case PacketType::kZeroes: {
      auto head = wire::DataHead::Decode(payload);
      ++epoch_writes_;
      auto bytes = header.type == PacketType::kData
                       ? static_cast<uint32_t>(payload.size() - wire::DataHead::kSize)
                       : wire::TrimRequest::Decode(payload)->size;
      wire::BlockAck ack{head->sector, head->block_id, bytes, 1};
      if ((head->dp_flags & wire::kDpSendReceiveAck) != 0) {
        co_await SendRaw(SocketKind::kControl, Encoded(PacketType::kRecvAck, header.volume, ack));
      }
      if ((head->dp_flags & wire::kDpSendWriteAck) != 0) {
        bool in_sync = (head->dp_flags & wire::kDpMaySetInSync) != 0 && agreed_protocol_ >= 122;
        co_await SendRaw(SocketKind::kControl,
                         Encoded(in_sync ? PacketType::kWriteAckInSync : PacketType::kWriteAck,
                                 header.volume, ack));
      }
      break;
    }
    case PacketType::kBarrier: {
      wire::BarrierAck ack{wire::Barrier::Decode(payload)->barrier, epoch_writes_};
      epoch_writes_ = 0;
      co_await SendRaw(SocketKind::kControl,
                       Encoded(PacketType::kBarrierAck, wire::kNoVolume, ack));
      break;
    }
    case PacketType::kRsDataRequest:
    case PacketType::kRsDagtagReq:
    case PacketType::kCsumRsRequest:
    case PacketType::kRsCsumDagtagReq:
    case PacketType::kDataRequest: {
      auto request = wire::BlockRequest::Decode(payload);
      wire::DataHead head{request->sector, request->block_id, 0, 0};
      PacketType type = header.type == PacketType::kDataRequest ? PacketType::kDataReply
                                                                : PacketType::kRsDataReply;
      std::vector<std::byte> digest =
          DigestOfZeroes(side_.prepared.net.data_integrity_alg, request->blksize);
      auto packet = Encoded(type, header.volume, head, digest.size() + request->blksize);
      std::ranges::copy(digest, packet.begin() + wire::kMaxHeaderSize + wire::DataHead::kSize);
      co_await SendRaw(SocketKind::kData, std::move(packet));
      break;
    }
    case PacketType::kRsThinReq: {
      auto request = wire::BlockRequest::Decode(payload);
      co_await SendRaw(SocketKind::kData,
                       Encoded(PacketType::kRsDeallocated, header.volume,
                               wire::BlockDescription{request->sector, request->blksize}));
      break;
    }
    case PacketType::kRsThinDagtagReq: {
      auto request = wire::DagtagRequest::Decode(payload);
      co_await SendRaw(SocketKind::kData, Encoded(PacketType::kRsDeallocatedId, header.volume,
                                                  wire::BlockAck{request->sector, request->block_id,
                                                                 request->blksize, 0}));
      break;
    }
    case PacketType::kOvRequest:
    case PacketType::kOvDagtagReq: {
      std::vector<std::byte> digest = DigestOfZeroes(side_.prepared.net.verify_alg,
                                                     wire::BlockRequest::Decode(payload)->blksize);
      bool with_dagtag = header.type == PacketType::kOvDagtagReq;
      std::vector<std::byte> packet(wire::kMaxHeaderSize + payload.size());
      wire::EncodeHeader({.type = with_dagtag ? PacketType::kOvDagtagReply : PacketType::kOvReply,
                          .volume = header.volume,
                          .length = static_cast<uint32_t>(payload.size() + digest.size())},
                         packet);
      std::ranges::copy(payload, packet.begin() + wire::kMaxHeaderSize);
      packet.insert(packet.end(), digest.begin(), digest.end());
      co_await SendRaw(SocketKind::kData, std::move(packet));
      break;
    }
    case PacketType::kOvReply:
    case PacketType::kOvDagtagReply: {
      auto reply = wire::BlockRequest::Decode(payload);
      if (agreed_protocol_ >= wire::kProtocolBlockIds) {
        co_await SendRaw(SocketKind::kControl,
                         Encoded(PacketType::kOvResultId, header.volume,
                                 wire::OvResultId{reply->sector, reply->block_id, reply->blksize, 1,
                                                  wire::VerifyResult::kInSync}));
      } else {
        wire::BlockAck result{reply->sector, 0, reply->blksize, 1};
        result.set_ov_result(wire::kOvResultInSync);
        co_await SendRaw(SocketKind::kControl,
                         Encoded(PacketType::kOvResult, header.volume, result));
      }
      break;
    }
    case PacketType::kRsDataReply: {
      auto head = wire::DataHead::Decode(payload);
      auto bytes = static_cast<uint32_t>(payload.size() - wire::DataHead::kSize);
      uint64_t id = agreed_protocol_ >= 122 ? head->block_id : wire::kIdSyncer;
      co_await SendRaw(SocketKind::kControl, Encoded(PacketType::kRsWriteAck, header.volume,
                                                     wire::BlockAck{head->sector, id, bytes, 1}));
      break;
    }
    case PacketType::kRsDeallocated: {
      auto said = wire::BlockDescription::Decode(payload);
      co_await SendRaw(SocketKind::kControl,
                       Encoded(PacketType::kRsWriteAck, header.volume,
                               wire::BlockAck{said->sector, wire::kIdSyncer, said->blksize, 1}));
      break;
    }
    case PacketType::kRsDeallocatedId: {
      auto said = wire::BlockAck::Decode(payload);
      co_await SendRaw(SocketKind::kControl,
                       Encoded(PacketType::kRsWriteAck, header.volume,
                               wire::BlockAck{said->sector, said->block_id, said->blksize, 1}));
      break;
    }
    default:
      break;
  }
}

// Our node has made a generation where the recorded one had made another.
void RecordedPeer::RenameGenerations(MutableBytes payload) {
  if (recorded_current_ != 0 && (recorded_current_ | 1) != (own_current_ | 1)) {
    generations_[recorded_current_ | 1] = own_current_;
  }
  for (size_t at = 0; at + 8 <= payload.size(); at += 8) {
    if (at >= 8 && at < 40) continue;  // counts, flags and masks
    auto uuid = LoadBe<uint64_t>(payload.data() + at);
    auto it = generations_.find(uuid | 1);
    if (it == generations_.end()) continue;
    StoreBe<uint64_t>(payload.data() + at, (it->second & ~uint64_t{1}) | (uuid & 1));
  }
}

void RecordedPeer::Expect(const RecordedStep& step) {
  if (step.type() == PacketType::kUuids110) {
    recorded_current_ = LoadBe<uint64_t>(step.packet->payload().data());
  }
  if (behaviour_.initiative) behaviour_.initiative(step);
  if (step.type() == PacketType::kTwopcPrepare) {
    auto request = wire::TwoPcRequest::Decode(step.packet->payload(),
                                              wire::TwoPcLayoutFor(side_.link->agreed_features));
    recorded_tids_.emplace_back(request->tid, recorded_tids_.size());
  }
  if (LeftOut(step.type())) return;
  expected_.push_back(
      {step.socket, step.type(),
       PacketText(step.packet->header, step.packet->payload(), side_.link->agreed_features)});
}

size_t RecordedPeer::CountOurs(SocketKind kind, PacketType type) const {
  return static_cast<size_t>(std::ranges::count_if(
      received_, [&](const SentPacket& p) { return p.socket == kind && p.type == type; }));
}

size_t RecordedPeer::CountExpected(SocketKind kind, PacketType type) const {
  return static_cast<size_t>(std::ranges::count_if(
      WithoutRepetitions(expected_),
      [&](const SentPacket& p) { return p.socket == kind && p.type == type; }));
}

// The bound keeps the script going where our node orders things differently; the comparison at the
// end decides whether that matters. A resync takes as long as its rate says: the bound counts from
// the last packet of ours.
Task<bool> RecordedPeer::WaitForOurs(const RecordedStep& next) {
  // Until the features our node may be busy looking whether its sockets stay up.
  bool begun = next.type() != PacketType::kConnectionFeatures &&
               CountOurs(SocketKind::kData, PacketType::kConnectionFeatures) > 0;
  Time until = reactor_.Now() + (begun && !behaviour_.answers ? 150ms : 1500ms);
  while (behaviour_.writing && behaviour_.writing() && !closed_) {
    if (co_await arrived_.WaitFor(1ms, cancel_) == WakeReason::kCancelled) co_return false;
    until = reactor_.Now() + 1500ms;
  }
  size_t heard = received_.size();
  for (;;) {
    if (behaviour_.answers && received_.size() != heard) {
      heard = received_.size();
      until = reactor_.Now() + 1500ms;
    }
    const SentPacket* missing = nullptr;
    for (const SentPacket& packet : expected_) {
      // Answers to what the script asked are as many as recorded.
      bool flow = IsFlow(packet.type) && packet.type != PacketType::kRsDataReply &&
                  packet.type != PacketType::kRsDeallocated &&
                  packet.type != PacketType::kRsDeallocatedId &&
                  packet.type != PacketType::kRecvAck && packet.type != PacketType::kWriteAck &&
                  packet.type != PacketType::kBarrierAck;
      if (behaviour_.answers && flow) continue;
      if (CountOurs(packet.socket, packet.type) + excused_[{packet.socket, packet.type}] <
          CountExpected(packet.socket, packet.type)) {
        missing = &packet;
        break;
      }
    }
    if (missing == nullptr || closed_) co_return !closed_;
    if (reactor_.Now() >= until) {
      stalls_.push_back(fmt::format("{} waited for {}", wire::PacketName(next.type()),
                                    wire::PacketName(missing->type)));
      // It will not come any more; later steps do not wait for it again.
      for (const SentPacket& packet : expected_) {
        size_t ours = CountOurs(packet.socket, packet.type);
        size_t due = CountExpected(packet.socket, packet.type);
        excused_[{packet.socket, packet.type}] = due > ours ? due - ours : 0;
      }
      co_return true;
    }
    if (co_await arrived_.WaitFor(until - reactor_.Now(), cancel_) == WakeReason::kCancelled) {
      co_return false;
    }
  }
}

void RecordedPeer::SubstituteTid(const RecordedStep& step, MutableBytes payload) {
  auto recorded = LoadBe<uint32_t>(payload.data());
  auto it = std::ranges::find_if(recorded_tids_,
                                 [&](const auto& entry) { return entry.first == recorded; });
  (void)step;
  if (it == recorded_tids_.end()) return;
  size_t wanted = it->second;
  for (const Ours& ours : ours_) {
    if (ours.type != PacketType::kTwopcPrepare) continue;
    if (wanted-- != 0) continue;
    StoreBe<uint32_t>(payload.data(), LoadBe<uint32_t>(ours.payload.data()));
    return;
  }
}

bool RecordedPeer::Substitute(const RecordedStep& step, std::vector<std::byte>& bytes) {
  size_t head = step.packet->header.size();
  MutableBytes payload = MutableBytes(bytes).subspan(head);
  if (behaviour_.answers && IsAnswer(step.type())) return false;
  switch (step.type()) {
    case PacketType::kUuids110:
    case PacketType::kCurrentUuid:
      if (behaviour_.answers) RenameGenerations(payload);
      return true;
    case PacketType::kConnectionFeatures:
      StoreBe<uint32_t>(payload.data() + 4, LoadBe<uint32_t>(payload.data() + 4) & offer_.features);
      StoreBe<uint32_t>(payload.data() + 8,
                        std::min(LoadBe<uint32_t>(payload.data() + 8), offer_.protocol_max));
      return true;
    case PacketType::kAuthResponse: {
      for (const Ours& ours : ours_) {
        if (ours.type != PacketType::kAuthChallenge) continue;
        auto answer = wire::ComputeAuthResponse(side_.prepared.net.cram_hmac_alg, side_.peer_secret,
                                                ours.payload, static_cast<int>(agreed_protocol_),
                                                static_cast<uint32_t>(side_.peer));
        std::copy_n(answer->bytes.begin(), payload.size(), payload.begin());
      }
      return true;
    }
    case PacketType::kRsDagtagReq:
    case PacketType::kRsThinDagtagReq:
    case PacketType::kRsCsumDagtagReq:
    case PacketType::kOvDagtagReq:
      // A place in a stream of writes that ours does not share.
      std::fill_n(payload.begin() + 20, 12, std::byte{0});
      return true;
    case PacketType::kSizes:
      if (payload.size() == wire::Sizes::kSizeWithLimits) payload[55] = std::byte{0};
      return true;
    case PacketType::kTwopcYes:
    case PacketType::kTwopcNo:
    case PacketType::kTwopcRetry:
      SubstituteTid(step, payload);
      return true;
    case PacketType::kPing:
      ++pings_sent_;
      return true;
    default:
      return !IsLeftOut(step.type()) || step.type() == PacketType::kUnplugRemote;
  }
}

Task<bool> RecordedPeer::Send(const RecordedStep& step) {
  std::vector<std::byte> bytes = step.packet->bytes;
  if (!Substitute(step, bytes)) co_return true;
  co_return co_await SendRaw(step.socket, std::move(bytes));
}

Task<bool> RecordedPeer::SendRaw(SocketKind kind, std::vector<std::byte> bytes) {
  auto lock = co_await send_locks_[Index(kind)].Acquire();
  iovec part{bytes.data(), bytes.size()};
  int32_t sent = co_await streams_[Index(kind)]->Send({&part, 1});
  co_return sent >= 0;
}

}  // namespace umblock::drbd::testing
