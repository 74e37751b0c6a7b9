// co_await RunBlocking(reactor, [&] { … }): calls a function on a thread that may block, and
// continues on the reactor when it has returned. What the function refers to stays alive in the
// awaiting frame.
#pragma once

#include <utility>

#include "engine/runtime/reactor.h"

namespace umblock::server {

template <typename Fn>
auto RunBlocking(Reactor& reactor, Fn fn) {
  class Awaiter : public CompletionAwaiter<Awaiter>, private BlockingWork {
   public:
    Awaiter(Reactor* reactor, Fn function)
        : BlockingWork(this), reactor_(reactor), fn_(std::move(function)) {}
    void Start(Completion*) { reactor_->StartBlocking(this); }

   private:
    int32_t Run() noexcept override {
      fn_();
      return 0;
    }
    Reactor* reactor_;
    Fn fn_;
  };
  return Awaiter(&reactor, std::move(fn));
}

}  // namespace umblock::server
