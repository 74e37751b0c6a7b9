#include "engine/drbd/core/testing/traffic_recorder.h"

#include <algorithm>
#include <cstdio>

namespace umblock::drbd::testing {
namespace {

constexpr uint8_t kFin = 1;
constexpr uint8_t kSyn = 2;
constexpr uint8_t kPush = 8;
constexpr uint8_t kAck = 16;
constexpr size_t kSegment = 1448;
constexpr int64_t kEpochSeconds = 1'700'000'000;  // simulated time 0

template <typename T>
void PutLe(std::vector<std::byte>& to, T value) {
  size_t at = to.size();
  to.resize(at + sizeof value);
  StoreLe(to.data() + at, value);
}
template <typename T>
void PutBe(std::vector<std::byte>& to, T value) {
  size_t at = to.size();
  to.resize(at + sizeof value);
  StoreBe(to.data() + at, value);
}

uint32_t Ip(const SocketAddress& address) {
  // "192.0.2.11:7789"
  unsigned a = 0, b = 0, c = 0, d = 0;
  std::string text = address.ToString();
  if (std::sscanf(text.c_str(), "%u.%u.%u.%u", &a, &b, &c, &d) != 4) return 0;
  return a << 24 | b << 16 | c << 8 | d;
}

uint16_t Sum(Bytes header) {
  uint32_t sum = 0;
  for (size_t i = 0; i + 1 < header.size(); i += 2) sum += LoadBe<uint16_t>(header.data() + i);
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

}  // namespace

TrafficRecorder::TrafficRecorder(SimWorld& world) : world_(world) {
  std::vector<std::byte> section;
  PutLe<uint32_t>(section, 0x1A2B3C4D);
  PutLe<uint16_t>(section, 1);
  PutLe<uint16_t>(section, 0);
  PutLe<uint64_t>(section, ~uint64_t{0});
  Block(0x0A0D0D0A, section);
  std::vector<std::byte> interface;
  PutLe<uint16_t>(interface, 1);  // Ethernet
  PutLe<uint16_t>(interface, 0);
  PutLe<uint32_t>(interface, 0);
  Block(1, interface);
  world_.network().SetTap([this](SimConnection& connection, int from, Bytes bytes) {
    OnBytes(connection, from, bytes);
  });
}

TrafficRecorder::~TrafficRecorder() { world_.network().SetTap(nullptr); }

void TrafficRecorder::Block(uint32_t type, const std::vector<std::byte>& body) {
  auto padded = static_cast<uint32_t>((body.size() + 3) / 4 * 4);
  PutLe<uint32_t>(file_, type);
  PutLe<uint32_t>(file_, padded + 12);
  file_.insert(file_.end(), body.begin(), body.end());
  file_.resize(file_.size() + padded - body.size());
  PutLe<uint32_t>(file_, padded + 12);
}

void TrafficRecorder::OnBytes(SimConnection& connection, int from, Bytes bytes) {
  CloseDead();
  auto [it, fresh] = flows_.try_emplace(connection.id());
  Flow& flow = it->second;
  if (fresh) {
    flow.connection = connection.weak_from_this();
    flow.ends[0] = connection.address(0);
    flow.ends[1] = connection.address(1);
    Frame(flow, 0, kSyn, {});
    ++flow.sequence[0];
    Frame(flow, 1, kSyn | kAck, {});
    ++flow.sequence[1];
    Frame(flow, 0, kAck, {});
  }
  while (!bytes.empty()) {
    Bytes part = bytes.first(std::min(bytes.size(), kSegment));
    Frame(flow, from, kPush | kAck, part);
    flow.sequence[from] += static_cast<uint32_t>(part.size());
    bytes = bytes.subspan(part.size());
  }
}

void TrafficRecorder::CloseDead() {
  for (auto& [id, flow] : flows_) {
    if (flow.closed) continue;
    std::shared_ptr<SimConnection> connection = flow.connection.lock();
    if (connection != nullptr && !connection->dead()) continue;
    flow.closed = true;
    Frame(flow, 0, kFin | kAck, {});
    Frame(flow, 1, kFin | kAck, {});
  }
}

void TrafficRecorder::Frame(Flow& flow, int from, uint8_t flags, Bytes payload) {
  std::vector<std::byte> frame(12);  // both MAC addresses
  frame[5] = static_cast<std::byte>(2 - from);
  frame[11] = static_cast<std::byte>(1 + from);
  PutBe<uint16_t>(frame, 0x0800);
  size_t ip = frame.size();
  PutBe<uint16_t>(frame, 0x4500);
  PutBe<uint16_t>(frame, static_cast<uint16_t>(40 + payload.size()));
  PutBe<uint32_t>(frame, 0);
  PutBe<uint16_t>(frame, 0x4006);  // time to live, TCP
  PutBe<uint16_t>(frame, 0);
  PutBe<uint32_t>(frame, Ip(flow.ends[from]));
  PutBe<uint32_t>(frame, Ip(flow.ends[1 - from]));
  StoreBe<uint16_t>(frame.data() + ip + 10, Sum(Bytes(frame).subspan(ip, 20)));
  PutBe<uint16_t>(frame, flow.ends[from].port());
  PutBe<uint16_t>(frame, flow.ends[1 - from].port());
  PutBe<uint32_t>(frame, flow.sequence[from]);
  PutBe<uint32_t>(frame, (flags & kAck) != 0 ? flow.sequence[1 - from] : 0);
  PutBe<uint8_t>(frame, 0x50);
  PutBe<uint8_t>(frame, flags);
  PutBe<uint16_t>(frame, 0xffff);
  PutBe<uint32_t>(frame, 0);
  frame.insert(frame.end(), payload.begin(), payload.end());

  auto us = std::chrono::duration_cast<std::chrono::microseconds>(world_.now()).count() +
            kEpochSeconds * 1'000'000;
  std::vector<std::byte> body;
  PutLe<uint32_t>(body, 0);
  PutLe<uint32_t>(body, static_cast<uint32_t>(us >> 32));
  PutLe<uint32_t>(body, static_cast<uint32_t>(us));
  PutLe<uint32_t>(body, static_cast<uint32_t>(frame.size()));
  PutLe<uint32_t>(body, static_cast<uint32_t>(frame.size()));
  body.insert(body.end(), frame.begin(), frame.end());
  Block(6, body);
}

Status TrafficRecorder::WriteTo(const std::string& path) const {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return std::unexpected(Error::FromErrno(errno, path));
  size_t written = std::fwrite(file_.data(), 1, file_.size(), file);
  int error = std::fclose(file);
  if (written != file_.size() || error != 0) {
    return MakeError(ErrorCode::kUnavailable, "{}: could not be written", path);
  }
  return Ok();
}

}  // namespace umblock::drbd::testing
