#include "engine/drbd/config.h"

#include "engine/drbd/wire/constants.h"
#include "engine/drbd/wire/digest.h"

namespace umblock::drbd {
namespace {

Status InRange(std::string_view what, uint64_t value, uint64_t least, uint64_t most,
               std::string_view unit) {
  if (value >= least && value <= most) return Ok();
  return MakeError(ErrorCode::kInvalidArgument, "{} is {} {}; allowed are {} to {}", what, value,
                   unit, least, most);
}

uint64_t Milliseconds(Duration duration) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
}

Status KnownDigest(std::string_view option, const std::string& name) {
  if (name.empty()) return Ok();
  Result<wire::Digest> digest = wire::Digest::Create(name);
  if (digest) return Ok();
  return MakeError(ErrorCode::kInvalidArgument, "{}: {}", option, digest.error().message());
}

Status ValidName(std::string_view what, const std::string& name) {
  bool ok = !name.empty() && name.size() <= 64;
  for (char c : name) {
    ok = ok && ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                c == '-' || c == '_' || c == '.');
  }
  if (ok && name[0] != '.' && name[0] != '-') return Ok();
  return MakeError(
      ErrorCode::kInvalidArgument,
      "{} '{}' is not usable: 1 to 64 letters, digits, '.', '_' and '-', not beginning "
      "with '.' or '-'",
      what, name);
}

}  // namespace

Status Validate(const ResourceConfig& config) {
  UMBLOCK_TRY(ValidName("the resource name", config.name));
  if (!IsNodeId(config.node_id)) {
    return MakeError(ErrorCode::kInvalidArgument, "node id {} of resource {}: allowed are 0 to 31",
                     config.node_id, config.name);
  }
  UMBLOCK_TRY(Validate(config.handlers));
  const ResourceOptions& options = config.options;
  UMBLOCK_TRY(InRange("twopc-timeout", Milliseconds(options.twopc_timeout), 5000, 60000, "ms"));
  UMBLOCK_TRY(
      InRange("peer-ack-window", options.peer_ack_window, 2048 * 512, 204800 * 512, "bytes"));
  UMBLOCK_TRY(InRange("peer-ack-delay", Milliseconds(options.peer_ack_delay), 1, 10000, "ms"));
  return InRange("max-io-depth", options.max_io_depth, 4, UINT32_MAX, "requests");
}

Status Validate(const VolumeConfig& config) {
  UMBLOCK_TRY(
      InRange("the volume number", static_cast<uint64_t>(config.number), 0, kMaxVolumes - 1, ""));
  if (config.size % 4096 != 0) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "the size of volume {} is {} bytes; it must be a multiple of 4096",
                     config.number, config.size);
  }
  if (config.disk.disk_timeout != 0s) {
    UMBLOCK_TRY(InRange("disk-timeout", Milliseconds(config.disk.disk_timeout), 100, 600000, "ms"));
  }
  UMBLOCK_TRY(
      InRange("rs-discard-granularity", config.disk.rs_discard_granularity, 0, 1 << 20, "bytes"));
  return InRange("al-extents", config.disk.al_extents, 67, 65534, "extents");
}

Status Validate(const PeerConfig& config) {
  if (!IsNodeId(config.node_id)) {
    return MakeError(ErrorCode::kInvalidArgument, "peer node id {}: allowed are 0 to 31",
                     config.node_id);
  }
  if (config.paths.size() > 16) {
    return MakeError(ErrorCode::kInvalidArgument, "peer {} has {} paths; at most 16",
                     config.node_id, config.paths.size());
  }
  for (const PathConfig& path : config.paths) {
    if (path.local.family() != path.remote.family()) {
      return MakeError(ErrorCode::kInvalidArgument,
                       "peer {}: the path {} to {} mixes IPv4 and IPv6", config.node_id,
                       path.local.ToString(), path.remote.ToString());
    }
    if (path.local.port() == 0 || path.remote.port() == 0) {
      return MakeError(ErrorCode::kInvalidArgument, "peer {}: the path {} to {} lacks a port",
                       config.node_id, path.local.ToString(), path.remote.ToString());
    }
  }
  const NetOptions& net = config.net;
  if (net.shared_secret.size() > wire::kMaxSharedSecretBytes) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "peer {}: the shared secret has {} bytes; at most {}", config.node_id,
                     net.shared_secret.size(), wire::kMaxSharedSecretBytes);
  }
  if (net.cram_hmac_alg.empty() != net.shared_secret.empty()) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "peer {}: cram-hmac-alg and shared-secret belong together; give both or "
                     "neither",
                     config.node_id);
  }
  UMBLOCK_TRY(KnownDigest("data-integrity-alg", net.data_integrity_alg));
  UMBLOCK_TRY(KnownDigest("verify-alg", net.verify_alg));
  UMBLOCK_TRY(KnownDigest("csums-alg", net.csums_alg));
  if (net.allow_two_primaries && net.protocol != Protocol::kC) {
    return MakeError(ErrorCode::kInvalidArgument, "peer {}: allow-two-primaries needs protocol C",
                     config.node_id);
  }
  if (net.on_congestion != OnCongestion::kBlock && net.protocol != Protocol::kA) {
    return MakeError(
        ErrorCode::kInvalidArgument,
        "peer {}: on-congestion other than block needs protocol A: with B and C a write "
        "waits for the peer all the same",
        config.node_id);
  }
  UMBLOCK_TRY(InRange("congestion-fill", net.congestion_fill, 0, uint64_t{10} << 30, "bytes"));
  UMBLOCK_TRY(InRange("congestion-extents", net.congestion_extents, 67, 65534, "extents"));
  if (net.fencing == FencingPolicy::kResourceAndStonith && net.protocol == Protocol::kA) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "peer {}: fencing resource-and-stonith holds writes back until the peer has "
                     "them, which protocol A does not wait for; use B or C",
                     config.node_id);
  }
  UMBLOCK_TRY(InRange("timeout", Milliseconds(net.timeout), 100, 60000, "ms"));
  UMBLOCK_TRY(InRange("ko-count", net.ko_count, 0, 200, ""));
  UMBLOCK_TRY(InRange("ping-int", Milliseconds(net.ping_int), 1000, 120000, "ms"));
  UMBLOCK_TRY(InRange("ping-timeout", Milliseconds(net.ping_timeout), 100, 30000, "ms"));
  UMBLOCK_TRY(InRange("connect-int", Milliseconds(net.connect_int), 1000, 120000, "ms"));
  UMBLOCK_TRY(InRange("max-epoch-size", net.max_epoch_size, 1, 20000, "writes"));
  UMBLOCK_TRY(InRange("max-buffers", net.max_buffers, 32, 131072, "pages"));
  UMBLOCK_TRY(InRange("c-plan-ahead", config.resync.c_plan_ahead, 0, 300, "tenths of a second"));
  return InRange("resync-rate", config.resync.resync_rate, 1, 4 << 20, "KiB/s");
}

}  // namespace umblock::drbd
