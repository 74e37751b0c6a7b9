// RealEngine: the engine's parts as they are in production (server/engine.h). Parts that this build
// leaves out answer kUnimplemented.
#pragma once

#include <memory>
#include <string>

#include "server/engine.h"

namespace umblock {
class UringReactor;
}

namespace umblock::server {

struct RealEngineOptions {
  bool fuse_allow_other = false;
  bool allow_handlers = false;
  std::string node_name;  // for handlers
};

// Made on any thread; everything else on the reactor, which outlives it.
std::unique_ptr<Engine> MakeRealEngine(UringReactor& reactor, RealEngineOptions options);

}  // namespace umblock::server
