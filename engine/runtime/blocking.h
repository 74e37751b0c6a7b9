// co_await RunBlocking(reactor, [&] { return int32_t; }): runs the function on a thread that may
// block, and gives its result. The caller's frame stays suspended meanwhile, so the function may
// use it by reference; it must touch nothing else of the reactor.
#pragma once

#include <cstdint>
#include <utility>

#include "engine/runtime/reactor.h"

namespace umblock {

template <typename Function>
class BlockingAwaiter : public CompletionAwaiter<BlockingAwaiter<Function>> {
 public:
  BlockingAwaiter(Reactor& reactor, Function function)
      : reactor_(reactor), work_(this, std::move(function)) {}
  void Start(Completion*) { reactor_.StartBlocking(&work_); }

 private:
  struct Work final : BlockingWork {
    Work(Completion* done_completion, Function f)
        : BlockingWork(done_completion), function(std::move(f)) {}
    int32_t Run() noexcept override { return function(); }
    Function function;
  };

  Reactor& reactor_;
  Work work_;
};

template <typename Function>
BlockingAwaiter<Function> RunBlocking(Reactor& reactor, Function function) {
  return BlockingAwaiter<Function>(reactor, std::move(function));
}

}  // namespace umblock
