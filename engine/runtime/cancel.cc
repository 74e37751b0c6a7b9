#include "engine/runtime/cancel.h"

#include "engine/base/assert.h"

namespace umblock {

CancelSource::~CancelSource() {
  UMBLOCK_ASSERT(first_ == nullptr, "nobody waits on a cancel source that goes away");
}

void CancelSource::Cancel() noexcept {
  requested_ = true;
  while (first_ != nullptr) {
    CancelCallback* callback = first_;
    callback->Unregister();
    callback->fn_(callback);
  }
}

void CancelCallback::Register(CancelToken token) {
  UMBLOCK_ASSERT(source_ == nullptr, "a cancel callback is registered once");
  if (token.source_ == nullptr) return;
  UMBLOCK_ASSERT(!token.requested(), "registering after the cancel would wait for ever");
  source_ = token.source_;
  next_ = source_->first_;
  if (next_ != nullptr) next_->previous_ = this;
  source_->first_ = this;
}

void CancelCallback::Unregister() noexcept {
  if (source_ == nullptr) return;
  if (next_ != nullptr) next_->previous_ = previous_;
  if (previous_ != nullptr) {
    previous_->next_ = next_;
  } else {
    source_->first_ = next_;
  }
  source_ = nullptr;
  previous_ = nullptr;
  next_ = nullptr;
}

}  // namespace umblock
