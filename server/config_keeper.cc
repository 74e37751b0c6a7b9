#include "server/config_keeper.h"

#include "server/run_blocking.h"

namespace umblock::server {

std::string ConfigKeeper::Secret(const std::string& key) const {
  const auto it = state_.secrets.values().find(key);
  return it == state_.secrets.values().end() ? std::string() : it->second;
}

Task<Status> ConfigKeeper::Commit(Change change) {
  auto lock = co_await mutex_.Acquire();
  StoredState next = state_;
  next.config.set_generation(state_.config.generation() + 1);
  change(next);
  // What the next start would refuse must never get onto the disk: nothing would come up then.
  if (Status valid = ValidateStoredState(next); !valid) {
    co_return MakeError(ErrorCode::kFailedPrecondition,
                        "the change was not made because it would leave a configuration that "
                        "cannot be started: {}",
                        valid.error().message());
  }
  Status saved;
  co_await RunBlocking(reactor_, [&] { saved = store_->Save(next); });
  if (!saved) {
    co_return std::unexpected(saved.error().Within(
        "the change was not made because the configuration could not be stored"));
  }
  state_ = std::move(next);
  co_return Ok();
}

std::string PutSecret(StoredState& state, std::string_view owner, const std::string& secret) {
  if (secret.empty()) return {};
  std::string key = fmt::format("{}@{}", owner, state.config.generation());
  (*state.secrets.mutable_values())[key] = secret;
  return key;
}

config::v1::StoredResource* FindResource(StoredState& state, std::string_view name) {
  for (auto& resource : *state.config.mutable_resources()) {
    if (resource.spec().name() == name) return &resource;
  }
  return nullptr;
}

config::v1::StoredVolume* FindVolume(StoredState& state, std::string_view resource,
                                     uint32_t number) {
  config::v1::StoredResource* owner = FindResource(state, resource);
  if (owner == nullptr) return nullptr;
  for (auto& volume : *owner->mutable_volumes()) {
    if (volume.spec().number() == number) return &volume;
  }
  return nullptr;
}

config::v1::StoredConnection* FindConnection(StoredState& state, std::string_view resource,
                                             uint32_t peer_node_id) {
  config::v1::StoredResource* owner = FindResource(state, resource);
  if (owner == nullptr) return nullptr;
  for (auto& connection : *owner->mutable_connections()) {
    if (connection.spec().peer_node_id() == peer_node_id) return &connection;
  }
  return nullptr;
}

config::v1::StoredTarget* FindTarget(StoredState& state, std::string_view name) {
  for (auto& target : *state.config.mutable_targets()) {
    if (target.spec().name() == name) return &target;
  }
  return nullptr;
}

}  // namespace umblock::server
