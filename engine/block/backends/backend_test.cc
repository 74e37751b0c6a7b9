// Backends on io_uring: real files, shared memory, and (as root) a loop device of 4096-byte
// sectors.
#include "engine/block/backends/backend.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <vector>

#include "engine/runtime/uring/reactor_thread.h"

namespace umblock {
namespace {

class BackendTest : public testing::Test {
 protected:
  BackendTest() : thread_(*ReactorThread::Start({})) {
    char pattern[] = "/var/tmp/umblock-backend-test.XXXXXX";
    directory_ = mkdtemp(pattern);
  }
  ~BackendTest() override { std::filesystem::remove_all(directory_); }

  std::string Path(const char* name) const { return directory_ + "/" + name; }
  Result<std::unique_ptr<Backend>> Open(BackendSpec spec) {
    spec.name = "disk1";
    return thread_->RunTask([&] { return OpenBackend(thread_->reactor(), spec); });
  }
  void Stop(std::unique_ptr<Backend>& backend) {
    thread_->RunTask([&] { return backend->Stop(); });
    backend.reset();
  }
  int Write(Backend& backend, uint64_t at, std::vector<char>& from, bool fua = false) {
    iovec iov{from.data(), from.size()};
    return thread_->RunTask(
        [&]() -> Task<int> { co_return co_await backend.Write(at, {&iov, 1}, fua); });
  }
  std::vector<char> Read(Backend& backend, uint64_t at, size_t length) {
    std::vector<char> to(length);
    iovec iov{to.data(), to.size()};
    EXPECT_EQ(
        thread_->RunTask([&]() -> Task<int> { co_return co_await backend.Read(at, {&iov, 1}); }),
        0);
    return to;
  }
  // Random requests, one after the other, against a copy in memory.
  void CompareWithModel(Backend& backend, uint32_t seed);

  std::unique_ptr<ReactorThread> thread_;
  std::string directory_;
};

void BackendTest::CompareWithModel(Backend& backend, uint32_t seed) {
  std::minstd_rand random(seed);
  uint64_t sectors = std::min<uint64_t>(backend.geometry().size / 512, 4096);
  std::vector<char> model = Read(backend, 0, sectors * 512 / 2);
  std::vector<char> rest = Read(backend, sectors * 512 / 2, sectors * 512 / 2);
  model.insert(model.end(), rest.begin(), rest.end());
  for (int i = 0; i < 300; ++i) {
    uint64_t count = 1 + random() % 64;
    uint64_t at = random() % (sectors - count + 1) * 512;
    std::vector<char> data(count * 512);
    for (char& c : data) c = static_cast<char>(random());
    int error = 0;
    if (random() % 4 == 0) {
      bool unmap = random() % 2 == 0;
      error = thread_->RunTask(
          [&]() -> Task<int> { co_return co_await backend.WriteZeroes(at, data.size(), unmap); });
      std::fill(data.begin(), data.end(), 0);
    } else {
      error = Write(backend, at, data, random() % 2 == 0);
    }
    ASSERT_EQ(error, 0);
    std::copy(data.begin(), data.end(), model.begin() + static_cast<ptrdiff_t>(at));
    at = random() % (sectors - count + 1) * 512;
    std::vector<char> back = Read(backend, at, count * 512);
    ASSERT_TRUE(std::equal(back.begin(), back.end(), model.begin() + static_cast<ptrdiff_t>(at)));
  }
  ASSERT_EQ(thread_->RunTask([&]() -> Task<int> { co_return co_await backend.Flush(); }), 0);
}

TEST_F(BackendTest, AFileHoldsWhatIsWritten) {
  auto backend = Open({.path = Path("f"), .size = 8 << 20, .create = true});
  ASSERT_TRUE(backend) << backend.error().ToString();
  EXPECT_EQ((*backend)->name(), "backend disk1");
  EXPECT_EQ((*backend)->geometry().size, 8u << 20);
  EXPECT_EQ((*backend)->geometry().logical_block_size, 512u);
  EXPECT_EQ((*backend)->access(), Access::kReadWrite);
  CompareWithModel(**backend, 1);
  std::vector<char> before = Read(**backend, 0, 1 << 20);
  Stop(*backend);
  auto again = Open({.path = Path("f")});
  ASSERT_TRUE(again) << again.error().ToString();
  EXPECT_EQ(Read(**again, 0, 1 << 20), before);
  Stop(*again);
}

TEST_F(BackendTest, MemoryOutlivesTheDaemon) {
  std::string path = "/dev/shm/umblock-backend-test-" + std::to_string(getpid());
  auto backend = Open({.kind = BackendKind::kRam, .path = path, .size = 4 << 20, .create = true});
  ASSERT_TRUE(backend) << backend.error().ToString();
  CompareWithModel(**backend, 2);
  std::vector<char> before = Read(**backend, 0, 1 << 20);
  Stop(*backend);
  auto again = Open({.kind = BackendKind::kRam, .path = path, .size = 4 << 20});
  ASSERT_TRUE(again) << again.error().ToString();
  EXPECT_EQ(Read(**again, 0, 1 << 20), before);
  Stop(*again);
  std::filesystem::remove(path);
}

class SizeWatch : public BlockDeviceObserver {
 public:
  explicit SizeWatch(Backend& backend) : backend_(backend) {}
  void OnDeviceChanged() override { seen.push_back(backend_.geometry().size); }
  std::vector<uint64_t> seen;

 private:
  Backend& backend_;
};

TEST_F(BackendTest, GrowsInUseAndKeepsWhatItHas) {
  std::string memory = "/dev/shm/umblock-backend-grow-" + std::to_string(getpid());
  for (BackendKind kind : {BackendKind::kFile, BackendKind::kRam}) {
    SCOPED_TRACE(kind == BackendKind::kFile ? "file" : "ram");
    const std::string path = kind == BackendKind::kFile ? Path("grow") : memory;
    auto backend = Open({.kind = kind, .path = path, .size = 1 << 20, .create = true});
    ASSERT_TRUE(backend) << backend.error().ToString();
    std::vector<char> data(1 << 20, 'x');
    ASSERT_EQ(Write(**backend, 0, data), 0);
    SizeWatch watch(**backend);
    auto grow = [&](uint64_t bytes) {
      return thread_->RunTask([&] { return (*backend)->Grow(bytes); });
    };
    thread_->RunTask([&]() -> Task<int> {
      (*backend)->AddObserver(&watch);
      co_return 0;
    });
    ASSERT_TRUE(grow(64 << 20));
    EXPECT_EQ((*backend)->geometry().size, 64u << 20);
    EXPECT_EQ(watch.seen, std::vector<uint64_t>{64 << 20});
    EXPECT_EQ(Read(**backend, 0, 1 << 20), data);
    EXPECT_EQ(Read(**backend, 32 << 20, 4096), std::vector<char>(4096, 0));
    EXPECT_EQ(Write(**backend, 63 << 20, data), 0);
    EXPECT_EQ(Read(**backend, 63 << 20, 1 << 20), data);
    // Again, or smaller, or crooked.
    EXPECT_TRUE(grow(64 << 20));
    EXPECT_EQ(grow(32 << 20).error().code(), ErrorCode::kInvalidArgument);
    EXPECT_EQ(grow((128 << 20) + 512).error().code(), ErrorCode::kInvalidArgument);
    EXPECT_TRUE(grow(0));
    EXPECT_EQ((*backend)->geometry().size, 64u << 20);
    if (kind == BackendKind::kFile) {
      std::filesystem::resize_file(path, 65 << 20);
      EXPECT_TRUE(grow(0));
      EXPECT_EQ((*backend)->geometry().size, 65u << 20);
      // One that shrinks underneath is not followed: what is beyond fails.
      std::filesystem::resize_file(path, 60 << 20);
      EXPECT_TRUE(grow(0));
      EXPECT_EQ((*backend)->geometry().size, 65u << 20);
    }
    thread_->RunTask([&]() -> Task<int> {
      (*backend)->RemoveObserver(&watch);
      co_return 0;
    });
    Stop(*backend);
  }
  std::filesystem::remove(memory);
}

TEST_F(BackendTest, RefusalsNameTheBackendTheReasonAndTheWayOut) {
  auto expect = [this](BackendSpec spec, ErrorCode code, const char* part) {
    auto backend = Open(std::move(spec));
    ASSERT_FALSE(backend) << part;
    EXPECT_EQ(backend.error().code(), code) << backend.error().ToString();
    EXPECT_TRUE(backend.error().message().starts_with("backend disk1: "));
    EXPECT_NE(backend.error().message().find(part), std::string::npos) << backend.error().message();
  };
  for (BackendKind kind : {BackendKind::kFile, BackendKind::kRam}) {
    SCOPED_TRACE(kind == BackendKind::kFile ? "file" : "ram");
    expect({.kind = kind, .path = Path("none")}, ErrorCode::kNotFound, "none");
    expect({.kind = kind, .path = Path("no/dir"), .size = 4096, .create = true},
           ErrorCode::kNotFound, "directory");
    expect({.kind = kind, .path = directory_}, ErrorCode::kInvalidArgument, "is a directory");
    expect({.kind = kind, .path = "/dev/null"}, ErrorCode::kInvalidArgument, "neither");
    expect({.kind = kind}, ErrorCode::kInvalidArgument, "path");
    expect({.kind = kind, .path = Path("x"), .create = true}, ErrorCode::kInvalidArgument, "size");
    expect({.kind = kind, .path = Path("x"), .size = 1000, .create = true},
           ErrorCode::kInvalidArgument, "4096");
    std::ofstream(Path("odd")) << std::string(1000, 'x');
    expect({.kind = kind, .path = Path("odd")}, ErrorCode::kFailedPrecondition, "multiple");
    std::ofstream(Path("some")) << std::string(8192, 'x');
    expect({.kind = kind, .path = Path("some"), .size = 4096}, ErrorCode::kFailedPrecondition,
           "8192");
    auto user = Open({.kind = kind, .path = Path("some")});
    ASSERT_TRUE(user);
    expect({.kind = kind, .path = Path("some")}, ErrorCode::kFailedPrecondition, "in use");
    Stop(*user);
  }
  EXPECT_FALSE(std::filesystem::exists(Path("x")));
}

// A loop device over a file of the test.
class LoopDevice {
 public:
  LoopDevice(const std::string& file, uint32_t block_size) {
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0) return;
    int number = ioctl(control, LOOP_CTL_GET_FREE);
    close(control);
    if (number < 0) return;
    std::string path = "/dev/loop" + std::to_string(number);
    fd_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
    int backing = open(file.c_str(), O_RDWR | O_CLOEXEC);
    loop_config config{};
    config.fd = static_cast<uint32_t>(backing);
    config.block_size = block_size;
    if (fd_ >= 0 && backing >= 0 && ioctl(fd_, LOOP_CONFIGURE, &config) == 0) path_ = path;
    if (backing >= 0) close(backing);
  }
  ~LoopDevice() {
    if (!path_.empty()) ioctl(fd_, LOOP_CLR_FD, 0);
    if (fd_ >= 0) close(fd_);
  }
  const std::string& path() const { return path_; }

 private:
  int fd_ = -1;
  std::string path_;
};

TEST_F(BackendTest, ABlockDeviceOfLargeSectorsTakesAnySector) {
  std::filesystem::resize_file((std::ofstream(Path("backing")), Path("backing")), 16 << 20);
  LoopDevice loop(Path("backing"), 4096);
  if (loop.path().empty()) GTEST_SKIP() << "no loop devices here";
  auto backend = Open({.path = loop.path()});
  ASSERT_TRUE(backend) << backend.error().ToString();
  EXPECT_EQ((*backend)->geometry().size, 16u << 20);
  EXPECT_EQ((*backend)->geometry().logical_block_size, 4096u);
  EXPECT_EQ(Open({.path = loop.path()}).error().code(), ErrorCode::kFailedPrecondition);
  CompareWithModel(**backend, 3);
  EXPECT_GT((*backend)->counters().edge_reads, 0u);
  if ((*backend)->geometry().can_discard) {
    EXPECT_EQ(thread_->RunTask(
                  [&]() -> Task<int> { co_return co_await (*backend)->Discard(0, 1 << 20); }),
              0);
  }
  Stop(*backend);
}

}  // namespace
}  // namespace umblock
