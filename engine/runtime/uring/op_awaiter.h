// OpAwaiter: awaits one kernel operation, with an optional time limit and cancel token. Either asks
// the kernel to end the operation early; the awaiter resumes only when the kernel has ended it.
//
//   auto outcome = co_await OpAwaiter(reactor, cancel, timeout, [&](io_uring_sqe* entry) {…});
#pragma once

#include <coroutine>
#include <optional>
#include <utility>

#include "engine/runtime/sync.h"
#include "engine/runtime/uring/uring_reactor.h"

namespace umblock {

struct OpOutcome {
  int32_t result = 0;                         // as the kernel says; it may have won the race
  WakeReason reason = WakeReason::kNotified;  // why it was asked to end early, if it was
};

class OpAwaiterBase : protected UringOp, private Timer, private CancelCallback {
 public:
  OpAwaiterBase(UringReactor& reactor, CancelToken cancel, std::optional<Duration> timeout)
      : UringOp(&OnDone),
        Timer([](Timer* self) noexcept {
          static_cast<OpAwaiterBase*>(self)->EndEarly(WakeReason::kTimeout);
        }),
        CancelCallback([](CancelCallback* self) noexcept {
          static_cast<OpAwaiterBase*>(self)->EndEarly(WakeReason::kCancelled);
        }),
        reactor_(reactor),
        cancel_(cancel),
        timeout_(timeout) {}

  bool await_ready() {
    if (!cancel_.requested()) return false;
    outcome_ = {-ECANCELED, WakeReason::kCancelled};
    return true;
  }
  OpOutcome await_resume() const { return outcome_; }

  void EndEarly(WakeReason reason) noexcept {
    if (outcome_.reason != WakeReason::kNotified) return;
    outcome_.reason = reason;
    reactor_.ring().Cancel(this);
  }

 protected:
  void Arm(std::coroutine_handle<> waiting) {
    waiting_ = waiting;
    if (timeout_) reactor_.ArmIn(this, *timeout_);
    CancelCallback::Register(cancel_);
  }

  UringReactor& reactor_;

 private:
  static void OnDone(UringOp* op, int32_t result, uint32_t) noexcept {
    auto* self = static_cast<OpAwaiterBase*>(op);
    self->Timer::Disarm();
    self->CancelCallback::Unregister();
    self->outcome_.result = result;
    self->waiting_.resume();
  }

  CancelToken cancel_;
  std::optional<Duration> timeout_;
  OpOutcome outcome_;
  std::coroutine_handle<> waiting_;
};

template <typename Prepare>
class OpAwaiter : public OpAwaiterBase {
 public:
  OpAwaiter(UringReactor& reactor, CancelToken cancel, std::optional<Duration> timeout,
            Prepare prepare)
      : OpAwaiterBase(reactor, cancel, timeout), prepare_(std::move(prepare)) {}

  void await_suspend(std::coroutine_handle<> waiting) {
    io_uring_sqe* entry = reactor_.ring().Entry();
    prepare_(entry);
    Ring::Attach(entry, this);
    Arm(waiting);
  }

 private:
  Prepare prepare_;
};

}  // namespace umblock
