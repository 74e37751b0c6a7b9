// Packets of the handshake and of configuration: features, authentication, protocol, sizes, UUIDs,
// state (drbd-wire.md 3, 4, 5.3 to 5.7). Conventions: data_packets.h; sizes of the variable ones
// come from EncodedSize. What is decoded is well formed; whether it is acceptable (matching node
// ids, sane sizes) is for the caller.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "engine/base/bytes.h"
#include "engine/base/error.h"
#include "engine/drbd/wire/constants.h"
#include "engine/drbd/wire/data_packets.h"

namespace umblock::drbd::wire {

// The name of a digest algorithm, as the packets carry it: at most 63 characters and a NUL.
class AlgorithmName {
 public:
  AlgorithmName() = default;
  // `name` longer than 63 characters or with a NUL inside is the caller's mistake (asserted).
  explicit AlgorithmName(std::string_view name);

  // From a field of the wire: NUL-terminated within it. nullopt if there is no NUL, or the field is
  // longer than kAlgorithmNameBytes.
  static std::optional<AlgorithmName> FromField(Bytes field);

  std::string_view view() const { return std::string_view(text_.data(), size_); }
  bool empty() const { return size_ == 0; }
  friend bool operator==(const AlgorithmName& a, const AlgorithmName& b) {
    return a.view() == b.view();
  }

 private:
  std::array<char, kAlgorithmNameBytes> text_{};
  uint8_t size_ = 0;
};

// P_CONNECTION_FEATURES (3.1).
struct ConnectionFeatures {
  static constexpr size_t kSize = 72;
  uint32_t protocol_min = 0;
  uint32_t feature_flags = 0;
  uint32_t protocol_max = 0;  // 0: equal to protocol_min; Decode has put that in already
  uint32_t sender_node_id = 0;
  uint32_t receiver_node_id = 0;  // whom the sender expects

  static std::optional<ConnectionFeatures> Decode(Bytes payload);
  friend bool operator==(const ConnectionFeatures&, const ConnectionFeatures&) = default;
};
void Encode(const ConnectionFeatures& x, MutableBytes to);

// P_AUTH_CHALLENGE (4). P_AUTH_RESPONSE is bare bytes, see auth.h.
struct AuthChallenge {
  static constexpr size_t kSize = 64;
  std::array<std::byte, kSize> bytes{};

  static std::optional<AuthChallenge> Decode(Bytes payload);
  friend bool operator==(const AuthChallenge&, const AuthChallenge&) = default;
};
void Encode(const AuthChallenge& x, MutableBytes to);

// P_PROTOCOL and P_PROTOCOL_UPDATE (5.3.1).
struct Protocol {
  static constexpr size_t kFixedSize = 24;
  static constexpr size_t kMaxSize = kFixedSize + kAlgorithmNameBytes;
  // Raw numbers: an unknown one is a mismatch with the own configuration, not a malformed packet.
  uint32_t protocol = static_cast<uint32_t>(ReplicationProtocol::kC);
  uint32_t after_sb_0p = 0;
  uint32_t after_sb_1p = 0;
  uint32_t after_sb_2p = 0;
  uint32_t conn_flags = 0;
  uint32_t two_primaries = 0;
  AlgorithmName integrity_alg;

  static Result<Protocol> Decode(Bytes payload);
  size_t EncodedSize() const { return kFixedSize + integrity_alg.view().size() + 1; }
  friend bool operator==(const Protocol&, const Protocol&) = default;
};
void Encode(const Protocol& x, MutableBytes to);

// P_SYNC_PARAM89 (5.3.2) in the form of protocol 95 and up.
struct SyncParam89 {
  static constexpr size_t kSize = 148;
  uint32_t resync_rate = 250;  // KiB/s
  AlgorithmName verify_alg;
  AlgorithmName csums_alg;
  uint32_t c_plan_ahead = 20;    // 0.1 s
  uint32_t c_delay_target = 10;  // 0.1 s
  uint32_t c_fill_target = 100;  // sectors
  uint32_t c_max_rate = 102400;  // KiB/s

  static Result<SyncParam89> Decode(Bytes payload);
  friend bool operator==(const SyncParam89&, const SyncParam89&) = default;
};
void Encode(const SyncParam89& x, MutableBytes to);

// The queue-limit block of P_SIZES, present with kFeatureWsame (5.5).
struct QueueLimits {
  uint32_t physical_block_size = 0;  // bytes
  uint32_t logical_block_size = 0;
  uint32_t alignment_offset = 0;
  uint32_t io_min = 0;
  uint32_t io_opt = 0;
  uint8_t discard_enabled = 0;
  uint8_t discard_zeroes_data = 0;
  uint8_t write_same_capable = 0;
  uint8_t bm_block_shift_minus_12 = 0;  // only meaningful with kFeatureBmBlockShift

  friend bool operator==(const QueueLimits&, const QueueLimits&) = default;
};

// P_SIZES (5.5).
struct Sizes {
  static constexpr size_t kSizeWithoutLimits = 32;
  static constexpr size_t kSizeWithLimits = 56;
  uint64_t d_size = 0;        // sectors: what the backing device could hold; 0: no disk
  uint64_t u_size = 0;        // sectors: asked for by the administrator; 0: none
  uint64_t c_size = 0;        // sectors: exported now; 0: none yet
  uint32_t max_bio_size = 0;  // bytes
  uint16_t queue_order_type = 0;
  uint16_t dds_flags = 0;
  std::optional<QueueLimits> limits;  // present exactly when kFeatureWsame is agreed

  // Takes 32 or 56 bytes; which of them is due is CheckHeader's to say.
  static std::optional<Sizes> Decode(Bytes payload);
  size_t EncodedSize() const { return limits ? kSizeWithLimits : kSizeWithoutLimits; }
  friend bool operator==(const Sizes&, const Sizes&) = default;
};
void Encode(const Sizes& x, MutableBytes to);

// P_UUIDS110 (5.4.2).
struct Uuids110 {
  static constexpr size_t kFixedSize = 40;
  static constexpr size_t kMaxSize = kFixedSize + 8 * (kMaxPeers + kHistoryUuids);
  uint64_t current = 0;
  uint64_t dirty_bits = 0;
  uint64_t uuid_flags = 0;
  uint64_t node_mask = 0;
  uint64_t bitmap_uuids_mask = 0;  // bit n: bitmap_uuids[n] was sent; bits 32 and up are never set
  std::array<uint64_t, kMaxPeers> bitmap_uuids = Unknown();  // by node id; absent: kUuidUnknown
  std::array<uint64_t, kHistoryUuids> history{};             // newest first; missing: 0
  // How many history entries are sent. The kernel always sends 32; Decode keeps what it got.
  uint8_t history_count = kHistoryUuids;

  // kInvalidArgument for a mask bit at 32 or above, for a length that is too short for the mask's
  // UUIDs, and for one that is no multiple of 8. More than 32 history UUIDs are dropped.
  static Result<Uuids110> Decode(Bytes payload);
  size_t EncodedSize() const;

  // kUuidUnknown if the peer sent none for that node.
  uint64_t BitmapUuid(int node_id) const { return bitmap_uuids[static_cast<size_t>(node_id)]; }
  void SetBitmapUuid(int node_id, uint64_t uuid) {
    bitmap_uuids_mask |= uint64_t{1} << node_id;
    bitmap_uuids[static_cast<size_t>(node_id)] = uuid;
  }
  friend bool operator==(const Uuids110&, const Uuids110&) = default;

 private:
  static constexpr std::array<uint64_t, kMaxPeers> Unknown() {
    std::array<uint64_t, kMaxPeers> all{};
    all.fill(kUuidUnknown);
    return all;
  }
};
void Encode(const Uuids110& x, MutableBytes to);

// P_UUIDS (5.4.1), below protocol 110.
struct Uuids {
  static constexpr size_t kSize = 48;
  uint64_t current = 0;
  uint64_t bitmap = 0;
  std::array<uint64_t, 2> history{};  // newest first
  uint64_t dirty_bits = 0;
  uint64_t uuid_flags = 0;

  static std::optional<Uuids> Decode(Bytes payload);
  friend bool operator==(const Uuids&, const Uuids&) = default;
};
void Encode(const Uuids& x, MutableBytes to);

// P_CURRENT_UUID (5.4.3).
struct CurrentUuid {
  static constexpr size_t kSize = 16;
  uint64_t uuid = 0;
  uint64_t weak_nodes = 0;

  static std::optional<CurrentUuid> Decode(Bytes payload);
  friend bool operator==(const CurrentUuid&, const CurrentUuid&) = default;
};
void Encode(const CurrentUuid& x, MutableBytes to);

// P_SYNC_UUID (5.4.4), below protocol 110.
struct SyncUuid {
  static constexpr size_t kSize = 8;
  uint64_t uuid = 0;

  static std::optional<SyncUuid> Decode(Bytes payload);
  friend bool operator==(const SyncUuid&, const SyncUuid&) = default;
};
void Encode(const SyncUuid& x, MutableBytes to);

// P_STATE (5.6): the raw word; EncodeStateWord and DecodeStateWord (state_word.h) give it meaning.
struct State {
  static constexpr size_t kSize = 4;
  uint32_t word = 0;

  static std::optional<State> Decode(Bytes payload);
  friend bool operator==(const State&, const State&) = default;
};
void Encode(const State& x, MutableBytes to);

// P_STATE_CHG_REQ and P_CONN_ST_CHG_REQ (5.7), below protocol 110.
struct StateChangeRequest {
  static constexpr size_t kSize = 8;
  uint32_t mask = 0;
  uint32_t val = 0;

  static std::optional<StateChangeRequest> Decode(Bytes payload);
  friend bool operator==(const StateChangeRequest&, const StateChangeRequest&) = default;
};
void Encode(const StateChangeRequest& x, MutableBytes to);

// P_STATE_CHG_REPLY and P_CONN_ST_CHG_REPLY (5.7.2).
struct StateChangeReply {
  static constexpr size_t kSize = 4;
  int32_t retcode = 0;

  static std::optional<StateChangeReply> Decode(Bytes payload);
  friend bool operator==(const StateChangeReply&, const StateChangeReply&) = default;
};
void Encode(const StateChangeReply& x, MutableBytes to);

}  // namespace umblock::drbd::wire
