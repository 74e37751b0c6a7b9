// What is checked of the programs that handlers name, when they are set.
#pragma once

#include "engine/base/error.h"
#include "engine/drbd/handler_config.h"

namespace umblock::server {

// Each is a regular file that the daemon may execute. Blocks: not for a reactor's thread.
Status CheckHandlerFiles(const drbd::HandlerConfig& handlers);

}  // namespace umblock::server
