// Errors that travel upwards: to an API client, a log line, an operator.
//
// An Error names the object, the reason and, where there is one, the way out, in one sentence. Its
// code maps one to one to a gRPC status code (server/). The data path does not use Error, which
// allocates: it completes with an errno value (engine/block/block_device.h).
#pragma once

#include <fmt/core.h>

#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace umblock {

enum class ErrorCode {
  kInvalidArgument,     // the request can never work as it stands
  kNotFound,            // the named object does not exist
  kAlreadyExists,       // an object of that name exists, with other contents
  kFailedPrecondition,  // the object is in a state that forbids this; the message says the way out
  kAborted,             // a concurrent change won; trying again may work
  kUnavailable,         // a peer, a disk or the daemon is not reachable now
  kDeadlineExceeded,    // a wait ended before its condition held
  kResourceExhausted,   // a limit was reached; the message names it
  kDataLoss,            // what is stored does not check out (checksum, magic, impossible value)
  kPermissionDenied,    // the operating system or an access list said no
  kCancelled,           // the caller or a shutdown asked to stop
  kUnimplemented,       // known, and not offered by this version
  kInternal,            // an operating system call failed in a way nobody expected
};

// "invalid_argument" and so on; stable, used in logs and in JSON.
std::string_view ErrorCodeName(ErrorCode code);

class Error {
 public:
  Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}

  ErrorCode code() const { return code_; }
  const std::string& message() const { return message_; }

  // The same error, seen from one level further up: "attach volume r0/0: <message>".
  Error Within(std::string_view context) const {
    return Error(code_, fmt::format("{}: {}", context, message_));
  }

  // "not_found: no resource 'r1'"
  std::string ToString() const;

  // The code that fits an errno value (positive), with "<what>: <strerror>" as message.
  static Error FromErrno(int errno_value, std::string_view what);

  friend bool operator==(const Error&, const Error&) = default;

 private:
  ErrorCode code_;
  std::string message_;
};

template <typename T>
using Result = std::expected<T, Error>;
using Status = std::expected<void, Error>;

// return MakeError(ErrorCode::kNotFound, "no resource '{}'", name);
template <typename... Args>
std::unexpected<Error> MakeError(ErrorCode code, fmt::format_string<Args...> format,
                                 Args&&... args) {
  return std::unexpected(Error(code, fmt::format(format, std::forward<Args>(args)...)));
}

inline Status Ok() { return {}; }

}  // namespace umblock

// UMBLOCK_TRY(expr): returns the error of a Status or Result from the enclosing function.
#define UMBLOCK_TRY(expr)                                       \
  do {                                                          \
    if (auto umblock_try_ = (expr); !umblock_try_) [[unlikely]] \
      return std::unexpected(std::move(umblock_try_).error());  \
  } while (false)
// The same in a coroutine.
#define UMBLOCK_CO_TRY(expr)                                      \
  do {                                                            \
    if (auto umblock_try_ = (expr); !umblock_try_) [[unlikely]] { \
      co_return std::unexpected(std::move(umblock_try_).error()); \
    }                                                             \
  } while (false)
