// Workload: an application on the primary. A few workers issue overlapping reads, writes, flushes,
// discards and write-zeroes through a BlockDevice, and tell History before and after each. Now and
// then one writes to more places at once than the activity log has extents, so that requests wait
// for extents.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/block/block_device.h"
#include "engine/runtime/sim/reactor.h"
#include "sim/history.h"

namespace umblock::sim {

struct WorkloadOptions {
  uint64_t volume_bytes = 0;
  int workers = 4;
  Duration mean_pause = 5ms;  // of one worker between two operations
  uint64_t max_write_sectors = 128;
  uint64_t hot_sectors = 512;  // the size of the region that half of the operations hit
  uint32_t read_permille = 250;
  uint32_t flush_permille = 30;
  uint32_t fua_permille = 60;
  uint32_t zero_permille = 30;  // discards and write-zeroes
  bool follows_size = false;    // of the device, where that grows
  uint32_t sweep_permille = 4;  // one sector in each of many extents of the activity log, at once
};

struct WorkloadCounts {
  uint64_t reads = 0, writes = 0, flushes = 0, zeroes = 0, sweeps = 0, errors = 0;
};

class Workload {
 public:
  Workload(SimWorld& world, History& history, const WorkloadOptions& options);

  // On the primary's reactor.
  void Start(SimReactor& reactor, BlockDevice& device, uint32_t node);
  // No new operations; idle() once the last one has ended.
  void Stop();
  bool running() const { return session_ != nullptr && !session_->stop; }
  bool idle() const { return session_ == nullptr || session_->workers == 0; }
  // A resync is at this sector now: some of the operations of the next moments go there.
  void Focus(uint64_t sector);
  // The node is gone, and its workers with it.
  void OnCrash() { session_.reset(); }

  const WorkloadCounts& counts() const { return counts_; }
  // Writes that have ended, in whatever way.
  uint64_t writes_ended() const { return writes_ended_; }
  // The operation that has been waiting longest: its age, and what it is.
  Duration OldestAge() const;
  std::string DescribeOldest() const;

 private:
  struct Session {
    SimReactor* reactor;
    BlockDevice* device;
    uint32_t node;
    bool stop = false;
    int workers = 0;
  };
  struct Range {
    uint64_t sector;
    uint64_t count;
  };
  struct Slot {  // what a worker does now
    bool busy = false;
    SimTime since{};
    std::string what;
  };

  Task<void> Worker(std::shared_ptr<Session> session, size_t index);
  Task<void> OneOperation(Session& session, size_t index, std::vector<std::byte>& buffer);
  Task<void> DoRead(Session& session, Range range, std::byte* buffer);
  Task<void> DoWrite(Session& session, Range range, std::byte* buffer, bool fua);
  Task<void> DoZero(Session& session, Range range, bool discard);
  Task<void> DoFlush(Session& session);
  Task<void> DoSweep(Session& session, uint64_t first_extent, uint64_t extents, std::byte* buffer);
  uint64_t Sectors() const;
  Range PickRange(uint64_t max_sectors);
  Range AlignToDiscard(Session& session, Range range);
  std::vector<iovec> Scatter(std::byte* buffer, uint64_t bytes);
  void Begin(size_t index, std::string what);

  SimWorld& world_;
  History& history_;
  const WorkloadOptions options_;
  SimRandom random_;
  std::array<uint64_t, 6> warm_;
  uint64_t focus_ = 0;
  SimTime focus_until_{};
  std::shared_ptr<Session> session_;
  std::vector<Slot> slots_;
  WorkloadCounts counts_;
  uint64_t writes_ended_ = 0;
};

}  // namespace umblock::sim
