// What an administrator reads when a change of state is refused: the act, the object, the reason,
// the way out, and the states of both sides that the check has seen.
#pragma once

#include <string>
#include <string_view>

#include "engine/base/error.h"
#include "engine/drbd/state/resource_state.h"
#include "engine/drbd/state/state_result.h"

namespace umblock::drbd {

// "here Secondary, volume 0 UpToDate; node 1 Connected Primary, volume 0 UpToDate Established".
// Of a peer that is not connected only the link.
std::string DescribeSides(const ResourceState& state);

// `act` is what was asked for ("promote"), `state` what it was refused in.
Error RefusalError(std::string_view act, std::string_view resource, const StateRefusal& refusal,
                   const ResourceState& state);

}  // namespace umblock::drbd
