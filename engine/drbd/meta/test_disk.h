// A reactor without threads or time, and a disk with a volatile cache whose requests complete when
// and in the order in which the test says: for tests of what is durable when.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "engine/block/device_base.h"
#include "engine/drbd/meta/constants.h"
#include "engine/drbd/meta/test_support.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/sync.h"

namespace umblock::drbd::meta::testing {

class ManualReactor final : public Reactor {
 public:
  // Runs what is ready until nothing is.
  void RunReady();

  Time Now() const override { return {}; }
  void FillRandom(MutableBytes bytes) override;
  void Post(Completion* completion, int32_t result) override;
  void PostFromAnyThread(Completion* completion, int32_t result) override;
  void PostAtTurnEnd(Completion* completion) override;
  void Arm(Timer* timer, Time deadline) override;
  Task<Result<std::unique_ptr<File>>> OpenFile(OpenFileRequest request) override;
  Task<Result<std::unique_ptr<Stream>>> Connect(ConnectRequest request,
                                                CancelToken cancel) override;
  Result<std::unique_ptr<Listener>> Listen(const ListenRequest& request) override;
  void StartBlocking(BlockingWork* work) override;
  BufferPool& buffers() override;
  Logger& logger() override { return logger_; }

 private:
  StderrLogger logger_;
  std::deque<std::pair<Completion*, int32_t>> ready_;
};

using DiskBlock = std::array<std::byte, kBlockBytes>;
using DiskContents = std::map<uint64_t, DiskBlock>;  // block number; absent = zeroes

class TestDisk final : public DeviceBase {
 public:
  TestDisk(ManualReactor& reactor, uint64_t bytes, DiskContents stable = {});
  ~TestDisk() override;

  void Submit(BlockIo* io) noexcept override;
  const BlockGeometry& geometry() const override { return geometry_; }
  Access access() const override { return Access::kReadWrite; }
  std::string access_reason() const override { return {}; }

  // Completes the `index`-th request in flight.
  void Complete(size_t index);
  size_t in_flight() const { return in_flight_.size(); }
  const BlockIo& request(size_t index) const { return *in_flight_[index].io; }

  // What a power failure now may leave: all that is stable, and any part of what is not, down to
  // single blocks.
  DiskContents AfterCrash(std::mt19937_64& random) const;
  const DiskContents& contents() const { return current_; }
  Buffer Peek(uint64_t offset, uint64_t length) const;
  void Poke(uint64_t offset, Bytes bytes);

  // Fails the next requests for which this returns an errno.
  std::function<int(const BlockIo&)> fail_if;
  void Grow(uint64_t bytes);
  void set_can_write_zeroes(bool can) { geometry_.can_write_zeroes = can; }

  void Save(DiskFile& file) const;
  static DiskContents Load(const DiskFile& file, uint64_t from, uint64_t to);

 private:
  struct InFlight {
    BlockIo* io;
    uint64_t ended_before;  // writes completed when it was submitted
  };
  struct Unstable {
    uint64_t block;
    DiskBlock data;
    uint64_t sequence;
  };

  void Apply(const BlockIo& io);

  BlockGeometry geometry_;
  DiskContents stable_;
  DiskContents current_;
  std::vector<Unstable> unstable_;  // in order of completion
  std::vector<InFlight> in_flight_;
  uint64_t writes_ended_ = 0;
};

// A reactor with a disk, and tasks on it.
class Machine {
 public:
  explicit Machine(uint64_t bytes, DiskContents contents = {})
      : disk(reactor, bytes, std::move(contents)) {}
  ~Machine() { Drain(); }

  // Lets one request complete, chosen by `random` (or the oldest); false if none is in flight.
  bool Step(std::mt19937_64* random = nullptr);
  void Drain() {
    do reactor.RunReady();
    while (Step());
  }
  void Spawn(Task<void> task) {
    tasks.Spawn(std::move(task));
    reactor.RunReady();
  }
  // Runs a task to its end.
  template <typename T>
  T Await(Task<T> task) {
    std::optional<T> result;
    Spawn(Store(std::move(task), &result));
    Drain();
    UMBLOCK_ASSERT(result.has_value(), "the task ended");
    return std::move(*result);
  }

  ManualReactor reactor;
  TestDisk disk;
  TaskGroup tasks{reactor};

 private:
  template <typename T>
  static Task<void> Store(Task<T> task, std::optional<T>* result) {
    result->emplace(co_await task);
  }
};

}  // namespace umblock::drbd::meta::testing
