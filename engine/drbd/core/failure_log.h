// FailureLog: whether a connection's failure is worth a line in the log. A link that is refused or
// lost for the same reason at every attempt says so once, and then every kRepeat with a count.
// Threading: one reactor; the times come from the caller.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "engine/runtime/time.h"

namespace umblock::drbd {

class FailureLog {
 public:
  static constexpr Duration kRepeat = std::chrono::minutes(5);

  // A failure at `now`. What to log: nothing, or how often it has happened since the last line.
  std::optional<uint64_t> Add(std::string_view reason, Time now) {
    auto known = std::ranges::find(entries_, reason, &Entry::reason);
    if (known == entries_.end()) {
      // Both sides fail in turns, each with its own reason: a few are remembered, not one.
      std::ranges::rotate(entries_, entries_.end() - 1);
      entries_.front() = {std::string(reason), now, 0};
      return 1;
    }
    ++known->silent;
    if (now - known->logged < kRepeat) return std::nullopt;
    known->logged = now;
    return std::exchange(known->silent, 0);
  }

  // The link works, or somebody asked for it anew: the next failure is news.
  void Clear() { entries_ = {}; }

 private:
  struct Entry {
    std::string reason;
    Time logged{};
    uint64_t silent = 0;
  };
  std::array<Entry, 4> entries_;
};

}  // namespace umblock::drbd
