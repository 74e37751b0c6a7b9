// EventHub: what is, and what happened lately, in order; read by any number of watchers.
//
// Every published change gets a revision (growing by one) and replaces the object's last known
// state. Watchers share one bounded log: each is only a position in it, so a watcher that falls
// behind costs nothing and, once the log has moved past its position, is told to start over.
// A subscription takes the present state and its position in one step, so nothing is missed.
//
// Threading: any thread. The lock is held for a map update or a copy of pointers; wake functions
// are called without it, at most once per Poll that said kEmpty, on the publisher's thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/error.h"

namespace umblock::v1 {
class Event;
}

namespace umblock::server {

using EventPtr = std::shared_ptr<const v1::Event>;

class EventHub {
 public:
  class Watcher;

  // `first_revision`: below it everything counts as forgotten. `capacity`: changes remembered.
  explicit EventHub(uint64_t first_revision, size_t capacity = 8192);
  ~EventHub();
  EventHub(const EventHub&) = delete;
  EventHub& operator=(const EventHub&) = delete;

  // Publishes a change of event.object(): sets revision and time, and for DELETED forgets the
  // object. Returns the revision.
  uint64_t Publish(v1::Event event);

  // The last state that was published for an object; null if there is none.
  EventPtr Last(const std::string& object) const;
  uint64_t last_revision() const;

  struct Subscription {
    std::shared_ptr<Watcher> watcher;
    std::vector<EventPtr> snapshot;  // EXISTS …, BOOKMARK; empty when resumed
  };
  // `since` 0: with a snapshot. Else only what came after `since`; kOutOfRange if that is not
  // remembered. `resource`: only what belongs to it; empty: everything. `wake` tells that Poll has
  // something to say again.
  enum class Outcome { kOk, kOutOfRange, kTooMany };
  Outcome Subscribe(uint64_t since, const std::string& resource, std::function<void()> wake,
                    Subscription* subscription);
  // No wake function is called any more when it returns, except one that runs right now.
  void Unsubscribe(const std::shared_ptr<Watcher>& watcher);

  enum class Next { kEvent, kEmpty, kOverrun };
  Next Poll(Watcher& watcher, EventPtr* event);
  // After kOverrun: a fresh snapshot, with a START_OVER before it.
  std::vector<EventPtr> StartOver(Watcher& watcher);

  void set_max_watchers(size_t limit) { max_watchers_ = limit; }
  size_t watchers() const;

 private:
  struct Entry {
    EventPtr event;
    std::string resource;
  };

  std::vector<EventPtr> SnapshotLocked(const std::string& resource) const;

  mutable std::mutex mutex_;
  const size_t capacity_;
  size_t max_watchers_ = 64;
  uint64_t last_revision_;
  std::deque<Entry> log_;                                // revisions last - size + 1 … last
  std::map<std::pair<int, std::string>, Entry> states_;  // by rank and object
  std::vector<std::shared_ptr<Watcher>> watchers_;
};

// The name of the resource that an event belongs to; empty if none.
std::string ResourceOfEvent(const v1::Event& event);

}  // namespace umblock::server
