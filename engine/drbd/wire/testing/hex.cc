#include "engine/drbd/wire/testing/hex.h"

#include <charconv>

#include "engine/base/assert.h"

namespace umblock::drbd::wire::testing {
namespace {

std::byte ByteOf(std::string_view two_digits) {
  unsigned value = 0;
  const auto [end, error] =
      std::from_chars(two_digits.data(), two_digits.data() + two_digits.size(), value, 16);
  UMBLOCK_ASSERT(two_digits.size() == 2 && error == std::errc{} &&
                     end == two_digits.data() + two_digits.size(),
                 "a byte row consists of pairs of hexadecimal digits");
  return static_cast<std::byte>(value);
}

}  // namespace

std::vector<std::byte> Hex(std::string_view text) {
  std::vector<std::byte> bytes;
  while (!text.empty()) {
    if (text.front() == ' ' || text.front() == '\n') {
      text.remove_prefix(1);
    } else if (text.front() == '(') {
      size_t count = 0;
      const size_t times = text.find(" x ");
      const size_t close = text.find(')');
      UMBLOCK_ASSERT(times != std::string_view::npos && close == times + 5,
                     "a repetition is written (48 x 00)");
      std::from_chars(text.data() + 1, text.data() + times, count);
      bytes.insert(bytes.end(), count, ByteOf(text.substr(times + 3, 2)));
      text.remove_prefix(close + 1);
    } else {
      bytes.push_back(ByteOf(text.substr(0, 2)));
      text.remove_prefix(2);
    }
  }
  return bytes;
}

std::string ToHex(Bytes bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const std::byte b : bytes) {
    text += kDigits[static_cast<unsigned>(b) >> 4];
    text += kDigits[static_cast<unsigned>(b) & 15];
  }
  return text;
}

}  // namespace umblock::drbd::wire::testing
