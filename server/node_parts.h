// What the managers of one node share. All of it outlives them; everything on the node's reactor.
#pragma once

#include <string>
#include <vector>

#include "engine/base/log.h"
#include "engine/runtime/reactor.h"
#include "server/config_keeper.h"
#include "server/engine.h"
#include "server/event_publisher.h"

namespace umblock::server {

struct NodeParts {
  Reactor& reactor;
  Logger& logger;
  Engine& engine;
  ConfigKeeper& config;
  EventPublisher& events;
  Duration patience = 2s;  // with a disk that does not answer, until the next is looked at
};

// Something that is configured and does not work now.
struct NodeProblem {
  std::string object;
  std::string reason;
};

}  // namespace umblock::server
