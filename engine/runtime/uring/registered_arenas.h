// RegisteredArenas: which memory of the buffer pool a ring knows, so that file operations on it
// need not pin pages each time.
//
// Registering counts against the memlock limit (unless the process has CAP_IPC_LOCK). The first
// refusal is logged once and ends the attempts: the rest runs unregistered.
#pragma once

#include <optional>
#include <vector>

#include "engine/base/log.h"
#include "engine/runtime/buffer_pool.h"
#include "engine/runtime/uring/ring.h"

namespace umblock {

class RegisteredArenas final : public ArenaObserver {
 public:
  RegisteredArenas(Ring& ring, Logger& logger, bool wanted)
      : ring_(ring), logger_(logger), wanted_(wanted) {}

  void OnArena(std::byte* base, size_t length) override;
  // The ring's index for memory that lies in one registered arena.
  std::optional<uint16_t> IndexOf(const void* memory, size_t length) const;

 private:
  struct Entry {
    const std::byte* base;
    size_t length;
    uint16_t index;
  };

  Ring& ring_;
  Logger& logger_;
  bool wanted_;
  std::vector<Entry> entries_;  // by base: binary search
};

}  // namespace umblock
