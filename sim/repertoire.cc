#include "sim/repertoire.h"

#include <fmt/core.h>

#include <algorithm>

namespace umblock::sim {

using drbd::FencingPolicy;
using drbd::OnCongestion;
using drbd::Protocol;
using drbd::ReplicationState;

namespace {

constexpr Duration kActBound = 300s;
constexpr uint64_t kBlock = 4096;

}  // namespace

// --- options
// ---------------------------------------------------------------------------------------

void ChooseOptions(SimRandom& random, std::optional<Protocol> protocol, ReplicaSetup* setup) {
  static constexpr const char* kDigests[] = {"crc32c", "sha1", "sha256"};
  static constexpr FencingPolicy kPolicies[] = {
      FencingPolicy::kDontCare, FencingPolicy::kResourceOnly, FencingPolicy::kResourceAndStonith};
  drbd::NetOptions& net = setup->net;
  const uint64_t dice = random.Below(10);
  net.protocol = dice < 7 ? Protocol::kC : dice < 8 ? Protocol::kB : Protocol::kA;
  if (protocol) net.protocol = *protocol;
  net.verify_alg = kDigests[random.Below(3)];
  if (random.OneIn(2)) net.csums_alg = kDigests[random.Below(3)];
  net.fencing = kPolicies[random.Below(3)];
  net.congestion_fill = uint64_t{131072} << random.Below(4);
  net.congestion_extents = 67;
  if (net.protocol == Protocol::kA) {
    net.fencing = std::min(net.fencing, FencingPolicy::kResourceOnly);
    if (!random.OneIn(4)) net.on_congestion = OnCongestion::kPullAhead;
  }
  // A Primary whose disk is given up relies on the peer's: protocol C.
  if (net.protocol == Protocol::kC && random.OneIn(2)) {
    setup->disk.disk_timeout = random.Between(Duration(1s), Duration(3s));
  }
  setup->volume_bytes = 0;
}

// --- the whole
// -----------------------------------------------------------------------------------------

Repertoire::Repertoire(Cluster& cluster)
    : cluster_(cluster),
      world_(cluster.world()),
      random_(world_.Stream(0x72657065)),
      exam_(cluster) {}

bool Repertoire::Execute(const Episode& episode) {
  switch (episode.fault) {
    case Fault::kVerifyAtRest:
      exam_.Request();
      return true;
    case Fault::kVerifyUnderLoad:
      VerifyUnderLoad(episode);
      return true;
    case Fault::kGrow:
      Grow(episode);
      return true;
    case Fault::kPausedResync:
      PauseSync(episode);
      return true;
    case Fault::kInvalidate:
      Invalidate(episode);
      return true;
    case Fault::kSuspendIo:
      SuspendIo(episode);
      return true;
    case Fault::kReconfigure:
      Reconfigure(episode);
      return true;
    default:
      return false;
  }
}

void Repertoire::End() {
  ending_ = true;
  exam_.End();
  if (suspension_) suspension_->over = true;
  // Under a load that never ends a small congestion-fill may let no resync come to its end.
  drbd::NetOptions net = cluster_.setup(0).net;
  net.on_congestion = OnCongestion::kBlock;
  cluster_.SetNet(net);
  for (int i = 0; i < kNodes; ++i) {
    Cluster::Node& own = cluster_.node(i);
    if (own.ready && !options_due_[static_cast<size_t>(i)]) {
      Do(i, "no more congestion", own.replica->UpdateNet(net));
    }
    resume_due_[static_cast<size_t>(i)] = paused_[static_cast<size_t>(i)];
    options_at_[static_cast<size_t>(i)] = world_.now();
  }
}

bool Repertoire::settled() const {
  return acts_.empty() && !suspension_ && !growth_ && !verify_ && handlers_.empty() &&
         !paused_[0] && !paused_[1] && !options_due_[0] && !options_due_[1] && !exam_.going_on();
}

void Repertoire::Tick() {
  TendActs();
  TendVerify();
  TendGrowth();
  TendPauses();
  TendSuspension();
  TendOptions();
  TendHandlers();
  exam_.Tick();
}

void Repertoire::OnCrash(int index) {
  const auto i = static_cast<size_t>(index);
  exam_.OnCrash();
  if (verify_ && verify_->node == index) verify_.reset();
  if (suspension_ && suspension_->node == index) suspension_.reset();
  paused_[i] = resume_due_[i] = options_due_[i] = false;
  resuming_[i].reset();
  replication_[i] = {};
  timeouts_[i] = 0;
  cluster_.node(index).reconfiguring = false;
}

void Repertoire::OnStateChanged(int index, const ReplicaState& state) {
  const auto i = static_cast<size_t>(index);
  if (state.replication == replication_[i]) return;
  replication_[i] = state.replication;
  if (state.replication == ReplicationState::kAhead) {
    cluster_.coverage().Count(Situation::kPullAhead);
  }
  if (state.replication == ReplicationState::kPausedSyncT) {
    cluster_.coverage().Count(Situation::kPausedResync);
  }
}

std::shared_ptr<Act> Repertoire::Do(int index, std::string name, Task<Status> task) {
  acts_.push_back(cluster_.Begin(index, std::move(name), std::move(task)));
  return acts_.back();
}

void Repertoire::TendActs() {
  for (int i = 0; i < kNodes; ++i) {
    const uint64_t timeouts = cluster_.StateOf(i).disk_timeouts;
    uint64_t& known = timeouts_[static_cast<size_t>(i)];
    if (timeouts > known) cluster_.coverage().Count(Situation::kDiskTimeout);
    known = timeouts;
  }
  std::erase_if(acts_, [this](const std::shared_ptr<Act>& act) {
    if (cluster_.Lost(*act)) return true;
    if (act->done && !act->status) {
      world_.Log(LogLevel::kInfo, cluster_.node(act->node).sim->name(),
                 act->name + ": " + act->status.error().ToString());
    }
    if (!act->done && world_.now() - act->since > kActBound) {
      world_.Fail(fmt::format("{} on {} does not end: {}", act->name,
                              cluster_.node(act->node).sim->name(), cluster_.DescribeState()));
    }
    return act->done;
  });
}

bool Repertoire::BothInSync() {
  return cluster_.StateOf(0).in_sync() && cluster_.StateOf(1).in_sync();
}

void Repertoire::After(Duration delay, std::function<void()> fn) {
  world_.After(delay, SimEventKind::kHarness, std::move(fn));
}

// --- verify beside the application
// -----------------------------------------------------------------------------------------

void Repertoire::VerifyUnderLoad(const Episode& episode) {
  const int who = Either(episode);
  if (verify_ || exam_.going_on() || !BothInSync()) return;
  const uint64_t blocks = cluster_.volume_bytes() / kBlock;
  const uint64_t count = random_.Between(1, 8192);
  const uint64_t first = random_.OneIn(2) ? 0 : random_.Below(blocks - count);
  verify_ = LoadVerify{
      who, Do(who, "verify under load",
              cluster_.node(who).replica->StartVerify(first * kBlock, (first + count) * kBlock))};
  if ((episode.choice & 1) == 0) return;
  After(random_.Between(Duration(0), Duration(20ms)), [this, who, act = verify_->act] {
    if (!verify_ || verify_->act != act || !cluster_.node(who).ready) return;
    Do(who, "stop the verify", cluster_.node(who).replica->StopVerify());
  });
}

// The disks are equal but for what is in flight, and that is skipped.
void Repertoire::TendVerify() {
  if (!verify_ || !verify_->act->done) return;
  const ReplicaState state = cluster_.StateOf(verify_->node);
  if (!verify_->act->status || !state.verify) {
    verify_.reset();
    return;
  }
  if (state.verify->different_bytes != 0) {
    world_.Fail(fmt::format("a verify beside the application found {} bytes to differ, from {} on",
                            state.verify->different_bytes, state.verify->first_different));
  }
  if (state.verify->running) return;
  cluster_.coverage().Count(state.verify->complete ? Situation::kVerifyUnderLoad
                                                   : Situation::kVerifyStopped);
  verify_.reset();
}

// --- growth
// -----------------------------------------------------------------------------------------

// Both disks grow, then the volume. What lies in the new part of the disks differs.
void Repertoire::Grow(const Episode& episode) {
  if (growth_ || !BothInSync() || exam_.going_on()) return;
  const uint64_t most =
      std::max(cluster_.node(0).data->options().size, cluster_.node(1).data->options().size);
  const uint64_t target = most + random_.Between(16, 1024) * kBlock;
  growth_ = Growth{};
  growth_->before = cluster_.volume_bytes();
  growth_->asker = Either(episode);
  if ((episode.choice & 1) == 0) {
    growth_->crash_after = Duration(static_cast<int64_t>((episode.choice >> 8) % 4'000'000));
  }
  cluster_.AllowGarbageFrom(growth_->before);
  std::vector<std::byte> garbage(16 * kBlock);
  random_.Fill(garbage);
  SimDisk& one = *cluster_.node(static_cast<int>(episode.choice >> 33 & 1)).data;
  for (int i = 0; i < kNodes; ++i) {
    growth_->disks[static_cast<size_t>(i)] =
        Do(i, "grow the disk", cluster_.node(i).replica->GrowDisk(target));
  }
  After(Duration(0), [&one, target, garbage] {
    if (one.options().size == target) one.WriteNow(target - garbage.size(), garbage);
  });
}

void Repertoire::TendGrowth() {
  if (!growth_) return;
  Growth& now = *growth_;
  if (now.resize == nullptr) {
    for (const auto& act : now.disks) {
      if (!act->done && !cluster_.Lost(*act)) return;
    }
    if (!cluster_.node(now.asker).ready || ending_) {
      growth_.reset();
      return;
    }
    now.resize = Do(now.asker, "resize", cluster_.node(now.asker).replica->Resize());
    if (now.crash_after) {
      const int victim = static_cast<int>(random_.Below(2));
      After(*now.crash_after, [this, victim, act = now.resize] {
        if (ending_ || act->done) return;
        cluster_.coverage().Count(Situation::kCrashDuringResize);
        cluster_.CrashSoon(victim, random_.OneIn(4) ? SimCrash::kProcessKill : SimCrash::kPowerCut);
        After(random_.Between(Duration(10ms), Duration(5s)),
              [this, victim] { cluster_.Start(victim); });
      });
    }
    return;
  }
  if (!now.resize->done && !cluster_.Lost(*now.resize)) return;
  if (now.resize->done && now.resize->status) {
    if (cluster_.StateOf(now.asker).size <= now.before) {
      world_.Fail("a resize succeeded and the volume did not grow: " + cluster_.DescribeState());
    }
    cluster_.coverage().Count(Situation::kResize);
  }
  growth_.reset();
}

// --- resyncs that are paused, and such as are asked for
// ---------------------------------------------------------------------------------------

void Repertoire::PauseSync(const Episode& episode) {
  const int who = Either(episode);
  Cluster::Node& own = cluster_.node(who);
  if (!own.ready || own.act != nullptr || paused_[static_cast<size_t>(who)]) return;
  paused_[static_cast<size_t>(who)] = true;
  Do(who, "pause the resync", own.replica->PauseSync(true));
  cluster_.StartDisconnect(who);
  const SimIncarnation* incarnation = own.sim->incarnation();
  After(random_.Between(Duration(50ms), Duration(1s)), [&own] { own.wants_connection = true; });
  After(episode.duration + 500ms, [this, who, incarnation] {
    if (cluster_.node(who).sim->incarnation() != incarnation) return;
    resume_due_[static_cast<size_t>(who)] = paused_[static_cast<size_t>(who)];
  });
}

void Repertoire::TendPauses() {
  for (int i = 0; i < kNodes; ++i) {
    const auto at = static_cast<size_t>(i);
    if (!resume_due_[at] || !cluster_.node(i).ready) continue;
    std::shared_ptr<Act>& act = resuming_[at];
    if (act == nullptr) {
      act = Do(i, "resume the resync", cluster_.node(i).replica->PauseSync(false));
    } else if (act->done) {
      if (act->status) paused_[at] = resume_due_[at] = false;
      act.reset();
    }
  }
}

void Repertoire::Invalidate(const Episode& episode) {
  if (!cluster_.active() || !BothInSync() || exam_.going_on()) return;
  // The Primary's own disk only where the other has everything: protocol C.
  const bool of_primary = cluster_.protocol() == Protocol::kC && (episode.choice & 3) == 0;
  const int target = of_primary ? cluster_.primary() : 1 - cluster_.primary();
  const bool remote = (episode.choice & 4) != 0;
  const int asked = remote ? 1 - target : target;
  cluster_.coverage().Count(Situation::kInvalidation);
  Do(asked, remote ? "invalidate the peer's disk" : "invalidate",
     cluster_.node(asked).replica->Invalidate(remote));
}

// --- suspended I/O
// -----------------------------------------------------------------------------------------

void Repertoire::SuspendIo(const Episode& episode) {
  if (suspension_ || !cluster_.active()) return;
  const int who = cluster_.primary();
  suspension_ = Suspension{.node = who, .act = nullptr, .writes_ended = {}};
  suspension_->act = Do(who, "suspend I/O", cluster_.node(who).replica->SuspendIo(true));
  After(episode.duration, [this, act = suspension_->act] {
    if (suspension_ && suspension_->act == act) suspension_->over = true;
  });
}

// While I/O is suspended no write ends.
void Repertoire::TendSuspension() {
  if (!suspension_) return;
  Suspension& now = *suspension_;
  if (now.act->done && now.act->status && cluster_.primary() == now.node) {
    const uint64_t ended = cluster_.workload().writes_ended();
    if (!now.writes_ended) now.writes_ended = ended;
    if (*now.writes_ended != ended && cluster_.StateOf(now.node).suspended) {
      world_.Fail("a write ended while I/O was suspended: " + cluster_.DescribeState());
    }
  }
  if (!now.over) return;
  if (now.writes_ended) cluster_.coverage().Count(Situation::kSuspension);
  Do(now.node, "resume I/O", cluster_.node(now.node).replica->SuspendIo(false));
  suspension_.reset();
}

// --- new options
// -----------------------------------------------------------------------------------------

// They are given to one node after the other, each while it is StandAlone. In between one of them
// may try to connect, with options that do not fit.
void Repertoire::Reconfigure(const Episode& episode) {
  if (options_changed_ || options_due_[0] || options_due_[1]) return;
  drbd::NetOptions net = cluster_.setup(0).net;
  switch (episode.choice % 3) {
    case 0:
      if (net.protocol != Protocol::kC) {
        net.protocol = Protocol::kC;
      } else if (cluster_.setup(0).disk.disk_timeout == Duration(0)) {
        net.protocol = random_.OneIn(2) ? Protocol::kB : Protocol::kA;
      } else {
        return;
      }
      net.on_congestion =
          net.protocol == Protocol::kA ? OnCongestion::kPullAhead : OnCongestion::kBlock;
      if (net.protocol == Protocol::kA) {
        net.fencing = std::min(net.fencing, FencingPolicy::kResourceOnly);
      }
      options_changed_ = Situation::kNewProtocol;
      break;
    case 1:
      net.cram_hmac_alg = random_.OneIn(2) ? "sha256" : "sha1";
      net.shared_secret = fmt::format("simulated {}", random_.Below(1000000));
      options_changed_ = Situation::kNewSecret;
      break;
    default:
      net.data_integrity_alg = net.data_integrity_alg.empty() ? "sha1" : "";
      options_changed_ = Situation::kNewIntegrity;
      break;
  }
  cluster_.SetNet(net);
  for (int i = 0; i < kNodes; ++i) {
    const auto at = static_cast<size_t>(i);
    if (!cluster_.node(i).sim->running()) continue;
    options_due_[at] = cluster_.node(i).reconfiguring = true;
    options_at_[at] = world_.now() + (i == Either(episode) ? Duration(0) : episode.duration / 4);
  }
}

void Repertoire::TendOptions() {
  for (int i = 0; i < kNodes; ++i) {
    const auto at = static_cast<size_t>(i);
    Cluster::Node& own = cluster_.node(i);
    if (!options_due_[at] || !own.ready || own.act != nullptr || world_.now() < own.next_try ||
        world_.now() < options_at_[at]) {
      continue;
    }
    if (cluster_.StateOf(i).connection != drbd::ConnectionState::kStandAlone) {
      own.act = cluster_.Begin(i, "disconnect", own.replica->Disconnect());
    } else {
      own.act = cluster_.Begin(i, "new options", own.replica->UpdateNet(cluster_.setup(i).net));
      options_due_[at] = own.reconfiguring = false;
    }
  }
  if (!options_changed_ || options_due_[0] || options_due_[1]) return;
  if (!cluster_.StateOf(0).connected() || !cluster_.StateOf(1).connected()) return;
  cluster_.coverage().Count(*options_changed_);
  options_changed_.reset();
}

// --- the fence-peer handler
// -----------------------------------------------------------------------------------------

std::shared_ptr<FenceCall> Repertoire::Fence(int caller) {
  auto call = std::make_shared<FenceCall>();
  const int peer = 1 - caller;
  const uint64_t dice = ending_ ? 0 : random_.Below(10);
  const bool may_shoot = cluster_.setup(caller).net.fencing == FencingPolicy::kResourceAndStonith;
  if (dice == 9) {
    cluster_.coverage().Count(Situation::kFencingHung);
    return call;
  }
  After(random_.Between(Duration(5ms), Duration(400ms)), [this, call, peer, dice, may_shoot] {
    if (dice >= 7) {
      cluster_.coverage().Count(Situation::kFencingFailed);
      call->done = true;
    } else if (dice >= 3 && may_shoot && !ending_) {
      Stonith(call, peer);
    } else {
      Outdate(call, peer);
    }
  });
  return call;
}

void Repertoire::Outdate(const std::shared_ptr<FenceCall>& call, int peer) {
  Cluster::Node& other = cluster_.node(peer);
  if (!other.sim->running()) {
    call->exit_code = 5;
    call->done = true;
  } else if (!other.ready) {
    call->done = true;  // no answer: failed
  } else {
    handlers_.push_back({call, Do(peer, "outdate, for the handler", other.replica->Outdate())});
  }
}

void Repertoire::TendHandlers() {
  std::erase_if(handlers_, [this](Handler& handler) {
    const Act& act = *handler.act;
    if (!act.done && !cluster_.Lost(act)) return false;
    const bool primary = cluster_.StateOf(act.node).primary;
    if (act.done && act.status) cluster_.coverage().Count(Situation::kPeerFenced);
    handler.call->exit_code = !act.done ? 1 : act.status ? 4 : primary ? 6 : 1;
    handler.call->done = true;
    return true;
  });
}

void Repertoire::Stonith(const std::shared_ptr<FenceCall>& call, int peer) {
  if (cluster_.StateOf(peer).primary) {
    call->done = true;
    return;
  }
  cluster_.coverage().Count(Situation::kStonith);
  cluster_.CrashSoon(peer, SimCrash::kPowerCut);
  After(20ms, [call] {
    call->exit_code = 7;
    call->done = true;
  });
  After(random_.Between(Duration(100ms), Duration(5s)), [this, peer] { cluster_.Start(peer); });
}

}  // namespace umblock::sim
