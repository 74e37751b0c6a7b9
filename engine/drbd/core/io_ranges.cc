#include "engine/drbd/core/io_ranges.h"

#include <algorithm>
#include <utility>

#include "engine/base/assert.h"

namespace umblock::drbd {

namespace {

bool IsWrite(RangeKind kind) {
  return kind == RangeKind::kLocalWrite || kind == RangeKind::kPeerWrite ||
         kind == RangeKind::kResyncWrite;
}

}  // namespace

RangeTable::~RangeTable() { UMBLOCK_ASSERT(empty(), "no I/O is in flight when its table goes"); }

// Does `other`, overlapping, stand in the way of a range of this kind (G.3)?
bool RangeTable::Matters(RangeKind kind, int peer, bool awaiting_reply, const IoRange& other) {
  if (other.kind_ == RangeKind::kPeerRead) return false;
  switch (kind) {
    case RangeKind::kPeerWrite:
      // The reply that the resync block waits for comes behind this write on the same stream and
      // contains it.
      return !(other.kind_ == RangeKind::kResyncWrite && other.awaiting_reply_ &&
               other.peer_ == peer);
    case RangeKind::kResyncWrite:
      // A request may overtake writes of the node it goes to; the data that comes may not.
      return !(awaiting_reply && other.kind_ == RangeKind::kPeerWrite && other.peer_ == peer);
    case RangeKind::kResyncRead:
      return other.kind_ != RangeKind::kResyncRead;
    case RangeKind::kPeerRead:
      return other.kind_ == RangeKind::kPeerWrite;
    case RangeKind::kVerify:
      return IsWrite(other.kind_);
    case RangeKind::kLocalWrite:
      return true;
  }
  return true;
}

bool RangeTable::MustWaitIn(const Set& set, uint64_t longest, RangeKind kind, int peer,
                            bool awaiting_reply, uint64_t sequence, uint64_t first, uint64_t end,
                            const IoRange* self) {
  IoRange key;
  key.first_ = first > longest ? first - longest : 0;
  for (auto it = set.lower_bound(key); it != set.end() && it->first_ < end; ++it) {
    const IoRange& other = *it;
    if (&other == self || other.end_ <= first) continue;
    if (!Matters(kind, peer, awaiting_reply, other)) continue;
    if (other.state_ == IoRange::State::kGranted || other.sequence_ < sequence) return true;
  }
  return false;
}

bool RangeTable::MustWait(RangeKind kind, int peer, bool awaiting_reply, uint64_t sequence,
                          uint64_t first, uint64_t end, const IoRange* self) const {
  return MustWaitIn(small_, kSmallSectors, kind, peer, awaiting_reply, sequence, first, end,
                    self) ||
         MustWaitIn(large_, kLargeSectors, kind, peer, awaiting_reply, sequence, first, end, self);
}

bool RangeTable::WouldWait(RangeKind kind, int peer, uint64_t first, uint64_t end) const {
  return MustWait(kind, peer, kind == RangeKind::kResyncWrite, next_sequence_, first, end, nullptr);
}

bool RangeTable::Insert(IoRange* range, RangeKind kind, int peer, uint64_t first, uint64_t end,
                        IoRange::GrantedFn granted) {
  UMBLOCK_ASSERT(range->state_ == IoRange::State::kOutside, "a range is in the table once");
  UMBLOCK_ASSERT(first < end && end - first <= kLargeSectors, "a range has 1 sector to 128 MiB");
  range->first_ = first;
  range->end_ = end;
  range->kind_ = kind;
  range->peer_ = static_cast<int8_t>(peer);
  range->granted_fn_ = granted;
  range->awaiting_reply_ = kind == RangeKind::kResyncWrite;
  range->sequence_ = next_sequence_++;
  bool wait = MustWait(kind, peer, range->awaiting_reply_, range->sequence_, first, end, nullptr);
  range->touched_ = false;
  if (kind == RangeKind::kVerify) {
    range->touched_ = std::exchange(wait, false);
    longest_verified_ = std::max(longest_verified_, end - first);
  } else if (!verified_.empty() && IsWrite(kind)) {
    TouchVerified(first, end);
  }
  SetFor(*range).insert(*range);
  range->state_ = wait ? IoRange::State::kWaiting : IoRange::State::kGranted;
  if (wait) waiting_.push_back(*range);
  return !wait;
}

bool RangeTable::Restage(IoRange* range, IoRange::GrantedFn granted) {
  UMBLOCK_ASSERT(range->granted() && range->awaiting_reply_, "a reply answers a request");
  range->awaiting_reply_ = false;
  range->granted_fn_ = granted;
  // It keeps its place: a write of the front that came after the request is newer than the reply
  // and waits until the block is written, or the old data would end up on top (INV-27).
  if (!MustWait(range->kind_, range->peer_, false, range->sequence_, range->first_, range->end_,
                range)) {
    return true;
  }
  range->state_ = IoRange::State::kWaiting;
  auto at = std::find_if(waiting_.begin(), waiting_.end(), [range](const IoRange& other) {
    return other.sequence_ > range->sequence_;
  });
  waiting_.insert(at, *range);
  return false;
}

void RangeTable::Remove(IoRange* range) {
  UMBLOCK_ASSERT(range->inserted(), "a range leaves the table once");
  if (range->state_ == IoRange::State::kWaiting) {
    waiting_.erase(waiting_.iterator_to(*range));
  }
  Set& set = SetFor(*range);
  set.erase(set.iterator_to(*range));
  range->state_ = IoRange::State::kOutside;
  if (range->kind_ != RangeKind::kVerify) {
    GrantWaiting();
  } else if (verified_.empty()) {
    longest_verified_ = 0;
  }
}

void RangeTable::TouchVerified(uint64_t first, uint64_t end) {
  IoRange key;
  key.first_ = first > longest_verified_ ? first - longest_verified_ : 0;
  for (auto it = verified_.lower_bound(key); it != verified_.end() && it->first_ < end; ++it) {
    if (it->end_ > first) it->touched_ = true;
  }
}

void RangeTable::GrantWaiting() {
  // A granted owner may remove its range from inside its callback.
  if (granting_) {
    grant_again_ = true;
    return;
  }
  granting_ = true;
  do {
    grant_again_ = false;
    auto it = waiting_.begin();
    while (it != waiting_.end()) {
      IoRange& range = *it;
      if (MustWait(range.kind_, range.peer_, range.awaiting_reply_, range.sequence_, range.first_,
                   range.end_, &range)) {
        ++it;
        continue;
      }
      range.state_ = IoRange::State::kGranted;
      waiting_.erase(it);
      range.granted_fn_(&range);
      // The callback may have changed the list: look at it from the start.
      grant_again_ = true;
      break;
    }
  } while (grant_again_);
  granting_ = false;
}

}  // namespace umblock::drbd
