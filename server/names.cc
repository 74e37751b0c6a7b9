#include "server/names.h"

#include <algorithm>

#include "umblock/v1/common.pb.h"

namespace umblock::server {
namespace {

constexpr size_t kNameLimit = 64;
constexpr size_t kIscsiNameLimit = 223;

bool IsAlnum(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

// A name for a message: no control characters, not endless.
std::string Printable(std::string_view name) {
  std::string text;
  for (char c : name.substr(0, kNameLimit)) text += c >= 0x20 && c < 0x7f ? c : '?';
  if (name.size() > kNameLimit) text += "…";
  return text;
}

}  // namespace

std::string ResourceName(std::string_view resource) { return fmt::format("resource {}", resource); }

std::string VolumeName(std::string_view resource, uint32_t number) {
  return fmt::format("volume {}/{}", resource, number);
}

std::string ConnectionName(std::string_view resource, uint32_t peer_node_id) {
  return fmt::format("connection {}/{}", resource, peer_node_id);
}

std::string PeerVolumeName(std::string_view resource, uint32_t peer_node_id, uint32_t number) {
  return fmt::format("peer-volume {}/{}/{}", resource, peer_node_id, number);
}

std::string LunName(std::string_view target, uint32_t number) {
  return fmt::format("lun {}/{}", target, number);
}

std::string DescribeBacking(const v1::Backing& backing) {
  switch (backing.kind_case()) {
    case v1::Backing::kVolume:
      return VolumeName(backing.volume().resource(), backing.volume().number());
    case v1::Backing::kBackend:
      return fmt::format("backend {}", backing.backend());
    case v1::Backing::KIND_NOT_SET:
      break;
  }
  return "nothing";
}

Status CheckName(std::string_view noun, std::string_view name) {
  if (name.empty()) return MakeError(ErrorCode::kInvalidArgument, "{}: the name is missing", noun);
  const bool allowed =
      name.size() <= kNameLimit && IsAlnum(name.front()) && std::ranges::all_of(name, [](char c) {
        return IsAlnum(c) || c == '.' || c == '_' || c == '+' || c == '-';
      });
  if (!allowed) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "{} '{}': a name is 1 to {} of A-Z a-z 0-9 . _ + - and begins with a letter "
                     "or digit",
                     noun, Printable(name), kNameLimit);
  }
  if (name == "all") {
    return MakeError(ErrorCode::kInvalidArgument, "{} 'all': this name is reserved", noun);
  }
  return Ok();
}

Status CheckIscsiName(std::string_view name) {
  const bool allowed =
      name.size() <= kIscsiNameLimit && std::ranges::all_of(name, [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == ':' || c == '-';
      });
  const bool form = (name.starts_with("iqn.") && name.size() > 12 && name[8] == '-') ||
                    (name.starts_with("eui.") && name.size() == 20) ||
                    (name.starts_with("naa.") && (name.size() == 20 || name.size() == 36));
  if (allowed && form) return Ok();
  return MakeError(ErrorCode::kInvalidArgument,
                   "'{}' is no iSCSI name: use iqn.YYYY-MM.reversed.domain:anything in lower case, "
                   "at most {} bytes",
                   Printable(name), kIscsiNameLimit);
}

}  // namespace umblock::server
