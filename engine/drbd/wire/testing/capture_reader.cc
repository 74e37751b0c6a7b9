#include "engine/drbd/wire/testing/capture_reader.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <utility>

#include "engine/drbd/wire/testing/pcapng_reader.h"

namespace umblock::drbd::wire::testing {
namespace {

Status SplitPackets(const TcpStream& stream, std::vector<CapturedPacket>& packets,
                    size_t& leftover) {
  Bytes rest = stream.data;
  while (!rest.empty()) {
    const auto header = DecodeHeader(rest);
    if (!header && header.error() != HeaderError::kIncomplete) {
      return MakeError(ErrorCode::kDataLoss, "at byte {} of a stream: {}",
                       stream.data.size() - rest.size(), HeaderErrorText(header.error()));
    }
    if (!header || header->size() + header->length > rest.size()) break;
    const Bytes bytes = rest.first(header->size() + header->length);
    rest = rest.subspan(bytes.size());
    packets.push_back({.time_ns = stream.TimeOf(stream.data.size() - rest.size() - 1),
                       .header = *header,
                       .bytes = {bytes.begin(), bytes.end()}});
  }
  leftover = rest.size();
  return Ok();
}

Result<CapturedSocket> ToSocket(const TcpConnection& connection) {
  CapturedSocket socket;
  socket.client = connection.client;
  socket.server = connection.server;
  socket.opened_ns = connection.opened_ns;
  socket.closed_ns = connection.closed_ns;
  for (size_t side : {0, 1}) {
    if (Status split =
            SplitPackets(connection.streams[side], socket.sent[side], socket.leftover_bytes[side]);
        !split) {
      return std::unexpected(split.error().Within(IpText(connection.client.ip)));
    }
  }
  if (socket.sent[0].empty()) return socket;
  const PacketType first = socket.sent[0][0].header.type;
  socket.initial_seen = first == PacketType::kInitialData || first == PacketType::kInitialMeta;
  socket.kind = first == PacketType::kInitialMeta ? SocketKind::kControl : SocketKind::kData;
  return socket;
}

std::array<uint32_t, 2> IpsOf(const CapturedSocket& socket) {
  return {std::min(socket.client.ip, socket.server.ip),
          std::max(socket.client.ip, socket.server.ip)};
}

const CapturedPacket* FindFeatures(const std::vector<CapturedPacket>& packets) {
  const auto found = std::ranges::find(packets, PacketType::kConnectionFeatures,
                                       [](const CapturedPacket& p) { return p.header.type; });
  return found == packets.end() ? nullptr : &*found;
}

}  // namespace

std::vector<CapturedEvent> CapturedLink::Timeline() const {
  std::multimap<int64_t, CapturedEvent> by_time;  // equal times stay in order of insertion
  for (const CapturedSocket* socket : {data, control}) {
    if (socket == nullptr) continue;
    for (const uint32_t ip : ips) {
      for (const CapturedPacket& packet : socket->SentBy(ip)) {
        by_time.insert({packet.time_ns, {ip, socket->kind, &packet}});
      }
    }
  }
  std::vector<CapturedEvent> events;
  events.reserve(by_time.size());
  for (const auto& [time, event] : by_time) events.push_back(event);
  return events;
}

Result<Capture> Capture::Read(const std::string& path) {
  const auto file = PcapngFile::Read(path);
  if (!file) return std::unexpected(file.error());
  TcpReassembler tcp;
  for (const CapturedFrame& frame : file->frames()) tcp.Add(frame.time_ns, frame.data);
  Capture capture;
  for (const TcpConnection& connection : tcp.Take()) {
    if (!connection.established) continue;
    auto socket = ToSocket(connection);
    if (!socket) return std::unexpected(socket.error().Within(path));
    capture.sockets_.push_back(std::move(*socket));
  }
  capture.FindLinks();
  return capture;
}

void Capture::FindLinks() {
  for (const CapturedSocket& socket : sockets_) {
    if (!socket.initial_seen || socket.kind != SocketKind::kData) continue;
    CapturedLink link;
    link.ips = IpsOf(socket);
    link.data = &socket;
    int64_t handshake_ns = 0;
    bool complete = true;
    for (size_t i : {0, 1}) {
      const CapturedPacket* packet = FindFeatures(socket.SentBy(link.ips[i]));
      const auto features =
          packet == nullptr ? std::nullopt : ConnectionFeatures::Decode(packet->payload());
      complete = complete && features.has_value();
      if (!complete) break;
      link.features[i] = *features;
      handshake_ns = std::max(handshake_ns, packet->time_ns);
    }
    if (!complete) continue;
    link.protocol =
        static_cast<int>(std::min(link.features[0].protocol_max, link.features[1].protocol_max));
    link.agreed_features = link.features[0].feature_flags & link.features[1].feature_flags;
    // The newest control socket between the two that was there before the features.
    for (const CapturedSocket& other : sockets_) {
      if (other.initial_seen && other.kind == SocketKind::kControl && IpsOf(other) == link.ips &&
          other.opened_ns < handshake_ns &&
          (other.closed_ns < 0 || other.closed_ns > handshake_ns)) {
        link.control = &other;
      }
    }
    links_.push_back(link);
  }
}

Result<std::vector<CapturedCount>> ReadCapturedCounts(const std::string& text_path) {
  std::ifstream file(text_path);
  if (!file) return MakeError(ErrorCode::kNotFound, "{} cannot be read", text_path);
  std::vector<CapturedCount> counts;
  bool in_table = false;
  for (std::string line; std::getline(file, line);) {
    if (line == "DRBD packets") in_table = true;
    if (!in_table) continue;
    if (line.empty() && !counts.empty()) break;
    std::istringstream words(line);
    CapturedCount row;
    if (line.starts_with("P_") &&
        words >> row.type >> row.socket >> row.node >> row.header_size >> row.count) {
      counts.push_back(row);
    }
  }
  if (counts.empty()) {
    return MakeError(ErrorCode::kDataLoss, "{} has no packet table", text_path);
  }
  std::ranges::sort(counts);
  return counts;
}

std::string CaptureDirectory() { return UMBLOCK_SOURCE_DIR "/engine/drbd/wire/testdata/captures"; }

std::string CapturePath(std::string_view name) {
  return CaptureDirectory() + "/" + std::string(name) + ".pcapng.gz";
}

std::vector<std::string> ListCaptures(const std::string& directory) {
  std::vector<std::string> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string path = entry.path().string();
    if (path.ends_with(".pcapng") || path.ends_with(".pcapng.gz")) paths.push_back(path);
  }
  std::ranges::sort(paths);
  return paths;
}

}  // namespace umblock::drbd::wire::testing
