#include "engine/block/layers/fault_device.h"

#include <algorithm>

#include "engine/base/assert.h"

namespace umblock {
namespace {

bool Touches(const FaultRule& rule, const BlockIo& io) {
  if ((rule.ops & FaultRule::Bit(io.op)) == 0) return false;
  if (io.op == IoOp::kFlush) return true;
  return io.offset < rule.end && io.offset + io.length > rule.begin;
}

}  // namespace

FaultDevice::Passage::Passage(FaultDevice* d)
    : BlockIo([](BlockIo* self, int below_error) noexcept {
        auto* passage = static_cast<Passage*>(self);
        BlockIo* io = passage->original;
        int outcome = passage->error != 0 ? passage->error : below_error;
        passage->device->Give(passage);
        io->done(io, outcome);
      }),
      Timer([](Timer* self) noexcept {
        auto* passage = static_cast<Passage*>(self);
        passage->device->below_.Submit(passage);
      }),
      device(d) {}

FaultDevice::FaultDevice(BlockDevice& below, uint64_t seed)
    : DeviceBase(below.reactor(), "faulty " + below.name()),
      below_(below),
      random_(seed),
      failed_(below.reactor()) {
  below_.AddObserver(this);
}

FaultDevice::~FaultDevice() {
  UMBLOCK_ASSERT(in_flight_ == 0, "nothing is in flight when a device goes");
  below_.RemoveObserver(this);
}

// SplitMix64.
uint64_t FaultDevice::Random() {
  uint64_t z = random_ += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

const FaultRule* FaultDevice::Decide(const BlockIo& io) {
  for (State& state : rules_) {
    const FaultRule& rule = state.rule;
    if (!Touches(rule, io) || state.matched++ < rule.skip || state.fired >= rule.count) continue;
    if (rule.action == FaultRule::Action::kTear && io.op != IoOp::kWrite) continue;
    if (rule.per_mille < 1000 && Random() % 1000 >= rule.per_mille) continue;
    ++state.fired;
    ++faults_;
    return &rule;
  }
  return nullptr;
}

FaultDevice::Passage* FaultDevice::Pass(BlockIo* io) {
  if (free_.empty()) {
    all_.push_back(std::make_unique<Passage>(this));
    free_.push_back(all_.back().get());
  }
  Passage* passage = free_.back();
  free_.pop_back();
  ++in_flight_;
  passage->original = io;
  passage->error = 0;
  passage->op = io->op;
  passage->fua = io->fua;
  passage->may_unmap = io->may_unmap;
  passage->offset = io->offset;
  passage->length = io->length;
  passage->iov = io->iov;
  return passage;
}

void FaultDevice::Give(Passage* passage) {
  free_.push_back(passage);
  --in_flight_;
}

void FaultDevice::Submit(BlockIo* io) noexcept {
  const FaultRule* rule = Decide(*io);
  if (rule == nullptr) return below_.Submit(Pass(io));
  switch (rule->action) {
    case FaultRule::Action::kError:
      return failed_.Push(io, rule->error);
    case FaultRule::Action::kDelay:
      return reactor().ArmIn(Pass(io), rule->delay);
    case FaultRule::Action::kTear:
      return Tear(io, *rule);
    case FaultRule::Action::kHang:
      return hanging_.push_back(Pass(io));
  }
}

void FaultDevice::Tear(BlockIo* io, const FaultRule& rule) {
  uint64_t keep = rule.keep;
  if (keep == FaultRule::kRandomCut) keep = Random() % (io->length / 512) * 512;
  keep = std::min(keep, io->length);
  if (keep == 0) return failed_.Push(io, rule.error);
  Passage* passage = Pass(io);
  passage->error = rule.error;
  passage->length = keep;
  passage->part.clear();
  for (const iovec& part : io->iov) {
    size_t n = std::min<uint64_t>(part.iov_len, keep);
    if (n == 0) break;
    passage->part.push_back({part.iov_base, n});
    keep -= n;
  }
  passage->iov = passage->part;
  below_.Submit(passage);
}

void FaultDevice::Release(int error) {
  std::vector<Passage*> released;
  released.swap(hanging_);
  for (Passage* passage : released) {
    if (error == 0) {
      below_.Submit(passage);
    } else {
      failed_.Push(passage->original, error);
      Give(passage);
    }
  }
}

}  // namespace umblock
