// UringReactor::MapMemory: reserves, locks and maps a file, on a thread that may block.
#pragma once

#include <memory>

#include "engine/base/error.h"
#include "engine/runtime/mapped_memory.h"

namespace umblock {

class Reactor;

Task<Result<std::unique_ptr<MappedMemory>>> MapSharedMemory(Reactor& reactor,
                                                            MapMemoryRequest request);

}  // namespace umblock
