// DoneQueue: ends BlockIos later, for a device that knows the outcome while it is in Submit.
//
// Uses the BlockIo's next and scratch. Threading: one reactor. It is empty when it is destroyed.
#pragma once

#include "engine/base/assert.h"
#include "engine/block/block_device.h"
#include "engine/runtime/reactor.h"

namespace umblock {

class DoneQueue : private Completion {
 public:
  explicit DoneQueue(Reactor& reactor) : Completion(&Run), reactor_(reactor) {}
  ~DoneQueue() { UMBLOCK_ASSERT(first_ == nullptr && !posted_, "every BlockIo has ended"); }

  // Calls io->done(io, error) from the reactor's loop, in the order of the calls.
  void Push(BlockIo* io, int error) {
    io->scratch = reinterpret_cast<void*>(static_cast<intptr_t>(error));
    io->next = nullptr;
    (last_ != nullptr ? last_->next : first_) = io;
    last_ = io;
    if (posted_) return;
    posted_ = true;
    reactor_.Post(this);
  }

 private:
  static void Run(Completion* self, int32_t) noexcept {
    auto* queue = static_cast<DoneQueue*>(self);
    BlockIo* next = queue->first_;
    queue->first_ = queue->last_ = nullptr;
    queue->posted_ = false;
    while (next != nullptr) {
      BlockIo* io = next;
      next = io->next;
      io->done(io, static_cast<int>(reinterpret_cast<intptr_t>(io->scratch)));
    }
  }

  Reactor& reactor_;
  BlockIo* first_ = nullptr;
  BlockIo* last_ = nullptr;
  bool posted_ = false;
};

}  // namespace umblock
