// Result codes of state changes (drbd-states.md 1.9). Codes >= 1 are success. The name is
// the kernel's, for who looks it up there; text and way out are for an operator.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>

#include "engine/base/error.h"

namespace umblock::drbd {

enum class StateResult : int {
  kCwNoNeed = 4,
  kCwSuccess = 3,
  kNothingToDo = 2,
  kSuccess = 1,
  kUnknownError = 0,
  kTwoPrimaries = -1,
  kNoUpToDateDisk = -2,
  kNoLocalDisk = -4,
  kNoRemoteDisk = -5,
  kConnectedOutdates = -6,
  kPrimaryNop = -7,
  kResyncRunning = -8,
  kAlreadyStandalone = -9,
  kCwFailedByPeer = -10,
  kIsDiskless = -11,
  kDeviceInUse = -12,
  kNoNetConfig = -13,
  kNoVerifyAlg = -14,
  kNeedConnection = -15,
  kLowerThanOutdated = -16,
  kNotSupported = -17,
  kInTransientState = -18,
  kConcurrentStateChange = -19,
  kOtherVolumePeerPrimary = -20,  // 8.4 only
  kInterrupted = -21,
  kPrimaryReader = -22,
  kTimeout = -23,
  kWeaklyConnected = -24,
  kNoQuorum = -25,
  kAttachNoBitmap = -26,
  kHandshakeDisconnect = -27,
  kHandshakeRetry = -28,
};

constexpr bool Succeeded(StateResult result) { return static_cast<int>(result) >= 1; }

std::string_view StateResultName(StateResult result);  // "SS_TWO_PRIMARIES" without the "SS_"
std::string_view StateResultText(
    StateResult result);  // what is in the way, a sentence without its dot
// What can be done about it, a sentence; empty for success.
std::string_view StateResultRemedy(StateResult result);

// A refused change: the code, and the object and numbers it is about ("volume 0, node 2").
struct StateRefusal {
  StateResult code = StateResult::kUnknownError;
  std::string detail;

  // "No UpToDate data can be reached (volume 0). Connect a node with ..."
  std::string text() const;
  Error ToError() const;
  bool operator==(const StateRefusal&) const = default;
};

using StateCheck = std::expected<void, StateRefusal>;

}  // namespace umblock::drbd
