#include "engine/drbd/core/transfer_log.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <vector>

#include "engine/drbd/core/object_pool.h"

namespace umblock::drbd {
namespace {

// Requests of so many sectors in a log, released at the end.
class Bench {
 public:
  ~Bench() { log.requests().clear(); }
  Request* Write(uint64_t sectors, int legs = 1) {
    all.push_back(std::make_unique<Request>());
    Request* request = all.back().get();
    request->first = 0;
    request->end = sectors;
    request->local_leg = LocalLeg::kOk;
    request->leg_count = legs;
    for (int i = 0; i < legs; ++i) {
      auto index = static_cast<size_t>(i);
      request->leg_states[index] =
          Next(Next(DataLeg(AckProtocol::kC), LegEvent::kReady).state, LegEvent::kSent).state;
    }
    log.Append(request);
    return request;
  }
  static void Ack(Request* request, int leg = 0) {
    auto& state = request->leg_states[static_cast<size_t>(leg)];
    state = Next(state, LegEvent::kWriteAck).state;
  }
  static void Barrier(Request* request, int leg = 0) {
    auto& state = request->leg_states[static_cast<size_t>(leg)];
    state = Next(state, LegEvent::kBarrierAck).state;
  }
  TransferLog log;
  std::vector<std::unique_ptr<Request>> all;
};

TEST(TransferLogTest, DagtagIsThePositionAfterTheWrite) {
  Bench bench;
  bench.log.RaiseDagtag(100);
  bench.log.RaiseDagtag(50);  // never back
  EXPECT_EQ(bench.Write(8)->dagtag, 108u);
  EXPECT_EQ(bench.Write(1)->dagtag, 109u);
  EXPECT_EQ(bench.log.dagtag(), 109u);
}

TEST(TransferLogTest, AnEmptyEpochIsNotClosed) {
  Bench bench;
  EXPECT_FALSE(bench.log.CloseEpoch());
  Request* a = bench.Write(1);
  Request* b = bench.Write(1);
  EXPECT_EQ(bench.log.epoch_writes(), 2u);
  EXPECT_TRUE(bench.log.CloseEpoch());
  EXPECT_FALSE(bench.log.CloseEpoch());
  Request* c = bench.Write(1);
  EXPECT_EQ(a->epoch, b->epoch);
  EXPECT_EQ(c->epoch, a->epoch + 1);
}

// INV-5: completion upwards alone lets nothing go; the done chain goes in order.
TEST(TransferLogTest, RequestsLeaveInOrderWhenEveryPeerIsDone) {
  Bench bench;
  Request* a = bench.Write(1, 2);
  Request* b = bench.Write(1, 1);
  for (Request* each : {a, b}) each->completed = true;
  Bench::Ack(a, 0);
  Bench::Ack(a, 1);
  Bench::Ack(b, 0);
  EXPECT_EQ(bench.log.PopDone(), nullptr);
  Bench::Barrier(b, 0);
  Bench::Barrier(a, 0);
  EXPECT_EQ(bench.log.PopDone(), nullptr) << "one peer of the oldest still owes its barrier ack";
  Bench::Barrier(a, 1);
  EXPECT_EQ(bench.log.PopDone(), a);
  EXPECT_EQ(bench.log.PopDone(), b);
  EXPECT_EQ(bench.log.PopDone(), nullptr);
  EXPECT_EQ(bench.log.size(), 0u);
}

TEST(TransferLogTest, ARequestThatWasNotAnsweredStays) {
  Bench bench;
  Request* a = bench.Write(1, 0);
  EXPECT_EQ(bench.log.PopDone(), nullptr);
  a->local_leg = LocalLeg::kPending;
  a->completed = true;
  EXPECT_EQ(bench.log.PopDone(), nullptr);
  a->local_leg = LocalLeg::kFailed;
  EXPECT_EQ(bench.log.PopDone(), a);
}

TEST(TransferLogTest, StableBeforeComparesAcrossTheWrap) {
  Bench bench;
  EXPECT_TRUE(bench.log.StableBefore(7)) << "an empty log owes nothing";
  Request* old = bench.Write(1);
  bench.log.CloseEpoch();
  EXPECT_TRUE(bench.log.StableBefore(old->epoch));
  EXPECT_FALSE(bench.log.StableBefore(old->epoch + 1));
  old->epoch = 0xffffffff;
  EXPECT_FALSE(bench.log.StableBefore(0)) << "epoch 0 comes after epoch 2^32 - 1";
  EXPECT_TRUE(bench.log.StableBefore(0xffffffff));
}

// --- ObjectPool
// ----------------------------------------------------------------------------------

struct Thing : PoolObject {
  int value = 0;
};

TEST(ObjectPoolTest, HandlesNameLiveObjectsOnly) {
  ObjectPool<Thing> pool;
  Thing* a = pool.Take();
  uint64_t handle = a->handle();
  EXPECT_NE(handle, 0u);
  EXPECT_NE(handle, ~uint64_t{0});
  EXPECT_EQ(pool.Find(handle), a);
  pool.Give(a);
  EXPECT_EQ(pool.Find(handle), nullptr) << "a handle ends with its use";
  Thing* again = pool.Take();
  EXPECT_EQ(again, a) << "objects are reused";
  EXPECT_NE(again->handle(), handle);
  EXPECT_EQ(pool.Find(handle), nullptr);
  pool.Give(again);
}

TEST(ObjectPoolTest, InventedHandlesNameNothing) {
  ObjectPool<Thing> pool;
  EXPECT_EQ(pool.Find(1), nullptr);
  Thing* a = pool.Take();
  for (uint64_t handle :
       {uint64_t{0}, ~uint64_t{0}, a->handle() + 1, a->handle() + (uint64_t{1} << 32),
        a->handle() & 0xffffffff, a->handle() + 64, uint64_t{1} << 63}) {
    EXPECT_EQ(pool.Find(handle), nullptr) << handle;
  }
  pool.Give(a);
}

TEST(ObjectPoolTest, GrowsToTheHighestUseAndStays) {
  ObjectPool<Thing> pool;
  std::set<uint64_t> handles;
  std::vector<Thing*> things;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 200; ++i) {
      things.push_back(pool.Take());
      EXPECT_TRUE(handles.insert(things.back()->handle()).second) << "no handle comes twice";
    }
    for (Thing* thing : things) EXPECT_EQ(pool.Find(thing->handle()), thing);
    EXPECT_EQ(pool.in_use(), 200u);
    for (Thing* thing : things) pool.Give(thing);
    things.clear();
  }
  EXPECT_EQ(pool.in_use(), 0u);
}

}  // namespace
}  // namespace umblock::drbd
