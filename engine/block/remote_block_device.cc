#include "engine/block/remote_block_device.h"

#include <cerrno>

#include "engine/base/assert.h"

namespace umblock {

RemoteBlockDevice::RemoteIo::RemoteIo(RemoteBlockDevice* p)
    : BlockIo(&OnDeviceDone), Completion(&OnThere), proxy(p) {}

RemoteBlockDevice::Mirror::Mirror(RemoteBlockDevice* p, Opener o)
    : proxy(p),
      opener(std::move(o)),
      open(&OnOpenThere, this),
      close(&OnCloseThere, this),
      closed(&OnClosedBack, this) {}

RemoteBlockDevice::RemoteBlockDevice(Reactor& local, BlockDevice& device)
    : DeviceBase(local, device.name()),
      device_(device),
      there_(local, device.reactor()),
      back_(device.reactor(), local),
      refused_(local),
      idle_(local),
      snapshot_arrived_(
          [](Completion* self, int32_t) noexcept {
            static_cast<SnapshotMessage*>(self)->proxy->SnapshotArrived();
          },
          this),
      snapshot_taken_(
          [](Completion* self, int32_t) noexcept {
            static_cast<SnapshotMessage*>(self)->proxy->SnapshotTaken();
          },
          this) {}

RemoteBlockDevice::~RemoteBlockDevice() {
  UMBLOCK_ASSERT(stopped_, "a remote device is stopped before it goes");
}

Task<std::unique_ptr<RemoteBlockDevice>> RemoteBlockDevice::Create(Reactor& local,
                                                                   BlockDevice& device) {
  std::unique_ptr<RemoteBlockDevice> proxy(new RemoteBlockDevice(local, device));
  co_await proxy->there_.Cross();
  Snapshot snapshot = proxy->Look();
  device.AddObserver(&proxy->watcher_);
  co_await proxy->back_.Cross();
  proxy->here_ = std::move(snapshot);
  co_return proxy;
}

Task<void> RemoteBlockDevice::Stop() {
  UMBLOCK_ASSERT(!open(), "a remote device is closed by everybody before it stops");
  stopping_ = true;
  while (in_flight_ != 0) co_await idle_.Wait();
  co_await there_.Cross();
  device_.RemoveObserver(&watcher_);
  watcher_.dirty = false;
  // A snapshot may be on its way here, and then its receipt on its way there: both have arrived
  // when this has followed them.
  co_await back_.Cross();
  co_await there_.Cross();
  co_await back_.Cross();
  co_await reactor().Yield();  // out of the channel, which may go now
  stopped_ = true;
}

RemoteBlockDevice::RemoteIo* RemoteBlockDevice::TakeIo() {
  if (free_ == nullptr) {
    ios_.push_back(std::make_unique<RemoteIo>(this));
    return ios_.back().get();
  }
  RemoteIo* io = free_;
  free_ = io->next_free;
  return io;
}

void RemoteBlockDevice::Submit(BlockIo* io) noexcept {
  if (stopping_) return refused_.Push(io, ENODEV);
  RemoteIo* remote = TakeIo();
  remote->original = io;
  remote->op = io->op;
  remote->fua = io->fua;
  remote->may_unmap = io->may_unmap;
  remote->offset = io->offset;
  remote->length = io->length;
  remote->iov = io->iov;
  ++in_flight_;
  remote->Completion::fn = &OnThere;
  there_.Send(remote);
}

void RemoteBlockDevice::OnThere(Completion* message, int32_t) noexcept {
  auto* io = static_cast<RemoteIo*>(message);
  io->proxy->device_.Submit(io);
}

void RemoteBlockDevice::OnDeviceDone(BlockIo* block_io, int error) noexcept {
  auto* io = static_cast<RemoteIo*>(block_io);
  io->Completion::fn = &OnBack;
  io->proxy->back_.Send(io, error);
}

void RemoteBlockDevice::OnBack(Completion* message, int32_t error) noexcept {
  auto* io = static_cast<RemoteIo*>(message);
  RemoteBlockDevice* proxy = io->proxy;
  BlockIo* original = io->original;
  io->next_free = proxy->free_;
  proxy->free_ = io;
  --proxy->in_flight_;
  proxy->CheckIdle();
  original->done(original, error);
}

void RemoteBlockDevice::CheckIdle() {
  if (stopping_ && in_flight_ == 0) idle_.NotifyAll();
}

Result<OpenerId> RemoteBlockDevice::Open(Opener opener) {
  if (stopping_) {
    return MakeError(ErrorCode::kFailedPrecondition, "{} cannot be opened: it is going away",
                     name());
  }
  auto id = DeviceBase::Open(opener);
  if (!id) return id;
  auto mirror = std::make_unique<Mirror>(this, std::move(opener));
  mirror->id = *id;
  there_.Send(&mirror->open);
  mirrors_.emplace(*id, std::move(mirror));
  return id;
}

void RemoteBlockDevice::OnOpenThere(Completion* message, int32_t) noexcept {
  Mirror* mirror = static_cast<Mirror::Message*>(message)->mirror;
  BlockDevice& device = mirror->proxy->device_;
  auto id = device.Open(mirror->opener);
  if (id) {
    mirror->device_id = *id;
  } else {
    device.reactor().logger().Warn("{}: {} opened it as it changed: {}", device.name(),
                                   mirror->opener.description, id.error().message());
  }
}

void RemoteBlockDevice::Close(OpenerId id) {
  DeviceBase::Close(id);
  ++in_flight_;
  there_.Send(&mirrors_.at(id)->close);
}

void RemoteBlockDevice::OnCloseThere(Completion* message, int32_t) noexcept {
  Mirror* mirror = static_cast<Mirror::Message*>(message)->mirror;
  if (mirror->device_id != 0) mirror->proxy->device_.Close(mirror->device_id);
  mirror->proxy->back_.Send(&mirror->closed);
}

void RemoteBlockDevice::OnClosedBack(Completion* message, int32_t) noexcept {
  Mirror* mirror = static_cast<Mirror::Message*>(message)->mirror;
  RemoteBlockDevice* proxy = mirror->proxy;
  proxy->mirrors_.erase(mirror->id);
  --proxy->in_flight_;
  proxy->CheckIdle();
}

RemoteBlockDevice::Snapshot RemoteBlockDevice::Look() {
  return {device_.geometry(), device_.access(), device_.access_reason()};
}

// On the device's reactor.
void RemoteBlockDevice::Watcher::OnDeviceChanged() {
  if (sending) {
    dirty = true;
    return;
  }
  sending = true;
  proxy->travelling_ = proxy->Look();
  proxy->back_.Send(&proxy->snapshot_arrived_);
}

// On the caller's reactor.
void RemoteBlockDevice::SnapshotArrived() {
  here_ = std::move(travelling_);
  there_.Send(&snapshot_taken_);
  NotifyObservers();
}

// On the device's reactor.
void RemoteBlockDevice::SnapshotTaken() {
  watcher_.sending = false;
  if (!watcher_.dirty) return;
  watcher_.dirty = false;
  watcher_.OnDeviceChanged();
}

}  // namespace umblock
