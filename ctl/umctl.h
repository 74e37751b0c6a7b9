// umctl, as a function: tests call it as main() does.
#pragma once

#include <string>
#include <vector>

#include "ctl/session.h"

namespace umblock::ctl {

// Returns the exit code. `arguments` without the program's name.
int RunUmctl(const std::vector<std::string>& arguments, Streams streams);

}  // namespace umblock::ctl
