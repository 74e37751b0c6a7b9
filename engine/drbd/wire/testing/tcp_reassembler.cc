#include "engine/drbd/wire/testing/tcp_reassembler.h"

#include <fmt/format.h>

#include <algorithm>

namespace umblock::drbd::wire::testing {
namespace {

constexpr uint16_t kEtherIpv4 = 0x0800;
constexpr uint16_t kEtherVlan = 0x8100;
constexpr uint8_t kProtocolTcp = 6;
constexpr uint8_t kFin = 1;
constexpr uint8_t kSyn = 2;
constexpr uint8_t kRst = 4;
constexpr uint8_t kAck = 16;

}  // namespace

struct TcpReassembler::Segment {
  TcpEndpoint from;
  TcpEndpoint to;
  uint32_t sequence = 0;
  uint8_t flags = 0;
  Bytes data;
};

std::string IpText(uint32_t ip) {
  return fmt::format("{}.{}.{}.{}", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255);
}

int64_t TcpStream::TimeOf(size_t index) const {
  const auto mark = std::ranges::upper_bound(marks, index, {}, &Mark::end);
  return mark == marks.end() ? -1 : mark->time_ns;
}

void TcpReassembler::Add(int64_t time_ns, Bytes frame) {
  ByteReader ethernet(frame);
  ethernet.Skip(12);
  auto type = ethernet.Be<uint16_t>();
  if (type == kEtherVlan) {
    ethernet.Skip(2);
    type = ethernet.Be<uint16_t>();
  }
  const Bytes ip = ethernet.rest();
  if (type != kEtherIpv4 || ip.size() < 20) return;
  const size_t ip_header = (static_cast<size_t>(ip[0]) & 15) * 4;
  const size_t ip_length = LoadBe<uint16_t>(ip.data() + 2);
  const bool fragment = (LoadBe<uint16_t>(ip.data() + 6) & 0x3fff) != 0;
  if (static_cast<uint8_t>(ip[9]) != kProtocolTcp || fragment || ip_length > ip.size() ||
      ip_header < 20 || ip_header + 20 > ip_length) {
    return;
  }
  const Bytes tcp = ip.subspan(ip_header, ip_length - ip_header);
  const size_t tcp_header = (static_cast<size_t>(tcp[12]) >> 4) * 4;
  if (tcp_header < 20 || tcp_header > tcp.size()) return;
  AddSegment(time_ns, {.from = {LoadBe<uint32_t>(ip.data() + 12), LoadBe<uint16_t>(tcp.data())},
                       .to = {LoadBe<uint32_t>(ip.data() + 16), LoadBe<uint16_t>(tcp.data() + 2)},
                       .sequence = LoadBe<uint32_t>(tcp.data() + 4),
                       .flags = static_cast<uint8_t>(tcp[13]),
                       .data = tcp.subspan(tcp_header)});
}

void TcpReassembler::AddSegment(int64_t time_ns, const Segment& segment) {
  const bool syn = (segment.flags & kSyn) != 0;
  if (syn && (segment.flags & kAck) == 0) {
    Open*& open = current_[{segment.from, segment.to}];
    const bool repeated = open != nullptr && open->halves[0].first_sequence == segment.sequence + 1;
    if (!repeated) {
      open = all_.emplace_back(std::make_unique<Open>()).get();
      open->connection.client = segment.from;
      open->connection.server = segment.to;
      open->connection.opened_ns = time_ns;
      open->halves[0].started = true;
      open->halves[0].first_sequence = segment.sequence + 1;
    }
    return;
  }
  size_t side = 0;
  auto found = current_.find({segment.from, segment.to});
  if (found == current_.end()) {
    side = 1;
    found = current_.find({segment.to, segment.from});
    if (found == current_.end()) return;
  }
  Open& open = *found->second;
  Half& half = open.halves[side];
  if (syn && side == 1 && !half.started) {
    half.started = true;
    half.first_sequence = segment.sequence + 1;
    open.connection.established = true;
  }
  if ((segment.flags & (kFin | kRst)) != 0 && open.connection.closed_ns < 0) {
    open.connection.closed_ns = time_ns;
  }
  if (!half.started || syn || segment.data.empty()) return;
  TcpStream& stream = open.connection.streams[side];
  // The distance to what comes next is small, whichever way, so 32 bits of sequence suffice.
  const auto next = half.first_sequence + static_cast<uint32_t>(stream.data.size());
  const int64_t offset =
      static_cast<int64_t>(stream.data.size()) + static_cast<int32_t>(segment.sequence - next);
  if (offset < 0) return;  // keep-alive probe: one byte before the first
  Deliver(time_ns, static_cast<uint64_t>(offset), segment.data, half, stream);
}

void TcpReassembler::Deliver(int64_t time_ns, uint64_t offset, Bytes data, Half& half,
                             TcpStream& stream) {
  std::vector<std::byte>& kept = half.early[offset];
  if (kept.size() < data.size()) kept.assign(data.begin(), data.end());
  bool advanced = false;
  while (!half.early.empty() && half.early.begin()->first <= stream.data.size()) {
    const auto& [start, bytes] = *half.early.begin();
    const uint64_t known = stream.data.size() - start;
    if (known < bytes.size()) {
      stream.data.insert(stream.data.end(), bytes.begin() + static_cast<std::ptrdiff_t>(known),
                         bytes.end());
      advanced = true;
    }
    half.early.erase(half.early.begin());
  }
  if (advanced) stream.marks.push_back({stream.data.size(), time_ns});
}

std::vector<TcpConnection> TcpReassembler::Take() {
  std::vector<TcpConnection> connections;
  connections.reserve(all_.size());
  for (auto& open : all_) connections.push_back(std::move(open->connection));
  all_.clear();
  current_.clear();
  return connections;
}

}  // namespace umblock::drbd::wire::testing
