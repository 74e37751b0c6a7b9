// SimReactor: the Reactor interface on simulated time.
//
// A turn is cut into steps of a few completions each; every step is an event of its own, costs a
// little simulated time, and steps of different reactors are interleaved by the seed. So a crash
// can fall between any two completions. What finishes outside (disk, network) while a turn runs is
// seen in the next turn, as with a real completion queue.
#pragma once

#include <memory>

#include "engine/runtime/buffer_pool.h"
#include "engine/runtime/reactor.h"
#include "engine/runtime/sim/random.h"
#include "engine/runtime/sim/world.h"
#include "engine/runtime/sync.h"

namespace umblock {

// FIFO of Completions, linked through themselves.
class SimCompletionQueue {
 public:
  bool empty() const { return head_ == nullptr; }
  void Push(Completion* completion);
  Completion* Pop();  // nullptr if empty
  void Take(SimCompletionQueue& other);

 private:
  Completion* head_ = nullptr;
  Completion* tail_ = nullptr;
};

class SimReactor final : public Reactor {
 public:
  static constexpr size_t kBufferLimit = size_t{64} << 20;

  SimReactor(SimNode& node, SimIncarnation& incarnation, uint64_t tag, Duration clock_offset,
             int64_t clock_drift_ppm);
  ~SimReactor() override;

  Time Now() const override;
  void FillRandom(MutableBytes bytes) override { random_.Fill(bytes); }
  void Post(Completion* completion, int32_t result = 0) override;
  void PostFromAnyThread(Completion* completion, int32_t result = 0) override;
  void PostAtTurnEnd(Completion* completion) override;
  void Arm(Timer* timer, Time deadline) override;
  Task<Result<std::unique_ptr<File>>> OpenFile(OpenFileRequest request) override;
  Task<Result<std::unique_ptr<Stream>>> Connect(ConnectRequest request,
                                                CancelToken cancel) override;
  Result<std::unique_ptr<Listener>> Listen(const ListenRequest& request) override;
  void StartBlocking(BlockingWork* work) override;
  BufferPool& buffers() override { return *buffers_; }
  Logger& logger() override { return logger_; }

  // For tests and harnesses: tasks that this reactor owns. Before Shutdown they have ended.
  TaskGroup& group() { return *group_; }
  void Spawn(Task<void> task) { group_->Spawn(std::move(task)); }

  SimNode& node() { return node_; }
  SimWorld& world() { return world_; }
  SimIncarnation& incarnation() { return incarnation_; }
  bool alive() const;
  uint64_t turns() const { return turns_; }

  // An operation that went on outside has ended: `completion` is called in the next turn, or never
  // if the incarnation is dead.
  void Deliver(Completion* completion, int32_t result);

 private:
  class NodeLogger final : public Logger {
   public:
    explicit NodeLogger(SimReactor& reactor) : reactor_(reactor) {}
    bool Enabled(LogLevel level) const override;
    void Write(LogLevel level, std::string_view line) override;

   private:
    SimReactor& reactor_;
  };

  void ScheduleStep(Duration delay);
  void Wake();
  void Step();
  bool RunOne();
  void EndTurn();
  void ScheduleTimer();
  Duration StepCost();
  SimTime TrueTimeOf(Time local) const;

  SimNode& node_;
  SimIncarnation& incarnation_;
  SimWorld& world_;
  SimRandom random_;    // what the engine asks for
  SimRandom schedule_;  // how its steps fall
  Duration clock_offset_;
  int64_t clock_drift_ppm_;
  NodeLogger logger_;
  SimCompletionQueue ready_;
  SimCompletionQueue incoming_;
  SimCompletionQueue turn_end_;
  TimerQueue timers_;
  bool in_turn_ = false;
  bool step_scheduled_ = false;
  bool timer_scheduled_ = false;
  SimTime timer_at_{};
  uint64_t completions_in_turn_ = 0;
  uint64_t turns_ = 0;
  std::unique_ptr<BufferPool> buffers_;
  std::unique_ptr<TaskGroup> group_;
};

}  // namespace umblock
