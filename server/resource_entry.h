// One resource at run time: what was declared, the engine's part, and what stands in the way.
// Private to ResourceManager.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "engine/runtime/sync.h"
#include "server/resource_manager.h"

namespace umblock::server {

struct VolumeEntry {
  v1::VolumeSpec spec;
  bool attach = false;          // declared
  bool attach_pending = false;  // declared, and not achieved since the start or the last Attach
  std::string problem;          // why it is pending
  uint64_t backend_bytes = 0;   // StoredVolume.backend_bytes
  uint64_t device_uuid = 0;     // StoredVolume.device_uuid
  std::set<std::string> fronts;
  bool going = false;  // being made or deleted: nobody may begin to present it
};

struct ConnectionEntry {
  v1::ConnectionSpec spec;  // without the secret
  std::string secret;
  bool connect = false;          // declared
  bool connect_pending = false;  // declared, and the engine was not told yet
  std::string problem;
};

struct ResourceEntry final : drbd::ResourceObserver {
  ResourceEntry(ResourceManager* owner, Reactor& on_reactor);
  ~ResourceEntry() override;

  void OnStateChange(const std::vector<drbd::StateEvent>& events) override;

  VolumeEntry* Volume(uint32_t number) {
    const auto it = volumes.find(number);
    return it == volumes.end() ? nullptr : &it->second;
  }
  ConnectionEntry* Connection(uint32_t peer) {
    const auto it = connections.find(peer);
    return it == connections.end() ? nullptr : &it->second;
  }
  const std::string& name() const { return spec.name(); }

  struct Drain : Completion {
    Drain(Fn function, ResourceEntry* owner) : Completion(function), entry(owner) {}
    ResourceEntry* entry;
    ResourceEntryPtr keep;  // the entry lives until the posted completion has run
  };

  ResourceManager* manager;
  Reactor& reactor;
  v1::ResourceSpec spec;
  std::unique_ptr<ReplicatedResource> resource;
  std::map<uint32_t, VolumeEntry> volumes;
  std::map<uint32_t, ConnectionEntry> connections;
  AsyncMutex lifecycle;  // one change of what exists, is attached or connected at a time
  int acts = 0;          // acts that run
  bool gone = false;     // deleted, or being made
  bool stopped = false;

  std::vector<drbd::StateEvent> pending_events;  // reported, not published yet
  Drain drain;
  std::weak_ptr<ResourceEntry> self;
};

// Keeps the resource from being deleted while an act runs.
class ActGuard {
 public:
  explicit ActGuard(ResourceEntryPtr entry) : entry_(std::move(entry)) { ++entry_->acts; }
  ActGuard(const ActGuard&) = delete;
  ActGuard& operator=(const ActGuard&) = delete;
  ~ActGuard() { --entry_->acts; }

 private:
  ResourceEntryPtr entry_;
};

std::unexpected<Error> NoSuchResource(const std::string& name);
std::unexpected<Error> IsStopping();
std::unexpected<Error> NoSuchVolume(const std::string& resource, uint32_t number);
std::unexpected<Error> NoSuchPeer(const std::string& resource, uint32_t peer_node_id);

}  // namespace umblock::server
