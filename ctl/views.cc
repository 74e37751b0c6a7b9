#include "ctl/views.h"

#include <fmt/core.h>
#include <google/protobuf/message.h>
#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <iterator>

#include "umblock/v1/event.pb.h"
#include "umblock/v1/node.pb.h"

namespace umblock::ctl {
namespace {

using google::protobuf::DynamicCastToGenerated;
using google::protobuf::Message;
using Row = std::vector<std::string>;

std::string YesNo(bool value) { return value ? "yes" : "no"; }

std::string OrDash(const std::string& text) { return text.empty() ? "-" : text; }

template <typename Strings>
std::string Join(const Strings& strings) {
  std::string joined;
  for (const std::string& text : strings) joined += (joined.empty() ? "" : ", ") + text;
  return joined;
}

const std::string& Name(v1::Role::Value v) { return v1::Role::Value_Name(v); }
const std::string& Name(v1::DiskState::Value v) { return v1::DiskState::Value_Name(v); }
const std::string& Name(v1::ConnectionState::Value v) { return v1::ConnectionState::Value_Name(v); }
const std::string& Name(v1::ReplicationState::Value v) {
  return v1::ReplicationState::Value_Name(v);
}

std::string BackingText(const v1::Backing& backing) {
  if (backing.has_volume()) {
    return fmt::format("volume {}/{}", backing.volume().resource(), backing.volume().number());
  }
  return "backend " + backing.backend();
}

std::string PeerName(const v1::Connection& connection) {
  return connection.spec().peer_name().empty()
             ? fmt::format("node {}", connection.spec().peer_node_id())
             : connection.spec().peer_name();
}

Row ResourceRow(const v1::Resource& r) {
  return {r.spec().name(),
          std::to_string(r.spec().node_id()),
          Name(r.status().role()),
          std::to_string(r.volumes_size()),
          std::to_string(r.connections_size()),
          r.status().promotable() ? "yes" : "no: " + r.status().promotable_reason()};
}
const Row kResourceHeader = {"NAME", "NODE-ID", "ROLE", "VOLUMES", "CONNECTIONS", "PROMOTABLE"};

Row VolumeRow(const v1::Volume& v) {
  return {fmt::format("{}/{}", v.spec().resource(), v.spec().number()),
          Name(v.status().disk()),
          FormatBytes(v.status().size_bytes()),
          OrDash(v.spec().backend()),
          OrDash(Join(v.status().openers())),
          OrDash(v.status().disk_reason())};
}
const Row kVolumeHeader = {"VOLUME", "DISK", "SIZE", "BACKEND", "OPEN-BY", "REASON"};

Row ConnectionRow(const v1::Connection& c) {
  std::string path = "-";
  if (c.spec().paths_size() > 0) {
    path = c.spec().paths(0).local() + " " + c.spec().paths(0).remote();
  }
  return {fmt::format("{}/{}", c.spec().resource(), c.spec().peer_node_id()),
          OrDash(c.spec().peer_name()),
          Name(c.status().state()),
          Name(c.status().peer_role()),
          path,
          OrDash(c.status().last_error())};
}
const Row kConnectionHeader = {"CONNECTION", "PEER", "STATE", "PEER-ROLE", "PATH", "REASON"};

Row BackendRow(const v1::Backend& b) {
  return {b.spec().name(),
          v1::BackendKind::Value_Name(b.spec().kind()),
          YesNo(b.status().ready()),
          FormatBytes(b.status().size_bytes()),
          b.spec().path(),
          OrDash(Join(b.status().used_by())),
          OrDash(b.status().reason())};
}
const Row kBackendHeader = {"NAME", "KIND", "READY", "SIZE", "PATH", "USED-BY", "REASON"};

Row PortalRow(const v1::Portal& p) {
  return {p.spec().address(), YesNo(p.listening()), OrDash(p.reason())};
}
const Row kPortalHeader = {"ADDRESS", "LISTENING", "REASON"};

Row TargetRow(const v1::Target& t) {
  return {t.spec().name(),
          YesNo(t.ready()),
          std::to_string(t.luns_size()),
          std::to_string(t.sessions_size()),
          t.spec().has_chap() ? (t.spec().has_mutual_chap() ? "mutual" : "yes") : "no",
          t.spec().initiators_size() == 0 ? "all" : Join(t.spec().initiators())};
}
const Row kTargetHeader = {"NAME", "READY", "LUNS", "SESSIONS", "CHAP", "INITIATORS"};

Row LunRow(const v1::Lun& l) {
  return {l.spec().target(),
          std::to_string(l.spec().number()),
          BackingText(l.spec().backing()),
          FormatBytes(l.size_bytes()),
          std::to_string(l.spec().block_size()),
          OrDash(l.spec().serial()),
          YesNo(l.ready()),
          OrDash(l.reason())};
}
const Row kLunHeader = {"TARGET", "LUN", "PRESENTS", "SIZE", "BLOCK", "SERIAL", "READY", "REASON"};

Row ExportRow(const v1::Export& e) {
  return {e.spec().name(),   BackingText(e.spec().backing()), FormatBytes(e.size_bytes()),
          YesNo(e.ready()),  std::to_string(e.open_count()),  OrDash(e.path()),
          OrDash(e.reason())};
}
const Row kExportHeader = {"NAME", "PRESENTS", "SIZE", "READY", "OPEN", "PATH", "REASON"};

template <typename Items, typename Function>
std::string Table(const Row& header, const Items& items, Function row) {
  std::vector<Row> rows;
  rows.reserve(static_cast<size_t>(std::ranges::distance(items)));
  for (const auto& item : items) rows.push_back(row(item));
  return FormatTable(header, rows);
}

std::string RenderNode(const v1::Node& node) {
  std::string out;
  const auto line = [&out](const char* key, const std::string& value) {
    out += fmt::format("{:<18}{}\n", key, value);
  };
  line("name", node.name());
  line("version", node.version());
  line("started", google::protobuf::util::TimeUtil::ToString(node.start_time()));
  line("protocols", fmt::format("DRBD {} to {}", node.protocol_min(), node.protocol_max()));
  line("state-dir", node.state_dir());
  line("generation", std::to_string(node.config_generation()));
  line("fuse-dir", OrDash(node.fuse_dir()));
  line("iscsi", YesNo(node.iscsi()));
  line("limits", fmt::format("{} calls, {} watchers, {} a message", node.max_calls(),
                             node.max_watchers(), FormatBytes(node.max_message_bytes())));
  line("memory-locked", YesNo(node.memory_locked()));
  line("io-flusher", YesNo(node.io_flusher()));
  for (const v1::Problem& problem : node.problems()) {
    line("problem", problem.object() + ": " + problem.reason());
  }
  return out;
}

std::string Percent(const v1::SyncProgress& sync) {
  return fmt::format("{:.2f}", sync.done_percent());
}

void StatusVolume(const v1::Volume& volume, bool numbered, const StatusStyle& style,
                  std::string* out) {
  const v1::VolumeStatus& s = volume.status();
  *out += "  ";
  if (numbered) *out += fmt::format("volume:{} ", volume.spec().number());
  *out += "disk:" + Name(s.disk());
  if (style.verbose) {
    *out += fmt::format(" backend:{} size:{}",
                        s.attached_backend().empty() ? "none" : volume.spec().backend(),
                        s.size_bytes());
  }
  if (style.verbose || !s.quorum()) *out += " quorum:" + YesNo(s.quorum());
  *out += fmt::format(" open:{}\n", YesNo(s.openers_size() > 0));
  if (!s.disk_reason().empty()) *out += fmt::format("      reason: {}\n", s.disk_reason());
  if (style.verbose) {
    for (const std::string& opener : s.openers())
      *out += fmt::format("      open by: {}\n", opener);
    for (const std::string& user : s.used_by())
      *out += fmt::format("      presented by: {}\n", user);
  }
  if (!style.statistics) return;
  const v1::VolumeStatistics& t = s.statistics();
  *out += fmt::format("      read:{} written:{}", t.read_bytes(), t.write_bytes());
  *out += fmt::format(" al-writes:{} al-in-use:{} bm-writes:{} upper-pending:{} lower-pending:{}\n",
                      t.al_writes(), t.al_in_use(), t.bm_writes(), t.upper_pending(),
                      t.lower_pending());
}

std::string RenderHandshake(const v1::HandshakeDecision& decision, uint32_t peer_node_id) {
  std::string out = fmt::format("        handshake: {}{}\n",
                                decision.verdict() == "proceed" ? "" : decision.verdict() + ": ",
                                decision.result());
  if (!decision.way_out().empty())
    out += fmt::format("          way out: {}\n", decision.way_out());
  out += fmt::format("          rule: {}\n", decision.rule());
  out += fmt::format("          here: {}\n", decision.own());
  return out + fmt::format("          node {}: {}\n", peer_node_id, decision.peer());
}

void StatusPeerVolume(const v1::PeerVolume& volume, bool numbered, const StatusStyle& style,
                      std::string* out) {
  *out += "    ";
  if (numbered) *out += fmt::format("volume:{} ", volume.number());
  if (style.verbose || volume.replication() > v1::ReplicationState::Established) {
    *out += "replication:" + Name(volume.replication()) + " ";
  }
  *out += "peer-disk:" + Name(volume.peer_disk());
  if (volume.has_sync()) *out += " done:" + Percent(volume.sync());
  const bool suspended = !volume.resync_suspended().empty() && volume.resync_suspended() != "no";
  if (style.verbose || suspended) {
    *out += " resync-suspended:" + (suspended ? volume.resync_suspended() : "no");
  }
  *out += "\n";
  if (volume.has_verify() &&
      (volume.verify().running() || volume.verify().different_bytes() != 0)) {
    const v1::VerifyResult& verify = volume.verify();
    *out += fmt::format("        verify:{} compared:{} different:{} skipped:{}",
                        verify.running()    ? "running"
                        : verify.complete() ? "complete"
                                            : "stopped",
                        verify.compared_bytes(), verify.different_bytes(), verify.skipped_bytes());
    if (verify.different_bytes() != 0) {
      *out +=
          fmt::format(" first:{} end:{}", verify.first_different(), verify.last_different_end());
    }
    *out += "\n";
  }
  if (volume.has_handshake() && style.verbose) {
    *out += RenderHandshake(volume.handshake(), volume.peer_node_id());
  }
  if (!style.statistics) return;
  *out += fmt::format("        received:{} sent:{} out-of-sync:{} pending:{} unacked:{}\n",
                      volume.received_bytes(), volume.sent_bytes(), volume.out_of_sync_bytes(),
                      volume.pending(), volume.unacked());
}

void StatusConnection(const v1::Connection& connection, bool numbered, const StatusStyle& style,
                      std::string* out) {
  const v1::ConnectionStatus& s = connection.status();
  const bool connected = s.state() == v1::ConnectionState::Connected;
  *out += "  " + PeerName(connection);
  if (style.verbose) *out += fmt::format(" node-id:{}", connection.spec().peer_node_id());
  if (style.verbose || !connected) *out += " connection:" + Name(s.state());
  if (style.verbose || connected) *out += " role:" + Name(s.peer_role());
  if (style.verbose && connected) *out += fmt::format(" protocol:{}", s.agreed_protocol());
  *out += "\n";
  if (!s.last_error().empty()) *out += fmt::format("      reason: {}\n", s.last_error());
  if (!connected && !style.verbose && !style.statistics) return;
  for (const v1::PeerVolume& volume : connection.volumes()) {
    StatusPeerVolume(volume, numbered, style, out);
  }
}

void StatusResource(const v1::Resource& resource, const StatusStyle& style, std::string* out) {
  const v1::ResourceStatus& s = resource.status();
  *out += resource.spec().name();
  if (style.verbose) *out += fmt::format(" node-id:{}", resource.spec().node_id());
  *out += " role:" + Name(s.role());
  const bool suspended = !s.suspended().empty() && s.suspended() != "no";
  if (style.verbose || suspended) *out += " suspended:" + (suspended ? s.suspended() : "no");
  if (style.verbose && style.statistics) *out += " write-ordering:" + s.write_ordering();
  *out += "\n";
  // As drbdadm: a single volume 0 goes without its number.
  const bool numbered =
      style.verbose || resource.volumes_size() != 1 || resource.volumes(0).spec().number() != 0;
  for (const v1::Volume& volume : resource.volumes()) StatusVolume(volume, numbered, style, out);
  for (const v1::Connection& connection : resource.connections()) {
    StatusConnection(connection, numbered, style, out);
  }
  *out += "\n";
}

std::string EventState(const v1::Event& event) {
  switch (event.state_case()) {
    case v1::Event::kResource:
      return " role:" + Name(event.resource().status().role());
    case v1::Event::kVolume:
      return " disk:" + Name(event.volume().status().disk());
    case v1::Event::kConnection:
      return " connection:" + Name(event.connection().status().state()) +
             " role:" + Name(event.connection().status().peer_role());
    case v1::Event::kPeerVolume:
      return " replication:" + Name(event.peer_volume().replication()) +
             " peer-disk:" + Name(event.peer_volume().peer_disk());
    case v1::Event::kBackend:
      return " ready:" + YesNo(event.backend().status().ready());
    case v1::Event::kPortal:
      return " listening:" + YesNo(event.portal().listening());
    case v1::Event::kTarget:
      return " ready:" + YesNo(event.target().ready());
    case v1::Event::kLun:
      return " ready:" + YesNo(event.lun().ready());
    case v1::Event::kExport:
      return " ready:" + YesNo(event.export_().ready());
    case v1::Event::STATE_NOT_SET:
      break;
  }
  return {};
}

}  // namespace

std::string FormatTable(const std::vector<std::string>& header,
                        const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(header.size());
  const auto measure = [&widths](const Row& row) {
    for (size_t i = 0; i < widths.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  };
  measure(header);
  for (const Row& row : rows) measure(row);
  std::string out;
  const auto print = [&](const Row& row) {
    for (size_t i = 0; i + 1 < row.size(); ++i) out += fmt::format("{:<{}}  ", row[i], widths[i]);
    out += row.back() + "\n";
  };
  print(header);
  for (const Row& row : rows) print(row);
  return out;
}

std::string FormatBytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  int unit = -1;
  while (value >= 1024 && unit < 5) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string RenderMessage(const Message& message) {
  const auto one = [](const auto& item) { return std::vector{item}; };
  if (auto* m = DynamicCastToGenerated<v1::Resource>(&message)) {
    return Table(kResourceHeader, one(*m), ResourceRow);
  }
  if (auto* m = DynamicCastToGenerated<v1::ListResourcesResponse>(&message)) {
    return Table(kResourceHeader, m->resources(), ResourceRow);
  }
  if (auto* m = DynamicCastToGenerated<v1::Volume>(&message)) {
    return Table(kVolumeHeader, one(*m), VolumeRow);
  }
  if (auto* m = DynamicCastToGenerated<v1::ListVolumesResponse>(&message)) {
    return Table(kVolumeHeader, m->volumes(), VolumeRow);
  }
  if (auto* m = DynamicCastToGenerated<v1::Connection>(&message)) {
    return Table(kConnectionHeader, one(*m), ConnectionRow);
  }
  if (auto* m = DynamicCastToGenerated<v1::ListConnectionsResponse>(&message)) {
    return Table(kConnectionHeader, m->connections(), ConnectionRow);
  }
  if (auto* m = DynamicCastToGenerated<v1::Backend>(&message)) {
    return Table(kBackendHeader, one(*m), BackendRow);
  }
  if (auto* m = DynamicCastToGenerated<v1::ListBackendsResponse>(&message)) {
    return Table(kBackendHeader, m->backends(), BackendRow);
  }
  if (auto* m = DynamicCastToGenerated<v1::Portal>(&message)) {
    return Table(kPortalHeader, one(*m), PortalRow);
  }
  if (auto* m = DynamicCastToGenerated<v1::ListPortalsResponse>(&message)) {
    return Table(kPortalHeader, m->portals(), PortalRow);
  }
  if (auto* m = DynamicCastToGenerated<v1::Target>(&message)) {
    return Table(kTargetHeader, one(*m), TargetRow) +
           (m->luns_size() == 0 ? "" : "\n" + Table(kLunHeader, m->luns(), LunRow));
  }
  if (auto* m = DynamicCastToGenerated<v1::ListTargetsResponse>(&message)) {
    return Table(kTargetHeader, m->targets(), TargetRow);
  }
  if (auto* m = DynamicCastToGenerated<v1::Lun>(&message)) {
    return Table(kLunHeader, one(*m), LunRow);
  }
  if (auto* m = DynamicCastToGenerated<v1::Export>(&message)) {
    return Table(kExportHeader, one(*m), ExportRow);
  }
  if (auto* m = DynamicCastToGenerated<v1::ListExportsResponse>(&message)) {
    return Table(kExportHeader, m->exports(), ExportRow);
  }
  if (auto* m = DynamicCastToGenerated<v1::Node>(&message)) return RenderNode(*m);
  if (auto* m = DynamicCastToGenerated<v1::NodeStatus>(&message)) return RenderStatus(*m, {});
  return {};
}

std::string RenderStatus(const v1::NodeStatus& status, const StatusStyle& style) {
  std::string out;
  for (const v1::Resource& resource : status.resources()) StatusResource(resource, style, &out);
  if (status.resources_size() == 0) out += "# No resources are configured here.\n";
  for (const v1::Problem& problem : status.node().problems()) {
    out += fmt::format("problem: {}: {}\n", problem.object(), problem.reason());
  }
  return out;
}

std::string RenderEvent(const v1::Event& event) {
  switch (event.type()) {
    case v1::Event::EXISTS:
      return "exists " + event.object() + EventState(event);
    case v1::Event::BOOKMARK:
      return "exists -";
    case v1::Event::CREATED:
      return "create " + event.object() + EventState(event);
    case v1::Event::DELETED:
      return "destroy " + event.object();
    case v1::Event::START_OVER:
      return "start-over (events were lost)";
    default:
      break;
  }
  std::string line = "change " + event.object();
  for (int i = 0; i < event.changes_size(); ++i) {
    const v1::Change& change = event.changes(i);
    line += fmt::format("{} {}: {} -> {}", i == 0 ? "" : ",", change.attribute(),
                        OrDash(change.old_value()), OrDash(change.new_value()));
    if (!change.reason().empty()) line += " (" + change.reason() + ")";
  }
  return line;
}

std::vector<std::string> RenderProgress(const v1::Resource& resource, int bar_width) {
  std::vector<std::string> lines;
  for (const v1::Connection& connection : resource.connections()) {
    for (const v1::PeerVolume& volume : connection.volumes()) {
      if (!volume.has_sync()) continue;
      const v1::SyncProgress& sync = volume.sync();
      const int done =
          std::clamp(static_cast<int>(sync.done_percent() / 100 * bar_width), 0, bar_width);
      std::string line =
          fmt::format("{}/{} with {}: [{}{}] {:.1f}% {}/s", volume.resource(), volume.number(),
                      PeerName(connection), std::string(static_cast<size_t>(done), '#'),
                      std::string(static_cast<size_t>(bar_width - done), ' '), sync.done_percent(),
                      FormatBytes(sync.rate_bytes_per_second()));
      if (sync.paused()) {
        line += " paused";
      } else if (sync.has_eta()) {
        line += fmt::format(" eta {}s", sync.eta().seconds());
      }
      lines.push_back(std::move(line));
    }
  }
  return lines;
}

}  // namespace umblock::ctl
