// umctl.
#include <unistd.h>

#include <iostream>
#include <string>
#include <vector>

#include "ctl/umctl.h"

int main(int argc, char** argv) {
  return umblock::ctl::RunUmctl(
      std::vector<std::string>(argv + 1, argv + argc),
      {std::cin, std::cout, std::cerr, ::isatty(0) != 0, ::isatty(1) != 0});
}
