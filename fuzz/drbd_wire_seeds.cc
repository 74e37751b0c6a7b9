// Writes seeds for drbd_packet_fuzz and drbd_bitmap_fuzz, from the recordings in the source tree:
//   drbd_wire_seeds .../drbd_packet_fuzz    one packet per type, length and agreement, cut to 600
//   bytes drbd_wire_seeds .../drbd_bitmap_fuzz    every bitmap transfer
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "engine/drbd/wire/testing/capture_reader.h"
#include "fuzz/drbd_wire_input.h"

namespace umblock::fuzz {
namespace {

namespace wire = drbd::wire;
using wire::testing::Capture;
using wire::testing::CapturedLink;
using wire::testing::CapturedPacket;

class SeedWriter {
 public:
  explicit SeedWriter(std::filesystem::path directory) : directory_(std::move(directory)) {
    std::filesystem::create_directories(directory_);
  }
  void Write(const std::vector<std::byte>& seed) {
    std::ofstream file(directory_ / fmt::format("recorded-{:04}", count_++), std::ios::binary);
    file.write(reinterpret_cast<const char*>(seed.data()),
               static_cast<std::streamsize>(seed.size()));
  }
  int count() const { return count_; }

 private:
  std::filesystem::path directory_;
  int count_ = 0;
};

uint8_t AgreementIndex(const CapturedLink& link) {
  const auto found = std::ranges::find_if(kAgreements, [&link](const Agreed& agreed) {
    return agreed.protocol == link.protocol && agreed.features == link.agreed_features;
  });
  return found == kAgreements.end() ? 0 : static_cast<uint8_t>(found - kAgreements.begin());
}

void WritePackets(const CapturedLink& link, SeedWriter& out,
                  std::set<std::tuple<wire::PacketType, uint32_t, uint8_t>>& done) {
  constexpr size_t kMaxSeed = 600;
  for (const auto& event : link.Timeline()) {
    const CapturedPacket& packet = *event.packet;
    const uint8_t agreement = AgreementIndex(link);
    if (!done.insert({packet.header.type, packet.header.length, agreement}).second) continue;
    const auto control = static_cast<uint8_t>(event.socket == wire::SocketKind::kControl);
    std::vector<std::byte> seed{static_cast<std::byte>(agreement << 1 | control)};
    seed.insert(seed.end(), packet.bytes.begin(),
                packet.bytes.begin() +
                    static_cast<std::ptrdiff_t>(std::min(packet.bytes.size(), kMaxSeed)));
    out.Write(seed);
  }
}

void WriteBitmaps(const CapturedLink& link, SeedWriter& out) {
  uint64_t sectors = 0;
  for (const auto& event : link.Timeline()) {
    if (event.packet->header.type != wire::PacketType::kSizes) continue;
    const auto sizes = wire::Sizes::Decode(event.packet->payload());
    if (sizes && sizes->c_size != 0) sectors = sizes->c_size;
  }
  const uint64_t bits = sectors / 8 + (sectors % 8 != 0 ? 1 : 0);
  for (const uint32_t ip : link.ips) {
    std::vector<std::byte> seed(8);
    StoreBe(seed.data(), bits);
    for (const CapturedPacket& packet : link.data->SentBy(ip)) {
      const bool plain = packet.header.type == wire::PacketType::kBitmap;
      if (!plain && packet.header.type != wire::PacketType::kCompressedBitmap) continue;
      const size_t at = seed.size();
      seed.resize(at + 3);
      seed[at] = static_cast<std::byte>(plain ? 0 : 1);
      StoreBe(seed.data() + at + 1, static_cast<uint16_t>(packet.header.length));
      seed.insert(seed.end(), packet.payload().begin(), packet.payload().end());
      if (plain && packet.header.length != 0) continue;
      out.Write(seed);
      seed.resize(8);
    }
  }
}

int Main(const std::filesystem::path& corpus) {
  const bool packets = corpus.filename() == "drbd_packet_fuzz";
  SeedWriter out(corpus);
  std::set<std::tuple<wire::PacketType, uint32_t, uint8_t>> done;
  for (const std::string& path : wire::testing::ListCaptures(wire::testing::CaptureDirectory())) {
    const auto capture = Capture::Read(path);
    if (!capture) {
      fmt::print(stderr, "{}\n", capture.error().message());
      return 1;
    }
    for (const CapturedLink& link : capture->links()) {
      if (packets) {
        WritePackets(link, out, done);
      } else {
        WriteBitmaps(link, out);
      }
    }
  }
  fmt::print("{} seeds in {}\n", out.count(), corpus.string());
  return 0;
}

}  // namespace
}  // namespace umblock::fuzz

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: drbd_wire_seeds CORPUS_DIRECTORY (named after the fuzzer)\n", stderr);
    return 2;
  }
  return umblock::fuzz::Main(argv[1]);
}
