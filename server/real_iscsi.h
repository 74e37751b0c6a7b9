// The iSCSI front of production: engine/iscsi behind server/engine.h.
#pragma once

#include <memory>
#include <string>

#include "server/engine.h"

namespace umblock::server {

Task<Result<std::unique_ptr<IscsiFront>>> StartRealIscsi(Reactor& reactor);

// The serial number of a LUN, from what it presents: the text itself where that is short enough,
// else its beginning and a hash. Printable, at most 36 characters, the same for ever.
std::string LunSerial(const std::string& identity);

}  // namespace umblock::server
