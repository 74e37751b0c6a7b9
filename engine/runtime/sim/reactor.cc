#include "engine/runtime/sim/reactor.h"

#include "engine/runtime/sim/file.h"
#include "engine/runtime/sim/network.h"
#include "engine/runtime/sim/node.h"

namespace umblock {
namespace {

// A turn that calls more completions than this does not end by itself.
constexpr uint64_t kMaxCompletionsPerTurn = 200'000;
constexpr uint64_t kMaxCompletionsPerStep = 6;

// What a clock with this drift shows `true_ns` after the world began; never runs backwards.
int64_t Drifted(int64_t true_ns, int64_t drift_ppm) {
  return true_ns + static_cast<int64_t>(static_cast<__int128>(true_ns) * drift_ppm / 1'000'000);
}

}  // namespace

void SimCompletionQueue::Push(Completion* completion) {
  completion->next = nullptr;
  (tail_ != nullptr ? tail_->next : head_) = completion;
  tail_ = completion;
}

Completion* SimCompletionQueue::Pop() {
  Completion* first = head_;
  if (first == nullptr) return nullptr;
  head_ = first->next;
  if (head_ == nullptr) tail_ = nullptr;
  first->next = nullptr;
  return first;
}

void SimCompletionQueue::Take(SimCompletionQueue& other) {
  while (Completion* completion = other.Pop()) Push(completion);
}

bool SimReactor::NodeLogger::Enabled(LogLevel level) const {
  return level >= reactor_.world_.log_level();
}

void SimReactor::NodeLogger::Write(LogLevel level, std::string_view line) {
  reactor_.world_.Log(level, reactor_.node_.name(), line);
}

SimReactor::SimReactor(SimNode& node, SimIncarnation& incarnation, uint64_t tag,
                       Duration clock_offset, int64_t clock_drift_ppm)
    : node_(node),
      incarnation_(incarnation),
      world_(node.world()),
      random_(world_.Stream(SimMix(tag, 21))),
      schedule_(world_.Stream(SimMix(tag, 22))),
      clock_offset_(clock_offset),
      clock_drift_ppm_(clock_drift_ppm),
      logger_(*this) {
  buffers_ = std::make_unique<BufferPool>(*this, kBufferLimit);
  group_ = std::make_unique<TaskGroup>(*this);
}

SimReactor::~SimReactor() = default;

bool SimReactor::alive() const { return incarnation_.alive; }

Time SimReactor::Now() const {
  return Time(clock_offset_ + Duration(Drifted(world_.now().count(), clock_drift_ppm_)));
}

SimTime SimReactor::TrueTimeOf(Time local) const {
  const int64_t wanted = (local.time_since_epoch() - clock_offset_).count();
  int64_t at = wanted;
  for (int i = 0; i < 4; ++i) at += wanted - Drifted(at, clock_drift_ppm_);
  while (Drifted(at, clock_drift_ppm_) < wanted) ++at;  // never early
  return SimTime(at);
}

Duration SimReactor::StepCost() {
  return schedule_.Between(Duration(100ns), Duration(900ns)) * node_.slowdown();
}

void SimReactor::Post(Completion* completion, int32_t result) {
  completion->result = result;
  ready_.Push(completion);
  Wake();
}

void SimReactor::PostFromAnyThread(Completion* completion, int32_t result) {
  Deliver(completion, result);
}

void SimReactor::PostAtTurnEnd(Completion* completion) {
  turn_end_.Push(completion);
  Wake();
}

void SimReactor::Deliver(Completion* completion, int32_t result) {
  if (!alive()) {
    incarnation_.lost.push_back(completion);
    return;
  }
  completion->result = result;
  incoming_.Push(completion);
  Wake();
}

void SimReactor::Arm(Timer* timer, Time deadline) {
  timers_.Arm(timer, deadline);
  ScheduleTimer();
}

void SimReactor::ScheduleStep(Duration delay) {
  step_scheduled_ = true;
  world_.After(delay, SimEventKind::kStep, [this] { Step(); }, &incarnation_);
}

void SimReactor::Wake() {
  if (step_scheduled_ || in_turn_) return;
  ScheduleStep(schedule_.Skewed(Duration(500ns), Duration(30us)) * node_.slowdown());
}

void SimReactor::Step() {
  step_scheduled_ = false;
  if (node_.CountStep()) return;
  if (!in_turn_) {
    in_turn_ = true;
    completions_in_turn_ = 0;
    ++turns_;
    ready_.Take(incoming_);
  }
  uint64_t budget = 1 + schedule_.Below(kMaxCompletionsPerStep);
  while (budget-- != 0) {
    if (!RunOne()) {
      EndTurn();
      return;
    }
    if (world_.interrupted()) break;
  }
  if (!step_scheduled_) ScheduleStep(StepCost());
}

bool SimReactor::RunOne() {
  if (++completions_in_turn_ > kMaxCompletionsPerTurn) {
    world_.Fail(fmt::format("{}: a turn called {} completions and does not end", node_.name(),
                            kMaxCompletionsPerTurn));
    return false;
  }
  if (Completion* completion = ready_.Pop()) {
    completion->fn(completion, completion->result);
    return true;
  }
  if (timers_.FireDue(Now(), 1) != 0) return true;
  if (Completion* completion = turn_end_.Pop()) {
    completion->fn(completion, 0);
    return true;
  }
  return false;
}

void SimReactor::EndTurn() {
  in_turn_ = false;
  if (!incoming_.empty()) Wake();
  ScheduleTimer();
}

void SimReactor::ScheduleTimer() {
  std::optional<Time> deadline = timers_.NextDeadline();
  if (!deadline) return;
  const SimTime at = TrueTimeOf(*deadline);
  if (timer_scheduled_ && timer_at_ <= at) return;
  timer_scheduled_ = true;
  timer_at_ = at;
  world_.At(
      at, SimEventKind::kTimer,
      [this, at] {
        if (timer_at_ != at) return;  // an earlier one took its place
        timer_scheduled_ = false;
        if (std::optional<Time> next = timers_.NextDeadline(); next && *next <= Now()) {
          Wake();
        } else {
          ScheduleTimer();
        }
      },
      &incarnation_);
}

void SimReactor::StartBlocking(BlockingWork* work) {
  world_.After(
      schedule_.Skewed(Duration(10us), Duration(5ms)), SimEventKind::kBlocking,
      [this, work] { Deliver(work->done, work->Run()); }, &incarnation_);
}

Task<Result<std::unique_ptr<File>>> SimReactor::OpenFile(OpenFileRequest request) {
  co_await Sleep(*this, schedule_.Skewed(Duration(20us), Duration(2ms)));
  co_return SimFile::Open(*this, request);
}

Task<Result<std::unique_ptr<Stream>>> SimReactor::Connect(ConnectRequest request,
                                                          CancelToken cancel) {
  return world_.network().Connect(*this, std::move(request), cancel);
}

Result<std::unique_ptr<Listener>> SimReactor::Listen(const ListenRequest& request) {
  return world_.network().Listen(*this, request);
}

}  // namespace umblock
