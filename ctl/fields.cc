#include "ctl/fields.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/message.h>
#include <strings.h>

#include <charconv>
#include <cmath>
#include <vector>

namespace umblock::ctl {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

template <typename T>
Result<T> ParseInteger(std::string_view text) {
  T value{};
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || end != text.data() + text.size()) {
    return MakeError(ErrorCode::kInvalidArgument, "'{}' is not a number", text);
  }
  return value;
}

Result<bool> ParseBool(const std::string& text) {
  for (const char* yes : {"true", "yes", "on", "1"}) {
    if (strcasecmp(text.c_str(), yes) == 0) return true;
  }
  for (const char* no : {"false", "no", "off", "0"}) {
    if (strcasecmp(text.c_str(), no) == 0) return false;
  }
  return MakeError(ErrorCode::kInvalidArgument, "'{}' is neither yes nor no", text);
}

Result<int> ParseEnum(const google::protobuf::EnumDescriptor* type, const std::string& text) {
  std::string names;
  for (int i = 0; i < type->value_count(); ++i) {
    const auto* value = type->value(i);
    if (value->number() == 0) continue;
    if (strcasecmp(value->name().c_str(), text.c_str()) == 0) return value->number();
    names += (names.empty() ? "" : ", ") + value->name();
  }
  return MakeError(ErrorCode::kInvalidArgument, "'{}' is none of {}", text, names);
}

bool IsSize(const std::string& name) { return name.ends_with("_bytes") || name.ends_with("_size"); }

Status SetScalar(Message* message, const FieldDescriptor* field, const std::string& text) {
  const auto* reflection = message->GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      if (field->is_repeated()) {
        reflection->AddString(message, field, text);
      } else {
        reflection->SetString(message, field, text);
      }
      return Ok();
    case FieldDescriptor::CPPTYPE_UINT32: {
      auto value = IsSize(field->name()) ? ParseSize(text) : ParseInteger<uint64_t>(text);
      if (!value) return std::unexpected(value.error());
      if (*value > UINT32_MAX) {
        return MakeError(ErrorCode::kInvalidArgument, "{} is too large", text);
      }
      reflection->SetUInt32(message, field, static_cast<uint32_t>(*value));
      return Ok();
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      auto value = IsSize(field->name()) ? ParseSize(text) : ParseInteger<uint64_t>(text);
      if (!value) return std::unexpected(value.error());
      reflection->SetUInt64(message, field, *value);
      return Ok();
    }
    case FieldDescriptor::CPPTYPE_BOOL: {
      auto value = ParseBool(text);
      if (!value) return std::unexpected(value.error());
      reflection->SetBool(message, field, *value);
      return Ok();
    }
    case FieldDescriptor::CPPTYPE_ENUM: {
      auto value = ParseEnum(field->enum_type(), text);
      if (!value) return std::unexpected(value.error());
      reflection->SetEnumValue(message, field, *value);
      return Ok();
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      if (field->message_type() == google::protobuf::Duration::descriptor()) {
        google::protobuf::Duration duration;
        UMBLOCK_TRY(ParseDuration(text, &duration));
        reflection->MutableMessage(message, field)->CopyFrom(duration);
        return Ok();
      }
      break;
    default:
      break;
  }
  return MakeError(ErrorCode::kInternal, "field {} cannot be given as text", field->full_name());
}

}  // namespace

Status SetField(Message* message, std::string_view path, const std::string& text) {
  const size_t dot = path.find('.');
  const FieldDescriptor* field =
      message->GetDescriptor()->FindFieldByName(std::string(path.substr(0, dot)));
  if (field == nullptr) {
    return MakeError(ErrorCode::kInternal, "{} has no field '{}'", message->GetTypeName(), path);
  }
  if (dot == std::string_view::npos) return SetScalar(message, field, text);
  return SetField(message->GetReflection()->MutableMessage(message, field), path.substr(dot + 1),
                  text);
}

void SetGiven(const Message& given, Message* to) {
  const auto* reflection = given.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(given, &fields);
  for (const FieldDescriptor* field : fields) {
    const bool options = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
                         !field->is_repeated() &&
                         field->message_type() != google::protobuf::Duration::descriptor();
    if (options) {
      SetGiven(reflection->GetMessage(given, field), reflection->MutableMessage(to, field));
    } else {
      reflection->ClearField(to, field);
    }
  }
  to->MergeFrom(given);
}

Result<uint64_t> ParseSize(std::string_view text) {
  const std::string_view whole = text;
  int shift = 0;
  for (const auto& [suffix, bits] : {std::pair<std::string_view, int>{"KiB", 10},
                                     {"MiB", 20},
                                     {"GiB", 30},
                                     {"TiB", 40},
                                     {"K", 10},
                                     {"M", 20},
                                     {"G", 30},
                                     {"T", 40}}) {
    if (!text.ends_with(suffix)) continue;
    text.remove_suffix(suffix.size());
    shift = bits;
    break;
  }
  auto value = ParseInteger<uint64_t>(text);
  if (!value || (shift > 0 && *value >> (64 - shift) != 0)) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "'{}' is not a size: bytes, or a number with KiB, MiB, GiB or TiB", whole);
  }
  return *value << shift;
}

Status ParseDuration(std::string_view text, google::protobuf::Duration* to) {
  double unit = 1;
  std::string_view number = text;
  if (number.ends_with("ms")) {
    unit = 1e-3;
    number.remove_suffix(2);
  } else if (number.ends_with("us")) {
    unit = 1e-6;
    number.remove_suffix(2);
  } else if (number.ends_with('s')) {
    number.remove_suffix(1);
  } else if (number.ends_with('m')) {
    unit = 60;
    number.remove_suffix(1);
  } else if (number.ends_with('h')) {
    unit = 3600;
    number.remove_suffix(1);
  }
  double value = 0;
  const auto [end, problem] = std::from_chars(number.data(), number.data() + number.size(), value);
  value *= unit;
  if (number.empty() || problem != std::errc() || end != number.data() + number.size() ||
      !(value >= 0) || value > 1e9) {
    return MakeError(ErrorCode::kInvalidArgument, "'{}' is not a duration: 500ms, 6s, 2m, 1h",
                     text);
  }
  const int64_t nanoseconds = std::llround(value * 1e9);
  to->set_seconds(nanoseconds / 1000000000);
  to->set_nanos(static_cast<int32_t>(nanoseconds % 1000000000));
  return Ok();
}

Result<SlashName> ParseSlashName(std::string_view text, std::string_view what) {
  const size_t slash = text.rfind('/');
  SlashName result;
  if (slash != std::string_view::npos && slash > 0) {
    auto number = ParseInteger<uint32_t>(text.substr(slash + 1));
    if (number) return SlashName{std::string(text.substr(0, slash)), *number};
  }
  return MakeError(ErrorCode::kInvalidArgument, "'{}' is no {}: write it as in r0/0", text, what);
}

}  // namespace umblock::ctl
