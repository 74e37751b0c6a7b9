// AlWatch: sees the activity log of one node from below, as the writes that reach its disk.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/drbd/meta/geometry.h"
#include "engine/runtime/sim/disk.h"
#include "sim/coverage.h"

namespace umblock::sim {

class AlWatch {
 public:
  AlWatch(SimDisk& disk, bool external, Coverage& coverage);
  // The disk is used up to here, and internal metadata lies at the end of that.
  void Follow(uint64_t bytes);

  // Called when a write of a transaction has been started.
  void SetHandler(std::function<void()> on_write) { on_write_ = std::move(on_write); }
  uint64_t transactions() const { return transactions_; }
  const drbd::meta::Geometry& geometry() const { return geometry_; }

 private:
  void OnDisk(const SimDiskEvent& event);
  void OnTransactionWritten(uint64_t offset);

  SimDisk& disk_;
  const bool external_;
  uint64_t bytes_ = 0;
  Coverage& coverage_;
  drbd::meta::Geometry geometry_;
  std::function<void()> on_write_;
  std::vector<uint32_t> slots_;  // extent in each slot of the log, as far as seen
  uint64_t transactions_ = 0;
};

}  // namespace umblock::sim
