#include "engine/drbd/wire/bitmap_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/drbd/wire/testing/hex.h"

namespace umblock::drbd::wire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Hex;
using ::testing::IsEmpty;
using testing::ToHex;
using Mode = BitmapSender::Mode;
using Range = std::pair<uint64_t, uint64_t>;

// A bitmap as a list of set ranges, ascending and apart.
class RangeRuns : public BitRuns {
 public:
  RangeRuns(uint64_t bits, std::vector<Range> ranges) : bits_(bits), ranges_(std::move(ranges)) {}
  Run RunAt(uint64_t position) override {
    const auto next = std::ranges::upper_bound(ranges_, position, {}, &Range::second);
    if (next == ranges_.end()) return {bits_, false};
    if (position < next->first) return {next->first, false};
    return {next->second, true};
  }

 private:
  uint64_t bits_;
  std::vector<Range> ranges_;
};

// The same in pieces of at most `limit` bits, as a paged bitmap would answer.
class PagedRuns : public RangeRuns {
 public:
  PagedRuns(uint64_t bits, std::vector<Range> ranges, uint64_t limit)
      : RangeRuns(bits, std::move(ranges)), limit_(limit) {}
  Run RunAt(uint64_t position) override {
    Run run = RangeRuns::RunAt(position);
    run.end = std::min(run.end, position / limit_ * limit_ + limit_);
    return run;
  }

 private:
  uint64_t limit_;
};

// ORs what arrives, as a list of ranges.
class Collected : public BitSink {
 public:
  void SetRange(uint64_t begin, uint64_t end) override {
    EXPECT_LT(begin, end);
    raw_.push_back({begin, end});
  }
  std::vector<Range> Merged() const {
    std::vector<Range> sorted = raw_;
    std::ranges::sort(sorted);
    std::vector<Range> merged;
    for (const auto& range : sorted) {
      if (!merged.empty() && range.first <= merged.back().second) {
        merged.back().second = std::max(merged.back().second, range.second);
      } else {
        merged.push_back(range);
      }
    }
    return merged;
  }

 private:
  std::vector<Range> raw_;
};

struct Packet {
  PacketType type;
  std::vector<std::byte> payload;
};

std::vector<Packet> SendAll(BitRuns& runs, uint64_t bits, Mode mode,
                            HeaderKind kind = HeaderKind::kH100) {
  BitmapSender sender(runs, bits, mode, kind);
  std::vector<Packet> packets;
  std::vector<std::byte> buffer(MaxBitmapPayload(kind));
  while (!sender.done()) {
    const auto [type, length] = sender.Next(buffer);
    packets.push_back({type, {buffer.begin(), buffer.begin() + static_cast<long>(length)}});
    if (packets.size() > 10000) {
      ADD_FAILURE() << "the sender makes no progress";
      break;
    }
  }
  EXPECT_EQ(sender.position(), bits);
  return packets;
}

std::vector<Range> ReceiveAll(const std::vector<Packet>& packets, uint64_t bits,
                              HeaderKind kind = HeaderKind::kH100) {
  Collected sink;
  BitmapReceiver receiver(bits, sink, kind);
  for (size_t i = 0; i < packets.size(); ++i) {
    const auto complete = receiver.Receive(packets[i].type, packets[i].payload);
    EXPECT_TRUE(complete.has_value()) << (complete ? "" : complete.error().message());
    if (!complete) break;
    EXPECT_EQ(*complete, i + 1 == packets.size()) << "packet " << i << " of " << packets.size();
  }
  EXPECT_TRUE(receiver.complete());
  EXPECT_EQ(receiver.position(), bits);
  return sink.Merged();
}

TEST(BitmapStream, WorkedExamples) {
  struct Case {
    uint64_t bits;
    std::vector<Range> set;
    const char* payload;
  };
  constexpr uint64_t k1GiB = 262144;
  const Case kCases[] = {
      // drbd-wire.md 5.9.5.
      {k1GiB, {}, "32 7f cf de 03"},
      {k1GiB, {{0, k1GiB}}, "b2 7f cf de 03"},
      {k1GiB, {{100, 101}, {106, 108}}, "42 df 0c c3 bf 31 ef 01"},
      {k1GiB, {{0, 3}}, "82 f9 63 f6 1e"},
      {k1GiB, {{1024, 2048}}, "12 3f cf e2 e7 59 fc 3d 5b 0f"},
      {16384, {{0, 16384}}, "b2 7f cf 1e 00"},
      // 8.6 and 8.9.
      {2038, {{10, 14}}, "12 97fedc1a"},
      {2038, {{10, 14}, {30, 34}}, "72 97defb336a00"},
      {120, {{20, 28}}, "32 6fec6f05"},
      {120, {{0, 120}}, "a2df11"},
      // drbd-metadata-resync.md 11.3, 4: one word, all ones.
      {64, {{0, 64}}, "a2 df03"},
  };
  for (const Case& c : kCases) {
    RangeRuns runs(c.bits, c.set);
    for (const Mode mode : {Mode::kCompressed, Mode::kCompressedOnly}) {
      const auto packets = SendAll(runs, c.bits, mode);
      ASSERT_EQ(packets.size(), 1u) << c.payload;
      EXPECT_EQ(packets[0].type, PacketType::kCompressedBitmap);
      EXPECT_EQ(ToHex(packets[0].payload), ToHex(Hex(c.payload)));
    }
    EXPECT_EQ(ReceiveAll({{PacketType::kCompressedBitmap, Hex(c.payload)}}, c.bits), c.set);
    PagedRuns paged(c.bits, c.set, 100);
    EXPECT_EQ(ToHex(SendAll(paged, c.bits, Mode::kCompressed)[0].payload), ToHex(Hex(c.payload)))
        << "adjacent runs are merged";
  }
}

TEST(BitmapStream, PlainTransferOf1000Words) {
  // drbd-metadata-resync.md 11.3, 5.
  const uint64_t bits = 1000 * 64 - 5;
  RangeRuns runs(bits, {{3, 4}, {60, 70}, {128, 256}, {63990, bits}});
  const auto packets = SendAll(runs, bits, Mode::kPlain);
  ASSERT_EQ(packets.size(), 3u);
  for (const Packet& packet : packets) EXPECT_EQ(packet.type, PacketType::kBitmap);
  EXPECT_EQ(packets[0].payload.size(), 510u * 8);
  EXPECT_EQ(packets[1].payload.size(), 490u * 8);
  EXPECT_EQ(packets[2].payload.size(), 0u);
  EXPECT_EQ(ToHex(Bytes(packets[0].payload).first(40)),
            "08000000000000f0"
            "3f00000000000000"
            "ffffffffffffffff"
            "ffffffffffffffff"
            "0000000000000000");
  EXPECT_EQ(ToHex(Bytes(packets[1].payload).last(8)), "000000000000c007");
  EXPECT_THAT(ReceiveAll(packets, bits),
              ElementsAre(Range{3, 4}, Range{60, 70}, Range{128, 256}, Range{63990, bits}));
}

TEST(BitmapStream, PlainTransferWithAFullLastPacketEndsWithAnEmptyOne) {
  const uint64_t bits = 510 * 64;
  RangeRuns runs(bits, {{bits - 1, bits}});
  const auto packets = SendAll(runs, bits, Mode::kPlain);
  ASSERT_EQ(packets.size(), 2u);
  EXPECT_EQ(packets[0].payload.size(), 4080u);
  EXPECT_TRUE(packets[1].payload.empty());
  EXPECT_THAT(ReceiveAll(packets, bits), ElementsAre(Range{bits - 1, bits}));
}

TEST(BitmapStream, OlderHeadersLeaveRoomForOneMoreWord) {
  EXPECT_EQ(MaxBitmapPayload(HeaderKind::kH100), 4080u);
  EXPECT_EQ(MaxBitmapPayload(HeaderKind::kH80), 4088u);
  const uint64_t bits = 511 * 64;
  RangeRuns runs(bits, {{0, 1}});
  const auto packets = SendAll(runs, bits, Mode::kPlain, HeaderKind::kH80);
  ASSERT_EQ(packets.size(), 2u);
  EXPECT_THAT(ReceiveAll(packets, bits, HeaderKind::kH80), ElementsAre(Range{0, 1}));
}

TEST(BitmapStream, ReceiverMerges) {
  // 11.3, 6: source bits {1}, target bits {2}; both OR what they get.
  Collected sink;
  for (const uint64_t bit : {1u, 2u}) {
    RangeRuns runs(2038, {{bit, bit + 1}});
    BitmapReceiver receiver(2038, sink);
    const auto packets = SendAll(runs, 2038, Mode::kCompressed);
    EXPECT_EQ(receiver.Receive(packets[0].type, packets[0].payload), true);
  }
  EXPECT_THAT(sink.Merged(), ElementsAre(Range{1, 3}));
}

// Every other bit set cannot be compressed; a long quiet stretch can.
std::vector<Range> Stripes(uint64_t begin, uint64_t end) {
  std::vector<Range> ranges;
  for (uint64_t at = begin; at < end; at += 2) ranges.push_back({at, at + 1});
  return ranges;
}

TEST(BitmapStream, ChangesBetweenPlainAndCompressed) {
  const uint64_t bits = 40000 + 1000000 + 7;
  auto set = Stripes(0, 40000);
  set.push_back({1000000, 1000003});
  RangeRuns runs(bits, set);
  const auto packets = SendAll(runs, bits, Mode::kCompressed);
  ASSERT_GE(packets.size(), 2u);
  EXPECT_EQ(packets.front().type, PacketType::kBitmap);
  EXPECT_EQ(packets.back().type, PacketType::kCompressedBitmap) << "and no terminator follows";
  EXPECT_EQ(ReceiveAll(packets, bits), set);
}

TEST(BitmapStream, PlainAfterCompressedStartsAtTheWholeWordBefore) {
  // Runs of 8 clear and 8 set bits compress (5 bits for 8) until the packet is full, wherever that
  // is; then stripes do not.
  std::vector<Range> set;
  for (uint64_t at = 8; at < 51200; at += 16) set.push_back({at, at + 8});
  for (const auto& range : Stripes(51205, 120001)) set.push_back(range);
  const uint64_t bits = 120001;
  RangeRuns runs(bits, set);
  const auto packets = SendAll(runs, bits, Mode::kCompressed);
  bool plain_after_compressed = false;
  for (size_t i = 1; i < packets.size(); ++i) {
    plain_after_compressed |= packets[i].type == PacketType::kBitmap &&
                              packets[i - 1].type == PacketType::kCompressedBitmap;
  }
  EXPECT_TRUE(plain_after_compressed);
  EXPECT_EQ(packets.back().type, PacketType::kBitmap);
  EXPECT_TRUE(packets.back().payload.empty());
  EXPECT_EQ(ReceiveAll(packets, bits), set);
}

TEST(BitmapStream, CompressedOnlyNeverFallsBack) {
  const uint64_t bits = 100000;
  const auto set = Stripes(1, bits);
  RangeRuns runs(bits, set);
  const auto packets = SendAll(runs, bits, Mode::kCompressedOnly);
  EXPECT_GT(packets.size(), 1u);
  for (const Packet& packet : packets) EXPECT_EQ(packet.type, PacketType::kCompressedBitmap);
  EXPECT_EQ(ReceiveAll(packets, bits), set);
}

TEST(BitmapStream, RandomBitmapsInAllModes) {
  std::mt19937_64 random(20240817);
  for (int round = 0; round < 200; ++round) {
    const uint64_t bits = 1 + random() % (round % 4 == 0 ? 200000 : 300);
    std::vector<Range> set;
    const uint64_t scale = uint64_t{1} << random() % 14;
    for (uint64_t at = random() % scale; at < bits;) {
      const uint64_t end = std::min(bits, at + 1 + random() % scale);
      set.push_back({at, end});
      at = end + 1 + random() % scale;
    }
    PagedRuns runs(bits, set, 4096 * 8);
    for (const Mode mode : {Mode::kPlain, Mode::kCompressed, Mode::kCompressedOnly}) {
      ASSERT_EQ(ReceiveAll(SendAll(runs, bits, mode), bits), set)
          << "round " << round << " bits " << bits;
    }
  }
}

TEST(BitmapStream, HugeBitmap) {
  const uint64_t bits = uint64_t{1} << 40;  // 4 PiB
  RangeRuns runs(bits, {{5, 6}, {bits - 1, bits}});
  const auto packets = SendAll(runs, bits, Mode::kCompressed);
  ASSERT_EQ(packets.size(), 1u);
  EXPECT_THAT(ReceiveAll(packets, bits), ElementsAre(Range{5, 6}, Range{bits - 1, bits}));
}

TEST(BitmapStream, NoBitsAtAll) {
  RangeRuns runs(0, {});
  const auto packets = SendAll(runs, 0, Mode::kCompressed);
  ASSERT_EQ(packets.size(), 1u);
  EXPECT_EQ(packets[0].type, PacketType::kBitmap);
  EXPECT_THAT(ReceiveAll(packets, 0), IsEmpty());
}

TEST(BitmapStream, SizesOfVolumes) {
  EXPECT_EQ(BitmapStreamBits(0x3fb0), 0x7f6u);
  EXPECT_EQ(BitmapStreamBits(9), 2u);
  EXPECT_EQ(BitmapStreamBits(0), 0u);
  EXPECT_EQ(BitmapStreamBits(~uint64_t{0}), uint64_t{1} << 61);
  EXPECT_EQ(BitmapWords(64), 1u);
  EXPECT_EQ(BitmapWords(65), 2u);
}

struct BadStep {
  const char* name;
  uint64_t bits;
  std::vector<Packet> good_before;
  PacketType type;
  std::vector<std::byte> payload;
  const char* message;
};

TEST(BitmapReceiver, RefusesBadInput) {
  constexpr auto kB = PacketType::kBitmap;
  constexpr auto kCB = PacketType::kCompressedBitmap;
  const std::vector<std::byte> word(8);
  const BadStep kSteps[] = {
      {"another packet", 2038, {}, PacketType::kData, {}, "P_DATA arrived in the middle"},
      {"plain, too short", 2038, {}, kB, Hex("(248 x 00)"), "256 expected"},
      {"plain, too long", 2038, {}, kB, Hex("(264 x 00)"), "256 expected"},
      {"plain, half a word", 64, {}, kB, Hex("(4 x 00)"), "8 expected"},
      {"terminator at the beginning", 2038, {}, kB, {}, "256 expected"},
      {"terminator too early", 40000, {{kB, Hex("(4080 x 00)")}}, kB, {}, "920 expected"},
      {"more words than there are", 64, {{kB, word}}, kB, word, "0 expected"},
      {"compressed after the last word", 64, {{kB, word}}, kCB, Hex("62 00"), "exceeds"},
      {"nothing behind the encoding", 64, {}, kCB, Hex("02"), "1 bytes"},
      {"no payload", 64, {}, kCB, {}, "0 bytes"},
      {"compressed, too long", 1 << 20, {}, kCB, Hex("02 (4080 x 00)"), "4081 bytes"},
      {"unknown encoding", 64, {}, kCB, Hex("01 00"), "unknown encoding 1"},
      {"encoding 0", 64, {}, kCB, Hex("b0 df03"), "unknown encoding 0"},
      {"code cut off", 64, {}, kCB, Hex("a2 df"), "cut off"},
      {"padding cuts the code", 64, {}, kCB, Hex("b2 df03"), "cut off"},
      {"padding too short", 64, {}, kCB, Hex("92 df03"), "cut off"},
      {"set run beyond the end", 63, {}, kCB, Hex("a2 df03"), "exceeds"},
      {"clear run beyond the end", 63, {}, kCB, Hex("22 df03"), "exceeds"},
      {"a run behind the end", 62, {}, kCB, Hex("82 5f03"), "exceeds"},
      {"longest run", 2038, {}, kCB, Hex("82 ffffffffffffffff"), "exceeds"},
      {"after completion", 64, {{kCB, Hex("a2 df03")}}, kB, {}, "after the bitmap was complete"},
  };
  for (const BadStep& step : kSteps) {
    Collected sink;
    BitmapReceiver receiver(step.bits, sink);
    for (const Packet& packet : step.good_before) {
      ASSERT_TRUE(receiver.Receive(packet.type, packet.payload).has_value()) << step.name;
    }
    const auto result = receiver.Receive(step.type, step.payload);
    ASSERT_FALSE(result.has_value()) << step.name;
    EXPECT_EQ(result.error().code(), ErrorCode::kInvalidArgument) << step.name;
    EXPECT_THAT(result.error().message(), HasSubstr(step.message)) << step.name;
    for (const auto& [begin, end] : sink.Merged()) EXPECT_LE(end, step.bits) << step.name;
  }
}

TEST(BitmapReceiver, SurplusBitsOfTheLastWordAreIgnored) {
  Collected sink;
  BitmapReceiver receiver(70, sink);
  EXPECT_EQ(receiver.Receive(PacketType::kBitmap, Hex("0000000000000080 ffffffffffffffff")), false);
  EXPECT_EQ(receiver.Receive(PacketType::kBitmap, {}), true);
  EXPECT_THAT(sink.Merged(), ElementsAre(Range{63, 70}));
}

}  // namespace
}  // namespace umblock::drbd::wire
