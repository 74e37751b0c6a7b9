// PostQueue: completions handed from any thread to one reactor, without locks or allocation.
//
// Producers push onto a stack; the one consumer takes the whole stack at once and turns it round,
// so that each producer's completions keep their order. Since the consumer never pops single
// entries, an entry may be pushed again as soon as it has been taken (no ABA).
#pragma once

#include <atomic>

#include "engine/runtime/completion.h"

namespace umblock {

class PostQueue {
 public:
  // Any thread. True if the queue was empty: then the producer is the one who wakes the consumer.
  bool Push(Completion* completion) {
    Completion* head = head_.load(std::memory_order_relaxed);
    do {
      completion->next = head;
    } while (!head_.compare_exchange_weak(head, completion, std::memory_order_seq_cst,
                                          std::memory_order_relaxed));
    return head == nullptr;
  }

  // Consumer. Ordered after an earlier seq_cst store, so that 'I sleep now' followed by empty()
  // and a producer's Push followed by 'does it sleep?' cannot miss each other.
  bool empty() const { return head_.load(std::memory_order_seq_cst) == nullptr; }

  // Consumer. The oldest first, linked by next; null if there is nothing.
  Completion* TakeAll() {
    if (head_.load(std::memory_order_relaxed) == nullptr) return nullptr;
    Completion* newest = head_.exchange(nullptr, std::memory_order_seq_cst);
    Completion* oldest = nullptr;
    while (newest != nullptr) {
      Completion* next = newest->next;
      newest->next = oldest;
      oldest = newest;
      newest = next;
    }
    return oldest;
  }

 private:
  std::atomic<Completion*> head_{nullptr};
};

}  // namespace umblock
