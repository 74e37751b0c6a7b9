// ProcessRunner: the engine's only way to start a program and to await its end.
//
// The program is executed directly: no shell reads its path, arguments or environment. It sees
// nothing of the caller but what the request says: an environment of its own, an empty standard
// input, no open files, no blocked or ignored signals, a process group of its own. Standard output
// and error are collected together, up to max_output bytes; what comes after that is thrown away.
// Whatever runs longer than `timeout` is ended with its process group: SIGTERM, and SIGKILL two
// seconds later. So is what runs when the caller cancels, without the two seconds. Implemented on
// posix_spawn and io_uring (engine/runtime/uring/uring_process.h), and on scripts for tests
// (engine/runtime/testing/scripted_programs.h). Threading: one reactor.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/runtime/cancel.h"
#include "engine/runtime/task.h"
#include "engine/runtime/time.h"

namespace umblock {

struct ProcessRequest {
  std::string path;                      // absolute
  std::vector<std::string> arguments;    // without the name of the program
  std::vector<std::string> environment;  // "NAME=value", all of it
  Duration timeout = 600s;
  uint32_t max_output = 16384;  // bytes
};

struct ProcessResult {
  int exit_code = -1;  // 0 to 255; -1: it did not exit, a signal ended it
  int signal = 0;      // that ended it; 0: none
  bool timed_out = false;
  bool cancelled = false;
  std::string output;  // both streams, in the order of arrival
};

class ProcessRunner {
 public:
  virtual ~ProcessRunner() = default;
  // An error: it could not be started, or too many wait for their turn. A bounded number runs at a
  // time, the others wait, in order.
  virtual Task<Result<ProcessResult>> Run(ProcessRequest request, CancelToken cancel) = 0;
};

}  // namespace umblock
