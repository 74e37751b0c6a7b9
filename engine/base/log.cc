#include "engine/base/log.h"

#include <cstdio>

namespace umblock {

std::string_view LogLevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "error";
}

void StderrLogger::Write(LogLevel level, std::string_view line) {
  fmt::print(stderr, "{} {}\n", LogLevelName(level), line);
}

}  // namespace umblock
