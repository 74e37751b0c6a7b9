// What the gRPC services share: the node, and the bound on calls at a time.
#pragma once

#include <atomic>
#include <cstdint>

namespace umblock::server {

class Node;

struct ApiContext {
  Node* node = nullptr;
  uint32_t max_calls = 256;
  std::atomic<uint32_t> calls{0};
};

// One slot of the bound, if there was one left.
class CallSlot {
 public:
  explicit CallSlot(ApiContext* api) : api_(api) {
    admitted_ = api_->calls.fetch_add(1, std::memory_order_relaxed) < api_->max_calls;
  }
  CallSlot(const CallSlot&) = delete;
  CallSlot& operator=(const CallSlot&) = delete;
  ~CallSlot() { api_->calls.fetch_sub(1, std::memory_order_relaxed); }
  bool admitted() const { return admitted_; }

 private:
  ApiContext* api_;
  bool admitted_;
};

}  // namespace umblock::server
