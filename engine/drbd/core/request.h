// Request: one write of the front (data, discard, zeroes) on its way through a replicated volume.
//
// Not a coroutine: a pooled object whose legs (local disk, each peer) are driven by the pure
// function Next(state, event) of state/request_state.h. Stages (drbd-io-path.md A.1): admitted,
// granted its range, granted its activity-log extents, registered (in the transfer log, legs
// running), completed upwards, done for every peer and every earlier write, freed.
#pragma once

#include <array>
#include <boost/intrusive/list.hpp>
#include <cstdint>
#include <span>

#include "engine/block/block_device.h"
#include "engine/drbd/core/disk.h"
#include "engine/drbd/core/io_ranges.h"
#include "engine/drbd/core/object_pool.h"
#include "engine/drbd/link/send_queue.h"
#include "engine/drbd/state/request_state.h"
#include "engine/runtime/time.h"

namespace umblock::drbd {

class Volume;
struct Request;

// The leg towards one peer. It is the notice of its own payload in the peer's send queue.
struct RequestLeg : SentNotice {
  RequestLeg() : SentNotice(nullptr) {}

  Request* request = nullptr;
  int node = -1;
  // Next write on the same connection that is not barrier-acked, in the order of sending.
  Request* next_on_connection = nullptr;
  Time sent_at{};
  bool counted = false;  // in PeerDevice::pending
  // Its bit was set before the bitmap was sent (O4). From there on the resync decides about that
  // bit: it reads behind this write. Volume::disk_generation of the bitmap that has it; 0: none.
  uint64_t in_bitmap_of = 0;
};

struct Request final : PoolObject, IoRange, AlUser {
  static constexpr int kMaxLegs = 31;

  Request() : local(nullptr) {}

  uint64_t sectors() const { return end - first; }
  std::span<const LegState> states() const { return {leg_states.data(), size_t(leg_count)}; }
  // Index of the leg towards `node`, -1 if there is none.
  int LegOf(int node) const {
    for (int i = 0; i < leg_count; ++i) {
      if (legs[static_cast<size_t>(i)].node == node) return i;
    }
    return -1;
  }

  Volume* volume = nullptr;
  BlockIo* upper = nullptr;
  IoOp op = IoOp::kWrite;
  bool fua = false;
  bool may_unmap = false;
  uint64_t first = 0;
  uint64_t end = 0;
  uint64_t dagtag = 0;  // position in the change stream after this write, sectors
  uint32_t epoch = 0;
  Time submitted_at{};
  uint64_t submission = 0;  // number in the order of the front's calls

  bool registered = false;
  bool extents_held = false;
  uint64_t disk_generation = 0;  // of the attachment that holds the extents
  bool completed = false;        // upwards; it stays until it is done for every peer
  int error = 0;

  LocalLeg local_leg = LocalLeg::kNone;
  BlockIo local;
  int leg_count = 0;
  std::array<LegState, kMaxLegs> leg_states{};
  std::array<RequestLeg, kMaxLegs> legs;

  boost::intrusive::list_member_hook<> log_hook;
};

}  // namespace umblock::drbd
