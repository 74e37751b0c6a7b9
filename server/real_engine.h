// RealEngine: the engine's parts as they are in production (server/engine.h). Parts that this build
// leaves out answer kUnimplemented.
#pragma once

#include <memory>

#include "server/engine.h"

namespace umblock {
class UringReactor;
}

namespace umblock::server {

struct RealEngineOptions {
  bool fuse_allow_other = false;
};

// Made on any thread; everything else on the reactor, which outlives it.
std::unique_ptr<Engine> MakeRealEngine(UringReactor& reactor, RealEngineOptions options);

}  // namespace umblock::server
