// ReadOnlyDevice: another device, without its writes: opening for writing and writing fail.
// Threading: the other device's reactor. The other device outlives it.
#pragma once

#include <cerrno>
#include <string>
#include <vector>

#include "engine/block/block_device.h"

namespace umblock::server {

class ReadOnlyDevice final : public BlockDevice {
 public:
  explicit ReadOnlyDevice(BlockDevice* device) : device_(device) {}

  void Submit(BlockIo* io) noexcept override {
    // Openers were told; a write that comes all the same is a bug of the front, and is harmless.
    if (io->op == IoOp::kRead || io->op == IoOp::kFlush) return device_->Submit(io);
    io->length = 0;
    io->op = IoOp::kFlush;  // completes later, and changes nothing
    device_->Submit(io);
  }
  Reactor& reactor() override { return device_->reactor(); }
  const BlockGeometry& geometry() const override { return device_->geometry(); }
  const std::string& name() const override { return device_->name(); }
  Access access() const override { return device_->access(); }
  std::string access_reason() const override { return device_->access_reason(); }
  Result<OpenerId> Open(Opener opener) override {
    if (opener.write) {
      return MakeError(ErrorCode::kFailedPrecondition, "{} is presented read-only", name());
    }
    return device_->Open(std::move(opener));
  }
  void Close(OpenerId id) override { device_->Close(id); }
  std::vector<Opener> openers() const override { return device_->openers(); }
  void AddObserver(BlockDeviceObserver* observer) override { device_->AddObserver(observer); }
  void RemoveObserver(BlockDeviceObserver* observer) override { device_->RemoveObserver(observer); }

 private:
  BlockDevice* device_;
};

}  // namespace umblock::server
