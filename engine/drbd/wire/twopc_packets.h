// Two-phase commit packets (drbd-wire.md 5.8.2, 5.8.3). Conventions: data_packets.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "engine/base/bytes.h"
#include "engine/drbd/wire/constants.h"

namespace umblock::drbd::wire {

// How the first 12 bytes of a request look: kV2 with kFeatureTwoPcV2.
enum class TwoPcLayout : uint8_t { kV1, kV2 };
constexpr TwoPcLayout TwoPcLayoutFor(uint32_t agreed_features) {
  return (agreed_features & kFeatureTwoPcV2) != 0 ? TwoPcLayout::kV2 : TwoPcLayout::kV1;
}

// P_TWOPC_PREPARE, P_TWOPC_PREP_RSZ, P_TWOPC_COMMIT, P_TWOPC_ABORT.
//
// The last 16 bytes mean different things in different packets, and in a commit they depend on what
// was prepared, which only the receiver knows by `tid`. They are kept as two numbers, `first` and
// `second`; the accessors below give them their names. So decoding needs no context and encoding
// gives the same bytes back.
struct TwoPcRequest {
  static constexpr size_t kSize = 36;
  uint32_t tid = 0;
  uint32_t flags = 0;  // kTwoPcHas*; not sent in kV1, where it decodes as 0
  int32_t initiator_node_id = 0;
  int32_t target_node_id = -1;  // -1: none
  uint64_t nodes_to_reach = 0;
  uint64_t first = 0;   // @20
  uint64_t second = 0;  // @28

  // P_TWOPC_PREPARE, and P_TWOPC_COMMIT of a state change without reachable nodes.
  uint32_t mask() const { return static_cast<uint32_t>(second >> 32); }
  uint32_t val() const { return static_cast<uint32_t>(second); }
  void SetStateChange(uint32_t mask_word, uint32_t val_word) {
    second = uint64_t{mask_word} << 32 | val_word;
  }
  // P_TWOPC_COMMIT of a state change; reachable_nodes only if has_reachable().
  uint64_t primary_nodes() const { return first; }
  uint64_t reachable_nodes() const { return second; }
  bool has_reachable() const { return (flags & kTwoPcHasReachable) != 0; }
  void SetCommit(uint64_t primaries, uint64_t reachable) {
    first = primaries;
    second = reachable;
  }
  // P_TWOPC_PREP_RSZ.
  uint64_t user_size() const { return first; }  // sectors
  uint16_t dds_flags() const { return static_cast<uint16_t>(second >> 48); }
  void SetResize(uint64_t user_size_sectors, uint16_t dds) {
    first = user_size_sectors;
    second = uint64_t{dds} << 48;
  }
  // P_TWOPC_COMMIT of a resize.
  uint64_t diskful_primary_nodes() const { return first; }
  uint64_t exposed_size() const { return second; }  // sectors
  void SetResizeCommit(uint64_t diskful_primaries, uint64_t exposed_size_sectors) {
    first = diskful_primaries;
    second = exposed_size_sectors;
  }

  static std::optional<TwoPcRequest> Decode(Bytes payload, TwoPcLayout layout);
  friend bool operator==(const TwoPcRequest&, const TwoPcRequest&) = default;
};
void Encode(const TwoPcRequest& x, TwoPcLayout layout, MutableBytes to);

// P_TWOPC_YES, P_TWOPC_NO, P_TWOPC_RETRY.
struct TwoPcReply {
  static constexpr size_t kSize = 32;
  uint32_t tid = 0;
  int32_t initiator_node_id = 0;
  uint64_t reachable_nodes = 0;
  uint64_t primary_nodes = 0;  // of a resize: diskful primary nodes
  uint64_t weak_nodes = 0;     // of a resize: max_possible_size, sectors

  uint64_t diskful_primary_nodes() const { return primary_nodes; }
  uint64_t max_possible_size() const { return weak_nodes; }

  static std::optional<TwoPcReply> Decode(Bytes payload);
  friend bool operator==(const TwoPcReply&, const TwoPcReply&) = default;
};
void Encode(const TwoPcReply& x, MutableBytes to);

}  // namespace umblock::drbd::wire
