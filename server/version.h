// What umblockd and umctl say they are.
#pragma once

namespace umblock::server {

inline constexpr const char* kVersion = UMBLOCK_VERSION;

}  // namespace umblock::server
