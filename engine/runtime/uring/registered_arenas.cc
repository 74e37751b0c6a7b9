#include "engine/runtime/uring/registered_arenas.h"

#include <algorithm>

namespace umblock {

void RegisteredArenas::OnArena(std::byte* base, size_t length) {
  if (!wanted_) return;
  auto index = static_cast<uint16_t>(entries_.size());
  if (!ring_.RegisterBuffer(index, base, length)) {
    wanted_ = false;
    logger_.Info(
        "io_uring: buffers beyond {} MiB are not registered (memlock limit, or more than the ring "
        "takes); to register more raise it (ulimit -l, LimitMEMLOCK=)",
        (entries_.size() * length) >> 20);
    return;
  }
  Entry entry{base, length, index};
  auto at = std::upper_bound(entries_.begin(), entries_.end(), entry,
                             [](const Entry& a, const Entry& b) { return a.base < b.base; });
  entries_.insert(at, entry);
}

std::optional<uint16_t> RegisteredArenas::IndexOf(const void* memory, size_t length) const {
  auto* first = static_cast<const std::byte*>(memory);
  auto after = std::upper_bound(
      entries_.begin(), entries_.end(), first,
      [](const std::byte* address, const Entry& entry) { return address < entry.base; });
  if (after == entries_.begin()) return std::nullopt;
  const Entry& entry = *(after - 1);
  if (first + length > entry.base + entry.length) return std::nullopt;
  return entry.index;
}

}  // namespace umblock
