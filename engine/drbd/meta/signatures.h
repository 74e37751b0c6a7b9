// What a device seems to hold already, judged by well-known magic numbers near its beginning: so
// that creating metadata does not destroy somebody's data by mistake.
#pragma once

#include <optional>
#include <string_view>

#include "engine/base/bytes.h"

namespace umblock::drbd::meta {

// As much of the device's beginning as FindSignature wants to see.
inline constexpr size_t kSignatureBytes = 68 * 1024;

// "an ext2/3/4 filesystem" and so on, or nothing. `start` may be shorter than kSignatureBytes.
std::optional<std::string_view> FindSignature(Bytes start);

}  // namespace umblock::drbd::meta
