// What an operator configures: options of a resource, its volumes, its peers. Values, with the
// kernel's defaults and limits (drbd-io-path.md F.1, drbd-states.md 12). Bytes, and Durations.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/base/socket_address.h"
#include "engine/drbd/handler_config.h"
#include "engine/drbd/state/fencing_policy.h"
#include "engine/drbd/state/node_mask.h"
#include "engine/runtime/time.h"

namespace umblock::drbd {

inline constexpr int kMaxVolumes = 65535;  // volume numbers 0 … 65534

enum class Protocol : uint8_t { kA = 1, kB = 2, kC = 3 };

enum class OnIoError : uint8_t { kPassOn, kDetach, kCallLocalIoError };

// More is under way to a peer than congestion_fill or congestion_extents allow (drbd-io-path.md
// F.5).
enum class OnCongestion : uint8_t {
  kBlock,       // the socket holds writes back
  kPullAhead,   // go on without the peer, and synchronise it afterwards
  kDisconnect,  // let go of the peer
};

enum class SplitBrainPolicy : uint8_t {  // wire values, drbd-wire.md 5.3.1
  kDisconnect = 0,
  kDiscardYoungerPrimary = 1,
  kDiscardOlderPrimary = 2,
  kDiscardZeroChanges = 3,
  kDiscardLeastChanges = 4,
  kDiscardLocal = 5,
  kDiscardRemote = 6,
  kConsensus = 7,
  kDiscardSecondary = 8,
  kCallPriLost = 9,
  kViolently = 10,
  kRetryConnect = 11,
  kAutoDiscard = 12,
};

struct ResourceOptions {
  Duration twopc_timeout = 30s;
  Duration twopc_retry_timeout = 100ms;
  uint64_t peer_ack_window = uint64_t{2} << 20;  // bytes (4096 sectors)
  Duration peer_ack_delay = 100ms;
  // A flush completes only when every protocol-C peer has made the epochs before it stable
  // (drbd-io-path.md E.2). Off: as the kernel, which acknowledges it before.
  bool strict_flush = true;
  uint32_t max_io_depth = 8000;  // requests in flight per volume
};

struct DiskOptions {
  uint32_t al_extents = 1237;  // 67 … 65534, 4 MiB each
  bool al_updates = true;
  // A resync asks in units of so many bytes, aligned, and blocks of zeroes cost no data
  // (ThinGranularity); 0: everything is fetched. Counts from the next resync.
  uint32_t rs_discard_granularity = 0;  // up to 1 MiB
  // Off: the cache of the device with the data (disk) or the metadata (md) survives a loss of
  // power, and nothing but an initiator's flush is flushed there. Changed at once.
  bool disk_flushes = true;
  bool md_flushes = true;
  OnIoError on_io_error = OnIoError::kDetach;
  // A request to the disk that takes longer makes it Failed (drbd-io-path.md F.8); 0: never.
  Duration disk_timeout = 0s;  // 0.1 s … 600 s
};

struct NetOptions {
  Protocol protocol = Protocol::kC;
  std::string cram_hmac_alg;  // empty: no authentication
  std::string shared_secret;  // up to 63 bytes
  std::string data_integrity_alg;
  std::string verify_alg;
  std::string csums_alg;
  bool csums_after_crash_only = false;  // csums_alg counts only where this node crashed as Primary
  Duration timeout = 6s;
  uint32_t ko_count = 7;  // 0: never give a peer up for slow acknowledgements
  Duration ping_int = 10s;
  Duration ping_timeout = 500ms;
  Duration connect_int = 10s;
  Duration socket_check_timeout = 0s;  // 0: ping_timeout
  uint32_t max_epoch_size = 2048;      // 1 … 20000 writes
  uint32_t max_buffers = 2048;         // 4 KiB pages in flight per connection, 32 … 131072
  uint32_t sndbuf_size = 0;            // bytes; 0: autotuning
  uint32_t rcvbuf_size = 0;
  OnCongestion on_congestion = OnCongestion::kBlock;  // anything else needs protocol A
  uint64_t congestion_fill = 0;        // bytes in flight to the peer; 0: not counted; up to 10 GiB
  uint32_t congestion_extents = 1237;  // of the activity log in use, 67 … 65534
  bool use_rle = true;
  bool allow_two_primaries = false;
  bool always_asbp = false;
  SplitBrainPolicy after_sb_0pri = SplitBrainPolicy::kDisconnect;
  SplitBrainPolicy after_sb_1pri = SplitBrainPolicy::kDisconnect;
  SplitBrainPolicy after_sb_2pri = SplitBrainPolicy::kDisconnect;
  SplitBrainPolicy rr_conflict = SplitBrainPolicy::kDisconnect;
  FencingPolicy fencing = FencingPolicy::kDontCare;
};

struct ResyncOptions {
  uint32_t resync_rate = 250;    // KiB/s, with c_plan_ahead 0
  uint32_t c_plan_ahead = 20;    // 0.1 s; 0: fixed rate
  uint32_t c_delay_target = 10;  // 0.1 s
  uint32_t c_fill_target = 100;  // sectors
  uint32_t c_max_rate = 102400;  // KiB/s; 0: unlimited
  // KiB/s that a resync takes beside the I/O of applications; 0: all that it can get.
  uint32_t c_min_rate = 250;
};

struct PathConfig {
  SocketAddress local;
  SocketAddress remote;
};

struct PeerConfig {
  int node_id = -1;
  std::string name;  // the peer's host name, for people
  std::vector<PathConfig> paths;
  NetOptions net;
  ResyncOptions resync;
};

struct VolumeConfig {
  int number = 0;
  uint64_t size = 0;  // bytes; 0: as large as the smallest backing device
  DiskOptions disk;
};

struct ResourceConfig {
  std::string name;
  int node_id = -1;
  ResourceOptions options;
  HandlerConfig handlers;
  std::string node_name;  // this node's host name, for handlers; may be empty
};

// Each says what is wrong, with the allowed range.
Status Validate(const ResourceConfig& config);
Status Validate(const VolumeConfig& config);
Status Validate(const PeerConfig& config);

}  // namespace umblock::drbd
