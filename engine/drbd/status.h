// What a resource shows: one consistent snapshot, as values that may cross threads.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/drbd/config.h"
#include "engine/drbd/state/handshake_report.h"
#include "engine/drbd/wire/state_word.h"

namespace umblock::drbd {

// Bucket i counts latencies below 2^i microseconds (the last one: everything above).
struct LatencyHistogram {
  static constexpr int kBuckets = 24;
  std::array<uint64_t, kBuckets> counts{};
  uint64_t total_ns = 0;
  uint64_t count = 0;

  void Add(Duration latency);
};

struct VolumeCounters {
  uint64_t read_requests = 0, read_bytes = 0;    // from the front
  uint64_t write_requests = 0, write_bytes = 0;  // from the front, discards and zeroes included
  uint64_t flush_requests = 0;
  uint64_t disk_read_bytes = 0, disk_written_bytes = 0;  // backing device, all causes
  uint64_t al_writes = 0;                                // activity log transactions
  uint64_t al_in_use = 0;                                // extents that writes hold now
  uint64_t bm_writes = 0;                                // 4 KiB bitmap pages
  uint64_t upper_pending = 0;                            // front requests not completed yet
  uint64_t lower_pending = 0;                            // backing requests not completed yet
  uint64_t disk_timeouts = 0;                            // disks that failed by disk-timeout
  uint64_t errors = 0;                                   // front requests that failed
  LatencyHistogram read_latency, write_latency, flush_latency;
};

struct SyncProgress {
  uint64_t total_bytes = 0;  // out of sync when this resync started
  uint64_t left_bytes = 0;
  uint64_t rate_bytes_per_second = 0;  // over the last seconds
  std::optional<Duration> eta;
  bool paused = false;
  // Of what is done, and not transferred: equal by digest, zeroes at the source of a thin resync.
  uint64_t equal_bytes = 0;
  uint64_t deallocated_bytes = 0;
};

// An online verify, running or the last one. Offsets and sizes in bytes.
struct VerifyStatus {
  bool running = false;
  bool started_here = false;
  bool complete = false;  // it came to its end; else it was stopped, or the link or a disk went
  uint64_t start = 0, stop = 0;
  uint64_t position = 0;  // everything before it is compared or skipped, or just asked for
  uint64_t compared_bytes = 0;
  uint64_t different_bytes = 0;
  uint64_t different_ranges = 0;    // as they were found: neighbours may count apart
  uint64_t skipped_bytes = 0;       // in use, or not readable at that moment
  uint64_t first_different = 0;     // offset of the first, and end of the last difference
  uint64_t last_different_end = 0;  // 0: none
};

struct PeerVolumeStatus {
  int volume = 0;
  ReplicationState replication{};
  DiskState peer_disk{};
  std::string resync_suspended;  // "no", or "user", "peer", "dependency" joined by commas
  uint64_t out_of_sync_bytes = 0;
  uint64_t received_bytes = 0, sent_bytes = 0;  // payload, this connection
  uint64_t equal_bytes = 0;                     // resynced by digest alone, this connection
  uint64_t deallocated_bytes = 0;               // resynced as zeroes, without data, likewise
  uint64_t pending = 0;                         // answers expected from the peer
  uint64_t unacked = 0;                         // answers owed to the peer
  std::optional<SyncProgress> sync;             // of a resync or verify
  std::optional<VerifyStatus> verify;           // not set: there has been none
  std::optional<HandshakeReport> handshake;     // of the last handshake; not set: there was none
};

struct ConnectionStatus {
  int peer_node_id = -1;
  std::string peer_name;
  std::string local_address, remote_address;
  ConnectionState state{};
  Role peer_role{};
  uint32_t agreed_protocol = 0;  // 0 while not connected
  uint64_t agreed_features = 0;
  uint64_t ap_in_flight_bytes = 0;  // sent and not barrier-acked
  uint64_t rs_in_flight_bytes = 0;
  uint64_t copied_bytes = 0;  // received payload that went through the read-ahead buffer, this link
  std::string last_error;     // why it is not connected; empty if it is
  std::vector<PeerVolumeStatus> volumes;
};

struct VolumeStatus {
  int number = 0;
  DiskState disk{};
  std::string disk_reason;  // why the disk is not UpToDate; empty if it is
  std::string backend;      // name of the backing device; empty if detached
  uint64_t size_bytes = 0;
  uint64_t wanted_bytes = 0;   // the size that was asked for, here or at a peer; 0: none
  uint64_t backing_bytes = 0;  // of the backing device, as far as the metadata has followed it
  bool quorum = true;
  std::string current_uuid;  // 16 hex digits
  uint64_t device_uuid = 0;  // of the attached disk; 0: it has none
  std::vector<std::string> openers;
  VolumeCounters counters;
};

struct ResourceStatus {
  std::string name;
  int node_id = -1;
  Role role{};
  std::string suspended;                      // "no", or the reasons joined by commas
  std::string write_ordering;                 // "flush" or "drain"
  std::vector<VolumeStatus> volumes;          // by number
  std::vector<ConnectionStatus> connections;  // by node id
};

}  // namespace umblock::drbd
