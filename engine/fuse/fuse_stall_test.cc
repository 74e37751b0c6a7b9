// FuseMount while devices do not answer: what waits, what is bounded, and that nobody else waits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/aio_abi.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <future>
#include <thread>

#include "engine/fuse/testing/mount_fixture.h"

namespace umblock {
namespace {

using ::testing::HasSubstr;

TEST_F(FuseMountTest, RequestsInFlightAreBounded) {
  StartWithFile({.max_requests = 8, .receive_buffers = 4});
  device_->Hold();
  std::vector<std::thread> writers;
  for (int i = 0; i < 24; ++i) {
    writers.emplace_back([&, i] {
      Fd file(Path(), O_RDWR);
      auto data = Pattern(16384, unsigned(i));
      ASSERT_EQ(pwrite(file.get(), data.data(), data.size(), i * off_t{16384}), 16384);
    });
  }
  while (GetStatus().requests_in_flight != 24) std::this_thread::yield();
  EXPECT_EQ(device_->held(), 8u);
  device_->ReleaseHeld();
  for (std::thread& writer : writers) writer.join();
  for (int i = 0; i < 24; ++i) EXPECT_TRUE(Holds(uint64_t(i) * 16384, Pattern(16384, unsigned(i))));
}

// More requests than a file's device is given at a time, those of threads that wait in a system
// call and asynchronous ones, which the kernel counts for the mount as a whole.
class ManyRequests {
 public:
  // `path` is a file of `device`.
  ManyRequests(std::string path, MemoryDevice* device) : path_(std::move(path)), device_(device) {
    UMBLOCK_ASSERT(syscall(SYS_io_setup, kAsynchronous, &context_) == 0, "native AIO is there");
    UMBLOCK_ASSERT(file_.get() != -1, "the file opens");
    // The kernel may let it wait here.
    threads_.emplace_back([this] {
      for (unsigned i = 0; i < kAsynchronous; ++i) {
        iocb* one = &blocks_[i];
        one->aio_lio_opcode = IOCB_CMD_PWRITE;
        one->aio_fildes = static_cast<uint32_t>(file_.get());
        one->aio_buf = reinterpret_cast<uint64_t>(memory_.data());  // NOLINT
        one->aio_nbytes = 4096;
        one->aio_offset = i * int64_t{4096};
        UMBLOCK_ASSERT(syscall(SYS_io_submit, context_, 1, &one) == 1, "the kernel takes it");
      }
    });
    for (unsigned i = 0; i < kThreads; ++i) {
      threads_.emplace_back([this, i] {
        const PageMemory data(16384);
        const off_t at = off_t(kMiB) + off_t(i) * 16384;
        const ssize_t n = i % 2 == 0 ? pread(file_.get(), data.data(), 16384, at)
                                     : pwrite(file_.get(), data.data(), 16384, at);
        done_ += n == 16384;
      });
    }
  }
  // How many of all went well.
  int Release() {
    device_->ReleaseHeld();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    std::vector<io_event> events(kAsynchronous);
    UMBLOCK_ASSERT(syscall(SYS_io_getevents, context_, kAsynchronous, kAsynchronous, events.data(),
                           nullptr) == kAsynchronous,
                   "all ended");
    for (const io_event& event : events) done_ += event.res == 4096;
    syscall(SYS_io_destroy, context_);
    return done_;
  }
  static constexpr int kAsynchronous = 48;
  static constexpr int kThreads = 48;

 private:
  std::string path_;
  MemoryDevice* device_;
  Fd file_{path_, O_RDWR | O_DIRECT};
  PageMemory memory_{4096};
  aio_context_t context_ = 0;
  std::array<iocb, kAsynchronous> blocks_{};
  std::vector<std::thread> threads_;
  std::atomic<int> done_{0};
};

TEST_F(FuseMountTest, AVolumeThatDoesNotAnswerHoldsBackNoOther) {
  StartWithFile({.max_requests = 8, .receive_buffers = 4});
  MemoryDevice other(reactor_->reactor(), "volume r1/0", kSize);
  ASSERT_TRUE(Add("r1-0", &other).has_value());
  device_->HoldReadsToo();
  ManyRequests stuck(Path(), device_.get());
  while (device_->held() < 8) std::this_thread::yield();
  const int all = ManyRequests::kAsynchronous + ManyRequests::kThreads;

  auto goes_on = std::async(std::launch::async, [&] {
    struct stat info;
    EXPECT_EQ(stat(Path().c_str(), &info), 0);
    EXPECT_EQ(Fd(Path(), O_RDONLY).error(), 0);
    EXPECT_EQ(Output("ls " + mountpoint_), "r0-0\nr1-0");
    Fd file(Path("r1-0"), O_RDWR);
    const auto data = Pattern(3 * kMiB, 1);
    EXPECT_EQ(pwrite(file.get(), data.data(), data.size(), 0), ssize_t(data.size()));
    std::vector<std::byte> back(data.size());
    EXPECT_EQ(pread(file.get(), back.data(), back.size(), 0), ssize_t(back.size()));
    EXPECT_EQ(back, data);
    EXPECT_EQ(fsync(file.get()), 0);
    ManyRequests busy(Path("r1-0"), &other);
    EXPECT_EQ(busy.Release(), all);
  });
  // Not how long it takes, but how long this waits before it lets a hanging test end.
  EXPECT_EQ(goes_on.wait_for(std::chrono::seconds(30)), std::future_status::ready);
  EXPECT_LE(device_->held(), 8u);
  EXPECT_EQ(stuck.Release(), all);
  goes_on.get();
  ASSERT_TRUE(Remove("r1-0", true).has_value());
}

TEST_F(FuseMountTest, ReadsThatDoNotComeBackLeaveBuffersToOthers) {
  StartWithFile();
  device_->HoldReadsToo();
  Fd file(Path(), O_RDONLY);
  std::vector<std::thread> readers;
  for (int i = 0; i < 60; ++i) {
    readers.emplace_back([&, i] {
      const PageMemory to(kMiB);
      EXPECT_EQ(pread(file.get(), to.data(), kMiB, i * off_t(kMiB)), ssize_t(kMiB));
    });
  }
  while (device_->held() != 60) std::this_thread::yield();
  const auto [out, limit] =
      reactor_->Run<std::pair<size_t, size_t>>([&]() -> Task<std::pair<size_t, size_t>> {
        const BufferPool& pool = reactor_->reactor().buffers();
        co_return std::pair(pool.bytes_out(), pool.limit());
      });
  EXPECT_LE(out, limit / 8);
  device_->ReleaseHeld();
  for (std::thread& reader : readers) reader.join();
}

TEST_F(FuseMountTest, AStalledFileThatHoldsAllItsMemoryFailsWhatDoesNotFit) {
  StartWithFile({.waiting_bytes = 4 * kMiB, .stall_patience = std::chrono::milliseconds(1)});
  MemoryDevice other(reactor_->reactor(), "volume r1/0", kSize);
  ASSERT_TRUE(Add("r1-0", &other).has_value());
  device_->Hold();
  Fd file(Path(), O_RDWR);
  const PageMemory data(kMiB);
  std::atomic<int> written = 0;
  std::atomic<int> refused = 0;
  std::vector<std::thread> writers;
  for (int i = 0; i < 8; ++i) {
    writers.emplace_back([&, i] {
      const ssize_t n = pwrite(file.get(), data.data(), kMiB, i * off_t(kMiB));
      if (n == ssize_t(kMiB)) ++written;
      if (n == -1 && errno == ENOBUFS) ++refused;
    });
  }
  while (refused != 5) std::this_thread::yield();
  {
    Fd elsewhere(Path("r1-0"), O_RDWR);
    EXPECT_EQ(pwrite(elsewhere.get(), data.data(), kMiB, 0), ssize_t(kMiB));
  }
  device_->ReleaseHeld();
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(written, 3);
  EXPECT_EQ(refused, 5);
  EXPECT_EQ(pwrite(file.get(), data.data(), kMiB, 0), ssize_t(kMiB));
  ASSERT_TRUE(Remove("r1-0", true).has_value());
}

TEST_F(FuseMountTest, RemovalByForceWaitsForWhatIsInFlight) {
  StartWithFile();
  device_->Hold();
  auto data = Pattern(4096, 5);
  std::thread writer([&] {
    Fd file(Path(), O_RDWR);
    EXPECT_EQ(pwrite(file.get(), data.data(), data.size(), 0), 4096);
  });
  while (device_->held() == 0) std::this_thread::yield();
  auto removal = std::async(std::launch::async, [&] { return Remove("r0-0", true); });
  EXPECT_EQ(removal.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  device_->ReleaseHeld();
  EXPECT_TRUE(removal.get().has_value());
  writer.join();
  EXPECT_TRUE(Holds(0, data));
}

TEST_F(FuseMountTest, AFileThatCannotLeaveHoldsUpNoOther) {
  StartWithFile({.max_requests = 4});
  MemoryDevice second(reactor_->reactor(), "volume r1/0", kMiB);
  MemoryDevice third(reactor_->reactor(), "volume r2/0", kMiB);
  ASSERT_TRUE(Add("r1-0", &second).has_value());
  device_->Hold();
  std::vector<std::thread> writers;
  std::atomic<int> refused{0};
  for (int i = 0; i < 10; ++i) {
    writers.emplace_back([&, i] {
      Fd file(Path(), O_RDWR);
      auto data = Pattern(4096, 5);
      if (pwrite(file.get(), data.data(), data.size(), i * off_t{4096}) != 4096) ++refused;
    });
  }
  while (device_->held() != 4 || GetStatus().requests_in_flight != 10) std::this_thread::yield();
  auto removal = std::async(std::launch::async, [&] { return Remove("r0-0", true); });
  // What the device was not given ends at once.
  while (refused.load() != 6) std::this_thread::yield();
  EXPECT_EQ(removal.wait_for(std::chrono::milliseconds(0)), std::future_status::timeout);
  EXPECT_TRUE(Add("r2-0", &third).has_value());
  EXPECT_TRUE(Remove("r1-0", false).has_value());
  Status again = Remove("r0-0", true);
  ASSERT_FALSE(again.has_value());
  EXPECT_THAT(again.error().message(), HasSubstr("being removed already"));
  device_->ReleaseHeld();
  EXPECT_TRUE(removal.get().has_value());
  for (std::thread& writer : writers) writer.join();
  EXPECT_TRUE(Remove("r2-0", false).has_value());
}

}  // namespace
}  // namespace umblock
