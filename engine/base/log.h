// The engine's logging seam.
//
// The engine writes one line per state change, with its reason, through a Logger that it is given;
// it owns no sink, no file and no global. umblockd backs it with spdlog, the simulator with a
// buffer that carries simulated time. Lines are "subject: what happened key=value …".
// Threading: Write may be called from any thread.
#pragma once

#include <fmt/core.h>

#include <string_view>
#include <utility>

namespace umblock {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

std::string_view LogLevelName(LogLevel level);

class Logger {
 public:
  virtual ~Logger() = default;

  virtual bool Enabled(LogLevel level) const = 0;
  virtual void Write(LogLevel level, std::string_view line) = 0;

  template <typename... Args>
  void Debug(fmt::format_string<Args...> format, Args&&... args) {
    Format(LogLevel::kDebug, format, std::forward<Args>(args)...);
  }
  template <typename... Args>
  void Info(fmt::format_string<Args...> format, Args&&... args) {
    Format(LogLevel::kInfo, format, std::forward<Args>(args)...);
  }
  template <typename... Args>
  void Warn(fmt::format_string<Args...> format, Args&&... args) {
    Format(LogLevel::kWarning, format, std::forward<Args>(args)...);
  }
  template <typename... Args>
  void Error(fmt::format_string<Args...> format, Args&&... args) {
    Format(LogLevel::kError, format, std::forward<Args>(args)...);
  }

 private:
  template <typename... Args>
  void Format(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
    if (Enabled(level)) Write(level, fmt::format(format, std::forward<Args>(args)...));
  }
};

// Swallows everything below `level` and writes the rest to stderr: for tests and small tools.
class StderrLogger final : public Logger {
 public:
  explicit StderrLogger(LogLevel level = LogLevel::kWarning) : level_(level) {}
  bool Enabled(LogLevel level) const override { return level >= level_; }
  void Write(LogLevel level, std::string_view line) override;

 private:
  LogLevel level_;
};

}  // namespace umblock
