#include "engine/block/remote_block_device.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "engine/block/backends/ram_backend.h"
#include "engine/block/layers/fault_device.h"
#include "engine/runtime/testing/heap_memory.h"
#include "engine/runtime/uring/reactor_thread.h"

namespace umblock {
namespace {

// A device whose access, size and openers the test sees and sets, on its own reactor.
class SettableDevice final : public DeviceBase {
 public:
  explicit SettableDevice(Reactor& reactor) : DeviceBase(reactor, "volume r0/0") {
    geometry_.size = 1 << 20;
  }
  void Submit(BlockIo* io) noexcept override { io->done(io, EROFS); }
  const BlockGeometry& geometry() const override { return geometry_; }
  Access access() const override { return access_; }
  std::string access_reason() const override { return reason_; }
  void Set(Access access, uint64_t size, std::string reason) {
    access_ = access;
    geometry_.size = size;
    reason_ = std::move(reason);
    NotifyObservers();
  }

 private:
  BlockGeometry geometry_;
  Access access_ = Access::kReadWrite;
  std::string reason_;
};

class RemoteBlockDeviceTest : public testing::Test {
 protected:
  RemoteBlockDeviceTest() : here_(*ReactorThread::Start({})), there_(*ReactorThread::Start({})) {}

  std::unique_ptr<RemoteBlockDevice> Create(BlockDevice& device) {
    return here_->RunTask([&] { return RemoteBlockDevice::Create(here_->reactor(), device); });
  }
  void Stop(RemoteBlockDevice& remote) {
    here_->RunTask([&] { return remote.Stop(); });
  }

  std::unique_ptr<ReactorThread> here_;
  std::unique_ptr<ReactorThread> there_;
};

// One of several that write and read sectors nobody else uses at the moment, and remember them.
constexpr uint64_t kSectors = 512;

struct Model {
  std::vector<uint32_t> values = std::vector<uint32_t>(kSectors, 0);  // first word of each sector
  std::vector<bool> busy = std::vector<bool>(kSectors, false);
};

Task<void> RandomOps(RemoteBlockDevice* device, Model* model, uint32_t seed, std::thread::id self) {
  std::minstd_rand random(seed);
  std::vector<std::byte> memory(16 * 512);
  for (int i = 0; i < 400; ++i) {
    uint64_t count = 1 + random() % 16;
    uint64_t first = random() % (kSectors - count);
    bool free = true;
    for (uint64_t s = first; s < first + count; ++s) free &= !model->busy[s];
    if (!free) {
      co_await device->reactor().Yield();
      continue;
    }
    for (uint64_t s = first; s < first + count; ++s) model->busy[s] = true;
    iovec iov[2] = {{memory.data(), 512}, {memory.data() + 512, (count - 1) * 512}};
    std::span<const iovec> parts(iov, count > 1 ? 2 : 1);
    auto word = [&memory, first](uint64_t sector) { return &memory[(sector - first) * 512]; };
    uint32_t kind = random() % 4;
    int error = 0;
    if (kind == 0) {
      error = co_await device->Read(first * 512, parts);
      for (uint64_t s = first; s < first + count; ++s) {
        EXPECT_EQ(LoadLe<uint32_t>(word(s)), model->values[s]);
      }
    } else if (kind == 1) {
      error = co_await device->WriteZeroes(first * 512, count * 512, true);
      for (uint64_t s = first; s < first + count; ++s) model->values[s] = 0;
    } else {
      for (uint64_t s = first; s < first + count; ++s) {
        model->values[s] = static_cast<uint32_t>(random());
        StoreLe(word(s), model->values[s]);
      }
      error = co_await device->Write(first * 512, parts, kind == 2);
    }
    EXPECT_EQ(error, 0);
    EXPECT_EQ(std::this_thread::get_id(), self) << "completions come back to the caller's reactor";
    for (uint64_t s = first; s < first + count; ++s) model->busy[s] = false;
  }
}

TEST_F(RemoteBlockDeviceTest, RandomRequestsFromAnotherReactorMatchTheModel) {
  RamBackend ram(there_->reactor(), "ram", std::make_unique<HeapMemory>(kSectors * 512));
  auto faulty = there_->RunTask([&]() -> Task<std::unique_ptr<FaultDevice>> {
    auto device = std::make_unique<FaultDevice>(ram, 3);
    device->AddRule({.action = FaultRule::Action::kDelay, .per_mille = 50, .delay = 100us});
    co_return std::move(device);
  });
  auto remote = Create(*faulty);
  EXPECT_EQ(remote->geometry(), ram.geometry());
  here_->RunTask([&]() -> Task<void> {
    Model model;
    TaskGroup group(here_->reactor());
    std::thread::id self = std::this_thread::get_id();
    for (uint32_t seed = 1; seed <= 16; ++seed) {
      group.Spawn(RandomOps(remote.get(), &model, seed, self));
    }
    co_await group.Join();
    std::vector<std::byte> all(kSectors * 512);
    iovec iov{all.data(), all.size()};
    EXPECT_EQ(co_await remote->Read(0, {&iov, 1}), 0);
    for (uint64_t s = 0; s < kSectors; ++s) {
      EXPECT_EQ(LoadLe<uint32_t>(&all[s * 512]), model.values[s]) << s;
    }
    EXPECT_EQ(co_await remote->Flush(), 0);
  });
  Stop(*remote);
  there_->RunTask([&]() -> Task<void> {
    faulty.reset();
    co_await ram.Stop();
  });
}

TEST_F(RemoteBlockDeviceTest, ATurnsRequestsTravelTogether) {
  RamBackend ram(there_->reactor(), "ram", std::make_unique<HeapMemory>(1 << 20));
  auto remote = Create(ram);
  uint64_t before = there_->counters().messages;
  here_->RunTask([&]() -> Task<void> {
    struct Counted : BlockIo {
      Counted()
          : BlockIo([](BlockIo* self, int error) noexcept {
              EXPECT_EQ(error, 0);
              --*static_cast<Counted*>(self)->left;
            }) {}
      int* left = nullptr;
    };
    constexpr int kRequests = 100;
    std::vector<Counted> ios(kRequests);
    int left = kRequests;
    for (Counted& io : ios) {
      io.left = &left;
      io.op = IoOp::kFlush;
      remote->Submit(&io);
    }
    EXPECT_EQ(left, kRequests);
    while (left > 0) co_await Sleep(here_->reactor(), 10us);
  });
  EXPECT_LE(there_->counters().messages - before, 2u) << "one for the requests, one for the count";
  Stop(*remote);
  there_->RunTask([&] { return ram.Stop(); });
}

TEST_F(RemoteBlockDeviceTest, ChangesOfTheDeviceArriveAndErrorsToo) {
  SettableDevice device(there_->reactor());
  auto remote = Create(device);
  EXPECT_EQ(remote->name(), "volume r0/0");
  struct Observer : BlockDeviceObserver {
    explicit Observer(Reactor& reactor) : changed(reactor) {}
    void OnDeviceChanged() override { changed.NotifyAll(); }
    WaitQueue changed;
  } observer(here_->reactor());
  here_->RunTask([&]() -> Task<void> {
    remote->AddObserver(&observer);
    co_return;
  });
  there_->RunTask([&]() -> Task<void> {
    for (uint64_t i = 2; i <= 50; ++i) device.Set(Access::kStandby, i << 20, "it is Secondary");
    co_return;
  });
  here_->RunTask([&]() -> Task<void> {
    while (remote->geometry().size != uint64_t{50} << 20) co_await observer.changed.Wait();
    EXPECT_EQ(remote->access(), Access::kStandby);
    EXPECT_EQ(remote->access_reason(), "it is Secondary");
    EXPECT_FALSE(remote->Open({"fuse", false}));
    EXPECT_EQ(co_await remote->Flush(), EROFS);
    remote->RemoveObserver(&observer);
  });
  there_->RunTask([&]() -> Task<void> {
    device.Set(Access::kReadWrite, 1 << 20, "");  // on its way while the proxy stops
    co_return;
  });
  Stop(*remote);
  there_->RunTask([&]() -> Task<void> {
    device.Set(Access::kStandby, 1 << 20, "x");  // nobody listens any more
    co_return;
  });
}

TEST_F(RemoteBlockDeviceTest, OpenersAreKnownOnBothSides) {
  SettableDevice device(there_->reactor());
  auto remote = Create(device);
  OpenerId id = here_->RunTask([&]() -> Task<OpenerId> {
    auto opened = remote->Open({"iscsi disk0", true});
    EXPECT_TRUE(opened);
    EXPECT_TRUE(remote->open_for_write());
    EXPECT_EQ(co_await remote->Flush(), EROFS);  // follows the opening
    co_return *opened;
  });
  there_->RunTask([&]() -> Task<void> {
    EXPECT_EQ(device.DescribeOpeners(), "iscsi disk0");
    EXPECT_TRUE(device.open_for_write());
    co_return;
  });
  here_->RunTask([&]() -> Task<void> {
    remote->Close(id);
    auto brief = remote->Open({"fuse", false});
    EXPECT_TRUE(brief);
    remote->Close(*brief);
    co_return;
  });
  Stop(*remote);
  there_->RunTask([&]() -> Task<void> {
    EXPECT_FALSE(device.open());
    co_return;
  });
}

TEST_F(RemoteBlockDeviceTest, StopAwaitsWhatIsInFlightAndRefusesTheRest) {
  RamBackend ram(there_->reactor(), "ram", std::make_unique<HeapMemory>(1 << 20));
  auto faulty = there_->RunTask([&]() -> Task<std::unique_ptr<FaultDevice>> {
    auto device = std::make_unique<FaultDevice>(ram, 1);
    device->AddRule({.action = FaultRule::Action::kHang, .count = 1});
    co_return std::move(device);
  });
  auto remote = Create(*faulty);
  here_->RunTask([&]() -> Task<void> {
    TaskGroup group(here_->reactor());
    int hung = -1;
    bool stopped = false;
    group.Spawn([](RemoteBlockDevice* r, int* error) -> Task<void> {
      *error = co_await r->Flush();
    }(remote.get(), &hung));
    group.Spawn([](RemoteBlockDevice* r, bool* done) -> Task<void> {
      co_await r->Stop();
      *done = true;
    }(remote.get(), &stopped));
    EXPECT_EQ(co_await remote->Flush(), ENODEV);
    EXPECT_FALSE(stopped);
    co_await there_->reactor().SwitchTo();
    while (faulty->hanging() == 0) co_await there_->reactor().Yield();
    faulty->Release(EIO);
    co_await here_->reactor().SwitchTo();
    co_await group.Join();
    EXPECT_EQ(hung, EIO);
    EXPECT_TRUE(stopped);
  });
  there_->RunTask([&]() -> Task<void> {
    faulty.reset();
    co_await ram.Stop();
  });
}

TEST_F(RemoteBlockDeviceTest, WorksOnOneReactorToo) {
  RamBackend ram(here_->reactor(), "ram", std::make_unique<HeapMemory>(1 << 20));
  auto remote = Create(ram);
  here_->RunTask([&]() -> Task<void> {
    std::vector<char> out(512, 'o'), in(512);
    iovec iov{out.data(), 512}, to{in.data(), 512};
    EXPECT_EQ(co_await remote->Write(0, {&iov, 1}, true), 0);
    EXPECT_EQ(co_await remote->Read(0, {&to, 1}), 0);
    EXPECT_EQ(in, out);
  });
  Stop(*remote);
  here_->RunTask([&] { return ram.Stop(); });
}

}  // namespace
}  // namespace umblock
