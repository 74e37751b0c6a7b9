// What the gRPC services share: the node, and the bounds on calls and on waits at a time. A wait
// may last a day, so waits have a bound of their own: they never keep a promotion out.
#pragma once

#include <atomic>
#include <cstdint>

namespace umblock::server {

class Node;

struct CallBound {
  uint32_t limit = 256;
  std::atomic<uint32_t> taken{0};
};

struct ApiContext {
  Node* node = nullptr;
  CallBound calls;
  CallBound waits;
};

// One slot of the bound, if there was one left.
class CallSlot {
 public:
  explicit CallSlot(CallBound* bound) : bound_(bound) {
    admitted_ = bound_->taken.fetch_add(1, std::memory_order_relaxed) < bound_->limit;
  }
  CallSlot(const CallSlot&) = delete;
  CallSlot& operator=(const CallSlot&) = delete;
  ~CallSlot() { bound_->taken.fetch_sub(1, std::memory_order_relaxed); }
  bool admitted() const { return admitted_; }

 private:
  CallBound* bound_;
  bool admitted_;
};

}  // namespace umblock::server
