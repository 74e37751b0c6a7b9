// FenceRunner: the programs of a simulated machine. There is one, the fence-peer handler; what it
// does is the business of whoever answers `fence` (sim/repertoire.h).
#pragma once

#include <functional>
#include <memory>

#include "engine/runtime/process.h"
#include "engine/runtime/reactor.h"
#include "sim/replica.h"

namespace umblock::sim {

inline constexpr const char* kFencePath = "/sbin/fence-peer";

class FenceRunner final : public ProcessRunner {
 public:
  FenceRunner(Reactor& reactor, std::function<std::shared_ptr<FenceCall>()> fence)
      : reactor_(reactor), fence_(std::move(fence)) {}

  Task<Result<ProcessResult>> Run(ProcessRequest request, CancelToken cancel) override;

 private:
  Reactor& reactor_;
  std::function<std::shared_ptr<FenceCall>()> fence_;
};

}  // namespace umblock::sim
