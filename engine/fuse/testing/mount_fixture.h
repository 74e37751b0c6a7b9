// FuseMountTest: real mounts of a device in memory; what tests of the mount need around them.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "engine/fuse/fuse_mount.h"
#include "engine/fuse/testing/memory_device.h"
#include "engine/runtime/uring/reactor_thread.h"

namespace umblock {

inline constexpr uint64_t kMiB = uint64_t{1} << 20;
inline constexpr uint64_t kSize = 64 * kMiB;

// A reactor on its own thread, and a way to run a task there and wait for it.
class TestReactor {
 public:
  TestReactor() {
    auto thread = ReactorThread::Start({.name = "test"});
    UMBLOCK_ASSERT(thread.has_value(), "io_uring is there");
    thread_ = std::move(*thread);
  }
  template <typename T>
  T Run(const std::function<Task<T>()>& work) {
    return thread_->RunTask(work);
  }
  Reactor& reactor() { return thread_->reactor(); }

 private:
  std::unique_ptr<ReactorThread> thread_;
};

class Fd {
 public:
  Fd(const std::string& path, int flags) : fd_(open(path.c_str(), flags | O_CLOEXEC, 0600)) {
    error_ = fd_ == -1 ? errno : 0;
  }
  ~Fd() { Close(); }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  void Close() {
    if (fd_ != -1) close(fd_);
    fd_ = -1;
  }
  int get() const { return fd_; }
  int error() const { return error_; }

 private:
  int fd_;
  int error_;
};

inline int Shell(const std::string& command) {
  return std::system(("( " + command + " ) >/dev/null 2>&1").c_str());  // NOLINT: test scaffolding
}

inline std::string Output(const std::string& command) {
  std::string text;
  FILE* pipe = popen(command.c_str(), "r");  // NOLINT: test scaffolding
  char part[256];
  while (pipe != nullptr && fgets(part, sizeof part, pipe) != nullptr) text += part;
  if (pipe != nullptr) pclose(pipe);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

inline std::vector<std::byte> Pattern(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> result(n);
  for (std::byte& b : result) b = static_cast<std::byte>(random());
  return result;
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }  // NOLINT: from aligned_alloc
};
// Memory that begins `shift` bytes behind the begin of a page.
class PageMemory {
 public:
  explicit PageMemory(size_t n, size_t shift = 0)
      : memory_(
            static_cast<std::byte*>(std::aligned_alloc(4096, AlignUp<size_t>(n + shift, 4096)))),
        bytes_(memory_.get() + shift, n) {}
  PageMemory(const std::vector<std::byte>& from, size_t shift) : PageMemory(from.size(), shift) {
    std::copy(from.begin(), from.end(), bytes_.begin());
  }
  std::byte* data() const { return bytes_.data(); }
  bool operator==(const std::vector<std::byte>& other) const {
    return std::equal(bytes_.begin(), bytes_.end(), other.begin(), other.end());
  }

 private:
  std::unique_ptr<std::byte, Free> memory_;
  std::span<std::byte> bytes_;
};

class FuseMountTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (access("/dev/fuse", R_OK | W_OK) != 0 || geteuid() != 0) {
      GTEST_SKIP() << "needs /dev/fuse and root";
    }
    char directory[] = "/tmp/umblock-fuse-XXXXXX";
    ASSERT_NE(mkdtemp(directory), nullptr);
    mountpoint_ = directory;
    reactor_ = std::make_unique<TestReactor>();
    device_ = std::make_unique<MemoryDevice>(reactor_->reactor(), "volume r0/0", kSize);
  }

  void TearDown() override {
    if (mount_) (void)Stop();
    Shell("umount -l " + mountpoint_);
    if (!mountpoint_.empty()) rmdir(mountpoint_.c_str());
    device_.reset();
    reactor_.reset();
  }

  Result<std::unique_ptr<FuseMount>> TryStart(FuseOptions options = {}) {
    return reactor_->Run<Result<std::unique_ptr<FuseMount>>>(
        [&] { return FuseMount::Start(reactor_->reactor(), mountpoint_, options); });
  }
  void Start(FuseOptions options = {}) {
    auto mount = TryStart(options);
    ASSERT_TRUE(mount.has_value()) << mount.error().ToString();
    mount_ = std::move(*mount);
  }
  void StartWithFile(FuseOptions options = {}) {
    Start(options);
    Status added = Add("r0-0", device_.get());
    ASSERT_TRUE(added.has_value()) << added.error().ToString();
  }
  Status Add(const std::string& name, BlockDevice* device) {
    return reactor_->Run<Status>([&] { return mount_->AddFile(name, device); });
  }
  Status Remove(const std::string& name, bool force) {
    return reactor_->Run<Status>([&] { return mount_->RemoveFile(name, force); });
  }
  Status Stop() {
    Status status = reactor_->Run<Status>([&] { return mount_->Stop(); });
    mount_.reset();
    return status;
  }
  FuseStatus GetStatus() {
    return reactor_->Run<FuseStatus>([&] { return mount_->status(); });
  }
  std::string Path(const std::string& name = "r0-0") const { return mountpoint_ + "/" + name; }
  bool Holds(uint64_t offset, const std::vector<std::byte>& data) {
    return device_->Contents(offset, data.size()) == data;
  }
  // A release is answered to the kernel after close(2) has returned.
  void AwaitOpeners(size_t n) {
    while (GetStatus().files[0].openers.size() != n) std::this_thread::yield();
  }

  std::string mountpoint_;
  std::unique_ptr<TestReactor> reactor_;
  std::unique_ptr<MemoryDevice> device_;
  std::unique_ptr<FuseMount> mount_;
};

}  // namespace umblock
