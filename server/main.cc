// umblockd.
#include <string>
#include <vector>

#include "server/daemon.h"

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const umblock::server::ParsedOptions parsed = umblock::server::ParseDaemonOptions(arguments);
  if (!parsed.options) return parsed.exit_code;
  return umblock::server::RunDaemon(*parsed.options);
}
