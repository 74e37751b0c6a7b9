#include "server/daemon_options.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <map>

#include "engine/base/error.h"
#include "server/version.h"

namespace umblock::server {
namespace {

std::string HostName() {
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) != 0) return "node";
  return name;
}

void AddServing(CLI::App& app, DaemonOptions* o) {
  app.add_option("--socket", o->socket, "Unix socket of the API, mode 0660")
      ->envname("UMBLOCK_SOCKET")
      ->capture_default_str()
      ->group("API");
  app.add_option("--listen", o->listen,
                 "TCP address of the API, as 192.0.2.1:7780; needs --tls-* or --listen-insecure")
      ->envname("UMBLOCK_LISTEN")
      ->group("API");
  app.add_flag("--listen-insecure", o->listen_insecure,
               "Serve --listen without TLS: whoever reaches it controls the node")
      ->envname("UMBLOCK_LISTEN_INSECURE")
      ->group("API");
  auto* certificate =
      app.add_option("--tls-cert", o->tls_certificate, "PEM certificate of --listen")
          ->envname("UMBLOCK_TLS_CERT")
          ->group("API");
  auto* key = app.add_option("--tls-key", o->tls_key, "PEM key of --listen")
                  ->envname("UMBLOCK_TLS_KEY")
                  ->group("API");
  auto* ca = app.add_option("--tls-client-ca", o->tls_client_ca,
                            "PEM certificates that sign clients; others are refused")
                 ->envname("UMBLOCK_TLS_CLIENT_CA")
                 ->group("API");
  certificate->needs(key)->needs(ca);
  key->needs(certificate);
  ca->needs(certificate);
  app.add_option("--max-calls", o->max_calls, "Calls at a time; more are refused")
      ->envname("UMBLOCK_MAX_CALLS")
      ->check(CLI::Range(4u, 65536u))
      ->capture_default_str()
      ->group("API");
  app.add_option("--max-waits", o->max_waits, "Wait calls at a time; more are refused")
      ->envname("UMBLOCK_MAX_WAITS")
      ->check(CLI::Range(1u, 65536u))
      ->capture_default_str()
      ->group("API");
  app.add_option("--max-watchers", o->max_watchers, "Watch streams at a time; more are refused")
      ->envname("UMBLOCK_MAX_WATCHERS")
      ->check(CLI::Range(1u, 65536u))
      ->capture_default_str()
      ->group("API");
  app.add_option("--event-log", o->event_log,
                 "Events remembered for watchers that resume or read slowly")
      ->envname("UMBLOCK_EVENT_LOG")
      ->check(CLI::Range(16u, 1u << 20))
      ->capture_default_str()
      ->group("API");
}

void AddLogging(CLI::App& app, DaemonOptions* o) {
  static const std::map<std::string, LogLevel> levels = {{"debug", LogLevel::kDebug},
                                                         {"info", LogLevel::kInfo},
                                                         {"warning", LogLevel::kWarning},
                                                         {"error", LogLevel::kError}};
  static const std::map<std::string, LogFormat> formats = {{"text", LogFormat::kText},
                                                           {"json", LogFormat::kJson}};
  app.add_option("--log-level", o->log_level, "debug, info, warning or error")
      ->envname("UMBLOCK_LOG_LEVEL")
      ->transform(CLI::CheckedTransformer(levels, CLI::ignore_case).description(""))
      ->default_str("info")
      ->group("Observation");
  app.add_option("--log-format", o->log_format,
                 "text (key=value) or json, one line each, on stderr")
      ->envname("UMBLOCK_LOG_FORMAT")
      ->transform(CLI::CheckedTransformer(formats, CLI::ignore_case).description(""))
      ->default_str("text")
      ->group("Observation");
  app.add_option("--metrics", o->metrics, "HTTP address for Prometheus, as 0.0.0.0:9720")
      ->envname("UMBLOCK_METRICS")
      ->group("Observation");
}

void AddNode(CLI::App& app, DaemonOptions* o) {
  app.add_option("--state-dir", o->state_dir, "Directory of config.json and secrets.json")
      ->envname("UMBLOCK_STATE_DIR")
      ->capture_default_str()
      ->group("Node");
  app.add_option("--node-name", o->node_name, "Name of this node, for people (default: host name)")
      ->envname("UMBLOCK_NODE_NAME")
      ->group("Node");
  app.add_option("--fuse-dir", o->fuse_dir, "Directory to mount exported volumes on, as files")
      ->envname("UMBLOCK_FUSE_DIR")
      ->group("Node");
  app.add_flag("--fuse-allow-other", o->fuse_allow_other,
               "Let other users open exports (needs user_allow_other in /etc/fuse.conf)")
      ->envname("UMBLOCK_FUSE_ALLOW_OTHER")
      ->group("Node");
  app.add_flag("--allow-handlers", o->allow_handlers,
               "Run handlers: whoever reaches the API may then run programs as this daemon's user")
      ->envname("UMBLOCK_ALLOW_HANDLERS")
      ->group("Node");
  app.add_option("--buffer-mib", o->buffer_mib, "Memory for payload in flight, MiB")
      ->envname("UMBLOCK_BUFFER_MIB")
      ->check(CLI::Range(16u, 1u << 20))
      ->capture_default_str()
      ->group("Node");
  static const std::map<std::string, LockMemory> locking = {
      {"auto", LockMemory::kAuto}, {"on", LockMemory::kOn}, {"off", LockMemory::kOff}};
  app.add_option(
         "--lock-memory", o->lock_memory,
         "Keep the daemon's memory from being paged out: auto (where no limit forbids it),\n"
         "on (or do not start), off")
      ->envname("UMBLOCK_LOCK_MEMORY")
      ->transform(CLI::CheckedTransformer(locking, CLI::ignore_case).description(""))
      ->default_str("auto")
      ->group("Node");
  app.add_option("--cpu", o->cpu, "Pin the reactor to this CPU (-1: no)")
      ->envname("UMBLOCK_CPU")
      ->check(CLI::Range(-1, 4095))
      ->capture_default_str()
      ->group("Node");
}

void Describe(CLI::App& app, DaemonOptions* options) {
  app.description(
      "umblockd: replicated block storage in user space.\n"
      "Everything else is configured at run time with umctl and kept in the state directory.");
  app.set_version_flag("--version", std::string("umblockd ") + kVersion);
  app.set_config("--config", "/etc/umblock/umblockd.conf",
                 "File with options, one name=value a line, names as here without --");
  app.footer(
      "Each option can also be given in the environment (UMBLOCK_STATE_DIR for --state-dir) or in\n"
      "the --config file; the command line wins, then the environment.\n"
      "SIGTERM and SIGINT stop cleanly; a second one ends at once, like a power cut.");
  AddNode(app, options);
  AddServing(app, options);
  AddLogging(app, options);
  app.add_flag("--check-config", options->check_config,
               "Read the state directory, say whether it makes sense, and exit")
      ->group("Actions");
}

Status CheckOptions(const DaemonOptions& o) {
  if (!o.listen.empty() && o.tls_certificate.empty() && !o.listen_insecure) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "--listen needs --tls-cert, --tls-key and --tls-client-ca, or "
                     "--listen-insecure if only trusted hosts reach it");
  }
  if (o.socket.empty() && o.listen.empty()) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "neither --socket nor --listen is given: the API would be out of reach");
  }
  if (!o.fuse_dir.empty() && o.fuse_dir[0] != '/') {
    return MakeError(ErrorCode::kInvalidArgument, "--fuse-dir: an absolute path is needed");
  }
  return Ok();
}

}  // namespace

ParsedOptions ParseDaemonOptions(const std::vector<std::string>& arguments) {
  DaemonOptions options;
  options.node_name = HostName();
  CLI::App app;
  Describe(app, &options);
  try {
    // CLI11 takes arguments from the back.
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& problem) {
    const int code = app.exit(problem);
    return {std::nullopt, code == 0 ? 0 : 2};
  }
  if (Status valid = CheckOptions(options); !valid) {
    std::fprintf(stderr, "umblockd: %s\n", valid.error().message().c_str());
    return {std::nullopt, 2};
  }
  return {options, 0};
}

std::string DaemonHelp() {
  DaemonOptions options;
  CLI::App app;
  Describe(app, &options);
  return app.help();
}

}  // namespace umblock::server
