#include "ctl/one_shot.h"

#include <algorithm>

#include "ctl/fields.h"

namespace umblock::ctl {
namespace {

struct Pair {
  std::string key;
  std::string value;
};

// "a=1,b=2"; kInvalidArgument for a part without '='.
Result<std::vector<Pair>> ParsePairs(const std::string& text) {
  std::vector<Pair> pairs;
  size_t at = 0;
  while (at < text.size()) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const std::string part = text.substr(at, comma - at);
    const size_t equals = part.find('=');
    if (equals == std::string::npos || equals == 0) {
      return MakeError(ErrorCode::kInvalidArgument, "'{}' is not of the form key=value", part);
    }
    pairs.push_back({part.substr(0, equals), part.substr(equals + 1)});
    at = comma + 1;
  }
  return pairs;
}

Status SetPath(v1::ConnectionSpec* spec, const Pair& pair) {
  const bool local = pair.key == "local";
  v1::Path* last = spec->paths_size() > 0 ? spec->mutable_paths(spec->paths_size() - 1) : nullptr;
  const bool taken = last == nullptr || !(local ? last->local() : last->remote()).empty();
  if (taken) last = spec->add_paths();
  if (local) {
    last->set_local(pair.value);
  } else {
    last->set_remote(pair.value);
  }
  return Ok();
}

}  // namespace

Result<v1::VolumeSpec> ParseVolumeArgument(const std::string& text) {
  v1::VolumeSpec spec;
  const size_t colon = std::min(text.find(':'), text.size());
  UMBLOCK_TRY(SetField(&spec, "number", text.substr(0, colon)));
  if (colon == text.size()) return spec;
  auto pairs = ParsePairs(text.substr(colon + 1));
  if (!pairs) return std::unexpected(pairs.error());
  for (const Pair& pair : *pairs) {
    if (pair.key == "backend") {
      spec.set_backend(pair.value);
    } else if (pair.key == "metadata") {
      spec.set_metadata_backend(pair.value);
    } else if (pair.key == "size") {
      UMBLOCK_TRY(SetField(&spec, "size_bytes", pair.value));
    } else {
      return MakeError(ErrorCode::kInvalidArgument,
                       "'{}' is not known in --volume: backend, metadata and size are", pair.key);
    }
  }
  return spec;
}

Result<v1::ConnectionSpec> ParsePeerArgument(const std::string& text) {
  v1::ConnectionSpec spec;
  const size_t comma = std::min(text.find(','), text.size());
  UMBLOCK_TRY(SetField(&spec, "peer_node_id", text.substr(0, comma)));
  auto pairs = ParsePairs(comma == text.size() ? "" : text.substr(comma + 1));
  if (!pairs) return std::unexpected(pairs.error());
  for (const Pair& pair : *pairs) {
    if (pair.key == "name") {
      spec.set_peer_name(pair.value);
    } else if (pair.key == "local" || pair.key == "remote") {
      UMBLOCK_TRY(SetPath(&spec, pair));
    } else {
      return MakeError(ErrorCode::kInvalidArgument,
                       "'{}' is not known in --peer: name, local and remote are", pair.key);
    }
  }
  for (const v1::Path& path : spec.paths()) {
    if (path.local().empty() || path.remote().empty()) {
      return MakeError(ErrorCode::kInvalidArgument, "a path needs both local= and remote=");
    }
  }
  return spec;
}

namespace {

Status MakeParts(Session& session, const WholeResource& whole) {
  const uint32_t peers = std::max<uint32_t>(1, static_cast<uint32_t>(whole.peers.size()));
  for (const v1::VolumeSpec& spec : whole.volumes) {
    v1::CreateVolumeRequest request;
    *request.mutable_spec() = spec;
    request.mutable_spec()->set_resource(whole.spec.name());
    request.set_create_metadata_if_blank(true);
    request.set_max_peers(whole.max_peers != 0 ? whole.max_peers : peers);
    v1::Volume volume;
    UMBLOCK_TRY(session.Call("VolumeService.CreateVolume", request, &volume));
  }
  for (const v1::ConnectionSpec& spec : whole.peers) {
    v1::CreateConnectionRequest request;
    *request.mutable_spec() = spec;
    request.mutable_spec()->set_resource(whole.spec.name());
    request.set_connect(whole.connect);
    v1::Connection connection;
    UMBLOCK_TRY(session.Call("ConnectionService.CreateConnection", request, &connection));
  }
  return Ok();
}

}  // namespace

Status CreateWhole(Session& session, const WholeResource& whole) {
  v1::CreateResourceRequest create;
  *create.mutable_spec() = whole.spec;
  v1::Resource resource;
  UMBLOCK_TRY(session.Call("ResourceService.CreateResource", create, &resource));
  if (Status made = MakeParts(session, whole); !made) {
    v1::DeleteResourceRequest undo;
    undo.set_name(whole.spec.name());
    undo.set_recursive(true);
    v1::DeleteResourceResponse undone;
    Status removed = session.Call("ResourceService.DeleteResource", undo, &undone);
    return MakeError(made.error().code(), "{} ({})", made.error().message(),
                     removed ? "nothing was kept"
                             : "what was made is still there: " + removed.error().message());
  }
  v1::GetResourceRequest get;
  get.set_name(whole.spec.name());
  return session.Act("ResourceService.GetResource", get, &resource);
}

}  // namespace umblock::ctl
