#include "engine/block/backends/range_lock.h"

namespace umblock {

bool RangeLock::MustWait(const Holder& holder, List::iterator before) {
  for (const Holder& other : held_) {
    if (Conflict(holder, other)) return true;
  }
  for (auto other = waiting_.begin(); other != before; ++other) {
    if (Conflict(holder, *other)) return true;
  }
  return false;
}

bool RangeLock::Acquire(Holder* holder) {
  if (holder->exclusive) ++exclusive_;
  if (exclusive_ != 0 && MustWait(*holder, waiting_.end())) {
    waiting_.push_back(*holder);
    return false;
  }
  held_.push_back(*holder);
  return true;
}

void RangeLock::Release(Holder* holder) {
  held_.erase(held_.iterator_to(*holder));
  if (holder->exclusive) --exclusive_;
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    auto candidate = at++;
    if (MustWait(*candidate, candidate)) continue;
    Holder& next = *candidate;
    waiting_.erase(candidate);
    held_.push_back(next);
    next.granted(&next);
  }
}

}  // namespace umblock
