// key=value text of Login and Text PDUs (RFC 7143 §6.1, §6.2).
//
// ParseText cuts a data segment into pairs that point into it, and bounds everything: at most
// kMaxKeys pairs, key names of at most 63 bytes, values of at most kMaxValue bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace umblock::iscsi {

inline constexpr size_t kMaxKeys = 64;
inline constexpr size_t kMaxKeyName = 63;
inline constexpr size_t kMaxValue = 8192;

struct TextPair {
  std::string_view key;
  std::string_view value;
};

// nullopt: not text by those rules.
std::optional<std::vector<TextPair>> ParseText(std::string_view data);
// The value of the first pair with that key.
std::optional<std::string_view> FindKey(const std::vector<TextPair>& pairs, std::string_view key);

// "key=value\0"
void AppendText(std::string_view key, std::string_view value, std::string* text);

// A decimal or 0x number that fits (RFC 7143 §6.1).
std::optional<uint32_t> ParseNumber(std::string_view value);
// A binary value: 0x… or 0b… (base64). At most `limit` bytes.
std::optional<std::string> ParseBinary(std::string_view value, size_t limit);
std::string FormatHex(std::string_view bytes);

// True if `list` ("a,b,c") names `item`.
bool ListNames(std::string_view list, std::string_view item);

// An iSCSI name (RFC 7143 §4.2.7): "iqn.", "eui." or "naa.", at most 223 bytes, of letters, digits,
// '-', '.' and ':'.
bool ValidName(std::string_view name);
// In lower case: names are compared so (RFC 3722).
std::string NormalizeName(std::string_view name);

}  // namespace umblock::iscsi
