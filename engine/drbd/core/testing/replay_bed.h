// Our node in the place of a recorded one, and the scripted peer opposite, in one simulated world.
// Tests only.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/block/backends/backend.h"
#include "engine/drbd/core/resource_impl.h"
#include "engine/drbd/core/testing/recorded_peer.h"
#include "engine/drbd/core/testing/recorded_side.h"
#include "engine/runtime/sim/disk.h"
#include "engine/runtime/sim/network.h"
#include "engine/runtime/sim/node.h"
#include "engine/runtime/sim/reactor.h"
#include "engine/runtime/sim/world.h"

namespace umblock::drbd::testing {

class ReplayBed {
 public:
  // The side outlives the bed. `ours`: what our node shall offer; unset: the default.
  explicit ReplayBed(const RecordedSide& side, std::optional<LinkOffer> ours = {});
  ~ReplayBed();

  // Metadata, resource, disk, role: as the recorded node was before it connected.
  ::testing::AssertionResult Prepare();
  // Plays the steps and lets our node act on it.
  ::testing::AssertionResult Play(std::vector<RecordedStep> steps);

  // The same beyond the connect: what the recorded node began, ours begins too (promote, demote,
  // disconnect, skip the initial sync, write), one after the other.
  ::testing::AssertionResult PlayAll(std::vector<RecordedStep> steps);
  // Whether `step` is such a beginning, or one that our node is not told to make here.
  enum class Initiative { kNone, kKnown, kUnknown };
  static Initiative InitiativeOf(const RecordedStep& step, uint32_t features);
  // A proposal that our node refuses whoever makes it.
  static bool IsDeclined(const RecordedStep& step);

  SimWorld& world() { return *world_; }
  ResourceImpl& resource() { return *resource_; }
  Connection& connection() { return *resource_->connection(side_.peer); }
  PeerDevice& device() { return *resource_->volume(0)->peer(side_.peer); }
  RecordedPeer& peer() { return *peer_; }
  Reactor& reactor() { return *node_->reactor(); }
  Status Await(Task<Status> task, Duration bound = 60s);
  std::shared_ptr<std::optional<Status>> Start(Task<Status> task);
  std::string Log() const;

 private:
  Task<Status> PrepareNode();
  void Begin(const RecordedStep& step);
  bool Writing() const;
  Task<void> Act();
  Task<Status> ActOn(RecordedStep step);
  Status PatchMetadata();

  const RecordedSide& side_;
  std::unique_ptr<SimWorld> world_;
  SimNode* node_ = nullptr;
  SimNode* peer_node_ = nullptr;
  SimDisk* disk_ = nullptr;
  ResourceImpl* resource_ = nullptr;
  RecordedPeer* peer_ = nullptr;
  std::unique_ptr<Backend> backend_;
  uint64_t disk_bytes_ = 0;
  bool verbose_ = false;
  std::deque<RecordedStep> acts_;
  bool acting_ = false;
  std::string act_failure_;
};

// Differences between what was expected and what came, per socket; empty if there are none.
std::string Differences(const std::vector<SentPacket>& expected,
                        const std::vector<SentPacket>& actual);

}  // namespace umblock::drbd::testing
