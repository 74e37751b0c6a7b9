#include "sim/fence_runner.h"

#include "engine/runtime/sync.h"

namespace umblock::sim {

Task<Result<ProcessResult>> FenceRunner::Run(ProcessRequest request, CancelToken cancel) {
  constexpr Duration kLook = 20ms;
  ProcessResult result;
  const std::shared_ptr<FenceCall> call = fence_();
  const Time until = reactor_.Now() + request.timeout;
  while (!call->done) {
    if (reactor_.Now() >= until) {
      result.timed_out = true;
      result.signal = 15;
      co_return result;
    }
    if (cancel.requested() || co_await Sleep(reactor_, kLook, cancel) == WakeReason::kCancelled) {
      result.cancelled = true;
      result.signal = 9;
      co_return result;
    }
  }
  result.exit_code = call->exit_code;
  co_return result;
}

}  // namespace umblock::sim
