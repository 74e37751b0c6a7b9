// Timer: calls a function on its reactor at a time. TimerQueue: the timers of one reactor.
//
// A Timer is owned by who waits and is disarmed by its destructor. Firing disarms it first, so fn
// may arm it again or destroy it. Timers that are due fire in the order of (deadline, arming).
// Threading: one reactor.
#pragma once

#include <boost/intrusive/set.hpp>
#include <cstdint>
#include <optional>

#include "engine/runtime/time.h"

namespace umblock {

class TimerQueue;

class Timer : public boost::intrusive::set_base_hook<> {
 public:
  using Fn = void (*)(Timer* self) noexcept;

  explicit Timer(Fn fn) : fn_(fn) {}
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() { Disarm(); }

  bool armed() const { return queue_ != nullptr; }
  Time deadline() const { return deadline_; }
  void Disarm() noexcept;

 private:
  friend class TimerQueue;
  friend bool operator<(const Timer& a, const Timer& b) {
    return a.deadline_ != b.deadline_ ? a.deadline_ < b.deadline_ : a.sequence_ < b.sequence_;
  }

  Fn fn_;
  Time deadline_{};
  uint64_t sequence_ = 0;
  TimerQueue* queue_ = nullptr;
};

class TimerQueue {
 public:
  TimerQueue() = default;
  ~TimerQueue();

  // Arms `timer`, moving it if it is armed already.
  void Arm(Timer* timer, Time deadline);
  // Fires every timer that is due at `now`, and those that they arm for a time that is due too,
  // up to `limit` of them. Returns how many fired.
  int FireDue(Time now, int limit = 1024);
  std::optional<Time> NextDeadline() const;
  bool empty() const { return timers_.empty(); }

 private:
  friend class Timer;
  boost::intrusive::set<Timer> timers_;
  uint64_t sequence_ = 0;
};

}  // namespace umblock
