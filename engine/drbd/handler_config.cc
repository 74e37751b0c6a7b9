#include "engine/drbd/handler_config.h"

namespace umblock::drbd {

std::string_view HandlerName(Handler handler) {
  static constexpr std::array<std::string_view, kHandlers> kNames = {
      "fence-peer",           "unfence-peer",        "before-resync-source",
      "before-resync-target", "after-resync-target", "initial-split-brain",
      "split-brain",          "local-io-error",      "pri-lost",
      "pri-lost-after-sb",    "pri-on-incon-degr"};
  return kNames[static_cast<size_t>(handler)];
}

Status Validate(const HandlerConfig& config) {
  for (int i = 0; i < kHandlers; ++i) {
    const auto handler = static_cast<Handler>(i);
    const std::string& path = config.path(handler);
    if (path.empty()) continue;
    if (path[0] != '/' || path.size() > 4095 || path.find('\0') != std::string::npos) {
      return MakeError(ErrorCode::kInvalidArgument,
                       "handler {}: '{}' is not an absolute path; give the path of an executable, "
                       "without arguments",
                       HandlerName(handler), path);
    }
  }
  if (config.timeout < 1s || config.timeout > 1h) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "the time limit of handlers is {} ms; allowed are 1000 to 3600000",
                     std::chrono::duration_cast<std::chrono::milliseconds>(config.timeout).count());
  }
  return Ok();
}

}  // namespace umblock::drbd
