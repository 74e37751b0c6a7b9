#include "server/convert.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>

#include "server/names.h"
#include "server/wait_condition.h"

namespace umblock::server {
namespace {

using google::protobuf::util::TimeUtil;

constexpr uint32_t kMaxNodeId = drbd::kNodeIds - 1;
constexpr uint32_t kMaxVolumeNumber = drbd::kMaxVolumes - 1;
constexpr int kMaxPaths = 16;
constexpr size_t kMaxSecret = 63;
constexpr size_t kMaxPeerName = 255;
constexpr uint64_t kMaxSize = uint64_t{1} << 60;

template <typename T>
Status CheckRange(std::string_view field, T value, T low, T high) {
  if (value >= low && value <= high) return Ok();
  return MakeError(ErrorCode::kInvalidArgument, "{} is {}: allowed is {} to {}", field, value, low,
                   high);
}

std::string Text(Duration duration) {
  return fmt::format("{}s", std::chrono::duration<double>(duration).count());
}

// Reads a duration if it is set; `to` keeps its default otherwise.
Status ReadDuration(std::string_view field, bool set, const google::protobuf::Duration& from,
                    Duration low, Duration high, Duration* to) {
  if (!set) return Ok();
  if (from.seconds() > 86400 * 366 || from.seconds() < 0 || from.nanos() < 0 ||
      from.nanos() > 999999999) {
    return MakeError(ErrorCode::kInvalidArgument, "{} is out of range: allowed is {} to {}", field,
                     Text(low), Text(high));
  }
  const Duration value(TimeUtil::DurationToNanoseconds(from));
  if (value < low || value > high) {
    return MakeError(ErrorCode::kInvalidArgument, "{} is {}: allowed is {} to {}", field,
                     Text(value), Text(low), Text(high));
  }
  *to = value;
  return Ok();
}

template <typename T>
Status ReadNumber(std::string_view field, bool set, T from, T low, T high, T* to) {
  if (!set) return Ok();
  UMBLOCK_TRY(CheckRange(field, from, low, high));
  *to = from;
  return Ok();
}

// An enumeration with UNSPECIFIED = 0 in front of the engine's numbers.
template <typename Engine>
Status ReadEnum(std::string_view field, int value, int count, int shift, Engine* to) {
  if (value == 0) return Ok();
  if (value < 0 || value > count) {
    return MakeError(ErrorCode::kInvalidArgument, "{}: {} is no known value", field, value);
  }
  *to = static_cast<Engine>(value - shift);
  return Ok();
}

Status CheckAlgorithm(std::string_view field, const std::string& name) {
  const bool allowed = name.size() <= 63 && std::ranges::all_of(name, [](char c) {
                         return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
                                c == '(' || c == ')' || c == '_';
                       });
  if (allowed) return Ok();
  return MakeError(ErrorCode::kInvalidArgument,
                   "{}: an algorithm's name is up to 63 of a-z 0-9 - _ ( ), as in \"sha256\"",
                   field);
}

v1::LatencyHistogram ToHistogram(const drbd::LatencyHistogram& from) {
  v1::LatencyHistogram to;
  for (uint64_t count : from.counts) to.add_bucket_counts(count);
  to.set_count(from.count);
  *to.mutable_total() = TimeUtil::NanosecondsToDuration(static_cast<int64_t>(from.total_ns));
  return to;
}

void FillStatistics(const drbd::VolumeCounters& from, v1::VolumeStatistics* to) {
  to->set_read_requests(from.read_requests);
  to->set_read_bytes(from.read_bytes);
  to->set_write_requests(from.write_requests);
  to->set_write_bytes(from.write_bytes);
  to->set_flush_requests(from.flush_requests);
  to->set_disk_read_bytes(from.disk_read_bytes);
  to->set_disk_written_bytes(from.disk_written_bytes);
  to->set_al_writes(from.al_writes);
  to->set_bm_writes(from.bm_writes);
  to->set_upper_pending(from.upper_pending);
  to->set_lower_pending(from.lower_pending);
  to->set_errors(from.errors);
  to->set_disk_timeouts(from.disk_timeouts);
  to->set_al_in_use(from.al_in_use);
  *to->mutable_read_latency() = ToHistogram(from.read_latency);
  *to->mutable_write_latency() = ToHistogram(from.write_latency);
  *to->mutable_flush_latency() = ToHistogram(from.flush_latency);
}

void FillVerify(const drbd::VerifyStatus& from, v1::VerifyResult* to) {
  to->set_running(from.running);
  to->set_started_here(from.started_here);
  to->set_complete(from.complete);
  to->set_start(from.start);
  to->set_stop(from.stop);
  to->set_position(from.position);
  to->set_compared_bytes(from.compared_bytes);
  to->set_different_bytes(from.different_bytes);
  to->set_different_ranges(from.different_ranges);
  to->set_skipped_bytes(from.skipped_bytes);
  to->set_first_different(from.first_different);
  to->set_last_different_end(from.last_different_end);
}

void FillHandshake(const drbd::HandshakeReport& from, v1::HandshakeDecision* to) {
  to->set_verdict(from.verdict);
  to->set_result(from.result);
  to->set_way_out(from.way_out);
  to->set_rule(from.rule);
  to->set_own(from.own);
  to->set_peer(from.peer);
}

void FillPeerVolume(const drbd::PeerVolumeStatus& from, v1::PeerVolume* to) {
  to->set_number(static_cast<uint32_t>(from.volume));
  to->set_replication(ToProto(from.replication));
  to->set_peer_disk(ToProto(from.peer_disk));
  to->set_resync_suspended(from.resync_suspended);
  to->set_out_of_sync_bytes(from.out_of_sync_bytes);
  to->set_received_bytes(from.received_bytes);
  to->set_sent_bytes(from.sent_bytes);
  to->set_pending(from.pending);
  to->set_unacked(from.unacked);
  to->set_equal_bytes(from.equal_bytes);
  to->set_deallocated_bytes(from.deallocated_bytes);
  if (from.verify) FillVerify(*from.verify, to->mutable_verify());
  if (from.handshake) FillHandshake(*from.handshake, to->mutable_handshake());
  if (!from.sync) return;
  v1::SyncProgress* sync = to->mutable_sync();
  const uint64_t total = from.sync->total_bytes;
  const uint64_t left = std::min(from.sync->left_bytes, total);
  sync->set_total_bytes(total);
  sync->set_left_bytes(left);
  sync->set_done_percent(
      total == 0 ? 100.0 : 100.0 * static_cast<double>(total - left) / static_cast<double>(total));
  sync->set_rate_bytes_per_second(from.sync->rate_bytes_per_second);
  if (from.sync->eta) {
    *sync->mutable_eta() = TimeUtil::NanosecondsToDuration(from.sync->eta->count());
  }
  sync->set_paused(from.sync->paused);
  sync->set_equal_bytes(from.sync->equal_bytes);
  sync->set_deallocated_bytes(from.sync->deallocated_bytes);
}

Status CheckChap(std::string_view field, const v1::ChapSpec& chap, const std::string& secret) {
  if (chap.user().empty() || chap.user().size() > 255) {
    return MakeError(ErrorCode::kInvalidArgument, "{}.user: 1 to 255 bytes are needed", field);
  }
  if (secret.size() < 12 || secret.size() > 255) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "{}.secret has {} bytes: 12 to 255 are needed (RFC 7143 §9.2.1)", field,
                     secret.size());
  }
  return Ok();
}

}  // namespace

Result<BackendSetup> ToBackendSetup(const v1::BackendSpec& spec) {
  UMBLOCK_TRY(CheckName("backend", spec.name()));
  BackendSetup setup;
  setup.name = spec.name();
  if (spec.kind() < 0 || spec.kind() > v1::BackendKind::Ram) {
    return MakeError(ErrorCode::kInvalidArgument, "backend '{}': kind {} is not known", spec.name(),
                     static_cast<int>(spec.kind()));
  }
  setup.kind =
      spec.kind() == v1::BackendKind::Ram ? BackendSetup::Kind::kRam : BackendSetup::Kind::kFile;
  if (spec.path().empty() || spec.path()[0] != '/' || spec.path().size() > 4000 ||
      spec.path().find('\0') != std::string::npos) {
    return MakeError(ErrorCode::kInvalidArgument, "backend '{}': '{}' is not an absolute path",
                     spec.name(), spec.path().substr(0, spec.path().find('\0')).substr(0, 200));
  }
  if (spec.size_bytes() % 4096 != 0 || spec.size_bytes() > kMaxSize) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "backend '{}': size {} is not a multiple of 4096, or beyond 1 EiB",
                     spec.name(), spec.size_bytes());
  }
  if (spec.create() && spec.size_bytes() == 0) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "backend '{}': creating a file needs its size in bytes", spec.name());
  }
  setup.path = spec.path();
  setup.size = spec.size_bytes();
  setup.create = spec.create();
  return setup;
}

Result<drbd::ResourceOptions> ToResourceOptions(const v1::ResourceOptions& o) {
  drbd::ResourceOptions to;
  UMBLOCK_TRY(ReadDuration("options.twopc_timeout", o.has_twopc_timeout(), o.twopc_timeout(), 5s,
                           60s, &to.twopc_timeout));
  UMBLOCK_TRY(ReadDuration("options.twopc_retry_timeout", o.has_twopc_retry_timeout(),
                           o.twopc_retry_timeout(), 100ms, 5s, &to.twopc_retry_timeout));
  UMBLOCK_TRY(ReadNumber<uint64_t>("options.peer_ack_window_bytes", o.has_peer_ack_window_bytes(),
                                   o.peer_ack_window_bytes(), 2048 * 512, 204800 * 512,
                                   &to.peer_ack_window));
  UMBLOCK_TRY(ReadDuration("options.peer_ack_delay", o.has_peer_ack_delay(), o.peer_ack_delay(),
                           1ms, 10s, &to.peer_ack_delay));
  UMBLOCK_TRY(ReadNumber<uint32_t>("options.max_io_depth", o.has_max_io_depth(), o.max_io_depth(),
                                   4, UINT32_MAX, &to.max_io_depth));
  if (o.has_strict_flush()) to.strict_flush = o.strict_flush();
  return to;
}

Result<drbd::HandlerConfig> ToHandlerConfig(const v1::Handlers& h) {
  using drbd::Handler;
  drbd::HandlerConfig to;
  to.path(Handler::kFencePeer) = h.fence_peer();
  to.path(Handler::kUnfencePeer) = h.unfence_peer();
  to.path(Handler::kBeforeResyncSource) = h.before_resync_source();
  to.path(Handler::kBeforeResyncTarget) = h.before_resync_target();
  to.path(Handler::kAfterResyncTarget) = h.after_resync_target();
  to.path(Handler::kInitialSplitBrain) = h.initial_split_brain();
  to.path(Handler::kSplitBrain) = h.split_brain();
  to.path(Handler::kLocalIoError) = h.local_io_error();
  to.path(Handler::kPriLost) = h.pri_lost();
  to.path(Handler::kPriLostAfterSb) = h.pri_lost_after_sb();
  to.path(Handler::kPriOnInconDegr) = h.pri_on_incon_degr();
  UMBLOCK_TRY(
      ReadDuration("handlers.timeout", h.has_timeout(), h.timeout(), 1s, 3600s, &to.timeout));
  UMBLOCK_TRY(drbd::Validate(to));
  return to;
}

Result<drbd::ResourceConfig> ToResourceConfig(const v1::ResourceSpec& spec) {
  UMBLOCK_TRY(CheckName("resource", spec.name()));
  UMBLOCK_TRY(CheckRange<uint32_t>("node_id", spec.node_id(), 0, kMaxNodeId));
  auto options = ToResourceOptions(spec.options());
  if (!options) return std::unexpected(options.error());
  drbd::ResourceConfig config;
  config.name = spec.name();
  config.node_id = static_cast<int>(spec.node_id());
  config.options = *options;
  auto handlers = ToHandlerConfig(spec.handlers());
  if (!handlers) return std::unexpected(handlers.error());
  config.handlers = std::move(*handlers);
  return config;
}

Result<drbd::DiskOptions> ToDiskOptions(const v1::DiskOptions& o) {
  drbd::DiskOptions to;
  UMBLOCK_TRY(ReadNumber<uint32_t>("disk.al_extents", o.has_al_extents(), o.al_extents(), 67, 65534,
                                   &to.al_extents));
  if (o.has_al_updates()) to.al_updates = o.al_updates();
  UMBLOCK_TRY(ReadNumber<uint32_t>(
      "disk.rs_discard_granularity_bytes", o.has_rs_discard_granularity_bytes(),
      o.rs_discard_granularity_bytes(), 0, 1 << 20, &to.rs_discard_granularity));
  if (o.has_disk_flushes()) to.disk_flushes = o.disk_flushes();
  if (o.has_md_flushes()) to.md_flushes = o.md_flushes();
  UMBLOCK_TRY(ReadEnum("disk.on_io_error", o.on_io_error(), v1::OnIoError::CallLocalIoError, 1,
                       &to.on_io_error));
  const bool limited = o.disk_timeout().seconds() != 0 || o.disk_timeout().nanos() != 0;
  UMBLOCK_TRY(
      ReadDuration("disk.disk_timeout", limited, o.disk_timeout(), 100ms, 600s, &to.disk_timeout));
  return to;
}

Result<drbd::VolumeConfig> ToVolumeConfig(const v1::VolumeSpec& spec) {
  UMBLOCK_TRY(CheckRange<uint32_t>("volume number", spec.number(), 0, kMaxVolumeNumber));
  if (spec.size_bytes() % 4096 != 0 || spec.size_bytes() > kMaxSize) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "size_bytes is {}: a multiple of 4096 up to 1 EiB is needed, or 0",
                     spec.size_bytes());
  }
  if (spec.backend().empty() && !spec.metadata_backend().empty()) {
    return MakeError(ErrorCode::kInvalidArgument, "metadata_backend is set and backend is not");
  }
  if (!spec.backend().empty() && spec.backend() == spec.metadata_backend()) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "backend and metadata_backend are both '{}': leave metadata_backend empty for "
                     "metadata at the end of the data",
                     spec.backend());
  }
  auto disk = ToDiskOptions(spec.disk());
  if (!disk) return std::unexpected(disk.error());
  drbd::VolumeConfig config;
  config.number = static_cast<int>(spec.number());
  config.size = spec.size_bytes();
  config.disk = *disk;
  return config;
}

namespace {

Status ReadNetTimes(const v1::NetOptions& o, drbd::NetOptions* to) {
  UMBLOCK_TRY(ReadDuration("net.timeout", o.has_timeout(), o.timeout(), 100ms, 60s, &to->timeout));
  UMBLOCK_TRY(
      ReadDuration("net.ping_int", o.has_ping_int(), o.ping_int(), 1s, 120s, &to->ping_int));
  UMBLOCK_TRY(ReadDuration("net.ping_timeout", o.has_ping_timeout(), o.ping_timeout(), 100ms, 30s,
                           &to->ping_timeout));
  UMBLOCK_TRY(ReadDuration("net.connect_int", o.has_connect_int(), o.connect_int(), 1s, 120s,
                           &to->connect_int));
  UMBLOCK_TRY(ReadDuration("net.socket_check_timeout", o.has_socket_check_timeout(),
                           o.socket_check_timeout(), 0s, 30s, &to->socket_check_timeout));
  return ReadNumber<uint32_t>("net.ko_count", o.has_ko_count(), o.ko_count(), 0, 200,
                              &to->ko_count);
}

Status ReadNetSizes(const v1::NetOptions& o, drbd::NetOptions* to) {
  UMBLOCK_TRY(ReadNumber<uint32_t>("net.max_epoch_size", o.has_max_epoch_size(), o.max_epoch_size(),
                                   1, 20000, &to->max_epoch_size));
  UMBLOCK_TRY(ReadNumber<uint32_t>("net.max_buffers", o.has_max_buffers(), o.max_buffers(), 32,
                                   131072, &to->max_buffers));
  UMBLOCK_TRY(ReadNumber<uint32_t>("net.sndbuf_size", o.has_sndbuf_size(), o.sndbuf_size(), 0,
                                   10u << 20, &to->sndbuf_size));
  return ReadNumber<uint32_t>("net.rcvbuf_size", o.has_rcvbuf_size(), o.rcvbuf_size(), 0, 10u << 20,
                              &to->rcvbuf_size);
}

Status ReadNetPolicies(const v1::NetOptions& o, drbd::NetOptions* to) {
  constexpr int kLast = v1::SplitBrainPolicy::AutoDiscard;
  if (o.has_use_rle()) to->use_rle = o.use_rle();
  if (o.has_allow_two_primaries()) to->allow_two_primaries = o.allow_two_primaries();
  if (o.has_always_asbp()) to->always_asbp = o.always_asbp();
  if (o.has_csums_after_crash_only()) to->csums_after_crash_only = o.csums_after_crash_only();
  UMBLOCK_TRY(ReadEnum("net.after_sb_0pri", o.after_sb_0pri(), kLast, 1, &to->after_sb_0pri));
  UMBLOCK_TRY(ReadEnum("net.after_sb_1pri", o.after_sb_1pri(), kLast, 1, &to->after_sb_1pri));
  UMBLOCK_TRY(ReadEnum("net.after_sb_2pri", o.after_sb_2pri(), kLast, 1, &to->after_sb_2pri));
  UMBLOCK_TRY(ReadEnum("net.rr_conflict", o.rr_conflict(), kLast, 1, &to->rr_conflict));
  UMBLOCK_TRY(
      ReadEnum("net.fencing", o.fencing(), v1::Fencing::ResourceAndStonith, 1, &to->fencing));
  if (to->fencing == drbd::FencingPolicy::kResourceAndStonith &&
      to->protocol == drbd::Protocol::kA) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "net.fencing is ResourceAndStonith: net.protocol must be B or C");
  }
  return Ok();
}

Status ReadCongestion(const v1::NetOptions& o, drbd::NetOptions* to) {
  UMBLOCK_TRY(ReadEnum("net.on_congestion", o.on_congestion(), v1::OnCongestion::Disconnect, 1,
                       &to->on_congestion));
  UMBLOCK_TRY(ReadNumber<uint64_t>("net.congestion_fill", o.has_congestion_fill(),
                                   o.congestion_fill(), 0, uint64_t{10} << 30,
                                   &to->congestion_fill));
  UMBLOCK_TRY(ReadNumber<uint32_t>("net.congestion_extents", o.has_congestion_extents(),
                                   o.congestion_extents(), 67, 65534, &to->congestion_extents));
  if (to->on_congestion == drbd::OnCongestion::kBlock || to->protocol == drbd::Protocol::kA) {
    return Ok();
  }
  return MakeError(ErrorCode::kInvalidArgument,
                   "net.on_congestion other than Block needs net.protocol A: with B and C a write "
                   "waits for the peer all the same");
}

}  // namespace

Result<drbd::NetOptions> ToNetOptions(const v1::NetOptions& o, const std::string& secret) {
  drbd::NetOptions to;
  UMBLOCK_TRY(ReadEnum("net.protocol", o.protocol(), v1::Protocol::C, 0, &to.protocol));
  UMBLOCK_TRY(CheckAlgorithm("net.cram_hmac_alg", o.cram_hmac_alg()));
  UMBLOCK_TRY(CheckAlgorithm("net.data_integrity_alg", o.data_integrity_alg()));
  UMBLOCK_TRY(CheckAlgorithm("net.verify_alg", o.verify_alg()));
  UMBLOCK_TRY(CheckAlgorithm("net.csums_alg", o.csums_alg()));
  if (secret.size() > kMaxSecret || secret.find('\0') != std::string::npos) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "net.shared_secret has {} bytes: 1 to {} without zero bytes are allowed",
                     secret.size(), kMaxSecret);
  }
  if (!o.cram_hmac_alg().empty() && secret.empty()) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "net.cram_hmac_alg is set: net.shared_secret is needed too");
  }
  to.shared_secret = secret;
  to.cram_hmac_alg = o.cram_hmac_alg();
  if (to.cram_hmac_alg.empty() && !secret.empty()) to.cram_hmac_alg = "sha256";
  to.data_integrity_alg = o.data_integrity_alg();
  to.verify_alg = o.verify_alg();
  to.csums_alg = o.csums_alg();
  UMBLOCK_TRY(ReadNetTimes(o, &to));
  UMBLOCK_TRY(ReadNetSizes(o, &to));
  UMBLOCK_TRY(ReadNetPolicies(o, &to));
  UMBLOCK_TRY(ReadCongestion(o, &to));
  return to;
}

Result<drbd::ResyncOptions> ToResyncOptions(const v1::ResyncOptions& o) {
  constexpr uint32_t kMaxRate = 4u << 20;
  drbd::ResyncOptions to;
  UMBLOCK_TRY(ReadNumber<uint32_t>("resync.resync_rate", o.has_resync_rate(), o.resync_rate(), 1,
                                   kMaxRate, &to.resync_rate));
  UMBLOCK_TRY(ReadNumber<uint32_t>("resync.c_plan_ahead", o.has_c_plan_ahead(), o.c_plan_ahead(), 0,
                                   300, &to.c_plan_ahead));
  UMBLOCK_TRY(ReadNumber<uint32_t>("resync.c_delay_target", o.has_c_delay_target(),
                                   o.c_delay_target(), 1, 100, &to.c_delay_target));
  UMBLOCK_TRY(ReadNumber<uint32_t>("resync.c_fill_target", o.has_c_fill_target(), o.c_fill_target(),
                                   0, 1u << 20, &to.c_fill_target));
  UMBLOCK_TRY(ReadNumber<uint32_t>("resync.c_max_rate", o.has_c_max_rate(), o.c_max_rate(), 0,
                                   kMaxRate, &to.c_max_rate));
  UMBLOCK_TRY(ReadNumber<uint32_t>("resync.c_min_rate", o.has_c_min_rate(), o.c_min_rate(), 0,
                                   kMaxRate, &to.c_min_rate));
  return to;
}

Result<drbd::PeerConfig> ToPeerConfig(const v1::ConnectionSpec& spec, const std::string& secret) {
  UMBLOCK_TRY(CheckRange<uint32_t>("peer_node_id", spec.peer_node_id(), 0, kMaxNodeId));
  if (spec.peer_name().size() > kMaxPeerName) {
    return MakeError(ErrorCode::kInvalidArgument, "peer_name is longer than {} bytes",
                     kMaxPeerName);
  }
  if (spec.paths_size() > kMaxPaths) {
    return MakeError(ErrorCode::kResourceExhausted, "{} paths: at most {} are allowed",
                     spec.paths_size(), kMaxPaths);
  }
  drbd::PeerConfig config;
  config.node_id = static_cast<int>(spec.peer_node_id());
  config.name = spec.peer_name();
  for (const v1::Path& path : spec.paths()) {
    auto local = SocketAddress::Parse(path.local());
    if (!local) return std::unexpected(local.error().Within("path.local"));
    auto remote = SocketAddress::Parse(path.remote());
    if (!remote) return std::unexpected(remote.error().Within("path.remote"));
    if (local->family() != remote->family() || remote->port() == 0 || local->port() == 0) {
      return MakeError(ErrorCode::kInvalidArgument,
                       "path {} to {}: both ends need a port and the same address family",
                       path.local(), path.remote());
    }
    config.paths.push_back({*local, *remote});
  }
  auto net = ToNetOptions(spec.net(), secret);
  if (!net) return std::unexpected(net.error());
  auto resync = ToResyncOptions(spec.resync());
  if (!resync) return std::unexpected(resync.error());
  config.net = std::move(*net);
  config.resync = *resync;
  return config;
}

Result<TargetSetup> ToTargetSetup(const v1::TargetSpec& spec, const std::string& chap_secret,
                                  const std::string& mutual_secret) {
  UMBLOCK_TRY(CheckIscsiName(spec.name()));
  if (spec.alias().size() > 255) {
    return MakeError(ErrorCode::kInvalidArgument, "alias is longer than 255 bytes");
  }
  if (spec.initiators_size() > 1024) {
    return MakeError(ErrorCode::kResourceExhausted, "{} initiators: at most 1024 are allowed",
                     spec.initiators_size());
  }
  TargetSetup setup;
  setup.name = spec.name();
  setup.alias = spec.alias();
  for (const std::string& initiator : spec.initiators()) {
    UMBLOCK_TRY(CheckIscsiName(initiator));
    setup.initiators.push_back(initiator);
  }
  if (spec.has_chap()) {
    UMBLOCK_TRY(CheckChap("chap", spec.chap(), chap_secret));
    setup.chap = {spec.chap().user(), chap_secret};
  }
  if (spec.has_mutual_chap()) {
    if (!spec.has_chap()) {
      return MakeError(ErrorCode::kInvalidArgument, "mutual_chap needs chap");
    }
    UMBLOCK_TRY(CheckChap("mutual_chap", spec.mutual_chap(), mutual_secret));
    if (mutual_secret == chap_secret) {
      return MakeError(ErrorCode::kInvalidArgument,
                       "mutual_chap.secret must differ from chap.secret (RFC 7143 §9.2.1)");
    }
    setup.mutual_chap = {spec.mutual_chap().user(), mutual_secret};
  }
  return setup;
}

Status CheckBackingRef(const v1::Backing& backing) {
  switch (backing.kind_case()) {
    case v1::Backing::kVolume:
      return CheckName("resource", backing.volume().resource());
    case v1::Backing::kBackend:
      return CheckName("backend", backing.backend());
    case v1::Backing::KIND_NOT_SET:
      break;
  }
  return MakeError(ErrorCode::kInvalidArgument,
                   "backing is missing: name a volume (resource and number) or a backend");
}

Status CheckLunSpec(const v1::LunSpec& spec) {
  UMBLOCK_TRY(CheckIscsiName(spec.target()));
  UMBLOCK_TRY(CheckRange<uint32_t>("lun number", spec.number(), 0, 16383));
  if (spec.block_size() != 0 && spec.block_size() != 512 && spec.block_size() != 4096) {
    return MakeError(ErrorCode::kInvalidArgument, "block_size is {}: 512 or 4096 is allowed",
                     spec.block_size());
  }
  const bool printable =
      std::ranges::all_of(spec.serial(), [](char c) { return c > ' ' && c < 0x7f; });
  if (!printable || spec.serial().size() > 36) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "serial: 1 to 36 printable ASCII characters without blanks are allowed");
  }
  return CheckBackingRef(spec.backing());
}

v1::Role::Value ToProto(drbd::Role role) {
  return static_cast<v1::Role::Value>(static_cast<int>(role) + 1);
}
v1::DiskState::Value ToProto(drbd::DiskState state) {
  return static_cast<v1::DiskState::Value>(static_cast<int>(state) + 1);
}
v1::ConnectionState::Value ToProto(drbd::ConnectionState state) {
  return static_cast<v1::ConnectionState::Value>(static_cast<int>(state) + 1);
}
v1::ReplicationState::Value ToProto(drbd::ReplicationState state) {
  return static_cast<v1::ReplicationState::Value>(
      static_cast<int>(state) - static_cast<int>(drbd::ReplicationState::kOff) + 1);
}

void FillVolumeStatus(const drbd::VolumeStatus& from, v1::VolumeStatus* to) {
  to->set_disk(ToProto(from.disk));
  to->set_disk_reason(from.disk_reason);
  to->set_attached_backend(from.backend);
  to->set_size_bytes(from.size_bytes);
  to->set_quorum(from.quorum);
  to->set_current_uuid(from.current_uuid);
  for (const std::string& opener : from.openers) to->add_openers(opener);
  FillStatistics(from.counters, to->mutable_statistics());
}

void FillConnectionStatus(const std::string& resource, const drbd::ConnectionStatus& from,
                          v1::Connection* to) {
  v1::ConnectionStatus* status = to->mutable_status();
  status->set_state(ToProto(from.state));
  status->set_last_error(from.last_error);
  status->set_peer_role(ToProto(from.peer_role));
  if (!from.remote_address.empty()) {
    status->mutable_active_path()->set_local(from.local_address);
    status->mutable_active_path()->set_remote(from.remote_address);
  }
  status->set_agreed_protocol(from.agreed_protocol);
  status->set_agreed_features(from.agreed_features);
  status->set_ap_in_flight_bytes(from.ap_in_flight_bytes);
  status->set_rs_in_flight_bytes(from.rs_in_flight_bytes);
  for (const drbd::PeerVolumeStatus& volume : from.volumes) {
    v1::PeerVolume* peer_volume = to->add_volumes();
    peer_volume->set_resource(resource);
    peer_volume->set_peer_node_id(static_cast<uint32_t>(from.peer_node_id));
    FillPeerVolume(volume, peer_volume);
  }
}

void FillResourceStatus(const drbd::ResourceStatus& from, v1::ResourceStatus* to) {
  to->set_role(ToProto(from.role));
  to->set_suspended(from.suspended);
  to->set_write_ordering(from.write_ordering);
  const std::string obstacle = PromotionObstacle(from);
  to->set_promotable(obstacle.empty());
  to->set_promotable_reason(obstacle);
}

}  // namespace umblock::server
