#include "engine/drbd/core/peer_device.h"

#include "engine/drbd/core/resource_impl.h"

namespace umblock::drbd {

// Puts what the peer sends into our slot for it.
class PeerDevice::Sink final : public wire::BitSink {
 public:
  explicit Sink(PeerDevice& device) : device_(device) {}
  void SetRange(uint64_t begin, uint64_t end) override {
    std::optional<uint32_t> slot = device_.slot();
    if (slot) device_.volume().disk()->bitmap().OrWireRun(*slot, begin, end);
  }

 private:
  PeerDevice& device_;
};

PeerDevice::PeerDevice(Volume& volume, Connection& connection)
    : volume_(volume),
      connection_(connection),
      node_(connection.node()),
      name_(fmt::format("peer-volume {}/{}/{}", volume.resource().name(), connection.node(),
                        volume.number())),
      target(*this),
      source(*this),
      verify(volume.resource().logger(), name_),
      verify_source(*this),
      verify_target(*this),
      tasks(volume.reactor()),
      sink_(std::make_unique<Sink>(*this)) {
  target.Configure(connection.config().resync);
  verify_source.Configure(connection.config().resync);
}

PeerDevice::~PeerDevice() = default;

int PeerDevice::volume_number() const { return volume_.number(); }

const PeerDeviceState& PeerDevice::state() const { return volume_.state().peer(node_); }

std::optional<uint32_t> PeerDevice::slot() const {
  return volume_.disk() == nullptr ? std::nullopt : volume_.disk()->SlotOf(node_);
}

uint64_t PeerDevice::out_of_sync_bits() const {
  std::optional<uint32_t> own = slot();
  return own ? volume_.disk()->bitmap().weight(*own) : 0;
}

void PeerDevice::OnConnecting() {
  packet_sequence_ = 0;
  uuids_known = false;
  sizes_known = false;
  reported = ReplicationState::kOff;
  sent_uuids.reset();
  source_missed_end = false;
  peer_missed_end = false;
  bitmap_sent = false;
  bitmap_received = false;
  bitmap_receiver_.reset();
  sent_bytes = 0;
  received_bytes = 0;
  equal_bytes = 0;
  deallocated_bytes = 0;
}

Result<bool> PeerDevice::ReceiveBitmap(wire::PacketType type, Bytes payload) {
  if (bitmap_received) {
    return MakeError(ErrorCode::kInvalidArgument, "a second bitmap in one exchange");
  }
  if (!bitmap_receiver_) {
    bitmap_receiver_.emplace(wire::BitmapStreamBits(volume_.size_sectors()), *sink_);
  }
  Result<bool> complete = bitmap_receiver_->Receive(type, payload);
  if (!complete || *complete) bitmap_receiver_.reset();
  bitmap_received = complete && *complete;
  return complete;
}

}  // namespace umblock::drbd
