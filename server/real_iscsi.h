// The iSCSI front of production: engine/iscsi behind server/engine.h.
#pragma once

#include <memory>

#include "server/engine.h"

namespace umblock::server {

Task<Result<std::unique_ptr<IscsiFront>>> StartRealIscsi(Reactor& reactor);

}  // namespace umblock::server
