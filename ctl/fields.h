// Text from a command line, put into a field of a message. One set of rules for all commands:
//   integers      12; fields whose name ends in _bytes or _size also take KiB, MiB, GiB, TiB (or
//                 K, M, G, T: the same)
//   durations     500ms, 6s, 0.5s, 2m, 1h; a number alone is seconds
//   booleans      true, false, yes, no, on, off
//   enumerations  the names of the API, in any case: primary, UpToDate, c
// Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/error.h"

namespace google::protobuf {
class Message;
class Duration;
}  // namespace google::protobuf

namespace umblock::ctl {

// `path` is "spec.options.twopc_timeout". A repeated field gets one more element. kInvalidArgument
// says what would be allowed; the message is unchanged then.
Status SetField(google::protobuf::Message* message, std::string_view path, const std::string& text);

// Every field that `given` sets becomes that of `to`, of the same type; the others of `to` stay.
void SetGiven(const google::protobuf::Message& given, google::protobuf::Message* to);

Result<uint64_t> ParseSize(std::string_view text);
Status ParseDuration(std::string_view text, google::protobuf::Duration* to);
// "r0/0" into its two parts; the number is at most `limit`.
struct SlashName {
  std::string name;
  uint32_t number = 0;
};
Result<SlashName> ParseSlashName(std::string_view text, std::string_view what);

}  // namespace umblock::ctl
