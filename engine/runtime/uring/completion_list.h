// CompletionList: a first-in-first-out list of Completions, linked through themselves.
#pragma once

#include "engine/runtime/completion.h"

namespace umblock {

class CompletionList {
 public:
  bool empty() const { return head_ == nullptr; }

  void PushBack(Completion* completion) {
    completion->next = nullptr;
    (tail_ != nullptr ? tail_->next : head_) = completion;
    tail_ = completion;
  }

  Completion* PopFront() {
    Completion* first = head_;
    head_ = first->next;
    if (head_ == nullptr) tail_ = nullptr;
    first->next = nullptr;
    return first;
  }

  // Puts `others` before what is in this list.
  void Prepend(CompletionList&& others) {
    if (others.empty()) return;
    others.tail_->next = head_;
    if (tail_ == nullptr) tail_ = others.tail_;
    head_ = others.head_;
    others.head_ = others.tail_ = nullptr;
  }

  CompletionList TakeAll() {
    CompletionList all = *this;
    head_ = tail_ = nullptr;
    return all;
  }

 private:
  Completion* head_ = nullptr;
  Completion* tail_ = nullptr;
};

}  // namespace umblock
