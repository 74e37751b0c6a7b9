// How the commands are put together: nouns, verbs, and options that go straight into the fields of
// a request. Includes CLI11, which is slow to compile: only for commands*.cc and umctl.cc.
#pragma once

#include <google/protobuf/message.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>

#include "ctl/fields.h"
#include "ctl/session.h"

namespace umblock::ctl {

using Action = std::function<Status()>;

// Where the verb that was chosen leaves what has to be done.
struct Chosen {
  Action action;
};

struct Builder {
  CLI::App& app;
  Session& session;
  Chosen& chosen;

  CLI::App* Noun(const std::string& name, const std::string& help) const {
    CLI::App* noun = app.add_subcommand(name, help);
    noun->require_subcommand(1)->fallthrough();
    return noun;
  }
  CLI::App* Verb(CLI::App* noun, const std::string& name, const std::string& help,
                 Action action) const {
    CLI::App* verb = noun->add_subcommand(name, help);
    verb->fallthrough();
    Chosen* to = &chosen;
    verb->callback([to, action = std::move(action)] { to->action = action; });
    return verb;
  }
};

using MessagePtr = std::shared_ptr<google::protobuf::Message>;

// Says what is wrong with a text for a field; nothing if it fits.
inline CLI::Option* CheckField(CLI::Option* option, const MessagePtr& message,
                               const std::string& path) {
  return option->type_name("")->check([message, path](const std::string& text) -> std::string {
    std::unique_ptr<google::protobuf::Message> scratch(message->New());
    Status set = SetField(scratch.get(), path, text);
    return set ? std::string() : set.error().message();
  });
}

// The text of an option (or, with a name without dashes, of a positional) becomes a field.
inline CLI::Option* Field(CLI::App* verb, const std::string& name, const MessagePtr& message,
                          const std::string& path, const std::string& help) {
  const auto set = [message, path](const std::string& text) {
    (void)SetField(message.get(), path, text);
  };
  return CheckField(verb->add_option_function<std::string>(name, set, help), message, path);
}
// An option that may be repeated, and a field with one element for each.
inline CLI::Option* RepeatedField(CLI::App* verb, const std::string& name,
                                  const MessagePtr& message, const std::string& path,
                                  const std::string& help) {
  const auto set = [message, path](const std::vector<std::string>& texts) {
    for (const std::string& text : texts) (void)SetField(message.get(), path, text);
  };
  CLI::Option* option = verb->add_option_function<std::vector<std::string>>(name, set, help);
  return CheckField(option->allow_extra_args(false), message, path);
}
inline CLI::Option* Positional(CLI::App* verb, const std::string& name, const MessagePtr& message,
                               const std::string& path, const std::string& help) {
  return Field(verb, name, message, path, help)->required();
}
inline CLI::Option* Flag(CLI::App* verb, const std::string& name, const MessagePtr& message,
                         const std::string& path, const std::string& help) {
  return verb->add_flag_callback(
      name, [message, path] { (void)SetField(message.get(), path, "true"); }, help);
}

// Updates. The API replaces all options of a message; on a command line what nobody speaks of must
// not change: an access list or the fencing would be lost in passing.
inline constexpr char kUpdateHelp[] = "Set options; those not given stay as they are";
inline void AddReset(CLI::App* verb, const std::shared_ptr<bool>& reset) {
  verb->add_flag("--reset", *reset, "Options that are not given return to their defaults");
}
// `given` becomes what there is now, with what was given in it.
template <typename Options>
void KeepOthers(Options now, Options* given) {
  SetGiven(*given, &now);
  *given = std::move(now);
}

inline constexpr char kOnlyMarkedHelp[] =
    "Only blocks that are out of sync, as a verify leaves them";

// A positional "r0/0" that becomes a name and a number.
inline CLI::Option* SlashPositional(CLI::App* verb, const std::string& name,
                                    const MessagePtr& message, const std::string& name_path,
                                    const std::string& number_path, const std::string& what) {
  const auto set = [message, name_path, number_path](const std::string& text) {
    if (auto parsed = ParseSlashName(text, "")) {
      (void)SetField(message.get(), name_path, parsed->name);
      (void)SetField(message.get(), number_path, std::to_string(parsed->number));
    }
  };
  return verb->add_option_function<std::string>(name, set, what + ", as r0/0")
      ->required()
      ->type_name("")
      ->check([what](const std::string& text) -> std::string {
        auto parsed = ParseSlashName(text, what);
        return parsed ? std::string() : parsed.error().message();
      });
}

// "--volume r0/0" or "--backend NAME": what a front presents.
void AddBacking(CLI::App* verb, const MessagePtr& message, const std::string& path);
// A secret from the first line of a file ("-": standard input), read when the verb runs.
Result<std::string> ReadSecretFile(Session& session, const std::string& path);

void AddBackendCommands(const Builder& builder);
void AddResourceCommands(const Builder& builder);
void AddVolumeCommands(const Builder& builder);
void AddConnectionCommands(const Builder& builder);
void AddFrontCommands(const Builder& builder);
void AddNodeCommands(const Builder& builder);

// Options of a connection's link and sync, below `prefix` of the request.
void AddNetOptions(CLI::App* verb, const MessagePtr& message, const std::string& prefix);

}  // namespace umblock::ctl
