// Bench: a Cluster with requests that are under way while the test does something else, and with
// the acts that most tests begin with.
#pragma once

#include <cerrno>
#include <cstring>

#include "engine/drbd/core/testing/cluster.h"
#include "engine/drbd/core/testing/packet_log.h"

namespace umblock::drbd::testing {

// A request of the front. Its memory lives as long as the Bench: a crashed node never lets go.
struct FrontIo : BlockIo {
  FrontIo() : BlockIo(&FrontIo::Done) {}
  std::vector<std::byte> data;
  iovec part{};
  int completions = 0;
  int error = -1;
  SimTime issued{};
  SimTime ended{};
  SimWorld* world = nullptr;
  std::function<void()> on_done;

  bool answered() const { return completions > 0; }
  bool ok() const { return completions == 1 && error == 0; }

 private:
  static void Done(BlockIo* self, int error) noexcept {
    auto* front = static_cast<FrontIo*>(self);
    ++front->completions;
    front->error = error;
    front->ended = front->world->now();
    if (front->on_done) front->on_done();
  }
};

inline ClusterOptions Options(uint64_t seed = 1, Protocol protocol = Protocol::kC) {
  ClusterOptions options;
  options.seed = seed;
  options.net.protocol = protocol;
  return options;
}

inline std::string Text(const Status& status) { return status ? "ok" : status.error().ToString(); }

// Destroyed after the cluster, whose devices hold requests to the end.
struct FrontStore {
  std::vector<std::unique_ptr<FrontIo>> front_;
};

class Bench : private FrontStore, public Cluster {
 public:
  explicit Bench(const ClusterOptions& options)
      : Cluster(WithLog(options)), log(world()), programs_of_ours_(options.nodes) {}
  ~Bench() { log.on_packet = nullptr; }

  PacketLog log;

  static ClusterOptions WithLog(ClusterOptions options) {
    if (std::getenv("UMBLOCK_TEST_LOG") != nullptr) options.verbose = true;
    return options;
  }

  FrontIo* Submit(int i, IoOp op, uint64_t offset, uint64_t bytes, uint8_t fill = 0,
                  bool fua = false, int number = 0) {
    FrontIo* front = Make();
    front->op = op;
    front->offset = offset;
    front->length = bytes;
    front->fua = fua;
    if (op == IoOp::kRead || op == IoOp::kWrite) {
      front->data.assign(bytes, static_cast<std::byte>(fill));
      front->part = {front->data.data(), front->data.size()};
      front->iov = {&front->part, 1};
    }
    front->issued = world().now();
    BlockDevice* device = &volume(i, number);
    node(i).reactor()->Spawn([](FrontIo* f, BlockDevice* d) -> Task<void> {
      d->Submit(f);
      co_return;
    }(front, device));
    return front;
  }
  FrontIo* StartWrite(int i, uint64_t offset, uint64_t bytes, uint8_t fill, int number = 0) {
    return Submit(i, IoOp::kWrite, offset, bytes, fill, false, number);
  }
  // Submits and waits. 0 or an errno; -1 if it did not end in time.
  int Do(int i, IoOp op, uint64_t offset, uint64_t bytes, uint8_t fill = 0, bool fua = false,
         int number = 0) {
    FrontIo* front = Submit(i, op, offset, bytes, fill, fua, number);
    RunUntil([&] { return front->answered(); }, 120s);
    return front->error;
  }
  bool AllDone() const {
    return std::all_of(front_.begin(), front_.end(), [](auto& f) { return f->answered(); });
  }
  // Every request of the test was answered once.
  void ExpectAnsweredOnce() const {
    for (const auto& front : front_) EXPECT_EQ(front->completions, 1);
  }

  Status Promote(int i, bool force = false) { return Await(i, resource(i).Promote(force)); }
  Status Demote(int i, bool force = false) { return Await(i, resource(i).Demote(force)); }
  Status Detach(int i, int number = 0) { return Await(i, resource(i).Detach(number, false)); }
  Status Attach(int i, int number = 0) {
    return Await(
        i, resource(i).Attach({.volume = number, .backing = program(i).backends[number].get()}));
  }
  Status Connect(int i, int peer, ConnectOptions options = {}) {
    return Await(i, resource(i).Connect(peer, options));
  }
  Status Disconnect(int i, int peer, bool force = false) {
    return Await(i, resource(i).Disconnect(peer, force));
  }
  // Up, equal, connected; node 0 Primary.
  void BringUpPrimary() {
    BringUp();
    Status promoted = Promote(0);
    ASSERT_TRUE(promoted) << Text(promoted);
  }
  ::testing::AssertionResult BecomesUpToDate(Duration bound = 120s) {
    if (RunUntil([&] { return AllUpToDate(); }, bound)) return ::testing::AssertionSuccess();
    std::string text;
    for (int i = 0; i < programs_of_ours_; ++i) {
      if (node(i).running()) text += Describe(i);
    }
    return ::testing::AssertionFailure() << "not all UpToDate:" << text;
  }
  std::string Describe(int i) {
    std::string text = fmt::format("\n  node {}: {}", i, RoleName(status(i).role));
    for (const VolumeStatus& v : status(i).volumes) {
      text += fmt::format(" volume {} {}", v.number, DiskStateName(v.disk));
    }
    for (const ConnectionStatus& link : status(i).connections) {
      text += fmt::format("; to {} {} ({})", link.peer_node_id, ConnectionStateName(link.state),
                          link.last_error);
      for (const PeerVolumeStatus& v : link.volumes) {
        text +=
            fmt::format(" {} {} oos {} pending {} unacked {}", ReplicationStateName(v.replication),
                        DiskStateName(v.peer_disk), v.out_of_sync_bytes, v.pending, v.unacked);
      }
    }
    return text;
  }
  // Nothing is left over when nothing goes on (drbd-io-path.md K 90).
  void ExpectIdleCounters() {
    RunFor(500ms);
    for (int i = 0; i < programs_of_ours_; ++i) {
      if (!node(i).running()) continue;
      SCOPED_TRACE(i);
      for (const VolumeStatus& v : status(i).volumes) {
        EXPECT_EQ(v.counters.upper_pending, 0u);
        EXPECT_EQ(v.counters.lower_pending, 0u);
      }
      for (const ConnectionStatus& link : status(i).connections) {
        EXPECT_EQ(link.ap_in_flight_bytes, 0u);
        EXPECT_EQ(link.rs_in_flight_bytes, 0u);
        for (const PeerVolumeStatus& v : link.volumes) {
          EXPECT_EQ(v.pending, 0u);
          EXPECT_EQ(v.unacked, 0u);
        }
      }
    }
  }
  void RunFor(Duration duration) { world().RunFor(duration); }

  // The connection that carries data (or control) now, and the end of it that is on node i.
  std::shared_ptr<SimConnection> DataLink() { return Find(log.data_connection()); }
  std::shared_ptr<SimConnection> ControlLink() { return Find(log.control_connection()); }
  int EndOf(const SimConnection& link, int i) { return &link.node(0) == &node(i) ? 0 : 1; }

  VolumeStatus volume_status(int i, int number = 0) {
    return status(i).volumes.at(static_cast<size_t>(number));
  }
  PeerVolumeStatus peer_volume(int i, int number = 0) {
    return status(i).connections.at(0).volumes.at(static_cast<size_t>(number));
  }
  std::string last_error(int i) { return status(i).connections.at(0).last_error; }
  bool SawEvent(int i, std::string_view attribute, std::string_view value) {
    for (const StateEvent& event : program(i).events) {
      if (event.attribute == attribute && event.new_value == value) return true;
    }
    return false;
  }
  bool StableIs(int i, uint64_t offset, size_t bytes, uint8_t fill, int number = 0) {
    std::vector<std::byte> got(bytes);
    disk(i, number).ReadStable(offset, got);
    return std::all_of(got.begin(), got.end(),
                       [fill](std::byte b) { return b == static_cast<std::byte>(fill); });
  }
  bool NowIs(int i, uint64_t offset, size_t bytes, uint8_t fill, int number = 0) {
    std::vector<std::byte> got(bytes);
    disk(i, number).ReadNow(offset, got);
    return std::all_of(got.begin(), got.end(),
                       [fill](std::byte b) { return b == static_cast<std::byte>(fill); });
  }
  // What the front reads. Empty on an error.
  std::vector<std::byte> ReadFront(int i, uint64_t offset, size_t bytes, int number = 0) {
    FrontIo* front = Submit(i, IoOp::kRead, offset, bytes, 0xee, false, number);
    RunUntil([&] { return front->answered(); }, 120s);
    return front->ok() ? front->data : std::vector<std::byte>();
  }

 private:
  FrontIo* Make() {
    front_.push_back(std::make_unique<FrontIo>());
    front_.back()->world = &world();
    return front_.back().get();
  }
  std::shared_ptr<SimConnection> Find(uint64_t id) {
    for (auto& link : world().network().Connections(node(0), node(1))) {
      if (link->id() == id) return link;
    }
    return nullptr;
  }

  int programs_of_ours_;
};

}  // namespace umblock::drbd::testing
