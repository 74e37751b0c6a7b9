// FaultDevice: a layer for tests that makes a device fail, dawdle, hang or tear a write, by rule.
//
// Rules are looked at in the order of their adding; the first one that fires decides. Chance comes
// from a seed, so that the same requests meet the same faults. Threading: the device's reactor.
#pragma once

#include <memory>
#include <vector>

#include "engine/block/device_base.h"
#include "engine/block/done_queue.h"

namespace umblock {

struct FaultRule {
  enum class Action : uint8_t {
    kError,  // fails with `error`; the device below sees nothing
    kDelay,  // reaches the device below `delay` later
    kTear,   // a write: the first `keep` bytes reach the device below, then it fails with `error`
    kHang,   // waits until Release; the device below sees nothing before
  };
  static constexpr uint8_t Bit(IoOp op) {
    return static_cast<uint8_t>(1u << static_cast<unsigned>(op));
  }
  static constexpr uint8_t kAllOps = 0x1f;
  static constexpr uint64_t kForEver = ~uint64_t{0};
  static constexpr uint64_t kRandomCut = ~uint64_t{0};

  Action action = Action::kError;
  uint8_t ops = kAllOps;  // Bit(IoOp) | …
  uint64_t begin = 0;     // bytes: requests that touch begin … end; a flush touches all
  uint64_t end = kForEver;
  uint64_t skip = 0;          // lets that many matching requests pass,
  uint64_t count = kForEver;  // then fires for at most that many,
  uint32_t per_mille = 1000;  // each with this chance
  int error = 5;              // positive errno; EIO
  Duration delay = 10ms;
  uint64_t keep = kRandomCut;  // bytes, a multiple of 512; kRandomCut: drawn, less than all
};

class FaultDevice final : public DeviceBase, private BlockDeviceObserver {
 public:
  FaultDevice(BlockDevice& below, uint64_t seed);
  // Nothing is in flight, hanging included.
  ~FaultDevice() override;

  void AddRule(const FaultRule& rule) { rules_.push_back({rule}); }
  void ClearRules() { rules_.clear(); }
  // Sends what hangs to the device below, in order, or fails it with `error`.
  void Release(int error = 0);
  size_t hanging() const { return hanging_.size(); }
  uint64_t faults() const { return faults_; }  // how often a rule fired
  uint64_t in_flight() const { return in_flight_; }

  void Submit(BlockIo* io) noexcept override;
  const BlockGeometry& geometry() const override { return below_.geometry(); }
  Access access() const override { return below_.access(); }
  std::string access_reason() const override { return below_.access_reason(); }

 private:
  struct State {
    FaultRule rule;
    uint64_t matched = 0;
    uint64_t fired = 0;
  };
  // A request that goes below changed or late.
  struct Passage : BlockIo, Timer {
    explicit Passage(FaultDevice* d);
    FaultDevice* device;
    BlockIo* original = nullptr;
    std::vector<iovec> part;
    int error = 0;  // whatever the device below says
  };

  void OnDeviceChanged() override { NotifyObservers(); }
  const FaultRule* Decide(const BlockIo& io);
  uint64_t Random();
  Passage* Pass(BlockIo* io);
  void Tear(BlockIo* io, const FaultRule& rule);
  void Give(Passage* passage);

  BlockDevice& below_;
  uint64_t random_;
  std::vector<State> rules_;
  std::vector<std::unique_ptr<Passage>> all_;
  std::vector<Passage*> free_;
  std::vector<Passage*> hanging_;
  uint64_t faults_ = 0;
  uint64_t in_flight_ = 0;
  DoneQueue failed_;
};

}  // namespace umblock
