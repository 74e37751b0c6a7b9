// For the files of MetaStore only: counts a running call, so that Stop and the destructor know.
#pragma once

#include "engine/drbd/meta/meta_store.h"

namespace umblock::drbd::meta {

class MetaStore::Operation {
 public:
  explicit Operation(MetaStore& store) : store_(store) { ++store_.operations_; }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  ~Operation() {
    if (--store_.operations_ == 0) store_.idle_.NotifyAll();
  }

 private:
  MetaStore& store_;
};

}  // namespace umblock::drbd::meta
