// DeadlineDevice: a device below which requests may hang. Whoever uses it gets an answer all the
// same: when a request takes longer than the limit, the owner is told, and Abort answers everything
// that is under way with ETIMEDOUT, and everything that comes later.
//
// The device below may go on with what was aborted, so nothing below ever refers to memory of a
// caller: payload passes through buffers of this layer's own, and a late end touches those only.
// That costs a copy of each read and write. A timed-out write may still reach the medium, later.
// Life cycle: made by Make, given up by Release, which may be called while aborted requests are
// below: the object stays until the last of them has come back. The device below outlives that.
// Threading: one reactor.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "engine/block/device_base.h"
#include "engine/block/done_queue.h"
#include "engine/runtime/timer.h"

namespace umblock {

class DeadlineDevice final : public DeviceBase, private BlockDeviceObserver {
 public:
  // Called once, when the oldest request is older than the limit.
  class Owner {
   public:
    virtual ~Owner() = default;
    virtual void OnDeadline(IoOp op, Duration age) = 0;
  };

  // What is answered here and has not come back is counted below, in BlockDevice::adrift.
  static DeadlineDevice* Make(BlockDevice& below, Duration limit, Owner* owner);
  // The owner is called no more, and nobody submits any more. What is under way and not aborted is
  // aborted.
  void Release();

  void Abort();

  void Submit(BlockIo* io) noexcept override;
  const BlockGeometry& geometry() const override { return below_.geometry(); }
  Access access() const override { return below_.access(); }
  std::string access_reason() const override { return below_.access_reason(); }

 private:
  struct FreeMemory {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  struct Passage : BlockIo {
    explicit Passage(DeadlineDevice* d) : BlockIo(&Done), device(d) {}
    static void Done(BlockIo* self, int error) noexcept;

    DeadlineDevice* device;
    BlockIo* original = nullptr;  // null: it has been answered
    bool below_has_it = false;
    Time since{};
    iovec part{};
    std::unique_ptr<std::byte, FreeMemory> memory;  // aligned to 4096
    size_t capacity = 0;
    Passage* older = nullptr;  // in the order of submission
    Passage* newer = nullptr;
  };

  DeadlineDevice(BlockDevice& below, Duration limit, Owner* owner);
  ~DeadlineDevice() override;

  void OnDeviceChanged() override { NotifyObservers(); }
  void OnTimer();
  Passage* Take(BlockIo* io);
  void Give(Passage* passage);
  void Link(Passage* passage);
  void Unlink(Passage* passage);
  void ArmWatch();
  void DeleteIfOver();

  BlockDevice& below_;
  const Duration limit_;
  Owner* owner_;
  std::vector<std::unique_ptr<Passage>> all_;
  std::vector<Passage*> free_;
  Passage* oldest_ = nullptr;
  Passage* newest_ = nullptr;
  bool aborted_ = false;
  bool told_ = false;
  bool released_ = false;
  DoneQueue refused_;
  struct Watch : Timer {
    explicit Watch(DeadlineDevice* d);
    DeadlineDevice* device;
  } watch_;
};

}  // namespace umblock
