// disk-timeout (drbd-io-path.md F.8, A.12): a disk that does not answer has failed.
#include "engine/drbd/core/resource_impl.h"
#include "engine/drbd/core/volume.h"

namespace umblock::drbd {

Task<Status> Volume::OpenDisk(AttachRequest request) {
  UMBLOCK_CO_TRY(CheckAdrift(request.backing));
  UMBLOCK_CO_TRY(CheckAdrift(request.metadata));
  request.backing = Guard(request.backing);
  request.metadata = Guard(request.metadata);
  Status opened = co_await OpenGuarded(request);
  if (!opened) ReleaseGuards();
  co_return opened;
}

// What timed out may still reach the disk: on top of what is written to it after an attach.
Status Volume::CheckAdrift(const BlockDevice* device) const {
  if (device == nullptr || device->adrift == 0) return Ok();
  return MakeError(ErrorCode::kFailedPrecondition,
                   "{}: {} requests that timed out have not come back from {}, and may still be "
                   "carried out; attach it again when they have, or attach another disk",
                   name(), device->adrift, device->name());
}

BlockDevice* Volume::Guard(BlockDevice* device) {
  if (device == nullptr || config_.disk.disk_timeout == 0s) return device;
  guards_.push_back(DeadlineDevice::Make(*device, config_.disk.disk_timeout, this));
  return guards_.back();
}

void Volume::ReleaseGuards() {
  for (DeadlineDevice* guard : std::exchange(guards_, {})) guard->Release();
}

// The disk first: what is aborted then ends as on a disk that has failed.
void Volume::OnDeadline(IoOp op, Duration age) {
  static constexpr const char* kNames[] = {"read", "write", "flush", "discard", "write zeroes"};
  ++counters_.disk_timeouts;
  const auto seconds = [](Duration d) { return std::chrono::duration<double>(d).count(); };
  std::string reason =
      fmt::format("disk-timeout: {} has not answered a {} for {:.1f} s (the limit is {:.1f} s)",
                  guards_.front()->name(), kNames[static_cast<int>(op)], seconds(age),
                  seconds(config_.disk.disk_timeout));
  resource_.logger().Error(
      "{}: {}; the disk is given up, and what was under way may still reach it", name(), reason);
  resource_.FailDisk(*this, std::move(reason), true);
  // With the last request that it waited for a detach ends, and the guards go with the disk.
  for (size_t i = 0; i < guards_.size(); ++i) guards_[i]->Abort();
}

}  // namespace umblock::drbd
