// Node ids and sets of nodes.
//
// A resource has at most 32 nodes, ids 0..31; on the wire and on disk a set of nodes is a 64-bit
// mask whose bit n is node id n. Bits of nodes that do not exist may be set in masks that a peer
// sends (drbd-wire.md 5.8.4), so masks keep all 64 bits.
#pragma once

#include <bit>
#include <cstdint>

namespace umblock::drbd {

using NodeMask = uint64_t;

inline constexpr int kNodeIds = 32;
inline constexpr int kNoNode = -1;  // "no node", or "all nodes" as the target of a transaction
inline constexpr NodeMask kAllNodes = ~NodeMask{0};

constexpr bool IsNodeId(int node) { return node >= 0 && node < kNodeIds; }

constexpr NodeMask NodeBit(int node) {
  return node >= 0 && node < 64 ? NodeMask{1} << node : NodeMask{0};
}
constexpr bool Contains(NodeMask mask, int node) { return (mask & NodeBit(node)) != 0; }
constexpr int NodeCount(NodeMask mask) { return std::popcount(mask); }

// for (int node : Nodes(mask)) visits the ids 0..31 in `mask`, ascending.
class Nodes {
 public:
  class Iterator {
   public:
    constexpr explicit Iterator(uint32_t left) : left_(left) {}
    constexpr int operator*() const { return std::countr_zero(left_); }
    constexpr Iterator& operator++() {
      left_ &= left_ - 1;
      return *this;
    }
    constexpr bool operator==(const Iterator&) const = default;

   private:
    uint32_t left_;
  };
  constexpr explicit Nodes(NodeMask mask) : mask_(static_cast<uint32_t>(mask)) {}
  constexpr Iterator begin() const { return Iterator(mask_); }
  constexpr Iterator end() const { return Iterator(0); }

 private:
  uint32_t mask_;
};

}  // namespace umblock::drbd
