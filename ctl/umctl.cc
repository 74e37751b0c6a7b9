#include "ctl/umctl.h"

#include <fmt/core.h>

#include <ostream>

#include "ctl/command.h"
#include "ctl/status_command.h"
#include "server/version.h"
#include "umblock/v1/event.pb.h"
#include "umblock/v1/node.pb.h"

namespace umblock::ctl {
namespace {

void AddStatusOptions(CLI::App* verb, const std::shared_ptr<StatusArguments>& a) {
  verb->add_option("RESOURCE", a->resource, "Only this resource")->type_name("");
  verb->add_flag("-v,--verbose", a->verbose, "Node ids, backends, sizes, openers");
  verb->add_flag("-s,--statistics", a->statistics, "Counters");
  verb->add_flag("-w,--watch", a->watch, "Again whenever something changes");
}

void AddStatus(const Builder& b) {
  Session& s = b.session;
  auto a = std::make_shared<StatusArguments>();
  CLI::App* verb = b.Verb(&b.app, "status", "Overview of everything that is replicated",
                          [&s, a]() -> Status { return ShowStatus(s, *a); });
  AddStatusOptions(verb, a);
  auto e = std::make_shared<EventArguments>();
  verb = b.Verb(&b.app, "events", "Print the present state and every change, until interrupted",
                [&s, e]() -> Status { return ShowEvents(s, *e); });
  verb->add_option("RESOURCE", e->resource, "Only this resource")->type_name("");
  verb->add_option("--since", e->since, "Only what came after this revision")->type_name("");
  verb->add_flag("--now", e->now, "Only the present state");
}

void AddWait(const Builder& b) {
  struct Condition {
    const char* name;
    v1::WaitRequest::Condition condition;
    const char* help;
  };
  static constexpr Condition kConditions[] = {
      {"connected", v1::WaitRequest::CONNECTED, "Every connection is Connected"},
      {"disconnected", v1::WaitRequest::DISCONNECTED, "Every connection is StandAlone"},
      {"synced", v1::WaitRequest::SYNCED, "Every volume is UpToDate, here and on every peer"},
      {"role", v1::WaitRequest::ROLE, "The role is the given one"},
      {"promotable", v1::WaitRequest::PROMOTABLE, "Nothing is in the way of a promotion"},
      {"disk", v1::WaitRequest::DISK, "Every volume's disk is in the given state"}};
  CLI::App* noun = b.Noun("wait", "Wait for a condition; exit code 5 if it does not hold in time");
  for (const Condition& c : kConditions) {
    auto request = std::make_shared<v1::WaitRequest>();
    request->set_condition(c.condition);
    Session& s = b.session;
    CLI::App* verb =
        b.Verb(noun, c.name, c.help, [&s, request]() -> Status { return WaitFor(s, *request); });
    Positional(verb, "RESOURCE", request, "resource", "Name");
    if (c.condition == v1::WaitRequest::ROLE) {
      Positional(verb, "ROLE", request, "role", "Primary or Secondary");
    }
    if (c.condition == v1::WaitRequest::DISK) {
      Positional(verb, "STATE", request, "disk", "UpToDate, Diskless …");
    }
    Field(verb, "--for", request, "timeout", "How long (1m)");
    Field(verb, "--peer-node-id", request, "peer_node_id", "Only this peer");
    Field(verb, "--volume", request, "volume", "Only this volume number");
  }
  noun->footer("Example:\n  umctl wait synced r0 --for 1h");
}

// Words for bash: every noun, its verbs, and the options of each verb.
std::string BashCompletion(const CLI::App& app) {
  const auto names = [](const CLI::App& of) {
    std::string words;
    for (const CLI::App* sub : of.get_subcommands({})) words += sub->get_name() + " ";
    for (const CLI::Option* option : of.get_options()) {
      for (const std::string& name : option->get_lnames()) words += "--" + name + " ";
    }
    return words;
  };
  std::string out =
      "_umctl() {\n"
      "  local key=\"\" word\n"
      "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
      "    [[ $word == -* ]] || key+=\"/$word\"\n"
      "  done\n"
      "  local words=\"\"\n"
      "  case \"$key\" in\n";
  for (const CLI::App* noun : app.get_subcommands({})) {
    for (const CLI::App* verb : noun->get_subcommands({})) {
      out += fmt::format("    /{}/{}|/{}/{}/*) words=\"{}\" ;;\n", noun->get_name(),
                         verb->get_name(), noun->get_name(), verb->get_name(), names(*verb));
    }
    out += fmt::format("    /{}*) words=\"{}\" ;;\n", noun->get_name(), names(*noun));
  }
  out += fmt::format("    *) words=\"{}\" ;;\n", names(app));
  out +=
      "  esac\n"
      "  COMPREPLY=($(compgen -W \"$words\" -- \"${COMP_WORDS[COMP_CWORD]}\"))\n"
      "}\n"
      "complete -F _umctl umctl\n";
  return out;
}

void AddMisc(const Builder& b) {
  Session& s = b.session;
  b.Verb(&b.app, "health", "Ask the daemon whether it serves", [&s]() -> Status {
    auto client = s.client();
    if (!client) return std::unexpected(client.error());
    UMBLOCK_TRY((*client)->CheckHealth(s.timeout));
    s.PrintDone("serving");
    return Ok();
  });
  b.Verb(&b.app, "version", "Versions of umctl and of the daemon", [&s]() -> Status {
    s.io.out << "umctl " << server::kVersion << "\n";
    v1::Node node;
    if (Status got = s.Call("NodeService.GetNode", v1::GetNodeRequest(), &node); !got) return got;
    s.io.out << "umblockd " << node.version() << "\n";
    return Ok();
  });
  CLI::App* completion = b.Noun("completion", "Completion of command lines");
  CLI::App* app = &b.app;
  b.Verb(completion, "bash", "For bash: source <(umctl completion bash)", [&s, app]() -> Status {
    s.io.out << BashCompletion(*app);
    return Ok();
  });
}

void AddGlobals(CLI::App& app, Session* s) {
  app.add_option("--socket", s->endpoint.socket, "Unix socket of umblockd")
      ->envname("UMBLOCK_SOCKET")
      ->capture_default_str()
      ->type_name("");
  app.add_option("--server", s->endpoint.server, "umblockd over TCP, as host:7780, with TLS")
      ->envname("UMBLOCK_SERVER")
      ->type_name("");
  app.add_flag("--insecure", s->endpoint.insecure, "--server without TLS");
  app.add_option("--tls-ca", s->endpoint.tls_ca_file, "PEM certificates that sign the server")
      ->envname("UMBLOCK_TLS_CA")
      ->type_name("");
  app.add_option("--tls-cert", s->endpoint.tls_certificate_file, "Own PEM certificate")
      ->envname("UMBLOCK_TLS_CERT")
      ->type_name("");
  app.add_option("--tls-key", s->endpoint.tls_key_file, "Own PEM key")
      ->envname("UMBLOCK_TLS_KEY")
      ->type_name("");
  app.add_option_function<std::string>(
         "-o,--output", [s](const std::string& text) { s->json = text == "json"; },
         "table or json (table)")
      ->check(CLI::IsMember({"table", "json"}))
      ->type_name("");
  app.add_flag("-y,--yes", s->yes, "Do not ask before something is destroyed");
  app.add_option_function<std::string>(
         "--timeout",
         [s](const std::string& text) {
           google::protobuf::Duration duration;
           (void)ParseDuration(text, &duration);
           s->timeout =
               std::chrono::milliseconds(duration.seconds() * 1000 + duration.nanos() / 1000000);
         },
         "Longest time for one call (2m)")
      ->check([](const std::string& text) -> std::string {
        google::protobuf::Duration duration;
        Status parsed = ParseDuration(text, &duration);
        return parsed ? std::string() : parsed.error().message();
      })
      ->type_name("");
}

void BuildApp(const Builder& b) {
  b.app.description("umctl: manage an umblock node.");
  b.app.require_subcommand(1);
  b.app.set_help_all_flag("--help-all", "Help of everything");
  b.app.set_version_flag("--version", std::string("umctl ") + server::kVersion,
                         "Of umctl alone; `umctl version` asks the daemon too");
  AddGlobals(b.app, &b.session);
  AddStatus(b);
  AddResourceCommands(b);
  AddVolumeCommands(b);
  AddConnectionCommands(b);
  AddBackendCommands(b);
  AddFrontCommands(b);
  AddNodeCommands(b);
  AddWait(b);
  AddMisc(b);
  b.app.footer(
      "Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 conflict or wrong state, 5 timeout,\n"
      "6 the daemon does not answer. Tutorial: docs/umctl.md.");
}

}  // namespace

void AddStatusVerb(const Builder& builder, CLI::App* noun) {
  Session& s = builder.session;
  auto a = std::make_shared<StatusArguments>();
  CLI::App* verb = builder.Verb(noun, "status", "Overview, as umctl status",
                                [&s, a]() -> Status { return ShowStatus(s, *a); });
  AddStatusOptions(verb, a);
}

void AddNodeCommands(const Builder& b) {
  Session& s = b.session;
  CLI::App* noun = b.Noun("node", "The daemon itself");
  b.Verb(noun, "get", "Version, limits, and what does not work now", [&s]() -> Status {
     v1::Node node;
     return s.Act("NodeService.GetNode", v1::GetNodeRequest(), &node);
   })->alias("show");
}

int RunUmctl(const std::vector<std::string>& arguments, Streams streams) {
  Session session(streams);
  Chosen chosen;
  CLI::App app;
  app.name("umctl");
  BuildApp({app, session, chosen});
  try {
    // CLI11 takes arguments from the back.
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& problem) {
    const int code = app.exit(problem, streams.out, streams.err);
    return code == 0 ? kExitOk : kExitUsage;
  }
  if (Status done = chosen.action(); !done) {
    streams.out << std::flush;
    streams.err << "umctl: " << done.error().message() << "\n";
    return ExitCodeOf(done.error().code());
  }
  if (!streams.out.flush()) {
    streams.err << "umctl: the output could not be written\n";
    return kExitFailure;
  }
  return kExitOk;
}

}  // namespace umblock::ctl
