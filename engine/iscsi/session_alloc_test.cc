// What a command costs once a session is warm: no heap allocation, few socket operations. A program
// of its own, because it replaces operator new.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <new>
#include <string>

#include "engine/block/backends/backend.h"
#include "engine/iscsi/server.h"
#include "engine/iscsi/testing/initiator.h"
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

namespace umblock::iscsi {
namespace {

constexpr char kTarget[] = "iqn.2026-01.test:disk";

class SessionAllocTest : public ::testing::Test {
 protected:
  SessionAllocTest() {
    directory_ = std::filesystem::temp_directory_path() /
                 ("umblock-session-alloc-" + std::to_string(getpid()));
    std::filesystem::create_directories(directory_);
    thread_->RunTask([&]() -> Task<void> {
      auto backend = co_await OpenBackend(thread_->reactor(), {.name = "disk",
                                                               .kind = BackendKind::kRam,
                                                               .path = directory_ / "disk",
                                                               .size = 8 << 20,
                                                               .create = true});
      UMBLOCK_ASSERT(backend.has_value(), "a backend in a fresh directory");
      backend_ = std::move(*backend);
      server_ = std::make_unique<IscsiTargetServer>(thread_->reactor(), ServerOptions{});
      EXPECT_TRUE(server_->CreateTarget(kTarget, {}));
      EXPECT_TRUE(server_->AddLun(kTarget, 0, backend_.get(), {.serial = "disk"}));
      address_ = *server_->AddPortal(*SocketAddress::Parse("127.0.0.1:0"));
    });
  }
  ~SessionAllocTest() override {
    thread_->RunTask([&]() -> Task<void> {
      co_await server_->Stop();
      co_await backend_->Stop();
      server_.reset();
      backend_.reset();
    });
    std::filesystem::remove_all(directory_);
  }
  // Allocations of the reactor's thread so far.
  uint64_t Allocations() {
    return thread_->RunTask([]() -> Task<uint64_t> { co_return allocations; });
  }
  // Allocations of `commands` rounds, without what asking costs itself.
  template <typename Round>
  uint64_t Cost(Round round) {
    for (int i = 0; i < 50; ++i) round();
    uint64_t asking = Allocations();
    asking = Allocations() - asking;
    uint64_t before = Allocations();
    for (int i = 0; i < 500; ++i) round();
    return Allocations() - before - asking;
  }

  std::filesystem::path directory_;
  std::unique_ptr<ReactorThread> thread_ = *ReactorThread::Start({});
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<IscsiTargetServer> server_;
  SocketAddress address_;
};

TEST_F(SessionAllocTest, ReadsAndWritesDoNotReachTheHeap) {
  Initiator host(address_);
  ASSERT_EQ(host.Login(kTarget, {{"MaxRecvDataSegmentLength", "65536"}}).status, 0);
  host.MakeReady();
  std::string small(4096, 's'), large(65536, 'l');
  EXPECT_EQ(Cost([&] { host.Write(0, small); }), 0u);
  EXPECT_EQ(Cost([&] { host.Read(0, 8); }), 0u);
  EXPECT_EQ(Cost([&] { host.Write(0, large); }), 0u);
  EXPECT_EQ(Cost([&] { host.Read(0, 128); }), 0u);
}

TEST_F(SessionAllocTest, WritesThatWaitForR2tDoNotReachTheHeap) {
  Initiator host(address_);
  ASSERT_EQ(host.Login(kTarget, {{"ImmediateData", "No"}}).status, 0);
  host.MakeReady();
  std::string data(65536, 'r');
  EXPECT_EQ(Cost([&] { host.Write(0, data); }), 0u);
}

TEST_F(SessionAllocTest, OneWriteIsOneReceiveAndOneSend) {
  Initiator host(address_);
  ASSERT_EQ(host.Login(kTarget).status, 0);
  host.MakeReady();
  std::string data(4096, 'o');
  auto counters = [&] {
    return thread_->RunTask(
        [&]() -> Task<SessionCounters> { co_return server_->status().sessions[0].counters; });
  };
  for (int i = 0; i < 50; ++i) host.Write(0, data);
  SessionCounters before = counters();
  for (int i = 0; i < 100; ++i) host.Write(0, data);
  SessionCounters after = counters();
  EXPECT_EQ(after.sends - before.sends, 100u);
  // The initiator's one send may arrive in two pieces.
  EXPECT_LE(after.receives - before.receives, 200u);
  EXPECT_LE(after.copied_bytes - before.copied_bytes, 100u * 4096);
}

}  // namespace
}  // namespace umblock::iscsi
