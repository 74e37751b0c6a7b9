#include "engine/drbd/meta/activity_log.h"

#include <algorithm>
#include <bit>

#include "engine/base/assert.h"
#include "engine/drbd/meta/geometry.h"

namespace umblock::drbd::meta {

ActivityLog::ActivityLog(uint32_t slots, uint32_t first_number)
    : slots_(slots), buckets_(std::bit_ceil(slots), kNone), next_number_(first_number) {
  UMBLOCK_ASSERT(slots >= kMinAlExtents && slots <= kMaxAlExtents, "67 to 65534 slots");
}

ActivityLog::~ActivityLog() {
  UMBLOCK_ASSERT(!in_flight_ && queue_.empty() && joined_.empty(),
                 "an activity log goes only when nobody waits on it");
}

// --- slots ---------------------------------------------------------------------------------------

uint32_t ActivityLog::Bucket(uint32_t extent) const {
  return static_cast<uint32_t>((extent * 0x9E3779B97F4A7C15ULL) >> 32) &
         (static_cast<uint32_t>(buckets_.size()) - 1);
}

ActivityLog::Index ActivityLog::Find(uint32_t extent) const {
  Index index = buckets_[Bucket(extent)];
  while (index != kNone && slots_[index].extent != extent) index = slots_[index].chain;
  return index;
}

void ActivityLog::HashInsert(Index index) {
  Index& head = buckets_[Bucket(slots_[index].extent)];
  slots_[index].chain = head;
  head = index;
}

void ActivityLog::HashRemove(Index index) {
  Index* link = &buckets_[Bucket(slots_[index].extent)];
  while (*link != index) link = &slots_[*link].chain;
  *link = slots_[index].chain;
  slots_[index].chain = kNone;
}

void ActivityLog::LruUnlink(Index index) {
  Slot& slot = slots_[index];
  (slot.older == kNone ? oldest_ : slots_[slot.older].newer) = slot.newer;
  (slot.newer == kNone ? newest_ : slots_[slot.newer].older) = slot.older;
  slot.older = slot.newer = kNone;
  --evictable_;
}

void ActivityLog::LruPushNewest(Index index) {
  Slot& slot = slots_[index];
  slot.older = newest_;
  (newest_ == kNone ? oldest_ : slots_[newest_].newer) = index;
  newest_ = index;
  ++evictable_;
}

void ActivityLog::Reference(Index index) {
  Slot& slot = slots_[index];
  if (slot.references++ != 0) return;
  ++referenced_;
  if (slot.state == SlotState::kHot) LruUnlink(index);
}

void ActivityLog::Unreference(Index index) {
  Slot& slot = slots_[index];
  UMBLOCK_ASSERT(slot.references > 0, "only what was acquired is released");
  if (--slot.references != 0) return;
  --referenced_;
  if (slot.state == SlotState::kHot) LruPushNewest(index);
}

// --- requests ------------------------------------------------------------------------------------

ActivityLog::Presence ActivityLog::Look(uint32_t first, uint32_t last) const {
  Presence presence = Presence::kAllHot;
  for (uint32_t extent = first; extent <= last; ++extent) {
    const Index index = Find(extent);
    if (index == kNone) return Presence::kNeedsChange;
    if (slots_[index].state == SlotState::kPending) presence = Presence::kHotOrPending;
  }
  return presence;
}

void ActivityLog::ReferenceAll(uint32_t first, uint32_t last) {
  for (uint32_t extent = first; extent <= last; ++extent) Reference(Find(extent));
}

bool ActivityLog::TryAcquire(uint32_t first, uint32_t last) {
  UMBLOCK_ASSERT(first <= last && last - first < kMaxExtentsPerRequest && last < kAlNoExtent,
                 "a request touches 1 to 64 extents");
  if (failed_) return false;
  if (starving_ && granted_while_starving_ >= kStarvationPatience) return false;
  if (Look(first, last) != Presence::kAllHot) return false;
  ReferenceAll(first, last);
  if (starving_) ++granted_while_starving_;
  ++counters_.hits;
  return true;
}

ActivityLog::Outcome ActivityLog::Acquire(uint32_t first, uint32_t last, AlWaiter* waiter) {
  if (TryAcquire(first, last)) return Outcome::kHot;
  if (failed_) return Outcome::kFailed;
  waiter->first_ = first;
  waiter->last_ = last;
  waiter->granted_ = false;
  ++counters_.misses;
  const bool patient = !starving_ || granted_while_starving_ < kStarvationPatience;
  if (patient && Look(first, last) == Presence::kHotOrPending) {
    // The transaction in flight brings the rest; no other one is needed.
    ReferenceAll(first, last);
    if (starving_) ++granted_while_starving_;
    waiter->joined_ = true;
    joined_.push_back(*waiter);
  } else {
    waiter->joined_ = false;
    queue_.push_back(*waiter);
  }
  return Outcome::kQueued;
}

bool ActivityLog::Release(uint32_t first, uint32_t last) {
  bool evictable = false;
  for (uint32_t extent = first; extent <= last; ++extent) {
    const Index index = Find(extent);
    UMBLOCK_ASSERT(index != kNone, "a referenced extent is never evicted");
    Unreference(index);
    evictable = evictable || slots_[index].references == 0;
  }
  return evictable && !in_flight_ && !queue_.empty();
}

bool ActivityLog::Cancel(AlWaiter* waiter) {
  UMBLOCK_ASSERT(waiter->is_linked(), "only who waits can stop waiting");
  if (waiter->joined_) return false;
  if (starving_ && waiter == &queue_.front()) starving_ = false;
  queue_.erase(queue_.iterator_to(*waiter));
  return true;
}

// --- transactions --------------------------------------------------------------------------------

ActivityLog::Index ActivityLog::TakeSlot() {
  if (next_free_ < slots_.size()) {
    ++used_;
    return static_cast<Index>(next_free_++);
  }
  const Index index = oldest_;
  UMBLOCK_ASSERT(index != kNone && slots_[index].references == 0, "INV-5: only unreferenced slots");
  LruUnlink(index);
  HashRemove(index);
  batch_.evicted_extents[batch_.evicted_count++] = slots_[index].extent;
  ++counters_.evictions;
  return index;
}

void ActivityLog::BringIn(uint32_t extent) {
  const Index index = TakeSlot();
  Slot& slot = slots_[index];
  slot.extent = extent;
  slot.state = SlotState::kPending;
  HashInsert(index);
  Reference(index);
  AlTransaction& tr = batch_.transaction;
  tr.updates[tr.update_count++] = {index, extent};
}

ActivityLog::Admission ActivityLog::TryAdmit(AlWaiter& waiter) {
  uint32_t changes = 0;
  uint32_t own_unreferenced = 0;
  bool pending = false;
  for (uint32_t extent = waiter.first_; extent <= waiter.last_; ++extent) {
    const Index index = Find(extent);
    if (index == kNone) {
      ++changes;
    } else if (slots_[index].state == SlotState::kPending) {
      pending = true;
    } else if (slots_[index].references == 0) {
      ++own_unreferenced;
    }
  }
  if (batch_.transaction.update_count + changes > kAlUpdatesPerTransaction) {
    return Admission::kBatchFull;
  }
  const uint32_t free = slots() - next_free_;
  if (changes > free + evictable_ - own_unreferenced) return Admission::kNoSlot;
  // What it has comes first, so that bringing in the rest cannot evict it.
  for (uint32_t extent = waiter.first_; extent <= waiter.last_; ++extent) {
    if (const Index index = Find(extent); index != kNone) {
      Reference(index);
    }
  }
  if (changes == 0) return pending ? Admission::kJoined : Admission::kHot;
  // Extents of this waiter that are evicted meanwhile cannot exist: all found ones are referenced.
  for (uint32_t extent = waiter.first_; extent <= waiter.last_; ++extent) {
    if (Find(extent) == kNone) BringIn(extent);
  }
  return Admission::kJoined;
}

void ActivityLog::FillContext() {
  AlTransaction& tr = batch_.transaction;
  tr.context_size = static_cast<uint16_t>(slots());
  tr.context_start = static_cast<uint16_t>(context_cursor_);
  const size_t count = std::min<size_t>(kAlContextPerTransaction, slots() - context_cursor_);
  for (size_t i = 0; i < kAlContextPerTransaction; ++i) {
    tr.context[i] = i < count ? slots_[context_cursor_ + i].on_disk : kAlNoExtent;
  }
}

const AlBatch* ActivityLog::NextTransaction(AlWaiterList* released) {
  UMBLOCK_ASSERT(!in_flight_, "one transaction at a time");
  UMBLOCK_ASSERT(joined_.empty(), "nobody belongs to a transaction that does not exist");
  if (queue_.empty()) return nullptr;
  AlTransaction& tr = batch_.transaction;
  tr.update_count = 0;
  batch_.evicted_count = 0;
  while (!queue_.empty()) {
    AlWaiter& waiter = queue_.front();
    const Admission admission = TryAdmit(waiter);
    if (admission == Admission::kBatchFull) {
      starving_ = false;
      break;
    }
    if (admission == Admission::kNoSlot) {
      if (!starving_) {
        ++counters_.starved;
        granted_while_starving_ = 0;
      }
      starving_ = true;
      break;
    }
    starving_ = false;
    queue_.pop_front();
    if (admission == Admission::kJoined) {
      waiter.joined_ = true;
      joined_.push_back(waiter);
    } else {
      waiter.granted_ = true;
      released->push_back(waiter);
    }
  }
  if (tr.update_count == 0) return nullptr;
  for (size_t i = tr.update_count; i < kAlUpdatesPerTransaction; ++i) tr.updates[i] = {};
  tr.number = next_number_;
  FillContext();
  in_flight_ = true;
  return &batch_;
}

void ActivityLog::TransactionDurable(AlWaiterList* released) {
  UMBLOCK_ASSERT(in_flight_, "only a transaction in flight becomes durable");
  const AlTransaction& tr = batch_.transaction;
  for (size_t i = 0; i < tr.update_count; ++i) {
    Slot& slot = slots_[tr.updates[i].slot];
    slot.on_disk = slot.extent;
    slot.state = SlotState::kHot;
  }
  counters_.updates += tr.update_count;
  ++counters_.transactions;
  ++next_number_;
  context_cursor_ += kAlContextPerTransaction;
  if (context_cursor_ >= slots()) context_cursor_ = 0;
  in_flight_ = false;
  for (AlWaiter& waiter : joined_) waiter.granted_ = true;
  released->splice(released->end(), joined_);
}

void ActivityLog::TransactionFailed(AlWaiterList* released) {
  UMBLOCK_ASSERT(in_flight_, "only a transaction in flight fails");
  in_flight_ = false;
  Fail(released);
}

void ActivityLog::Fail(AlWaiterList* released) {
  UMBLOCK_ASSERT(!in_flight_, "the transaction in flight ends first");
  failed_ = true;
  starving_ = false;
  for (AlWaiter& waiter : joined_) {
    for (uint32_t extent = waiter.first_; extent <= waiter.last_; ++extent) {
      Unreference(Find(extent));
    }
  }
  released->splice(released->end(), joined_);
  released->splice(released->end(), queue_);
}

// --- looking -------------------------------------------------------------------------------------

bool ActivityLog::IsHot(uint32_t extent) const {
  const Index index = Find(extent);
  return index != kNone && slots_[index].state == SlotState::kHot;
}

uint32_t ActivityLog::References(uint32_t extent) const {
  const Index index = Find(extent);
  return index == kNone ? 0 : slots_[index].references;
}

std::vector<uint32_t> ActivityLog::ReferencedExtents() const {
  std::vector<uint32_t> extents;
  for (const Slot& slot : slots_) {
    if (slot.references > 0) extents.push_back(slot.extent);
  }
  return extents;
}

}  // namespace umblock::drbd::meta
