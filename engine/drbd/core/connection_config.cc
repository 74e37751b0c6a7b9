// What a peer tells about its configuration and state: P_PROTOCOL, sizes, UUIDs, states, two-phase
// commit.
#include "engine/drbd/core/connection.h"
#include "engine/drbd/core/resource_impl.h"
#include "engine/drbd/state/disk_state.h"

namespace umblock::drbd {

using wire::PacketType;

namespace {

// discard-local here is discard-remote there (drbd-wire.md 5.3.1).
uint32_t Mirrored(SplitBrainPolicy policy) {
  switch (policy) {
    case SplitBrainPolicy::kDiscardLocal:
      return static_cast<uint32_t>(SplitBrainPolicy::kDiscardRemote);
    case SplitBrainPolicy::kDiscardRemote:
      return static_cast<uint32_t>(SplitBrainPolicy::kDiscardLocal);
    default:
      return static_cast<uint32_t>(policy);
  }
}

}  // namespace

Status Connection::OnProtocol(Bytes payload) {
  Result<wire::Protocol> theirs = wire::Protocol::Decode(payload);
  if (!theirs) return std::unexpected(theirs.error());
  const NetOptions& net = config_.net;
  auto differs = [](std::string_view option, auto own, auto peer) {
    return MakeError(
        ErrorCode::kFailedPrecondition,
        "the option '{}' differs: {} here, {} at the peer; make them equal and connect "
        "again",
        option, own, peer);
  };
  if (theirs->protocol != static_cast<uint32_t>(net.protocol)) {
    return differs("protocol", static_cast<char>('A' + static_cast<int>(net.protocol) - 1),
                   theirs->protocol >= 1 && theirs->protocol <= 3
                       ? static_cast<char>('A' + theirs->protocol - 1)
                       : '?');
  }
  if (theirs->after_sb_0p != Mirrored(net.after_sb_0pri)) {
    return differs("after-sb-0pri", static_cast<int>(net.after_sb_0pri), theirs->after_sb_0p);
  }
  if (theirs->after_sb_1p != Mirrored(net.after_sb_1pri)) {
    return differs("after-sb-1pri", static_cast<int>(net.after_sb_1pri), theirs->after_sb_1p);
  }
  if (theirs->after_sb_2p != Mirrored(net.after_sb_2pri)) {
    return differs("after-sb-2pri", static_cast<int>(net.after_sb_2pri), theirs->after_sb_2p);
  }
  if ((theirs->two_primaries != 0) != net.allow_two_primaries) {
    return differs("allow-two-primaries", net.allow_two_primaries, theirs->two_primaries != 0);
  }
  if (theirs->integrity_alg.view() != net.data_integrity_alg) {
    return differs("data-integrity-alg", net.data_integrity_alg, theirs->integrity_alg.view());
  }
  if (connect_options_.discard_my_data && (theirs->conn_flags & wire::kConnDiscardMyData) != 0) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "both nodes were told to discard their data; connect one of them without");
  }
  protocol_seen_ = true;
  return UsePeerDigest(theirs->integrity_alg.view());
}

Status Connection::UsePeerDigest(std::string_view name) {
  peer_digest_.reset();
  agreed_.integrity_digest_size = 0;
  if (name.empty()) return Ok();
  Result<wire::Digest> digest = wire::Digest::Create(name);
  if (!digest) {
    return MakeError(ErrorCode::kFailedPrecondition, "the peer's data-integrity-alg: {}",
                     digest.error().message());
  }
  agreed_.integrity_digest_size = static_cast<uint32_t>(digest->size());
  peer_digest_.emplace(std::move(*digest));
  return Ok();
}

// Adopted, not compared (drbd-wire.md 5.3.1): the administrator changed it at the peer.
Status Connection::OnProtocolUpdate(Bytes payload) {
  Result<wire::Protocol> theirs = wire::Protocol::Decode(payload);
  if (!theirs) return std::unexpected(theirs.error());
  if (theirs->protocol < 1 || theirs->protocol > 3) {
    return MakeError(ErrorCode::kInvalidArgument, "P_PROTOCOL_UPDATE to protocol {}",
                     theirs->protocol);
  }
  config_.net.protocol = static_cast<drbd::Protocol>(theirs->protocol);
  config_.net.allow_two_primaries = theirs->two_primaries != 0;
  resource_.logger().Info("{}: the peer changed the protocol to {}", name_,
                          static_cast<char>('A' + theirs->protocol - 1));
  return UsePeerDigest(theirs->integrity_alg.view());
}

Status Connection::OnSyncParam(Bytes payload) {
  Result<wire::SyncParam89> theirs = wire::SyncParam89::Decode(payload);
  if (!theirs) return std::unexpected(theirs.error());
  if (state().connected()) {
    // The administrator changed it at the peer.
    for (std::string_view name : {theirs->verify_alg.view(), theirs->csums_alg.view()}) {
      if (name.empty()) continue;
      if (Result<wire::Digest> known = wire::Digest::Create(name); !known) {
        return std::unexpected(known.error().Within("an algorithm that the peer was given"));
      }
    }
    config_.net.verify_alg = std::string(theirs->verify_alg.view());
    config_.net.csums_alg = std::string(theirs->csums_alg.view());
    return Ok();
  }
  if (theirs->verify_alg.view() != config_.net.verify_alg ||
      theirs->csums_alg.view() != config_.net.csums_alg) {
    return MakeError(ErrorCode::kFailedPrecondition,
                     "verify-alg or csums-alg differ: '{}', '{}' here, '{}', '{}' at the peer",
                     config_.net.verify_alg, config_.net.csums_alg, theirs->verify_alg.view(),
                     theirs->csums_alg.view());
  }
  return Ok();
}

Task<Status> Connection::OnSizes(Bytes payload, PeerDevice& device) {
  std::optional<wire::Sizes> sizes = wire::Sizes::Decode(payload);
  if (!sizes) co_return MakeError(ErrorCode::kInvalidArgument, "malformed P_SIZES");
  if ((sizes->d_size != 0 && sizes->c_size > sizes->d_size) ||
      (sizes->u_size != 0 && sizes->c_size > sizes->u_size)) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "the peer's sizes contradict each other (device {}, asked for {}, now {})",
                        sizes->d_size, sizes->u_size, sizes->c_size);
  }
  constexpr uint64_t kMost = uint64_t{1} << 41;  // sectors: 1 PiB, as large as DRBD's volumes get
  if (sizes->d_size > kMost || sizes->u_size > kMost || sizes->c_size > kMost) {
    co_return MakeError(
        ErrorCode::kFailedPrecondition,
        "the peer's sizes are beyond 1 PiB (device {}, asked for {}, now {} sectors)",
        sizes->d_size, sizes->u_size, sizes->c_size);
  }
  device.sizes = *sizes;
  device.sizes_known = true;
  Status agreed = co_await resource_.AgreeOnSize(device.volume());
  if (agreed) co_return Ok();
  handshake_reason_ = agreed.error().message();
  if (state().connected() || failed_) co_return agreed;
  handshake_.OnRefused();
  resource_.transactions().OnHandshake();
  co_return Ok();
}

Status Connection::OnUuids(Bytes payload, PeerDevice& device) {
  Result<wire::Uuids110> packet = wire::Uuids110::Decode(payload);
  if (!packet) return std::unexpected(packet.error());
  PeerUuids& uuids = device.uuids;
  uuids.current = packet->current;
  uuids.dirty_bits = packet->dirty_bits;
  uuids.flags = packet->uuid_flags;
  uuids.node_mask = packet->node_mask;
  uuids.present = packet->bitmap_uuids_mask;
  uuids.bitmap = packet->bitmap_uuids;
  uuids.history = packet->history;
  device.uuids_known = true;
  resource_.OnUuids(device);
  if (handshake_.begun()) handshake_.OnUuids(device.volume_number());
  return Ok();
}

Status Connection::OnCurrentUuid(Bytes payload, PeerDevice& device) {
  std::optional<wire::CurrentUuid> packet = wire::CurrentUuid::Decode(payload);
  if (!packet) return MakeError(ErrorCode::kInvalidArgument, "malformed P_CURRENT_UUID");
  device.uuids = {};
  device.uuids.current = packet->uuid;
  device.uuids.node_mask = packet->weak_nodes;
  device.uuids_known = true;
  resource_.OnCurrentUuid(device);
  if (handshake_.begun()) handshake_.OnUuids(device.volume_number());
  return Ok();
}

Status Connection::OnState(Bytes payload, PeerDevice& device) {
  std::optional<wire::State> packet = wire::State::Decode(payload);
  if (!packet) return MakeError(ErrorCode::kInvalidArgument, "malformed P_STATE");
  Result<wire::StateWord> word = wire::DecodeStateWord(packet->word);
  if (!word) return std::unexpected(word.error());
  if (state().connected()) {
    resource_.OnPeerState(device, *word);
    return Ok();
  }
  // Before the PREPARE it does not count (drbd-wire.md 8.2).
  if (!handshake_.begun()) return Ok();
  if (handshake_.OnState(device.volume_number())) {
    device.handshake_word = *word;
    SyncDecision decision = resource_.DecideConnect(device, *word, &handshake_reason_);
    handshake_.OnDecision(device.volume_number(), decision);
    if (decision.verdict == SyncVerdict::kRetry) NoteRefusal(handshake_reason_);
    resource_.transactions().OnHandshake();
  }
  return Ok();
}

Status Connection::OnRoleNotice(Bytes payload) {
  std::optional<wire::State> packet = wire::State::Decode(payload);
  if (!packet) return MakeError(ErrorCode::kInvalidArgument, "malformed P_STATE");
  auto role = static_cast<Role>(packet->word & wire::kRoleMask);
  if (!state().connected() || (role != Role::kPrimary && role != Role::kSecondary)) return Ok();
  int peer = node();
  (void)resource_.Change("the peer's role notice", {.hard = true},
                         [=](ResourceState& next) { next.peer(peer).role = role; });
  return Ok();
}

Status Connection::OnTwoPcRequest(const wire::Header& header, Bytes payload) {
  std::optional<wire::TwoPcRequest> request =
      wire::TwoPcRequest::Decode(payload, wire::TwoPcLayoutFor(agreed_.features));
  if (!request || request->tid == 0 || !IsNodeId(request->initiator_node_id) ||
      (request->target_node_id != -1 && !IsNodeId(request->target_node_id))) {
    return MakeError(ErrorCode::kInvalidArgument, "malformed {}", wire::PacketName(header.type));
  }
  int volume = header.volume == wire::kNoVolume ? kNoVolume : header.volume;
  Transactions& transactions = resource_.transactions();
  switch (header.type) {
    case PacketType::kTwopcPrepare:
      transactions.OnPrepare(*this, volume, *request, false);
      break;
    case PacketType::kTwopcPrepRsz:
      transactions.OnPrepare(*this, volume, *request, true);
      break;
    case PacketType::kTwopcCommit:
      transactions.OnCommit(*this, volume, *request);
      break;
    default:
      transactions.OnAbort(*this, volume, *request);
  }
  return Ok();
}

}  // namespace umblock::drbd
