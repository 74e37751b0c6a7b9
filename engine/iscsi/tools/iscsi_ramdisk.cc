// iscsi_ramdisk: serves LUNs in memory or in files over iSCSI, for tests and benchmarks. Not
// shipped: umblockd is the real thing.
//
//   iscsi_ramdisk [--listen 127.0.0.1:0] [--target IQN] --lun ram:PATH:MIB[:BLOCK] …
//                 [--chap USER:SECRET] [--mutual USER:SECRET] [--allow IQN]… [--cpu N]
//                 [--ping SECONDS] [--verbose]
//
// LUNs are numbered in their order. Prints "listening on ADDRESS" and serves until SIGTERM, then
// prints its counters as one line of JSON.
#include <fmt/core.h>
#include <signal.h>
#include <sys/resource.h>

#include <charconv>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/block/backends/backend.h"
#include "engine/iscsi/server.h"
#include "engine/runtime/uring/reactor_thread.h"

namespace umblock::iscsi {
namespace {

struct LunSpec {
  BackendSpec backend;
  uint32_t block_size = 512;
};

struct Arguments {
  std::string listen = "127.0.0.1:0";
  std::string target = "iqn.2026-01.io.umblock:ramdisk";
  std::vector<LunSpec> luns;
  TargetOptions options;
  ServerOptions server;
  int cpu = -1;
  bool verbose = false;
};

[[noreturn]] void Fail(std::string_view message) {
  fmt::print(stderr, "iscsi_ramdisk: {}\n", message);
  exit(1);
}

std::vector<std::string> Split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (true) {
    size_t at = text.find(separator);
    parts.emplace_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

uint64_t Number(std::string_view text) {
  uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    Fail(fmt::format("'{}' is no number", text));
  }
  return value;
}

LunSpec ParseLun(std::string_view text, size_t number) {
  std::vector<std::string> parts = Split(text, ':');
  if (parts.size() < 3 || (parts[0] != "ram" && parts[0] != "file")) {
    Fail("a LUN is ram:PATH:MIB[:BLOCK] or file:PATH:MIB[:BLOCK]");
  }
  LunSpec lun;
  lun.backend = {.name = fmt::format("disk{}", number),
                 .kind = parts[0] == "ram" ? BackendKind::kRam : BackendKind::kFile,
                 .path = parts[1],
                 .size = Number(parts[2]) << 20,
                 .create = true};
  if (parts.size() > 3) lun.block_size = static_cast<uint32_t>(Number(parts[3]));
  return lun;
}

Arguments Parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    std::string_view name = argv[i];
    if (name == "--verbose") {
      arguments.verbose = true;
      continue;
    }
    if (i + 1 == argc) Fail(fmt::format("{} needs a value", name));
    std::string value = argv[++i];
    if (name == "--listen") {
      arguments.listen = value;
    } else if (name == "--target") {
      arguments.target = value;
    } else if (name == "--lun") {
      arguments.luns.push_back(ParseLun(value, arguments.luns.size()));
    } else if (name == "--chap" || name == "--mutual") {
      std::vector<std::string> parts = Split(value, ':');
      if (parts.size() != 2) Fail("CHAP credentials are USER:SECRET");
      if (!arguments.options.chap) arguments.options.chap.emplace();
      ChapCredentials& chap = *arguments.options.chap;
      (name == "--chap" ? chap.user : chap.mutual_user) = parts[0];
      (name == "--chap" ? chap.secret : chap.mutual_secret) = parts[1];
    } else if (name == "--allow") {
      arguments.options.initiators.push_back(value);
    } else if (name == "--cpu") {
      arguments.cpu = static_cast<int>(Number(value));
    } else if (name == "--ping") {
      arguments.server.sessions.ping_interval = std::chrono::seconds(Number(value));
    } else {
      Fail(fmt::format("unknown option {}", name));
    }
  }
  if (arguments.luns.empty()) Fail("at least one --lun");
  return arguments;
}

struct Served {
  std::vector<std::unique_ptr<Backend>> backends;
  std::unique_ptr<IscsiTargetServer> server;
};

Task<Status> Start(Reactor& reactor, const Arguments& arguments, Served* served) {
  for (const LunSpec& lun : arguments.luns) {
    auto backend = co_await OpenBackend(reactor, lun.backend);
    if (!backend) co_return std::unexpected(backend.error());
    served->backends.push_back(std::move(*backend));
  }
  served->server = std::make_unique<IscsiTargetServer>(reactor, arguments.server);
  IscsiTargetServer& server = *served->server;
  UMBLOCK_CO_TRY(server.CreateTarget(arguments.target, arguments.options));
  for (size_t i = 0; i < arguments.luns.size(); ++i) {
    LunOptions options{.serial = fmt::format("ramdisk-{}", i),
                       .block_size = arguments.luns[i].block_size};
    UMBLOCK_CO_TRY(server.AddLun(arguments.target, static_cast<uint32_t>(i),
                                 served->backends[i].get(), std::move(options)));
  }
  auto address = SocketAddress::Parse(arguments.listen);
  if (!address) co_return std::unexpected(address.error());
  auto portal = server.AddPortal(*address);
  if (!portal) co_return std::unexpected(portal.error());
  fmt::print("listening on {}\n", portal->ToString());
  std::fflush(stdout);
  co_return Ok();
}

Task<void> Stop(Served* served) {
  if (served->server) co_await served->server->Stop();
  served->server.reset();
  for (auto& backend : served->backends) co_await backend->Stop();
  served->backends.clear();
}

void PrintCounters(ReactorThread& thread, const Served& served) {
  ServerStatus status =
      thread.RunTask([&]() -> Task<ServerStatus> { co_return served.server->status(); });
  uint64_t copied = 0, commands = 0, receives = 0, sends = 0;
  for (const SessionStatus& session : status.sessions) {
    copied += session.counters.copied_bytes;
    commands += session.counters.commands;
    receives += session.counters.receives;
    sends += session.counters.sends;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  fmt::print(
      "{{\"sessions\": {}, \"logins\": {}, \"commands\": {}, \"copied_bytes\": {}, "
      "\"receives\": {}, \"sends\": {}, \"user_seconds\": {}.{:06}, "
      "\"system_seconds\": {}.{:06}}}\n",
      status.sessions.size(), status.logins, commands, copied, receives, sends,
      usage.ru_utime.tv_sec, usage.ru_utime.tv_usec, usage.ru_stime.tv_sec, usage.ru_stime.tv_usec);
}

int Main(int argc, char** argv) {
  Arguments arguments = Parse(argc, argv);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  StderrLogger logger(arguments.verbose ? LogLevel::kDebug : LogLevel::kWarning);
  ReactorThreadOptions options{.name = "iscsi", .cpu = arguments.cpu};
  options.uring.logger = &logger;
  auto thread = ReactorThread::Start(std::move(options));
  if (!thread) Fail(thread.error().message());
  Served served;
  Reactor& reactor = (*thread)->reactor();
  Status started = (*thread)->RunTask([&]() { return Start(reactor, arguments, &served); });
  if (started) {
    int signal = 0;
    sigwait(&signals, &signal);
    PrintCounters(**thread, served);
  }
  (*thread)->RunTask([&]() { return Stop(&served); });
  if (!started) Fail(started.error().message());
  return 0;
}

}  // namespace
}  // namespace umblock::iscsi

int main(int argc, char** argv) { return umblock::iscsi::Main(argc, argv); }
