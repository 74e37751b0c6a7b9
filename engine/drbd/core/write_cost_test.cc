// What one replicated write costs in the engine: no heap allocation once it is warm, no copy of a
// payload of 64 KiB and more. On the real runtime, two resources in one reactor over loopback. A
// program of its own, because it replaces operator new.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <new>

#include "engine/block/backends/backend.h"
#include "engine/drbd/resource.h"
#include "engine/runtime/uring/reactor_thread.h"

namespace {
thread_local uint64_t allocations = 0;
thread_local bool tracing = false;
}  // namespace

void* operator new(size_t bytes) {
  ++allocations;
  void* memory = std::malloc(bytes);
  if (memory == nullptr) std::abort();
  if (tracing && std::getenv("UMBLOCK_TEST_ABORT_ON_ALLOCATION") != nullptr) std::abort();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace umblock::drbd {
namespace {

constexpr uint64_t kDiskBytes = uint64_t{64} << 20;

struct Node {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Resource> resource;
};

SocketAddress AddressOf(int node, uint16_t port) {
  return SocketAddress::Ipv4({127, 0, 0, static_cast<uint8_t>(1 + node)}, port);
}

void Check(const Status& status) {
  EXPECT_TRUE(status) << (status ? "" : status.error().ToString());
}

class WriteCostTest : public ::testing::Test {
 protected:
  Task<void> BringUp(Protocol protocol) {
    auto port = static_cast<uint16_t>(20000 + getpid() % 20000 + static_cast<int>(protocol));
    for (int i = 0; i < 2; ++i) {
      Node& node = nodes_[i];
      paths_[i] = "/dev/shm/umblock-write-cost-" + std::to_string(getpid()) + "-" +
                  std::to_string(i) + "-" + std::to_string(static_cast<int>(protocol));
      auto backend = co_await OpenBackend(reactor_, {.name = "ram" + std::to_string(i),
                                                     .kind = BackendKind::kRam,
                                                     .path = paths_[i],
                                                     .size = kDiskBytes,
                                                     .create = true});
      EXPECT_TRUE(backend);
      if (!backend) co_return;
      node.backend = std::move(*backend);
      node.resource = std::make_unique<Resource>(
          reactor_, ResourceConfig{.name = "r0", .node_id = i, .options = {}}, nullptr);
      Check(
          co_await CreateMetadata({.backing = node.backend.get(), .max_peers = 1, .force = true}));
      Check(node.resource->AddVolume({.number = 0, .size = 0, .disk = {}}));
      PeerConfig peer;
      peer.node_id = 1 - i;
      peer.name = "peer";
      peer.paths = {{AddressOf(i, port), AddressOf(1 - i, port)}};
      peer.net.protocol = protocol;
      peer.net.socket_check_timeout = 10ms;
      Check(node.resource->AddPeer(peer));
      Check(co_await node.resource->Attach({.volume = 0, .backing = node.backend.get()}));
    }
    for (int i = 0; i < 2; ++i) Check(co_await nodes_[i].resource->Connect(1 - i, {}));
    co_await WaitUntil([this] {
      return nodes_[0].resource->status().connections[0].volumes[0].replication ==
                 ReplicationState::kEstablished &&
             nodes_[1].resource->status().connections[0].volumes[0].replication ==
                 ReplicationState::kEstablished;
    });
    Check(co_await nodes_[0].resource->NewCurrentUuid(0, true));
    co_await WaitUntil([this] {
      return nodes_[0].resource->status().connections[0].volumes[0].peer_disk ==
             DiskState::kUpToDate;
    });
    Check(co_await nodes_[0].resource->Promote(false));
  }
  Task<void> TearDownNodes() {
    for (Node& node : nodes_) {
      if (node.resource != nullptr) co_await node.resource->Stop();
      node.resource.reset();
      if (node.backend != nullptr) co_await node.backend->Stop();
      node.backend.reset();
    }
    for (const std::string& path : paths_) std::filesystem::remove(path);
  }
  template <typename Condition>
  Task<void> WaitUntil(Condition condition) {
    for (int i = 0; i < 20000 && !condition(); ++i) co_await Sleep(reactor_, 1ms);
    EXPECT_TRUE(condition());
  }
  // `depth` writes at a time, all answered, then a moment for barrier and peer ack.
  Task<void> Round(size_t bytes, int depth) {
    TaskGroup group(reactor_);
    for (int i = 0; i < depth; ++i) group.Spawn(OneWrite(bytes, static_cast<uint64_t>(i)));
    co_await group.Join();
  }
  Task<void> OneWrite(size_t bytes, uint64_t at) {
    iovec part{data_.data(), bytes};
    int error = co_await nodes_[0].resource->volume(0)->Write(at * bytes, {&part, 1}, false);
    if (error != 0) ++errors_;
  }

  std::unique_ptr<ReactorThread> thread_ = *ReactorThread::Start({});
  UringReactor& reactor_ = thread_->reactor();
  Node nodes_[2];
  std::string paths_[2];
  std::vector<std::byte> data_ = std::vector<std::byte>(1 << 20, std::byte{0x5a});
  int errors_ = 0;
};

TEST_F(WriteCostTest, AWarmWriteAllocatesNothing) {
  for (Protocol protocol : {Protocol::kA, Protocol::kB, Protocol::kC}) {
    thread_->RunTask([&]() -> Task<void> {
      co_await BringUp(protocol);
      for (size_t bytes : {size_t{4096}, size_t{65536}}) {
        // Pools and queues grow to what the load needs: a larger one than what is measured.
        for (int i = 0; i < 400; ++i) co_await Round(bytes, 1 + i % 32);
        co_await Sleep(reactor_, 300ms);
        uint64_t before = allocations;
        tracing = true;
        for (int i = 0; i < 300; ++i) co_await Round(bytes, 1 + i % 12);
        tracing = false;
        EXPECT_EQ(allocations - before, 0u)
            << "protocol " << static_cast<int>(protocol) << ", " << bytes << " bytes";
      }
      co_await TearDownNodes();
    });
  }
  EXPECT_EQ(errors_, 0);
}

TEST_F(WriteCostTest, PayloadsOf64KiBAndMoreAreNotCopied) {
  thread_->RunTask([&]() -> Task<void> {
    co_await BringUp(Protocol::kC);
    for (size_t bytes : {size_t{65536}, size_t{262144}, size_t{1} << 20}) {
      co_await Round(bytes, 4);  // the first behind small packets
      uint64_t before = nodes_[1].resource->status().connections[0].copied_bytes;
      for (int i = 0; i < 50; ++i) co_await Round(bytes, 4);
      EXPECT_EQ(nodes_[1].resource->status().connections[0].copied_bytes - before, 0u) << bytes;
    }
    co_await TearDownNodes();
  });
  EXPECT_EQ(errors_, 0);
}

TEST_F(WriteCostTest, SmallPayloadsAreCopiedOnce) {
  thread_->RunTask([&]() -> Task<void> {
    co_await BringUp(Protocol::kC);
    co_await Round(4096, 1);
    uint64_t before = nodes_[1].resource->status().connections[0].copied_bytes;
    for (int i = 0; i < 50; ++i) co_await Round(4096, 2);
    EXPECT_EQ(nodes_[1].resource->status().connections[0].copied_bytes - before, 100u * 4096);
    co_await TearDownNodes();
  });
}

}  // namespace
}  // namespace umblock::drbd
