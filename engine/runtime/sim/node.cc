#include "engine/runtime/sim/node.h"

#include <algorithm>

#include "engine/base/assert.h"
#include "engine/runtime/sim/network.h"

namespace umblock {

SimDisk* SimFileSystem::Create(const std::string& path, const SimDiskOptions& options) {
  auto& slot = disks_[path];
  UMBLOCK_ASSERT(slot == nullptr, "a simulated disk is created once");
  slot = std::make_unique<SimDisk>(world_, node_ + ":" + path, options);
  return slot.get();
}

SimDisk* SimFileSystem::Find(const std::string& path) const {
  auto found = disks_.find(path);
  return found == disks_.end() ? nullptr : found->second.get();
}

SimNode::SimNode(SimWorld& world, int index, SimNodeOptions options)
    : world_(world), index_(index), options_(std::move(options)), files_(world, options_.name) {
  SimRandom random = world.Stream(SimMix(0x6e6f6465, static_cast<uint64_t>(index)));
  clock_offset_ = random.Between(Duration(1s), Duration(100000s));
  clock_drift_ppm_ = static_cast<int64_t>(random.Below(401)) - 200;
}

SimNode::~SimNode() {
  for (const auto& incarnation : incarnations_) {
    SimBury(std::make_shared<std::vector<Completion*>>(std::move(incarnation->lost)));
  }
}

bool SimNode::HasAddress(const SocketAddress& address) const {
  return std::any_of(options_.addresses.begin(), options_.addresses.end(),
                     [&](const SocketAddress& own) { return own.SameHost(address); });
}

void SimNode::Start(Factory factory) {
  factory_ = std::move(factory);
  Restart();
}

void SimNode::Restart() {
  UMBLOCK_ASSERT(incarnation_ == nullptr, "a node is started when it is down");
  auto incarnation = std::make_unique<SimIncarnation>();
  incarnation->id =
      (static_cast<uint64_t>(index_) << 32) | static_cast<uint64_t>(incarnations_.size() + 1);
  incarnation->node = this;
  incarnation_ = incarnation.get();
  incarnations_.push_back(std::move(incarnation));
  steps_to_crash_ = 0;
  world_.Note(incarnation_->id, 11);
  if (!powered_) {
    powered_ = true;
    world_.network().OnPowerChanged(*this);
  }
  factory_(*this);
}

SimReactor* SimNode::AddReactor() {
  const uint64_t tag = SimMix(incarnation_->id, incarnation_->reactors.size());
  auto* reactor = Make<SimReactor>(*this, *incarnation_, tag, clock_offset_, clock_drift_ppm_);
  incarnation_->reactors.push_back(reactor);
  return reactor;
}

void SimNode::CrashSoon(SimCrash kind) {
  SimIncarnation* doomed = incarnation_;
  world_.Soon([this, doomed, kind] {
    if (incarnation_ == doomed && doomed != nullptr) Crash(kind);
  });
}

void SimNode::CrashAfterSteps(uint64_t steps, SimCrash kind) {
  steps_to_crash_ = steps + 1;
  planned_crash_ = kind;
}

bool SimNode::CountStep() {
  if (steps_to_crash_ == 0 || --steps_to_crash_ != 0) return false;
  CrashSoon(planned_crash_);
  return true;
}

void SimNode::Crash(SimCrash kind) {
  if (incarnation_ == nullptr) return;
  world_.Note(incarnation_->id, 12);
  if (crash_handler_ != nullptr) crash_handler_(kind);
  ++crashes_;
  SimIncarnation* dead = incarnation_;
  dead->alive = false;
  const bool power_cut = kind == SimCrash::kPowerCut;
  if (power_cut) powered_ = false;
  for (const auto& [path, disk] : files_.disks()) {
    if (power_cut) {
      disk->PowerCut();
    } else {
      disk->ProcessKilled();
    }
  }
  world_.network().OnCrash(*dead, power_cut);
  if (power_cut) world_.network().OnPowerChanged(*this);
  Bury();
}

void SimNode::Bury() {
  for (std::shared_ptr<void>& object : incarnation_->objects) SimBury(std::move(object));
  SimBury(std::make_shared<std::vector<Completion*>>(std::move(incarnation_->lost)));
  incarnation_->objects.clear();
  incarnation_->reactors.clear();
  incarnation_ = nullptr;
}

void SimNode::Abandon() {
  if (incarnation_ == nullptr) return;
  incarnation_->alive = false;
  for (const auto& [path, disk] : files_.disks()) disk->Abandon();
  Bury();
}

void SimNode::Shutdown() {
  UMBLOCK_ASSERT(incarnation_ != nullptr, "only what runs is shut down");
  world_.Note(incarnation_->id, 13);
  SimIncarnation* ended = incarnation_;
  while (!ended->objects.empty()) ended->objects.pop_back();
  ended->reactors.clear();
  ended->alive = false;
  incarnation_ = nullptr;
}

}  // namespace umblock
