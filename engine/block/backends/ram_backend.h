// RamBackend: memory that outlives the daemon, as a device.
//
// Every request is a copy, made from the reactor's loop in the order of submission, so a request
// sees all those submitted before it. What completed is as stable as it will ever be: it survives
// the daemon's crash or restart, and the machine's only as far as the file system under the mapping
// does; a flush does nothing and geometry() shows no volatile cache. A discard is not offered,
// because the memory stays reserved.
#pragma once

#include <memory>

#include "engine/block/backends/backend.h"
#include "engine/block/done_queue.h"
#include "engine/runtime/mapped_memory.h"
#include "engine/runtime/sync.h"

namespace umblock {

class RamBackend final : public Backend {
 public:
  RamBackend(Reactor& reactor, std::string name, std::unique_ptr<MappedMemory> memory);
  ~RamBackend() override;

  void Submit(BlockIo* io) noexcept override;
  Task<void> Stop() override;

 private:
  Task<Result<uint64_t>> GrowBelow(uint64_t bytes) override;

  struct Work : Completion {
    explicit Work(RamBackend* b);
    RamBackend* backend;
  };

  void RunSome();
  uint64_t DoSome(BlockIo* io, uint64_t limit);

  std::unique_ptr<MappedMemory> memory_;
  BlockIo* first_ = nullptr;
  BlockIo* last_ = nullptr;
  uint64_t progress_ = 0;  // bytes of first_
  Work work_{this};
  bool posted_ = false;
  bool growing_ = false;
  DoneQueue refused_;
  WaitQueue idle_;
};

}  // namespace umblock
