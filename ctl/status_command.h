// What follows the daemon: status --watch, events, wait. Without CLI11.
#pragma once

#include <string>
#include <utility>

#include "ctl/session.h"

namespace CLI {
class App;
}
namespace umblock::v1 {
class Event;
class WaitRequest;
}  // namespace umblock::v1

namespace umblock::ctl {

struct Builder;

struct StatusArguments {
  std::string resource;  // empty: everything
  bool verbose = false;
  bool statistics = false;
  bool watch = false;
};
Status ShowStatus(Session& session, const StatusArguments& arguments);
// `umctl resource status`.
void AddStatusVerb(const Builder& builder, CLI::App* noun);

// Which events a follower prints: changes of objects whose name begins with `prefix`; of a snapshot
// only one that comes because events were lost (START_OVER), since it tells what they were about.
class FollowFilter {
 public:
  explicit FollowFilter(std::string prefix) : prefix_(std::move(prefix)) {}
  bool Wants(const v1::Event& event);

 private:
  const std::string prefix_;
  bool over_ = false;  // within the snapshot after START_OVER
};

// Prints changes (not the snapshot) of objects whose name begins with `prefix` until interrupted.
Status FollowEvents(Session& session, const std::string& resource, const std::string& prefix);

struct EventArguments {
  std::string resource;
  uint64_t since = 0;
  bool now = false;  // end after the snapshot
};
Status ShowEvents(Session& session, const EventArguments& arguments);

// With a progress bar on a terminal.
Status WaitFor(Session& session, const v1::WaitRequest& request);

}  // namespace umblock::ctl
