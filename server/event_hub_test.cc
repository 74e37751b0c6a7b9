#include "server/event_hub.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <set>
#include <thread>

#include "engine/base/log.h"
#include "server/event_publisher.h"
#include "umblock/v1/event.pb.h"

namespace umblock::server {
namespace {

v1::Event Backend(const std::string& name, const std::string& reason,
                  v1::Event::Type type = v1::Event::CHANGED) {
  v1::Event event;
  event.set_type(type);
  event.set_object("backend " + name);
  event.mutable_backend()->mutable_spec()->set_name(name);
  event.mutable_backend()->mutable_status()->set_reason(reason);
  return event;
}

v1::Event Volume(const std::string& resource) {
  v1::Event event;
  event.set_type(v1::Event::CHANGED);
  event.set_object("volume " + resource + "/0");
  event.mutable_volume()->mutable_spec()->set_resource(resource);
  return event;
}

std::vector<uint64_t> Drain(EventHub& hub, EventHub::Watcher& watcher) {
  std::vector<uint64_t> revisions;
  EventPtr event;
  while (hub.Poll(watcher, &event) == EventHub::Next::kEvent)
    revisions.push_back(event->revision());
  return revisions;
}

TEST(EventHub, SnapshotBookmarkThenEveryChange) {
  EventHub hub(100);
  hub.Publish(Backend("b", "one"));
  hub.Publish(Backend("a", "two"));
  hub.Publish(Backend("b", "three"));
  EventHub::Subscription s;
  ASSERT_EQ(hub.Subscribe(0, "", [] {}, &s), EventHub::Outcome::kOk);
  ASSERT_EQ(s.snapshot.size(), 3u);
  EXPECT_EQ(s.snapshot[0]->type(), v1::Event::EXISTS);
  EXPECT_EQ(s.snapshot[0]->object(), "backend a");
  EXPECT_EQ(s.snapshot[1]->backend().status().reason(), "three");
  EXPECT_EQ(s.snapshot[2]->type(), v1::Event::BOOKMARK);
  EXPECT_EQ(s.snapshot[2]->revision(), 103u);
  EXPECT_TRUE(Drain(hub, *s.watcher).empty());
  hub.Publish(Backend("b", "four"));
  hub.Publish(Backend("a", "", v1::Event::DELETED));
  EXPECT_EQ(Drain(hub, *s.watcher), (std::vector<uint64_t>{104, 105}));
  EXPECT_EQ(hub.Last("backend a"), nullptr);
  hub.Unsubscribe(s.watcher);
  EXPECT_EQ(hub.watchers(), 0u);
}

TEST(EventHub, ResumesAtARevision) {
  EventHub hub(100);
  for (int i = 0; i < 5; ++i) hub.Publish(Backend("b", std::to_string(i)));
  EventHub::Subscription s;
  ASSERT_EQ(hub.Subscribe(102, "", [] {}, &s), EventHub::Outcome::kOk);
  EXPECT_TRUE(s.snapshot.empty());
  EXPECT_EQ(Drain(hub, *s.watcher), (std::vector<uint64_t>{103, 104, 105}));
  hub.Unsubscribe(s.watcher);
}

TEST(EventHub, RefusesRevisionsThatItDoesNotRemember) {
  EventHub hub(100, 2);
  for (int i = 0; i < 5; ++i) hub.Publish(Backend("b", std::to_string(i)));
  EventHub::Subscription s;
  EXPECT_EQ(hub.Subscribe(102, "", [] {}, &s), EventHub::Outcome::kOutOfRange);
  EXPECT_EQ(hub.Subscribe(50, "", [] {}, &s), EventHub::Outcome::kOutOfRange);
  EXPECT_EQ(hub.Subscribe(106, "", [] {}, &s), EventHub::Outcome::kOutOfRange);
  ASSERT_EQ(hub.Subscribe(103, "", [] {}, &s), EventHub::Outcome::kOk);
  EXPECT_EQ(Drain(hub, *s.watcher), (std::vector<uint64_t>{104, 105}));
  hub.Unsubscribe(s.watcher);
}

TEST(EventHub, ASlowWatcherStartsOver) {
  EventHub hub(0, 4);
  EventHub::Subscription s;
  ASSERT_EQ(hub.Subscribe(0, "", [] {}, &s), EventHub::Outcome::kOk);
  for (int i = 0; i < 5; ++i) hub.Publish(Backend("b", std::to_string(i)));
  EventPtr event;
  ASSERT_EQ(hub.Poll(*s.watcher, &event), EventHub::Next::kOverrun);
  const std::vector<EventPtr> fresh = hub.StartOver(*s.watcher);
  ASSERT_EQ(fresh.size(), 3u);
  EXPECT_EQ(fresh[0]->type(), v1::Event::START_OVER);
  EXPECT_EQ(fresh[1]->backend().status().reason(), "4");
  EXPECT_EQ(fresh[2]->type(), v1::Event::BOOKMARK);
  EXPECT_EQ(hub.Poll(*s.watcher, &event), EventHub::Next::kEmpty);
  hub.Publish(Backend("b", "x"));
  EXPECT_EQ(hub.Poll(*s.watcher, &event), EventHub::Next::kEvent);
  hub.Unsubscribe(s.watcher);
}

TEST(EventHub, FiltersByResource) {
  EventHub hub(0);
  hub.Publish(Volume("r0"));
  hub.Publish(Volume("r1"));
  EventHub::Subscription s;
  ASSERT_EQ(hub.Subscribe(0, "r1", [] {}, &s), EventHub::Outcome::kOk);
  EXPECT_EQ(s.snapshot.size(), 2u);
  hub.Publish(Volume("r0"));
  hub.Publish(Backend("b", ""));
  hub.Publish(Volume("r1"));
  EXPECT_EQ(Drain(hub, *s.watcher), (std::vector<uint64_t>{5}));
  hub.Unsubscribe(s.watcher);
}

TEST(EventHub, BoundsItsWatchers) {
  EventHub hub(0);
  hub.set_max_watchers(1);
  EventHub::Subscription first;
  EventHub::Subscription second;
  ASSERT_EQ(hub.Subscribe(0, "", [] {}, &first), EventHub::Outcome::kOk);
  EXPECT_EQ(hub.Subscribe(0, "", [] {}, &second), EventHub::Outcome::kTooMany);
  hub.Unsubscribe(first.watcher);
  EXPECT_EQ(hub.Subscribe(0, "", [] {}, &second), EventHub::Outcome::kOk);
  hub.Unsubscribe(second.watcher);
}

TEST(EventHub, WakesOnceForEachEmptyPoll) {
  EventHub hub(0);
  int wakes = 0;
  EventHub::Subscription s;
  ASSERT_EQ(hub.Subscribe(0, "", [&wakes] { ++wakes; }, &s), EventHub::Outcome::kOk);
  hub.Publish(Backend("b", "1"));
  EXPECT_EQ(wakes, 0);
  EXPECT_EQ(Drain(hub, *s.watcher).size(), 1u);
  hub.Publish(Backend("b", "2"));
  hub.Publish(Backend("b", "3"));
  EXPECT_EQ(wakes, 1);
  EXPECT_EQ(Drain(hub, *s.watcher).size(), 2u);
  hub.Unsubscribe(s.watcher);
  hub.Publish(Backend("b", "4"));
  EXPECT_EQ(wakes, 1);
}

class Bell {
 public:
  void Ring() {
    std::lock_guard lock(mutex_);
    rung_ = true;
    wake_.notify_one();
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return rung_; });
    rung_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool rung_ = false;
};

// Readers on their own threads see every revision once and in order, or are told to start over.
TEST(EventHub, ManyThreadsSeeEverythingInOrder) {
  constexpr int kEvents = 2000;
  constexpr int kReaders = 4;
  EventHub hub(0, 64);
  std::atomic<bool> failed{false};
  std::vector<std::thread> readers;
  for (int r = 0; r < kReaders; ++r) {
    readers.emplace_back([&hub, &failed] {
      // Shared, since a wake may still be on its way when the subscription has ended.
      auto bell = std::make_shared<Bell>();
      EventHub::Subscription s;
      if (hub.Subscribe(0, "", [bell] { bell->Ring(); }, &s) != EventHub::Outcome::kOk) {
        failed = true;
      }
      uint64_t last = s.snapshot.back()->revision();
      while (last < kEvents) {
        EventPtr event;
        const EventHub::Next next = hub.Poll(*s.watcher, &event);
        if (next == EventHub::Next::kEvent) {
          if (event->revision() != last + 1) failed = true;
          last = event->revision();
        } else if (next == EventHub::Next::kOverrun) {
          const uint64_t fresh = hub.StartOver(*s.watcher).back()->revision();
          if (fresh <= last) failed = true;
          last = fresh;
        } else {
          bell->Wait();
        }
      }
      hub.Unsubscribe(s.watcher);
    });
  }
  for (int i = 0; i < kEvents; ++i) hub.Publish(Backend("b", std::to_string(i)));
  for (std::thread& reader : readers) reader.join();
  EXPECT_FALSE(failed);
}

TEST(EventPublisher, PublishesOnlyWhatDiffersAndSaysWhat) {
  EventHub hub(0);
  StderrLogger logger(LogLevel::kError);
  EventPublisher publisher(&hub, &logger);
  v1::Backend backend;
  backend.mutable_spec()->set_name("b");
  publisher.Show(BackendEvent(backend));
  publisher.Show(BackendEvent(backend));
  EXPECT_EQ(hub.last_revision(), 1u);
  EXPECT_EQ(hub.Last("backend b")->type(), v1::Event::CREATED);
  backend.mutable_status()->set_ready(true);
  backend.mutable_status()->add_used_by("volume r0/0");
  publisher.Show(BackendEvent(backend), "Attach");
  const EventPtr event = hub.Last("backend b");
  ASSERT_EQ(event->changes_size(), 2);
  EXPECT_EQ(event->changes(0).attribute(), "ready");
  EXPECT_EQ(event->changes(0).new_value(), "true");
  EXPECT_EQ(event->changes(1).attribute(), "used_by");
  EXPECT_EQ(event->changes(1).new_value(), "volume r0/0");
  EXPECT_EQ(event->changes(1).reason(), "Attach");
  publisher.ShowDeleted("backend b");
  publisher.ShowDeleted("backend b");
  EXPECT_EQ(hub.last_revision(), 3u);
}

TEST(EventPublisher, LeavesStatisticsOut) {
  EventHub hub(0);
  StderrLogger logger(LogLevel::kError);
  EventPublisher publisher(&hub, &logger);
  v1::Volume volume;
  volume.mutable_spec()->set_resource("r0");
  publisher.Show(VolumeEvent(volume));
  volume.mutable_status()->mutable_statistics()->set_read_bytes(4096);
  publisher.Show(VolumeEvent(volume));
  EXPECT_EQ(hub.last_revision(), 1u);
}

}  // namespace
}  // namespace umblock::server
