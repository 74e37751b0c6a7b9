// UringProcessRunner: programs on a UringReactor (engine/runtime/process.h).
//
// posix_spawn on a thread that may block (it waits for the exec), so that no copy of a process with
// threads ever runs code of its own; a pidfd, polled by the ring, says when the program has ended.
// At most kMaxRunning run and kMaxWaiting wait. Threading: its reactor.
#pragma once

#include "engine/runtime/process.h"
#include "engine/runtime/sync.h"
#include "engine/runtime/uring/uring_reactor.h"

namespace umblock {

class UringProcessRunner final : public ProcessRunner {
 public:
  static constexpr int kMaxRunning = 32;
  static constexpr int kMaxWaiting = 1024;

  explicit UringProcessRunner(UringReactor& reactor) : reactor_(reactor), ended_(reactor) {}
  Task<Result<ProcessResult>> Run(ProcessRequest request, CancelToken cancel) override;

 private:
  Task<Result<ProcessResult>> Supervise(const ProcessRequest& request, CancelToken cancel);

  UringReactor& reactor_;
  WaitQueue ended_;
  int running_ = 0;
  int waiting_ = 0;
};

}  // namespace umblock
