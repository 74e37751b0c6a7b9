// ConfigStore: the daemon's configuration on disk, in one directory that one daemon holds.
//
// config.json (mode 0640) and secrets.json (mode 0600) are umblock.config.v1 messages in protobuf's
// JSON form (docs/configuration.md). Both are replaced atomically; config.json.previous is the
// generation before. Secrets are written before the configuration that refers to them and are
// dropped only after the configuration that no longer does, so every crash leaves a pair that fits.
// Threading: one thread at a time; Load and Save block.
#pragma once

#include <string>

#include "engine/base/error.h"
#include "server/atomic_file.h"
#include "umblock/config/v1/config.pb.h"

namespace umblock::server {

inline constexpr uint32_t kConfigFormatVersion = 1;

struct StoredState {
  config::v1::Config config;
  config::v1::Secrets secrets;
};

class ConfigStore {
 public:
  explicit ConfigStore(std::string directory, FileFaultHook fault = {});
  ~ConfigStore();
  ConfigStore(const ConfigStore&) = delete;
  ConfigStore& operator=(const ConfigStore&) = delete;

  // Makes sure that no other daemon uses the directory, until destruction. kFailedPrecondition
  // names the process that does; creates the directory (mode 0750) if it is missing.
  Status Lock();

  // An empty state if nothing was stored yet. kDataLoss: what is stored does not check out; the
  // message says what to do.
  Result<StoredState> Load();

  // Ok: `next` is on stable storage. An error: what was stored before is in force.
  Status Save(const StoredState& next);

  const std::string& directory() const { return directory_; }
  std::string config_path() const { return directory_ + "/config.json"; }
  std::string secrets_path() const { return directory_ + "/secrets.json"; }

 private:
  Status SaveSecrets(const config::v1::Secrets& secrets);
  Result<config::v1::Config> LoadConfig() const;
  Result<config::v1::Secrets> LoadSecrets() const;

  const std::string directory_;
  const FileFaultHook fault_;
  int lock_fd_ = -1;
  StoredState stored_;  // what is on disk
};

// Names, references and numbers fit together; says what does not.
Status ValidateStoredState(const StoredState& state);

}  // namespace umblock::server
