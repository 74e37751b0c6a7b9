#include "engine/iscsi/text.h"

#include <algorithm>
#include <charconv>

namespace umblock::iscsi {
namespace {

bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

// Key names: letters, digits and . - + @ _ (§6.1), starting with a letter.
bool ValidKey(std::string_view key) {
  if (key.empty() || key.size() > kMaxKeyName || !IsLetter(key[0])) return false;
  return std::ranges::all_of(key, [](char c) {
    return IsLetter(c) || IsDigit(c) || c == '.' || c == '-' || c == '+' || c == '@' || c == '_';
  });
}

int HexDigit(char c) {
  if (IsDigit(c)) return c - '0';
  char l = Lower(c);
  return l >= 'a' && l <= 'f' ? l - 'a' + 10 : -1;
}

int Base64Digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (IsDigit(c)) return c - '0' + 52;
  if (c == '+') return 62;
  return c == '/' ? 63 : -1;
}

std::optional<std::string> ParseHex(std::string_view digits, size_t limit) {
  if (digits.empty() || (digits.size() + 1) / 2 > limit) return std::nullopt;
  std::string bytes;
  size_t at = 0;
  if (digits.size() % 2 != 0) {  // a leading zero may be left out
    int digit = HexDigit(digits[at++]);
    if (digit < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(digit));
  }
  for (; at < digits.size(); at += 2) {
    int high = HexDigit(digits[at]), low = HexDigit(digits[at + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(high << 4 | low));
  }
  return bytes;
}

std::optional<std::string> ParseBase64(std::string_view digits, size_t limit) {
  while (!digits.empty() && digits.back() == '=') digits.remove_suffix(1);
  if (digits.empty() || digits.size() % 4 == 1 || digits.size() * 3 / 4 > limit) {
    return std::nullopt;
  }
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (char c : digits) {
    int digit = Base64Digit(c);
    if (digit < 0) return std::nullopt;
    bits = (bits << 6 | static_cast<uint32_t>(digit)) & 0xffffff;
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes.push_back(static_cast<char>(bits >> count & 0xff));
    }
  }
  return bytes;
}

}  // namespace

std::optional<std::vector<TextPair>> ParseText(std::string_view data) {
  std::vector<TextPair> pairs;
  while (!data.empty()) {
    size_t end = data.find('\0');
    if (end == std::string_view::npos) return std::nullopt;  // every pair ends with a NUL
    std::string_view pair = data.substr(0, end);
    data.remove_prefix(end + 1);
    if (pair.empty()) continue;  // padding
    size_t equals = pair.find('=');
    if (equals == std::string_view::npos || !ValidKey(pair.substr(0, equals))) return std::nullopt;
    if (pair.size() - equals - 1 > kMaxValue || pairs.size() == kMaxKeys) return std::nullopt;
    pairs.push_back({pair.substr(0, equals), pair.substr(equals + 1)});
  }
  return pairs;
}

std::optional<std::string_view> FindKey(const std::vector<TextPair>& pairs, std::string_view key) {
  auto at = std::ranges::find(pairs, key, &TextPair::key);
  if (at == pairs.end()) return std::nullopt;
  return at->value;
}

void AppendText(std::string_view key, std::string_view value, std::string* text) {
  text->append(key).push_back('=');
  text->append(value).push_back('\0');
}

std::optional<uint32_t> ParseNumber(std::string_view value) {
  int base = 10;
  if (value.starts_with("0x") || value.starts_with("0X")) {
    base = 16;
    value.remove_prefix(2);
  }
  uint32_t number = 0;
  auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number, base);
  if (error != std::errc() || end != value.data() + value.size() || value.empty()) {
    return std::nullopt;
  }
  return number;
}

std::optional<std::string> ParseBinary(std::string_view value, size_t limit) {
  if (value.size() < 3 || value[0] != '0') return std::nullopt;
  char kind = Lower(value[1]);
  if (kind == 'x') return ParseHex(value.substr(2), limit);
  if (kind == 'b') return ParseBase64(value.substr(2), limit);
  return std::nullopt;
}

std::string FormatHex(std::string_view bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "0x";
  for (char c : bytes) {
    text.push_back(kDigits[static_cast<uint8_t>(c) >> 4]);
    text.push_back(kDigits[static_cast<uint8_t>(c) & 15]);
  }
  return text;
}

bool ListNames(std::string_view list, std::string_view item) {
  while (true) {
    size_t comma = list.find(',');
    if (list.substr(0, comma) == item) return true;
    if (comma == std::string_view::npos) return false;
    list.remove_prefix(comma + 1);
  }
}

bool ValidName(std::string_view name) {
  if (name.size() < 5 || name.size() > 223) return false;
  std::string prefix = NormalizeName(name.substr(0, 4));
  if (prefix != "iqn." && prefix != "eui." && prefix != "naa.") return false;
  return std::ranges::all_of(
      name, [](char c) { return IsLetter(c) || IsDigit(c) || c == '-' || c == '.' || c == ':'; });
}

std::string NormalizeName(std::string_view name) {
  std::string lower(name);
  std::ranges::transform(lower, lower.begin(), Lower);
  return lower;
}

}  // namespace umblock::iscsi
