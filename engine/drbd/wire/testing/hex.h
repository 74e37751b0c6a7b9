// Byte rows as the specification prints them. Tests only.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/bytes.h"

namespace umblock::drbd::wire::testing {

// "8620ec20 0000 000e" -> bytes; white space is skipped. "(48 x 00)" repeats a byte. Anything else
// is a mistake in the test and aborts.
std::vector<std::byte> Hex(std::string_view text);

// Lower case, without spaces.
std::string ToHex(Bytes bytes);

}  // namespace umblock::drbd::wire::testing
