#include "engine/drbd/link/send_queue.h"

#include <gtest/gtest.h>

#include <numeric>

#include "engine/drbd/link/testing/fake_stream.h"
#include "engine/runtime/testing/loop_reactor.h"

namespace umblock::drbd {
namespace {

using testing::FakeStream;

struct Owner final : SendQueue::Owner {
  std::vector<int> failures;
  std::vector<uint32_t> stalls;
  void OnSendFailed(SendQueue&, int error) override { failures.push_back(error); }
  void OnSendStalled(SendQueue&, uint32_t left) override { stalls.push_back(left); }
};

struct Notice : SentNotice {
  Notice()
      : SentNotice([](SentNotice* self, bool handed_over) noexcept {
          static_cast<Notice*>(self)->calls.push_back(handed_over);
        }) {}
  std::vector<bool> calls;
};

class SendQueueTest : public ::testing::Test {
 protected:
  SendQueueTest() { queue.Start(&stream, 6s, 7); }
  ~SendQueueTest() override {
    if (!stopped) Stop();
  }
  void Stop() {
    stopped = true;
    TaskGroup group(reactor);
    group.Spawn(queue.Stop());
    reactor.RunReady();
    if (stream.sending()) stream.Abort();
    reactor.RunReady();
    EXPECT_EQ(group.running(), 0);
  }
  void Packet(size_t bytes, uint8_t fill) {
    MutableBytes out = queue.Append(bytes);
    std::fill(out.begin(), out.end(), static_cast<std::byte>(fill));
    for (size_t i = 0; i < bytes; ++i) expected.push_back(static_cast<std::byte>(fill));
  }
  void Payload(std::vector<std::byte>& bytes, SentNotice* notice) {
    iovec part{bytes.data(), bytes.size()};
    queue.AppendPayload({&part, 1}, notice);
    expected.insert(expected.end(), bytes.begin(), bytes.end());
  }

  LoopReactor reactor;
  FakeStream stream{reactor};
  Owner owner;
  SendQueue queue{reactor, owner};
  std::vector<std::byte> expected;
  bool stopped = false;
};

TEST_F(SendQueueTest, WhatIsQueuedInATurnLeavesInOneSendInOrder) {
  std::vector<std::byte> data(70000, std::byte{9});
  Notice notice;
  Packet(40, 1);
  Payload(data, &notice);
  Packet(24, 2);
  Packet(24, 3);
  EXPECT_FALSE(stream.sending()) << "the turn is not over";
  reactor.RunReady();
  ASSERT_TRUE(stream.sending());
  EXPECT_EQ(stream.pending(), expected);
  EXPECT_EQ(stream.pending_iovecs(), 3u) << "neighbours in memory leave as one piece";
  EXPECT_TRUE(notice.calls.empty());
  stream.CompleteSend();
  reactor.RunReady();
  EXPECT_EQ(notice.calls, std::vector<bool>{true});
  EXPECT_TRUE(queue.idle());
  EXPECT_EQ(queue.queued_bytes(), 0u);
  EXPECT_EQ(queue.counters().sends, 1u);
  EXPECT_EQ(queue.counters().packets, 3u);
  EXPECT_EQ(queue.counters().bytes, expected.size());
  EXPECT_EQ(queue.counters().payload_bytes, data.size());
}

TEST_F(SendQueueTest, APayloadIsReferencedNotCopied) {
  std::vector<std::byte> data(1000, std::byte{1});
  Notice notice;
  Payload(data, &notice);
  data[500] = std::byte{2};  // seen by the send, because nothing was copied
  reactor.RunReady();
  ASSERT_TRUE(stream.sending());
  EXPECT_EQ(stream.pending()[500], std::byte{2});
  Stop();  // while what it refers to exists
}

TEST_F(SendQueueTest, WhatComesDuringASendWaitsForItAndStaysInOrder) {
  for (int round = 0; round < 50; ++round) {
    Packet(1 + static_cast<size_t>(round) * 37 % 8000, static_cast<uint8_t>(round));
    reactor.RunReady();
    if (round % 7 == 6) {
      stream.CompleteSend();
      reactor.RunReady();
    }
  }
  while (stream.sending()) {
    stream.CompleteSend();
    reactor.RunReady();
  }
  EXPECT_EQ(stream.sent(), expected);
  EXPECT_TRUE(queue.idle());
}

TEST_F(SendQueueTest, ManyPacketsAreSplitOverSends) {
  std::vector<std::byte> data(4096, std::byte{7});
  std::vector<Notice> notices(1000);
  for (Notice& notice : notices) {
    Packet(40, 5);
    Payload(data, &notice);
  }
  reactor.RunReady();
  int sends = 0;
  while (stream.sending()) {
    EXPECT_LE(stream.pending_iovecs(), 256u);
    EXPECT_LE(stream.pending().size(), (size_t{1} << 20) + 8192);
    stream.CompleteSend();
    reactor.RunReady();
    ++sends;
  }
  EXPECT_GT(sends, 4);
  EXPECT_EQ(stream.sent(), expected);
  for (const Notice& notice : notices) EXPECT_EQ(notice.calls, std::vector<bool>{true});
}

TEST_F(SendQueueTest, NoticesAreCalledOnceInOrderAlsoWithoutPayload) {
  Notice first, second, third;
  Packet(16, 1);
  queue.NotifyWhenSent(&first);
  queue.NotifyWhenSent(&second);  // nothing of its own to send
  Packet(16, 2);
  queue.NotifyWhenSent(&third);
  reactor.RunReady();
  EXPECT_TRUE(first.calls.empty());
  stream.CompleteSend();
  reactor.RunReady();
  for (Notice* notice : {&first, &second, &third}) {
    EXPECT_EQ(notice->calls, std::vector<bool>{true});
  }
  EXPECT_EQ(stream.sent(), expected);
}

TEST_F(SendQueueTest, ANoticeOnAnEmptyQueueIsCalledToo) {
  Notice notice;
  queue.NotifyWhenSent(&notice);
  reactor.RunReady();
  if (stream.sending()) stream.CompleteSend();
  reactor.RunReady();
  EXPECT_EQ(notice.calls, std::vector<bool>{true});
}

TEST_F(SendQueueTest, AFailureIsReportedOnceAndTheRestGivenUpAtStop) {
  std::vector<std::byte> data(4096);
  Notice sent, lost;
  Payload(data, &sent);
  reactor.RunReady();
  Payload(data, &lost);
  stream.CompleteSend(-EPIPE);
  reactor.RunReady();
  EXPECT_EQ(owner.failures, std::vector<int>{EPIPE});
  EXPECT_FALSE(queue.running());
  EXPECT_TRUE(lost.calls.empty()) << "pinned until the queue is stopped";
  Stop();
  EXPECT_EQ(sent.calls, std::vector<bool>{false});
  EXPECT_EQ(lost.calls, std::vector<bool>{false});
  EXPECT_EQ(owner.failures.size(), 1u);
}

// drbd-io-path.md F.7: ko-count periods without progress.
TEST_F(SendQueueTest, AStalledSendIsToldAndGivenUp) {
  Packet(100, 1);
  reactor.RunReady();
  reactor.Advance(6s * 3 + 1s);
  EXPECT_EQ(owner.stalls, (std::vector<uint32_t>{6, 5, 4}));
  EXPECT_TRUE(owner.failures.empty());
  reactor.Advance(6s * 4);
  EXPECT_EQ(owner.failures, std::vector<int>{ETIMEDOUT});
  reactor.Advance(60s);
  EXPECT_EQ(owner.failures.size(), 1u);
}

TEST_F(SendQueueTest, ProgressResetsTheCount) {
  for (int i = 0; i < 5; ++i) {
    Packet(100, 1);
    reactor.RunReady();
    reactor.Advance(6s * 6);
    stream.CompleteSend();
    reactor.RunReady();
  }
  EXPECT_TRUE(owner.failures.empty());
}

TEST_F(SendQueueTest, WithoutALimitAStalledSendOnlyIsTold) {
  Stop();
  queue.Start(&stream, 6s, 0);
  stopped = false;
  Packet(100, 1);
  reactor.RunReady();
  reactor.Advance(6s * 20 + 1s);
  EXPECT_EQ(owner.stalls.size(), 20u);
  EXPECT_TRUE(owner.failures.empty());
}

// INV-21: the memory is the socket's until the send in flight has ended.
TEST_F(SendQueueTest, StopAwaitsTheSendInFlight) {
  std::vector<std::byte> data(4096);
  Notice notice;
  Payload(data, &notice);
  reactor.RunReady();
  TaskGroup group(reactor);
  group.Spawn(queue.Stop());
  reactor.RunReady();
  EXPECT_EQ(group.running(), 1);
  EXPECT_TRUE(notice.calls.empty());
  stream.CompleteSend();
  reactor.RunReady();
  EXPECT_EQ(group.running(), 0);
  EXPECT_EQ(notice.calls, std::vector<bool>{true});
  stopped = true;
}

TEST_F(SendQueueTest, StopInTheTurnOfTheCallsSendsNothing) {
  std::vector<std::byte> data(4096);
  Notice notice;
  Packet(40, 1);
  Payload(data, &notice);
  Stop();
  EXPECT_EQ(notice.calls, std::vector<bool>{false});
  EXPECT_TRUE(stream.sent().empty());
}

TEST_F(SendQueueTest, StartsAgainOnAnotherStream) {
  Packet(40, 1);
  Stop();
  expected.clear();
  FakeStream next(reactor);
  queue.Start(&next, 6s, 7);
  stopped = false;
  Packet(40, 2);
  reactor.RunReady();
  ASSERT_TRUE(next.sending());
  next.CompleteSend();
  reactor.RunReady();
  EXPECT_EQ(next.sent(), expected);
  Stop();
}

TEST_F(SendQueueTest, WaitBelowEndsWhenThereIsRoomOrTheQueueStops) {
  std::vector<std::byte> data(100000);
  Payload(data, nullptr);
  TaskGroup group(reactor);
  group.Spawn(queue.WaitBelow(1, 60s));
  reactor.RunReady();
  EXPECT_EQ(group.running(), 1);
  stream.CompleteSend();
  reactor.RunReady();
  EXPECT_EQ(group.running(), 0);
  Payload(data, nullptr);
  group.Spawn(queue.WaitBelow(1, 60s));
  reactor.RunReady();
  stream.CompleteSend(-ECONNRESET);
  reactor.RunReady();
  EXPECT_EQ(group.running(), 0) << "a queue that failed makes nobody wait";
}

TEST_F(SendQueueTest, WaitBelowHasALimit) {
  Packet(100, 1);
  TaskGroup group(reactor);
  group.Spawn(queue.WaitBelow(1, 2s));
  reactor.Advance(1s);
  EXPECT_EQ(group.running(), 1);
  reactor.Advance(2s);
  EXPECT_EQ(group.running(), 0);
}

}  // namespace
}  // namespace umblock::drbd
