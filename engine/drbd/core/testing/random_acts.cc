#include "engine/drbd/core/testing/random_acts.h"

#include <algorithm>
#include <cstdio>

namespace umblock::drbd::testing {
namespace {

constexpr uint64_t kBlock = 4096;

ClusterOptions OptionsFor(uint64_t seed) {
  ClusterOptions options;
  options.seed = seed;
  options.disk.al_extents = 67;
  return options;
}

}  // namespace

RandomActs::RandomActs(uint32_t mode, uint64_t seed, bool trace)
    : mode_(mode), random_(SimMix(seed, mode)), bench_(OptionsFor(seed)), trace_(trace) {}

void RandomActs::Note(const std::string& text) {
  if (!trace_) return;
  const double seconds = static_cast<double>(bench_.world().now().count()) / 1e9;
  fmt::print(stderr, "act {:.6f} {}\n", seconds, text);
}

void RandomActs::Wrong(const std::string& what) {
  if (!wrong_.empty()) return;
  wrong_ = what;
  for (int i = 0; i < 2; ++i) {
    if (Up(i)) wrong_ += bench_.Describe(i);
  }
  Note("wrong: " + wrong_);
}

std::string RandomActs::Run(int acts) {
  bench_.BringUpPrimary();
  for (int i = 0; i < acts && wrong_.empty(); ++i) {
    Act();
    static constexpr uint64_t kPauses[] = {0, 5, 50, 200, 1000, 20000, 700000};
    const uint64_t longest = kPauses[Below(std::size(kPauses))];
    bench_.RunFor(std::chrono::microseconds(Below(longest + 1)));
    Collect();
    if (Below(5) == 0 && AtRest()) CheckData("meanwhile");
  }
  if (wrong_.empty()) Heal();
  return wrong_;
}

// ------------------------------------------------------------------
// What is done
// ------------------------------------------------------------------

void RandomActs::Act() {
  Collect();
  const int node = static_cast<int>(Below(2));
  const uint64_t what = Below(32);
  if (what < 8) {
    SubmitWrites();
  } else if (what < 10) {
    SubmitFlush();
  } else if (what < 18) {
    ActOnDisk(what, node);
  } else if (what < 24) {
    ActOnLink(what, node);
  } else if (what < 25) {
    Crash(node);
  } else if (what < 27) {
    if (!Up(node)) Boot(node);
  } else if (what < 28) {
    if (!Has(kSuspends) || !Up(primary_)) return;
    const bool suspend = Below(2) == 0;
    Note(fmt::format("{} {}", suspend ? "suspend" : "resume", primary_));
    Resource& resource = bench_.resource(primary_);
    bench_.Start(primary_, suspend ? resource.SuspendIo() : resource.ResumeIo());
  } else if (what < 30) {
    BreakDisk(node);
  } else {
    ChangeRoles();
  }
}

void RandomActs::ActOnDisk(uint64_t what, int node) {
  const int peer = 1 - node;
  if (!Up(node)) return;
  Resource& resource = bench_.resource(node);
  if (what < 13) {
    const bool force = Below(4) == 0;
    Note(fmt::format("detach {}{}", node, force ? " by force" : ""));
    bench_.Start(node, resource.Detach(0, force));
  } else if (what < 17) {
    Note(fmt::format("attach {}", node));
    bench_.Start(node,
                 resource.Attach({.volume = 0, .backing = bench_.program(node).backends[0].get()}));
  } else if (Has(kInvalidates)) {
    const bool remote = Below(2) == 0;
    Note(fmt::format("invalidate{} {}", remote ? "-remote" : "", node));
    bench_.Start(node, remote ? resource.InvalidateRemote(0, peer) : resource.Invalidate(0, peer));
  }
}

void RandomActs::ActOnLink(uint64_t what, int node) {
  const int peer = 1 - node;
  if (what < 20) {
    Note("cut");
    for (auto& link : bench_.world().network().Connections(bench_.node(0), bench_.node(1))) {
      if (Below(2) == 0) link->Cut();
    }
  } else if (what < 22) {
    for (int i = 0; i < 2; ++i) {
      if (!Up(i)) continue;
      Note(fmt::format("connect {}", i));
      bench_.Start(i, bench_.resource(i).Connect(1 - i, {}));
    }
  } else if (!Up(node)) {
    return;
  } else if (what < 23) {
    const bool force = Below(3) == 0;
    Note(fmt::format("disconnect {}{}", node, force ? " by force" : ""));
    bench_.Start(node, bench_.resource(node).Disconnect(peer, force));
  } else {
    const bool pause = Below(2) == 0;
    Note(fmt::format("{} resync {}", pause ? "pause" : "resume", node));
    Resource& resource = bench_.resource(node);
    bench_.Start(node, pause ? resource.PauseSync(0, peer) : resource.ResumeSync(0, peer));
  }
}

void RandomActs::SubmitWrites() {
  if (!IsPrimary(primary_)) return;
  const uint64_t count = 1 + Below(4);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t number = Below(2) == 0 ? Below(8) : Below(15) * 1024 + Below(4);
    Block& block = blocks_[number];
    if (block.busy) continue;
    block.busy = true;
    block.values.push_back(next_value_);
    Note(fmt::format("write {} to block {}", next_value_, number));
    FrontIo* io = bench_.StartWrite(primary_, number * kBlock, kBlock, next_value_);
    writes_.push_back({io, number, block.values.size() - 1});
    next_value_ = static_cast<uint8_t>(next_value_ % 255 + 1);
  }
}

void RandomActs::SubmitFlush() {
  if (!IsPrimary(primary_)) return;
  Note("flush");
  Flush flush{.io = nullptr, .covers = {}};
  for (const auto& [number, block] : blocks_) flush.covers[number] = block.acknowledged;
  flush.io = bench_.Submit(primary_, IoOp::kFlush, 0, 0);
  flushes_.push_back(std::move(flush));
}

void RandomActs::Crash(int node) {
  if (!Has(kCrashes) || !Up(node)) return;
  const bool power = Has(kPowerCuts) && Below(2) == 0;
  Note(fmt::format("{} {}", power ? "power cut" : "crash", node));
  if (power) {
    // What was acknowledged and not flushed may be gone with the cache: no later flush covers it.
    power_was_cut_ = true;
    Collect();
    for (auto& [number, block] : blocks_) block.acknowledged = block.stable;
  }
  bench_.node(node).Crash(power ? SimCrash::kPowerCut : SimCrash::kProcessKill);
  if (node == primary_) ForgetUnanswered();
}

void RandomActs::Boot(int node) {
  Note(fmt::format("boot {}", node));
  bench_.disk(node).ClearFaults();
  bench_.Boot(node);
}

void RandomActs::BreakDisk(int node) {
  if (!Has(kDiskErrors) || !Up(node)) return;
  static constexpr SimDiskOp kOps[] = {SimDiskOp::kWrite, SimDiskOp::kWrite, SimDiskOp::kWrite,
                                       SimDiskOp::kRead, SimDiskOp::kSync};
  const SimDiskOp op = kOps[Below(std::size(kOps))];
  const auto skip = static_cast<uint32_t>(Below(3));
  Note(fmt::format("disk error {}, operation {} after {}", node, static_cast<int>(op), skip));
  bench_.disk(node).FailNext(op, EIO, 1, skip);
}

// Only as a careful administrator would: both there and UpToDate, nothing under way. A Primary that
// came back from a crash is made Primary again.
void RandomActs::ChangeRoles() {
  auto calm = [this] { return Up(0) && Up(1) && AllAnswered() && bench_.AllUpToDate(); };
  if (!calm()) return;
  const bool has_primary = IsPrimary(primary_);
  if (has_primary && !Has(kRoles)) return;
  if (has_primary && bench_.status(primary_).suspended != "no") return;
  if (has_primary && !Finish(primary_, "demote", bench_.resource(primary_).Demote(false))) return;
  if (!calm()) return;
  const int chosen = Has(kRoles) ? static_cast<int>(Below(2)) : primary_;
  if (Finish(chosen, "promote", bench_.resource(chosen).Promote(false))) primary_ = chosen;
}

bool RandomActs::Finish(int node, const char* what, Task<Status> task) {
  Note(fmt::format("{} {}", what, node));
  auto result = bench_.Start(node, std::move(task));
  if (!bench_.RunUntil([&] { return result->has_value(); }, 120s)) {
    Wrong(fmt::format("{} of node {} does not end", what, node));
    return false;
  }
  Note(fmt::format("{} {}: {}", what, node, Text(**result)));
  return result->value().has_value();
}

// ------------------------------------------------------------------
// What was promised
// ------------------------------------------------------------------

void RandomActs::Collect() {
  for (Write& write : writes_) {
    if (write.taken || !write.io->answered()) continue;
    write.taken = true;
    Block& block = blocks_[write.block];
    block.busy = false;
    if (write.io->ok()) block.acknowledged = write.index;
  }
  for (Flush& flush : flushes_) {
    if (flush.taken || !flush.io->answered()) continue;
    flush.taken = true;
    if (!flush.io->ok()) continue;
    for (auto& [number, index] : flush.covers) {
      blocks_[number].stable = std::max(blocks_[number].stable, index);
    }
  }
}

void RandomActs::ForgetUnanswered() {
  Collect();
  for (Write& write : writes_) {
    if (!write.taken) blocks_[write.block].busy = false;
    write.taken = true;
  }
  for (Flush& flush : flushes_) flush.taken = true;
}

bool RandomActs::AllAnswered() {
  Collect();
  return std::all_of(writes_.begin(), writes_.end(), [](const Write& w) { return w.taken; }) &&
         std::all_of(flushes_.begin(), flushes_.end(), [](const Flush& f) { return f.taken; });
}

// How many blocks do not have what they must have.
size_t RandomActs::Missing(int node, std::string* which) {
  size_t missing = 0;
  for (const auto& [number, block] : blocks_) {
    const size_t floor = power_was_cut_ ? block.stable : block.acknowledged;
    const uint8_t now = bench_.ByteOnDisk(node, number * kBlock);
    const auto allowed = block.values.begin() + static_cast<ptrdiff_t>(floor);
    if (std::find(allowed, block.values.end(), now) != block.values.end()) continue;
    ++missing;
    if (which != nullptr) *which += fmt::format(" block {} has {} not {};", number, now, *allowed);
  }
  return missing;
}

// Both call their disks UpToDate and nothing is under way.
bool RandomActs::AtRest() {
  if (!Up(0) || !Up(1) || !AllAnswered() || !bench_.AllUpToDate()) return false;
  for (int i = 0; i < 2; ++i) {
    const PeerVolumeStatus of = bench_.peer_volume(i);
    if (of.out_of_sync_bytes != 0 || of.pending != 0 || of.unacked != 0) return false;
  }
  return true;
}

void RandomActs::CheckData(const char* when) {
  auto equal = bench_.Equal(0, 1);
  if (!equal) Wrong(fmt::format("{}: both are UpToDate, but {}", when, equal.message()));
  std::string which;
  if (Missing(0, &which) != 0) Wrong(fmt::format("{}: lost:{}", when, which));
}

// ------------------------------------------------------------------
// The end
// ------------------------------------------------------------------

// Everything is repaired, attached and connected, again and again.
bool RandomActs::Settles() {
  for (int round = 0; round < 8; ++round) {
    for (int i = 0; i < 2; ++i) {
      if (!Up(i)) Boot(i);
    }
    for (int i = 0; i < 2; ++i) {
      bench_.Start(i, bench_.resource(i).ResumeIo());
      bench_.Start(i, bench_.resource(i).ResumeSync(0, 1 - i));
      bench_.Start(i, bench_.resource(i).Attach(
                          {.volume = 0, .backing = bench_.program(i).backends[0].get()}));
      bench_.Start(i, bench_.resource(i).Connect(1 - i, {}));
    }
    if (!bench_.RunUntil([&] { return bench_.AllUpToDate(); }, 40s)) continue;
    bench_.RunFor(2s);
    if (bench_.AllUpToDate()) return true;
  }
  return false;
}

void RandomActs::Heal() {
  Note("heal");
  for (int i = 0; i < 2; ++i) bench_.disk(i).ClearFaults();
  if (!Settles()) TakeTheWayOut();
  if (!wrong_.empty()) return;
  if (!bench_.RunUntil([&] { return AllAnswered(); }, 120s)) {
    Wrong("a request does not end");
    return;
  }
  bench_.RunFor(5s);
  if (!AtRest()) {
    Wrong("never at rest");
    return;
  }
  CheckData("at the end");
}

int RandomActs::NodeWithMost() { return Missing(1, nullptr) < Missing(0, nullptr) ? 1 : 0; }

// docs/operations.md, "Both disks are Outdated" and "A Primary without data". Allowed only where
// nothing in reach is known to be current.
void RandomActs::TakeTheWayOut() {
  const bool current =
      bench_.disk_state(0) == DiskState::kUpToDate || bench_.disk_state(1) == DiskState::kUpToDate;
  const bool diskless_primary =
      IsPrimary(primary_) && bench_.disk_state(primary_) < DiskState::kAttaching;
  if (current && !diskless_primary) {
    Wrong("they do not find together");
    return;
  }
  needed_choice_ = true;
  Note("the way out" + bench_.Describe(0) + bench_.Describe(1));
  for (int i = 0; i < 2; ++i) {
    // Refused while a connect is under way, as a refused connect is again and again.
    for (int attempt = 0; attempt < 10 && IsPrimary(i) && wrong_.empty(); ++attempt) {
      if (!Finish(i, "demote by force", bench_.resource(i).Demote(true))) bench_.RunFor(333ms);
    }
    if (IsPrimary(i)) Wrong("demote by force is refused");
  }
  if (!wrong_.empty() || Settles()) return;
  // An attach beside a peer with other changes is refused.
  for (int i = 0; i < 2; ++i) {
    Finish(i, "disconnect", bench_.resource(i).Disconnect(1 - i, true));
    Finish(
        i, "attach",
        bench_.resource(i).Attach({.volume = 0, .backing = bench_.program(i).backends[0].get()}));
  }
  const int chosen = NodeWithMost();
  if (!Finish(chosen, "promote by force", bench_.resource(chosen).Promote(true))) {
    Wrong("promote by force is refused");
    return;
  }
  primary_ = chosen;
  if (Settles()) return;
  const int other = 1 - chosen;
  Finish(other, "disconnect", bench_.resource(other).Disconnect(chosen, true));
  Finish(other, "attach",
         bench_.resource(other).Attach(
             {.volume = 0, .backing = bench_.program(other).backends[0].get()}));
  Finish(other, "connect", bench_.resource(other).Connect(chosen, {.discard_my_data = true}));
  // The one that is chosen may have given up, too.
  Finish(chosen, "connect", bench_.resource(chosen).Connect(other, {}));
  bench_.RunFor(5s);
  if (!Settles()) Wrong("the way out does not lead out");
}

}  // namespace umblock::drbd::testing
