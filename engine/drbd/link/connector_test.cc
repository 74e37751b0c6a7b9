// Listeners and connectors of two simulated nodes.
#include "engine/drbd/link/connector.h"

#include <gtest/gtest.h>

#include <optional>

#include "engine/drbd/link/listener_pool.h"
#include "engine/drbd/wire/header.h"
#include "engine/runtime/sim/network.h"
#include "engine/runtime/sim/node.h"
#include "engine/runtime/sim/stream.h"

namespace umblock::drbd {
namespace {

const SocketAddress kAddress[2] = {SocketAddress::Ipv4({192, 0, 2, 1}, 7789),
                                   SocketAddress::Ipv4({192, 0, 2, 2}, 7789)};
const SocketAddress kStranger = SocketAddress::Ipv4({192, 0, 2, 9}, 0);

// What runs on a node that uses a Connector.
struct Side {
  Side(SimReactor& r, int index_of)
      : index(index_of), reactor(r), pool(r), connector(r, pool), group(r) {}
  int index;
  SimReactor& reactor;
  ListenerPool pool;
  Connector connector;
  TaskGroup group;
  std::unique_ptr<CancelSource> cancel = std::make_unique<CancelSource>();
  bool open = false;
  bool running = false;
  bool cancelled = false;
  std::optional<LinkSockets> sockets;

  uint64_t IdOf(const std::unique_ptr<Stream>& stream) const {
    return static_cast<SimStream&>(*stream).connection().id();
  }
};

Task<void> OpenIt(Side* side, NetOptions options, bool* ok) {
  Status status =
      co_await side->connector.Open({{kAddress[side->index], kAddress[1 - side->index]}}, options);
  *ok = status.has_value();
  side->open = status.has_value();
}
Task<void> RunIt(Side* side) {
  side->running = true;
  Result<LinkSockets> sockets = co_await side->connector.Run(*side->cancel);
  side->running = false;
  if (sockets) {
    side->sockets.emplace(std::move(*sockets));
  } else {
    side->cancelled = sockets.error().code() == ErrorCode::kCancelled;
  }
}
Task<void> CloseAll(Side* side) {
  if (side->sockets) {
    co_await side->sockets->data->Close();
    co_await side->sockets->control->Close();
    side->sockets.reset();
  }
  co_await side->connector.Close();
  co_await side->pool.Stop();
}

class Bench {
 public:
  explicit Bench(uint64_t seed = 1) : world(seed) {
    for (int i = 0; i < 2; ++i) {
      nodes[i] = world.AddNode({i == 0 ? "alfa" : "bravo", {kAddress[i].WithPort(0)}});
      nodes[i]->Start([this, i](SimNode& self) {
        SimReactor* reactor = self.AddReactor();
        sides[i] = self.Make<Side>(*reactor, i);
      });
    }
    other = world.AddNode({"charlie", {kStranger}});
    other->Start([](SimNode& self) { self.AddReactor(); });
  }
  ~Bench() {
    for (Side* side : sides) {
      side->cancel->Cancel();
      world.RunUntil([&] { return !side->running; }, 60s);
      EXPECT_FALSE(side->running);
      side->group.Spawn(CloseAll(side));
      world.RunUntil([&] { return side->group.running() == 0; }, 60s);
      EXPECT_EQ(side->group.running(), 0);
    }
    for (auto& stream : raw) other->reactor()->Spawn(stream->Close());
    world.RunFor(5s);
    raw.clear();
    for (SimNode* node : {nodes[0], nodes[1], other}) node->Shutdown();
    EXPECT_FALSE(world.failed()) << world.failure();
  }
  void Open(int i) {
    bool ok = false;
    sides[i]->group.Spawn(OpenIt(sides[i], options, &ok));
    ASSERT_TRUE(world.RunUntil([&] { return sides[i]->group.running() == 0; }, 10s));
    ASSERT_TRUE(ok);
  }
  void Run(int i) { sides[i]->group.Spawn(RunIt(sides[i])); }
  bool BothDone() const { return sides[0]->sockets && sides[1]->sockets; }
  void ExpectFit() {
    ASSERT_TRUE(BothDone());
    Side& a = *sides[0];
    Side& b = *sides[1];
    EXPECT_EQ(a.IdOf(a.sockets->data), b.IdOf(b.sockets->data));
    EXPECT_EQ(a.IdOf(a.sockets->control), b.IdOf(b.sockets->control));
    EXPECT_NE(a.IdOf(a.sockets->data), a.IdOf(a.sockets->control));
    // drbd-wire.md 1.5: exactly one side resolves conflicts, the acceptor of the control socket.
    EXPECT_NE(a.sockets->resolve_conflicts, b.sockets->resolve_conflicts);
    for (Side* side : sides) {
      EXPECT_EQ(static_cast<SimStream&>(*side->sockets->control).end() == 1,
                side->sockets->resolve_conflicts);
    }
  }
  // A socket made by hand, from `from` to bravo's or alfa's port.
  Stream* Dial(SimNode* from, int to, std::vector<std::byte> first) {
    struct Call {
      static Task<void> Do(SimReactor* reactor, SocketAddress local, SocketAddress remote,
                           std::vector<std::byte> bytes, std::unique_ptr<Stream>* into) {
        auto stream = co_await reactor->Connect(
            {.local = local, .bind_local = true, .remote = remote, .timeout = 5s}, {});
        if (!stream) co_return;
        if (!bytes.empty()) {
          iovec part{bytes.data(), bytes.size()};
          (void)co_await (*stream)->Send({&part, 1});
        }
        *into = std::move(*stream);
      }
    };
    std::unique_ptr<Stream> stream;
    from->reactor()->Spawn(Call::Do(from->reactor(), from->addresses()[0].WithPort(0), kAddress[to],
                                    std::move(first), &stream));
    world.RunUntil([&] { return stream != nullptr; }, 6s);
    if (stream == nullptr) return nullptr;
    raw.push_back(std::move(stream));
    return raw.back().get();
  }
  static std::vector<std::byte> Initial(wire::PacketType type) {
    std::vector<std::byte> bytes(wire::kMinHeaderSize);
    wire::EncodeHeader({.type = type, .volume = 0, .length = 0, .kind = wire::HeaderKind::kH80},
                       bytes);
    return bytes;
  }

  NetOptions options;
  SimWorld world;
  SimNode* nodes[2];
  SimNode* other;
  Side* sides[2] = {};
  std::vector<std::unique_ptr<Stream>> raw;
};

TEST(ConnectorTest, TwoNodesEndWithTheSameTwoSockets) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(seed);
    bench.Open(0);
    bench.Open(1);
    bench.Run(static_cast<int>(seed % 2));
    bench.world.RunFor(std::chrono::microseconds(bench.world.random().Below(3000)));
    bench.Run(static_cast<int>(1 - seed % 2));
    ASSERT_TRUE(bench.world.RunUntil([&] { return bench.BothDone(); }, 120s));
    bench.ExpectFit();
  }
}

TEST(ConnectorTest, RefusalsAndSlowLinksOnlyDelayIt) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(seed);
    Bench bench(seed);
    bench.world.network().set_refuse_permille(300);
    bench.world.network().link.max_latency = 200ms;
    bench.Open(0);
    bench.Open(1);
    bench.Run(0);
    bench.Run(1);
    bool done = false;
    // A side may be content while the other is not: as their owner does, it then tries again.
    ASSERT_TRUE(bench.world.RunUntil(
        [&] {
          done = bench.BothDone();
          return done;
        },
        300s));
  }
}

TEST(ConnectorTest, TheLaterNodeFindsTheOneThatWaits) {
  Bench bench(3);
  bench.Open(0);
  bench.Run(0);
  bench.world.RunFor(40s);
  EXPECT_FALSE(bench.sides[0]->sockets);
  bench.Open(1);
  bench.Run(1);
  SimTime before = bench.world.now();
  ASSERT_TRUE(bench.world.RunUntil([&] { return bench.BothDone(); }, 30s));
  EXPECT_LT(bench.world.now() - before, 3s) << "who accepts a socket opens the other at once";
  bench.ExpectFit();
}

// drbd-wire.md 1.2: it costs a passive wait, no more.
TEST(ConnectorTest, APeerThatOnlyListensGetsBothSockets) {
  Bench bench(4);
  bench.Open(0);
  bench.Open(1);  // bravo listens and files what comes, and does not dial
  bench.Run(0);
  ASSERT_TRUE(bench.world.RunUntil([&] { return bench.sides[0]->sockets.has_value(); }, 30s));
  EXPECT_FALSE(bench.sides[0]->sockets->resolve_conflicts);
  bench.Run(1);
  ASSERT_TRUE(bench.world.RunUntil([&] { return bench.BothDone(); }, 30s));
  bench.ExpectFit();
}

TEST(ConnectorTest, StrangersAreTurnedAway) {
  Bench bench(5);
  bench.Open(0);
  bench.Run(0);
  Stream* stranger = bench.Dial(bench.other, 0, Bench::Initial(wire::PacketType::kInitialData));
  ASSERT_NE(stranger, nullptr);
  bench.world.RunFor(3s);
  EXPECT_FALSE(stranger->IsEstablished());
  EXPECT_FALSE(bench.sides[0]->sockets);
}

TEST(ConnectorTest, SilentSocketsAndOtherFirstPacketsAreClosed) {
  Bench bench(6);
  bench.Open(0);
  bench.Run(0);
  std::vector<std::byte> half = Bench::Initial(wire::PacketType::kInitialData);
  half.resize(5);
  std::vector<std::byte> features(wire::kMinHeaderSize);
  wire::EncodeHeader({.type = wire::PacketType::kConnectionFeatures,
                      .volume = 0,
                      .length = 72,
                      .kind = wire::HeaderKind::kH80},
                     features);
  std::vector<std::byte> junk(8, std::byte{0x41});
  std::vector<Stream*> sockets = {
      bench.Dial(bench.nodes[1], 0, {}), bench.Dial(bench.nodes[1], 0, half),
      bench.Dial(bench.nodes[1], 0, features), bench.Dial(bench.nodes[1], 0, junk)};
  bench.world.RunFor(4 * bench.options.ping_timeout + 500ms);
  for (Stream* each : sockets) {
    ASSERT_NE(each, nullptr);
    EXPECT_FALSE(each->IsEstablished());
  }
  EXPECT_FALSE(bench.sides[0]->sockets);
}

TEST(ConnectorTest, AFloodOfSilentSocketsIsBounded) {
  Bench bench(7);
  bench.Open(0);
  bench.Run(0);
  std::vector<Stream*> sockets;
  for (int i = 0; i < 40; ++i) sockets.push_back(bench.Dial(bench.nodes[1], 0, {}));
  size_t open = 0;
  for (Stream* each : sockets) open += each != nullptr && each->IsEstablished() ? 1 : 0;
  EXPECT_LE(open, 17u);
  // And the peer gets in once they are gone.
  bench.Open(1);
  bench.Run(1);
  ASSERT_TRUE(bench.world.RunUntil([&] { return bench.BothDone(); }, 60s));
}

TEST(ConnectorTest, ManyIdentifiedSocketsWithoutARunAreBounded) {
  Bench bench(8);
  bench.Open(0);
  std::vector<Stream*> sockets;
  for (int i = 0; i < 20; ++i) {
    sockets.push_back(
        bench.Dial(bench.nodes[1], 0, Bench::Initial(wire::PacketType::kInitialMeta)));
  }
  bench.world.RunFor(1s);
  size_t open = 0;
  for (Stream* each : sockets) open += each != nullptr && each->IsEstablished() ? 1 : 0;
  EXPECT_LE(open, 4u);
}

TEST(ConnectorTest, CanBeCancelledAtAnyTime) {
  for (uint64_t step = 0; step < 60; ++step) {
    SCOPED_TRACE(step);
    Bench bench(100 + step);
    bench.Open(0);
    bench.Open(1);
    bench.Run(0);
    bench.Run(1);
    bench.world.RunFor(std::chrono::microseconds(step * step * 300));
    bench.sides[0]->cancel->Cancel();
    ASSERT_TRUE(bench.world.RunUntil([&] { return !bench.sides[0]->running; }, 5s));
    EXPECT_NE(bench.sides[0]->cancelled, bench.sides[0]->sockets.has_value());
  }
}

TEST(ConnectorTest, WithoutAPathItSaysSo) {
  Bench bench(9);
  std::optional<Status> status;
  struct Call {
    static Task<void> Do(Side* side, std::optional<Status>* into) {
      into->emplace(co_await side->connector.Open({}, {}));
    }
  };
  bench.sides[0]->group.Spawn(Call::Do(bench.sides[0], &status));
  bench.world.RunFor(1s);
  ASSERT_TRUE(status.has_value());
  ASSERT_FALSE(*status);
  EXPECT_NE(status->error().message().find("path"), std::string::npos);
}

// --- listeners
// ----------------------------------------------------------------------------------

struct Client final : ListenerPool::Client {
  std::vector<IncomingSocket> got;
  void OnIncoming(IncomingSocket socket) override { got.push_back(std::move(socket)); }
};

TEST(ListenerPoolTest, AnAddressInUseIsNamed) {
  Bench bench(10);
  bench.Open(0);
  Client client;
  struct Call {
    static Task<void> Do(Side* side, Client* c, SocketAddress local, std::optional<Status>* into) {
      ListenerPool second(side->reactor);
      into->emplace(co_await second.Register(local, kAddress[1], 2s, {}, c));
      if (*into) {
        second.Unregister(local, c);
      }
      co_await second.Stop();
    }
  };
  std::optional<Status> status;
  bench.sides[0]->group.Spawn(Call::Do(bench.sides[0], &client, kAddress[0], &status));
  bench.world.RunFor(1s);
  ASSERT_TRUE(status.has_value());
  ASSERT_FALSE(*status);
  EXPECT_NE(status->error().message().find("192.0.2.1:7789"), std::string::npos)
      << status->error().message();
}

TEST(ListenerPoolTest, TwoPeersShareAListenerByTheirHosts) {
  Bench bench(11);
  Side* side = bench.sides[0];
  Client bravo, charlie;
  struct Call {
    static Task<void> Do(Side* s, SocketAddress remote, Client* c, bool* ok) {
      Status status = co_await s->pool.Register(kAddress[0], remote, 2s, {}, c);
      *ok = status.has_value();
    }
    static Task<void> CloseStreams(Client* c) {
      for (IncomingSocket& socket : c->got) co_await socket.stream->Close();
      c->got.clear();
    }
  };
  bool ok[2] = {};
  side->group.Spawn(Call::Do(side, kAddress[1], &bravo, &ok[0]));
  side->group.Spawn(Call::Do(side, kStranger.WithPort(7789), &charlie, &ok[1]));
  bench.world.RunFor(100ms);
  ASSERT_TRUE(ok[0] && ok[1]);
  bench.Dial(bench.nodes[1], 0, Bench::Initial(wire::PacketType::kInitialData));
  bench.Dial(bench.other, 0, Bench::Initial(wire::PacketType::kInitialMeta));
  bench.world.RunFor(1s);
  ASSERT_EQ(bravo.got.size(), 1u);
  EXPECT_EQ(bravo.got[0].kind, wire::SocketKind::kData);
  ASSERT_EQ(charlie.got.size(), 1u);
  EXPECT_EQ(charlie.got[0].kind, wire::SocketKind::kControl);
  // One goes: the listener stays for the other, and turns the former peer away.
  side->pool.Unregister(kAddress[0], &charlie);
  Stream* late = bench.Dial(bench.other, 0, Bench::Initial(wire::PacketType::kInitialMeta));
  bench.world.RunFor(1s);
  ASSERT_NE(late, nullptr);
  EXPECT_FALSE(late->IsEstablished());
  EXPECT_EQ(charlie.got.size(), 1u);
  side->pool.Unregister(kAddress[0], &bravo);
  side->group.Spawn(Call::CloseStreams(&bravo));
  side->group.Spawn(Call::CloseStreams(&charlie));
  bench.world.RunFor(1s);
}

TEST(ListenerPoolTest, CanBeRegisteredAgainAtOnce) {
  Bench bench(12);
  Side* side = bench.sides[0];
  Client client;
  struct Call {
    static Task<void> Do(Side* s, Client* c, int* rounds) {
      for (int i = 0; i < 5; ++i) {
        Status status = co_await s->pool.Register(kAddress[0], kAddress[1], 2s, {}, c);
        EXPECT_TRUE(status);
        s->pool.Unregister(kAddress[0], c);
        ++*rounds;
      }
    }
  };
  int rounds = 0;
  side->group.Spawn(Call::Do(side, &client, &rounds));
  ASSERT_TRUE(bench.world.RunUntil([&] { return rounds == 5; }, 30s));
}

}  // namespace
}  // namespace umblock::drbd
