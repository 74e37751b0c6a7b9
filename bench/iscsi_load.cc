// iscsi_load: loads a LUN over iSCSI and prints what it took as one line of JSON.
//
//   iscsi_load [--depth 32] [--size 4096] [--read-percent 0] [--pattern random|sequential]
//              [--seconds 3] [--span-mib N] [--cpu N] [--busy-poll] iscsi://host:port/iqn/lun
#include <fmt/core.h>

#include <cstdio>
#include <string>

#include "bench/load_session.h"

int main(int argc, char** argv) {
  using namespace umblock::bench;
  Workload workload;
  bool busy_poll = false;
  std::string url;
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i];
    if (name == "--busy-poll") {
      busy_poll = true;
    } else if (!name.starts_with("--")) {
      url = name;
    } else {
      const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
      ++i;
      if (value == nullptr || !ParseWorkloadOption(name, value, &workload)) {
        fmt::print(stderr, "iscsi_load: unknown option {}\n", name);
        return 2;
      }
    }
  }
  auto address = LunAddress::Parse(url);
  if (!address || workload.size == 0 || workload.size % 512 != 0 || workload.depth == 0) {
    fmt::print(stderr, "usage: iscsi_load [options] iscsi://host:port/iqn/lun\n");
    return 2;
  }
  PinToCpu(workload.cpu);
  LoadSession session(workload, busy_poll);
  Measurement measurement;
  auto done = session.Connect(*address);
  if (done) done = session.Run(&measurement);
  if (!done) {
    fmt::print(stderr, "iscsi_load: {}\n", done.error().message());
    return 1;
  }
  Print(workload, measurement);
  return measurement.errors == 0 ? 0 : 1;
}
