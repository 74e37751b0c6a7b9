// DaemonLog: the engine's Logger on spdlog: one line per message on stderr, as key=value text or as
// JSON. Writing never waits: behind a bounded queue the oldest lines are dropped (and counted by
// spdlog). Threading: any thread.
#pragma once

#include <memory>
#include <string>

#include "engine/base/log.h"

namespace spdlog {
class logger;  // NOLINT(readability-identifier-naming): its own name
}

namespace umblock::server {

enum class LogFormat { kText, kJson };

class DaemonLog final : public Logger {
 public:
  DaemonLog(LogLevel level, LogFormat format, const std::string& node_name);
  ~DaemonLog() override;

  bool Enabled(LogLevel level) const override { return level >= level_; }
  void Write(LogLevel level, std::string_view line) override;
  // Waits until what was written before is on stderr or was dropped; a second at most.
  void Flush();

 private:
  class Output;
  struct Queue;

  const LogLevel level_;
  const LogFormat format_;
  std::unique_ptr<Queue> queue_;
};

// What is written for one line, without time and level: text is passed on with control characters
// escaped; JSON splits "subject: message key=value key=\"value\"" into fields.
std::string FormatLogLine(LogFormat format, std::string_view line);

}  // namespace umblock::server
