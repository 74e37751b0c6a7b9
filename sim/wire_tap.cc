#include "sim/wire_tap.h"

#include <algorithm>
#include <cstring>

namespace umblock::sim {

WireTap::WireTap(SimNetwork& network, Observer observer) : observer_(std::move(observer)) {
  network.SetTap([this](SimConnection& connection, int from_end, Bytes bytes) {
    OnBytes(connection, from_end, bytes);
  });
}

void WireTap::OnBytes(SimConnection& connection, int from_end, Bytes bytes) {
  namespace wire = drbd::wire;
  Direction& way = directions_[connection.id()][static_cast<size_t>(from_end)];
  while (!bytes.empty() && !way.lost) {
    if (way.skip != 0) {
      const size_t n = std::min<uint64_t>(way.skip, bytes.size());
      way.skip -= n;
      way.at += n;
      bytes = bytes.subspan(n);
      continue;
    }
    way.head[way.have++] = bytes[0];
    ++way.at;
    bytes = bytes.subspan(1);
    const Bytes head(way.head.data(), way.have);
    if (way.have < wire::kMinHeaderSize) continue;
    const auto kind = wire::IdentifyHeader(head);
    if (!kind) {
      way.lost = true;
      break;
    }
    if (way.have < wire::HeaderSize(*kind)) continue;
    const auto header = wire::DecodeHeader(head);
    way.have = 0;
    if (!header) {
      way.lost = true;
      break;
    }
    way.skip = header->length;
    ++packets_;
    observer_({&connection, from_end, *header, way.at - header->size(), way.at + header->length,
               bytes.first(std::min<size_t>(header->length, bytes.size()))});
  }
}

}  // namespace umblock::sim
