#include "engine/drbd/core/testing/recorded_peer.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/drbd/wire/auth.h"
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

void RecordedPeer::Start(std::vector<RecordedStep> steps) { tasks_.Spawn(Run(std::move(steps))); }

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
    if (header->type == PacketType::kPingAck) ++ping_acks_;
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

void RecordedPeer::Expect(const RecordedStep& step) {
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
// end decides whether that matters.
Task<bool> RecordedPeer::WaitForOurs(const RecordedStep& next) {
  // Until the features our node may be busy looking whether its sockets stay up.
  bool begun = next.type() != PacketType::kConnectionFeatures &&
               CountOurs(SocketKind::kData, PacketType::kConnectionFeatures) > 0;
  Time until = reactor_.Now() + (begun ? 150ms : 1500ms);
  for (;;) {
    const SentPacket* missing = nullptr;
    for (const SentPacket& packet : expected_) {
      if (CountOurs(packet.socket, packet.type) < CountExpected(packet.socket, packet.type)) {
        missing = &packet;
        break;
      }
    }
    if (missing == nullptr || closed_) co_return !closed_;
    if (reactor_.Now() >= until) {
      stalls_.push_back(fmt::format("{} waited for {}", wire::PacketName(next.type()),
                                    wire::PacketName(missing->type)));
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
  switch (step.type()) {
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
