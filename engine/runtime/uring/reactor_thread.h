// ReactorThread: a thread that runs a UringReactor, for the daemon and for tests.
//
//   auto thread = ReactorThread::Start({.name = "reactor 0", .cpu = 0});
//   int n = (*thread)->RunTask([&]() -> Task<int> { …; });   // on its reactor; waits for the end
//
// The destructor stops the reactor and joins the thread: everything on it has been closed before.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

#include "engine/runtime/sync.h"
#include "engine/runtime/uring/uring_reactor.h"

namespace umblock {

struct ReactorThreadOptions {
  std::string name = "umblock";  // of the thread, at most 15 characters are shown
  int cpu = -1;                  // pinned to this CPU; -1: wherever the system likes
  UringOptions uring;
};

class ReactorThread {
 public:
  static Result<std::unique_ptr<ReactorThread>> Start(ReactorThreadOptions options);
  ~ReactorThread();

  UringReactor& reactor() { return *reactor_; }

  // From any thread but its own: calls `function`, which gives a Task<T>, on the reactor, and waits
  // until the task has ended. `function` lives until then, so a lambda may capture by reference.
  template <typename Function>
  auto RunTask(Function&& function) {
    using Value = decltype(function().await_resume());
    if constexpr (std::is_void_v<Value>) {
      RunAndWait(function);
    } else {
      std::optional<Value> value;
      RunAndWait([&]() -> Task<void> { value.emplace(co_await function()); });
      return std::move(*value);
    }
  }

  UringCounters counters();

 private:
  struct Call;

  explicit ReactorThread(std::unique_ptr<UringReactor> reactor);
  void RunAndWait(const std::function<Task<void>()>& main);
  static Task<void> RunCall(Call* call);

  std::unique_ptr<UringReactor> reactor_;
  TaskGroup calls_;  // the reactor's
  std::thread thread_;
};

}  // namespace umblock
