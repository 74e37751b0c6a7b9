// SlotQueue: requests that wait, first come first served, linked through themselves: a slot is in
// one queue at a time. Threading: one reactor.
#pragma once

#include <utility>

#include "engine/fuse/request_slot.h"

namespace umblock {

class SlotQueue {
 public:
  bool empty() const { return first_ == nullptr; }
  RequestSlot* first() const { return first_; }
  void Push(RequestSlot* slot) {
    slot->next = nullptr;
    (first_ == nullptr ? first_ : last_->next) = slot;
    last_ = slot;
  }
  RequestSlot* Pop() {
    RequestSlot* slot = first_;
    first_ = std::exchange(slot->next, nullptr);
    return slot;
  }

 private:
  RequestSlot* first_ = nullptr;
  RequestSlot* last_ = nullptr;
};

}  // namespace umblock
