// EventPublisher: turns what objects look like into events, and writes one log line per change.
//
// Whoever changed something, or looks at regular intervals, shows the objects as they are now; what
// differs from what was published last becomes an event that says which attributes differ.
// Statistics are left out: they are always on the move, and are metrics. Threading: one reactor.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/base/log.h"
#include "engine/drbd/resource.h"
#include "server/event_hub.h"
#include "umblock/v1/event.pb.h"

namespace umblock::server {

class EventPublisher {
 public:
  // Both outlive this.
  EventPublisher(EventHub* hub, Logger* logger) : hub_(hub), logger_(logger) {}

  // `event` carries object and state. Publishes CREATED or CHANGED, or nothing if nothing differs.
  // `reason` is noted with what differs.
  void Show(v1::Event event, const std::string& reason = {});
  // The engine said what changed and why: publishes CHANGED with that, even if the state that
  // follows is the same again.
  void ShowEngineChange(v1::Event event, const std::vector<const drbd::StateEvent*>& changes);
  void ShowDeleted(const std::string& object);
  // Publishes DELETED for what belongs to `resource` and is not in `present`.
  void DeleteMissing(const std::string& resource, const std::vector<v1::Event>& present);

  bool Knows(const std::string& object) const { return last_.contains(object); }

 private:
  void Log(const v1::Event& event);

  EventHub* hub_;
  Logger* logger_;
  std::map<std::string, v1::Event> last_;
};

// What differs between two states of one object, by path: "status.disk" is called "disk".
std::vector<v1::Change> DiffStates(const v1::Event& before, const v1::Event& after);

// One object each, without what is left out of events.
v1::Event ResourceEvent(const v1::Resource& resource);
v1::Event VolumeEvent(const v1::Volume& volume);
v1::Event ConnectionEvent(const v1::Connection& connection);
v1::Event PeerVolumeEvent(const v1::PeerVolume& volume);
v1::Event BackendEvent(const v1::Backend& backend);
v1::Event PortalEvent(const v1::Portal& portal);
v1::Event TargetEvent(const v1::Target& target);
v1::Event LunEvent(const v1::Lun& lun);
v1::Event ExportEvent(const v1::Export& item);
// A resource with all that belongs to it, owners first.
std::vector<v1::Event> EventsOf(const v1::Resource& resource);

}  // namespace umblock::server
