// HeapMemory: MappedMemory for tests, gone with the test.
#pragma once

#include <vector>

#include "engine/runtime/mapped_memory.h"

namespace umblock {

class HeapMemory final : public MappedMemory {
 public:
  explicit HeapMemory(size_t bytes) : bytes_(bytes) {}
  MutableBytes bytes() override { return bytes_; }
  Task<void> Close() override { co_return; }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace umblock
