// Does a condition hold, seen from one status of a resource? Pure functions.
#pragma once

#include <optional>
#include <string>

#include "engine/base/error.h"
#include "engine/drbd/status.h"

namespace umblock::v1 {
class WaitRequest;
}

namespace umblock::server {

// What a Promote without force would find in the way as far as this node knows; empty: nothing.
std::string PromotionObstacle(const drbd::ResourceStatus& status);

// Empty: the condition holds. Otherwise what is missing: "connection r0/1 is Connecting".
// kNotFound: the volume or peer is not (or no longer) there. kInvalidArgument: a condition that
// makes no sense.
Result<std::string> MissingFor(const v1::WaitRequest& request, const drbd::ResourceStatus& status);

}  // namespace umblock::server
