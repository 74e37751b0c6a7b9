#include "engine/drbd/state/quorum.h"

#include <fmt/format.h>

namespace umblock::drbd {
namespace {

int Threshold(int setting, int voters) {
  switch (setting) {
    case kQuorumOff:
      return 0;
    case kQuorumMajority:
      return voters / 2 + 1;
    case kQuorumAll:
      return voters;
    default:
      return setting;
  }
}

// An unconnected node that could have a disk.
void CountAbsent(const QuorumInput& in, int node, bool outdated, QuorumResult& out) {
  if (outdated) {
    ++out.outdated;
  } else if (Contains(in.quorumless, node)) {
    ++out.quorumless;
  } else {
    ++out.unknown;
  }
}

// 6.2, self has a disk: everybody the metadata know is in the electorate.
void CountFromMetadata(const QuorumInput& in, QuorumResult& out) {
  ++(in.own_disk == DiskState::kUpToDate ? out.up_to_date : out.present);
  for (int node = 0; node < kNodeIds; ++node) {
    const QuorumSlot& slot = in.slots[static_cast<size_t>(node)];
    const QuorumPeer& peer = in.peers[static_cast<size_t>(node)];
    if (node == in.self) continue;
    const bool known = slot.have_bitmap || slot.node_exists || slot.device_seen;
    if (!known && !(peer.configured && peer.replicating)) continue;
    if (!peer.configured) {
      if (!slot.device_seen) {
        ++out.missing_diskless;
      } else {
        CountAbsent(in, node, slot.outdated, out);
      }
      continue;
    }
    if (!peer.allow_remote_read || (!peer.bitmap && !peer.tiebreaker)) continue;
    if (!peer.replicating) {
      if (!peer.bitmap) {
        ++out.missing_diskless;
      } else {
        CountAbsent(in, node, peer.disk <= DiskState::kOutdated || slot.outdated, out);
      }
    } else if (peer.disk == DiskState::kDiskless && !peer.bitmap) {
      ++out.diskless;
    } else {
      ++(peer.disk == DiskState::kUpToDate ? out.up_to_date : out.present);
    }
  }
}

// 6.2, self has no disk: only the configured connections are known.
void CountFromConnections(const QuorumInput& in, QuorumResult& out) {
  ++(in.intentional_diskless ? out.diskless : out.unknown);
  for (int node = 0; node < kNodeIds; ++node) {
    const QuorumPeer& peer = in.peers[static_cast<size_t>(node)];
    if (node == in.self || !peer.configured) continue;
    if (!peer.allow_remote_read || (!peer.bitmap && !peer.tiebreaker)) continue;
    if (!peer.replicating) {
      if (!peer.bitmap) {
        ++out.missing_diskless;
      } else {
        CountAbsent(in, node, peer.disk <= DiskState::kOutdated, out);
      }
    } else if (peer.disk == DiskState::kDiskless) {
      ++out.diskless;
    } else if (peer.disk == DiskState::kUpToDate) {
      ++out.up_to_date;
      if (peer.reports_quorum) ++out.quorate_peers;
    } else {
      ++out.present;
    }
  }
}

}  // namespace

QuorumResult ComputeQuorum(const QuorumInput& in) {
  QuorumResult out;
  if (in.own_disk > DiskState::kAttaching) {
    CountFromMetadata(in, out);
  } else {
    CountFromConnections(in, out);
  }
  const int setting = in.options.enabled() ? in.options.quorum : kQuorumMajority;
  const int total = out.outdated + out.quorumless + out.unknown + out.up_to_date + out.present;
  if (out.outdated + out.quorumless + out.unknown >= Threshold(setting, total)) {
    out.unknown += out.quorumless;  // the others together might hold quorum
    out.quorumless = 0;
  }
  const int here = out.up_to_date + out.present;
  out.voters = out.unknown > 0 ? total : here;
  out.threshold = Threshold(setting, out.voters);
  out.redundancy_threshold = Threshold(in.options.minimum_redundancy, out.voters);
  out.redundancy_missing = out.up_to_date < out.redundancy_threshold;
  out.quorum = out.quorate_peers > 0 || (here >= out.threshold && !out.redundancy_missing);
  if (out.quorum || !in.had_quorum) return out;

  // The tiebreaker keeps quorum in an even split; it never creates it.
  const int clients = out.diskless + out.missing_diskless;
  if (out.voters != 0 && out.voters % 2 == 0 && here == out.threshold - 1 &&
      out.diskless >= Threshold(kQuorumMajority, clients)) {
    out.quorum = true;
    out.by_tiebreaker = true;
  }
  return out;
}

std::string NoQuorumText(const QuorumInput& in, const QuorumResult& result) {
  if (in.own_disk <= DiskState::kAttaching && result.quorate_peers == 0) {
    return "no UpToDate peer with quorum";
  }
  const int here = result.up_to_date + result.present;
  if (here < result.threshold) {
    return fmt::format("{} of {} nodes visible, need {} for quorum", here, result.voters,
                       result.threshold);
  }
  return fmt::format("{} of {} nodes up_to_date, need {} for quorum-minimum-redundancy",
                     result.up_to_date, result.voters, result.redundancy_threshold);
}

}  // namespace umblock::drbd
