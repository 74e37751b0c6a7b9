#include "engine/drbd/wire/config_packets.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/base/assert.h"

namespace umblock::drbd::wire {
namespace {

using internal::Room;

void EncodeName(const AlgorithmName& name, std::byte* to, size_t field_size) {
  std::memset(to, 0, field_size);
  std::memcpy(to, name.view().data(), name.view().size());
}

}  // namespace

AlgorithmName::AlgorithmName(std::string_view name) {
  UMBLOCK_ASSERT(name.size() < text_.size() && name.find('\0') == std::string_view::npos,
                 "an algorithm name has at most 63 characters");
  std::ranges::copy(name, text_.begin());
  size_ = static_cast<uint8_t>(name.size());
}

std::optional<AlgorithmName> AlgorithmName::FromField(Bytes field) {
  if (field.size() > kAlgorithmNameBytes) return std::nullopt;
  const auto nul = std::ranges::find(field, std::byte{0});
  if (nul == field.end()) return std::nullopt;
  AlgorithmName name;
  name.size_ = static_cast<uint8_t>(nul - field.begin());
  std::memcpy(name.text_.data(), field.data(), name.size_);
  return name;
}

std::optional<ConnectionFeatures> ConnectionFeatures::Decode(Bytes payload) {
  if (payload.size() != kSize) return std::nullopt;
  const std::byte* p = payload.data();
  ConnectionFeatures x{LoadBe<uint32_t>(p), LoadBe<uint32_t>(p + 4), LoadBe<uint32_t>(p + 8),
                       LoadBe<uint32_t>(p + 12), LoadBe<uint32_t>(p + 16)};
  if (x.protocol_max == 0) x.protocol_max = x.protocol_min;
  return x;
}

void Encode(const ConnectionFeatures& x, MutableBytes to) {
  std::byte* p = Room(to, ConnectionFeatures::kSize);
  std::memset(p, 0, ConnectionFeatures::kSize);
  StoreBe(p, x.protocol_min);
  StoreBe(p + 4, x.feature_flags);
  StoreBe(p + 8, x.protocol_max);
  StoreBe(p + 12, x.sender_node_id);
  StoreBe(p + 16, x.receiver_node_id);
}

std::optional<AuthChallenge> AuthChallenge::Decode(Bytes payload) {
  if (payload.size() != kSize) return std::nullopt;
  AuthChallenge x;
  std::ranges::copy(payload, x.bytes.begin());
  return x;
}

void Encode(const AuthChallenge& x, MutableBytes to) {
  std::memcpy(Room(to, AuthChallenge::kSize), x.bytes.data(), AuthChallenge::kSize);
}

Result<Protocol> Protocol::Decode(Bytes payload) {
  if (payload.size() <= kFixedSize || payload.size() > kMaxSize) {
    return MakeError(ErrorCode::kInvalidArgument, "P_PROTOCOL has {} bytes, {} to {} are valid",
                     payload.size(), kFixedSize + 1, kMaxSize);
  }
  const auto name = AlgorithmName::FromField(payload.subspan(kFixedSize));
  if (!name) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "P_PROTOCOL: the name of the integrity algorithm has no end");
  }
  const std::byte* p = payload.data();
  return Protocol{LoadBe<uint32_t>(p),
                  LoadBe<uint32_t>(p + 4),
                  LoadBe<uint32_t>(p + 8),
                  LoadBe<uint32_t>(p + 12),
                  LoadBe<uint32_t>(p + 16),
                  LoadBe<uint32_t>(p + 20),
                  *name};
}

void Encode(const Protocol& x, MutableBytes to) {
  std::byte* p = Room(to, x.EncodedSize());
  StoreBe(p, x.protocol);
  StoreBe(p + 4, x.after_sb_0p);
  StoreBe(p + 8, x.after_sb_1p);
  StoreBe(p + 12, x.after_sb_2p);
  StoreBe(p + 16, x.conn_flags);
  StoreBe(p + 20, x.two_primaries);
  EncodeName(x.integrity_alg, p + 24, x.integrity_alg.view().size() + 1);
}

Result<SyncParam89> SyncParam89::Decode(Bytes payload) {
  if (payload.size() != kSize) {
    return MakeError(ErrorCode::kInvalidArgument, "P_SYNC_PARAM89 has {} bytes instead of {}",
                     payload.size(), kSize);
  }
  const auto verify = AlgorithmName::FromField(payload.subspan(4, kAlgorithmNameBytes));
  const auto csums = AlgorithmName::FromField(payload.subspan(68, kAlgorithmNameBytes));
  if (!verify || !csums) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "P_SYNC_PARAM89: the name of the {} algorithm has no end",
                     verify ? "csums" : "verify");
  }
  const std::byte* p = payload.data();
  return SyncParam89{LoadBe<uint32_t>(p),
                     *verify,
                     *csums,
                     LoadBe<uint32_t>(p + 132),
                     LoadBe<uint32_t>(p + 136),
                     LoadBe<uint32_t>(p + 140),
                     LoadBe<uint32_t>(p + 144)};
}

void Encode(const SyncParam89& x, MutableBytes to) {
  std::byte* p = Room(to, SyncParam89::kSize);
  StoreBe(p, x.resync_rate);
  EncodeName(x.verify_alg, p + 4, kAlgorithmNameBytes);
  EncodeName(x.csums_alg, p + 68, kAlgorithmNameBytes);
  StoreBe(p + 132, x.c_plan_ahead);
  StoreBe(p + 136, x.c_delay_target);
  StoreBe(p + 140, x.c_fill_target);
  StoreBe(p + 144, x.c_max_rate);
}

std::optional<Sizes> Sizes::Decode(Bytes payload) {
  if (payload.size() != kSizeWithoutLimits && payload.size() != kSizeWithLimits) {
    return std::nullopt;
  }
  const std::byte* p = payload.data();
  Sizes x{LoadBe<uint64_t>(p),
          LoadBe<uint64_t>(p + 8),
          LoadBe<uint64_t>(p + 16),
          LoadBe<uint32_t>(p + 24),
          LoadBe<uint16_t>(p + 28),
          LoadBe<uint16_t>(p + 30),
          std::nullopt};
  if (payload.size() == kSizeWithLimits) {
    x.limits =
        QueueLimits{LoadBe<uint32_t>(p + 32), LoadBe<uint32_t>(p + 36), LoadBe<uint32_t>(p + 40),
                    LoadBe<uint32_t>(p + 44), LoadBe<uint32_t>(p + 48), LoadBe<uint8_t>(p + 52),
                    LoadBe<uint8_t>(p + 53),  LoadBe<uint8_t>(p + 54),  LoadBe<uint8_t>(p + 55)};
  }
  return x;
}

void Encode(const Sizes& x, MutableBytes to) {
  std::byte* p = Room(to, x.EncodedSize());
  StoreBe(p, x.d_size);
  StoreBe(p + 8, x.u_size);
  StoreBe(p + 16, x.c_size);
  StoreBe(p + 24, x.max_bio_size);
  StoreBe(p + 28, x.queue_order_type);
  StoreBe(p + 30, x.dds_flags);
  if (!x.limits) return;
  StoreBe(p + 32, x.limits->physical_block_size);
  StoreBe(p + 36, x.limits->logical_block_size);
  StoreBe(p + 40, x.limits->alignment_offset);
  StoreBe(p + 44, x.limits->io_min);
  StoreBe(p + 48, x.limits->io_opt);
  StoreBe(p + 52, x.limits->discard_enabled);
  StoreBe(p + 53, x.limits->discard_zeroes_data);
  StoreBe(p + 54, x.limits->write_same_capable);
  StoreBe(p + 55, x.limits->bm_block_shift_minus_12);
}

Result<Uuids110> Uuids110::Decode(Bytes payload) {
  if (payload.size() < kFixedSize || payload.size() % 8 != 0) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "P_UUIDS110 has {} bytes; {} and more multiples of 8 are valid",
                     payload.size(), kFixedSize);
  }
  ByteReader in(payload);
  Uuids110 x;
  x.current = in.Be<uint64_t>();
  x.dirty_bits = in.Be<uint64_t>();
  x.uuid_flags = in.Be<uint64_t>();
  x.node_mask = in.Be<uint64_t>();
  x.bitmap_uuids_mask = in.Be<uint64_t>();
  if (x.bitmap_uuids_mask >> kMaxPeers != 0) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "P_UUIDS110: bitmap UUID mask {:#x} names nodes above {}", x.bitmap_uuids_mask,
                     kMaxNodeId);
  }
  const auto bitmap_count = static_cast<size_t>(std::popcount(x.bitmap_uuids_mask));
  if (in.left() < 8 * bitmap_count) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "P_UUIDS110: {} bitmap UUIDs announced, {} bytes left for them", bitmap_count,
                     in.left());
  }
  for (size_t node = 0; node < kMaxPeers; ++node) {
    if ((x.bitmap_uuids_mask >> node & 1) != 0) x.bitmap_uuids[node] = in.Be<uint64_t>();
  }
  x.history_count = static_cast<uint8_t>(std::min<size_t>(in.left() / 8, kHistoryUuids));
  for (size_t i = 0; i < x.history_count; ++i) x.history[i] = in.Be<uint64_t>();
  return x;
}

size_t Uuids110::EncodedSize() const {
  return kFixedSize + 8 * (static_cast<size_t>(std::popcount(bitmap_uuids_mask)) + history_count);
}

void Encode(const Uuids110& x, MutableBytes to) {
  UMBLOCK_ASSERT(x.bitmap_uuids_mask >> kMaxPeers == 0 && x.history_count <= kHistoryUuids,
                 "P_UUIDS110 has at most 32 bitmap and 32 history UUIDs");
  ByteWriter out(to);
  out.Be(x.current);
  out.Be(x.dirty_bits);
  out.Be(x.uuid_flags);
  out.Be(x.node_mask);
  out.Be(x.bitmap_uuids_mask);
  for (size_t node = 0; node < kMaxPeers; ++node) {
    if ((x.bitmap_uuids_mask >> node & 1) != 0) out.Be(x.bitmap_uuids[node]);
  }
  for (size_t i = 0; i < x.history_count; ++i) out.Be(x.history[i]);
}

std::optional<Uuids> Uuids::Decode(Bytes payload) {
  if (payload.size() != kSize) return std::nullopt;
  const std::byte* p = payload.data();
  return Uuids{LoadBe<uint64_t>(p),
               LoadBe<uint64_t>(p + 8),
               {LoadBe<uint64_t>(p + 16), LoadBe<uint64_t>(p + 24)},
               LoadBe<uint64_t>(p + 32),
               LoadBe<uint64_t>(p + 40)};
}

void Encode(const Uuids& x, MutableBytes to) {
  std::byte* p = Room(to, Uuids::kSize);
  StoreBe(p, x.current);
  StoreBe(p + 8, x.bitmap);
  StoreBe(p + 16, x.history[0]);
  StoreBe(p + 24, x.history[1]);
  StoreBe(p + 32, x.dirty_bits);
  StoreBe(p + 40, x.uuid_flags);
}

std::optional<CurrentUuid> CurrentUuid::Decode(Bytes payload) {
  if (payload.size() != kSize) return std::nullopt;
  return CurrentUuid{LoadBe<uint64_t>(payload.data()), LoadBe<uint64_t>(payload.data() + 8)};
}

void Encode(const CurrentUuid& x, MutableBytes to) {
  std::byte* p = Room(to, CurrentUuid::kSize);
  StoreBe(p, x.uuid);
  StoreBe(p + 8, x.weak_nodes);
}

std::optional<SyncUuid> SyncUuid::Decode(Bytes payload) {
  if (payload.size() != kSize) return std::nullopt;
  return SyncUuid{LoadBe<uint64_t>(payload.data())};
}

void Encode(const SyncUuid& x, MutableBytes to) { StoreBe(Room(to, SyncUuid::kSize), x.uuid); }

std::optional<State> State::Decode(Bytes payload) {
  if (payload.size() != kSize) return std::nullopt;
  return State{LoadBe<uint32_t>(payload.data())};
}

void Encode(const State& x, MutableBytes to) { StoreBe(Room(to, State::kSize), x.word); }

std::optional<StateChangeRequest> StateChangeRequest::Decode(Bytes payload) {
  if (payload.size() != kSize) return std::nullopt;
  return StateChangeRequest{LoadBe<uint32_t>(payload.data()), LoadBe<uint32_t>(payload.data() + 4)};
}

void Encode(const StateChangeRequest& x, MutableBytes to) {
  std::byte* p = Room(to, StateChangeRequest::kSize);
  StoreBe(p, x.mask);
  StoreBe(p + 4, x.val);
}

std::optional<StateChangeReply> StateChangeReply::Decode(Bytes payload) {
  if (payload.size() != kSize) return std::nullopt;
  return StateChangeReply{LoadBe<int32_t>(payload.data())};
}

void Encode(const StateChangeReply& x, MutableBytes to) {
  StoreBe(Room(to, StateChangeReply::kSize), x.retcode);
}

}  // namespace umblock::drbd::wire
