#include "server/event_publisher.h"

#include <google/protobuf/text_format.h>

#include <set>

#include "server/names.h"

namespace umblock::server {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// A value as people read it: text without quotes.
std::string FieldText(const Message& message, const FieldDescriptor* field, int index) {
  const Reflection* reflection = message.GetReflection();
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    std::string scratch;
    return index < 0 ? reflection->GetStringReference(message, field, &scratch)
                     : reflection->GetRepeatedStringReference(message, field, index, &scratch);
  }
  std::string text;
  google::protobuf::TextFormat::Printer printer;
  printer.SetSingleLineMode(true);
  printer.PrintFieldValueToString(message, field, index, &text);
  return text;
}

std::string JoinPath(const std::string& prefix, const std::string& name) {
  const bool structural = prefix.empty() && (name == "spec" || name == "status");
  if (structural) return {};
  return prefix.empty() ? name : prefix + "." + name;
}

void CollectLeaves(const Message& message, const std::string& prefix,
                   std::map<std::string, std::string>* leaves) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const std::string path = JoinPath(prefix, field->name());
    if (field->is_repeated()) {
      std::string joined;
      for (int i = 0; i < message.GetReflection()->FieldSize(message, field); ++i) {
        joined += (i == 0 ? "" : ", ") + FieldText(message, field, i);
      }
      (*leaves)[path] = joined;
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      CollectLeaves(message.GetReflection()->GetMessage(message, field), path, leaves);
    } else {
      (*leaves)[path] = FieldText(message, field, -1);
    }
  }
}

const Message* StateOf(const v1::Event& event) {
  const auto* oneof = v1::Event::descriptor()->FindOneofByName("state");
  const FieldDescriptor* field = event.GetReflection()->GetOneofFieldDescriptor(event, oneof);
  return field == nullptr ? nullptr : &event.GetReflection()->GetMessage(event, field);
}

// What changes with every look at a running sync or verify. What a verify has found is none of it.
bool IsProgress(const v1::Change& change) {
  return change.attribute().starts_with("sync.") || change.attribute() == "out_of_sync_bytes" ||
         change.attribute() == "equal_bytes" || change.attribute() == "deallocated_bytes" ||
         change.attribute() == "verify.position" || change.attribute() == "verify.compared_bytes" ||
         change.attribute() == "verify.skipped_bytes";
}

}  // namespace

std::vector<v1::Change> DiffStates(const v1::Event& before, const v1::Event& after) {
  std::map<std::string, std::string> old_leaves;
  std::map<std::string, std::string> new_leaves;
  if (const Message* state = StateOf(before)) CollectLeaves(*state, {}, &old_leaves);
  if (const Message* state = StateOf(after)) CollectLeaves(*state, {}, &new_leaves);
  std::vector<v1::Change> changes;
  const auto add = [&changes](const std::string& path, std::string from, std::string to) {
    v1::Change& change = changes.emplace_back();
    change.set_attribute(path);
    change.set_old_value(std::move(from));
    change.set_new_value(std::move(to));
  };
  for (const auto& [path, value] : new_leaves) {
    const auto it = old_leaves.find(path);
    const std::string old = it == old_leaves.end() ? std::string() : it->second;
    if (old != value) add(path, old, value);
  }
  for (const auto& [path, value] : old_leaves) {
    if (!new_leaves.contains(path)) add(path, value, {});
  }
  return changes;
}

void EventPublisher::Log(const v1::Event& event) {
  if (event.type() == v1::Event::CREATED || event.type() == v1::Event::DELETED) {
    logger_->Info("{}: {}", event.object(),
                  event.type() == v1::Event::CREATED ? "created" : "deleted");
    return;
  }
  // The engine has a line for each state change of its own; what is seen here of its objects beside
  // that (sizes, openers) is detail.
  const bool engines = event.has_resource() || event.has_volume() || event.has_connection() ||
                       event.has_peer_volume();
  const LogLevel level = engines ? LogLevel::kDebug : LogLevel::kInfo;
  for (const v1::Change& change : event.changes()) {
    if (IsProgress(change)) continue;
    const std::string line =
        fmt::format("{}: {} {} -> {} reason=\"{}\"", event.object(), change.attribute(),
                    change.old_value(), change.new_value(), change.reason());
    if (logger_->Enabled(level)) logger_->Write(level, line);
  }
}

void EventPublisher::Show(v1::Event event, const std::string& reason) {
  const auto it = last_.find(event.object());
  if (it == last_.end()) {
    event.set_type(v1::Event::CREATED);
  } else {
    std::vector<v1::Change> changes = DiffStates(it->second, event);
    if (changes.empty()) return;
    event.set_type(v1::Event::CHANGED);
    for (v1::Change& change : changes) {
      change.set_reason(reason);
      *event.add_changes() = std::move(change);
    }
  }
  Log(event);
  last_[event.object()] = event;
  hub_->Publish(std::move(event));
}

void EventPublisher::ShowEngineChange(v1::Event event,
                                      const std::vector<const drbd::StateEvent*>& changes) {
  event.set_type(v1::Event::CHANGED);
  for (const drbd::StateEvent* from : changes) {
    v1::Change* change = event.add_changes();
    change->set_attribute(from->attribute);
    change->set_old_value(from->old_value);
    change->set_new_value(from->new_value);
    change->set_reason(from->reason);
  }
  last_[event.object()] = event;
  hub_->Publish(std::move(event));
}

void EventPublisher::ShowDeleted(const std::string& object) {
  const auto it = last_.find(object);
  if (it == last_.end()) return;
  v1::Event event = std::move(it->second);
  last_.erase(it);
  event.set_type(v1::Event::DELETED);
  event.clear_changes();
  Log(event);
  hub_->Publish(std::move(event));
}

void EventPublisher::DeleteMissing(const std::string& resource,
                                   const std::vector<v1::Event>& present) {
  std::set<std::string> names;
  for (const v1::Event& event : present) names.insert(event.object());
  std::vector<std::string> gone;
  for (const auto& [object, event] : last_) {
    const bool owned = event.has_resource() || event.has_volume() || event.has_connection() ||
                       event.has_peer_volume();
    if (owned && ResourceOfEvent(event) == resource && !names.contains(object)) {
      gone.push_back(object);
    }
  }
  for (const std::string& object : gone) ShowDeleted(object);
}

v1::Event ResourceEvent(const v1::Resource& resource) {
  v1::Event event;
  event.set_object(ResourceName(resource.spec().name()));
  *event.mutable_resource()->mutable_spec() = resource.spec();
  *event.mutable_resource()->mutable_status() = resource.status();
  return event;
}

v1::Event VolumeEvent(const v1::Volume& volume) {
  v1::Event event;
  event.set_object(VolumeName(volume.spec().resource(), volume.spec().number()));
  *event.mutable_volume() = volume;
  event.mutable_volume()->mutable_status()->clear_statistics();
  return event;
}

v1::Event ConnectionEvent(const v1::Connection& connection) {
  v1::Event event;
  event.set_object(ConnectionName(connection.spec().resource(), connection.spec().peer_node_id()));
  *event.mutable_connection() = connection;
  event.mutable_connection()->clear_volumes();
  event.mutable_connection()->mutable_status()->clear_ap_in_flight_bytes();
  event.mutable_connection()->mutable_status()->clear_rs_in_flight_bytes();
  return event;
}

v1::Event PeerVolumeEvent(const v1::PeerVolume& volume) {
  v1::Event event;
  event.set_object(PeerVolumeName(volume.resource(), volume.peer_node_id(), volume.number()));
  *event.mutable_peer_volume() = volume;
  v1::PeerVolume* shown = event.mutable_peer_volume();
  shown->clear_received_bytes();
  shown->clear_sent_bytes();
  shown->clear_pending();
  shown->clear_unacked();
  // The engine's log has it, and status; of an event the states that it led to are enough.
  shown->clear_handshake();
  return event;
}

v1::Event BackendEvent(const v1::Backend& backend) {
  v1::Event event;
  event.set_object("backend " + backend.spec().name());
  *event.mutable_backend() = backend;
  return event;
}

v1::Event PortalEvent(const v1::Portal& portal) {
  v1::Event event;
  event.set_object("portal " + portal.spec().address());
  *event.mutable_portal() = portal;
  return event;
}

v1::Event TargetEvent(const v1::Target& target) {
  v1::Event event;
  event.set_object("target " + target.spec().name());
  *event.mutable_target() = target;
  event.mutable_target()->clear_luns();
  for (v1::Session& session : *event.mutable_target()->mutable_sessions()) {
    session.clear_commands();
    session.clear_copied_bytes();
    session.clear_received_bytes();
    session.clear_sent_bytes();
  }
  return event;
}

v1::Event LunEvent(const v1::Lun& lun) {
  v1::Event event;
  event.set_object(LunName(lun.spec().target(), lun.spec().number()));
  *event.mutable_lun() = lun;
  event.mutable_lun()->clear_statistics();
  return event;
}

v1::Event ExportEvent(const v1::Export& item) {
  v1::Event event;
  event.set_object("export " + item.spec().name());
  *event.mutable_export_() = item;
  return event;
}

std::vector<v1::Event> EventsOf(const v1::Resource& resource) {
  std::vector<v1::Event> events;
  events.push_back(ResourceEvent(resource));
  for (const v1::Volume& volume : resource.volumes()) events.push_back(VolumeEvent(volume));
  for (const v1::Connection& connection : resource.connections()) {
    events.push_back(ConnectionEvent(connection));
    for (const v1::PeerVolume& volume : connection.volumes()) {
      events.push_back(PeerVolumeEvent(volume));
    }
  }
  return events;
}

}  // namespace umblock::server
