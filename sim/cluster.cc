#include "sim/cluster.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/base/assert.h"
#include "sim/repertoire.h"

namespace umblock::sim {
namespace {

constexpr Duration kTick = 20ms;
constexpr Duration kSetUpBound = 120s;
constexpr Duration kRetry = 300ms;
constexpr Duration kCompareBound = 4s;
constexpr uint64_t kMetadataRoom = uint64_t{4} << 20;

unsigned BitOf(int node) { return 1u << node; }

Task<void> RunAct(Task<Status> task, std::shared_ptr<Act> act) {
  act->status = co_await std::move(task);
  act->done = true;
}

Task<Status> FormatThenStart(Replica* replica, bool format) {
  if (format) UMBLOCK_CO_TRY(co_await replica->Format());
  co_return co_await replica->Start();
}

WorkloadOptions MakeWorkload(const RunOptions& options, SimRandom random) {
  WorkloadOptions workload;
  workload.volume_bytes = options.volume_bytes;
  workload.follows_size = options.repertoire;
  workload.workers = static_cast<int>(random.Between(1, 8));
  workload.mean_pause = 12ms * workload.workers;
  workload.max_write_sectors = random.OneIn(4) ? 512 : 64;
  workload.hot_sectors = uint64_t{64} << random.Below(5);
  workload.fua_permille = random.OneIn(3) ? 300 : 40;
  return workload;
}

drbd::NetOptions MakeNet(const RunOptions& options, SimRandom& random) {
  drbd::NetOptions net;
  const uint64_t dice = random.Below(10);
  net.protocol = dice < 8    ? drbd::Protocol::kC
                 : dice == 8 ? drbd::Protocol::kB
                             : drbd::Protocol::kA;
  if (options.protocol) net.protocol = *options.protocol;
  if (random.OneIn(3)) {
    net.cram_hmac_alg = "sha256";
    net.shared_secret = "simulated";
  }
  if (random.OneIn(3)) net.data_integrity_alg = "crc32c";
  net.ping_int = random.OneIn(2) ? 10s : 2s;
  net.timeout = random.OneIn(2) ? 3s : 6s;
  net.connect_int = random.OneIn(2) ? 10s : 3s;
  net.timeout = std::min(net.timeout, std::min(net.ping_int, net.connect_int));
  net.ko_count = static_cast<uint32_t>(random.Between(2, 7));
  if (random.OneIn(3)) net.max_epoch_size = static_cast<uint32_t>(random.Between(1, 20));
  if (random.OneIn(3)) net.max_buffers = 32;
  net.use_rle = !random.OneIn(3);
  return net;
}

}  // namespace

Cluster::Cluster(SimWorld& world, const RunOptions& options, const ReplicaFactory& factory,
                 Coverage& coverage)
    : world_(world),
      options_(options),
      factory_(factory),
      coverage_(coverage),
      random_(world.Stream(0x636c7573)),
      volatile_cache_(!random_.OneIn(4)),
      history_(!volatile_cache_),
      workload_(world, history_, MakeWorkload(options, world.Stream(0x6170706c))) {
  SimDiskOptions disk;
  disk.volatile_cache = volatile_cache_;
  disk.atomic_bytes = random_.OneIn(4) ? 4096 : 512;
  const bool external = random_.OneIn(3);
  SimLinkOptions& link = world_.network().link;
  link.give_up = 20s;
  if (random_.OneIn(3)) {
    link.min_buffer = 2048;
    link.max_buffer = 32768;
  }
  if (random_.OneIn(4)) link.max_latency = 8ms;
  const drbd::NetOptions net = MakeNet(options, random_);
  drbd::ResourceOptions resource;
  resource.twopc_timeout = 5s;
  resource.peer_ack_delay = random_.OneIn(2) ? 100ms : 20ms;
  if (random_.OneIn(3)) resource.peer_ack_window = 65536;
  drbd::ResyncOptions resync;
  resync.c_min_rate = 0;  // the load never pauses, and runs are short
  resync.c_max_rate = 4'000'000;
  resync.c_plan_ahead = random_.OneIn(2) ? 20 : 0;
  resync.resync_rate = 1'000'000;
  static constexpr const char* kNames[kNodes] = {"alfa", "bravo"};
  for (int i = 0; i < kNodes; ++i) {
    Node& own = node(i);
    const auto host = static_cast<uint8_t>(i + 1);
    own.sim = world_.AddNode({kNames[i], {SocketAddress::Ipv4({192, 0, 2, host}, 0)}});
    disk.size = options.volume_bytes + (external ? 0 : kMetadataRoom);
    own.data = own.sim->files().Create(kDataPath, disk);
    own.meta = own.data;
    if (external) {
      disk.size = kMetadataRoom;
      own.meta = own.sim->files().Create(kMetaPath, disk);
      own.data->SetObserver([this](const SimDiskEvent& event) {
        if (event.what != SimDiskEvent::What::kCompleted || event.error == 0) return;
        if (event.op == SimDiskOp::kSync) coverage_.Count(Situation::kFlushError);
        if (event.op == SimDiskOp::kRead) coverage_.Count(Situation::kReadError);
        if (event.op == SimDiskOp::kWrite) coverage_.Count(Situation::kWriteError);
      });
    }
    own.al_watch = std::make_unique<AlWatch>(*own.meta, external, coverage_);
    own.al_watch->SetHandler([this, i] {
      if (on_al_write_ != nullptr) on_al_write_(i);
    });
    own.sim->SetCrashHandler([this, i](SimCrash kind) { OnCrash(i, kind); });
    ReplicaSetup& setup = setups_[static_cast<size_t>(i)];
    setup.node = i;
    setup.volume_bytes = options.volume_bytes;
    setup.al_extents = options.al_extents;
    setup.external_metadata = external;
    setup.net = net;
    setup.resource = resource;
    setup.resync = resync;
    setup.local = SocketAddress::Ipv4({192, 0, 2, host}, 7789);
    setup.remote = SocketAddress::Ipv4({192, 0, 2, static_cast<uint8_t>(2 - i)}, 7789);
    if (options.repertoire) {
      SimRandom choices = world_.Stream(0x6f7074696f6e);  // the same for both
      ChooseOptions(choices, options.protocol, &setup);
      setup.fence = [this, i] { return repertoire_->Fence(i); };
    }
  }
  volume_bytes_ = options.volume_bytes;
  weakest_protocol_ = setups_[0].net.protocol;
  if (options.repertoire) repertoire_ = std::make_unique<Repertoire>(*this);
}

Cluster::~Cluster() = default;

void Cluster::SetNet(const drbd::NetOptions& net) {
  for (ReplicaSetup& setup : setups_) setup.net = net;
  weakest_protocol_ = std::min(weakest_protocol_, net.protocol);
}

// What a daemon remembers of its disks, and what both have of the volume.
void Cluster::FollowSizes() {
  uint64_t least = UINT64_MAX;
  for (int i = 0; i < kNodes; ++i) {
    const ReplicaState state = StateOf(i);
    ReplicaSetup& setup = setups_[static_cast<size_t>(i)];
    least = std::min(least, state.size);
    if (state.backing_bytes == 0) continue;
    setup.last_known_size = state.backing_bytes;
    if (!setup.external_metadata) node(i).al_watch->Follow(state.backing_bytes);
  }
  volume_bytes_ = std::max(volume_bytes_, least);
}

std::shared_ptr<Act> Cluster::Begin(int index, std::string name, Task<Status> task) {
  auto act = std::make_shared<Act>();
  act->name = std::move(name);
  act->node = index;
  act->incarnation = node(index).sim->incarnation()->id;
  act->since = world_.now();
  world_.Note(act->name);
  node(index).sim->reactor()->Spawn(RunAct(std::move(task), act));
  return act;
}

bool Cluster::Lost(const Act& act) const {
  SimNode* sim = nodes_[static_cast<size_t>(act.node)].sim;
  return !sim->running() || sim->incarnation()->id != act.incarnation;
}

ReplicaState Cluster::StateOf(int index) {
  Node& own = node(index);
  return own.ready ? own.replica->state() : ReplicaState{};
}

std::string Cluster::DescribeState() {
  static constexpr const char* kRoles[] = {"no primary", "promoting", "active",
                                           "draining",   "flushing",  "demoting"};
  std::string text = fmt::format("{}, primary {}, holders {:b}", kRoles[static_cast<int>(role_)],
                                 primary_, holders_);
  for (int i = 0; i < kNodes; ++i) {
    const Node& own = node(i);
    text += fmt::format("; {}: {}", own.sim->name(),
                        !own.sim->running() ? "down"
                        : !own.ready        ? "starting"
                                            : StateOf(i).text);
    if (own.act != nullptr) text += fmt::format(" [{}]", own.act->name);
    if (!own.last_error.empty()) text += fmt::format(" (last error: {})", own.last_error);
  }
  if (workload_.OldestAge() > 1s) {
    text += fmt::format("; a {} has been waiting for {} ms", workload_.DescribeOldest(),
                        workload_.OldestAge() / 1ms);
  }
  return text;
}

// --- starting and crashing ---

bool Cluster::SetUp() {
  for (int i = 0; i < kNodes; ++i) {
    node(i).sim->Start([this, i](SimNode& sim) {
      Node& own = node(i);
      sim.AddReactor();
      own.replica =
          factory_(sim, setups_[static_cast<size_t>(i)], [this, i] { OnStateChanged(i); });
      own.act = Begin(i, "start", FormatThenStart(own.replica, !own.formatted));
    });
  }
  Tick();
  auto connected = [&] { return StateOf(0).connected() && StateOf(1).connected(); };
  if (!world_.RunUntil(connected, kSetUpBound)) {
    world_.Fail("set-up: the nodes do not connect: " + DescribeState());
    return false;
  }
  if (options_.full_sync) {
    coverage_.Count(Situation::kFullSync);
    roles_wanted_ = true;
    holders_ = BitOf(0);
    role_act_ = Begin(0, "promote by force", node(0).replica->Promote(true));
    role_ = Role::kPromoting;
    if (world_.RunUntil([&] { return role_ == Role::kActive; }, kSetUpBound)) return true;
    world_.Fail("set-up: the first promotion does not end: " + DescribeState());
    return false;
  }
  auto skip = Begin(0, "skip the initial sync", node(0).replica->SkipInitialSync());
  auto in_sync = [&] { return skip->done && StateOf(0).in_sync() && StateOf(1).in_sync(); };
  if (!world_.RunUntil(in_sync, kSetUpBound) || !skip->status) {
    world_.Fail(fmt::format("set-up: skipping the initial sync: {}; {}",
                            skip->status ? "no error" : skip->status.error().ToString(),
                            DescribeState()));
    return false;
  }
  roles_wanted_ = true;
  return true;
}

void Cluster::Start(int index) {
  if (node(index).sim->running()) return;
  node(index).restarted = true;
  node(index).sim->Restart();
}

void Cluster::Crash(int index, SimCrash kind) {
  // After a failed flush a node's ordering is "drain", which promises nothing on a power cut.
  if (StateOf(index).drain_ordering) kind = SimCrash::kProcessKill;
  node(index).sim->Crash(kind);
}

void Cluster::CrashSoon(int index, SimCrash kind) {
  SimIncarnation* doomed = node(index).sim->incarnation();
  world_.Soon([this, index, kind, doomed] {
    if (doomed != nullptr && node(index).sim->incarnation() == doomed) Crash(index, kind);
  });
}

void Cluster::OnCrash(int index, SimCrash kind) {
  if (repertoire_ != nullptr) repertoire_->OnCrash(index);
  Node& own = node(index);
  const bool loses_cache = kind == SimCrash::kPowerCut && volatile_cache_;
  world_.Log(LogLevel::kInfo, own.sim->name(),
             kind == SimCrash::kPowerCut ? "power cut" : "process killed");
  if (primary_ == index) {
    coverage_.Count(Situation::kPrimaryCrash);
    UpdateHolders();
    // With protocols A and B a peer may lack what was acknowledged: no taking over without a
    // demotion.
    if (protocol() != drbd::Protocol::kC && (holders_ & BitOf(index)) != 0) {
      holders_ = BitOf(index);
    }
    workload_.OnCrash();
    history_.EndTenureByCrash();
    if (loses_cache) {
      unflushed_doubtful_ = true;
      if (holders_ == BitOf(index)) unflushed_lost_ = true;
    }
    crashed_primary_ = index;
    own.restarted = false;
    last_primary_ = index;
    primary_ = -1;
    role_ = Role::kNone;
    role_act_.reset();
  } else {
    coverage_.Count(Situation::kSecondaryCrash);
    const bool incomplete = loses_cache || protocol() != drbd::Protocol::kC;
    if (primary_ == -1) {
      if (loses_cache && unflushed_doubtful_) unflushed_lost_ = true;
    } else if (incomplete) {
      own.suspect = true;
      if (holders_ == BitOf(index)) history_.ForgetVolatile();
    }
    if (role_ == Role::kPromoting && role_act_ != nullptr && role_act_->node == index) {
      role_ = Role::kNone;
      role_act_.reset();
    }
  }
  own.replica = nullptr;
  own.ready = false;
  own.act.reset();
  own.was_connected = false;
  own.wants_connection = true;
  own.wants_disk = true;
}

// --- watching ---

void Cluster::OnStateChanged(int index) {
  Node& own = node(index);
  if (!own.ready) return;
  const ReplicaState state = own.replica->state();
  world_.Note(state.text);
  if (own.was_connected && !state.connected()) ++own.disconnects;
  own.was_connected = state.connected();
  const bool target = state.replication == drbd::ReplicationState::kSyncTarget;
  if (target && !own.was_target) coverage_.Count(Situation::kResync);
  own.was_target = target;
  if (repertoire_ != nullptr) repertoire_->OnStateChanged(index, state);
  if (index == primary_) UpdateHolders();
}

void Cluster::UpdateHolders() {
  if (primary_ == -1 || !node(primary_).ready) return;
  const ReplicaState state = StateOf(primary_);
  unsigned holders = 0;
  if (state.up_to_date()) holders |= BitOf(primary_);
  if (state.connected() && state.peer_disk == drbd::DiskState::kUpToDate &&
      state.replication == drbd::ReplicationState::kEstablished && !other(primary_).suspect) {
    holders |= BitOf(1 - primary_);
  }
  if (holders != 0) holders_ = holders;
}

void Cluster::CheckTwoPrimaries() {
  const ReplicaState a = StateOf(0), b = StateOf(1);
  if (a.primary && b.primary && a.connected() && b.connected()) {
    world_.Fail("two primaries, connected to each other: " + DescribeState());
  }
  if (a.in_sync() && b.in_sync()) {
    for (Node& own : nodes_) own.suspect = false;
    if (role_ == Role::kNone) holders_ = 3;
  }
}

// --- the operator ---

void Cluster::Tick() {
  for (int i = 0; i < kNodes; ++i) TendNode(i);
  CheckTwoPrimaries();
  CheckRefusedPromotion();
  if (repertoire_ != nullptr) {
    FollowSizes();
    repertoire_->Tick();
  }
  if (primary_ != -1) UpdateHolders();
  TendRoles();
  world_.After(kTick + random_.Between(Duration(0), kTick), SimEventKind::kHarness,
               [this] { Tick(); });
}

void Cluster::TendNode(int index) {
  Node& own = node(index);
  if (!own.sim->running()) return;
  if (own.act != nullptr) {
    if (!own.act->done) return;
    const Act& act = *own.act;
    if (!act.status) {
      own.last_error = fmt::format("{}: {}", act.name, act.status.error().ToString());
      world_.Log(LogLevel::kInfo, own.sim->name(), own.last_error);
      own.next_try = world_.now() + kRetry;
      if (act.name == "start") {
        world_.Fail(fmt::format("{} does not start: {}", own.sim->name(), own.last_error));
        return;
      }
    } else {
      own.last_error.clear();
      if (act.name == "start") own.ready = own.formatted = true;
    }
    own.act.reset();
  }
  if (!own.ready || world_.now() < own.next_try) return;
  const ReplicaState state = own.replica->state();
  if (own.wants_disk && state.disk == drbd::DiskState::kDiskless) {
    own.act = Begin(index, "attach", own.replica->Attach());
  } else if (own.wants_connection && !own.reconfiguring &&
             state.connection == drbd::ConnectionState::kStandAlone) {
    own.act = Begin(index, "connect", own.replica->Connect(own.discard_on_connect));
    own.discard_on_connect = false;
  }
}

void Cluster::TendRoles() {
  switch (role_) {
    case Role::kNone:
      // A promotion beside a primary that has crashed meanwhile may yet succeed: see what it does.
      if (refused_act_ == nullptr && roles_wanted_ && !settling_ &&
          world_.now() >= next_role_try_) {
        PickPrimary();
      }
      break;
    case Role::kPromoting:
      if (!role_act_->done) break;
      if (role_act_->status) {
        OnPromoted();
      } else {
        node(role_act_->node).last_error = "promote: " + role_act_->status.error().ToString();
        next_role_try_ = world_.now() + kRetry;
        role_ = Role::kNone;
      }
      break;
    case Role::kActive:
      if (settling_ || compare_requested_ ||
          (repertoire_ != nullptr && repertoire_->exam().wants_rest()) ||
          (move_requested_ && refused_act_ == nullptr)) {
        world_.Log(LogLevel::kInfo, node(primary_).sim->name(), "the application is to stop");
        workload_.Stop();
        role_ = Role::kDraining;
        compare_since_ = world_.now();
      }
      break;
    case Role::kDraining:
      if (workload_.idle()) AfterDrain();
      break;
    case Role::kFlushing:
      if (role_act_->done) LeavePrimary();
      break;
    case Role::kDemoting:
      if (!role_act_->done) break;
      if (role_act_->status) {
        UpdateHolders();
        last_primary_ = primary_;
        primary_ = -1;
        role_ = Role::kNone;
      } else {
        node(primary_).last_error = "demote: " + role_act_->status.error().ToString();
        OnPromoted();  // it is still primary
      }
      break;
  }
}

void Cluster::PickPrimary() {
  int chosen = -1;
  for (int i = 0; i < kNodes; ++i) {
    const Node& own = node(i);
    if (!own.ready || own.act != nullptr || (holders_ & BitOf(i)) == 0) continue;
    if (own.suspect && holders_ != BitOf(i)) continue;
    if (chosen == -1 || i == wanted_primary_ || (wanted_primary_ == -1 && random_.OneIn(2))) {
      chosen = i;
    }
  }
  if (chosen == -1) return;
  wanted_primary_ = -1;
  role_act_ = Begin(chosen, "promote", node(chosen).replica->Promote(false));
  role_ = Role::kPromoting;
}

void Cluster::OnPromoted() {
  const int index = role_act_->node;
  const bool again = primary_ == index;
  if (!again) {
    primary_ = index;
    if (unflushed_doubtful_) {
      const bool took_over = index != crashed_primary_ && !node(crashed_primary_).restarted;
      if (unflushed_lost_ || !took_over) history_.ForgetVolatile();
    }
    unflushed_doubtful_ = unflushed_lost_ = false;
    history_.BeginTenure();
    if (last_primary_ != -1 && last_primary_ != index) {
      coverage_.Count(crashed_primary_ == last_primary_ ? Situation::kFailover : Situation::kMove);
    }
    crashed_primary_ = -1;
  }
  UpdateHolders();
  BlockDevice* device = node(index).replica->device();
  auto opened = device->Open({"simulated application", true});
  if (!opened) {
    world_.Fail(fmt::format("{} is primary and cannot be opened: {}", node(index).sim->name(),
                            opened.error().ToString()));
    return;
  }
  opener_ = *opened;
  StartApplication();
}

void Cluster::StartApplication() {
  role_ = Role::kActive;
  world_.Log(LogLevel::kInfo, node(primary_).sim->name(), "the application runs");
  workload_.Start(*node(primary_).sim->reactor(), *node(primary_).replica->device(),
                  static_cast<uint32_t>(primary_));
}

void Cluster::AfterDrain() {
  if (repertoire_ != nullptr && repertoire_->exam().wants_rest()) {
    quiet_ticks_ = Quiet() ? quiet_ticks_ + 1 : 0;
    repertoire_->exam().AtRest(quiet_ticks_ >= 2);
    if (repertoire_->exam().wants_rest()) return;
    quiet_ticks_ = 0;
    compare_since_ = world_.now();
  }
  if (compare_requested_) {
    quiet_ticks_ = Quiet() ? quiet_ticks_ + 1 : 0;
    if (quiet_ticks_ < 2 && world_.now() - compare_since_ < kCompareBound) return;
    if (quiet_ticks_ >= 2) CompareDisks();
    compare_requested_ = false;
    quiet_ticks_ = 0;
  }
  if (move_requested_ && refused_act_ == nullptr) {
    move_requested_ = false;
    wanted_primary_ = 1 - primary_;
    BlockDevice* device = node(primary_).replica->device();
    role_act_ = Begin(primary_, "flush", FlushTask(device, history_.BeginFlush()));
    role_ = Role::kFlushing;
  } else if (!settling_) {
    StartApplication();
  }
}

Task<Status> Cluster::FlushTask(BlockDevice* device, uint64_t covers) {
  const int error = co_await device->Flush();
  history_.EndFlush(covers, error == 0);
  if (error != 0) co_return std::unexpected(Error::FromErrno(error, "flush"));
  co_return Ok();
}

void Cluster::LeavePrimary() {
  if (!role_act_->status) {  // not flushed: the application goes on where it is
    StartApplication();
    return;
  }
  node(primary_).replica->device()->Close(opener_);
  role_act_ = Begin(primary_, "demote", node(primary_).replica->Demote());
  role_ = Role::kDemoting;
}

// --- acts of the faults ---

void Cluster::StartDisconnect(int index) {
  Node& own = node(index);
  if (!own.ready || own.act != nullptr) return;
  own.wants_connection = false;
  own.act = Begin(index, "disconnect", own.replica->Disconnect());
}

void Cluster::StartDetach(int index) {
  Node& own = node(index);
  if (!own.ready || own.act != nullptr) return;
  own.wants_disk = false;
  own.act = Begin(index, "detach", own.replica->Detach());
}

void Cluster::TryRefusedPromotion() {
  if (role_ != Role::kActive || refused_act_ != nullptr) return;
  const int index = 1 - primary_;
  if (!node(index).ready || !StateOf(index).connected() || !StateOf(primary_).connected()) return;
  refused_act_ = Begin(index, "promote beside a primary", node(index).replica->Promote(false));
  for (int i = 0; i < kNodes; ++i) {
    refused_disconnects_[static_cast<size_t>(i)] = node(i).disconnects;
  }
}

void Cluster::CheckRefusedPromotion() {
  if (refused_act_ == nullptr) return;
  if (Lost(*refused_act_)) {
    refused_act_.reset();
    return;
  }
  if (!refused_act_->done) return;
  const std::shared_ptr<Act> act = std::move(refused_act_);
  if (!act->status) {
    coverage_.Count(Situation::kRefusedPromotion);
    return;
  }
  if (primary_ == -1 && role_ == Role::kNone && (holders_ & BitOf(act->node)) != 0 &&
      !node(act->node).suspect) {
    role_act_ = act;  // the primary crashed meanwhile: this is a takeover
    OnPromoted();
    return;
  }
  bool interrupted = primary_ == -1;
  for (int i = 0; i < kNodes; ++i) {
    interrupted |= refused_disconnects_[static_cast<size_t>(i)] != node(i).disconnects;
  }
  if (!interrupted) {
    world_.Fail("a node became primary beside a connected one: " + DescribeState());
    return;
  }
  // Out of each other's sight both could become primary: the operator's mistake, undone at once.
  node(act->node).discard_on_connect = true;
  node(act->node).act = Begin(act->node, "demote", node(act->node).replica->Demote());
}

void Cluster::SetActivityLogHandler(std::function<void(int)> on_write) {
  on_al_write_ = std::move(on_write);
}

}  // namespace umblock::sim
