// PatientGroup: runs tasks one after another, in order, but waits for none longer than a while. One
// that hangs (a disk that does not answer) goes on beside those after it. Threading: one reactor.
#pragma once

#include <memory>
#include <utility>

#include "engine/runtime/sync.h"

namespace umblock::server {

class PatientGroup {
 public:
  PatientGroup(Reactor& reactor, Duration patience)
      : reactor_(reactor), patience_(patience), ended_(reactor), tasks_(reactor) {}

  // Ends with the task, or when patience does.
  Task<void> Run(Task<void> task) {
    const auto done = std::make_shared<bool>(false);
    tasks_.Spawn(Watched(this, std::move(task), done));
    const Time until = reactor_.Now() + patience_;
    while (!*done && reactor_.Now() < until) co_await ended_.WaitFor(until - reactor_.Now());
  }
  // Ends when none runs any more. Before the group dies.
  Task<void> Join() { return tasks_.Join(); }

 private:
  static Task<void> Watched(PatientGroup* group, Task<void> task, std::shared_ptr<bool> done) {
    co_await std::move(task);
    *done = true;
    group->ended_.NotifyAll();
  }

  Reactor& reactor_;
  const Duration patience_;
  WaitQueue ended_;
  TaskGroup tasks_;
};

}  // namespace umblock::server
