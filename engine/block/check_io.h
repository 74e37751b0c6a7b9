// What every device checks of a BlockIo before it acts on it.
#pragma once

#include "engine/block/block_device.h"

namespace umblock {

// 0, or EINVAL: not a multiple of 512, beyond the end, too long, or memory that does not add up.
int CheckIo(const BlockIo& io, uint64_t device_size);

}  // namespace umblock
