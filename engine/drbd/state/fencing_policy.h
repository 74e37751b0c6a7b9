// What is done about a peer that a Primary has lost (drbd-states.md 5.3).
#pragma once

#include <cstdint>

namespace umblock::drbd {

enum class FencingPolicy : uint8_t {
  kDontCare = 0,            // nothing
  kResourceOnly = 1,        // fence-peer is called, I/O goes on meanwhile
  kResourceAndStonith = 2,  // I/O is suspended until it has succeeded, or the peer is back
};

}  // namespace umblock::drbd
