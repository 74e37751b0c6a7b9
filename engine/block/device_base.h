// DeviceBase: what every BlockDevice keeps alike — name, owner table, observers.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/block/block_device.h"

namespace umblock {

class DeviceBase : public BlockDevice {
 public:
  DeviceBase(Reactor& reactor, std::string name) : reactor_(reactor), name_(std::move(name)) {}
  ~DeviceBase() override;

  Reactor& reactor() override { return reactor_; }
  const std::string& name() const override { return name_; }
  Result<OpenerId> Open(Opener opener) override;
  void Close(OpenerId id) override;
  std::vector<Opener> openers() const override;
  void AddObserver(BlockDeviceObserver* observer) override;
  void RemoveObserver(BlockDeviceObserver* observer) override;

  // "iscsi iqn…:disk0, fuse r0-0": for the message that refuses what openers forbid.
  std::string DescribeOpeners() const;
  bool open_for_write() const;
  bool open() const { return !openers_.empty(); }

 protected:
  void NotifyObservers();
  // Called after the table changed, for a device that reports its openers.
  virtual void OnOpenersChanged() {}

 private:
  Reactor& reactor_;
  std::string name_;
  std::map<OpenerId, Opener> openers_;
  OpenerId next_id_ = 1;
  std::vector<BlockDeviceObserver*> observers_;
};

}  // namespace umblock
