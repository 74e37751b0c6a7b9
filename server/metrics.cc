#include "server/metrics.h"

#include <fmt/core.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/time_util.h>

#include <limits>
#include <map>
#include <string>

#include "umblock/v1/node.pb.h"

namespace umblock::server {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

Labels With(Labels labels, const std::string& name, const std::string& value) {
  labels.push_back({name, value});
  return labels;
}

// Collects samples into families, one family per name, in the order of first use.
class Families {
 public:
  void Gauge(const std::string& name, const char* help, const Labels& labels, double value) {
    ClientMetric& metric = Add(name, help, MetricType::Gauge, labels);
    metric.gauge.value = value;
  }
  void Counter(const std::string& name, const char* help, const Labels& labels, double value) {
    ClientMetric& metric = Add(name, help, MetricType::Counter, labels);
    metric.counter.value = value;
  }

  // One gauge per value of an enumeration: 1 for the present one, 0 for the others.
  void State(const std::string& name, const char* help, const Labels& labels,
             const google::protobuf::EnumDescriptor* states, int present) {
    for (int i = 0; i < states->value_count(); ++i) {
      if (states->value(i)->number() == 0) continue;
      Gauge(name, help, With(labels, "state", states->value(i)->name()),
            states->value(i)->number() == present ? 1 : 0);
    }
  }

  // Element i of the counts is below 2^i microseconds; the last has no upper bound.
  void Latency(const std::string& name, const char* help, const Labels& labels,
               const v1::LatencyHistogram& from) {
    ClientMetric& metric = Add(name, help, MetricType::Histogram, labels);
    uint64_t cumulative = 0;
    for (int i = 0; i < from.bucket_counts_size(); ++i) {
      cumulative += from.bucket_counts(i);
      const bool last = i + 1 == from.bucket_counts_size();
      ClientMetric::Bucket bucket;
      bucket.cumulative_count = cumulative;
      bucket.upper_bound = last ? std::numeric_limits<double>::infinity()
                                : static_cast<double>(uint64_t{1} << i) * 1e-6;
      metric.histogram.bucket.push_back(bucket);
    }
    metric.histogram.sample_count = cumulative;
    metric.histogram.sample_sum =
        static_cast<double>(google::protobuf::util::TimeUtil::DurationToNanoseconds(from.total())) *
        1e-9;
  }

  std::vector<MetricFamily> Take() { return std::move(families_); }

 private:
  ClientMetric& Add(const std::string& name, const char* help, MetricType type,
                    const Labels& labels) {
    const auto [it, fresh] = index_.try_emplace(name, families_.size());
    if (fresh) families_.push_back({name, help, type, {}});
    ClientMetric& metric = families_[it->second].metric.emplace_back();
    metric.label = labels;
    return metric;
  }

  std::vector<MetricFamily> families_;
  std::map<std::string, size_t> index_;
};

double Number(uint64_t value) { return static_cast<double>(value); }

void AddNode(const v1::Node& node, Families* out) {
  out->Gauge("umblock_build_info", "Always 1; the label says which version runs.",
             {{"version", node.version()}, {"node", node.name()}}, 1);
  out->Gauge("umblock_start_time_seconds", "When the daemon started, in seconds since 1970.", {},
             Number(static_cast<uint64_t>(node.start_time().seconds())));
  out->Gauge("umblock_config_generation", "Generation of the stored configuration.", {},
             Number(node.config_generation()));
  out->Gauge("umblock_problems", "Configured things that do not work now (umctl node).", {},
             node.problems_size());
  for (const auto& [name, value] : std::map<std::string, uint64_t>(node.runtime_counters().begin(),
                                                                   node.runtime_counters().end())) {
    out->Counter("umblock_runtime_" + name + "_total",
                 "A counter of the runtime (docs/runtime.md).", {}, Number(value));
  }
}

void AddVolumeCounters(const v1::VolumeStatistics& s, const Labels& l, Families* out) {
  out->Counter("umblock_volume_read_requests_total", "Reads from fronts.", l,
               Number(s.read_requests()));
  out->Counter("umblock_volume_read_bytes_total", "Bytes read by fronts.", l,
               Number(s.read_bytes()));
  out->Counter("umblock_volume_write_requests_total",
               "Writes from fronts, discards and zeroes included.", l, Number(s.write_requests()));
  out->Counter("umblock_volume_written_bytes_total", "Bytes written by fronts.", l,
               Number(s.write_bytes()));
  out->Counter("umblock_volume_flush_requests_total", "Flushes from fronts.", l,
               Number(s.flush_requests()));
  out->Counter("umblock_volume_failed_requests_total", "Requests from fronts that failed.", l,
               Number(s.errors()));
  out->Counter("umblock_volume_disk_timeouts_total",
               "Disks given up because a request took longer than disk_timeout.", l,
               Number(s.disk_timeouts()));
  out->Counter("umblock_volume_disk_read_bytes_total",
               "Bytes read from the backing device, for whatever cause.", l,
               Number(s.disk_read_bytes()));
  out->Counter("umblock_volume_disk_written_bytes_total",
               "Bytes written to the backing device, for whatever cause.", l,
               Number(s.disk_written_bytes()));
  out->Counter("umblock_volume_activity_log_updates_total", "Activity log transactions.", l,
               Number(s.al_writes()));
  out->Gauge("umblock_volume_activity_log_extents_in_use",
             "Extents of 4 MiB that writes hold in the activity log.", l, Number(s.al_in_use()));
  out->Counter("umblock_volume_bitmap_writes_total", "Bitmap pages of 4 KiB written.", l,
               Number(s.bm_writes()));
  out->Gauge("umblock_volume_upper_pending_requests", "Requests from fronts in flight.", l,
             Number(s.upper_pending()));
  out->Gauge("umblock_volume_lower_pending_requests", "Requests to the backing device in flight.",
             l, Number(s.lower_pending()));
  out->Latency("umblock_volume_read_latency_seconds", "Latency of reads, as fronts see it.", l,
               s.read_latency());
  out->Latency("umblock_volume_write_latency_seconds", "Latency of writes, as fronts see it.", l,
               s.write_latency());
  out->Latency("umblock_volume_flush_latency_seconds", "Latency of flushes, as fronts see it.", l,
               s.flush_latency());
}

void AddVolume(const v1::Volume& volume, Families* out) {
  const Labels labels = {{"resource", volume.spec().resource()},
                         {"volume", std::to_string(volume.spec().number())}};
  const v1::VolumeStatus& status = volume.status();
  out->State("umblock_volume_disk_state", "State of the local data: 1 for the present state.",
             labels, v1::DiskState::Value_descriptor(), status.disk());
  out->Gauge("umblock_volume_size_bytes", "Size that fronts see.", labels,
             Number(status.size_bytes()));
  out->Gauge("umblock_volume_quorum", "1: quorum, or quorum is off.", labels, status.quorum());
  out->Gauge("umblock_volume_openers", "How many have it open.", labels, status.openers_size());
  AddVolumeCounters(status.statistics(), labels, out);
}

void AddPeerVolume(const v1::PeerVolume& volume, const Labels& peer, Families* out) {
  const Labels l = With(peer, "volume", std::to_string(volume.number()));
  out->State("umblock_peer_volume_replication_state",
             "What a volume does with a peer: 1 for the present state.", l,
             v1::ReplicationState::Value_descriptor(), volume.replication());
  out->State("umblock_peer_volume_disk_state", "State of the peer's data: 1 for the present state.",
             l, v1::DiskState::Value_descriptor(), volume.peer_disk());
  out->Gauge("umblock_peer_volume_out_of_sync_bytes", "Bytes known to differ from the peer's.", l,
             Number(volume.out_of_sync_bytes()));
  out->Counter("umblock_peer_volume_received_bytes_total", "Payload received from the peer.", l,
               Number(volume.received_bytes()));
  out->Counter("umblock_peer_volume_sent_bytes_total", "Payload sent to the peer.", l,
               Number(volume.sent_bytes()));
  out->Counter("umblock_peer_volume_equal_bytes_total",
               "Bytes that syncs found equal by digest and did not transfer.", l,
               Number(volume.equal_bytes()));
  out->Counter("umblock_peer_volume_deallocated_bytes_total",
               "Bytes that thin syncs found to be zeroes and did not transfer.", l,
               Number(volume.deallocated_bytes()));
  out->Gauge("umblock_peer_volume_pending_requests", "Answers expected from the peer.", l,
             Number(volume.pending()));
  out->Gauge("umblock_peer_volume_unacked_requests", "Answers owed to the peer.", l,
             Number(volume.unacked()));
  out->Gauge("umblock_peer_volume_resync_size_bytes",
             "Bytes out of sync when the running resync started; 0: none runs.", l,
             Number(volume.sync().total_bytes()));
  out->Gauge("umblock_peer_volume_resync_left_bytes", "Bytes that the running resync has left.", l,
             Number(volume.sync().left_bytes()));
  out->Gauge("umblock_peer_volume_resync_done_ratio",
             "How far the running resync is, 0 to 1; 1: none runs.", l,
             volume.has_sync() ? volume.sync().done_percent() / 100 : 1);
  const v1::VerifyResult& verify = volume.verify();
  out->Gauge("umblock_peer_volume_verify_running", "1: an online verify runs.", l,
             verify.running());
  out->Gauge("umblock_peer_volume_verify_different_bytes",
             "Bytes that the running or last verify found to differ.", l,
             Number(verify.different_bytes()));
  out->Gauge("umblock_peer_volume_verify_skipped_bytes",
             "Bytes that the running or last verify could not compare.", l,
             Number(verify.skipped_bytes()));
  out->Gauge("umblock_peer_volume_resync_rate_bytes_per_second",
             "Rate of the running resync over the last seconds.", l,
             Number(volume.sync().rate_bytes_per_second()));
}

void AddConnection(const v1::Connection& connection, Families* out) {
  const std::string id = std::to_string(connection.spec().peer_node_id());
  const std::string& name = connection.spec().peer_name();
  const Labels labels = {{"resource", connection.spec().resource()},
                         {"peer", name.empty() ? id : name},
                         {"peer_node_id", id}};
  const v1::ConnectionStatus& status = connection.status();
  out->State("umblock_connection_state", "State of the link: 1 for the present state.", labels,
             v1::ConnectionState::Value_descriptor(), status.state());
  out->State("umblock_connection_peer_role", "Role of the peer: 1 for the present role.", labels,
             v1::Role::Value_descriptor(), status.peer_role());
  out->Gauge("umblock_connection_protocol_version", "DRBD protocol version; 0: not connected.",
             labels, status.agreed_protocol());
  out->Gauge("umblock_connection_in_flight_bytes", "Sent, and not known to be stable on the peer.",
             labels, Number(status.ap_in_flight_bytes()));
  out->Gauge("umblock_connection_resync_in_flight_bytes", "Resync traffic in flight.", labels,
             Number(status.rs_in_flight_bytes()));
  for (const v1::PeerVolume& volume : connection.volumes()) AddPeerVolume(volume, labels, out);
}

void AddResource(const v1::Resource& resource, Families* out) {
  const Labels labels = {{"resource", resource.spec().name()}};
  const v1::ResourceStatus& status = resource.status();
  out->State("umblock_resource_role", "Role of this node: 1 for the present role.", labels,
             v1::Role::Value_descriptor(), status.role());
  out->Gauge("umblock_resource_suspended", "1: requests are held back.", labels,
             !status.suspended().empty() && status.suspended() != "no");
  out->Gauge("umblock_resource_promotable", "1: nothing known is in the way of a promotion.",
             labels, status.promotable());
  for (const v1::Volume& volume : resource.volumes()) AddVolume(volume, out);
  for (const v1::Connection& connection : resource.connections()) AddConnection(connection, out);
}

void AddLun(const v1::Lun& lun, Families* out) {
  const Labels l = {{"target", lun.spec().target()}, {"lun", std::to_string(lun.spec().number())}};
  const v1::LunStatistics& s = lun.statistics();
  out->Gauge("umblock_lun_ready", "1: initiators can use it.", l, lun.ready());
  out->Counter("umblock_lun_read_requests_total", "Reads.", l, Number(s.read_requests()));
  out->Counter("umblock_lun_read_bytes_total", "Bytes read.", l, Number(s.read_bytes()));
  out->Counter("umblock_lun_write_requests_total", "Writes, discards and zeroes included.", l,
               Number(s.write_requests()));
  out->Counter("umblock_lun_written_bytes_total", "Bytes written.", l, Number(s.write_bytes()));
  out->Counter("umblock_lun_check_conditions_total", "Commands that ended with CHECK CONDITION.", l,
               Number(s.check_conditions()));
}

void AddTarget(const v1::Target& target, Families* out) {
  const Labels labels = {{"target", target.spec().name()}};
  out->Gauge("umblock_target_sessions", "Initiators that are logged in.", labels,
             target.sessions_size());
  for (const v1::Lun& lun : target.luns()) AddLun(lun, out);
  for (const v1::Session& session : target.sessions()) {
    const Labels l = {{"target", target.spec().name()},
                      {"initiator", session.initiator()},
                      {"tsih", std::to_string(session.tsih())}};
    out->Counter("umblock_session_commands_total", "SCSI commands.", l, Number(session.commands()));
    out->Counter("umblock_session_received_bytes_total", "Bytes received from the initiator.", l,
                 Number(session.received_bytes()));
    out->Counter("umblock_session_sent_bytes_total", "Bytes sent to the initiator.", l,
                 Number(session.sent_bytes()));
    out->Counter("umblock_session_copied_bytes_total", "Bytes copied in memory on their way.", l,
                 Number(session.copied_bytes()));
  }
}

void AddExport(const v1::Export& item, Families* out) {
  const Labels l = {{"export", item.spec().name()}};
  const v1::ExportStatistics& s = item.statistics();
  out->Gauge("umblock_export_ready", "1: it can be opened.", l, item.ready());
  out->Gauge("umblock_export_open_files", "How many have it open.", l, item.open_count());
  out->Counter("umblock_export_read_requests_total", "Reads.", l, Number(s.read_requests()));
  out->Counter("umblock_export_read_bytes_total", "Bytes read.", l, Number(s.read_bytes()));
  out->Counter("umblock_export_write_requests_total", "Writes.", l, Number(s.write_requests()));
  out->Counter("umblock_export_written_bytes_total", "Bytes written.", l, Number(s.write_bytes()));
  out->Counter("umblock_export_copied_bytes_total", "Bytes copied in memory on their way.", l,
               Number(s.copied_bytes()));
}

}  // namespace

std::vector<MetricFamily> NodeMetrics(const v1::NodeStatus& status) {
  Families out;
  AddNode(status.node(), &out);
  for (const v1::Backend& backend : status.backends()) {
    const Labels labels = {{"backend", backend.spec().name()}};
    out.Gauge("umblock_backend_ready", "1: open and usable.", labels, backend.status().ready());
    out.Gauge("umblock_backend_size_bytes", "Usable size.", labels,
              Number(backend.status().size_bytes()));
  }
  for (const v1::Resource& resource : status.resources()) AddResource(resource, &out);
  for (const v1::Portal& portal : status.portals()) {
    out.Gauge("umblock_portal_listening", "1: the portal listens.",
              {{"address", portal.spec().address()}}, portal.listening());
  }
  for (const v1::Target& target : status.targets()) AddTarget(target, &out);
  for (const v1::Export& item : status.exports()) AddExport(item, &out);
  return out.Take();
}

}  // namespace umblock::server
