// SimWorld: one simulated world — its time, its events, its nodes and their network — that unfolds
// from a seed and from nothing else.
//
// Events run one at a time in the order of (time, tiebreak drawn from the seed). Everything that
// happens is mixed into hash(): two runs of one seed have equal hashes, or something in the engine
// or the harness looked at the real world. A failure (an oracle's, or an event storm) is recorded
// once and stops the run. Threading: one thread; worlds are independent of each other.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/log.h"
#include "engine/runtime/sim/random.h"
#include "engine/runtime/time.h"

namespace umblock {

struct SimIncarnation;
class SimNetwork;
class SimNode;
struct SimNodeOptions;

// True time since the world began. Nodes read clocks of their own, which differ from it.
using SimTime = Duration;

enum class SimEventKind : uint8_t { kStep, kTimer, kDisk, kNetwork, kBlocking, kHarness };

class SimWorld {
 public:
  using Fn = std::move_only_function<void()>;

  explicit SimWorld(uint64_t seed);
  SimWorld(const SimWorld&) = delete;
  SimWorld& operator=(const SimWorld&) = delete;
  // Nodes that still run are dropped like crashed ones: nothing of theirs is destructed.
  ~SimWorld();

  uint64_t seed() const { return seed_; }
  SimTime now() const { return now_; }
  // Chance for whatever has no stream of its own.
  SimRandom& random() { return random_; }
  // A stream of its own, the same for the same seed and tag.
  SimRandom Stream(uint64_t tag) const { return SimRandom(SimMix(seed_, tag)); }
  SimNetwork& network() { return *network_; }

  SimNode* AddNode(SimNodeOptions options);
  const std::vector<std::unique_ptr<SimNode>>& nodes() const { return nodes_; }

  // `owner`: the event is skipped once that incarnation is dead.
  void At(SimTime when, SimEventKind kind, Fn fn, SimIncarnation* owner = nullptr);
  void After(Duration delay, SimEventKind kind, Fn fn, SimIncarnation* owner = nullptr) {
    At(now_ + delay, kind, std::move(fn), owner);
  }
  // Runs before any other event, once the current one has returned.
  void Soon(Fn fn) { soon_.push_back(std::move(fn)); }
  bool interrupted() const { return !soon_.empty() || failed_; }

  // Runs one event. False if there is none, or the world has failed.
  bool Step();
  // Until true time `until`. False if the world has failed.
  bool Run(SimTime until);
  bool RunFor(Duration duration) { return Run(now_ + duration); }
  // Until `holds`, looked at after every event. False if `bound` passed or the world has failed.
  bool RunUntil(const std::function<bool()>& holds, Duration bound);

  // Mixes what happened into the hash.
  void Note(uint64_t a, uint64_t b = 0) { hash_ = SimMix(hash_ ^ a, b); }
  void Note(std::string_view text);
  uint64_t hash() const { return hash_; }
  uint64_t events() const { return events_; }

  // Keeps the first failure; later ones are consequences.
  void Fail(std::string what);
  bool failed() const { return failed_; }
  const std::string& failure() const { return failure_; }

  // Where the nodes' log lines go: "12.345678 alfa: line". By default the last few hundred are
  // kept for a failure report.
  void set_log_level(LogLevel level) { log_level_ = level; }
  LogLevel log_level() const { return log_level_; }
  void set_log_to_stderr(bool on) { log_to_stderr_ = on; }
  void Log(LogLevel level, std::string_view who, std::string_view line);
  std::vector<std::string> recent_log() const;

 private:
  struct Event {
    SimTime when;
    uint64_t tiebreak;
    uint64_t sequence;
    SimEventKind kind;
    SimIncarnation* owner;
    Fn fn;
  };
  static bool Later(const Event& a, const Event& b);
  void CheckStorm();

  const uint64_t seed_;
  SimRandom random_;
  SimRandom tiebreaks_;
  SimTime now_{};
  uint64_t sequence_ = 0;
  uint64_t events_ = 0;
  uint64_t hash_ = 0;
  SimTime storm_since_{};
  uint64_t storm_events_ = 0;
  bool failed_ = false;
  std::string failure_;
  std::vector<Event> heap_;
  std::vector<Fn> soon_;
  std::unique_ptr<SimNetwork> network_;
  std::vector<std::unique_ptr<SimNode>> nodes_;

  LogLevel log_level_ = LogLevel::kDebug;
  bool log_to_stderr_ = false;
  std::vector<std::string> log_;
  size_t log_next_ = 0;
};

// Keeps an object of a dead incarnation for ever, reachable, so that its destructor never runs and
// the leak checker knows where it went.
void SimBury(std::shared_ptr<void> object);
void SimBury(SimWorld::Fn fn);

}  // namespace umblock
