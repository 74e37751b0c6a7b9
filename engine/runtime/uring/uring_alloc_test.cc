// Nothing on the data path reaches the heap once it is warm: streams, files, timers, posts,
// messages between reactors. A program of its own, because it replaces operator new.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <new>

#include "engine/runtime/channel.h"
#include "engine/runtime/uring/reactor_thread.h"

namespace {
thread_local uint64_t allocations = 0;
}

void* operator new(size_t bytes) {
  ++allocations;
  void* memory = std::malloc(bytes);
  if (memory == nullptr) std::abort();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace umblock {
namespace {

// Runs `round` a few times to warm up, then many times without a single allocation of this thread.
template <typename Round>
Task<void> ExpectNoAllocation(Round round) {
  for (int i = 0; i < 20; ++i) co_await round();
  uint64_t before = allocations;
  for (int i = 0; i < 200; ++i) co_await round();
  EXPECT_EQ(allocations, before);
}

class UringAllocTest : public testing::Test {
 protected:
  std::unique_ptr<ReactorThread> thread_ = *ReactorThread::Start({});
  UringReactor& reactor_ = thread_->reactor();
};

TEST_F(UringAllocTest, Streams) {
  thread_->RunTask([&]() -> Task<void> {
    auto listener = reactor_.Listen({.local = *SocketAddress::Parse("127.0.0.1:0")});
    EXPECT_TRUE(listener);
    auto client = co_await reactor_.Connect({.remote = (*listener)->local_address()}, {});
    auto server = co_await (*listener)->Accept({});
    EXPECT_TRUE(client && server);
    char out[3000] = {1}, in[3000];
    iovec from[3] = {{out, 1000}, {out + 1000, 1000}, {out + 2000, 1000}};
    auto round = [&]() -> Task<void> {
      EXPECT_EQ(co_await (*client)->Send(from), 3000);
      for (int32_t got = 0; got < 3000;) {
        iovec to[2] = {{in, 100}, {in + 100, 2900}};
        got += co_await (*server)->Receive(to);
      }
    };
    co_await ExpectNoAllocation(round);
    co_await (*client)->Close();
    co_await (*server)->Close();
    co_await (*listener)->Close();
  });
}

TEST_F(UringAllocTest, FilesTimersAndBuffers) {
  std::string path = "/var/tmp/umblock-alloc-test-" + std::to_string(getpid());
  thread_->RunTask([&]() -> Task<void> {
    auto file = co_await reactor_.OpenFile({.path = path, .create = true, .create_size = 1 << 20});
    EXPECT_TRUE(file);
    auto round = [&]() -> Task<void> {
      Buffer buffer = co_await reactor_.buffers().Allocate(8192);
      iovec iov[2] = {buffer.iov(4096), buffer.iov(4096, 4096)};
      EXPECT_EQ(co_await (*file)->Write(0, iov, false), 0);
      EXPECT_EQ(co_await (*file)->Read(0, iov), 0);
      co_await Sleep(reactor_, 1us);
      co_await reactor_.Yield();
    };
    co_await ExpectNoAllocation(round);
    co_await (*file)->Close();
  });
  std::filesystem::remove(path);
}

TEST_F(UringAllocTest, MessagesBetweenReactors) {
  auto other = *ReactorThread::Start({});
  thread_->RunTask([&]() -> Task<void> {
    Channel there(reactor_, other->reactor()), back(other->reactor(), reactor_);
    auto round = [&]() -> Task<void> {
      co_await there.Cross();
      co_await back.Cross();
    };
    co_await ExpectNoAllocation(round);
    co_await reactor_.Yield();
  });
}

}  // namespace
}  // namespace umblock
