#include "engine/runtime/uring/uring_stream.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <random>
#include <vector>

#include "engine/runtime/uring/reactor_thread.h"

namespace umblock {
namespace {

const SocketAddress kLoopback = *SocketAddress::Parse("127.0.0.1:0");

iovec Iov(std::vector<char>& bytes, size_t offset, size_t length) {
  return {bytes.data() + offset, length};
}

class UringStreamTest : public testing::Test {
 protected:
  UringStreamTest() : thread_(*ReactorThread::Start({})), reactor_(thread_->reactor()) {}

  struct Pair {
    std::unique_ptr<Listener> listener;
    std::unique_ptr<Stream> client;
    std::unique_ptr<Stream> server;
  };

  Task<void> Connect(Pair* pair, StreamOptions options = {}) {
    auto listener = reactor_.Listen({.local = kLoopback, .options = options});
    EXPECT_TRUE(listener) << listener.error().ToString();
    pair->listener = std::move(*listener);
    TaskGroup group(reactor_);
    group.Spawn([](Pair* p) -> Task<void> {
      auto accepted = co_await p->listener->Accept({});
      EXPECT_TRUE(accepted);
      p->server = std::move(*accepted);
    }(pair));
    auto connected = co_await reactor_.Connect(
        {.remote = pair->listener->local_address(), .options = options}, {});
    EXPECT_TRUE(connected) << connected.error().ToString();
    pair->client = std::move(*connected);
    co_await group.Join();
  }

  Task<void> Close(Pair* pair) {
    if (pair->client) co_await pair->client->Close();
    if (pair->server) co_await pair->server->Close();
    co_await pair->listener->Close();
  }

  std::unique_ptr<ReactorThread> thread_;
  UringReactor& reactor_;
};

Task<void> ReceiveInto(Stream* stream, char* to, size_t length, int32_t* result) {
  iovec iov{to, length};
  *result = co_await stream->Receive({&iov, 1});
}

Task<void> SendFrom(Stream* stream, char* from, size_t length, int32_t* result) {
  iovec iov{from, length};
  *result = co_await stream->Send({&iov, 1});
}

TEST_F(UringStreamTest, EndsKnowEachOther) {
  thread_->RunTask([&]() -> Task<void> {
    Pair pair;
    co_await Connect(&pair);
    EXPECT_EQ(pair.client->local_address(), pair.server->remote_address());
    EXPECT_EQ(pair.client->remote_address(), pair.server->local_address());
    EXPECT_TRUE(pair.client->IsEstablished());
    EXPECT_TRUE(pair.server->IsEstablished());
    co_await Close(&pair);
    EXPECT_FALSE(pair.client->IsEstablished());
  });
}

// Many iovecs of odd sizes against small socket buffers: every send is partial many times.
TEST_F(UringStreamTest, LargeScatteredTransfersArriveWhole) {
  thread_->RunTask([&]() -> Task<void> {
    Pair pair;
    co_await Connect(&pair, {.send_buffer_bytes = 4096, .receive_buffer_bytes = 4096});
    std::minstd_rand random(1);
    std::vector<char> sent(3 << 20);
    for (char& c : sent) c = static_cast<char>(random());
    std::vector<iovec> parts;  // more than the kernel takes at once
    for (size_t at = 0; at < sent.size();) {
      size_t length = std::min<size_t>(sent.size() - at, 1 + random() % 3000);
      parts.push_back(Iov(sent, at, length));
      at += length;
    }
    EXPECT_GT(parts.size(), 1024u);
    std::vector<char> received(sent.size());
    int32_t send_result = 0;
    TaskGroup group(reactor_);
    group.Spawn([](Stream* s, std::span<const iovec> iov, int32_t* result) -> Task<void> {
      *result = co_await s->Send(iov);
      s->ShutdownSend();
    }(pair.client.get(), parts, &send_result));
    size_t at = 0;
    while (true) {
      std::vector<iovec> to;
      for (size_t next = at; next < received.size() && to.size() < 5; next += 10007) {
        to.push_back(Iov(received, next, std::min<size_t>(10007, received.size() - next)));
      }
      char extra = 0;
      if (to.empty()) to.push_back({&extra, 1});
      int32_t got = co_await pair.server->Receive(to);
      EXPECT_GE(got, 0);
      if (got <= 0) break;
      at += static_cast<size_t>(got);
    }
    co_await group.Join();
    EXPECT_EQ(send_result, static_cast<int32_t>(sent.size()));
    EXPECT_EQ(at, sent.size());
    EXPECT_TRUE(received == sent);
    co_await Close(&pair);
  });
}

TEST_F(UringStreamTest, TheArrayOfIovecsMayGoOnceTheOperationIsStarted) {
  thread_->RunTask([&]() -> Task<void> {
    Pair pair;
    co_await Connect(&pair);
    struct Started : CompletionAwaiter<Started> {
      Stream* stream;
      char* a;
      char* b;
      bool send;
      Started(Stream* s, char* x, char* y, bool o) : stream(s), a(x), b(y), send(o) {}
      void Start(Completion* c) {
        iovec iov[2] = {{a, 1}, {b, 1}};
        send ? stream->StartSend(iov, c) : stream->StartReceive(iov, c);
        iov[0] = iov[1] = {};
      }
    };
    char out[2] = {'x', 'y'};
    char in[2] = {};
    EXPECT_EQ((co_await Started(pair.client.get(), &out[0], &out[1], true)), 2);
    EXPECT_EQ((co_await Started(pair.server.get(), &in[0], &in[1], false)), 2);
    EXPECT_EQ(in[1], 'y');
    co_await Close(&pair);
  });
}

TEST_F(UringStreamTest, AbortEndsBothDirectionsAndForbidsMore) {
  thread_->RunTask([&]() -> Task<void> {
    Pair pair;
    co_await Connect(&pair, {.send_buffer_bytes = 4096, .receive_buffer_bytes = 4096});
    std::vector<char> big(8 << 20);
    char byte = 0;
    int32_t received = 1, sent = 1;
    TaskGroup group(reactor_);
    group.Spawn(ReceiveInto(pair.client.get(), &byte, 1, &received));
    group.Spawn(SendFrom(pair.client.get(), big.data(), big.size(), &sent));
    co_await Sleep(reactor_, 1ms);  // whichever of them is in the kernel by now
    EXPECT_EQ(sent, 1) << "nobody reads: it cannot be over";
    pair.client->Abort();
    co_await group.Join();
    EXPECT_EQ(received, -ECANCELED);
    EXPECT_EQ(sent, -ECANCELED);
    co_await ReceiveInto(pair.client.get(), &byte, 1, &received);
    co_await SendFrom(pair.client.get(), &byte, 1, &sent);
    EXPECT_EQ(received, -ECANCELED);
    EXPECT_EQ(sent, -ECANCELED);
    co_await Close(&pair);
  });
}

TEST_F(UringStreamTest, AbortInTheTurnOfTheStart) {
  thread_->RunTask([&]() -> Task<void> {
    Pair pair;
    co_await Connect(&pair);
    char byte = 0;
    int32_t received = 1;
    TaskGroup group(reactor_);
    group.Spawn(ReceiveInto(pair.client.get(), &byte, 1, &received));
    pair.client->Abort();
    EXPECT_EQ(received, 1) << "never inside Abort";
    co_await group.Join();
    EXPECT_EQ(received, -ECANCELED);
    co_await Close(&pair);
  });
}

TEST_F(UringStreamTest, CloseAwaitsWhatIsInFlight) {
  thread_->RunTask([&]() -> Task<void> {
    Pair pair;
    co_await Connect(&pair);
    char byte = 0;
    int32_t received = 1;
    TaskGroup group(reactor_);
    group.Spawn(ReceiveInto(pair.client.get(), &byte, 1, &received));
    co_await pair.client->Close();
    EXPECT_EQ(received, -ECANCELED);
    pair.client.reset();
    co_await group.Join();
    co_await Close(&pair);
  });
}

TEST_F(UringStreamTest, AReceiverMayCloseAndDestroyItsStreamOnceItsReceiveIsOver) {
  thread_->RunTask([&]() -> Task<void> {
    Pair pair;
    co_await Connect(&pair);
    TaskGroup group(reactor_);
    group.Spawn([](Pair* p) -> Task<void> {
      char byte = 0;
      int32_t result = 1;
      co_await ReceiveInto(p->server.get(), &byte, 1, &result);
      EXPECT_EQ(result, 0);
      co_await p->server->Close();
      p->server.reset();
    }(&pair));
    co_await pair.client->Close();
    co_await group.Join();
    co_await Close(&pair);
  });
}

TEST_F(UringStreamTest, EndOfStreamIsOneWay) {
  thread_->RunTask([&]() -> Task<void> {
    Pair pair;
    co_await Connect(&pair);
    pair.client->ShutdownSend();
    char byte = 0;
    int32_t result = 1;
    co_await ReceiveInto(pair.server.get(), &byte, 1, &result);
    EXPECT_EQ(result, 0);
    byte = 'a';
    co_await SendFrom(pair.server.get(), &byte, 1, &result);
    EXPECT_EQ(result, 1);
    byte = 0;
    co_await ReceiveInto(pair.client.get(), &byte, 1, &result);
    EXPECT_EQ(result, 1);
    EXPECT_EQ(byte, 'a');
    co_await Close(&pair);
  });
}

TEST_F(UringStreamTest, APeersResetIsAnError) {
  thread_->RunTask([&]() -> Task<void> {
    Pair pair;
    co_await Connect(&pair);
    char byte = 'x';
    int32_t result = 0;
    // Closing with unread bytes sends a reset.
    co_await SendFrom(pair.client.get(), &byte, 1, &result);
    EXPECT_EQ(result, 1);
    int32_t received = 1;
    TaskGroup group(reactor_);
    group.Spawn(ReceiveInto(pair.client.get(), &byte, 1, &received));
    co_await Sleep(reactor_, 1ms);
    co_await pair.server->Close();
    co_await group.Join();
    EXPECT_TRUE(received == -ECONNRESET || received == 0) << received;
    // What is sent into a reset connection fails, at the latest with the second try.
    for (int i = 0; i < 100 && result > 0; ++i) {
      co_await SendFrom(pair.client.get(), &byte, 1, &result);
    }
    EXPECT_TRUE(result == -EPIPE || result == -ECONNRESET) << result;
    EXPECT_FALSE(pair.client->IsEstablished());
    co_await Close(&pair);
  });
}

TEST_F(UringStreamTest, ConnectRefusedIsUnavailable) {
  thread_->RunTask([&]() -> Task<void> {
    auto listener = reactor_.Listen({.local = kLoopback});
    EXPECT_TRUE(listener);
    SocketAddress address = (*listener)->local_address();
    co_await (*listener)->Close();
    auto stream = co_await reactor_.Connect({.remote = address}, {});
    EXPECT_FALSE(stream);
    EXPECT_EQ(stream.error().code(), ErrorCode::kUnavailable);
    EXPECT_NE(stream.error().message().find(address.ToString()), std::string::npos);
  });
}

// A listener with a full backlog drops further SYNs: connecting to it hangs.
class FullListener {
 public:
  FullListener() {
    fd_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_storage raw;
    socklen_t length = kLoopback.ToSockaddr(&raw);
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&raw), length), 0);
    EXPECT_EQ(listen(fd_, 0), 0);
    length = sizeof raw;
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&raw), &length), 0);
    address_ = *SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&raw), length);
    for (int i = 0; i < 4; ++i) {
      fillers_.push_back(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
      (void)connect(fillers_.back(), reinterpret_cast<sockaddr*>(&raw), length);
    }
  }
  ~FullListener() {
    for (int fd : fillers_) close(fd);
    close(fd_);
  }
  const SocketAddress& address() const { return address_; }

 private:
  int fd_;
  SocketAddress address_;
  std::vector<int> fillers_;
};

TEST_F(UringStreamTest, ConnectEndsWithItsTimeout) {
  FullListener full;
  thread_->RunTask([&]() -> Task<void> {
    Time start = reactor_.Now();
    auto stream = co_await reactor_.Connect({.remote = full.address(), .timeout = 20ms}, {});
    EXPECT_FALSE(stream);
    EXPECT_EQ(stream.error().code(), ErrorCode::kDeadlineExceeded);
    EXPECT_GE(reactor_.Now(), start + 20ms);
  });
}

TEST_F(UringStreamTest, ConnectIsCancelled) {
  FullListener full;
  thread_->RunTask([&]() -> Task<void> {
    TaskGroup group(reactor_);
    ErrorCode code = ErrorCode::kInternal;
    group.Spawn([](UringReactor& r, SocketAddress to, CancelToken c, ErrorCode* out) -> Task<void> {
      auto stream = co_await r.Connect({.remote = to, .timeout = 1h}, c);
      EXPECT_FALSE(stream);
      *out = stream.error().code();
    }(reactor_, full.address(), group.token(), &code));
    co_await Sleep(reactor_, 1ms);
    group.Cancel();
    co_await group.Join();
    EXPECT_EQ(code, ErrorCode::kCancelled);
    auto late = co_await reactor_.Connect({.remote = full.address()}, group.token());
    EXPECT_EQ(late.error().code(), ErrorCode::kCancelled);
  });
}

TEST_F(UringStreamTest, ConnectBindsItsSource) {
  thread_->RunTask([&]() -> Task<void> {
    auto listener = reactor_.Listen({.local = kLoopback});
    EXPECT_TRUE(listener);
    ConnectRequest request{.local = *SocketAddress::Parse("127.0.0.2:0"),
                           .bind_local = true,
                           .remote = (*listener)->local_address()};
    auto stream = co_await reactor_.Connect(request, {});
    EXPECT_TRUE(stream) << stream.error().ToString();
    EXPECT_TRUE((*stream)->local_address().SameHost(request.local));
    EXPECT_NE((*stream)->local_address().port(), 0);
    request.local = *SocketAddress::Parse("192.0.2.1:0");
    auto impossible = co_await reactor_.Connect(request, {});
    EXPECT_FALSE(impossible);
    EXPECT_NE(impossible.error().message().find("192.0.2.1"), std::string::npos);
    co_await (*stream)->Close();
    co_await (*listener)->Close();
  });
}

TEST_F(UringStreamTest, ListenersRefuseATakenAddress) {
  thread_->RunTask([&]() -> Task<void> {
    auto first = reactor_.Listen({.local = kLoopback});
    EXPECT_TRUE(first);
    auto second = reactor_.Listen({.local = (*first)->local_address()});
    EXPECT_FALSE(second);
    EXPECT_EQ(second.error().code(), ErrorCode::kFailedPrecondition);
    co_await (*first)->Close();
  });
}

TEST_F(UringStreamTest, AcceptIsCancelledAndTheListenerGoesOn) {
  thread_->RunTask([&]() -> Task<void> {
    auto listener = reactor_.Listen({.local = kLoopback});
    EXPECT_TRUE(listener);
    Listener* l = listener->get();
    ErrorCode code = ErrorCode::kInternal;
    {
      TaskGroup group(reactor_);
      group.Spawn([](Listener* from, CancelToken c, ErrorCode* out) -> Task<void> {
        auto stream = co_await from->Accept(c);
        EXPECT_FALSE(stream);
        *out = stream.error().code();
      }(l, group.token(), &code));
      co_await Sleep(reactor_, 1ms);
      group.Cancel();
      co_await group.Join();
      EXPECT_EQ(code, ErrorCode::kCancelled);
    }
    TaskGroup group(reactor_);
    group.Spawn([](Listener* from) -> Task<void> {
      auto stream = co_await from->Accept({});
      EXPECT_TRUE(stream);
      co_await (*stream)->Close();
    }(l));
    auto client = co_await reactor_.Connect({.remote = l->local_address()}, {});
    EXPECT_TRUE(client);
    co_await group.Join();
    co_await (*client)->Close();
    co_await l->Close();
  });
}

TEST_F(UringStreamTest, ClosingAListenerEndsItsAccept) {
  thread_->RunTask([&]() -> Task<void> {
    auto listener = reactor_.Listen({.local = kLoopback});
    EXPECT_TRUE(listener);
    ErrorCode code = ErrorCode::kInternal;
    TaskGroup group(reactor_);
    group.Spawn([](Listener* from, ErrorCode* out) -> Task<void> {
      auto stream = co_await from->Accept({});
      *out = stream.error().code();
    }(listener->get(), &code));
    co_await Sleep(reactor_, 1ms);
    co_await (*listener)->Close();
    co_await group.Join();
    EXPECT_EQ(code, ErrorCode::kCancelled);
    auto late = co_await (*listener)->Accept({});
    EXPECT_EQ(late.error().code(), ErrorCode::kCancelled);
  });
}

TEST_F(UringStreamTest, WorksOverIpv6) {
  thread_->RunTask([&]() -> Task<void> {
    auto listener = reactor_.Listen({.local = *SocketAddress::Parse("[::1]:0")});
    if (!listener) co_return;  // a machine without IPv6
    auto client = co_await reactor_.Connect({.remote = (*listener)->local_address()}, {});
    EXPECT_TRUE(client) << client.error().ToString();
    auto server = co_await (*listener)->Accept({});
    EXPECT_TRUE(server);
    EXPECT_EQ((*server)->remote_address(), (*client)->local_address());
    co_await (*client)->Close();
    co_await (*server)->Close();
    co_await (*listener)->Close();
  });
}

}  // namespace
}  // namespace umblock
