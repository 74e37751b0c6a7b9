#include "sim/faults.h"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>

#include "engine/drbd/wire/data_packets.h"
#include "sim/repertoire.h"

namespace umblock::sim {

using drbd::wire::PacketType;

namespace {

constexpr Duration kArmedFor = 6s;

// Packets after which a crash is interesting.
constexpr PacketType kCrashPoints[] = {PacketType::kTwopcPrepare,
                                       PacketType::kTwopcYes,
                                       PacketType::kTwopcCommit,
                                       PacketType::kBarrier,
                                       PacketType::kBarrierAck,
                                       PacketType::kPeerAck,
                                       PacketType::kUuids110,
                                       PacketType::kState,
                                       PacketType::kSizes,
                                       PacketType::kCurrentUuid,
                                       PacketType::kWriteAck,
                                       PacketType::kRsDataRequest,
                                       PacketType::kRsDataReply,
                                       PacketType::kRsWriteAck,
                                       PacketType::kOutOfSync,
                                       PacketType::kData,
                                       PacketType::kTrim,
                                       PacketType::kZeroes,
                                       PacketType::kConnectionFeatures};

}  // namespace

Faults::Faults(Cluster& cluster, std::vector<Episode> schedule, std::vector<size_t> without)
    : cluster_(cluster),
      world_(cluster.world()),
      schedule_(std::move(schedule)),
      without_(std::move(without)),
      tap_(cluster.world().network(), [this](const TappedPacket& packet) { OnPacket(packet); }) {
  world_.network().SetConnectionObserver(
      [this](const std::shared_ptr<SimConnection>& connection) { OnConnection(connection); });
  cluster_.SetActivityLogHandler([this](int index) { OnActivityLogWrite(index); });
}

void Faults::Begin() {
  active_ = true;
  for (size_t i = 0; i < schedule_.size(); ++i) {
    if (std::find(without_.begin(), without_.end(), i) != without_.end()) continue;
    After(schedule_[i].at, [this, i] { Execute(schedule_[i]); });
  }
}

void Faults::After(Duration delay, std::function<void()> fn) {
  world_.After(delay, SimEventKind::kHarness, [this, fn = std::move(fn)] {
    if (active_) fn();
  });
}

void Faults::End() {
  active_ = false;
  CheckAimed();
  SimNetwork& network = world_.network();
  network.set_refuse_permille(0);
  network.Partition(*cluster_.node(0).sim, *cluster_.node(1).sim, false);
  for (Aimed& aimed : aimed_) aimed.connection->Cut();
  for (int i = 0; i < kNodes; ++i) {
    Cluster::Node& own = cluster_.node(i);
    for (SimDisk* disk : {own.data, own.meta}) {
      disk->ClearFaults();
      disk->SetHang(false);
      disk->set_slowdown(1);
    }
    own.sim->set_slowdown(1);
    own.wants_connection = own.wants_disk = true;
    cluster_.Start(i);
  }
  if (cluster_.repertoire() != nullptr) cluster_.repertoire()->End();
}

void Faults::Execute(const Episode& episode) {
  CheckAimed();
  world_.Log(LogLevel::kInfo, "fault", Describe(episode));
  if (Crashes(episode) || Cuts(episode) || Silences(episode) || DiskFaults(episode)) return;
  if (cluster_.repertoire() != nullptr && cluster_.repertoire()->Execute(episode)) return;
  Acts(episode);
}

SimCrash Faults::KindOf(const Episode& episode) const {
  return (episode.choice & 3) == 0 ? SimCrash::kProcessKill : SimCrash::kPowerCut;
}

void Faults::CrashAt(int index, const Episode& episode) {
  cluster_.CrashSoon(index, KindOf(episode));
  After(episode.duration, [this, index] { cluster_.Start(index); });
}

bool Faults::Crashes(const Episode& episode) {
  const int primary = cluster_.primary();
  const Duration apart = (episode.choice & 16) != 0
                             ? Duration(0)
                             : Duration(static_cast<int64_t>((episode.choice >> 8) % 300'000'000));
  switch (episode.fault) {
    case Fault::kCrashPrimary:
      CrashAt(primary == -1 ? Either(episode) : primary, episode);
      return true;
    case Fault::kCrashSecondary:
      CrashAt(primary == -1 ? Either(episode) : 1 - primary, episode);
      return true;
    case Fault::kCrashBoth: {
      const int first = Either(episode);
      if (cluster_.node(0).sim->running() && cluster_.node(1).sim->running()) {
        cluster_.coverage().Count(Situation::kCrashOfBothNodes);
      }
      CrashAt(first, episode);
      After(apart, [this, first, episode] { CrashAt(1 - first, episode); });
      return true;
    }
    case Fault::kCrashInBitmapExchange:
      Arm(episode, kArmedFor);
      CutAll(false);
      return true;
    case Fault::kCrashInActivityLogWrite:
    case Fault::kCrashAtPacket:
      Arm(episode, kArmedFor);
      return true;
    default:
      return false;
  }
}

void Faults::CutAll(bool both_at_once) {
  for (const auto& connection :
       world_.network().Connections(*cluster_.node(0).sim, *cluster_.node(1).sim)) {
    connection->Cut(false, both_at_once);
  }
}

bool Faults::Cuts(const Episode& episode) {
  switch (episode.fault) {
    case Fault::kCutPayload:
    case Fault::kCutBarrierAck:
      Arm(episode, kArmedFor);
      return true;
    case Fault::kCutAnywhere: {
      auto all = world_.network().Connections(*cluster_.node(0).sim, *cluster_.node(1).sim);
      if (all.empty()) return true;
      const auto& chosen = all[(episode.choice >> 8) % all.size()];
      const bool silent = (episode.choice & 7) == 0;
      const int from = Either(episode);
      chosen->CutAfter(from, (episode.choice >> 40) % 20000, silent);
      return true;
    }
    case Fault::kCutBothEnds:
      Arm(episode, kArmedFor);
      CutAll(true);
      return true;
    default:
      return false;
  }
}

bool Faults::Silences(const Episode& episode) {
  SimNetwork& network = world_.network();
  SimNode& a = *cluster_.node(Either(episode)).sim;
  SimNode& b = *cluster_.node(1 - Either(episode)).sim;
  switch (episode.fault) {
    case Fault::kPartition:
      cluster_.coverage().Count(Situation::kPartition);
      network.Partition(a, b, true);
      After(episode.duration, [&network, &a, &b] { network.Partition(a, b, false); });
      return true;
    case Fault::kOneWaySilence:
      network.SetBlocked(a, b, true);
      After(episode.duration, [&network, &a, &b] { network.SetBlocked(a, b, false); });
      return true;
    case Fault::kRefuseConnects:
      network.set_refuse_permille(800);
      After(episode.duration, [&network] { network.set_refuse_permille(0); });
      CutAll(false);
      return true;
    case Fault::kTwoPhaseCommitLoss:
      Arm(episode, kArmedFor);
      cluster_.RequestMove();
      return true;
    default:
      return false;
  }
}

bool Faults::DiskFaults(const Episode& episode) {
  Cluster::Node& own = cluster_.node(Either(episode));
  const auto times = static_cast<uint32_t>(1 + (episode.choice >> 8) % 3);
  const auto skip = static_cast<uint32_t>((episode.choice >> 16) % 20);
  // With protocols A and B what a primary without a disk was acknowledged is nowhere for sure.
  bool may_lose_disk = cluster_.protocol() == drbd::Protocol::kC;
  // A Primary whose disk is only half of what it works on, and whose peer's disk fails too, is
  // stuck until somebody uses force (docs/simulator.md): not both disks at a time.
  if (cluster_.repertoire() != nullptr) may_lose_disk = may_lose_disk && OneDiskAtATime(episode);
  switch (episode.fault) {
    case Fault::kDataWriteErrors:
      if (may_lose_disk) own.data->FailNext(SimDiskOp::kWrite, EIO, times, skip);
      return true;
    case Fault::kDataReadErrors:
      if (may_lose_disk) own.data->FailNext(SimDiskOp::kRead, EIO, times, skip);
      return true;
    case Fault::kMetadataErrors:
      if (may_lose_disk) {
        own.meta->AddBadRange(own.al_watch->geometry().al_offset,
                              own.al_watch->geometry().al_bytes(), EIO);
        cluster_.coverage().Count(Situation::kMetadataError);
        After(episode.duration, [&own] { own.meta->ClearFaults(); });
      }
      return true;
    case Fault::kFlushErrors:
      own.data->FailNext(SimDiskOp::kSync, EIO, times, skip % 4);
      return true;
    case Fault::kDiskHang:
      if (!may_lose_disk && cluster_.setup(0).disk.disk_timeout != Duration(0)) return true;
      own.data->SetHang(true);
      After(episode.duration + 2 * cluster_.setup(0).disk.disk_timeout,
            [&own] { own.data->SetHang(false); });
      return true;
    case Fault::kSlowDisk:
      own.data->set_slowdown(50);
      After(episode.duration, [&own] { own.data->set_slowdown(1); });
      return true;
    default:
      return false;
  }
}

bool Faults::OneDiskAtATime(const Episode& episode) {
  constexpr Duration kApart = 10s;
  if (episode.fault != Fault::kDataReadErrors && episode.fault != Fault::kDataWriteErrors) {
    return true;
  }
  const SimTime now = world_.now();
  if (disk_errors_at_ && disk_errors_on_ != Either(episode) && now - *disk_errors_at_ < kApart) {
    return false;
  }
  disk_errors_on_ = Either(episode);
  disk_errors_at_ = now;
  return true;
}

void Faults::Acts(const Episode& episode) {
  const int either = Either(episode);
  Cluster::Node& own = cluster_.node(either);
  switch (episode.fault) {
    case Fault::kSlowNode:
      own.sim->set_slowdown(100);
      After(episode.duration, [&own] { own.sim->set_slowdown(1); });
      break;
    case Fault::kMove:
      cluster_.RequestMove();
      break;
    case Fault::kRefusedPromotion:
      cluster_.TryRefusedPromotion();
      break;
    case Fault::kDisconnect:
      cluster_.StartDisconnect(either);
      After(episode.duration, [&own] { own.wants_connection = true; });
      break;
    case Fault::kDetach:
      if (cluster_.protocol() != drbd::Protocol::kC) break;
      cluster_.StartDetach(either);
      After(episode.duration, [&own] { own.wants_disk = true; });
      break;
    case Fault::kDiskless: {
      const int primary = cluster_.primary();
      if (cluster_.protocol() != drbd::Protocol::kC || primary == -1) break;
      cluster_.StartDetach(primary);
      After(episode.duration, [this, primary] { cluster_.node(primary).wants_disk = true; });
      break;
    }
    case Fault::kPauseAndCompare:
      cluster_.RequestCompare();
      break;
    default:
      break;
  }
}

// --- aimed faults ---

void Faults::Arm(const Episode& episode, Duration window) {
  armed_[static_cast<size_t>(episode.fault)] = {true, world_.now() + window, episode};
}

bool Faults::Take(Fault fault) {
  Armed& slot = armed_[static_cast<size_t>(fault)];
  if (!slot.armed || !active_) return false;
  slot.armed = false;
  return world_.now() <= slot.until;
}

void Faults::OnPacket(const TappedPacket& packet) {
  if (!active_) return;
  const PacketType type = packet.header.type;
  if (type == PacketType::kRsDataRequest || type == PacketType::kRsDagtagReq) {
    // Both begin alike.
    const auto request = drbd::wire::BlockRequest::Decode(packet.payload);
    if (request) cluster_.workload().Focus(request->sector);
  }
  if (type == PacketType::kDataRequest) cluster_.coverage().Count(Situation::kReadOverPeer);
  if (type == PacketType::kCsumRsRequest || type == PacketType::kRsCsumDagtagReq) {
    cluster_.coverage().Count(Situation::kChecksumResync);
  }
  if (type == PacketType::kInitialData || type == PacketType::kInitialMeta) OnInitialPacket(packet);
  const int sender = packet.connection->node(packet.from_end).index();
  const uint64_t payload = packet.start + packet.header.size();
  if (type == PacketType::kData && packet.header.length >= 512 && Take(Fault::kCutPayload)) {
    const uint64_t choice = armed(Fault::kCutPayload).choice;
    AimCut(packet, payload + 1 + (choice >> 8) % (packet.header.length - 1),
           Situation::kCutInsidePayload, (choice & 7) == 0);
  }
  if (type == PacketType::kBarrierAck && Take(Fault::kCutBarrierAck)) {
    const uint64_t choice = armed(Fault::kCutBarrierAck).choice;
    AimCut(packet, packet.start + (choice >> 8) % (packet.end - packet.start),
           Situation::kLostBarrierAck, (choice & 7) == 0);
  }
  if ((type == PacketType::kBitmap || type == PacketType::kCompressedBitmap) &&
      Take(Fault::kCrashInBitmapExchange)) {
    const Episode& episode = armed(Fault::kCrashInBitmapExchange);
    cluster_.coverage().Count(Situation::kCrashDuringBitmapExchange);
    CrashAt(Either(episode), episode);
  }
  if ((type == PacketType::kTwopcPrepare || type == PacketType::kTwopcYes ||
       type == PacketType::kTwopcCommit)) {
    LoseInTwoPhaseCommit(packet);
  }
  const uint64_t point = armed(Fault::kCrashAtPacket).choice >> 8;
  if (type == kCrashPoints[point % std::size(kCrashPoints)] && Take(Fault::kCrashAtPacket)) {
    const Episode& episode = armed(Fault::kCrashAtPacket);
    CrashAt((episode.choice & 4) != 0 ? sender : 1 - sender, episode);
  }
}

void Faults::AimCut(const TappedPacket& packet, uint64_t at, Situation situation, bool silent) {
  SimConnection& connection = *packet.connection;
  if (at <= connection.delivered(packet.from_end)) return;
  connection.CutAfter(packet.from_end, at - connection.delivered(packet.from_end), silent);
  aimed_.push_back({connection.shared_from_this(), packet.from_end, situation});
  After(1s, [this] { CheckAimed(); });
}

// Counts what has struck, and lets go of what can no longer.
void Faults::CheckAimed() {
  std::erase_if(aimed_, [this](const Aimed& aimed) {
    if (aimed.connection->struck(aimed.from_end)) cluster_.coverage().Count(aimed.situation);
    return aimed.connection->struck(aimed.from_end) || aimed.connection->dead();
  });
}

// PREPARE, YES or COMMIT is lost, and all that follows it in that direction of that socket.
void Faults::LoseInTwoPhaseCommit(const TappedPacket& packet) {
  static constexpr PacketType kTypes[] = {PacketType::kTwopcPrepare, PacketType::kTwopcPrepare,
                                          PacketType::kTwopcYes, PacketType::kTwopcCommit};
  const uint64_t choice = armed(Fault::kTwoPhaseCommitLoss).choice;
  if (packet.header.type != kTypes[(choice >> 8) % 4] || !Take(Fault::kTwoPhaseCommitLoss)) return;
  SimConnection& connection = *packet.connection;
  if (packet.start < connection.delivered(packet.from_end)) return;
  connection.MuteAfter(packet.from_end, packet.start - connection.delivered(packet.from_end));
  const Duration timeout = cluster_.setup(0).resource.twopc_timeout;
  std::shared_ptr<SimConnection> held = connection.shared_from_this();
  After(timeout, [this, held] {
    if (held->error(0) == 0 && held->error(1) == 0 && held->established(0) &&
        held->established(1)) {
      cluster_.coverage().Count(Situation::kTwoPhaseCommitTimeout);
    }
  });
  world_.After(timeout + Duration(static_cast<int64_t>((choice >> 16) % 10'000'000'000)),
               SimEventKind::kHarness, [held] { held->Cut(); });
}

void Faults::OnActivityLogWrite(int index) {
  if (index != cluster_.primary() || !Take(Fault::kCrashInActivityLogWrite)) return;
  Episode episode = armed(Fault::kCrashInActivityLogWrite);
  episode.choice |= 1;  // of the power: a killed process tears nothing
  CrashAt(index, episode);
}

// Crossed connects: both nodes have made a connection for the same purpose, and each has said so
// before it heard it from the other. It takes two nodes that begin at the same time, and a network
// that is slower than they are. So, for as long as a cut at both ends is armed, first packets are
// held back, and the control socket is cut again while both nodes wait for the pair to settle: of
// the four ways in which they may then go on, at once or passively, one makes them cross.
void Faults::OnConnection(const std::shared_ptr<SimConnection>& connection) {
  const Armed& slot = armed_[static_cast<size_t>(Fault::kCutBothEnds)];
  if (!active_ || !slot.armed || world_.now() > slot.until) return;
  connection->Hold(20ms + Duration(static_cast<int64_t>((slot.episode.choice >> 8) % 80'000'000)));
}

void Faults::OnInitialPacket(const TappedPacket& packet) {
  const bool data = packet.header.type == PacketType::kInitialData;
  Initial& last = initial_[data ? 1 : 0];
  const int from = packet.connection->node(packet.from_end).index();
  const bool crossed = last.connection != nullptr && last.from_node == 1 - from &&
                       last.connection->established(0) && last.connection->delivered(0) == 0;
  last = {packet.connection->shared_from_this(), from};
  Armed& slot = armed_[static_cast<size_t>(Fault::kCutBothEnds)];
  if (crossed) {
    cluster_.coverage().Count(Situation::kCrossedConnects);
    slot.armed = false;
  }
  if (data || !slot.armed || world_.now() > slot.until) return;
  After(cluster_.setup(from).net.ping_timeout / 2, [&slot, held = last.connection] {
    if (slot.armed) held->Cut(false, true);
  });
}

}  // namespace umblock::sim
