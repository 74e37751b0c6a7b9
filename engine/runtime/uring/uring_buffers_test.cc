// Registered buffers, and what the loop costs in system calls.
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <mutex>
#include <string>
#include <vector>

#include "engine/runtime/uring/reactor_thread.h"

namespace umblock {
namespace {

class RecordingLogger final : public Logger {
 public:
  bool Enabled(LogLevel) const override { return true; }
  void Write(LogLevel, std::string_view line) override {
    std::lock_guard lock(mutex_);
    lines_.emplace_back(line);
  }
  std::vector<std::string> lines() {
    std::lock_guard lock(mutex_);
    return lines_;
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> lines_;
};

// Writes and reads back a file through buffers of the reactor's pool, many at a time.
Task<void> WriteAndReadBack(UringReactor& reactor, std::string path, int buffers) {
  auto file =
      co_await reactor.OpenFile({.path = path, .create = true, .create_size = uint64_t{1} << 26});
  EXPECT_TRUE(file) << file.error().ToString();
  std::vector<Buffer> held;
  for (int i = 0; i < buffers; ++i) {
    held.push_back(reactor.buffers().TryAllocate(1 << 20));
    EXPECT_TRUE(held.back());
    memset(held.back().data(), 'a' + i, 1 << 20);
    iovec iov = held.back().iov(1 << 20);
    EXPECT_EQ(co_await (*file)->Write(static_cast<uint64_t>(i) << 20, {&iov, 1}, false), 0);
    memset(held.back().data(), 0, 1 << 20);
  }
  for (int i = 0; i < buffers; ++i) {
    iovec iov = held[static_cast<size_t>(i)].iov(1 << 20);
    EXPECT_EQ(co_await (*file)->Read(static_cast<uint64_t>(i) << 20, {&iov, 1}), 0);
    EXPECT_EQ(static_cast<char*>(iov.iov_base)[12345], 'a' + i);
  }
  co_await (*file)->Close();
}

class UringBuffersTest : public testing::Test {
 protected:
  UringBuffersTest() {
    char pattern[] = "/var/tmp/umblock-buffers-test.XXXXXX";
    directory_ = mkdtemp(pattern);
  }
  ~UringBuffersTest() override { std::filesystem::remove_all(directory_); }

  std::string directory_;
};

TEST_F(UringBuffersTest, WorksTheSameWithAndWithoutRegistration) {
  for (bool registered : {true, false}) {
    RecordingLogger logger;
    auto thread =
        *ReactorThread::Start({.uring = {.register_buffers = registered, .logger = &logger}});
    thread->RunTask([&] { return WriteAndReadBack(thread->reactor(), directory_ + "/f", 8); });
    if (!registered) EXPECT_EQ(thread->counters().fixed_buffer_ops, 0u);
    EXPECT_LE(logger.lines().size(), 1u) << "said once, if at all";
  }
}

// Without CAP_IPC_LOCK, 1 MiB of memlock is enough for a ring and not for an arena.
void DropTheRightToLockMemory() {
  rlimit little{1 << 20, 1 << 20};
  setrlimit(RLIMIT_MEMLOCK, &little);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  syscall(SYS_capget, &header, data);
  data[0].effective &= ~(1u << CAP_IPC_LOCK);
  syscall(SYS_capset, &header, data);
}

TEST_F(UringBuffersTest, WithoutMemlockItRunsUnregisteredAndSaysSoOnce) {
  pid_t child = fork();
  if (child == 0) {
    DropTheRightToLockMemory();
    RecordingLogger logger;
    auto thread = *ReactorThread::Start({.uring = {.logger = &logger}});
    thread->RunTask([&] { return WriteAndReadBack(thread->reactor(), directory_ + "/f", 12); });
    bool unregistered = thread->counters().fixed_buffer_ops == 0;
    auto lines = logger.lines();
    bool said = lines.size() == 1 && lines[0].find("memlock") != std::string::npos;
    _exit(testing::Test::HasFailure() ? 3 : !unregistered ? 2 : !said ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(UringBuffersTest, OperationsOfATurnShareOneEnter) {
  auto thread = *ReactorThread::Start({});
  UringReactor& reactor = thread->reactor();
  constexpr int kOps = 200;
  thread->RunTask([&]() -> Task<void> {
    auto file = co_await reactor.OpenFile(
        {.path = directory_ + "/f", .create = true, .create_size = 1 << 20, .direct = false});
    EXPECT_TRUE(file);
    struct Counted : Completion {
      Counted()
          : Completion([](Completion* self, int32_t error) noexcept {
              EXPECT_EQ(error, 0);
              ++*static_cast<Counted*>(self)->count;
            }) {}
      int* count = nullptr;
    };
    std::vector<Counted> reads(kOps);
    std::vector<char> bytes(kOps);
    int ended = 0;
    UringCounters before = reactor.counters();
    for (size_t i = 0; i < kOps; ++i) {
      reads[i].count = &ended;
      iovec iov{&bytes[i], 1};
      (*file)->StartRead(i, {&iov, 1}, &reads[i]);
    }
    while (ended < kOps) co_await Sleep(reactor, 1us);
    UringCounters after = reactor.counters();
    EXPECT_EQ(after.sqes - before.sqes, kOps);
    EXPECT_LT(after.enters - before.enters, kOps / 4);
    co_await (*file)->Close();
  });
}

}  // namespace
}  // namespace umblock
