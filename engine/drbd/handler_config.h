// Handlers: programs of the operator's that a resource runs when something happens
// (drbd-states.md 5.5). Names and environment are those of drbd.conf; docs/handlers.md lists them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/error.h"
#include "engine/runtime/time.h"

namespace umblock::drbd {

enum class Handler : uint8_t {
  kFencePeer,
  kUnfencePeer,
  kBeforeResyncSource,
  kBeforeResyncTarget,
  kAfterResyncTarget,
  kInitialSplitBrain,
  kSplitBrain,
  kLocalIoError,
  kPriLost,
  kPriLostAfterSb,
  kPriOnInconDegr,
};
inline constexpr int kHandlers = static_cast<int>(Handler::kPriOnInconDegr) + 1;
std::string_view HandlerName(Handler handler);  // "fence-peer"

struct HandlerConfig {
  // Absolute paths of executables, by Handler; empty: there is none.
  std::array<std::string, kHandlers> paths;
  // A handler that takes longer is ended, and has failed. 1 s … 1 h.
  Duration timeout = 600s;

  const std::string& path(Handler handler) const { return paths[static_cast<size_t>(handler)]; }
  std::string& path(Handler handler) { return paths[static_cast<size_t>(handler)]; }
  bool operator==(const HandlerConfig&) const = default;
};

// Says what is wrong. Whether the files exist is the caller's to look at.
Status Validate(const HandlerConfig& config);

}  // namespace umblock::drbd
