#include "engine/runtime/timer.h"

#include "engine/base/assert.h"

namespace umblock {

void Timer::Disarm() noexcept {
  if (queue_ == nullptr) return;
  queue_->timers_.erase(queue_->timers_.iterator_to(*this));
  queue_ = nullptr;
}

TimerQueue::~TimerQueue() {
  UMBLOCK_ASSERT(timers_.empty(), "no timer outlives its reactor armed");
}

void TimerQueue::Arm(Timer* timer, Time deadline) {
  timer->Disarm();
  timer->deadline_ = deadline;
  timer->sequence_ = sequence_++;
  timer->queue_ = this;
  timers_.insert(*timer);
}

int TimerQueue::FireDue(Time now, int limit) {
  int fired = 0;
  while (fired < limit && !timers_.empty() && timers_.begin()->deadline_ <= now) {
    Timer* timer = &*timers_.begin();
    timer->Disarm();
    ++fired;
    timer->fn_(timer);
  }
  return fired;
}

std::optional<Time> TimerQueue::NextDeadline() const {
  if (timers_.empty()) return std::nullopt;
  return timers_.begin()->deadline_;
}

}  // namespace umblock
