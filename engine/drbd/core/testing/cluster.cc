#include "engine/drbd/core/testing/cluster.h"

#include <cstring>

namespace umblock::drbd::testing {
namespace {

struct Observer final : ResourceObserver {
  std::vector<StateEvent>* events = nullptr;
  void OnStateChange(const std::vector<StateEvent>& changes) override {
    events->insert(events->end(), changes.begin(), changes.end());
  }
};

SocketAddress AddressOf(int i) {
  return SocketAddress::Ipv4({192, 0, 2, static_cast<uint8_t>(11 + i)}, 7789);
}

Task<void> Capture(Task<Status> task, std::shared_ptr<std::optional<Status>> result) {
  Status status = co_await std::move(task);
  result->emplace(std::move(status));
}

Task<Status> OpenOne(Reactor& reactor, BackendSpec spec, std::unique_ptr<Backend>* into) {
  Result<std::unique_ptr<Backend>> backend = co_await OpenBackend(reactor, spec);
  if (!backend) co_return std::unexpected(backend.error());
  *into = std::move(*backend);
  co_return Ok();
}

Task<Status> DoIo(BlockDevice& device, IoOp op, uint64_t offset, std::vector<std::byte>* data,
                  bool fua, int* error) {
  iovec part{data->data(), data->size()};
  if (op == IoOp::kRead) {
    *error = co_await device.Read(offset, {&part, 1});
  } else if (op == IoOp::kWrite) {
    *error = co_await device.Write(offset, {&part, 1}, fua);
  } else {
    *error = co_await device.Flush();
  }
  co_return Ok();
}

}  // namespace

Cluster::Cluster(ClusterOptions options) : options_(std::move(options)) {
  world_ = std::make_unique<SimWorld>(options_.seed);
  handlers_.resize(static_cast<size_t>(options_.nodes));
  if (options_.verbose) world_->set_log_to_stderr(true);
  for (int i = 0; i < options_.nodes; ++i) {
    SimNode* node = world_->AddNode({"node" + std::to_string(i), {AddressOf(i)}});
    for (int v = 0; v < options_.volumes; ++v) {
      SimDiskOptions disk;
      disk.size = options_.disk_bytes;
      disk.volatile_cache = options_.volatile_cache;
      node->files().Create(DiskName(v), disk);
    }
    if (options_.external_metadata) {
      SimDiskOptions disk;
      disk.size = uint64_t{4} << 20;
      node->files().Create("meta", disk);
    }
    nodes_.push_back(node);
    programs_.push_back(nullptr);
  }
  for (int i = 0; i < options_.nodes; ++i) StartProgram(i);
}

Cluster::~Cluster() {
  for (int i = 0; i < options_.nodes; ++i) {
    if (!node(i).running()) continue;
    auto stop = [](Resource& resource) -> Task<Status> {
      co_await resource.Stop();
      co_return Ok();
    };
    if (!world_->failed()) EXPECT_TRUE(Await(i, stop(resource(i)))) << "node " << i;
    auto stop_backend = [](Backend& backend) -> Task<Status> {
      co_await backend.Stop();
      co_return Ok();
    };
    for (auto& backend : program(i).backends) {
      if (backend && !world_->failed()) EXPECT_TRUE(Await(i, stop_backend(*backend)));
    }
    if (!world_->failed()) node(i).Shutdown();
  }
  if (world_->failed() || ::testing::Test::HasFailure()) {
    if (!options_.verbose) {
      for (const std::string& line : world_->recent_log()) fprintf(stderr, "%s\n", line.c_str());
    }
    EXPECT_FALSE(world_->failed()) << world_->failure();
  }
}

void Cluster::StartProgram(int i) {
  node(i).Start([this, i](SimNode& self) {
    SimReactor* reactor = self.AddReactor();
    auto* observer = self.Make<Observer>();
    auto* made = self.Make<Program>();
    observer->events = &made->events;
    made->runner = std::make_unique<umblock::testing::ScriptedRunner>(*reactor, handlers(i));
    made->resource =
        std::make_unique<Resource>(*reactor,
                                   ResourceConfig{.name = "r0",
                                                  .node_id = i,
                                                  .options = options_.resource,
                                                  .handlers = options_.handlers,
                                                  .node_name = "node" + std::to_string(i)},
                                   observer, made->runner.get());
    programs_[static_cast<size_t>(i)] = made;
  });
}

SimDisk& Cluster::disk(int i, int volume) { return *node(i).files().Find(DiskName(volume)); }

std::shared_ptr<std::optional<Status>> Cluster::Start(int i, Task<Status> task) {
  auto result = std::make_shared<std::optional<Status>>();
  kept_.push_back(result);
  node(i).reactor()->Spawn(Capture(std::move(task), result));
  return result;
}

Status Cluster::Await(int i, Task<Status> task, Duration bound) {
  auto result = Start(i, std::move(task));
  bool ended = world_->RunUntil([&] { return result->has_value(); }, bound);
  if (!ended) {
    ADD_FAILURE() << "a task did not end in time: " << world_->failure();
    return MakeError(ErrorCode::kDeadlineExceeded, "the task did not end");
  }
  return **result;
}

PeerConfig Cluster::PeerOf(int i, int peer) const {
  PeerConfig config;
  config.node_id = peer;
  config.name = "node" + std::to_string(peer);
  config.paths = {{AddressOf(i), AddressOf(peer)}};
  config.net = options_.net;
  config.resync = options_.resync;
  return config;
}

namespace {
Task<Status> Prepare(Cluster* cluster, int i, ClusterOptions options, bool create) {
  Program& program = cluster->program(i);
  auto metadata = [&](int v) -> Backend* {
    return options.external_metadata && v == 0 ? program.backends[3].get() : nullptr;
  };
  if (options.external_metadata) {
    BackendSpec spec;
    spec.name = spec.path = "meta";
    UMBLOCK_CO_TRY(co_await OpenOne(*cluster->node(i).reactor(), spec, &program.backends[3]));
  }
  for (int v = 0; v < options.volumes; ++v) {
    BackendSpec spec;
    spec.name = "disk" + std::to_string(v);
    spec.path = spec.name;
    UMBLOCK_CO_TRY(co_await OpenOne(*cluster->node(i).reactor(), spec, &program.backends[v]));
    if (create) {
      UMBLOCK_CO_TRY(co_await CreateMetadata({.backing = program.backends[v].get(),
                                              .metadata = metadata(v),
                                              .max_peers = options.max_peers}));
    }
    UMBLOCK_CO_TRY(program.resource->AddVolume({.number = v, .size = 0, .disk = options.disk}));
  }
  for (int peer = 0; peer < options.nodes; ++peer) {
    if (peer != i) UMBLOCK_CO_TRY(program.resource->AddPeer(cluster->PeerOf(i, peer)));
  }
  for (int v = 0; v < options.volumes; ++v) {
    UMBLOCK_CO_TRY(co_await program.resource->Attach({.volume = v,
                                                      .backing = program.backends[v].get(),
                                                      .metadata = metadata(v),
                                                      .last_known_size = options.last_known_size}));
  }
  co_return Ok();
}
}  // namespace

void Cluster::CreateAll() {
  for (int i = 0; i < options_.nodes; ++i) {
    Status status = Await(i, Prepare(this, i, options_, true));
    ASSERT_TRUE(status) << status.error().ToString();
  }
}

void Cluster::ConnectAll() {
  for (int i = 0; i < options_.nodes; ++i) {
    for (int peer = 0; peer < options_.nodes; ++peer) {
      if (peer == i) continue;
      Status status = Await(i, resource(i).Connect(peer, {}));
      ASSERT_TRUE(status) << status.error().ToString();
    }
  }
}

void Cluster::Boot(int i) {
  StartProgram(i);
  Status status = Await(i, Prepare(this, i, options_, false));
  ASSERT_TRUE(status) << status.error().ToString();
  for (int peer = 0; peer < options_.nodes; ++peer) {
    if (peer == i) continue;
    status = Await(i, resource(i).Connect(peer, {}));
    ASSERT_TRUE(status) << status.error().ToString();
  }
}

void Cluster::BringUp() {
  CreateAll();
  ConnectAll();
  ASSERT_TRUE(RunUntil([&] {
    for (int i = 0; i < options_.nodes; ++i) {
      for (int peer = 0; peer < options_.nodes; ++peer) {
        if (peer != i && repl(i, peer) != ReplicationState::kEstablished) return false;
      }
    }
    return true;
  }));
  for (int v = 0; v < options_.volumes; ++v) {
    Status status = Await(0, resource(0).NewCurrentUuid(v, true));
    ASSERT_TRUE(status) << status.error().ToString();
  }
  ASSERT_TRUE(RunUntil([&] { return AllUpToDate(); }));
}

bool Cluster::AllUpToDate() {
  for (int i = 0; i < options_.nodes; ++i) {
    if (!node(i).running()) return false;
    for (const VolumeStatus& v : status(i).volumes) {
      if (v.disk != DiskState::kUpToDate) return false;
    }
    for (const ConnectionStatus& link : status(i).connections) {
      for (const PeerVolumeStatus& v : link.volumes) {
        if (v.replication != ReplicationState::kEstablished ||
            v.peer_disk != DiskState::kUpToDate) {
          return false;
        }
      }
    }
  }
  return true;
}

DiskState Cluster::disk_state(int i, int volume) {
  return status(i).volumes.at(static_cast<size_t>(volume)).disk;
}

ConnectionState Cluster::connection(int i, int peer) {
  for (const ConnectionStatus& link : status(i).connections) {
    if (link.peer_node_id == peer) return link.state;
  }
  return ConnectionState::kStandAlone;
}

ReplicationState Cluster::repl(int i, int peer, int volume) {
  for (const ConnectionStatus& link : status(i).connections) {
    if (link.peer_node_id == peer) {
      return link.volumes.at(static_cast<size_t>(volume)).replication;
    }
  }
  return ReplicationState::kOff;
}

uint64_t Cluster::out_of_sync(int i, int peer, int volume) {
  for (const ConnectionStatus& link : status(i).connections) {
    if (link.peer_node_id == peer) {
      return link.volumes.at(static_cast<size_t>(volume)).out_of_sync_bytes;
    }
  }
  return 0;
}

int Cluster::Write(int i, uint64_t offset, size_t bytes, uint8_t fill, bool fua, int number) {
  auto data = std::make_shared<std::vector<std::byte>>(bytes, static_cast<std::byte>(fill));
  auto error = std::make_shared<int>(-1);
  kept_.push_back(data);
  kept_.push_back(error);
  (void)Await(i, DoIo(volume(i, number), IoOp::kWrite, offset, data.get(), fua, error.get()));
  return *error;
}

int Cluster::Read(int i, uint64_t offset, std::vector<std::byte>* into, int number) {
  auto error = std::make_shared<int>(-1);
  kept_.push_back(error);
  (void)Await(i, DoIo(volume(i, number), IoOp::kRead, offset, into, false, error.get()));
  return *error;
}

int Cluster::Flush(int i, int number) {
  auto data = std::make_shared<std::vector<std::byte>>();
  auto error = std::make_shared<int>(-1);
  kept_.push_back(data);
  kept_.push_back(error);
  (void)Await(i, DoIo(volume(i, number), IoOp::kFlush, 0, data.get(), false, error.get()));
  return *error;
}

uint8_t Cluster::ByteOnDisk(int i, uint64_t offset, int volume) {
  std::byte byte[512];
  disk(i, volume).ReadNow(offset / 512 * 512, byte);
  return static_cast<uint8_t>(byte[offset % 512]);
}

::testing::AssertionResult Cluster::Equal(int a, int b, int volume) {
  uint64_t size = status(a).volumes.at(static_cast<size_t>(volume)).size_bytes;
  const SimDisk& one = disk(a, volume);
  const SimDisk& other = disk(b, volume);
  std::vector<std::byte> left(4096);
  std::vector<std::byte> right(4096);
  for (uint64_t at = 0; at < size; at += 4096) {
    if (!one.PageInUse(at / 4096) && !other.PageInUse(at / 4096)) continue;
    size_t length = std::min<uint64_t>(4096, size - at);
    one.ReadNow(at, {left.data(), length});
    other.ReadNow(at, {right.data(), length});
    if (std::memcmp(left.data(), right.data(), length) != 0) {
      return ::testing::AssertionFailure()
             << "nodes " << a << " and " << b << " differ in the block at " << at;
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace umblock::drbd::testing
