// ScriptedPrograms: the programs of a machine, scripted by a test, and a record of what was
// started. ScriptedRunner: the ProcessRunner of one reactor on them; several runs of a machine's
// software, one after the other, find the same programs.
#pragma once

#include <algorithm>
#include <cerrno>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/runtime/process.h"
#include "engine/runtime/sync.h"

namespace umblock::testing {

struct ScriptedPrograms {
  struct Ending {
    int exit_code = 0;
    Duration after = 20ms;  // how long it runs
    std::string output;
  };
  using Script = std::function<Ending(const ProcessRequest& request)>;

  void Exits(const std::string& path, int code, Duration after = 20ms) {
    scripts[path] = [code, after](const ProcessRequest&) { return Ending{code, after, ""}; };
  }
  // How often a program was started.
  size_t Count(const std::string& path) const {
    return static_cast<size_t>(std::count_if(
        runs.begin(), runs.end(), [&path](const auto& run) { return run.path == path; }));
  }

  std::map<std::string, Script> scripts;
  std::vector<ProcessRequest> runs;
};

class ScriptedRunner final : public ProcessRunner {
 public:
  ScriptedRunner(Reactor& reactor, ScriptedPrograms& programs)
      : reactor_(reactor), programs_(programs) {}

  Task<Result<ProcessResult>> Run(ProcessRequest request, CancelToken cancel) override {
    const auto script = programs_.scripts.find(request.path);
    if (script == programs_.scripts.end()) {
      co_return std::unexpected(Error::FromErrno(ENOENT, "start " + request.path));
    }
    programs_.runs.push_back(request);
    ScriptedPrograms::Ending ending = script->second(request);
    ProcessResult result;
    result.output = std::move(ending.output);
    const Duration time = std::min(ending.after, request.timeout);
    if (cancel.requested() || co_await Sleep(reactor_, time, cancel) == WakeReason::kCancelled) {
      result.cancelled = true;
      result.signal = 9;
    } else if (ending.after > request.timeout) {
      result.timed_out = true;
      result.signal = 15;
    } else {
      result.exit_code = ending.exit_code;
    }
    co_return result;
  }

 private:
  Reactor& reactor_;
  ScriptedPrograms& programs_;
};

}  // namespace umblock::testing
