#include "engine/runtime/channel.h"

#include <utility>

#include "engine/base/assert.h"
#include "engine/runtime/reactor.h"

namespace umblock {

Channel::Channel(Reactor& from, Reactor& to)
    : from_(from),
      to_(to),
      flush_([](Completion* self, int32_t) noexcept { static_cast<Bell*>(self)->channel->Flush(); },
             this),
      deliver_(
          [](Completion* self, int32_t) noexcept { static_cast<Bell*>(self)->channel->Deliver(); },
          this) {}

Channel::~Channel() {
  UMBLOCK_ASSERT(newest_ == nullptr && arrived_.load() == nullptr,
                 "a channel is empty when it goes");
}

void Channel::Send(Completion* message, int32_t result) {
  message->result = result;
  message->next = newest_;
  if (newest_ == nullptr) {
    oldest_ = message;
    from_.PostAtTurnEnd(&flush_);
  }
  newest_ = message;
}

void Channel::Flush() {
  Completion* newest = std::exchange(newest_, nullptr);
  Completion* oldest = std::exchange(oldest_, nullptr);
  Completion* head = arrived_.load(std::memory_order_relaxed);
  do {
    oldest->next = head;
  } while (!arrived_.compare_exchange_weak(head, newest, std::memory_order_acq_rel,
                                           std::memory_order_relaxed));
  // If there were messages, their bell rings for these too, and may have rung already: then the
  // channel may be gone. Otherwise nobody rings but us.
  if (head == nullptr) to_.PostFromAnyThread(&deliver_);
}

void Channel::Deliver() {
  Completion* newest = arrived_.exchange(nullptr, std::memory_order_acq_rel);
  Completion* next = nullptr;
  while (newest != nullptr) {
    Completion* before = newest->next;
    newest->next = next;
    next = newest;
    newest = before;
  }
  while (next != nullptr) {
    Completion* message = next;
    next = message->next;
    message->next = nullptr;
    message->fn(message, message->result);
  }
}

}  // namespace umblock
