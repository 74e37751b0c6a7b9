// A RunResult as text, to come back from the process of a seed.
#pragma once

#include <string>

#include "sim/run.h"

namespace umblock::sim {

std::string EncodeResult(const RunResult& result);
// Text that EncodeResult did not write gives a failed result that says so.
RunResult DecodeResult(const std::string& text);

}  // namespace umblock::sim
