#include "engine/drbd/link/packet_reader.h"

#include <gtest/gtest.h>

#include <optional>

#include "engine/drbd/link/testing/fake_stream.h"
#include "engine/drbd/wire/data_packets.h"
#include "engine/drbd/wire/packet.h"
#include "engine/runtime/testing/loop_reactor.h"

namespace umblock::drbd {
namespace {

using testing::FakeStream;
using wire::PacketType;

void Put(std::vector<std::byte>& to, const auto& packet, PacketType type, int volume,
         std::span<const std::byte> trailing = {}) {
  std::byte raw[256];
  size_t size =
      wire::EncodePacket(type, volume, packet, raw, static_cast<uint32_t>(trailing.size()));
  to.insert(to.end(), raw, raw + size);
  to.insert(to.end(), trailing.begin(), trailing.end());
}

std::vector<std::byte> Pattern(size_t bytes) {
  std::vector<std::byte> data(bytes);
  for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(i * 7 + i / 251);
  return data;
}

struct Got {
  std::vector<PacketType> types;
  std::vector<std::byte> payload;
  std::optional<Error> error;
};

// Takes packets like the data loop does.
Task<void> ReadAll(PacketReader& reader, Got* got) {
  while (true) {
    Result<wire::Header> header = co_await reader.Next();
    if (!header) {
      got->error = header.error();
      co_return;
    }
    got->types.push_back(header->type);
    if (header->type == PacketType::kData) {
      Result<Bytes> head = co_await reader.Small(wire::DataHead::kSize);
      if (!head) {
        got->error = head.error();
        co_return;
      }
      std::vector<std::byte> data(header->length - wire::DataHead::kSize);
      Status status = co_await reader.Into(data);
      if (!status) {
        got->error = status.error();
        co_return;
      }
      got->payload.insert(got->payload.end(), data.begin(), data.end());
      continue;
    }
    Status status = co_await reader.Discard(header->length);
    if (!status) {
      got->error = status.error();
      co_return;
    }
  }
}

struct Bench {
  explicit Bench(size_t piece = SIZE_MAX) : reader(stream) { stream.set_piece(piece); }
  ~Bench() {
    stream.EndOfStream();
    reactor.RunReady();
  }
  LoopReactor reactor;
  FakeStream stream{reactor};
  PacketReader reader;
};

std::vector<std::byte> SomePackets(std::vector<PacketType>* types, std::vector<std::byte>* data) {
  std::vector<std::byte> stream;
  std::vector<std::byte> small = Pattern(512);
  std::vector<std::byte> large = Pattern(20480);
  Put(stream, wire::Dagtag{77}, PacketType::kDagtag, wire::kNoVolume);
  Put(stream, wire::DataHead{8, 1, 1, 0}, PacketType::kData, 0, small);
  Put(stream, wire::Barrier{3}, PacketType::kBarrier, wire::kNoVolume);
  Put(stream, wire::DataHead{16, 2, 2, 0}, PacketType::kData, 0, large);
  Put(stream, wire::DataHead{99, 3, 3, 0}, PacketType::kData, 0, small);
  Put(stream, wire::Barrier{4}, PacketType::kBarrier, wire::kNoVolume);
  *types = {PacketType::kDagtag, PacketType::kData, PacketType::kBarrier,
            PacketType::kData,   PacketType::kData, PacketType::kBarrier};
  for (auto* each : {&small, &large, &small}) {
    data->insert(data->end(), each->begin(), each->end());
  }
  return stream;
}

TEST(PacketReaderTest, PiecesOfAnySizeGiveTheSamePackets) {
  std::vector<PacketType> types;
  std::vector<std::byte> data;
  std::vector<std::byte> bytes = SomePackets(&types, &data);
  for (size_t piece : {1, 2, 3, 7, 8, 15, 16, 17, 39, 40, 41, 100, 511, 4096, 16384, 100000}) {
    Bench bench(piece);
    Got got;
    bench.reactor.RunTask([](Bench& b, Got* g, Bytes all) -> Task<void> {
      b.stream.Feed(all);
      b.stream.EndOfStream();
      co_await ReadAll(b.reader, g);
    }(bench, &got, bytes));
    EXPECT_EQ(got.types, types) << piece;
    EXPECT_EQ(got.payload, data) << piece;
    ASSERT_TRUE(got.error.has_value());
    EXPECT_EQ(got.error->code(), ErrorCode::kUnavailable);
    EXPECT_EQ(bench.reader.bytes_received(), bytes.size());
  }
}

// INV-23: whatever is missing at the end, the packet that lacks it is not given out.
TEST(PacketReaderTest, AStreamThatEndsAtAnyByteGivesOnlyWholePackets) {
  std::vector<std::byte> bytes;
  std::vector<std::byte> data = Pattern(512);
  Put(bytes, wire::Dagtag{77}, PacketType::kDagtag, wire::kNoVolume);
  size_t first = bytes.size();
  Put(bytes, wire::DataHead{8, 1, 1, 0}, PacketType::kData, 0, data);
  for (size_t cut = 0; cut < bytes.size(); ++cut) {
    Bench bench;
    Got got;
    bench.reactor.RunTask([](Bench& b, Got* g, Bytes all) -> Task<void> {
      b.stream.Feed(all);
      b.stream.EndOfStream();
      co_await ReadAll(b.reader, g);
    }(bench, &got, Bytes(bytes).first(cut)));
    EXPECT_EQ(got.payload.size(), 0u) << cut;
    EXPECT_EQ(got.types.empty(), cut < wire::kMaxHeaderSize) << cut;
    if (cut < first) EXPECT_LE(got.types.size(), 1u);
    ASSERT_TRUE(got.error.has_value());
    EXPECT_EQ(got.error->code(), ErrorCode::kUnavailable) << cut;
  }
}

TEST(PacketReaderTest, BytesThatAreNoHeaderAreNamed) {
  Bench bench;
  Got got;
  std::vector<std::byte> junk = Pattern(64);
  bench.reactor.RunTask([](Bench& b, Got* g, Bytes all) -> Task<void> {
    b.stream.Feed(all);
    co_await ReadAll(b.reader, g);
  }(bench, &got, junk));
  ASSERT_TRUE(got.error.has_value());
  EXPECT_EQ(got.error->code(), ErrorCode::kInvalidArgument);
  EXPECT_NE(got.error->message().find("where a packet header begins"), std::string::npos);
}

TEST(PacketReaderTest, AHeaderWithPaddingIsRefused) {
  std::vector<std::byte> bytes;
  Put(bytes, wire::Dagtag{77}, PacketType::kDagtag, wire::kNoVolume);
  bytes[13] = std::byte{1};  // the pad of an h100 header
  Bench bench;
  Got got;
  bench.reactor.RunTask([](Bench& b, Got* g, Bytes all) -> Task<void> {
    b.stream.Feed(all);
    co_await ReadAll(b.reader, g);
  }(bench, &got, bytes));
  ASSERT_TRUE(got.error.has_value());
  EXPECT_EQ(got.error->code(), ErrorCode::kInvalidArgument);
}

Task<void> ReadLarge(Bench& bench, std::vector<std::byte>* into, Status* status) {
  Result<wire::Header> header = co_await bench.reader.Next();
  EXPECT_TRUE(header);
  Result<Bytes> head = co_await bench.reader.Small(wire::DataHead::kSize);
  EXPECT_TRUE(head);
  *status = co_await bench.reader.Into(*into);
}

// design.md, data path: payloads above 8 KiB land where they are wanted.
TEST(PacketReaderTest, TheRestOfALargePayloadIsReceivedInPlace) {
  std::vector<std::byte> data = Pattern(1 << 20);
  std::vector<std::byte> bytes;
  Put(bytes, wire::DataHead{8, 1, 1, 0}, PacketType::kData, 0, data);
  Bench bench(65536);
  std::vector<std::byte> into(data.size());
  Status status = Ok();
  bench.stream.Feed(bytes);
  bench.reactor.RunTask(ReadLarge(bench, &into, &status));
  ASSERT_TRUE(status);
  EXPECT_EQ(into, data);
  EXPECT_LE(bench.reader.bytes_copied(), PacketReader::kBufferBytes);
  EXPECT_EQ(bench.stream.ReceivedInto(into.data(), into.size()) + bench.reader.bytes_copied(),
            data.size());
}

TEST(PacketReaderTest, InARunOfLargePayloadsNothingIsCopied) {
  std::vector<std::byte> data = Pattern(65536);
  std::vector<std::byte> bytes;
  constexpr int kWrites = 20;
  for (uint32_t i = 0; i < kWrites; ++i) {
    if (i % 3 == 0) {
      Put(bytes, wire::Barrier{i}, PacketType::kBarrier, wire::kNoVolume);
      Put(bytes, wire::Dagtag{i}, PacketType::kDagtag, wire::kNoVolume);
    }
    Put(bytes, wire::DataHead{8, 1, 1, 0}, PacketType::kData, 0, data);
  }
  Bench bench(50000);
  Got got;
  uint64_t first = 0;
  bench.reactor.RunTask([](Bench& b, Got* g, Bytes all, uint64_t* after_first) -> Task<void> {
    size_t one = 24 + 24 + 40 + 65536;
    b.stream.Feed(all.first(one));
    std::vector<std::byte> into(65536);
    for (int i = 0; i < 2; ++i) {
      Result<wire::Header> small = co_await b.reader.Next();
      EXPECT_TRUE(small);
      EXPECT_TRUE(co_await b.reader.Discard(small->length));
    }
    Status status = Ok();
    co_await ReadLarge(b, &into, &status);
    *after_first = b.reader.bytes_copied();
    b.stream.Feed(all.subspan(one));
    b.stream.EndOfStream();
    co_await ReadAll(b.reader, g);
  }(bench, &got, bytes, &first));
  EXPECT_EQ(got.payload.size(), data.size() * (kWrites - 1));
  EXPECT_EQ(bench.reader.bytes_copied(), first);
  EXPECT_EQ(bench.reader.bytes_received(), bytes.size());
}

TEST(PacketReaderTest, SmallPacketsAfterLargeOnesAreReadAheadAgain) {
  std::vector<std::byte> large = Pattern(65536);
  std::vector<std::byte> bytes;
  Put(bytes, wire::DataHead{8, 1, 1, 0}, PacketType::kData, 0, large);
  for (uint32_t i = 0; i < 400; ++i) {
    Put(bytes, wire::Barrier{i}, PacketType::kBarrier, wire::kNoVolume);
  }
  Bench bench;
  Got got;
  bench.reactor.RunTask([](Bench& b, Got* g, Bytes all) -> Task<void> {
    b.stream.Feed(all);
    b.stream.EndOfStream();
    co_await ReadAll(b.reader, g);
  }(bench, &got, bytes));
  EXPECT_EQ(got.types.size(), 401u);
  EXPECT_LT(bench.stream.receives(), 12);
}

TEST(PacketReaderTest, SmallPayloadsAreCopiedOnce) {
  std::vector<std::byte> data = Pattern(4096);
  std::vector<std::byte> bytes;
  Put(bytes, wire::DataHead{8, 1, 1, 0}, PacketType::kData, 0, data);
  Bench bench;
  std::vector<std::byte> into(data.size());
  Status status = Ok();
  bench.stream.Feed(bytes);
  bench.reactor.RunTask(ReadLarge(bench, &into, &status));
  EXPECT_EQ(into, data);
  EXPECT_EQ(bench.reader.bytes_copied(), data.size());
  EXPECT_EQ(bench.stream.receives(), 1) << "header and payload come with one call";
}

TEST(PacketReaderTest, PayloadsLargerThanTheBufferCanBeDiscarded) {
  std::vector<std::byte> data = Pattern(100000);
  std::vector<std::byte> bytes;
  Put(bytes, wire::DataHead{8, 1, 1, 0}, PacketType::kTrim, 0, data);  // as an unwanted packet
  Put(bytes, wire::Barrier{4}, PacketType::kBarrier, wire::kNoVolume);
  Bench bench(1000);
  Got got;
  bench.reactor.RunTask([](Bench& b, Got* g, Bytes all) -> Task<void> {
    b.stream.Feed(all);
    b.stream.EndOfStream();
    co_await ReadAll(b.reader, g);
  }(bench, &got, bytes));
  EXPECT_EQ(got.types, (std::vector<PacketType>{PacketType::kTrim, PacketType::kBarrier}));
}

TEST(PacketReaderTest, AnAbortEndsTheReader) {
  Bench bench;
  Got got;
  TaskGroup group(bench.reactor);
  group.Spawn(ReadAll(bench.reader, &got));
  bench.reactor.RunReady();
  EXPECT_EQ(group.running(), 1);
  bench.stream.Abort();
  bench.reactor.RunReady();
  EXPECT_EQ(group.running(), 0);
  ASSERT_TRUE(got.error.has_value());
}

}  // namespace
}  // namespace umblock::drbd
