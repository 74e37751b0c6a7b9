// Session: one run of umctl: its streams, its daemon, how it prints, and its exit code.
#pragma once

#include <chrono>
#include <functional>
#include <iosfwd>
#include <memory>
#include <string>

#include "ctl/client.h"
#include "engine/base/error.h"

namespace umblock::ctl {

enum ExitCode : int {
  kExitOk = 0,
  kExitFailure = 1,
  kExitUsage = 2,
  kExitNotFound = 3,
  kExitConflict = 4,  // exists already, in use, wrong state
  kExitTimeout = 5,
  kExitUnavailable = 6,
};
ExitCode ExitCodeOf(ErrorCode code);

struct Streams {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  bool in_terminal = false;
  bool out_terminal = false;
};

class Session {
 public:
  explicit Session(Streams streams) : io(streams) {}

  // Calls, and prints the response in the chosen form.
  Status Act(const std::string& method, const google::protobuf::Message& request,
             google::protobuf::Message* response);
  // Calls without printing.
  Status Call(const std::string& method, const google::protobuf::Message& request,
              google::protobuf::Message* response);
  Result<Client*> client();

  void Print(const google::protobuf::Message& message);
  // One line of JSON, for streams.
  void PrintLine(const google::protobuf::Message& message);
  // "done" for acts whose response says nothing.
  void PrintDone(const std::string& text);

  // Asks on the terminal. kFailedPrecondition if the answer is no; without a terminal --yes is
  // needed and its absence is a usage error (kInvalidArgument).
  Status Confirm(const std::string& consequence);

  Streams io;
  Endpoint endpoint;
  bool json = false;
  bool yes = false;
  std::chrono::milliseconds timeout{120000};

 private:
  std::unique_ptr<Client> client_;
};

}  // namespace umblock::ctl
