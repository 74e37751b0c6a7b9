// Backings: what a front presents, whichever kind it is. Threading: the node's reactor.
#pragma once

#include <string>

#include "server/backend_manager.h"
#include "server/resource_manager.h"

namespace umblock::server {

class Backings {
 public:
  Backings(BackendManager* backends, ResourceManager* resources)
      : backends_(backends), resources_(resources) {}

  // Keeps it from being deleted; `user` is "lun iqn…/0" or "export r0-0".
  Status Claim(const v1::Backing& backing, const std::string& user) {
    return backing.has_volume() ? resources_->ClaimVolume(backing.volume(), user)
                                : backends_->Claim(backing.backend(), user, false);
  }
  void Release(const v1::Backing& backing, const std::string& user) {
    if (backing.has_volume()) {
      resources_->ReleaseVolume(backing.volume(), user);
    } else {
      backends_->Release(backing.backend(), user);
    }
  }
  Result<BlockDevice*> Device(const v1::Backing& backing) const {
    return backing.has_volume() ? resources_->VolumeDevice(backing.volume())
                                : backends_->Device(backing.backend());
  }

 private:
  BackendManager* backends_;
  ResourceManager* resources_;
};

// How a front looks from outside: usable now, or why not.
struct FrontState {
  bool ready = false;
  std::string reason;
  uint64_t size = 0;  // bytes
};
inline FrontState FrontStateOf(const Result<BlockDevice*>& device, const std::string& problem) {
  FrontState state;
  if (!problem.empty()) {
    state.reason = problem;
  } else if (!device) {
    state.reason = device.error().message();
  } else {
    state.size = (*device)->geometry().size;
    state.ready = (*device)->access() == Access::kReadWrite;
    state.reason = (*device)->access_reason();
  }
  return state;
}

}  // namespace umblock::server
