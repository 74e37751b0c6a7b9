// Every packet of the recordings of real kernels, both directions: header checks, decode, encode to
// the same bytes; bitmaps, digests and authentication recomputed. Runs over the recordings in the
// source tree and, if the environment variable UMBLOCK_CAPTURES names a directory, over that one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/drbd/wire/auth.h"
#include "engine/drbd/wire/bitmap_code.h"
#include "engine/drbd/wire/bitmap_stream.h"
#include "engine/drbd/wire/digest.h"
#include "engine/drbd/wire/state_word.h"
#include "engine/drbd/wire/testing/capture_reader.h"
#include "engine/drbd/wire/testing/hex.h"
#include "engine/drbd/wire/testing/reencode.h"
#include "engine/drbd/wire/validate.h"

namespace umblock::drbd::wire::testing {
namespace {

using enum PacketType;

std::vector<std::string> AllCaptures() {
  std::vector<std::string> paths = ListCaptures(CaptureDirectory());
  if (const char* more = std::getenv("UMBLOCK_CAPTURES")) {
    for (std::string& path : ListCaptures(more)) paths.push_back(std::move(path));
  }
  return paths;
}

std::string WithoutSuffix(std::string path) {
  for (const std::string_view suffix : {".gz", ".pcapng"}) {
    if (path.ends_with(suffix)) path.resize(path.size() - suffix.size());
  }
  return path;
}

// Nodes n1, n2, n3 have the addresses 192.0.2.11 and following.
std::string NodeName(uint32_t ip) { return "n" + std::to_string((ip & 0xff) - 10); }

class CaptureTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto capture = Capture::Read(GetParam());
    ASSERT_TRUE(capture.has_value()) << capture.error().message();
    capture_.emplace(std::move(*capture));
    ASSERT_FALSE(capture_->links().empty());
  }

  const CapturedLink* LinkOf(const CapturedSocket& socket) const {
    for (const CapturedLink& link : capture_->links()) {
      if (link.data == &socket || link.control == &socket) return &link;
    }
    return nullptr;
  }

  std::optional<Capture> capture_;
};

ConnectPhase PhaseFor(PacketType type) {
  switch (type) {
    case kInitialData:
    case kInitialMeta:
      return ConnectPhase::kInitial;
    case kConnectionFeatures:
      return ConnectPhase::kFeatures;
    case kAuthChallenge:
    case kAuthResponse:
      return ConnectPhase::kAuthentication;
    default:
      return ConnectPhase::kConnected;
  }
}

// What one sender announced, as far as it bears on the packets that follow.
struct Sender {
  Agreement agreed;
  std::string integrity_alg;

  void Learn(const CapturedPacket& packet) {
    if (packet.header.type != kProtocol && packet.header.type != kProtocolUpdate) return;
    const auto protocol = Protocol::Decode(packet.payload());
    ASSERT_TRUE(protocol.has_value());
    integrity_alg = protocol->integrity_alg.view();
    agreed.integrity_digest_size = 0;
    if (integrity_alg.empty()) return;
    const auto digest = Digest::Create(integrity_alg);
    ASSERT_TRUE(digest.has_value());
    agreed.integrity_digest_size = static_cast<uint32_t>(digest->size());
  }
};

void CheckStateWord(const CapturedPacket& packet, int protocol) {
  const auto numbering = protocol < kProtocolFirst9 ? DiskNumbering::k84 : DiskNumbering::k9;
  const uint32_t word = State::Decode(packet.payload())->word;
  const auto state = DecodeStateWord(word, numbering);
  ASSERT_TRUE(state.has_value()) << state.error().message();
  EXPECT_EQ(EncodeStateWord(*state, numbering), word);
}

void CheckIntegrity(const CapturedPacket& packet, const std::string& algorithm) {
  if (algorithm.empty()) return;
  auto digest = Digest::Create(algorithm);
  ASSERT_TRUE(digest.has_value());
  const Bytes rest = packet.payload().subspan(DataHead::kSize);
  const Bytes data = rest.subspan(digest->size());
  const iovec span{const_cast<std::byte*>(data.data()), data.size()};
  EXPECT_TRUE(digest->Matches(std::span(&span, 1), rest.first(digest->size())));
}

// What the whole run has seen, printed at its end.
struct Totals {
  size_t packets = 0;
  size_t packets_9 = 0;      // of protocol 118 and up
  size_t masked_legacy = 0;  // legacy packets with garbage in ignored fields
  size_t integrity_checked = 0;
  size_t state_words = 0;
  std::set<std::string_view> types;
};
Totals totals;

void CheckPacket(const CapturedPacket& packet, SocketKind socket, const Sender& sender) {
  SCOPED_TRACE(std::string(PacketName(packet.header.type)) + " " +
               ToHex(Bytes(packet.bytes).first(std::min<size_t>(packet.bytes.size(), 64))));
  std::vector<std::byte> header(packet.header.size());
  EncodeHeader(packet.header, header);
  EXPECT_EQ(ToHex(header), ToHex(Bytes(packet.bytes).first(header.size())));

  Agreement agreed = sender.agreed;
  agreed.phase = PhaseFor(packet.header.type);
  const Status status = CheckHeader(packet.header, socket, agreed);
  EXPECT_TRUE(status.has_value()) << status.error().message();

  const TwoPcLayout layout = TwoPcLayoutFor(agreed.features);
  const auto again = ReencodePayload(packet.header, packet.payload(), layout);
  ASSERT_TRUE(again.has_value()) << again.error().message();
  if (std::ranges::equal(*again, packet.payload())) return;
  // From protocol 118 on no recorded packet has anything but zeroes in what is to be ignored.
  ASSERT_LT(agreed.protocol, kProtocolFirst9) << ToHex(*again);
  EXPECT_EQ(ToHex(*again), ToHex(MaskIgnored(packet.header, packet.payload(), layout)));
  ++totals.masked_legacy;
}

TEST_P(CaptureTest, EveryPacketDecodesAndEncodesToTheSameBytes) {
  for (const CapturedSocket& socket : capture_->sockets()) {
    const CapturedLink* link = LinkOf(socket);
    for (const auto& packets : socket.sent) {
      Sender sender;
      if (link != nullptr) {
        sender.agreed.protocol = link->protocol;
        sender.agreed.features = link->agreed_features;
      }
      for (const CapturedPacket& packet : packets) {
        if (packet.header.type > kConnectionFeatures) FAIL() << "not a packet";
        CheckPacket(packet, socket.kind, sender);
        sender.Learn(packet);
        ++totals.packets;
        if (sender.agreed.protocol >= kProtocolMin9) ++totals.packets_9;
        totals.types.insert(PacketName(packet.header.type));
        if (packet.header.type == kState) {
          CheckStateWord(packet, sender.agreed.protocol);
          ++totals.state_words;
        }
        if (packet.header.type == kData || packet.header.type == kDataReply ||
            packet.header.type == kRsDataReply) {
          CheckIntegrity(packet, sender.integrity_alg);
          if (!sender.integrity_alg.empty()) ++totals.integrity_checked;
        }
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(CaptureTest, CountsAreThoseOfTheIndependentParser) {
  const std::string text = WithoutSuffix(GetParam()) + ".txt";
  if (!std::filesystem::exists(text)) GTEST_SKIP() << "no " << text;
  const auto expected = ReadCapturedCounts(text);
  ASSERT_TRUE(expected.has_value()) << expected.error().message();

  std::map<std::tuple<std::string, std::string, std::string, size_t>, size_t> counts;
  for (const CapturedSocket& socket : capture_->sockets()) {
    for (size_t side : {0, 1}) {
      const uint32_t from = side == 0 ? socket.client.ip : socket.server.ip;
      for (const CapturedPacket& packet : socket.sent[side]) {
        ++counts[{std::string(PacketName(packet.header.type)),
                  socket.kind == SocketKind::kData ? "data" : "meta", NodeName(from),
                  packet.header.size()}];
      }
    }
  }
  std::vector<CapturedCount> counted;
  for (const auto& [key, count] : counts) {
    const auto& [type, socket, node, size] = key;
    counted.push_back({type, socket, node, size, count});
  }
  std::ranges::sort(counted);
  ASSERT_EQ(counted.size(), expected->size());
  for (size_t i = 0; i < counted.size(); ++i) {
    EXPECT_EQ(counted[i], (*expected)[i])
        << counted[i].type << " of " << counted[i].node << ": " << counted[i].count << " against "
        << (*expected)[i].type << " of " << (*expected)[i].node << ": " << (*expected)[i].count;
  }
}

// --- bitmaps ---

class Collected : public BitSink, public BitRuns {
 public:
  explicit Collected(uint64_t bits) : bits_(bits) {}
  void SetRange(uint64_t begin, uint64_t end) override { ranges_.emplace_back(begin, end); }
  Run RunAt(uint64_t position) override {
    for (const auto& [begin, end] : ranges_) {
      if (position < begin) return {begin, false};
      if (position < end) return {end, true};
    }
    return {bits_, false};
  }

 private:
  uint64_t bits_;
  std::vector<std::pair<uint64_t, uint64_t>> ranges_;  // ascending: as they come in one transfer
};

// The number of bits a transfer covers, from its packets alone.
uint64_t BitsOf(const std::vector<const CapturedPacket*>& transfer) {
  uint64_t bits = 0;
  for (const CapturedPacket* packet : transfer) {
    if (packet->header.type == kBitmap) {
      bits += packet->payload().size() * 8;
      continue;
    }
    RunReader runs(packet->payload().subspan(1), static_cast<int>(packet->payload()[0]) >> 4 & 7);
    while (!runs.AtEnd()) bits += runs.Next().value_or(0);
  }
  return bits;
}

void CheckTransfer(const std::vector<const CapturedPacket*>& transfer, uint64_t bits) {
  Collected bitmap(bits);
  BitmapReceiver receiver(bits, bitmap);
  for (const CapturedPacket* packet : transfer) {
    const auto complete = receiver.Receive(packet->header.type, packet->payload());
    ASSERT_TRUE(complete.has_value()) << complete.error().message();
    EXPECT_EQ(*complete, packet == transfer.back());
  }
  // The same bitmap, sent by us in the same mode, gives the same bytes.
  const bool plain = transfer.front()->header.type == kBitmap;
  BitmapSender sender(bitmap, bits,
                      plain ? BitmapSender::Mode::kPlain : BitmapSender::Mode::kCompressed);
  std::vector<std::byte> buffer(MaxBitmapPayload(HeaderKind::kH100));
  for (const CapturedPacket* packet : transfer) {
    ASSERT_FALSE(sender.done());
    const auto [type, length] = sender.Next(buffer);
    EXPECT_EQ(type, packet->header.type);
    EXPECT_EQ(ToHex(Bytes(buffer).first(length)), ToHex(packet->payload()));
  }
  EXPECT_TRUE(sender.done());
}

TEST_P(CaptureTest, BitmapsAreReceivedAndSentAgain) {
  size_t transfers = 0;
  for (const CapturedLink& link : capture_->links()) {
    std::map<int32_t, std::set<uint64_t>> sizes;  // stream bits that P_SIZES allow, by volume
    for (const CapturedEvent& event : link.Timeline()) {
      if (event.packet->header.type != kSizes) continue;
      const auto announced = Sizes::Decode(event.packet->payload());
      ASSERT_TRUE(announced.has_value());
      for (const uint64_t sectors : {announced->c_size, announced->d_size, announced->u_size}) {
        sizes[event.packet->header.volume].insert(BitmapStreamBits(sectors));
      }
    }
    for (const uint32_t ip : link.ips) {
      std::vector<const CapturedPacket*> transfer;
      for (const CapturedPacket& packet : link.data->SentBy(ip)) {
        const PacketType type = packet.header.type;
        if (type != kBitmap && type != kCompressedBitmap) continue;
        transfer.push_back(&packet);
        // Recorded bitmaps are small: a compressed packet is a whole one, an empty one ends others.
        if (type == kBitmap && !packet.payload().empty()) continue;
        uint64_t bits = BitsOf(transfer);
        if (type == kBitmap) {
          // Plain words say nothing about the last word's bits; the volume's size does.
          for (const uint64_t known : sizes[packet.header.volume]) {
            if (BitmapWords(known) * 64 == bits) bits = known;
          }
        }
        EXPECT_TRUE(sizes[packet.header.volume].contains(bits)) << bits << " bits";
        CheckTransfer(transfer, bits);
        transfer.clear();
        ++transfers;
      }
      EXPECT_TRUE(transfer.empty()) << "the last transfer has no end";
    }
  }
  RecordProperty("transfers", static_cast<int>(transfers));
}

// --- authentication ---

struct Secret {
  const char* capture;
  const char* algorithm;
  const char* secret;
  const char* other;  // what n2 has while the two differ, else null
};
constexpr Secret kSecrets[] = {
    {"auth-integrity-verify", "sha1", "vector-secret", nullptr},
    {"auth-failure", "sha256", "one-secret", "other-secret"},
};

TEST_P(CaptureTest, AuthenticationResponses) {
  const std::string name = std::filesystem::path(WithoutSuffix(GetParam())).filename().string();
  const auto* secret =
      std::ranges::find_if(kSecrets, [&](const Secret& s) { return name.ends_with(s.capture); });
  size_t responses = 0;
  for (const CapturedLink& link : capture_->links()) {
    std::array<const CapturedPacket*, 2> challenge{};
    std::array<const CapturedPacket*, 2> response{};
    for (size_t i : {0, 1}) {
      for (const CapturedPacket& packet : link.data->SentBy(link.ips[i])) {
        if (packet.header.type == kAuthChallenge) challenge[i] = &packet;
        if (packet.header.type == kAuthResponse) response[i] = &packet;
      }
    }
    for (size_t i : {0, 1}) {
      if (response[i] == nullptr) continue;
      ASSERT_NE(secret, std::end(kSecrets)) << "a recording with authentication needs its secret";
      ASSERT_NE(challenge[1 - i], nullptr);
      bool matches = false;
      for (const char* text : {secret->secret, secret->other}) {
        if (text == nullptr) continue;
        const auto expected =
            ComputeAuthResponse(secret->algorithm, text, challenge[1 - i]->payload(), link.protocol,
                                link.features[i].sender_node_id);
        ASSERT_TRUE(expected.has_value());
        matches |= AuthResponseMatches(*expected, response[i]->payload());
      }
      EXPECT_TRUE(matches);
      ++responses;
    }
  }
  if (secret != std::end(kSecrets)) EXPECT_GT(responses, 0u);
}

TEST_P(CaptureTest, LinksAndTheirTimelines) {
  for (const CapturedLink& link : capture_->links()) {
    ASSERT_NE(link.control, nullptr);
    const auto events = link.Timeline();
    EXPECT_EQ(events.size(), link.data->sent[0].size() + link.data->sent[1].size() +
                                 link.control->sent[0].size() + link.control->sent[1].size());
    int64_t last = 0;
    std::map<std::pair<uint32_t, SocketKind>, const CapturedPacket*> previous;
    for (const CapturedEvent& event : events) {
      EXPECT_GE(event.packet->time_ns, last);
      last = event.packet->time_ns;
      auto& before = previous[{event.sender_ip, event.socket}];
      if (before != nullptr) EXPECT_EQ(event.packet, before + 1);
      before = event.packet;
    }
    EXPECT_GE(link.protocol, 100);
    if (link.protocol >= kProtocolMin9) {
      EXPECT_EQ(link.features[0].sender_node_id, link.features[1].receiver_node_id);
      EXPECT_EQ(link.features[1].sender_node_id, link.features[0].receiver_node_id);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Recordings, CaptureTest, ::testing::ValuesIn(AllCaptures()),
                         [](const auto& param_info) {
                           std::string name =
                               std::to_string(param_info.index) + "_" +
                               std::filesystem::path(param_info.param).filename().string();
                           std::ranges::replace_if(
                               name, [](char c) { return std::isalnum(c) == 0; }, '_');
                           return name;
                         });

TEST(CaptureDirectory, HoldsTheRecordings) {
  EXPECT_GE(ListCaptures(CaptureDirectory()).size(), 50u);
}

class PrintTotals : public ::testing::Environment {
 public:
  void TearDown() override {
    std::cout << "captures: " << totals.packets << " packets, " << totals.packets_9
              << " of protocol 118 and up; " << totals.types.size() << " packet types; "
              << totals.masked_legacy << " legacy packets with garbage in pads; "
              << totals.state_words << " state words; " << totals.integrity_checked
              << " data digests\n";
  }
};
const auto* const kPrintTotals = ::testing::AddGlobalTestEnvironment(new PrintTotals);

}  // namespace
}  // namespace umblock::drbd::wire::testing
