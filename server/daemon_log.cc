#include "server/daemon_log.h"

#include <spdlog/async_logger.h>
#include <spdlog/details/thread_pool.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

namespace umblock::server {
namespace {

constexpr size_t kQueueLines = 8192;
constexpr auto kFlushPatience = std::chrono::seconds(1);

void AppendEscaped(std::string_view text, bool json, std::string* out) {
  for (const char c : text) {
    if (json && (c == '"' || c == '\\')) {
      *out += '\\';
      *out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      const auto code = static_cast<unsigned char>(c);
      *out += json ? fmt::format("\\u{:04x}", code) : fmt::format("\\x{:02x}", code);
    } else {
      *out += c;
    }
  }
}

void AppendField(std::string_view key, std::string_view value, std::string* out) {
  *out += ",\"";
  AppendEscaped(key, true, out);
  *out += "\":\"";
  AppendEscaped(value, true, out);
  *out += '"';
}

bool IsKeyCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

// The beginning of the last "key=value" at the end of `line`; npos if it does not end with one.
size_t LastPair(std::string_view line, size_t* equals) {
  size_t end = line.size();
  size_t value = 0;
  if (end > 0 && line[end - 1] == '"') {
    value = line.rfind("=\"", end - 2);
    if (value == std::string_view::npos) return std::string_view::npos;
  } else {
    const size_t space = line.rfind(' ');
    if (space == std::string_view::npos) return std::string_view::npos;
    value = line.find('=', space);
    if (value == std::string_view::npos) return std::string_view::npos;
  }
  size_t begin = value;
  while (begin > 0 && IsKeyCharacter(line[begin - 1])) --begin;
  if (begin == value || begin == 0 || line[begin - 1] != ' ') return std::string_view::npos;
  *equals = value;
  return begin;
}

std::string JsonFields(std::string_view line) {
  std::string pairs;
  for (;;) {
    size_t equals = 0;
    const size_t begin = LastPair(line, &equals);
    if (begin == std::string_view::npos) break;
    std::string_view value = line.substr(equals + 1);
    if (value.size() >= 2 && value.front() == '"') value = value.substr(1, value.size() - 2);
    std::string pair;
    AppendField(line.substr(begin, equals - begin), value, &pair);
    pairs.insert(0, pair);
    line = line.substr(0, begin - 1);
  }
  std::string out;
  const size_t colon = line.find(": ");
  if (colon != std::string_view::npos) {
    AppendField("subject", line.substr(0, colon), &out);
    line = line.substr(colon + 2);
  }
  AppendField("message", line, &out);
  return out + pairs;
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

std::string EscapePattern(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '%') out += '%';
    if (c >= 0x20 && c != '"' && c != '\\') out += c;
  }
  return out;
}

}  // namespace

std::string FormatLogLine(LogFormat format, std::string_view line) {
  if (format == LogFormat::kJson) return JsonFields(line);
  std::string text;
  AppendEscaped(line, false, &text);
  return text;
}

// On the log's thread: writes a line to stderr, then counts it.
class DaemonLog::Output final : public spdlog::sinks::stderr_sink_mt {
 public:
  void log(const spdlog::details::log_msg& line) override {
    spdlog::sinks::stderr_sink_mt::log(line);
    {
      std::lock_guard lock(mutex_);
      ++written_;
    }
    changed_.notify_all();
  }
  // False if it takes longer: whoever reads stderr is stuck.
  template <typename Enough>
  bool WaitUntil(Enough enough, std::chrono::seconds patience) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, patience, [&] { return enough(written_); });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t written_ = 0;
};

struct DaemonLog::Queue {
  std::atomic<uint64_t> posted{0};
  std::shared_ptr<Output> output = std::make_shared<Output>();
  std::shared_ptr<spdlog::details::thread_pool> thread;
  std::shared_ptr<spdlog::async_logger> logger;
};

DaemonLog::DaemonLog(LogLevel level, LogFormat format, const std::string& node_name)
    : level_(level), format_(format), queue_(std::make_unique<Queue>()) {
  queue_->thread = std::make_shared<spdlog::details::thread_pool>(kQueueLines, 1);
  queue_->logger = std::make_shared<spdlog::async_logger>(
      "umblockd", queue_->output, queue_->thread, spdlog::async_overflow_policy::overrun_oldest);
  queue_->logger->set_level(spdlog::level::debug);
  queue_->logger->flush_on(spdlog::level::warn);
  if (format == LogFormat::kJson) {
    queue_->logger->set_pattern(
        fmt::format("{{\"time\":\"%Y-%m-%dT%H:%M:%S.%fZ\",\"level\":\"%l\",\"node\":\"{}\"%v}}",
                    EscapePattern(node_name)),
        spdlog::pattern_time_type::utc);
  } else {
    queue_->logger->set_pattern("%Y-%m-%dT%H:%M:%S.%fZ %l %v", spdlog::pattern_time_type::utc);
  }
}

DaemonLog::~DaemonLog() { Flush(); }

void DaemonLog::Write(LogLevel level, std::string_view line) {
  queue_->posted.fetch_add(1, std::memory_order_relaxed);
  queue_->logger->log(ToSpdlog(level), "{}", FormatLogLine(format_, line));
}

void DaemonLog::Flush() {
  const uint64_t posted = queue_->posted.load(std::memory_order_relaxed);
  queue_->output->WaitUntil(
      [&](uint64_t written) { return written + queue_->thread->overrun_counter() >= posted; },
      kFlushPatience);
}

}  // namespace umblock::server
