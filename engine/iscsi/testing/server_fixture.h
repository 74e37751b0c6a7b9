// ServerTest: the target as initiators see it, over loopback TCP on io_uring: a raw initiator in
// the test's thread, the server on a reactor thread.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "engine/iscsi/server.h"
#include "engine/iscsi/testing/initiator.h"
#include "engine/runtime/uring/reactor_thread.h"
#include "engine/scsi/testing/memory_device.h"

namespace umblock::iscsi {

inline constexpr char kDisk[] = "iqn.2026-01.test:disk";
inline constexpr char kOther[] = "iqn.2026-01.test:other";
inline constexpr uint64_t kSize = uint64_t{8} << 20;

inline std::string Pattern(size_t length, char seed) {
  std::string data(length, seed);
  for (size_t i = 0; i < length; ++i) data[i] = static_cast<char>(seed + i * 31 + i / 4096);
  return data;
}

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override { Start({}); }
  void Start(ServerOptions options) {
    auto thread = ReactorThread::Start({.name = "iscsi test", .uring = {.logger = &logger_}});
    ASSERT_TRUE(thread) << thread.error().message();
    thread_ = std::move(*thread);
    Run([&] {
      device_ = std::make_unique<scsi::MemoryDevice>(thread_->reactor(), kSize, "volume r0/0");
      server_ = std::make_unique<IscsiTargetServer>(thread_->reactor(), options);
      EXPECT_TRUE(server_->CreateTarget(kDisk, {}));
      EXPECT_TRUE(server_->AddLun(kDisk, 0, device_.get(), {.serial = "r0-0"}));
      auto portal = server_->AddPortal(*SocketAddress::Parse("127.0.0.1:0"));
      ASSERT_TRUE(portal) << portal.error().message();
      address_ = *portal;
    });
  }
  void TearDown() override { Stop(); }
  void Stop() {
    if (!thread_) return;
    Run([&] { device_->ReleaseHeld(); });
    thread_->RunTask([&]() -> Task<void> { co_await server_->Stop(); });
    Run([&] {
      server_.reset();
      device_.reset();
      second_.reset();
    });
    thread_.reset();
  }
  void Restart(ServerOptions options) {
    Stop();
    Start(std::move(options));
  }
  // Runs a plain function on the reactor.
  template <typename Function>
  void Run(Function function) {
    thread_->RunTask([&]() -> Task<void> {
      function();
      co_return;
    });
  }
  ServerStatus Status() {
    return thread_->RunTask([&]() -> Task<ServerStatus> { co_return server_->status(); });
  }
  // Waits until the target has noticed.
  template <typename Condition>
  bool Eventually(Condition condition) {
    return thread_->RunTask([&]() -> Task<bool> {
      for (int i = 0; i < 5000; ++i) {
        if (condition()) co_return true;
        co_await Sleep(thread_->reactor(), 1ms);
      }
      co_return false;
    });
  }

  StderrLogger logger_{LogLevel::kError};
  std::unique_ptr<ReactorThread> thread_;
  std::unique_ptr<scsi::MemoryDevice> device_, second_;
  std::unique_ptr<IscsiTargetServer> server_;
  SocketAddress address_;
};

}  // namespace umblock::iscsi
