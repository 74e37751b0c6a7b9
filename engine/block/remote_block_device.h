// RemoteBlockDevice: makes a device usable from another reactor than its own.
//
// It is a BlockDevice of the caller's reactor. Requests of one turn travel together, and so do
// completions (engine/runtime/channel.h); a warm proxy allocates nothing per request. Payloads do
// not move: the device works on the caller's memory. Geometry and access are copies, which follow
// the device's changes within a message; observers hear of them here.
//
// The owner table is the proxy's own and is mirrored into the device's, so that the device knows
// who uses it from elsewhere. Open looks at the copied access: if the device has just changed, the
// opener holds a device whose I/O fails and whose access says why, until the change arrives.
//
// Life cycle: Create and Stop on the caller's reactor. Before Stop, openers and observers of the
// proxy have gone. The device outlives the proxy.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/block/device_base.h"
#include "engine/block/done_queue.h"
#include "engine/runtime/channel.h"
#include "engine/runtime/sync.h"

namespace umblock {

class RemoteBlockDevice final : public DeviceBase {
 public:
  static Task<std::unique_ptr<RemoteBlockDevice>> Create(Reactor& local, BlockDevice& device);
  ~RemoteBlockDevice() override;

  // Awaits what is in flight and lets go of the device. Later requests end with ENODEV.
  Task<void> Stop();

  void Submit(BlockIo* io) noexcept override;
  const BlockGeometry& geometry() const override { return here_.geometry; }
  Access access() const override { return here_.access; }
  std::string access_reason() const override { return here_.reason; }
  Result<OpenerId> Open(Opener opener) override;
  void Close(OpenerId id) override;

 private:
  struct Snapshot {
    BlockGeometry geometry;
    Access access = Access::kUnavailable;
    std::string reason;
  };
  // A request on its way: a BlockIo for the device, a message for the channels.
  struct RemoteIo : BlockIo, Completion {
    explicit RemoteIo(RemoteBlockDevice* p);
    RemoteBlockDevice* proxy;
    BlockIo* original = nullptr;
    RemoteIo* next_free = nullptr;
  };
  // An entry of the owner table, mirrored.
  struct Mirror {
    struct Message : Completion {
      Message(Fn function, Mirror* m) : Completion(function), mirror(m) {}
      Mirror* mirror;
    };
    Mirror(RemoteBlockDevice* p, Opener o);
    RemoteBlockDevice* proxy;
    Opener opener;
    OpenerId id = 0;         // the proxy's
    OpenerId device_id = 0;  // the device's; 0: it refused. Of the device's reactor
    Message open, close, closed;
  };
  // Lives on the device's reactor.
  struct Watcher final : BlockDeviceObserver {
    explicit Watcher(RemoteBlockDevice* p) : proxy(p) {}
    void OnDeviceChanged() override;
    RemoteBlockDevice* proxy;
    bool sending = false;  // the snapshot is with the other side
    bool dirty = false;    // and is out of date
  };
  struct SnapshotMessage : Completion {
    SnapshotMessage(Fn function, RemoteBlockDevice* p) : Completion(function), proxy(p) {}
    RemoteBlockDevice* proxy;
  };

  RemoteBlockDevice(Reactor& local, BlockDevice& device);

  RemoteIo* TakeIo();
  static void OnThere(Completion* message, int32_t result) noexcept;
  static void OnDeviceDone(BlockIo* io, int error) noexcept;
  static void OnBack(Completion* message, int32_t result) noexcept;
  static void OnOpenThere(Completion* message, int32_t result) noexcept;
  static void OnCloseThere(Completion* message, int32_t result) noexcept;
  static void OnClosedBack(Completion* message, int32_t result) noexcept;
  Snapshot Look();
  void SnapshotArrived();
  void SnapshotTaken();
  void CheckIdle();

  BlockDevice& device_;
  Channel there_;
  Channel back_;
  DoneQueue refused_;

  // Of the caller's reactor.
  Snapshot here_;
  std::vector<std::unique_ptr<RemoteIo>> ios_;
  RemoteIo* free_ = nullptr;
  uint64_t in_flight_ = 0;  // requests and mirrored entries on their way out
  std::map<OpenerId, std::unique_ptr<Mirror>> mirrors_;
  bool stopping_ = false;
  bool stopped_ = false;
  WaitQueue idle_;

  // Of the device's reactor, except while the snapshot is sent.
  Watcher watcher_{this};
  Snapshot travelling_;
  SnapshotMessage snapshot_arrived_;
  SnapshotMessage snapshot_taken_;
};

}  // namespace umblock
