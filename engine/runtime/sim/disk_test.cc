#include "engine/runtime/sim/disk.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <set>

#include "engine/runtime/sim/file.h"
#include "engine/runtime/sim/node.h"

namespace umblock {
namespace {

constexpr uint64_t kSize = 1 << 20;

struct Outcome {
  bool done = false;
  int32_t result = 0;
};

Task<void> WriteTask(File& file, uint64_t offset, std::vector<std::byte> data, bool durable,
                     Outcome* outcome) {
  iovec part{data.data(), data.size()};
  outcome->result = co_await file.Write(offset, {&part, 1}, durable);
  outcome->done = true;
}
Task<void> ReadTask(File& file, uint64_t offset, std::vector<std::byte>* into, Outcome* outcome) {
  iovec part{into->data(), into->size()};
  outcome->result = co_await file.Read(offset, {&part, 1});
  outcome->done = true;
}
Task<void> SyncTask(File& file, Outcome* outcome) {
  outcome->result = co_await file.Sync();
  outcome->done = true;
}
Task<void> OpenTask(SimReactor& reactor, OpenFileRequest request, std::unique_ptr<File>* file,
                    std::optional<Error>* error) {
  auto result = co_await reactor.OpenFile(request);
  if (result) {
    *file = std::move(*result);
  } else {
    *error = result.error();
  }
}

// One node with one disk "disk", opened.
class Bench {
 public:
  explicit Bench(uint64_t seed, SimDiskOptions options = {}) : world(seed) {
    options.size = kSize;
    node = world.AddNode({"alfa", {SocketAddress::Ipv4({192, 0, 2, 1}, 0)}});
    disk = node->files().Create("disk", options);
    node->Start([](SimNode& self) { self.AddReactor(); });
    file = Open({.path = "disk"}).value();
  }
  ~Bench() {
    if (!node->running()) {
      SimBury(std::shared_ptr<void>(file.release(), [](void*) {}));
      return;
    }
    node->reactor()->Spawn(file->Close());
    world.RunFor(10s);
    file.reset();
    node->Shutdown();
  }

  Result<std::unique_ptr<File>> Open(OpenFileRequest request) {
    std::unique_ptr<File> opened;
    std::optional<Error> error;
    node->reactor()->Spawn(OpenTask(*node->reactor(), request, &opened, &error));
    world.RunUntil([&] { return opened != nullptr || error; }, 10s);
    if (error) return std::unexpected(*error);
    return opened;
  }
  static std::vector<std::byte> Fill(size_t bytes, int value) {
    return std::vector<std::byte>(bytes, static_cast<std::byte>(value));
  }
  // Outcomes live as long as the bench: a crashed task still refers to its own.
  Outcome* StartWrite(uint64_t offset, std::vector<std::byte> data, bool durable = false) {
    outcomes.push_back(std::make_unique<Outcome>());
    node->reactor()->Spawn(
        WriteTask(*file, offset, std::move(data), durable, outcomes.back().get()));
    return outcomes.back().get();
  }
  Outcome* StartSync() {
    outcomes.push_back(std::make_unique<Outcome>());
    node->reactor()->Spawn(SyncTask(*file, outcomes.back().get()));
    return outcomes.back().get();
  }
  int32_t Await(Outcome* outcome) {
    EXPECT_TRUE(world.RunUntil([&] { return outcome->done; }, 10s));
    return outcome->result;
  }
  int32_t Write(uint64_t offset, std::vector<std::byte> data, bool durable = false) {
    return Await(StartWrite(offset, std::move(data), durable));
  }
  int32_t Sync() { return Await(StartSync()); }
  int32_t Read(uint64_t offset, std::vector<std::byte>* into) {
    outcomes.push_back(std::make_unique<Outcome>());
    node->reactor()->Spawn(ReadTask(*file, offset, into, outcomes.back().get()));
    return Await(outcomes.back().get());
  }
  int SectorNow(uint64_t sector) {
    std::byte bytes[512];
    disk->ReadNow(sector * 512, bytes);
    for (std::byte byte : bytes) EXPECT_EQ(byte, bytes[0]) << "a sector is never torn";
    return static_cast<int>(bytes[0]);
  }

  SimWorld world;
  SimNode* node;
  SimDisk* disk;
  std::unique_ptr<File> file;
  std::vector<std::unique_ptr<Outcome>> outcomes;
};

TEST(SimDisk, WhatIsWrittenIsRead) {
  Bench bench(1);
  EXPECT_EQ(bench.Write(512, Bench::Fill(8192, 7)), 0);
  std::vector<std::byte> data(9216);
  EXPECT_EQ(bench.Read(0, &data), 0);
  EXPECT_EQ(data[511], std::byte{0});
  EXPECT_EQ(data[512], std::byte{7});
  EXPECT_EQ(data[512 + 8191], std::byte{7});
  EXPECT_EQ(data[512 + 8192], std::byte{0});
  EXPECT_EQ(bench.disk->unstable_sectors(), 16u);
  EXPECT_EQ(bench.Sync(), 0);
  EXPECT_EQ(bench.disk->unstable_sectors(), 0u);
}

TEST(SimDisk, FlushedAndFuaWritesSurviveEveryPowerCut) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Bench bench(seed);
    bench.Write(0, Bench::Fill(4096, 1));
    bench.Sync();
    bench.Write(4096, Bench::Fill(4096, 2), true);
    bench.Write(2048, Bench::Fill(512, 3));  // over flushed data, not flushed itself
    bench.node->Crash(SimCrash::kPowerCut);
    for (uint64_t sector = 0; sector < 8; ++sector) {
      const int value = bench.SectorNow(sector);
      EXPECT_TRUE(value == 1 || (sector == 4 && value == 3)) << value;
    }
    for (uint64_t sector = 8; sector < 16; ++sector) EXPECT_EQ(bench.SectorNow(sector), 2);
    EXPECT_EQ(bench.disk->unstable_sectors(), 0u);
  }
}

TEST(SimDisk, OfUnflushedWritesAnySubsetAndAnyVersionSurvives) {
  std::set<std::pair<int, int>> seen;
  std::set<int> partial;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    Bench bench(seed);
    for (int version = 1; version <= 3; ++version) bench.Write(0, Bench::Fill(512, version));
    bench.Write(65536, Bench::Fill(4096, 9));
    bench.node->Crash(SimCrash::kPowerCut);
    int kept = 0;
    for (uint64_t sector = 128; sector < 136; ++sector) kept += bench.SectorNow(sector) == 9;
    seen.emplace(bench.SectorNow(0), kept != 0);
    partial.insert(kept);
  }
  for (int version = 0; version <= 3; ++version) {
    EXPECT_TRUE(seen.contains({version, 0})) << version;
    EXPECT_TRUE(seen.contains({version, 1})) << version;
  }
  EXPECT_GT(partial.size(), 5u);  // torn in many ways
}

TEST(SimDisk, AFlushCoversWhatCompletedBeforeItBeganAlsoIfOverwrittenMeanwhile) {
  std::set<int> seen;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Bench bench(seed);
    bench.Write(0, Bench::Fill(512, 1));
    Outcome* sync = bench.StartSync();
    bench.world.RunFor(100us);
    bench.StartWrite(0, Bench::Fill(512, 2));
    bench.Await(sync);
    bench.node->Crash(SimCrash::kPowerCut);
    seen.insert(bench.SectorNow(0));
  }
  EXPECT_EQ(seen, (std::set<int>{1, 2}));
}

TEST(SimDisk, AWriteInFlightIsTornAtSectors) {
  std::set<int> kept_counts;
  int torn = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Bench bench(seed);
    bench.disk->SetObserver(
        [&](const SimDiskEvent& event) { torn += event.what == SimDiskEvent::What::kTorn; });
    bench.disk->SetHang(true);
    Outcome* outcome = bench.StartWrite(0, Bench::Fill(4096, 5), seed % 2 == 0);
    bench.world.RunFor(20ms);
    EXPECT_FALSE(outcome->done);
    bench.node->Crash(SimCrash::kPowerCut);
    int kept = 0;
    for (uint64_t sector = 0; sector < 8; ++sector) kept += bench.SectorNow(sector) == 5;
    kept_counts.insert(kept);
  }
  EXPECT_EQ(kept_counts.size(), 9u);
  EXPECT_GT(torn, 100);
}

TEST(SimDisk, AtomicPagesAreNotTorn) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Bench bench(seed, {.atomic_bytes = 4096});
    bench.Write(0, Bench::Fill(4096, 1));
    bench.disk->SetHang(true);
    bench.StartWrite(4096, Bench::Fill(8192, 2));
    bench.world.RunFor(20ms);
    bench.node->Crash(SimCrash::kPowerCut);
    for (uint64_t page = 0; page < 3; ++page) {
      for (uint64_t i = 1; i < 8; ++i) {
        EXPECT_EQ(bench.SectorNow(page * 8), bench.SectorNow(page * 8 + i)) << seed;
      }
    }
  }
}

TEST(SimDisk, WithoutAVolatileCacheCompletedWritesAreStable) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    Bench bench(seed, {.volatile_cache = false});
    bench.Write(0, Bench::Fill(4096, 1));
    bench.node->Crash(SimCrash::kPowerCut);
    for (uint64_t sector = 0; sector < 8; ++sector) EXPECT_EQ(bench.SectorNow(sector), 1);
  }
}

TEST(SimDisk, AKilledProcessLosesNoCompletedWrite) {
  std::set<int> in_flight;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Bench bench(seed);
    bench.Write(0, Bench::Fill(4096, 1));
    bench.disk->SetHang(true);
    bench.StartWrite(4096, Bench::Fill(4096, 2));
    bench.world.RunFor(20ms);
    bench.node->Crash(SimCrash::kProcessKill);
    for (uint64_t sector = 0; sector < 8; ++sector) EXPECT_EQ(bench.SectorNow(sector), 1);
    in_flight.insert(bench.SectorNow(8));
  }
  EXPECT_EQ(in_flight, (std::set<int>{0, 2}));
}

TEST(SimDisk, OperationsCompleteInAnyOrder) {
  int swapped = 0;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    Bench bench(seed);
    Outcome* first = bench.StartWrite(0, Bench::Fill(512, 1));
    Outcome* second = bench.StartWrite(8192, Bench::Fill(512, 2));
    bench.world.RunUntil([&] { return first->done || second->done; }, 1s);
    swapped += second->done && !first->done;
    bench.world.RunUntil([&] { return first->done && second->done; }, 1s);
  }
  EXPECT_GT(swapped, 5);
  EXPECT_LT(swapped, 45);
}

TEST(SimDisk, InjectedErrorsAreReported) {
  Bench bench(1);
  bench.disk->FailNext(SimDiskOp::kWrite, EIO, 1, 1);
  EXPECT_EQ(bench.Write(0, Bench::Fill(512, 1)), 0);
  EXPECT_EQ(bench.Write(0, Bench::Fill(512, 2)), -EIO);
  EXPECT_EQ(bench.Write(0, Bench::Fill(512, 3)), 0);
  bench.disk->FailNext(SimDiskOp::kSync, EIO);
  EXPECT_EQ(bench.Sync(), -EIO);
  EXPECT_NE(bench.disk->unstable_sectors(), 0u);
  EXPECT_EQ(bench.Sync(), 0);
  bench.disk->AddBadRange(8192, 512, EIO);
  std::vector<std::byte> data(4096);
  EXPECT_EQ(bench.Read(8192, &data), -EIO);
  EXPECT_EQ(bench.Read(4096, &data), 0);
  bench.disk->ClearFaults();
  EXPECT_EQ(bench.Read(8192, &data), 0);
  bench.disk->SetErrorPermille(SimDiskOp::kRead, 1000, EIO);
  EXPECT_EQ(bench.Read(8192, &data), -EIO);
}

TEST(SimDisk, AHungDiskAnswersWhenItRecovers) {
  Bench bench(1);
  bench.disk->SetHang(true);
  Outcome* outcome = bench.StartWrite(0, Bench::Fill(512, 1));
  bench.world.RunFor(100s);
  EXPECT_FALSE(outcome->done);
  bench.disk->SetHang(false);
  EXPECT_EQ(bench.Await(outcome), 0);
  EXPECT_EQ(bench.SectorNow(0), 1);
}

TEST(SimFile, OpeningSaysWhatIsWrong) {
  Bench bench(1);
  EXPECT_EQ(bench.Open({.path = "nothing"}).error().code(), ErrorCode::kNotFound);
  EXPECT_EQ(bench.Open({.path = "disk"}).error().code(), ErrorCode::kFailedPrecondition);
  EXPECT_EQ(bench.Open({.path = "disk", .create = true, .exclusive_create = true}).error().code(),
            ErrorCode::kAlreadyExists);
  auto created = bench.Open({.path = "new", .create = true, .create_size = 10000});
  ASSERT_TRUE(created);
  EXPECT_EQ((*created)->info().size, 12288u);
}

TEST(SimFile, WrongRequestsFailAsInTheKernel) {
  Bench bench(1);
  EXPECT_EQ(bench.Write(100, Bench::Fill(512, 1)), -EINVAL);
  EXPECT_EQ(bench.Write(0, Bench::Fill(100, 1)), -EINVAL);
  EXPECT_EQ(bench.Write(kSize, Bench::Fill(512, 1)), -ENOSPC);
  std::vector<std::byte> data(1024);
  EXPECT_EQ(bench.Read(kSize - 512, &data), -EIO);
}

TEST(SimFile, TheLockGoesWithTheProgram) {
  Bench bench(1);
  bench.node->Crash(SimCrash::kProcessKill);
  SimBury(std::shared_ptr<void>(bench.file.release(), [](void*) {}));
  bench.node->Restart();
  auto again = bench.Open({.path = "disk"});
  ASSERT_TRUE(again);
  bench.file = std::move(*again);
}

TEST(SimDisk, DiscardedRangesReadAsZeroes) {
  Bench bench(1);
  bench.Write(0, Bench::Fill(16384, 1));
  struct Done : Completion {
    Done()
        : Completion([](Completion* self, int32_t result) noexcept {
            static_cast<Done*>(self)->result = result;
            static_cast<Done*>(self)->called = true;
          }) {}
    bool called = false;
  } done;
  bench.file->StartDiscard(512, 8192, &done);
  EXPECT_TRUE(bench.world.RunUntil([&] { return done.called; }, 1s));
  EXPECT_EQ(done.result, 0);
  EXPECT_EQ(bench.SectorNow(0), 1);
  EXPECT_EQ(bench.SectorNow(1), 0);
  EXPECT_EQ(bench.SectorNow(16), 0);
  EXPECT_EQ(bench.SectorNow(17), 1);
}

}  // namespace
}  // namespace umblock
