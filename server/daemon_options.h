// What umblockd is told on its command line, in its environment and in its option file
// (docs/configuration.md lists all of it).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/log.h"
#include "server/daemon_log.h"
#include "server/memory_lock.h"

namespace umblock::server {

struct DaemonOptions {
  std::string state_dir = "/var/lib/umblock";
  std::string socket = "/run/umblock/umblockd.sock";
  std::string listen;  // TCP for the API; empty: none
  bool listen_insecure = false;
  std::string tls_certificate, tls_key, tls_client_ca;
  std::string metrics;   // HTTP for Prometheus; empty: none
  std::string fuse_dir;  // empty: no FUSE front
  bool fuse_allow_other = false;
  std::string node_name;
  bool allow_handlers = false;
  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kText;
  uint32_t max_calls = 256;
  uint32_t max_waits = 256;
  uint32_t max_watchers = 64;
  uint32_t event_log = 8192;
  uint32_t buffer_mib = 256;
  LockMemory lock_memory = LockMemory::kAuto;
  int cpu = -1;
  bool check_config = false;
};

// The options, or the exit code of a run that is over (help, version, a mistake: told on stdout
// or stderr).
struct ParsedOptions {
  std::optional<DaemonOptions> options;
  int exit_code = 0;
};
ParsedOptions ParseDaemonOptions(const std::vector<std::string>& arguments);

// The text of --help.
std::string DaemonHelp();

}  // namespace umblock::server
