// The parts of Cluster that wait for rest and then look at the disks.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "engine/drbd/meta/bitmap_layout.h"
#include "engine/drbd/meta/superblock.h"
#include "sim/cluster.h"
#include "sim/repertoire.h"

namespace umblock::sim {

namespace meta = drbd::meta;

namespace {

constexpr Duration kConvergeBound = 240s;
constexpr Duration kAfterwards = 3s;
// A connection may have been cut without a word just now; the longest ko-count finds out.
constexpr Duration kSilentCutBound = 60s;
constexpr Duration kRestBound = 60s;
constexpr Duration kStopBound = 60s;

}  // namespace

// Nothing is under way, and both sides say that their disks are the same.
bool Cluster::Quiet() {
  if (!workload_.idle()) return false;
  for (int i = 0; i < kNodes; ++i) {
    const ReplicaState state = StateOf(i);
    if (!state.in_sync() || state.pending != 0) return false;
    if (node(i).data->in_flight() != 0) return false;
  }
  return true;
}

bool Cluster::Resyncing() {
  for (int i = 0; i < kNodes; ++i) {
    if (StateOf(i).replication == drbd::ReplicationState::kSyncTarget) return true;
  }
  return false;
}

bool Cluster::CompareDisks() {
  coverage_.Count(Situation::kDisksCompared);
  std::array<std::byte, SimDisk::kPage> pages[kNodes];
  const uint64_t count = volume_bytes_ / SimDisk::kPage;
  for (uint64_t page = 0; page < count; ++page) {
    if (!node(0).data->PageInUse(page) && !node(1).data->PageInUse(page)) continue;
    for (int i = 0; i < kNodes; ++i) node(i).data->ReadNow(page * SimDisk::kPage, pages[i]);
    if (pages[0] == pages[1]) continue;
    for (size_t at = 0; at < SimDisk::kPage; at += kSectorBytes) {
      if (std::memcmp(pages[0].data() + at, pages[1].data() + at, kSectorBytes) == 0) continue;
      const uint64_t sector = page * (SimDisk::kPage / kSectorBytes) + at / kSectorBytes;
      world_.Fail(fmt::format(
          "the disks differ though both sides call them equal: sector {} is {} on {} and {} on {}",
          sector, Describe(ReadStamp(Bytes(pages[0]).subspan(at, kSectorBytes))),
          node(0).sim->name(), Describe(ReadStamp(Bytes(pages[1]).subspan(at, kSectorBytes))),
          node(1).sim->name()));
      return false;
    }
  }
  return true;
}

bool Cluster::CheckDisksAtRest() {
  std::array<std::byte, kSectorBytes> content;
  history_.ForEachSector([&](uint64_t sector) {
    for (Node& own : nodes_) {
      if (world_.failed()) return;
      own.data->ReadNow(sector * kSectorBytes, content);
      if (Verdict wrong = history_.CheckAtRest(sector, content)) {
        world_.Fail(own.sim->name() + ", " + *wrong);
      }
    }
  });
  return !world_.failed();
}

bool Cluster::Converge() {
  auto back = [&] {
    return role_ == Role::kActive && StateOf(0).in_sync() && StateOf(1).in_sync() &&
           (repertoire_ == nullptr || repertoire_->settled());
  };
  // A long resync over a slow link may go on for as long as it gets further.
  uint64_t left = UINT64_MAX;
  while (!world_.RunUntil(back, kConvergeBound)) {
    const uint64_t before = left;
    left = std::max(StateOf(0).out_of_sync, StateOf(1).out_of_sync);
    if (!world_.failed() && Resyncing() && left < before) continue;
    world_.Fail(fmt::format("the faults are over for {} s and the cluster is not back: {}",
                            kConvergeBound / 1s, DescribeState()));
    return false;
  }
  if (StateOf(0).size != StateOf(1).size) {
    world_.Fail("both are in sync, and have different sizes: " + DescribeState());
    return false;
  }
  const WorkloadCounts before = workload_.counts();
  world_.RunFor(kAfterwards);
  (void)world_.RunUntil([&] { return workload_.counts().writes > before.writes; }, kSilentCutBound);
  settling_ = true;
  int quiet = 0;
  SimTime last{};
  auto rest = [&] {
    if (world_.now() - last < 20ms) return false;
    last = world_.now();
    quiet = role_ == Role::kDraining && Quiet() ? quiet + 1 : 0;
    return quiet >= 3;
  };
  if (!world_.RunUntil(rest, kRestBound)) {
    world_.Fail("the application has stopped and the cluster does not come to rest: " +
                DescribeState());
    return false;
  }
  const WorkloadCounts& after = workload_.counts();
  if (after.errors != before.errors) {
    world_.Fail("the faults are over and requests still fail: " + DescribeState());
  } else if (after.writes + after.reads <= before.writes + before.reads) {
    world_.Fail("the faults are over and no request succeeds: " + DescribeState());
  }
  return !world_.failed() && CompareDisks() && CheckDisksAtRest();
}

bool Cluster::TearDown() {
  node(primary_).replica->device()->Close(opener_);
  auto demoted = Begin(primary_, "demote", node(primary_).replica->Demote());
  if (!world_.RunUntil([&] { return demoted->done; }, kStopBound) || !demoted->status) {
    world_.Fail("the last demotion fails: " +
                (demoted->status ? "it does not end" : demoted->status.error().ToString()));
    return false;
  }
  primary_ = -1;
  role_ = Role::kNone;
  std::array<std::shared_ptr<Act>, kNodes> stopped;
  for (int i = 0; i < kNodes; ++i) {
    node(i).ready = false;
    stopped[static_cast<size_t>(i)] = Begin(i, "stop", StopTask(node(i).replica));
  }
  if (!world_.RunUntil([&] { return stopped[0]->done && stopped[1]->done; }, kStopBound)) {
    world_.Fail("stopping the replicas does not end");
    return false;
  }
  world_.RunFor(100ms);
  for (Node& own : nodes_) own.sim->Shutdown();
  return CompareDisks() && CheckDisksAtRest() && CheckBitmapsOnDisk();
}

Task<Status> Cluster::StopTask(Replica* replica) {
  co_await replica->Stop();
  co_return Ok();
}

bool Cluster::CheckBitmapsOnDisk() {
  for (Node& own : nodes_) {
    const meta::Geometry& geometry = own.al_watch->geometry();
    std::array<std::byte, meta::kSuperblockBytes> raw;
    own.meta->ReadNow(geometry.superblock_offset, raw);
    auto superblock = meta::DecodeSuperblock(raw);
    if (!superblock) {
      if (!meta::LooksLikeSuperblock(raw)) continue;  // a fake without metadata
      world_.Fail(
          fmt::format("{}: superblock: {}", own.sim->name(), superblock.error().ToString()));
      return false;
    }
    if (!superblock->al_clean()) {
      world_.Fail(own.sim->name() + ": the activity log is not clean after a clean stop");
      return false;
    }
    const uint64_t bits = meta::BitmapBits(volume_bytes_, geometry.bytes_per_bit);
    std::vector<std::byte> bitmap(meta::BitmapBytes(bits, geometry.max_peers));
    own.meta->ReadNow(geometry.bm_offset, bitmap);
    for (uint64_t bit = 0; bit < bits; ++bit) {
      const uint64_t at = meta::BitmapByteOffset(bit, 0, geometry.max_peers);
      if ((bitmap[at] & std::byte{static_cast<uint8_t>(1u << (bit % 8))}) == std::byte{0}) continue;
      world_.Fail(fmt::format("{}: bit {} is set on disk after everything was in sync",
                              own.sim->name(), bit));
      return false;
    }
  }
  return true;
}

}  // namespace umblock::sim
