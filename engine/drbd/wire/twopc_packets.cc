#include "engine/drbd/wire/twopc_packets.h"

#include "engine/drbd/wire/data_packets.h"

namespace umblock::drbd::wire {

std::optional<TwoPcRequest> TwoPcRequest::Decode(Bytes payload, TwoPcLayout layout) {
  if (payload.size() != kSize) return std::nullopt;
  const std::byte* p = payload.data();
  TwoPcRequest x;
  x.tid = LoadBe<uint32_t>(p);
  if (layout == TwoPcLayout::kV2) {
    x.flags = LoadBe<uint32_t>(p + 4);
    x.initiator_node_id = LoadBe<int8_t>(p + 10);
    x.target_node_id = LoadBe<int8_t>(p + 11);
  } else {
    x.initiator_node_id = LoadBe<int32_t>(p + 4);
    x.target_node_id = LoadBe<int32_t>(p + 8);
  }
  x.nodes_to_reach = LoadBe<uint64_t>(p + 12);
  x.first = LoadBe<uint64_t>(p + 20);
  x.second = LoadBe<uint64_t>(p + 28);
  return x;
}

void Encode(const TwoPcRequest& x, TwoPcLayout layout, MutableBytes to) {
  std::byte* p = internal::Room(to, TwoPcRequest::kSize);
  StoreBe(p, x.tid);
  if (layout == TwoPcLayout::kV2) {
    StoreBe(p + 4, x.flags);
    StoreBe<uint16_t>(p + 8, 0);
    StoreBe(p + 10, static_cast<int8_t>(x.initiator_node_id));
    StoreBe(p + 11, static_cast<int8_t>(x.target_node_id));
  } else {
    StoreBe(p + 4, x.initiator_node_id);
    StoreBe(p + 8, x.target_node_id);
  }
  StoreBe(p + 12, x.nodes_to_reach);
  StoreBe(p + 20, x.first);
  StoreBe(p + 28, x.second);
}

std::optional<TwoPcReply> TwoPcReply::Decode(Bytes payload) {
  if (payload.size() != kSize) return std::nullopt;
  const std::byte* p = payload.data();
  return TwoPcReply{LoadBe<uint32_t>(p), LoadBe<int32_t>(p + 4), LoadBe<uint64_t>(p + 8),
                    LoadBe<uint64_t>(p + 16), LoadBe<uint64_t>(p + 24)};
}

void Encode(const TwoPcReply& x, MutableBytes to) {
  std::byte* p = internal::Room(to, TwoPcReply::kSize);
  StoreBe(p, x.tid);
  StoreBe(p + 4, x.initiator_node_id);
  StoreBe(p + 8, x.reachable_nodes);
  StoreBe(p + 16, x.primary_nodes);
  StoreBe(p + 24, x.weak_nodes);
}

}  // namespace umblock::drbd::wire
