// PeerAcks: tells the peers which of them have a write, in the order of the change stream, merged
// as far as the answer is the same (drbd-io-path.md H.2). Upholds INV-25. Threading: one reactor.
#pragma once

#include <cstdint>

#include "engine/drbd/state/node_mask.h"
#include "engine/runtime/reactor.h"

namespace umblock::drbd {

class ResourceImpl;

class PeerAcks {
 public:
  explicit PeerAcks(ResourceImpl& resource);

  // A write left the transfer log. `ok`: nodes that have it, own node included if its disk has.
  // `data`: nodes to which it went as data on their present connection.
  void OnDone(uint64_t dagtag, NodeMask ok, NodeMask data);
  // What is pending goes out now.
  void Flush();
  // A dagtag of before the loss is unknown to the peer after it.
  void OnConnectionLost(int node);
  uint64_t last_acked() const { return last_acked_; }

 private:
  struct FlushTimer : Timer {
    PeerAcks* acks;
    explicit FlushTimer(PeerAcks* a);
  };

  ResourceImpl& resource_;
  bool pending_ = false;
  uint64_t dagtag_ = 0;
  NodeMask ok_ = 0;
  NodeMask data_ = 0;
  uint64_t last_acked_ = 0;
  FlushTimer timer_;
};

}  // namespace umblock::drbd
