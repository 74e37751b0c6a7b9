// ConfigKeeper: the declared state, and the only way to change it: a change is on stable storage
// before it counts. Threading: the node's reactor (the disk work is done on a blocking thread).
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "engine/runtime/sync.h"
#include "server/config_store.h"

namespace umblock::server {

class ConfigKeeper {
 public:
  // `store` outlives this.
  ConfigKeeper(Reactor& reactor, ConfigStore* store, StoredState state)
      : reactor_(reactor), store_(store), state_(std::move(state)), mutex_(reactor) {}

  const config::v1::Config& config() const { return state_.config; }
  const StoredState& state() const { return state_; }
  // The secret under a key; empty for an empty key.
  std::string Secret(const std::string& key) const;

  // Applies `change` to a copy (with its generation already raised), stores the copy and then puts
  // it in force. On an error nothing has changed; kFailedPrecondition: the copy makes no sense
  // (ValidateStoredState). Changes are made one at a time, in order.
  using Change = std::move_only_function<void(StoredState&)>;
  Task<Status> Commit(Change change);

 private:
  Reactor& reactor_;
  ConfigStore* store_;
  StoredState state_;
  AsyncMutex mutex_;
};

// Files a secret under a key that no earlier generation used, and returns the key. An empty secret
// has the empty key.
std::string PutSecret(StoredState& state, std::string_view owner, const std::string& secret);

// Entries of a configuration by name; null if there is none.
config::v1::StoredResource* FindResource(StoredState& state, std::string_view name);
config::v1::StoredVolume* FindVolume(StoredState& state, std::string_view resource,
                                     uint32_t number);
config::v1::StoredConnection* FindConnection(StoredState& state, std::string_view resource,
                                             uint32_t peer_node_id);
config::v1::StoredTarget* FindTarget(StoredState& state, std::string_view name);

// Removes the elements of a repeated field for which `matches` holds.
template <typename Repeated, typename Predicate>
void EraseFrom(Repeated* field, Predicate matches) {
  for (int i = field->size() - 1; i >= 0; --i) {
    if (matches(field->Get(i))) field->DeleteSubrange(i, 1);
  }
}

}  // namespace umblock::server
