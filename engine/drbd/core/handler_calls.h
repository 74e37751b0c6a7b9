// HandlerCalls: runs the handlers of one resource (drbd-states.md 5.5, drbd-management.md 3.8).
//
// Every call and its end is a line in the log and an event of the object that it is about; what the
// program writes goes to the log. Calls are bounded: at most kMaxNotices that nobody waits for run
// at a time, further ones are not made, and that is logged. Stop() ends what runs: calls give
// kNoExit from then on. Threading: the resource's reactor.
#pragma once

#include <string>
#include <vector>

#include "engine/drbd/handler_config.h"
#include "engine/runtime/process.h"
#include "engine/runtime/sync.h"

namespace umblock::drbd {

class ResourceImpl;

// What a call is about; -1: not about one peer, one volume.
struct HandlerScope {
  int node = -1;
  int volume = -1;
};

class HandlerCalls {
 public:
  static constexpr int kNoExit = -1;
  static constexpr int kMaxNotices = 16;

  // `runner` may be null: then no handler can run.
  HandlerCalls(ResourceImpl& resource, ProcessRunner* runner, HandlerConfig config);

  void Configure(HandlerConfig config) { config_ = std::move(config); }
  bool has(Handler handler) const { return !config_.path(handler).empty(); }

  // Runs it. Its exit code, 0 to 255; kNoExit if there is none, it could not be started, a signal
  // or the time limit ended it, or the resource stops.
  Task<int> Call(Handler handler, HandlerScope scope);
  // The same, one call of this kind at a time: a second one waits for the first.
  Task<int> CallInTurn(Handler handler, HandlerScope scope);
  // Runs it if there is one; nobody waits for its end.
  void Notify(Handler handler, HandlerScope scope);
  void Stop() { source_.Cancel(); }

 private:
  Task<void> RunNotice(Handler handler, HandlerScope scope);
  std::vector<std::string> Environment(Handler handler, HandlerScope scope) const;
  void AddVolumes(std::vector<std::string>* to, HandlerScope scope) const;
  void AddConnection(std::vector<std::string>* to, int node) const;
  std::string Object(HandlerScope scope) const;
  void Report(Handler handler, HandlerScope scope, std::string what);
  std::string Describe(Handler handler, const Result<ProcessResult>& end) const;

  ResourceImpl& resource_;
  ProcessRunner* runner_;
  HandlerConfig config_;
  CancelSource source_;
  AsyncMutex turn_;
  int notices_ = 0;
};

}  // namespace umblock::drbd
