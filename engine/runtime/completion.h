// Completion: the one shape in which the runtime reports that something is over.
//
// An operation takes a Completion*, which its caller owns and keeps alive until fn has been called,
// exactly once, on the reactor that the operation was started on, never from inside the call that
// started it. `result` is what the operation documents: usually bytes or 0, or a negative errno.
// No allocation is made for a Completion: it is embedded in what waits for it.
#pragma once

#include <coroutine>
#include <cstdint>

namespace umblock {

struct Completion {
  using Fn = void (*)(Completion* self, int32_t result) noexcept;

  explicit Completion(Fn function) : fn(function) {}
  Completion(const Completion&) = delete;
  Completion& operator=(const Completion&) = delete;

  Fn fn;
  Completion* next = nullptr;  // for the queue it stands in
  int32_t result = 0;          // parked here while it stands in a queue
};

// Awaits one operation that is started in await_suspend. Derive and give `void Start(Completion*)`:
//
//   struct Read : CompletionAwaiter<Read> { …; void Start(Completion* c) { file->StartRead(…, c); }
//   }; int32_t n = co_await Read{…};
template <typename Derived>
class CompletionAwaiter : public Completion {
 public:
  CompletionAwaiter() : Completion(&Resume) {}

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    waiting_ = waiting;
    static_cast<Derived*>(this)->Start(this);
  }
  int32_t await_resume() const noexcept { return result; }

 private:
  static void Resume(Completion* self, int32_t value) noexcept {
    auto* awaiter = static_cast<CompletionAwaiter*>(self);
    awaiter->result = value;
    awaiter->waiting_.resume();
  }

  std::coroutine_handle<> waiting_;
};

}  // namespace umblock
