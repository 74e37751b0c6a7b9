// The life of umblockd: from its options to its exit code.
#pragma once

#include "server/daemon_options.h"

namespace umblock::server {

// Runs until a signal ends it. 0: stopped cleanly; 1: could not start, or ended in a hurry.
int RunDaemon(const DaemonOptions& options);

}  // namespace umblock::server
