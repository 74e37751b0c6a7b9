// FakeReplica: a replica that keeps two disks equal by magic (it calls the other node directly and
// remembers what is out of sync in a place that no crash reaches), and can be given a fault. It
// proves that the cluster simulator lets a correct replica pass and catches wrong ones.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "engine/block/device_base.h"
#include "engine/runtime/file.h"
#include "sim/replica.h"

namespace umblock::sim {

enum class FakeBug : uint8_t {
  kNone,
  kAcksBeforeThePeerHasIt,
  kIgnoresFlushAndFua,
  kLosesAWakeup,
  kAllowsTwoPrimaries,
  kReadsTheOtherDisk,
  kForgetsWhatIsOutOfSync,
  kTearsPeerWrites,
  kAppliesOutOfOrder,
};

class FakeReplica;

// What the two replicas of one run share.
struct FakeWorld {
  explicit FakeWorld(FakeBug which) : bug(which) {}
  FakeBug bug;
  std::array<FakeReplica*, 2> live{};
  std::set<uint64_t> out_of_sync;  // 4 KiB blocks
  int newest = 0;                  // whose content is right where they differ
  bool connected = false;
  uint64_t session = 0;  // counts connections
  uint64_t requests = 0;
};

class FakeReplica final : public Replica, public DeviceBase {
 public:
  FakeReplica(std::shared_ptr<FakeWorld> shared, SimNode& node, const ReplicaSetup& setup,
              std::function<void()> on_change);

  // A factory for one run. `shared` lives as long as the run.
  static ReplicaFactory Factory(std::shared_ptr<FakeWorld> shared);

  Task<Status> Format() override { co_return Ok(); }
  Task<Status> Start() override;
  Task<void> Stop() override;
  ReplicaState state() override;
  BlockDevice* device() override { return this; }
  Task<Status> Promote(bool force) override;
  Task<Status> Demote() override;
  Task<Status> Connect(bool discard_my_data) override;
  Task<Status> Disconnect() override;
  Task<Status> Attach() override { co_return Ok(); }
  Task<Status> Detach() override { co_return Ok(); }
  Task<Status> SkipInitialSync() override { co_return Ok(); }

  void Submit(BlockIo* io) noexcept override;
  const BlockGeometry& geometry() const override { return geometry_; }
  Access access() const override { return primary_ ? Access::kReadWrite : Access::kStandby; }
  std::string access_reason() const override { return primary_ ? "" : "not primary"; }

 private:
  Task<void> Serve();
  Task<void> Watch();
  Task<void> ServeRead(BlockIo* io);
  Task<void> ServeWrite(BlockIo* io);
  Task<void> ServeFlush(BlockIo* io);
  Task<int> WriteBoth(uint64_t offset, std::vector<std::byte> data, bool durable);
  Task<void> WriteHere(uint64_t offset, std::shared_ptr<std::vector<std::byte>> data, bool durable,
                       std::shared_ptr<bool> done);
  void Mark(uint64_t offset, uint64_t length, bool out);
  void UpdateConnection();
  void Resync();
  FakeReplica* peer() const { return shared_->live[static_cast<size_t>(1 - setup_.node)]; }
  bool up_to_date() const { return shared_->out_of_sync.empty() || shared_->newest == setup_.node; }

  std::shared_ptr<FakeWorld> shared_;
  SimNode& node_;
  SimIncarnation* incarnation_;
  ReplicaSetup setup_;
  std::function<void()> on_change_;
  BlockGeometry geometry_;
  std::unique_ptr<File> file_;
  bool primary_ = false;
  bool wants_connection_ = false;
  bool stopping_ = false;
  int writing_ = 0;
  std::deque<BlockIo*> queue_;
  WaitQueue changed_;
  TaskGroup tasks_;
};

}  // namespace umblock::sim
