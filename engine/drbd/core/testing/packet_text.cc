#include "engine/drbd/core/testing/packet_text.h"

#include <fmt/format.h>

#include "engine/drbd/wire/config_packets.h"
#include "engine/drbd/wire/state_word.h"
#include "engine/drbd/wire/twopc_packets.h"

namespace umblock::drbd::testing {

using wire::PacketType;

namespace {

std::string FeaturesText(Bytes payload) {
  auto packet = wire::ConnectionFeatures::Decode(payload);
  if (!packet) return "malformed";
  // Protocol range and flags are each side's own offer.
  return fmt::format("sender={} receiver={}", packet->sender_node_id, packet->receiver_node_id);
}

std::string ProtocolText(Bytes payload) {
  auto packet = wire::Protocol::Decode(payload);
  if (!packet) return "malformed";
  return fmt::format("protocol={} sb={},{},{} flags={:x} two={} integrity='{}'", packet->protocol,
                     packet->after_sb_0p, packet->after_sb_1p, packet->after_sb_2p,
                     packet->conn_flags, packet->two_primaries, packet->integrity_alg.view());
}

std::string SyncParamText(Bytes payload) {
  auto packet = wire::SyncParam89::Decode(payload);
  if (!packet) return "malformed";
  return fmt::format("rate={} verify='{}' csums='{}' plan={} delay={} fill={} max={}",
                     packet->resync_rate, packet->verify_alg.view(), packet->csums_alg.view(),
                     packet->c_plan_ahead, packet->c_delay_target, packet->c_fill_target,
                     packet->c_max_rate);
}

std::string SizesText(Bytes payload) {
  auto packet = wire::Sizes::Decode(payload);
  if (!packet) return "malformed";
  std::string text = fmt::format("d={} u={} c={} bio={} order={} dds={}", packet->d_size,
                                 packet->u_size, packet->c_size, packet->max_bio_size,
                                 packet->queue_order_type, packet->dds_flags);
  if (!packet->limits) return text;
  const wire::QueueLimits& limits = *packet->limits;
  // Physical block, preferred sizes and discard are properties of the backing device;
  // bm_block_shift belongs to a feature that we decline.
  return text + fmt::format(" log={} align={} zeroes={} same={}", limits.logical_block_size,
                            limits.alignment_offset, limits.discard_zeroes_data,
                            limits.write_same_capable);
}

std::string UuidsText(Bytes payload) {
  auto packet = wire::Uuids110::Decode(payload);
  if (!packet) return "malformed";
  // The entry for an unallocated slot, which 9.1 and 9.2 send even without a free slot.
  int unallocated = -1;
  if ((packet->uuid_flags & wire::kUuidFlagHasUnalloc) != 0) {
    unallocated = static_cast<int>(packet->uuid_flags >> wire::kUuidUnallocShift);
    packet->uuid_flags &= (uint64_t{1} << wire::kUuidUnallocShift) - 1;
    packet->uuid_flags &= ~wire::kUuidFlagHasUnalloc;
    packet->bitmap_uuids_mask &= ~(uint64_t{1} << unallocated);
  }
  std::string text = fmt::format("current={:016x} dirty={} flags={:x} mask={:x} slots={:x}",
                                 packet->current, packet->dirty_bits, packet->uuid_flags,
                                 packet->node_mask, packet->bitmap_uuids_mask);
  for (int node = 0; node < wire::kMaxPeers; ++node) {
    if ((packet->bitmap_uuids_mask >> node & 1) != 0) {
      text += fmt::format(" bitmap{}={:016x}", node, packet->BitmapUuid(node));
    }
  }
  text += fmt::format(" history={}:", packet->history_count);
  for (uint64_t uuid : packet->history) {
    if (uuid != 0) text += fmt::format("{:016x},", uuid);
  }
  return text;
}

std::string RequestText(PacketType type, Bytes payload, uint32_t features) {
  auto packet = wire::TwoPcRequest::Decode(payload, wire::TwoPcLayoutFor(features));
  if (!packet) return "malformed";
  // The transaction id is random; an abort's variant part says nothing.
  std::string text =
      fmt::format("flags={:x} from={} to={} reach={:x}", packet->flags, packet->initiator_node_id,
                  packet->target_node_id, packet->nodes_to_reach);
  if (type != PacketType::kTwopcAbort) {
    text += fmt::format(" {:x} {:x}", packet->first, packet->second);
  }
  return text;
}

std::string ReplyText(Bytes payload) {
  auto packet = wire::TwoPcReply::Decode(payload);
  if (!packet) return "malformed";
  return fmt::format("from={} reachable={:x} primary={:x} weak={:x}", packet->initiator_node_id,
                     packet->reachable_nodes, packet->primary_nodes, packet->weak_nodes);
}

std::string StateText(Bytes payload) {
  auto packet = wire::State::Decode(payload);
  if (!packet) return "malformed";
  auto word = wire::DecodeStateWord(packet->word);
  if (!word) return "malformed";
  return fmt::format(
      "{:08x} {}/{} {} {}/{}", packet->word, RoleName(word->role), RoleName(word->peer_role),
      word->connection == ConnectionState::kConnected ? ReplicationStateName(word->replication)
                                                      : ConnectionStateName(word->connection),
      DiskStateName(word->disk), DiskStateName(word->peer_disk));
}

std::string RawText(Bytes payload) {
  std::string text = fmt::format("{} bytes ", payload.size());
  for (size_t i = 0; i < payload.size() && i < 40; ++i) {
    text += fmt::format("{:02x}", static_cast<unsigned>(payload[i]));
  }
  return text;
}

}  // namespace

std::string PacketText(const wire::Header& header, Bytes payload, uint32_t features) {
  std::string text;
  switch (header.type) {
    case PacketType::kConnectionFeatures:
      text = FeaturesText(payload);
      break;
    case PacketType::kAuthChallenge:
    case PacketType::kAuthResponse:
      text = fmt::format("{} bytes", payload.size());  // random, or computed from it
      break;
    case PacketType::kProtocol:
      text = ProtocolText(payload);
      break;
    case PacketType::kSyncParam89:
      text = SyncParamText(payload);
      break;
    case PacketType::kSizes:
      text = SizesText(payload);
      break;
    case PacketType::kUuids110:
      text = UuidsText(payload);
      break;
    case PacketType::kTwopcPrepare:
    case PacketType::kTwopcCommit:
    case PacketType::kTwopcAbort:
      text = RequestText(header.type, payload, features);
      break;
    case PacketType::kTwopcYes:
    case PacketType::kTwopcNo:
    case PacketType::kTwopcRetry:
      text = ReplyText(payload);
      break;
    case PacketType::kState:
      text = StateText(payload);
      break;
    default:
      text = RawText(payload);
  }
  return fmt::format("{} v{} h{} {}", wire::PacketName(header.type), header.volume, header.size(),
                     text);
}

bool IsLeftOut(PacketType type) {
  switch (type) {
    case PacketType::kPing:
    case PacketType::kPingAck:
    case PacketType::kUnplugRemote:
    case PacketType::kEnableReplicationNext:
    case PacketType::kEnableReplication:
    case PacketType::kPeerDagtag:
    case PacketType::kFlushRequests:
    case PacketType::kFlushForward:
    case PacketType::kFlushRequestsAck:
      return true;
    default:
      return false;
  }
}

std::vector<SentPacket> WithoutRepetitions(const std::vector<SentPacket>& packets) {
  std::vector<SentPacket> result;
  for (const SentPacket& packet : packets) {
    bool repeated = false;
    for (auto it = result.rbegin(); it != result.rend(); ++it) {
      if (it->socket != packet.socket || it->type != packet.type) continue;
      repeated = it->text == packet.text;
      break;
    }
    if (!repeated) result.push_back(packet);
  }
  return result;
}

}  // namespace umblock::drbd::testing
