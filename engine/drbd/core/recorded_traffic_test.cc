// Two of our nodes run through what clusters do; the traffic is recorded as a real one would be.
// Here every packet must decode and encode to the same bytes. With UMBLOCK_RECORD_DIR set the
// recordings are written there, for the checks of independent decoders (docs/protocol.md).
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>

#include "engine/drbd/core/testing/cluster.h"
#include "engine/drbd/core/testing/traffic_recorder.h"
#include "engine/drbd/wire/testing/capture_reader.h"
#include "engine/drbd/wire/testing/reencode.h"
#include "engine/drbd/wire/validate.h"

namespace umblock::drbd {
namespace {

using testing::Cluster;
using testing::ClusterOptions;
using testing::TrafficRecorder;
using wire::PacketType;
using wire::testing::Capture;

Task<Status> Range(BlockDevice& device, uint64_t offset, uint64_t length, bool zeroes, bool unmap) {
  int error = zeroes ? co_await device.WriteZeroes(offset, length, unmap)
                     : co_await device.Discard(offset, length);
  if (error != 0) co_return std::unexpected(Error::FromErrno(error, "range"));
  co_return Ok();
}

class Recording {
 public:
  Recording(std::string name, ClusterOptions options)
      : name_(std::move(name)), cluster_(Options(std::move(options))), tap_(cluster_.world()) {}

  Cluster* operator->() { return &cluster_; }

  void Promote(int i, bool force = false) { Do(i, cluster_.resource(i).Promote(force)); }
  void Demote(int i) { Do(i, cluster_.resource(i).Demote(false)); }
  void Disconnect(int i) { Do(i, cluster_.resource(i).Disconnect(1 - i, false)); }
  void Connect(int i) { Do(i, cluster_.resource(i).Connect(1 - i, {})); }
  void Do(int i, Task<Status> task) {
    Status status = cluster_.Await(i, std::move(task));
    EXPECT_TRUE(status) << status.error().ToString();
  }
  void Settle() {
    EXPECT_TRUE(cluster_.RunUntil([&] { return cluster_.AllUpToDate(); }, 300s));
    cluster_.world().RunFor(300ms);
  }
  // One of each, then some that overlap and follow each other.
  void Writes(int i) {
    EXPECT_EQ(cluster_.Write(i, 0, 4096, 1), 0);
    EXPECT_EQ(cluster_.Write(i, 512, 512, 2), 0);
    EXPECT_EQ(cluster_.Write(i, 65536, 65536, 3), 0);
    EXPECT_EQ(cluster_.Write(i, 1 << 20, 1 << 20, 4), 0);
    EXPECT_EQ(cluster_.Write(i, 8192, 4096, 5, true), 0);
    EXPECT_EQ(cluster_.Flush(i), 0);
    Do(i, Range(cluster_.volume(i), 1 << 20, 1 << 19, false, false));
    if (cluster_.volume(i).geometry().can_write_zeroes) {
      Do(i, Range(cluster_.volume(i), 3 << 20, 1 << 20, true, true));
      Do(i, Range(cluster_.volume(i), 5 << 20, 65536, true, false));
    }
    for (uint64_t n = 0; n < 8; ++n) EXPECT_EQ(cluster_.Write(i, n << 20, 4096, 6), 0);
    cluster_.world().RunFor(300ms);
  }

  void Check() {
    std::string directory;
    const char* wanted = std::getenv("UMBLOCK_RECORD_DIR");
    directory = wanted != nullptr ? wanted : ::testing::TempDir();
    std::string path = directory + "/" + name_ + ".pcapng";
    Status written = tap_.WriteTo(path);
    ASSERT_TRUE(written) << written.error().ToString();
    auto capture = Capture::Read(path);
    if (wanted == nullptr) std::filesystem::remove(path);
    ASSERT_TRUE(capture) << capture.error().ToString();
    ASSERT_FALSE(capture->links().empty());
    for (const auto& link : capture->links()) CheckLink(link);
  }
  // How many packets of a type went by.
  size_t Count(PacketType type) const {
    auto it = counts_.find(type);
    return it == counts_.end() ? 0 : it->second;
  }

 private:
  static ClusterOptions Options(ClusterOptions options) {
    options.verbose = std::getenv("UMBLOCK_TEST_LOG") != nullptr;
    return options;
  }

  void CheckLink(const wire::testing::CapturedLink& link) {
    wire::TwoPcLayout layout = wire::TwoPcLayoutFor(link.agreed_features);
    for (const wire::testing::CapturedEvent& event : link.Timeline()) {
      const wire::Header& header = event.packet->header;
      ++counts_[header.type];
      auto again = wire::testing::ReencodePayload(header, event.packet->payload(), layout);
      if (!again) {
        ADD_FAILURE() << wire::PacketName(header.type) << ": " << again.error().ToString();
        continue;
      }
      EXPECT_TRUE(std::ranges::equal(*again, event.packet->payload()))
          << wire::PacketName(header.type);
    }
  }

  std::string name_;
  Cluster cluster_;
  TrafficRecorder tap_;
  std::map<PacketType, size_t> counts_;
};

ClusterOptions Small() {
  ClusterOptions options;
  options.disk_bytes = uint64_t{12} << 20;
  return options;
}

TEST(RecordedTraffic, WritesC) {
  Recording run("two-writes-c", Small());
  run->BringUp();
  run.Promote(0);
  run.Writes(0);
  run.Demote(0);
  run.Promote(1);
  run.Writes(1);
  run.Demote(1);
  run.Disconnect(1);
  run.Check();
  EXPECT_EQ(run.Count(PacketType::kConnectionFeatures), 2u);
  EXPECT_GT(run.Count(PacketType::kData), 20u);
  EXPECT_EQ(run.Count(PacketType::kBarrier), run.Count(PacketType::kBarrierAck));
  EXPECT_GT(run.Count(PacketType::kPeerAck), 0u);
  EXPECT_EQ(run.Count(PacketType::kTrim), 2u);
  EXPECT_EQ(run.Count(PacketType::kZeroes), 4u);
}

TEST(RecordedTraffic, WritesAAndB) {
  for (Protocol protocol : {Protocol::kA, Protocol::kB}) {
    ClusterOptions options = Small();
    options.net.protocol = protocol;
    Recording run(protocol == Protocol::kA ? "two-writes-a" : "two-writes-b", options);
    run->BringUp();
    run.Promote(1);
    run.Writes(1);
    run.Demote(1);
    run.Disconnect(0);
    run.Check();
    EXPECT_EQ(run.Count(PacketType::kWriteAck), 0u);
    EXPECT_EQ(run.Count(PacketType::kRecvAck) == 0, protocol == Protocol::kA);
  }
}

TEST(RecordedTraffic, AuthenticationAndIntegrity) {
  ClusterOptions options = Small();
  options.net.cram_hmac_alg = "sha256";
  options.net.shared_secret = "vector-secret";
  options.net.data_integrity_alg = "crc32c";
  options.volumes = 2;
  Recording run("two-auth-integrity-two-volumes", options);
  run->BringUp();
  run.Promote(0);
  run.Writes(0);
  EXPECT_EQ(run->Write(0, 4096, 8192, 9, false, 1), 0);
  run.Demote(0);
  run.Disconnect(0);
  run.Check();
  EXPECT_EQ(run.Count(PacketType::kAuthResponse), 2u);
  EXPECT_EQ(run.Count(PacketType::kZeroes), 0u);  // drbd-wire.md 6.2
}

TEST(RecordedTraffic, InitialSync) {
  Recording run("two-initial-sync", Small());
  run->CreateAll();
  run->ConnectAll();
  ASSERT_TRUE(run->RunUntil([&] { return run->repl(0, 1) == ReplicationState::kEstablished; }));
  run.Promote(0, true);
  EXPECT_EQ(run->Write(0, 1 << 20, 65536, 7), 0);
  run.Settle();
  EXPECT_TRUE(run->Equal(0, 1));
  run.Writes(0);
  run.Demote(0);
  run.Disconnect(0);
  run.Check();
  EXPECT_EQ(run.Count(PacketType::kCompressedBitmap), 2u);
}

TEST(RecordedTraffic, ReconnectResyncsBothWays) {
  Recording run("two-reconnect", Small());
  run->BringUp();
  run.Promote(0);
  run.Writes(0);
  run.Disconnect(0);
  run->world().RunFor(100ms);
  for (uint64_t n = 0; n < 12; ++n) EXPECT_EQ(run->Write(0, n * 786432, 12288, 8), 0);
  run.Connect(0);
  EXPECT_EQ(run->Write(0, 10 << 20, 4096, 9), 0);
  run.Settle();
  EXPECT_TRUE(run->Equal(0, 1));
  run.Demote(0);
  run.Promote(1);
  run.Writes(1);
  run.Disconnect(1);
  EXPECT_EQ(run->Write(1, 6 << 20, 65536, 10), 0);
  run.Connect(1);
  run.Settle();
  EXPECT_TRUE(run->Equal(0, 1));
  run.Check();
}

TEST(RecordedTraffic, PlainBitmaps) {
  ClusterOptions options = Small();
  options.net.use_rle = false;
  Recording run("two-plain-bitmaps", options);
  run->BringUp();
  run.Promote(0);
  run.Disconnect(0);
  for (uint64_t n = 0; n < 5; ++n) EXPECT_EQ(run->Write(0, n << 20, 4096, 8), 0);
  run.Connect(0);
  run.Settle();
  run.Check();
  EXPECT_GT(run.Count(PacketType::kBitmap), 2u);
}

TEST(RecordedTraffic, CrashAndReconnect) {
  Recording run("two-crash", Small());
  run->BringUp();
  run.Promote(0);
  run.Writes(0);
  run->node(1).Crash(SimCrash::kPowerCut);
  EXPECT_EQ(run->Write(0, 9 << 20, 65536, 11), 0);
  run->Boot(1);
  run.Settle();
  EXPECT_TRUE(run->Equal(0, 1));
  run.Writes(0);
  run->node(0).Crash(SimCrash::kPowerCut);
  run->Boot(0);
  run.Settle();
  EXPECT_TRUE(run->Equal(0, 1));
  run.Check();
}

TEST(RecordedTraffic, InvalidateDetachAndAttach) {
  Recording run("two-disk-acts", Small());
  run->BringUp();
  run.Promote(0);
  run.Writes(0);
  run.Do(1, run->resource(1).Invalidate(0, 0));
  run.Settle();
  run.Do(0, run->resource(0).InvalidateRemote(0, 1));
  run.Settle();
  run.Do(0, run->resource(0).Detach(0, false));
  std::vector<std::byte> read(65536);
  EXPECT_EQ(run->Read(0, 65536, &read), 0);
  EXPECT_EQ(run->Write(0, 65536, 8192, 12), 0);
  run.Do(0, run->resource(0).Attach({.volume = 0, .backing = run->program(0).backends[0].get()}));
  run.Settle();
  EXPECT_TRUE(run->Equal(0, 1));
  run.Demote(0);
  run.Check();
}

TEST(RecordedTraffic, SplitBrain) {
  Recording run("two-split-brain", Small());
  run->BringUp();
  run.Disconnect(0);
  run.Do(1, run->resource(1).Disconnect(0, false));
  run.Promote(0);
  EXPECT_EQ(run->Write(0, 40960, 16384, 13), 0);
  run.Promote(1, true);
  EXPECT_EQ(run->Write(1, 122880, 16384, 14), 0);
  run.Connect(0);
  run.Connect(1);
  ASSERT_TRUE(run->RunUntil([&] {
    return run->connection(0, 1) == ConnectionState::kStandAlone &&
           run->connection(1, 0) == ConnectionState::kStandAlone;
  }));
  run.Demote(1);
  run.Do(1, run->resource(1).Connect(0, {.discard_my_data = true}));
  run.Connect(0);
  run.Settle();
  EXPECT_TRUE(run->Equal(0, 1));
  EXPECT_EQ(run->ByteOnDisk(1, 122880), 0);
  run.Check();
}

}  // namespace
}  // namespace umblock::drbd
