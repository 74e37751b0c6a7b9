// ResourceReplica: a drbd::Resource on simulated disks, as the cluster simulator drives it.
#pragma once

#include <functional>
#include <memory>

#include "engine/block/backends/backend.h"
#include "engine/drbd/resource.h"
#include "sim/fence_runner.h"
#include "sim/replica.h"

namespace umblock::sim {

class ResourceReplica final : public Replica, public drbd::ResourceObserver {
 public:
  ResourceReplica(SimNode& node, const ReplicaSetup& setup, std::function<void()> on_change);
  static ReplicaFactory Factory();

  Task<Status> Format() override;
  Task<Status> Start() override;
  Task<void> Stop() override;
  ReplicaState state() override;
  BlockDevice* device() override { return resource_->volume(kVolume); }
  Task<Status> Promote(bool force) override { return resource_->Promote(force); }
  Task<Status> Demote() override { return resource_->Demote(false); }
  Task<Status> Connect(bool discard_my_data) override {
    return resource_->Connect(peer_, {.discard_my_data = discard_my_data});
  }
  Task<Status> Disconnect() override { return resource_->Disconnect(peer_, false); }
  Task<Status> Attach() override;
  Task<Status> Detach() override { return resource_->Detach(kVolume, false); }
  Task<Status> SkipInitialSync() override { return resource_->NewCurrentUuid(kVolume, true); }
  Task<Status> StartVerify(uint64_t start, uint64_t stop) override {
    return resource_->StartVerify(kVolume, peer_, {.start = start, .stop = stop});
  }
  Task<Status> StopVerify() override { return resource_->StopVerify(kVolume, peer_); }
  Task<Status> GrowDisk(uint64_t bytes) override { return data_->Grow(bytes); }
  Task<Status> Resize() override { return resource_->Resize(kVolume, {}); }
  Task<Status> Invalidate(bool remote) override {
    return remote ? resource_->InvalidateRemote(kVolume, peer_)
                  : resource_->Invalidate(kVolume, peer_);
  }
  Task<Status> PauseSync(bool pause) override {
    return pause ? resource_->PauseSync(kVolume, peer_) : resource_->ResumeSync(kVolume, peer_);
  }
  Task<Status> SuspendIo(bool suspend) override {
    return suspend ? resource_->SuspendIo() : resource_->ResumeIo();
  }
  Task<Status> Outdate() override { return resource_->Outdate(kVolume); }
  Task<Status> UpdateNet(drbd::NetOptions net) override {
    return resource_->UpdateNetOptions(peer_, net);
  }

 private:
  static constexpr int kVolume = 0;

  void OnStateChange(const std::vector<drbd::StateEvent>& events) override;
  Task<Status> OpenDisks();

  Reactor& reactor_;
  const ReplicaSetup setup_;
  const int peer_;
  std::function<void()> on_change_;
  std::unique_ptr<FenceRunner> programs_;
  std::unique_ptr<Backend> data_;
  std::unique_ptr<Backend> metadata_;
  std::unique_ptr<drbd::Resource> resource_;
};

}  // namespace umblock::sim
