#include "engine/runtime/sim/stream.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "engine/runtime/sim/network.h"
#include "engine/runtime/sim/node.h"

namespace umblock {
namespace {

const SocketAddress kAlfa = SocketAddress::Ipv4({192, 0, 2, 1}, 0);
const SocketAddress kBravo = SocketAddress::Ipv4({192, 0, 2, 2}, 0);
constexpr uint16_t kPort = 7789;

std::byte PatternAt(uint64_t index) { return static_cast<std::byte>((index * 131) >> 3); }

struct Sent {
  uint64_t completed = 0;  // bytes of sends that completed
  int32_t error = 0;
};
struct Received {
  std::vector<std::byte> bytes;
  int operations = 0;
  bool ended = false;
  int32_t error = 0;

  void ExpectPattern() const {
    for (size_t i = 0; i < bytes.size(); ++i) ASSERT_EQ(bytes[i], PatternAt(i)) << i;
  }
};

Task<void> SendPattern(Stream& stream, uint64_t total, size_t chunk, Sent* sent) {
  std::vector<std::byte> buffer(chunk);
  while (sent->completed < total) {
    const size_t n = std::min<uint64_t>(chunk, total - sent->completed);
    for (size_t i = 0; i < n; ++i) buffer[i] = PatternAt(sent->completed + i);
    iovec parts[2] = {{buffer.data(), n / 2}, {buffer.data() + n / 2, n - n / 2}};
    const int32_t result = co_await stream.Send(parts);
    if (result < 0) {
      sent->error = result;
      co_return;
    }
    EXPECT_EQ(static_cast<size_t>(result), n);
    sent->completed += n;
  }
}

Task<void> ReceiveAll(Stream& stream, Received* received) {
  std::vector<std::byte> buffer(10000);
  while (true) {
    iovec parts[2] = {{buffer.data(), 100}, {buffer.data() + 100, 9900}};
    const int32_t result = co_await stream.Receive(parts);
    ++received->operations;
    if (result == 0) received->ended = true;
    if (result < 0) received->error = result;
    if (result <= 0) co_return;
    received->bytes.insert(received->bytes.end(), buffer.begin(), buffer.begin() + result);
  }
}

// Two nodes; bravo listens, alfa has connected.
class Pair {
 public:
  explicit Pair(uint64_t seed) : world(seed) {
    alfa = world.AddNode({"alfa", {kAlfa}});
    bravo = world.AddNode({"bravo", {kBravo}});
    for (SimNode* node : {alfa, bravo}) node->Start([](SimNode& self) { self.AddReactor(); });
  }

  ~Pair() {
    if (client != nullptr) alfa->reactor()->Spawn(client->Close());
    if (server != nullptr) bravo->reactor()->Spawn(server->Close());
    if (listener != nullptr) bravo->reactor()->Spawn(listener->Close());
    world.RunFor(10s);
    client.reset();
    server.reset();
    listener.reset();
    for (SimNode* node : {alfa, bravo}) {
      if (node->running()) node->Shutdown();
    }
  }

  // A crash takes what the node's program held.
  void Crash(SimNode* node, SimCrash kind) {
    node->Crash(kind);
    Bury(node == alfa ? client : server);
    if (node == bravo) Bury(listener);
  }
  template <typename T>
  static void Bury(std::unique_ptr<T>& object) {
    SimBury(std::shared_ptr<void>(object.release(), [](void*) {}));
  }

  void Listen() { listener = bravo->reactor()->Listen({.local = kBravo.WithPort(kPort)}).value(); }

  static Task<void> ConnectTask(SimReactor& reactor, ConnectRequest request, CancelToken cancel,
                                std::unique_ptr<Stream>* stream, std::optional<Error>* error) {
    auto result = co_await reactor.Connect(request, cancel);
    if (result) {
      *stream = std::move(*result);
    } else {
      *error = result.error();
    }
  }
  static Task<void> AcceptTask(Listener& from, CancelToken cancel, std::unique_ptr<Stream>* stream,
                               std::optional<Error>* error) {
    auto result = co_await from.Accept(cancel);
    if (result) {
      *stream = std::move(*result);
    } else {
      *error = result.error();
    }
  }

  void StartConnect(Duration timeout = 10s, CancelToken cancel = {}) {
    ConnectRequest request{.remote = kBravo.WithPort(kPort), .timeout = timeout};
    alfa->reactor()->Spawn(ConnectTask(*alfa->reactor(), request, cancel, &client, &connect_error));
  }
  void StartAccept(CancelToken cancel = {}) {
    bravo->reactor()->Spawn(AcceptTask(*listener, cancel, &server, &accept_error));
  }
  void Establish() {
    Listen();
    StartAccept();
    StartConnect();
    ASSERT_TRUE(world.RunUntil([&] { return client != nullptr && server != nullptr; }, 5s));
  }
  void StartSending(uint64_t total, size_t chunk = 7000) {
    alfa->reactor()->Spawn(SendPattern(*client, total, chunk, &sent));
  }
  void StartReceiving() { bravo->reactor()->Spawn(ReceiveAll(*server, &received)); }
  SimConnection& connection() { return static_cast<SimStream&>(*client).connection(); }

  SimWorld world;
  SimNode* alfa;
  SimNode* bravo;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Stream> client, server;
  std::optional<Error> connect_error, accept_error;
  Sent sent;
  Received received;
};

TEST(SimStream, BytesArriveInOrderAndInPieces) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Pair pair(seed);
    pair.Establish();
    EXPECT_TRUE(pair.client->IsEstablished());
    EXPECT_TRUE(pair.server->IsEstablished());
    EXPECT_EQ(pair.client->remote_address(), kBravo.WithPort(kPort));
    EXPECT_EQ(pair.server->remote_address(), pair.client->local_address());
    EXPECT_TRUE(pair.client->local_address().SameHost(kAlfa));
    pair.StartSending(300000);
    pair.StartReceiving();
    ASSERT_TRUE(pair.world.RunUntil([&] { return pair.received.bytes.size() == 300000; }, 60s));
    pair.received.ExpectPattern();
    EXPECT_GT(pair.received.operations, 30);
    pair.client->ShutdownSend();
    EXPECT_FALSE(pair.client->IsEstablished());
    ASSERT_TRUE(pair.world.RunUntil([&] { return pair.received.ended; }, 5s));
    EXPECT_FALSE(pair.server->IsEstablished());
  }
}

TEST(SimStream, ASendThatFindsNoRoomWaitsAndACompletedSendIsNotADelivery) {
  Pair pair(1);
  pair.world.network().link.min_buffer = 8192;
  pair.world.network().link.max_buffer = 8192;
  pair.Establish();
  pair.StartSending(1 << 20, 1000);
  pair.world.RunFor(5s);
  EXPECT_GT(pair.sent.completed, 8192u);
  EXPECT_LE(pair.sent.completed, 2 * 8192u);
  EXPECT_TRUE(pair.received.bytes.empty());
  pair.StartReceiving();
  ASSERT_TRUE(pair.world.RunUntil([&] { return pair.received.bytes.size() == 1 << 20; }, 60s));
  pair.received.ExpectPattern();
}

TEST(SimStream, ConnectingWhereNobodyListensIsRefused) {
  Pair pair(1);
  pair.StartConnect();
  ASSERT_TRUE(pair.world.RunUntil([&] { return pair.connect_error.has_value(); }, 5s));
  EXPECT_EQ(pair.connect_error->code(), Error::FromErrno(ECONNREFUSED, "").code());
  EXPECT_LT(pair.world.now(), 100ms);
}

TEST(SimStream, ConnectingIntoSilenceTimesOut) {
  Pair pair(1);
  pair.Listen();
  pair.world.network().SetBlocked(*pair.bravo, *pair.alfa, true);
  pair.StartConnect(3s);
  ASSERT_TRUE(pair.world.RunUntil([&] { return pair.connect_error.has_value(); }, 10s));
  EXPECT_EQ(pair.connect_error->code(), Error::FromErrno(ETIMEDOUT, "").code());
  EXPECT_GE(pair.world.now(), 2900ms);
}

TEST(SimStream, ConnectingSucceedsWhenAPartitionHealsInTime) {
  Pair pair(1);
  pair.Listen();
  pair.StartAccept();
  pair.world.network().Partition(*pair.alfa, *pair.bravo, true);
  pair.StartConnect(20s);
  pair.world.RunFor(2s);
  pair.world.network().Partition(*pair.alfa, *pair.bravo, false);
  EXPECT_TRUE(pair.world.RunUntil([&] { return pair.client && pair.server; }, 10s));
}

TEST(SimStream, ConnectAndAcceptCanBeCancelled) {
  CancelSource source;
  Pair pair(1);
  pair.Listen();
  pair.StartAccept(source);
  pair.world.network().Partition(*pair.alfa, *pair.bravo, true);
  pair.StartConnect(20s, source);
  pair.world.RunFor(1s);
  source.Cancel();
  pair.world.RunFor(1ms);
  ASSERT_TRUE(pair.connect_error && pair.accept_error);
  EXPECT_EQ(pair.connect_error->code(), ErrorCode::kCancelled);
  EXPECT_EQ(pair.accept_error->code(), ErrorCode::kCancelled);
}

TEST(SimStream, AConnectionThatTheClientGaveUpIsSeenAsClosed) {
  int given_up = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    CancelSource source;
    Pair pair(seed);
    pair.Listen();
    pair.StartAccept();
    pair.StartConnect(20s, source);
    ASSERT_TRUE(pair.world.RunUntil([&] { return pair.server != nullptr; }, 1s));
    if (pair.client == nullptr) source.Cancel();
    pair.world.RunFor(10ms);
    if (pair.client != nullptr) continue;
    ++given_up;
    pair.StartReceiving();
    ASSERT_TRUE(
        pair.world.RunUntil([&] { return pair.received.ended || pair.received.error != 0; }, 5s));
  }
  EXPECT_GT(given_up, 5);
}

TEST(SimStream, TwoListenersOnOneAddressAreRefused) {
  Pair pair(1);
  pair.Listen();
  EXPECT_FALSE(pair.bravo->reactor()->Listen({.local = kBravo.WithPort(kPort)}));
  EXPECT_FALSE(pair.bravo->reactor()->Listen({.local = kAlfa.WithPort(kPort)}));
  auto other = pair.bravo->reactor()->Listen({.local = kBravo});
  ASSERT_TRUE(other);
  EXPECT_NE((*other)->local_address().port(), 0);
}

TEST(SimStream, ACutAfterAnyByteDeliversExactlyThatManyAndNoMore) {
  constexpr uint64_t kTotal = 150;
  for (uint64_t cut = 0; cut <= kTotal; ++cut) {
    Pair pair(1000 + cut);
    pair.Establish();
    pair.StartReceiving();
    pair.connection().CutAfter(0, cut);
    pair.StartSending(kTotal, 17);
    pair.world.RunFor(5s);
    pair.received.ExpectPattern();
    EXPECT_LE(pair.received.bytes.size(), cut);
    EXPECT_EQ(pair.connection().delivered(0), cut);
    EXPECT_EQ(pair.received.error, -ECONNRESET);
    EXPECT_FALSE(pair.client->IsEstablished());
    EXPECT_FALSE(pair.server->IsEstablished());
  }
}

TEST(SimStream, ASilentCutEndsWhenTheKernelGivesUp) {
  Pair pair(5);
  pair.world.network().link.give_up = 30s;
  pair.Establish();
  pair.StartReceiving();
  pair.connection().CutAfter(0, 1000, true);
  pair.StartSending(20 << 20);
  pair.world.RunFor(20s);
  EXPECT_EQ(pair.sent.error, 0);
  EXPECT_TRUE(pair.client->IsEstablished());
  EXPECT_EQ(pair.received.bytes.size(), 1000u);
  pair.world.RunFor(60s);
  EXPECT_EQ(pair.sent.error, -ETIMEDOUT);
  EXPECT_EQ(pair.received.error, 0);  // who only listens is never told
}

TEST(SimStream, AMutedDirectionLeavesTheOtherOneAlive) {
  Sent back;
  Received at_client;
  Pair pair(5);
  pair.Establish();
  pair.connection().MuteAfter(0, 10);
  pair.StartReceiving();
  pair.StartSending(100);
  pair.bravo->reactor()->Spawn(SendPattern(*pair.server, 50000, 999, &back));
  pair.alfa->reactor()->Spawn(ReceiveAll(*pair.client, &at_client));
  pair.world.RunFor(10s);
  EXPECT_EQ(pair.received.bytes.size(), 10u);
  EXPECT_EQ(at_client.bytes.size(), 50000u);
}

TEST(SimStream, AShortPartitionOnlyDelays) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    Pair pair(seed);
    pair.world.network().link.max_buffer = 65536;
    pair.Establish();
    pair.StartReceiving();
    pair.StartSending(1 << 20);
    pair.world.RunFor(Duration(static_cast<int64_t>(seed) * 100'000));
    if (seed % 3 == 0) {
      pair.world.network().Partition(*pair.alfa, *pair.bravo, true);
    } else {
      pair.world.network().SetBlocked(seed % 3 == 1 ? *pair.alfa : *pair.bravo,
                                      seed % 3 == 1 ? *pair.bravo : *pair.alfa, true);
    }
    pair.world.RunFor(20s);
    EXPECT_LT(pair.sent.completed, uint64_t{1} << 20);
    pair.world.network().Partition(*pair.alfa, *pair.bravo, false);
    ASSERT_TRUE(pair.world.RunUntil([&] { return pair.received.bytes.size() == 1 << 20; }, 60s))
        << seed;
    pair.received.ExpectPattern();
  }
}

TEST(SimStream, ALongPartitionBreaksWhoHasDataInFlight) {
  Pair pair(2);
  pair.Establish();
  pair.world.network().Partition(*pair.alfa, *pair.bravo, true);
  pair.StartReceiving();
  pair.StartSending(100);
  pair.world.RunFor(300s);
  EXPECT_EQ(pair.sent.completed, 100u);
  EXPECT_FALSE(pair.client->IsEstablished());
  EXPECT_TRUE(pair.server->IsEstablished());
}

TEST(SimStream, AbortEndsWhatIsInFlight) {
  Pair pair(1);
  pair.Establish();
  pair.StartReceiving();
  pair.world.RunFor(10ms);
  pair.server->Abort();
  pair.world.RunFor(10ms);
  EXPECT_EQ(pair.received.error, -ECANCELED);
  EXPECT_FALSE(pair.server->IsEstablished());
  pair.received = {};
  pair.StartReceiving();
  pair.world.RunFor(10ms);
  EXPECT_EQ(pair.received.error, -ECANCELED);
}

TEST(SimStream, SendingToAClosedEndBreaksTheConnection) {
  Pair pair(1);
  pair.Establish();
  pair.bravo->reactor()->Spawn(pair.server->Close());
  pair.world.RunFor(1s);
  EXPECT_FALSE(pair.client->IsEstablished());
  pair.StartSending(50 << 20);
  pair.world.RunFor(10s);
  EXPECT_EQ(pair.sent.error, -ECONNRESET);
}

TEST(SimStream, AKilledProcessClosesItsSockets) {
  Pair pair(3);
  pair.Establish();
  pair.StartReceiving();
  pair.Crash(pair.alfa, SimCrash::kProcessKill);
  EXPECT_TRUE(
      pair.world.RunUntil([&] { return pair.received.ended || pair.received.error != 0; }, 1s));
}

TEST(SimStream, AMachineWithoutPowerIsSilentUntilItIsBack) {
  Pair pair(3);
  pair.Establish();
  pair.StartReceiving();
  pair.Crash(pair.bravo, SimCrash::kPowerCut);
  pair.StartSending(50);
  pair.world.RunFor(20s);
  EXPECT_TRUE(pair.client->IsEstablished());
  pair.bravo->Restart();
  pair.world.RunFor(5s);
  EXPECT_FALSE(pair.client->IsEstablished());  // the new kernel answered with a reset
}

TEST(SimStream, TheSameSeedGivesTheSameHash) {
  auto run = [](uint64_t seed) {
    Pair pair(seed);
    pair.Establish();
    pair.StartReceiving();
    pair.StartSending(100000);
    pair.connection().CutAfter(0, 50000);
    pair.world.RunFor(1s);
    return pair.world.hash();
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
}

}  // namespace
}  // namespace umblock
