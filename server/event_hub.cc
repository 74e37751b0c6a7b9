#include "server/event_hub.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>

#include "umblock/v1/event.pb.h"

namespace umblock::server {

class EventHub::Watcher {
 public:
  Watcher(uint64_t position, std::string resource, std::function<void()> wake)
      : position_(position), resource_(std::move(resource)), wake_(std::move(wake)) {}

 private:
  friend class EventHub;
  uint64_t position_;  // the last revision that was delivered or skipped
  const std::string resource_;
  const std::function<void()> wake_;
  bool armed_ = false;  // the last Poll said kEmpty
};

namespace {

// Owners before what they own, so that a snapshot can be read from top to bottom.
int RankOf(const v1::Event& event) { return static_cast<int>(event.state_case()); }

}  // namespace

std::string ResourceOfEvent(const v1::Event& event) {
  switch (event.state_case()) {
    case v1::Event::kResource:
      return event.resource().spec().name();
    case v1::Event::kVolume:
      return event.volume().spec().resource();
    case v1::Event::kConnection:
      return event.connection().spec().resource();
    case v1::Event::kPeerVolume:
      return event.peer_volume().resource();
    case v1::Event::kLun:
      return event.lun().spec().backing().volume().resource();
    case v1::Event::kExport:
      return event.export_().spec().backing().volume().resource();
    default:
      return {};
  }
}

EventHub::EventHub(uint64_t first_revision, size_t capacity)
    : capacity_(capacity), last_revision_(first_revision) {}

EventHub::~EventHub() = default;

uint64_t EventHub::Publish(v1::Event event) {
  *event.mutable_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
  const std::pair<int, std::string> key(RankOf(event), event.object());
  std::string resource = ResourceOfEvent(event);
  std::vector<std::shared_ptr<Watcher>> to_wake;
  uint64_t revision = 0;
  {
    std::lock_guard lock(mutex_);
    revision = ++last_revision_;
    event.set_revision(revision);
    const bool deleted = event.type() == v1::Event::DELETED;
    Entry entry{std::make_shared<const v1::Event>(std::move(event)), std::move(resource)};
    if (deleted) {
      states_.erase(key);
    } else {
      states_[key] = entry;
    }
    log_.push_back(std::move(entry));
    if (log_.size() > capacity_) log_.pop_front();
    for (const auto& watcher : watchers_) {
      if (!std::exchange(watcher->armed_, false)) continue;
      to_wake.push_back(watcher);
    }
  }
  for (const auto& watcher : to_wake) watcher->wake_();
  return revision;
}

EventPtr EventHub::Last(const std::string& object) const {
  std::lock_guard lock(mutex_);
  for (const auto& [key, entry] : states_) {
    if (key.second == object) return entry.event;
  }
  return nullptr;
}

uint64_t EventHub::last_revision() const {
  std::lock_guard lock(mutex_);
  return last_revision_;
}

size_t EventHub::watchers() const {
  std::lock_guard lock(mutex_);
  return watchers_.size();
}

std::vector<EventPtr> EventHub::SnapshotLocked(const std::string& resource) const {
  std::vector<EventPtr> snapshot;
  for (const auto& [key, entry] : states_) {
    if (!resource.empty() && entry.resource != resource) continue;
    auto event = std::make_shared<v1::Event>(*entry.event);
    event->set_type(v1::Event::EXISTS);
    event->set_revision(last_revision_);
    event->clear_changes();
    snapshot.push_back(std::move(event));
  }
  auto bookmark = std::make_shared<v1::Event>();
  bookmark->set_type(v1::Event::BOOKMARK);
  bookmark->set_revision(last_revision_);
  *bookmark->mutable_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
  snapshot.push_back(std::move(bookmark));
  return snapshot;
}

EventHub::Outcome EventHub::Subscribe(uint64_t since, const std::string& resource,
                                      std::function<void()> wake, Subscription* subscription) {
  std::lock_guard lock(mutex_);
  if (watchers_.size() >= max_watchers_) return Outcome::kTooMany;
  uint64_t position = last_revision_;
  if (since == 0) {
    subscription->snapshot = SnapshotLocked(resource);
  } else {
    if (since > last_revision_ || since < last_revision_ - log_.size()) return Outcome::kOutOfRange;
    position = since;
  }
  subscription->watcher = std::make_shared<Watcher>(position, resource, std::move(wake));
  watchers_.push_back(subscription->watcher);
  return Outcome::kOk;
}

void EventHub::Unsubscribe(const std::shared_ptr<Watcher>& watcher) {
  std::lock_guard lock(mutex_);
  watcher->armed_ = false;
  std::erase(watchers_, watcher);
}

EventHub::Next EventHub::Poll(Watcher& watcher, EventPtr* event) {
  std::lock_guard lock(mutex_);
  if (watcher.position_ < last_revision_ - log_.size()) return Next::kOverrun;
  while (watcher.position_ < last_revision_) {
    ++watcher.position_;
    const Entry& entry = log_[log_.size() - 1 - (last_revision_ - watcher.position_)];
    if (!watcher.resource_.empty() && entry.resource != watcher.resource_) continue;
    *event = entry.event;
    return Next::kEvent;
  }
  watcher.armed_ = true;
  return Next::kEmpty;
}

std::vector<EventPtr> EventHub::StartOver(Watcher& watcher) {
  std::lock_guard lock(mutex_);
  watcher.position_ = last_revision_;
  std::vector<EventPtr> events = SnapshotLocked(watcher.resource_);
  auto marker = std::make_shared<v1::Event>();
  marker->set_type(v1::Event::START_OVER);
  marker->set_revision(last_revision_);
  *marker->mutable_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
  events.insert(events.begin(), std::move(marker));
  return events;
}

}  // namespace umblock::server
