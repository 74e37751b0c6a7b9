#include "server/config_store.h"

#include <fcntl.h>
#include <google/protobuf/util/json_util.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <set>

#include "engine/base/assert.h"
#include "server/convert.h"
#include "server/names.h"

namespace umblock::server {
namespace {

constexpr size_t kFileLimit = size_t{64} << 20;

std::string ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  UMBLOCK_ASSERT(status.ok(), "our own messages have a JSON form");
  return json;
}

Status FromJson(const std::string& path, const std::string& json,
                google::protobuf::Message* message) {
  const auto status = google::protobuf::util::JsonStringToMessage(json, message);
  if (status.ok()) return Ok();
  return MakeError(ErrorCode::kDataLoss,
                   "'{}' cannot be read: {}. Correct it, or restore '{}.previous' (the "
                   "generation before) or a backup; to start without configuration move the "
                   "state directory's files away",
                   path, status.message().ToString(), path);
}

Status CheckVersion(const std::string& path, uint32_t version) {
  if (version == kConfigFormatVersion) return Ok();
  return MakeError(ErrorCode::kDataLoss,
                   "'{}' has format version {}, this umblockd knows {}: start the version that "
                   "wrote it, or restore a backup",
                   path, version, kConfigFormatVersion);
}

std::set<std::string> ReferencedSecrets(const config::v1::Config& config) {
  std::set<std::string> keys;
  for (const auto& resource : config.resources()) {
    for (const auto& connection : resource.connections()) {
      keys.insert(connection.shared_secret_key());
    }
  }
  for (const auto& target : config.targets()) {
    keys.insert(target.chap_secret_key());
    keys.insert(target.mutual_chap_secret_key());
  }
  keys.erase("");
  return keys;
}

std::string SecretOf(const StoredState& state, const std::string& key) {
  const auto it = state.secrets.values().find(key);
  return it == state.secrets.values().end() ? std::string() : it->second;
}

// What a converter thinks of a stored spec: an error is damage here.
template <typename Converted>
Status Sensible(const std::string& object, const Converted& converted) {
  if (converted) return Ok();
  return MakeError(ErrorCode::kDataLoss, "{}: {}", object, converted.error().message());
}

Status CheckVolume(const std::string& resource, const config::v1::StoredVolume& volume,
                   const std::set<std::string>& backends) {
  const auto& spec = volume.spec();
  UMBLOCK_TRY(Sensible(VolumeName(resource, spec.number()), ToVolumeConfig(spec)));
  for (const std::string& backend : {spec.backend(), spec.metadata_backend()}) {
    if (!backend.empty() && !backends.contains(backend)) {
      return MakeError(ErrorCode::kDataLoss,
                       "volume {}/{} refers to backend '{}', which is not there", resource,
                       spec.number(), backend);
    }
  }
  if (volume.attach() && spec.backend().empty()) {
    return MakeError(ErrorCode::kDataLoss, "volume {}/{} is to be attached and names no backend",
                     resource, spec.number());
  }
  return Ok();
}

Status CheckResource(const StoredState& state, const config::v1::StoredResource& resource,
                     const std::set<std::string>& backends, std::set<std::string>* volumes) {
  const std::string& name = resource.spec().name();
  UMBLOCK_TRY(Sensible(ResourceName(name), ToResourceConfig(resource.spec())));
  for (const auto& volume : resource.volumes()) {
    UMBLOCK_TRY(CheckVolume(name, volume, backends));
    if (!volumes->insert(VolumeName(name, volume.spec().number())).second) {
      return MakeError(ErrorCode::kDataLoss, "volume {}/{} occurs twice", name,
                       volume.spec().number());
    }
  }
  std::set<uint32_t> peers;
  for (const auto& connection : resource.connections()) {
    const uint32_t peer = connection.spec().peer_node_id();
    UMBLOCK_TRY(
        Sensible(ConnectionName(name, peer),
                 ToPeerConfig(connection.spec(), SecretOf(state, connection.shared_secret_key()))));
    if (!peers.insert(peer).second || peer == resource.spec().node_id()) {
      return MakeError(ErrorCode::kDataLoss,
                       "resource '{}' has two peers of node id {}, or itself as peer", name, peer);
    }
  }
  return Ok();
}

Status CheckBacking(const std::string& user, const v1::Backing& backing,
                    const std::set<std::string>& backends, const std::set<std::string>& volumes) {
  const bool there =
      backing.has_volume()
          ? volumes.contains(VolumeName(backing.volume().resource(), backing.volume().number()))
          : backends.contains(backing.backend());
  if (there) return Ok();
  return MakeError(ErrorCode::kDataLoss, "{} presents {}, which is not there", user,
                   DescribeBacking(backing));
}

Status CheckFronts(const StoredState& state, const std::set<std::string>& backends,
                   const std::set<std::string>& volumes) {
  const config::v1::Config& config = state.config;
  std::set<std::string> names;
  for (const auto& target : config.targets()) {
    UMBLOCK_TRY(Sensible("target " + target.spec().name(),
                         ToTargetSetup(target.spec(), SecretOf(state, target.chap_secret_key()),
                                       SecretOf(state, target.mutual_chap_secret_key()))));
    if (!names.insert("target " + target.spec().name()).second) {
      return MakeError(ErrorCode::kDataLoss, "target '{}' occurs twice", target.spec().name());
    }
    for (const auto& lun : target.luns()) {
      const std::string name = LunName(target.spec().name(), lun.number());
      if (!names.insert(name).second) {
        return MakeError(ErrorCode::kDataLoss, "{} occurs twice", name);
      }
      UMBLOCK_TRY(Sensible(name, CheckLunSpec(lun)));
      UMBLOCK_TRY(CheckBacking(name, lun.backing(), backends, volumes));
    }
  }
  for (const auto& item : config.exports()) {
    const std::string name = "export " + item.name();
    UMBLOCK_TRY(Sensible(name, CheckName("export", item.name())));
    if (!names.insert(name).second) {
      return MakeError(ErrorCode::kDataLoss, "{} occurs twice", name);
    }
    UMBLOCK_TRY(CheckBacking(name, item.backing(), backends, volumes));
  }
  return Ok();
}

}  // namespace

Status ValidateStoredState(const StoredState& state) {
  for (const std::string& key : ReferencedSecrets(state.config)) {
    if (!state.secrets.values().contains(key)) {
      return MakeError(ErrorCode::kDataLoss,
                       "the secret '{}' is missing from secrets.json: restore that file together "
                       "with config.json",
                       key);
    }
  }
  std::set<std::string> backends;
  std::set<std::string> volumes;
  std::set<std::string> resources;
  for (const auto& backend : state.config.backends()) {
    UMBLOCK_TRY(Sensible("backend " + backend.name(), ToBackendSetup(backend)));
    if (!backends.insert(backend.name()).second) {
      return MakeError(ErrorCode::kDataLoss, "backend '{}' occurs twice", backend.name());
    }
  }
  for (const auto& resource : state.config.resources()) {
    if (!resources.insert(resource.spec().name()).second) {
      return MakeError(ErrorCode::kDataLoss, "resource '{}' occurs twice", resource.spec().name());
    }
    UMBLOCK_TRY(CheckResource(state, resource, backends, &volumes));
  }
  return CheckFronts(state, backends, volumes);
}

ConfigStore::ConfigStore(std::string directory, FileFaultHook fault)
    : directory_(std::move(directory)), fault_(std::move(fault)) {
  stored_.config.set_format_version(kConfigFormatVersion);
  stored_.secrets.set_format_version(kConfigFormatVersion);
}

ConfigStore::~ConfigStore() {
  if (lock_fd_ >= 0) ::close(lock_fd_);
}

Status ConfigStore::Lock() {
  if (::mkdir(directory_.c_str(), 0750) != 0 && errno != EEXIST) {
    return std::unexpected(
        Error::FromErrno(errno, fmt::format("make the state directory '{}'", directory_)));
  }
  const std::string path = directory_ + "/umblockd.lock";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0640);
  if (fd < 0) return std::unexpected(Error::FromErrno(errno, fmt::format("open '{}'", path)));
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    char owner[32] = {};
    const ssize_t n = ::read(fd, owner, sizeof owner - 1);
    ::close(fd);
    const std::string pid(owner, n > 0 ? static_cast<size_t>(n) : 0);
    return MakeError(ErrorCode::kFailedPrecondition,
                     "the state directory '{}' is in use by another umblockd (process {}): stop "
                     "it, or give this one a directory of its own with --state-dir",
                     directory_, pid.empty() ? "unknown" : pid.substr(0, pid.find('\n')));
  }
  const std::string pid = fmt::format("{}\n", ::getpid());
  if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, pid.data(), pid.size(), 0) < 0) {
    Error error = Error::FromErrno(errno, fmt::format("write '{}'", path));
    ::close(fd);
    return std::unexpected(std::move(error));
  }
  lock_fd_ = fd;
  return Ok();
}

Result<config::v1::Config> ConfigStore::LoadConfig() const {
  config::v1::Config config;
  auto json = ReadSmallFile(config_path(), kFileLimit);
  if (!json && json.error().code() == ErrorCode::kNotFound) {
    const std::string previous = config_path() + ".previous";
    if (::access(previous.c_str(), F_OK) == 0) {
      return MakeError(ErrorCode::kDataLoss,
                       "'{}' is missing and '{}' is there: rename it to restore the generation "
                       "before, or move it away to start without configuration",
                       config_path(), previous);
    }
    config.set_format_version(kConfigFormatVersion);
    return config;
  }
  if (!json) return std::unexpected(json.error());
  UMBLOCK_TRY(FromJson(config_path(), *json, &config));
  UMBLOCK_TRY(CheckVersion(config_path(), config.format_version()));
  return config;
}

Result<config::v1::Secrets> ConfigStore::LoadSecrets() const {
  config::v1::Secrets secrets;
  auto json = ReadSmallFile(secrets_path(), kFileLimit);
  if (!json && json.error().code() == ErrorCode::kNotFound) {
    secrets.set_format_version(kConfigFormatVersion);
    return secrets;
  }
  if (!json) return std::unexpected(json.error());
  struct stat info = {};
  if (::stat(secrets_path().c_str(), &info) == 0 && (info.st_mode & 077) != 0) {
    return MakeError(ErrorCode::kPermissionDenied,
                     "'{}' can be read by others (mode {:04o}): chmod it to 0600, and change the "
                     "secrets in it",
                     secrets_path(), info.st_mode & 07777);
  }
  UMBLOCK_TRY(FromJson(secrets_path(), *json, &secrets));
  UMBLOCK_TRY(CheckVersion(secrets_path(), secrets.format_version()));
  return secrets;
}

Result<StoredState> ConfigStore::Load() {
  auto config = LoadConfig();
  if (!config) return std::unexpected(config.error());
  auto secrets = LoadSecrets();
  if (!secrets) return std::unexpected(secrets.error());
  StoredState state{std::move(*config), std::move(*secrets)};
  if (Status valid = ValidateStoredState(state); !valid) {
    return std::unexpected(
        valid.error().Within(fmt::format("the configuration in '{}'", directory_)));
  }
  stored_ = state;
  return state;
}

Status ConfigStore::SaveSecrets(const config::v1::Secrets& secrets) {
  AtomicFileOptions options;
  options.mode = 0600;
  options.fault = &fault_;
  UMBLOCK_TRY(WriteFileAtomically(secrets_path(), ToJson(secrets), options));
  stored_.secrets = secrets;
  return Ok();
}

Status ConfigStore::Save(const StoredState& next) {
  // Everything that the old or the new configuration refers to.
  config::v1::Secrets secrets;
  secrets.set_format_version(kConfigFormatVersion);
  for (const std::string& key : ReferencedSecrets(stored_.config)) {
    if (auto it = stored_.secrets.values().find(key); it != stored_.secrets.values().end()) {
      (*secrets.mutable_values())[key] = it->second;
    }
  }
  bool changed = false;
  for (const std::string& key : ReferencedSecrets(next.config)) {
    const auto it = next.secrets.values().find(key);
    UMBLOCK_ASSERT(it != next.secrets.values().end(), "a stored secret is given with its key");
    const auto old = stored_.secrets.values().find(key);
    changed = changed || old == stored_.secrets.values().end() || old->second != it->second;
    (*secrets.mutable_values())[key] = it->second;
  }
  changed = changed || secrets.values_size() != stored_.secrets.values_size();
  if (changed) UMBLOCK_TRY(SaveSecrets(secrets));

  config::v1::Config config = next.config;
  config.set_format_version(kConfigFormatVersion);
  AtomicFileOptions options;
  options.keep_previous = true;
  options.fault = &fault_;
  UMBLOCK_TRY(WriteFileAtomically(config_path(), ToJson(config), options));
  stored_.config = std::move(config);
  return Ok();
}

}  // namespace umblock::server
