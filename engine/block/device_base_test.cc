#include "engine/block/device_base.h"

#include <gtest/gtest.h>

#include <memory>

#include "engine/runtime/testing/loop_reactor.h"

namespace umblock {
namespace {

class PlainDevice final : public DeviceBase {
 public:
  explicit PlainDevice(Reactor& reactor) : DeviceBase(reactor, "volume r0/0") {}
  void Submit(BlockIo*) noexcept override {}
  const BlockGeometry& geometry() const override { return geometry_; }
  Access access() const override { return access_; }
  std::string access_reason() const override { return "it is Secondary"; }
  void Set(Access access) {
    access_ = access;
    NotifyObservers();
  }

 private:
  BlockGeometry geometry_;
  Access access_ = Access::kReadWrite;
};

TEST(DeviceBaseTest, KeepsWhoHasItOpen) {
  LoopReactor reactor;
  PlainDevice device(reactor);
  auto reader = device.Open({"fuse r0-0", false});
  ASSERT_TRUE(reader);
  EXPECT_FALSE(device.open_for_write());
  auto writer = device.Open({"iscsi disk0", true});
  ASSERT_TRUE(writer);
  EXPECT_TRUE(device.open_for_write());
  EXPECT_EQ(device.DescribeOpeners(), "fuse r0-0, iscsi disk0");
  EXPECT_EQ(device.openers().size(), 2u);
  device.Close(*writer);
  EXPECT_FALSE(device.open_for_write());
  device.Close(*reader);
  EXPECT_FALSE(device.open());
}

TEST(DeviceBaseTest, RefusesToOpenWhatCannotBeUsedAndSaysWhy) {
  LoopReactor reactor;
  PlainDevice device(reactor);
  device.Set(Access::kStandby);
  auto refused = device.Open({"fuse", false});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::kFailedPrecondition);
  EXPECT_EQ(refused.error().message(), "volume r0/0 cannot be opened: it is Secondary");
}

TEST(DeviceBaseTest, AnObserverMayRemoveAnotherWhileItIsTold) {
  struct Observer : BlockDeviceObserver {
    void OnDeviceChanged() override {
      ++changes;
      if (victim != nullptr) device->RemoveObserver(std::exchange(victim, nullptr));
    }
    int changes = 0;
    PlainDevice* device = nullptr;
    BlockDeviceObserver* victim = nullptr;
  };
  LoopReactor reactor;
  PlainDevice device(reactor);
  Observer a, b;
  a.device = &device;
  a.victim = &b;
  device.AddObserver(&a);
  device.AddObserver(&b);
  device.Set(Access::kUnavailable);
  EXPECT_EQ(a.changes, 1);
  EXPECT_EQ(b.changes, 0);
  device.RemoveObserver(&a);
}

}  // namespace
}  // namespace umblock
