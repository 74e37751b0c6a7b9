#include "engine/drbd/core/peer_acks.h"

#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {

PeerAcks::FlushTimer::FlushTimer(PeerAcks* a)
    : Timer([](Timer* self) noexcept { static_cast<FlushTimer*>(self)->acks->Flush(); }), acks(a) {}

PeerAcks::PeerAcks(ResourceImpl& resource) : resource_(resource), timer_(this) {}

void PeerAcks::OnDone(uint64_t dagtag, NodeMask ok, NodeMask data) {
  NodeMask own = NodeBit(resource_.own_node());
  uint64_t window = resource_.config().options.peer_ack_window / 512;
  // The local result is not compared: receivers do not look at it (H.3).
  if (pending_ && (((ok ^ ok_) & ~own) != 0 || data != data_ || dagtag >= last_acked_ + window)) {
    Flush();
  }
  pending_ = true;
  dagtag_ = dagtag;
  ok_ = ok;
  data_ = data;
  resource_.reactor().ArmIn(&timer_, resource_.config().options.peer_ack_delay);
}

void PeerAcks::Flush() {
  timer_.Disarm();
  if (!pending_) return;
  pending_ = false;
  last_acked_ = dagtag_;
  for (auto& [node, connection] : resource_.connections()) {
    // A peer knows the dagtags of what was sent to it on this link, and no others.
    if (!Contains(data_, node) || !connection->up() || !connection->WasSent(dagtag_)) continue;
    connection->SendPeerAck(ok_, dagtag_);
  }
}

void PeerAcks::OnConnectionLost(int node) { data_ &= ~NodeBit(node); }

}  // namespace umblock::drbd
