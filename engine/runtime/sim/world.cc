#include "engine/runtime/sim/world.h"

#include <algorithm>
#include <cstdio>

#include "engine/runtime/sim/network.h"
#include "engine/runtime/sim/node.h"

namespace umblock {
namespace {

constexpr size_t kLogLines = 400;
// More events than this within a millisecond of simulated time do not come from work.
constexpr uint64_t kStormEvents = 2'000'000;
constexpr Duration kStormWindow = 1ms;

// The dead of all worlds. Process-wide on purpose: what lies here must outlive every world.
struct Graveyard {
  std::vector<std::shared_ptr<void>> objects;
  std::vector<SimWorld::Fn> events;
};
Graveyard& TheGraveyard() {
  static auto* graveyard = new Graveyard;
  return *graveyard;
}

}  // namespace

void SimBury(std::shared_ptr<void> object) { TheGraveyard().objects.push_back(std::move(object)); }
void SimBury(SimWorld::Fn fn) { TheGraveyard().events.push_back(std::move(fn)); }

SimWorld::SimWorld(uint64_t seed)
    : seed_(seed), random_(SimMix(seed, 1)), tiebreaks_(SimMix(seed, 2)), hash_(seed) {
  network_ = std::make_unique<SimNetwork>(*this);
}

SimWorld::~SimWorld() {
  for (const auto& node : nodes_) node->Abandon();
  for (Event& event : heap_) SimBury(std::move(event.fn));
  for (Fn& fn : soon_) SimBury(std::move(fn));
}

SimNode* SimWorld::AddNode(SimNodeOptions options) {
  nodes_.push_back(
      std::make_unique<SimNode>(*this, static_cast<int>(nodes_.size()), std::move(options)));
  return nodes_.back().get();
}

bool SimWorld::Later(const Event& a, const Event& b) {
  if (a.when != b.when) return a.when > b.when;
  if (a.tiebreak != b.tiebreak) return a.tiebreak > b.tiebreak;
  return a.sequence > b.sequence;
}

void SimWorld::At(SimTime when, SimEventKind kind, Fn fn, SimIncarnation* owner) {
  heap_.push_back(
      {std::max(when, now_), tiebreaks_.Next(), sequence_++, kind, owner, std::move(fn)});
  std::push_heap(heap_.begin(), heap_.end(), Later);
}

bool SimWorld::Step() {
  if (failed_) return false;
  while (!soon_.empty() && !failed_) {
    Fn fn = std::move(soon_.front());
    soon_.erase(soon_.begin());
    fn();
  }
  if (failed_ || heap_.empty()) return false;
  std::pop_heap(heap_.begin(), heap_.end(), Later);
  Event event = std::move(heap_.back());
  heap_.pop_back();
  now_ = event.when;
  ++events_;
  CheckStorm();
  if (event.owner != nullptr && !event.owner->alive) {
    SimBury(std::move(event.fn));
    return !failed_;
  }
  Note(static_cast<uint64_t>(event.when.count()),
       static_cast<uint64_t>(event.kind) |
           (event.owner != nullptr ? event.owner->id << 8 : uint64_t{0}));
  event.fn();
  while (!soon_.empty() && !failed_) {
    Fn fn = std::move(soon_.front());
    soon_.erase(soon_.begin());
    fn();
  }
  return !failed_;
}

void SimWorld::CheckStorm() {
  if (now_ - storm_since_ >= kStormWindow) {
    storm_since_ = now_;
    storm_events_ = 0;
  }
  if (++storm_events_ > kStormEvents) {
    Fail(fmt::format("event storm: more than {} events within 1 ms of simulated time",
                     kStormEvents));
  }
}

bool SimWorld::Run(SimTime until) {
  while (!failed_ && !(heap_.empty() && soon_.empty()) &&
         (!soon_.empty() || heap_.front().when <= until)) {
    Step();
  }
  if (!failed_) now_ = std::max(now_, until);
  return !failed_;
}

bool SimWorld::RunUntil(const std::function<bool()>& holds, Duration bound) {
  const SimTime until = now_ + bound;
  while (!failed_) {
    if (holds()) return true;
    if (heap_.empty() && soon_.empty()) return false;
    if (soon_.empty() && heap_.front().when > until) break;
    Step();
  }
  return !failed_ && holds();
}

void SimWorld::Note(std::string_view text) {
  uint64_t value = text.size();
  for (char c : text) value = (value ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  Note(value, 3);
}

void SimWorld::Fail(std::string what) {
  if (failed_) return;
  failed_ = true;
  failure_ = std::move(what);
}

void SimWorld::Log(LogLevel level, std::string_view who, std::string_view line) {
  Note(line);
  const int64_t us = now_.count() / 1000;
  std::string text = fmt::format("{:4}.{:06} {} {}: {}", us / 1000000, us % 1000000,
                                 LogLevelName(level), who, line);
  if (log_to_stderr_) std::fprintf(stderr, "%s\n", text.c_str());
  if (log_.size() < kLogLines) {
    log_.push_back(std::move(text));
  } else {
    log_[log_next_] = std::move(text);
    log_next_ = (log_next_ + 1) % kLogLines;
  }
}

std::vector<std::string> SimWorld::recent_log() const {
  std::vector<std::string> lines(log_.begin() + static_cast<ptrdiff_t>(log_next_), log_.end());
  lines.insert(lines.end(), log_.begin(), log_.begin() + static_cast<ptrdiff_t>(log_next_));
  return lines;
}

}  // namespace umblock
